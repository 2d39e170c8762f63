"""Hypothesis: whatever goes out and on together is what would have gone alone.

Two real connections over sockets in memory, which give and take as little as a seed says, carry streams
between local sockets in memory, some of them over a third node, which bridges them. What each program at the
far end gets, and how its connection ends, must not depend on whether frames are corked, pieces gathered and
messages wide; and in the end nobody holds anything. Messages are short here, so that little data makes many,
and wide is what is longer than those.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import socket
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from p2pfwd.core.peer_id import PeerId
from p2pfwd.forwarding import splice as splice_module
from p2pfwd.forwarding.splice import Splice
from p2pfwd.net import channel as channel_module
from p2pfwd.net.channel import NoiseChannel
from p2pfwd.net.conduit import tcp
from p2pfwd.net.conduit.contract import Conduit
from p2pfwd.net.conduit.private import PnetConduit
from p2pfwd.net.link import bridge as bridge_module
from p2pfwd.net.link import outbox
from p2pfwd.net.link.bridge import Bridge
from p2pfwd.net.link.conn import Conn
from p2pfwd.net.link.contract import DuplexStream
from p2pfwd.system.buffers import CORKED_FRAMES, BufferPool
from p2pfwd.system.busy_poll import BusyPoll
from p2pfwd.system.loop_io import LoopIo
from p2pfwd.wire.noise import cipher
from p2pfwd.wire.noise.cipher import AES, AES_WIDE, OpenCipher, SealCipher

MESSAGE_BYTES = 150
ROUNDS = 5000
PEER = PeerId(b"\x00\x24\x08\x01\x12\x20" + bytes(31) + b"\x01")
RESET = struct.pack("ii", 1, 0)

_fds = itertools.count(1000)


class Sock:
    """What all sockets in memory share. `sends` counts how many buffers each send had."""

    def __init__(self, chance: random.Random) -> None:
        self.fd = next(_fds)
        self.chance = chance
        self.closed = False
        self.linger = b""
        self.sends: list[int] = []
        self.taken = bytearray()

    def fileno(self) -> int:
        return self.fd

    def getsockname(self) -> tuple[str, int]:
        return ("192.0.2.1", self.fd)

    getpeername = getsockname

    def setsockopt(self, level: int, option: int, value: bytes | int) -> None:
        if option == socket.SO_LINGER:
            self.linger = cast("bytes", value)

    def close(self) -> None:
        self.closed = True

    def send(self, view: memoryview | bytearray) -> int:
        return self.sendmsg([view])

    def sendmsg(self, views: Sequence[memoryview | bytearray]) -> int:
        assert not self.closed
        wire = b"".join(views)
        most = self.chance.choice([0, 1, len(wire) // 2, len(wire) - 1, len(wire), len(wire), len(wire)])
        if not most:
            raise BlockingIOError
        self.sends.append(len(views))
        self.taken += wire[:most]
        return most

    @property
    def readable(self) -> bool:
        return False


class Line(Sock):
    """One end of the line between the two nodes."""

    other: Line

    @property
    def readable(self) -> bool:
        return bool(self.other.taken)

    def recv_into(self, view: memoryview) -> int:
        come = self.other.taken
        n = min(len(view), len(come), self.chance.choice([1, 100, 1000, 1 << 20, 1 << 20]))
        view[:n] = come[:n]
        del come[:n]
        return n


class Program(Sock):
    """A local socket: gives what its pieces say, with a pause between them, then ends or fails."""

    def __init__(self, chance: random.Random, pieces: Sequence[bytes], *, fails: bool = False) -> None:
        super().__init__(chance)
        self.pieces = [bytearray(piece) for piece in pieces]
        self.fails = fails
        self.is_shut = False

    @property
    def readable(self) -> bool:
        return True

    def recv_into(self, view: memoryview) -> int:
        if not self.pieces:
            if self.fails:
                raise ConnectionResetError
            return 0
        if not self.pieces[0]:
            del self.pieces[0]
            raise BlockingIOError
        n = min(len(view), len(self.pieces[0]))
        view[:n] = self.pieces[0][:n]
        del self.pieces[0][:n]
        return n

    def shutdown(self, how: int) -> None:
        self.is_shut = True


class Poller:
    """Who is watched; `turn` calls back in any order."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.socks: dict[int, Sock] = {}
        self.readers: dict[int, Callable[[], None]] = {}
        self.writers: dict[int, Callable[[], None]] = {}

    def add_reader(self, fd: int, callback: Callable[[], None]) -> None:
        self.readers[fd] = callback

    def watch_failure(self, fd: int, callback: Callable[[], None]) -> None:
        self.readers.pop(fd, None)

    def remove_reader(self, fd: int) -> None:
        self.readers.pop(fd, None)

    def add_writer(self, fd: int, callback: Callable[[], None]) -> None:
        self.writers[fd] = callback

    def remove_writer(self, fd: int) -> None:
        self.writers.pop(fd, None)

    def turn(self) -> None:
        for fd in self.chance.sample(sorted(self.socks), len(self.socks)):
            if (reader := self.readers.get(fd)) is not None and self.socks[fd].readable:
                reader()
            if (writer := self.writers.get(fd)) is not None:
                writer()


