"""A libp2p peer by hand: real TCP, multistream and Noise, then yamux frames exactly as a test writes them.

It reads nothing on its own, answers nothing it is not told to, and so can be as slow, silent or wrong as
a hostile peer. Made by `RawPeer.dial`, or by `RawListener.accept` for a host that dials.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType

from p2pfwd.core import varint
from p2pfwd.core.keys import PrivateKey
from p2pfwd.core.multiaddrs import Multiaddr, from_sockaddr, tcp_endpoint
from p2pfwd.core.peer_id import PeerId
from p2pfwd.wire.multistream import HEADER, DialerNegotiation, ListenerNegotiation, encode_token
from p2pfwd.wire.noise import NOISE
from p2pfwd.wire.noise.cipher import MAX_PLAINTEXT
from p2pfwd.wire.noise.handshake import NoiseHandshake
from p2pfwd.wire.noise.xx import ENTROPY_BYTES
from p2pfwd.wire.yamux import YAMUX
from p2pfwd.wire.yamux import frame as f

IP_FREEBIND = 15
"""Linux; the socket module names it from Python 3.12 on."""


def hello(protocol: str) -> bytes:
    """A stream's first bytes: header and one proposal."""
    return HEADER + encode_token(protocol)


def opened(stream_id: int, body: bytes, flags: int = f.SYN) -> bytes:
    """A frame that opens a stream and carries `body`."""
    return f.encode_header(f.DATA, flags, stream_id, len(body)) + body


def delimited(message: bytes) -> bytes:
    """With its length in front."""
    return varint.encode(len(message)) + message


@dataclass(frozen=True, slots=True)
class RawFrame:
    """One frame as it came."""

    type: int
    flags: int
    stream_id: int
    length: int
    body: bytes = b""


