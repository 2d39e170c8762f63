"""From a raw conduit to a connection: security, then muxer, by multistream-select (libp2p spec: connections).

The dialer is multistream's and the security protocol's initiator and yamux's client; the listener
the reverse. A muxer agreed inside the handshake saves the second negotiation. On failure the conduit
is closed without a word to the peer; the error says which stage it was. In a private network all of it
goes through a PnetConduit.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple, Protocol

from p2pfwd.core.keys import PrivateKey
from p2pfwd.core.peer_id import PeerId
from p2pfwd.core.quoting import quoted
from p2pfwd.errors import (
    HandshakeFailed,
    NegotiationFailed,
    P2PForwardError,
    ProtocolNotSupported,
    RemoteProtocolError,
)
from p2pfwd.net.aes_speed import has_fast_aes
from p2pfwd.net.channel import Channel, NoiseChannel, TlsChannel
from p2pfwd.net.conduit.contract import Conduit
from p2pfwd.net.conduit.private import PnetConduit
from p2pfwd.net.limits import Limits
from p2pfwd.net.link.conn import Conn
from p2pfwd.net.link.contract import Accepts, Direction, DuplexStream
from p2pfwd.system.buffers import BufferPool
from p2pfwd.system.descriptors import reason
from p2pfwd.wire.handshake import Handshake
from p2pfwd.wire.multistream import DialerNegotiation, ListenerNegotiation
from p2pfwd.wire.noise import NOISE, xx
from p2pfwd.wire.noise.handshake import NoiseHandshake
from p2pfwd.wire.pnet import require_cipher
from p2pfwd.wire.role_search import Role, RoleSearch
from p2pfwd.wire.tls import ENTROPY_BYTES, TLS
from p2pfwd.wire.tls.engine import TlsHandshake
from p2pfwd.wire.yamux import YAMUX

MAX_BUFFERED_BYTES: Final = 64 * 1024
"""What a handshake leaves unread before it is read from no more: what follows it may come along. With all
places taken, and one read of the conduit beyond it, 20 MiB."""

Negotiation = DialerNegotiation | ListenerNegotiation


class LegDoor(Protocol):
    """Who takes the legs of circuits that come to this node: a relay."""

    def knows(self, name: str) -> bool:
        """Whether a leg of this name is expected."""

    def arrived(self, name: str, conduit: Conduit) -> None:
        """It has come; nobody reads the conduit any more."""


class _Inbox:
    """Receiver of a conduit, and owner of a channel, while coroutines negotiate on it."""

    missing = 0

    def __init__(self, conduit: Conduit) -> None:
        conduit.spare(True)
        self.source: Conduit | Channel = conduit
        """Who is paused while too much waits."""
        self._paused = False
        self._buffer = bytearray()
        self._waiter: asyncio.Future[None] | None = None
        self._ended: Exception | None = None

    def data_received(self, view: memoryview) -> int:
        self.plaintext_received(view)
        return len(view)

    def plaintext_received(self, view: memoryview) -> None:
        self._buffer += view
        if len(self._buffer) >= MAX_BUFFERED_BYTES and not self._paused:
            self._paused = True
            self.source.pause()
        self._wake()

    def more_follows(self) -> None:
        pass  # all is kept

    def turn_ended(self) -> None:
        pass  # woken already

    def eof_received(self) -> None:
        self._end(HandshakeFailed("the peer closed the connection during the handshake"))

    def conduit_lost(self, exc: Exception | None) -> None:
        if isinstance(exc, NegotiationFailed):  # its own words say it best
            self._end(exc)
            return
        because = f": {exc}" if exc is not None else ""
        self._end(HandshakeFailed(f"the connection ended during the handshake{because}"))

    channel_lost = conduit_lost

    def drained(self) -> None:
        pass  # handshake messages are small; nobody waits

    channel_drained = drained

    def _end(self, exc: Exception) -> None:
        self._ended = self._ended or exc
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def read(self) -> bytes:
        """What has come, at least one byte. Raises HandshakeFailed at the end of the connection."""
        while not self._buffer:
            if self._ended is not None:
                raise self._ended
            if self._paused:
                self.resume()
                continue
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return self.take()

    def resume(self) -> None:
        """Let more come."""
        if self._paused:
            self._paused = False
            self.source.resume()

    def take(self) -> bytes:
        """What has come, maybe nothing."""
        data = bytes(self._buffer)
        self._buffer.clear()
        return data


class _Muxers(NamedTuple):
    """What a security handshake says of the muxer."""

    agreed: bool
    """On yamux: no negotiation inside the channel."""
    offered: tuple[str, ...]
    """By the peer; nothing where it did not say."""


class Upgrader:
    """Upgrades conduits for one identity.

    accepts, on_stream: for the streams of every connection, see `Conn.start`.
    security: protocols in order of preference, for dialing; a listener serves them all.
    aes: offer AES-256-GCM inside Noise; None: where it is fast here, measured at the first handshake.
    limits: what all connections of the node share; each its own where there are none.
    psk: of a private network; raises InvalidConfig where the package for it is not installed.
    """

    def __init__(
        self,
        identity: PrivateKey,
        pool: BufferPool,
        *,
        accepts: Accepts,
        on_stream: Callable[[DuplexStream], None],
        security: Sequence[str] = (NOISE, TLS),
        aes: bool | None = None,
        early_muxer: bool = True,
        max_inbound_streams: int = 1024,
        psk: bytes | None = None,
        limits: Limits | None = None,
    ) -> None:
        if psk is not None:
            require_cipher()
        self._psk = psk
        self._accepts = accepts
        self._on_stream = on_stream
        self._identity = identity
        self._pool = pool
        self._security = tuple(security)
        self._aes = aes
        self._muxers = (YAMUX,) if early_muxer else ()
        self._max_inbound_streams = max_inbound_streams
        self._limits = limits
        self.legs: LegDoor | None = None
        """Where this node is a relay."""

    async def upgrade(
        self,
        conduit: Conduit,
        direction: Direction,
        expected_peer: PeerId | None = None,
        *,
        listens_s: float | None = None,
    ) -> Conn:
        """The connection, started.

        `listens_s`: both ends may have dialed; the direction is found out (`wire.role_search`), and is that
        of the connection. Raises HandshakeFailed, PeerIdMismatch, NegotiationFailed. Time limits are the
        caller's; on any failure, cancellation included, the conduit is aborted.
        """
        try:
            conduit, inbox = self._enter(conduit)
            search = None if listens_s is None else await self._find_role(conduit, inbox, listens_s)
            if search is not None:
                direction = "outbound" if search.role is Role.DIALER else "inbound"
                negotiation, first, received = search.negotiation(self._security, self._security.__contains__)
            else:
                negotiation = self._negotiation(direction == "outbound", self._security)
                first, received = negotiation.start(), b""
            protocol = await self._negotiate(conduit, inbox, negotiation, first, received)
            leftover = negotiation.leftover()
            return await self._connection(conduit, inbox, protocol, leftover, direction, expected_peer)
        except BaseException:
            conduit.abort()
            raise

    async def welcome(self, conduit: Conduit) -> Conn | None:
        """As `upgrade`, of one that has come to a socket; None: a circuit's leg, taken as that."""
        try:
            conduit, inbox = self._enter(conduit)
            negotiation = ListenerNegotiation(self._is_welcome)
            protocol = await self._negotiate(conduit, inbox, negotiation, negotiation.start(), b"")
            leftover = negotiation.leftover()
            if protocol in self._security:
                return await self._connection(conduit, inbox, protocol, leftover, "inbound", None)
            if self.legs is None or leftover or inbox.take():
                raise RemoteProtocolError("a circuit's leg says something before it stands")
            conduit.spare(False)
            self.legs.arrived(protocol, conduit)
            return None
        except BaseException:
            conduit.abort()
            raise

    def _is_welcome(self, name: str) -> bool:
        return name in self._security or (self.legs is not None and self.legs.knows(name))

    async def propose_leg(self, conduit: Conduit, name: str) -> tuple[Conduit, bytes]:
        """Have the relay at the other end take this as a circuit's leg: the conduit, and what has come on it.

        Raises as `upgrade`; the conduit is aborted then.
        """
        try:
            conduit, inbox = self._enter(conduit)
            negotiation = DialerNegotiation((name,))
            await self._negotiate(conduit, inbox, negotiation, negotiation.start(), b"")
        except BaseException as exc:
            conduit.abort()
            if isinstance(exc, NegotiationFailed):  # whose words have the ticket
                raise NegotiationFailed("the relay takes no leg for this ticket") from None
            raise
        conduit.spare(False)
        return conduit, negotiation.leftover() + inbox.take()

    def _enter(self, conduit: Conduit) -> tuple[Conduit, _Inbox]:
        if self._psk is not None:
            conduit = PnetConduit(conduit, self._psk)
        inbox = _Inbox(conduit)
        conduit.start(inbox)
        return conduit, inbox

    async def _connection(
        self,
        conduit: Conduit,
        inbox: _Inbox,
        protocol: str,
        leftover: bytes,
        direction: Direction,
        expected_peer: PeerId | None,
    ) -> Conn:
        """From the security protocol on."""
        dialing = direction == "outbound"
        channel, muxers, leftover = await self._secure(
            conduit, inbox, protocol, leftover, dialing, expected_peer
        )
        inbox.source = channel
        channel.start(inbox, leftover + inbox.take())
        inbox.resume()
        plain = b"" if muxers.agreed else await self._negotiate_muxer(channel, inbox, dialing, muxers.offered)
        conn = Conn(
            channel,
            direction=direction,
            loop=asyncio.get_running_loop(),
            max_inbound_streams=self._max_inbound_streams,
            limits=self._limits,
        )
        conduit.spare(False)
        conn.start(plain + inbox.take(), self._accepts, self._on_stream)
        return conn

    async def _find_role(self, conduit: Conduit, inbox: _Inbox, listens_s: float) -> RoleSearch:
        """Who proposes: the peer, if it does so in time."""
        search = RoleSearch()
        conduit.send(memoryview(search.start()))
        try:
            async with asyncio.timeout(listens_s):
                while search.role is Role.LISTENING:
                    search.receive(await inbox.read())
        except TimeoutError:
            search.timed_out()
        return search

    async def _negotiate(
        self, conduit: Conduit, inbox: _Inbox, negotiation: Negotiation, first: bytes, received: bytes
    ) -> str:
        """What the connection is to be: a security protocol, mostly."""
        conduit.send(memoryview(first))
        try:
            while negotiation.selected is None:
                answer = self._step("security", negotiation, received or await inbox.read())
                received = b""
                conduit.send(memoryview(answer))
        except RemoteProtocolError as exc:
            reason = None if negotiation.opened else self._strangeness(exc)
            if reason is None:
                raise
            raise NegotiationFailed(reason) from exc
        return negotiation.selected

    def _strangeness(self, exc: RemoteProtocolError) -> str | None:
        """What a peer may be that has not even said it speaks multistream."""
        hung_up = isinstance(exc, HandshakeFailed)
        if self._psk is None:
            said = f"the peer is no libp2p node, or one of a private network ({exc.message})"
            return None if hung_up else said
        if hung_up:
            return f"{exc.message}: it may be outside this private network, or have another swarm.key"
        return "the peer is not in this private network, or has another swarm.key"

    def _negotiation(self, dialing: bool, names: Sequence[str]) -> Negotiation:
        return DialerNegotiation(names) if dialing else ListenerNegotiation(names.__contains__)

    def _step(self, stage: str, negotiation: Negotiation, data: bytes) -> bytes:
        try:
            return negotiation.receive(data)
        except ProtocolNotSupported as exc:
            raise NegotiationFailed(f"no common {stage} protocol with the peer: {exc.message}") from exc

    async def _secure(
        self,
        conduit: Conduit,
        inbox: _Inbox,
        protocol: str,
        leftover: bytes,
        dialing: bool,
        expected_peer: PeerId | None,
    ) -> tuple[Channel, _Muxers, bytes]:
        """(channel, what it says of muxers, ciphertext read too much)."""
        if protocol == TLS:
            tls = TlsHandshake(
                initiator=dialing,
                identity=self._identity,
                expected_peer=expected_peer,
                muxers=self._muxers,
                now=datetime.now(UTC),
                entropy=os.urandom(ENTROPY_BYTES),
            )
            try:
                await self._shake_hands(tls, conduit, inbox, leftover)
            except P2PForwardError:
                conduit.send(memoryview(tls.last_words()))  # the alert that says why
                raise
            muxers = _Muxers(tls.muxer == YAMUX, ())
            return TlsChannel(conduit, self._pool, tls.remote_peer, tls), muxers, tls.leftover()
        noise = NoiseHandshake(
            initiator=dialing,
            identity=self._identity,
            expected_peer=expected_peer,
            muxers=self._muxers,
            entropy=os.urandom(xx.ENTROPY_BYTES),
            aes=has_fast_aes() if self._aes is None else self._aes,
            wide=self._psk is None,
        )
        await self._shake_hands(noise, conduit, inbox, leftover)
        channel = NoiseChannel(conduit, self._pool, noise.remote_peer, noise.seal, noise.open)
        return channel, _Muxers(noise.muxer == YAMUX, noise.remote_muxers), noise.leftover()

    async def _shake_hands(
        self, handshake: Handshake, conduit: Conduit, inbox: _Inbox, data: bytes
    ) -> None:
        conduit.send(memoryview(handshake.start()))
        while True:
            if data:
                conduit.send(memoryview(handshake.receive(data)))
            if handshake.done:
                return
            data = await inbox.read()

    async def _negotiate_muxer(
        self, channel: Channel, inbox: _Inbox, dialing: bool, offered: Sequence[str]
    ) -> bytes:
        """multistream-select inside the channel; plaintext that followed it.

        A peer that offered others in the handshake may still take ours here, as go does; js hangs up.
        """
        negotiation = self._negotiation(dialing, (YAMUX,))
        self._send_plain(channel, negotiation.start())
        try:
            while negotiation.selected is None:
                self._send_plain(channel, self._step("muxer", negotiation, await inbox.read()))
        except HandshakeFailed as exc:
            if not offered or YAMUX in offered:
                raise
            sides = f"it offers {quoted(', '.join(offered))}, this node {YAMUX} alone"
            raise NegotiationFailed(f"no common muxer with the peer: {sides}") from exc
        return negotiation.leftover()

    def _send_plain(self, channel: Channel, data: bytes) -> None:
        if data:
            self._pool.staging[: len(data)] = data
            channel.send_staged(len(data))


def describe(exc: BaseException) -> str:
    """One clause on why a dial or an upgrade failed, for people."""
    if isinstance(exc, P2PForwardError):
        return exc.message
    if isinstance(exc, TimeoutError):
        return "timed out"
    if isinstance(exc, OSError):
        return reason(exc.errno) if exc.errno is not None else str(exc)  # asyncio's texts are longer
    return f"{type(exc).__name__}: {exc}"