@dataclass(frozen=True, slots=True)
class Case:
    """What is sent on each stream, in pieces of so many bytes; whether the socket fails behind them."""

    streams: tuple[tuple[tuple[int, ...], bool], ...]
    private: bool
    seed: int
    bridged: bool = False
    wide: bool = False

    def data(self, number: int) -> list[bytes]:
        made = random.Random(number)
        return [made.randbytes(n) for n in self.streams[number][0]]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the programs got, whether their connection was reset, and the most buffers that one send had."""

    got: list[tuple[bytes, bool]]
    most_out: int
    most_on: int
    most_bridged: int
    longest_wide: int
    """Of all messages that were built to be wide."""
    longest_bridged: int
    """The same of those that the bridging node sent on."""


class Channel(NoiseChannel):
    """Notes how long its wide messages are."""

    longest = 0

    def send_wide(self, n: int) -> None:
        self.longest = max(self.longest, n)
        super().send_wide(n)


class Node:
    def __init__(
        self, line: Line, poller: Poller, keys: tuple[bytes, bytes], case: Case, pool: BufferPool
    ) -> None:
        loop = asyncio.get_running_loop()
        self.line = line
        self.pool = pool
        io = LoopIo(loop, cast("Any", poller), self.pool, BusyPoll(loop, None, 0, lambda: None))
        conduit: Conduit = tcp.TcpConduit(cast("socket.socket", line), io)
        if case.private:
            conduit = PnetConduit(conduit, bytes(32))
        suite = AES_WIDE if case.wide and not case.private else AES
        seal, opener = SealCipher(keys[0], suite=suite), OpenCipher(keys[1], suite=suite)
        channel = self.channel = Channel(conduit, self.pool, PEER, seal, opener)
        channel.max_plaintext = MESSAGE_BYTES
        direction: Any = "outbound" if keys[0] < keys[1] else "inbound"
        self.conn = Conn(channel, direction=direction, loop=loop, max_inbound_streams=100)
        self.streams: list[DuplexStream] = []
        channel.start(self.conn, b"")
        self.conn.start(b"", lambda _peer, _name: True, self.streams.append)


def joined(poller: Poller, case: Case, pools: tuple[BufferPool, BufferPool]) -> tuple[Node, Node]:
    """Two nodes, or two connections of nodes, with a line between them."""
    lines = Line(poller.chance), Line(poller.chance)
    lines[0].other, lines[1].other = lines[1], lines[0]
    poller.socks |= {line.fd: line for line in lines}
    keys = b"a" * 32, b"b" * 32
    return (
        Node(lines[0], poller, keys, case, pools[0]),
        Node(lines[1], poller, keys[::-1], case, pools[1]),
    )


async def carried(case: Case) -> Outcome:
    chance = random.Random(case.seed)
    poller = Poller(chance)
    between = BufferPool()
    near, far = nodes = joined(poller, case, (BufferPool(), between if case.bridged else BufferPool()))
    bridges: list[Bridge] = []
    bridges_over: list[Bridge] = []
    if case.bridged:
        at_relay, (leaving, far) = far, joined(poller, case, (between, BufferPool()))
        nodes = near, at_relay, leaving, far
    over: list[Splice] = []
    sources, targets = list[Program](), list[Program]()

    def bridge(stream: DuplexStream) -> None:
        assert stream.protocol is not None
        onward = leaving.conn.open_at_once(stream.protocol, lambda _stream: None)
        assert onward is not None
        bridges.append(Bridge(stream, onward, asyncio.get_running_loop(), bridges_over.append))
        bridges[-1].start()

    def splice(stream: DuplexStream, program: Program) -> None:
        poller.socks[program.fd] = program
        Splice(stream, cast("socket.socket", program), cast("Any", poller), over.append).start()

    for number, (_, fails) in enumerate(case.streams):
        sources.append(Program(chance, case.data(number), fails=fails))
        stream = near.conn.open_at_once(f"/{number}", lambda _stream: None)
        assert stream is not None
        splice(stream, sources[-1])
    for _ in range(ROUNDS):
        if case.bridged:
            for come in at_relay.streams[len(bridges) :]:
                bridge(come)
        while len(targets) < len(far.streams):
            targets.append(Program(chance, ()))
            splice(far.streams[len(targets) - 1], targets[-1])
        if len(over) == 2 * len(sources) and len(bridges_over) == len(bridges):
            break
        poller.turn()
        await asyncio.sleep(0)
    assert len(over) == 2 * len(sources), "it has come to its end"
    assert len(bridges_over) == len(bridges)
    by_name = {stream.protocol: target for stream, target in zip(far.streams, targets, strict=True)}
    programs = [by_name[f"/{number}"] for number in range(len(sources))]
    for node in nodes:
        session = node.conn._session
        assert session.buffered_bytes == session.ledger.used == 0
        node.conn.abort()
    assert all(node.pool.kept_bytes == 0 for node in nodes)  # a relay's two have one pool
    assert all(program.closed for program in (*sources, *targets))
    return Outcome(
        [(bytes(program.taken), program.linger == RESET) for program in programs],
        max(near.line.sends),
        max((n for program in programs for n in program.sends), default=0),
        max(leaving.line.sends) if case.bridged else 0,
        max(node.channel.longest for node in nodes),
        leaving.channel.longest if case.bridged else 0,
    )


def outcome(case: Case, *, together: bool) -> Outcome:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(splice_module, "GATHER_BYTES", 1 if together else 1 << 30)
        patch.setattr(bridge_module, "CORK_BYTES", 1 if together else 1 << 30)
        patch.setattr(cipher, "MAX_MESSAGE", MESSAGE_BYTES + cipher.TAG)
        patch.setattr(channel_module, "MAX_PLAINTEXT", MESSAGE_BYTES)
        patch.setattr(tcp, "FRAME_BYTES", MESSAGE_BYTES)
        patch.setattr(outbox, "MAX_PLAINTEXT", MESSAGE_BYTES)
        patch.setattr(outbox, "WIDE_WINDOW_BYTES", 1 if together else 1 << 30)
        patch.setattr(outbox, "BULK_FRAME_BYTES", MESSAGE_BYTES // 2 if together else 1 << 30)
        patch.setattr(outbox, "TURN_BYTES", 8 * MESSAGE_BYTES)
        if not together:
            patch.setattr(splice_module, "CORKED_FRAMES", 1)
            patch.setattr(tcp, "CORKED_FRAMES", 1)
        return asyncio.run(carried(case))


sizes = st.integers(1, 2000) | st.sampled_from([MESSAGE_BYTES - 12, 4 * (MESSAGE_BYTES - 12)])
cases = st.builds(
    Case,
    streams=st.lists(
        st.tuples(st.lists(sizes, max_size=6).map(tuple), st.booleans()), min_size=1, max_size=5
    ).map(tuple),
    private=st.booleans(),
    seed=st.integers(0, 1 << 32),
    bridged=st.booleans(),
    wide=st.booleans(),
)


@settings(max_examples=60)
@example(Case(streams=(((3000,), False), ((3000,), False)), private=False, seed=1))
@example(Case(streams=(((20_000,), False),), private=False, seed=1, wide=True))
@example(Case(streams=(((20_000,), False),) * 2 + (((1,), False),), private=False, seed=1, wide=True))
@example(Case(streams=(((20_000,), False),), private=False, seed=1, wide=True, bridged=True))
@given(cases)
def test_programs_get_the_same_whether_frames_and_pieces_go_together_or_alone(case: Case) -> None:
    alone, together = outcome(case, together=False), outcome(case, together=True)
    assert alone.most_out == 1 and alone.most_on <= 1 and alone.most_bridged <= 1
    assert together.most_out <= CORKED_FRAMES and together.most_bridged <= CORKED_FRAMES
    for number, (_, fails) in enumerate(case.streams):
        sent = b"".join(case.data(number))
        for got, was_reset in (alone.got[number], together.got[number]):
            assert was_reset == fails
            assert sent.startswith(got) if fails else got == sent  # a reset drops what was not taken yet


@pytest.mark.parametrize("count", [1, 3])
def test_here_messages_are_wide(count: int) -> None:
    case = Case(streams=(((20_000,), False),) * count, private=False, seed=1, wide=True)
    assert outcome(case, together=True).longest_wide > 4 * MESSAGE_BYTES
    assert outcome(case, together=False).longest_wide == 0
    bridged = replace(case, bridged=True)
    assert outcome(bridged, together=True).longest_bridged > 4 * MESSAGE_BYTES


def test_here_they_do_go_together() -> None:
    case = Case(streams=(((3000,), False), ((3000,), False)), private=False, seed=1)
    together = outcome(case, together=True)
    assert together.most_out == CORKED_FRAMES and together.most_on > 1