class RawPeer:
    """One connection. All methods are the peer's own doing; nothing happens by itself."""

    def __init__(self, sock: socket.socket, identity: PrivateKey) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = sock
        self.identity = identity
        self.peer_id = PeerId.from_public_key(identity.public_key)
        self._loop = asyncio.get_running_loop()
        self._cipher = bytearray()
        self._plain = bytearray()
        self._sending = asyncio.Lock()

    # --- coming to be -----------------------------------------------------------------------------

    @classmethod
    async def dial(
        cls,
        addr: Multiaddr,
        *,
        identity: PrivateKey | None = None,
        muxers: Sequence[str] = (YAMUX,),
        receive_buffer: int | None = None,
        source: str | None = None,
        aes: bool = False,
        wide: bool = False,
    ) -> RawPeer:
        """Connect to a host and upgrade; with no `muxers` yamux is negotiated inside the channel.

        `aes`, `wide`: list AES-256-GCM, and with wide messages.
        """
        peer = cls(await dial_tcp(addr, receive_buffer, source), identity or PrivateKey.generate())
        try:
            await peer._upgrade(dialing=True, muxers=muxers, aes=aes, wide=wide)
        except BaseException:
            peer.close()
            raise
        return peer

    async def _upgrade(
        self, *, dialing: bool, muxers: Sequence[str], aes: bool = False, wide: bool = False
    ) -> None:
        if await self.shake_hands(dialing=dialing, muxers=muxers, aes=aes, wide=wide) is None:
            self._plain[:0] = await self._select(YAMUX, dialing, self.send, self._recv_plain)

    async def shake_hands(
        self, *, dialing: bool, muxers: Sequence[str], aes: bool = False, wide: bool = False
    ) -> str | None:
        """Security alone; the muxer that was agreed in it."""
        left = await self._select(NOISE, dialing, self._send_raw, self._recv_raw)
        noise = NoiseHandshake(
            initiator=dialing,
            identity=self.identity,
            expected_peer=None,
            muxers=muxers,
            entropy=os.urandom(ENTROPY_BYTES),
            aes=aes,
            wide=wide,
        )
        await self._send_raw(noise.start())
        while not noise.done:
            await self._send_raw(noise.receive(left or await self._recv_raw()))
            left = b""
        self.remote_peer = noise.remote_peer
        self._seal, self._open = noise.seal, noise.open
        self._cipher += noise.leftover()
        return noise.muxer

    @staticmethod
    async def _select(
        name: str,
        dialing: bool,
        send: Callable[[bytes], Awaitable[None]],
        receive: Callable[[], Awaitable[bytes]],
    ) -> bytes:
        negotiation = DialerNegotiation([name]) if dialing else ListenerNegotiation(name.__eq__)
        await send(negotiation.start())
        while negotiation.selected is None:
            await send(negotiation.receive(await receive()))
        return negotiation.leftover()

    # --- bytes ------------------------------------------------------------------------------------

    async def _send_raw(self, data: bytes) -> None:
        await self._loop.sock_sendall(self.sock, data)

    async def _recv_raw(self) -> bytes:
        data = await self._loop.sock_recv(self.sock, 1 << 16)
        if not data:
            raise EOFError("the host closed the connection")
        return data

    def sealed(self, plain: bytes) -> bytes:
        """`plain` as Noise messages; they must be sent in the order they were made."""
        view = memoryview(plain)
        return self.sealed_each(view[at : at + MAX_PLAINTEXT] for at in range(0, len(plain), MAX_PLAINTEXT))

    def sealed_each(self, parts: Iterable[bytes | memoryview]) -> bytes:
        """Each part as one Noise message; an empty one is legal."""
        out = bytearray()
        for part in parts:
            room = memoryview(bytearray(len(part) + 20))
            out += room[: self._seal.seal_into(memoryview(part), room)]
        return bytes(out)

    async def send(self, plain: bytes) -> None:
        """Send session bytes, whatever they are. Tasks that send at the same time do not get mixed up."""
        async with self._sending:
            await self._send_raw(self.sealed(plain))

    async def send_sealed(self, cipher: bytes) -> None:
        """Send what `sealed` made, or anything else below the session."""
        await self._send_raw(cipher)

    async def _recv_plain(self) -> bytes:
        """The next Noise message's content."""
        while True:
            if len(self._cipher) >= 2:
                end = 2 + int.from_bytes(self._cipher[:2], "big")
                if len(self._cipher) >= end:
                    message = memoryview(bytearray(self._cipher[2:end]))
                    del self._cipher[:end]
                    return bytes(message[: self._open.open_into(message, message)])
            self._cipher += await self._recv_raw()

    # --- frames -----------------------------------------------------------------------------------

    async def frame(
        self, frame_type: int, flags: int, stream_id: int, length: int | None = None, body: bytes = b""
    ) -> None:
        """Send one frame; its length is the body's unless it is told otherwise."""
        length = len(body) if length is None else length
        await self.send(f.encode_header(frame_type, flags, stream_id, length) + body)

    async def next(self) -> RawFrame:
        """The next frame from the host. EOFError or ConnectionResetError at the end."""
        await self._need(f.HEADER_BYTES)
        frame_type, flags, stream_id, length = f.decode_header(self._plain)
        size = f.HEADER_BYTES + (length if frame_type == f.DATA else 0)
        await self._need(size)
        body = bytes(self._plain[f.HEADER_BYTES : size])
        del self._plain[:size]
        return RawFrame(frame_type, flags, stream_id, length, body)

    async def _need(self, size: int) -> None:
        while len(self._plain) < size:
            self._plain += await self._recv_plain()

    async def until(self, frame_type: int, flags: int = 0, stream_id: int | None = None) -> RawFrame:
        """The next frame of this type that has these flags; others are dropped."""
        while True:
            frame = await self.next()
            wanted = frame.type == frame_type and frame.flags & flags == flags
            if wanted and stream_id in (None, frame.stream_id):
                return frame

    async def payload(self, stream_id: int, size: int) -> bytes:
        """The next `size` bytes of payload on a stream; other frames are dropped."""
        got = b""
        while len(got) < size:
            got += (await self.until(f.DATA, 0, stream_id)).body
        assert len(got) == size, f"{got[size:]!r} came behind"
        return got

    async def to_the_end(self) -> list[RawFrame]:
        """All frames until the host ends the connection, by FIN or RST."""
        frames = []
        try:
            while True:
                frames.append(await self.next())
        except (EOFError, ConnectionError):
            return frames

    async def open(self, stream_id: int, protocol: str) -> None:
        """Open a stream and negotiate; the host must serve `protocol`."""
        proposal = encode_token(protocol)
        await self.frame(f.DATA, f.SYN, stream_id, body=HEADER + proposal)
        assert await self.payload(stream_id, len(HEADER + proposal)) == HEADER + proposal

    async def accept(self) -> tuple[int, str]:
        """Take the next stream the host opens: (stream id, protocol)."""
        opened = await self.until(f.WINDOW_UPDATE, f.SYN)
        negotiation = ListenerNegotiation(lambda _name: True)
        await self.frame(f.WINDOW_UPDATE, f.ACK, opened.stream_id)
        await self.frame(f.DATA, 0, opened.stream_id, body=negotiation.start())
        while negotiation.selected is None:
            answer = negotiation.receive((await self.until(f.DATA, 0, opened.stream_id)).body)
            await self.frame(f.DATA, 0, opened.stream_id, body=answer)
        return opened.stream_id, negotiation.selected

    # --- ending -----------------------------------------------------------------------------------

    def close(self) -> None:
        """FIN (or RST, if bytes were left unread)."""
        self.sock.close()

    def reset(self) -> None:
        """RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    async def __aenter__(self) -> RawPeer:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class RawListener:
    """A loopback port behind which a test plays the peer."""

    def __init__(self, identity: PrivateKey | None = None, receive_buffer: int | None = None) -> None:
        self.identity = identity or PrivateKey.generate()
        self.peer_id = PeerId.from_public_key(self.identity.public_key)
        self._sock = socket.socket()
        if receive_buffer is not None:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self._sock.bind(("127.0.0.1", 0))
        self._sock.listen(64)
        self._sock.setblocking(False)
        self.addr = from_sockaddr(self._sock.getsockname())

    async def accept_tcp(self) -> socket.socket:
        """The next connection, before any byte."""
        sock, _ = await asyncio.get_running_loop().sock_accept(self._sock)
        return sock

    async def accept(self, muxers: Sequence[str] = (YAMUX,)) -> RawPeer:
        """The next connection, upgraded."""
        peer = RawPeer(await self.accept_tcp(), self.identity)
        try:
            await peer._upgrade(dialing=False, muxers=muxers)
        except BaseException:
            peer.close()
            raise
        return peer

    def __enter__(self) -> RawListener:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._sock.close()


async def dial_tcp(
    addr: Multiaddr, receive_buffer: int | None = None, source: str | None = None
) -> socket.socket:
    """A non-blocking TCP connection to a loopback address, from the address `source` of this machine."""
    endpoint = tcp_endpoint(addr)
    assert endpoint is not None
    sock = socket.socket(socket.AF_INET6 if endpoint.family == "ip6" else socket.AF_INET)
    sock.setblocking(False)
    if source is not None:
        sock.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)  # IPv6: a local route is not enough
        sock.bind((source, 0))
    if receive_buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    try:
        await asyncio.get_running_loop().sock_connect(sock, (endpoint.host, endpoint.port))
    except BaseException:
        sock.close()
        raise
    return sock
