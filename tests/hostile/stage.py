"""What every kind of attack stands on: connections from many identities and addresses, floods, credit."""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Final

from p2pfwd.core.keys import PrivateKey
from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.errors import P2PForwardError
from p2pfwd.wire.yamux import frame as f
from tests.hostile import ground
from tests.support.raw_peer import RawPeer, dial_tcp, hello, opened

ONE, ADDRESS, NET24, NET48 = "one", "address", "/24", "/48"
"""How an attack is spread: one connection; many identities at one address; each elsewhere in a /24, a /48."""

LINES: Final = {ONE: 1, ADDRESS: 30, NET24: 128, NET48: 128}
"""Connections the attacker tries to have at once. Each takes a new identity whenever it is made anew."""

AGAIN_S: Final = 0.02
"""Before a line that was refused or lost is made anew."""

DIAL_S: Final = 10.0
IDENTITIES: Final = 1000
FAILURES = (OSError, EOFError, P2PForwardError, TimeoutError, AssertionError)
"""How a victim's refusal looks from here."""


def strangers(spread: str, *, public: bool) -> Iterator[str]:
    """Where the connections of an attack come from, one after the other."""
    prefix = (ground.PUBLIC_STRANGERS if public else ground.STRANGERS).rsplit(".", 1)[0]
    if spread == NET48:
        rest = ground.STRANGERS6.removesuffix("::/48")
        return (f"{rest}:0:{n % 0xFFFF:x}::{n:x}" for n in itertools.count(1))
    if spread == NET24:
        return itertools.cycle(f"{prefix}.{n}" for n in range(1, 255))
    return itertools.repeat(f"{prefix}.1")


class Stage:
    """What a kind of attack works with."""

    def __init__(self, addr: Multiaddr, spread: str, sources: Iterator[str], control: str = "") -> None:
        self.addr = addr
        self.spread = spread
        self.control = control
        self.counts: Counter[str] = Counter()
        self.over = False
        """Set before the attack is cancelled: no line is made anew."""
        self._sources = sources
        self._identities = itertools.cycle([PrivateKey.generate() for _ in range(IDENTITIES)])

    # --- connections --------------------------------------------------------------------------------

    def source(self) -> str:
        """The address the next connection comes from."""
        return next(self._sources)

    def identity(self) -> PrivateKey:
        """The key of the next peer; the same again after a thousand."""
        return next(self._identities)

    async def tcp(self, receive_buffer: int | None = None) -> socket.socket:
        """A connection without a byte on it."""
        async with asyncio.timeout(DIAL_S):
            sock = await dial_tcp(self.addr, receive_buffer, self.source())
        self.counts["connections"] += 1
        return sock

    async def peer(self, receive_buffer: int | None = None, identity: PrivateKey | None = None) -> RawPeer:
        """A peer that has done its handshake."""
        async with asyncio.timeout(DIAL_S):
            peer = await RawPeer.dial(
                self.addr,
                identity=identity or self.identity(),
                receive_buffer=receive_buffer,
                source=self.source(),
            )
        self.counts["connections"] += 1
        return peer

    async def lines(self, body: Callable[[], Awaitable[None]], count: int = 0) -> None:
        """Keep up as many lines as the spread says (or `count`); each runs `body` again and again."""

        async def line() -> None:
            while not self.over:  # a group that fails while it is cancelled swallows the cancellation
                try:
                    await body()
                    self.counts["ended"] += 1
                    await asyncio.sleep(0)
                except* FAILURES:
                    self.counts["refused or lost"] += 1
                    await asyncio.sleep(AGAIN_S)

        async with asyncio.TaskGroup() as group:
            for _ in range(count or LINES[self.spread]):
                group.create_task(line())

    # --- sending ------------------------------------------------------------------------------------

    async def send(self, peer: RawPeer, plain: bytes, what: int = 1) -> None:
        """Session bytes; `what` counts how many of the kind's things they are."""
        await peer.send(plain)
        self.counts["things"] += what
        self.counts["bytes"] += len(plain)
        await asyncio.sleep(0)  # a send that finds room does not: the other lines, and the word to stop

    async def send_raw(self, sock: socket.socket, data: bytes, what: int = 1) -> None:
        """Bytes below the session."""
        await asyncio.get_running_loop().sock_sendall(sock, data)
        self.counts["things"] += what
        self.counts["bytes"] += len(data)
        await asyncio.sleep(0)

    async def flood(self, peer: RawPeer, batch: bytes, what: int) -> None:
        """The same session bytes for ever, as fast as they are taken."""
        while True:
            await self.send(peer, batch, what)


async def drain(peer: RawPeer) -> None:
    """Read whatever comes, without looking at it. EOFError or ConnectionError at the end."""
    loop = asyncio.get_running_loop()
    while await loop.sock_recv(peer.sock, 1 << 18):
        pass
    raise EOFError


@asynccontextmanager
async def draining(peer: RawPeer) -> AsyncIterator[None]:
    """Read everything while the block lasts; the block fails where the victim ends the connection."""
    async with asyncio.TaskGroup() as group:
        task = group.create_task(drain(peer))
        try:
            yield
        finally:
            task.cancel()


def filled(stream_id: int, protocol: str, size: int) -> bytes:
    """Frames that open a stream and send `size` bytes on it, the proposal included."""
    first = hello(protocol)
    rest = size - len(first)
    return opened(stream_id, first) + f.encode_header(f.DATA, 0, stream_id, rest) + bytes(rest)


def reset(stream_id: int) -> bytes:
    """A frame that resets a stream."""
    return f.encode_header(f.WINDOW_UPDATE, f.RST, stream_id, 0)


class Credit:
    """A reader that keeps an account: what may be sent on which stream, and what came back.

    It answers pings, so that the victim takes the peer for alive, and gives no credit.
    """

    def __init__(self, peer: RawPeer) -> None:
        self._peer = peer
        self.window: dict[int, int] = {}
        self.ended: set[int] = set()
        self._news = asyncio.Event()

    async def run(self) -> None:
        """Until the connection ends."""
        while True:
            frame = await self._peer.next()
            if frame.type == f.PING and frame.flags & f.SYN:
                await self._peer.frame(f.PING, f.ACK, 0, frame.length)
            if frame.flags & (f.FIN | f.RST):
                self.ended.add(frame.stream_id)
            if frame.type == f.WINDOW_UPDATE:
                self.window[frame.stream_id] = self.window.get(frame.stream_id, 0) + frame.length
            self._news.set()

    def opened(self, stream_id: int, sent: int) -> None:
        """A stream was opened with `sent` bytes in its first frame."""
        self.window[stream_id] = f.INITIAL_WINDOW_BYTES - sent

    async def take(self, stream_id: int, wanted: int) -> int:
        """How much of `wanted` may be sent now, at least 1; 0 where the stream is over."""
        while True:
            left = self.window[stream_id]
            if stream_id in self.ended:
                return 0
            if left:
                n = min(left, wanted)
                self.window[stream_id] = left - n
                return n
            self._news.clear()
            await self._news.wait()
