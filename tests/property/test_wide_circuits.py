"""Hypothesis: a circuit that carries wide messages brings every byte once, in order, and ends truthfully.

Two real ends of a circuit, with Noise on them, and between them a relay in memory: it cuts what it passes on
as a seed says, gives credit for half a window at a time, is full now and then, and may end the circuit in the
middle of a message. Receivers pause, go on and send from within what they are given. Messages are short here,
and wide is what is longer than those: longer than a window, too.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum, auto
from types import NoneType
from typing import Any, cast

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import CircuitLimitReached
from p2pfwd.net import channel as channel_module
from p2pfwd.net.channel import NoiseChannel
from p2pfwd.net.transport.circuit import CircuitConduit
from p2pfwd.system.buffers import WIDE_PREFIX_BYTES, BufferPool
from p2pfwd.wire.circuit import Limit
from p2pfwd.wire.noise import cipher
from p2pfwd.wire.noise.cipher import AES_WIDE, OpenCipher, SealCipher, Suite

ADDR = Multiaddr.parse("/ip4/192.0.2.1/tcp/1")
PEER = PeerId(b"\x00\x24\x08\x01\x12\x20" + bytes(31) + b"\x01")
MESSAGE_BYTES = 150
SEGMENT_BYTES = MESSAGE_BYTES - 12
ROUNDS = 10_000


class Ending(Enum):
    """What comes of the circuit before all has been sent, if anything."""

    NONE = auto()
    FIN = auto()
    """The near end sends no more."""
    RESET = auto()
    ABORT = auto()
    """The near end has enough, from within what it is given."""
    CUT = auto()
    """The relay sends a FIN where so many bytes have passed one way."""
    LIMIT = auto()
    """The same, as the limit that it had told of."""


@dataclass(frozen=True, slots=True)
class Case:
    """`whole`: payload of the longest frame of the connection to the relay. `passes`: bytes before a cut."""

    up: int
    down: int
    window: int
    whole: int
    rekey_every: int
    ending: Ending
    passes: int
    seed: int


class Stream:
    """One end's stream to the relay; `line` is what it has sent and the other end was not given yet."""

    other: Stream
    sink: CircuitConduit

    def __init__(self, chance: random.Random, case: Case) -> None:
        self.case = case
        self.chance = chance
        self.pool = BufferPool()
        """Of its end: the frames of the connection to the relay are built in the same buffers."""
        self.credit = case.window
        self.line = bytearray()
        self.passed = 0
        self.unconsumed = self._consumed = 0
        self.full = self.waits = self.finished = self.at_eof = self.is_over = False

    def set_sink(self, sink: CircuitConduit, **_kinds: bool) -> None:
        self.sink = sink

    # --- what the conduit asks of it --------------------------------------------------------------

    @property
    def wide_bytes(self) -> int:
        return self.chance.choice([0, self.case.whole])

    def begin_frame(self, size: int) -> memoryview | None:
        if self.finished or self.is_over or self.full or not self.credit:
            return None
        is_wide = size > MESSAGE_BYTES and self.chance.random() < 0.8
        most = self.case.whole if is_wide else SEGMENT_BYTES
        self._frame = (self.pool.wide if is_wide else self.pool.staging)[: min(self.credit, most)]
        return self._frame

    def end_frame(self, n: int) -> None:
        self.line += self._frame[:n]
        self.credit -= n
        self.full = self.chance.random() < 0.1

    def want_to_send(self) -> None:
        self.waits = True

    def close_write(self) -> None:
        self.finished = True

    def reset(self, code: int = 0) -> None:
        self.is_over = True

    def consumed(self, n: int) -> None:
        assert n >= 0
        if self.is_over:
            return
        self.unconsumed -= n
        assert self.unconsumed >= 0, "acknowledged twice"
        self._consumed += n
        if self._consumed >= self.case.window // 2:
            self.other.credit += self._consumed
            self._consumed = 0

    # --- what the relay does ----------------------------------------------------------------------

    def drain(self) -> None:
        """There is room for more."""
        self.full = False
        if self.waits and self.credit and not self.is_over:
            self.waits = False
            self.sink.resume_sending()

    def pass_on(self) -> None:
        """Give the other end a piece of what this one has sent, or tell it of the end."""
        there, chance = self.other, self.chance
        if there.is_over or there.at_eof:
            self.line.clear()
            return
        n = min(len(self.line), chance.choice([1, 3, 5, 200, 1 << 20, 1 << 20]))
        if self.case.ending in (Ending.CUT, Ending.LIMIT):
            n = min(n, self.case.passes - self.passed)
        if n:
            piece = bytes(self.line[:n])
            del self.line[:n]
            self.passed += n
            there.unconsumed += n
            # In a buffer that may be changed in place, or in one that may not.
            there.sink.data_received(memoryview(bytearray(piece) if chance.random() < 0.7 else piece))
        elif self.line or self.finished:
            there.at_eof = True
            there.sink.eof_received()
        elif self.is_over:
            there.is_over = True
            there.sink.stream_lost(ConnectionResetError("the peer has reset it"))


class End:
    """One end: sends what it has to, and owns the channel it comes from."""

    peer: End

    def __init__(self, stream: Stream, keys: tuple[bytes, bytes], suite: Suite, data: bytes) -> None:
        case, self.chance, self.stream = stream.case, stream.chance, stream
        limit = Limit(0, case.passes) if case.ending is Ending.LIMIT else None
        self.pool = stream.pool
        self.conduit = CircuitConduit(cast("Any", stream), self.pool, ADDR, ADDR, limit)
        seal, opener = SealCipher(keys[0], suite=suite), OpenCipher(keys[1], suite=suite)
        self.channel = NoiseChannel(self.conduit, self.pool, PEER, seal, opener)
        self.sent = self.longest = 0
        self.data = data
        self.got = bytearray()
        self.causes: list[Exception | None] = []
        self.aborts = False
        self.channel.start(self, b"")
        self.channel.hand_over(self)

    def send(self) -> None:
        """One message, of any length that it may have."""
        left = len(self.data) - self.sent
        if self.causes or self.channel.congested or not left:
            return
        wide = self.channel.max_wide
        most = wide or self.channel.max_plaintext
        n = min(left, self.chance.choice([most, self.chance.randint(1, most)]))
        begin = WIDE_PREFIX_BYTES if wide else 0
        (self.pool.wide if wide else self.pool.staging)[begin : begin + n] = self.data[self.sent :][:n]
        self.sent += n
        if wide:
            self.channel.send_wide(n)
            self.longest = max(self.longest, n)
        else:
            self.channel.send_staged(n)

    @property
    def is_done(self) -> bool:
        return len(self.got) == len(self.peer.data) and not self.conduit.kept_bytes

    def finish(self) -> None:
        self.data = self.data[: self.sent]
        self.conduit.finish()

    def plaintext_received(self, view: memoryview) -> None:
        assert not self.causes
        self.got += view
        last = self.conduit.abort if self.aborts else self.send
        acts = [self.send, self.channel.pause, self.channel.resume, last, *[lambda: None] * 10]
        self.chance.choice(acts)()

    def more_follows(self) -> None:
        pass

    def turn_ended(self) -> None:
        self.chance.choice([self.channel.pause, self.channel.resume, *[lambda: None] * 10])()

    def channel_drained(self) -> None:
        self.send()

    def channel_lost(self, exc: Exception | None) -> None:
        self.causes.append(exc)

    def check(self) -> None:
        """What waits is counted once, by the stream or the pool: by this a message each way at most."""
        pool, stream = self.pool, self.stream
        assert pool.unsent_bytes == 0 and pool.kept_bytes <= 2 * stream.case.whole
        if not stream.is_over:
            assert stream.unconsumed + pool.kept_bytes == self.conduit.kept_bytes


def carried(case: Case) -> tuple[End, End]:
    chance = random.Random(case.seed)
    streams = Stream(chance, case), Stream(chance, case)
    streams[0].other, streams[1].other = streams[1], streams[0]
    suite, keys = replace(AES_WIDE, rekey_every=case.rekey_every), (b"a" * 32, b"b" * 32)
    near, far = ends = (
        End(streams[0], keys, suite, chance.randbytes(case.up)),
        End(streams[1], keys[::-1], suite, chance.randbytes(case.down)),
    )
    near.peer, far.peer = far, near
    steps: list[Callable[[], object]] = []
    for end, stream in zip(ends, streams, strict=True):
        steps += [stream.pass_on] * 5 + [end.send] * 3 + [stream.drain, end.channel.pause, end.channel.resume]
    early = chance.randint(0, 200)
    for _ in range(early):
        chance.choice(steps)()
        near.check()
        far.check()
    near.aborts = case.ending is Ending.ABORT
    if case.ending is Ending.FIN:
        near.finish()
    elif case.ending is Ending.RESET:
        near.stream.is_over = True
        near.conduit.stream_lost(ConnectionResetError("here"))
    for _ in range(ROUNDS):  # nobody is slow for good
        lost = bool(near.causes) + bool(far.causes)
        if lost == 2 or (not (lost or near.stream.finished) and near.is_done and far.is_done):
            break
        for end in ends:
            for step in (end.channel.resume, end.send, end.stream.drain, end.stream.pass_on):
                step()
                near.check()
                far.check()
    else:
        raise AssertionError("it has come to a stop")
    for end in ends:
        end.conduit.abort()
        assert end.pool.kept_bytes == end.conduit.kept_bytes == 0
    return near, far


def outcome(case: Case) -> tuple[End, End]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cipher, "MAX_MESSAGE", MESSAGE_BYTES + cipher.TAG)
        patch.setattr(channel_module, "MAX_PLAINTEXT", MESSAGE_BYTES)
        patch.setattr(CircuitConduit, "segment_bytes", SEGMENT_BYTES)
        return carried(case)


cases = st.builds(
    Case,
    up=st.integers(0, 10_000),
    down=st.integers(0, 10_000),
    window=st.sampled_from([400, 1000, 5000]),
    whole=st.sampled_from([200, 700, 4000]),
    rekey_every=st.sampled_from([3, 1 << 18]),
    ending=st.sampled_from(Ending),
    passes=st.integers(1, 8000),
    seed=st.integers(0, 1 << 32),
)
LONG = Case(10_000, 10_000, window=400, whole=4000, rekey_every=3, ending=Ending.NONE, passes=0, seed=1)


@settings(max_examples=150)
@example(LONG)
@given(cases)
def test_all_arrives_or_it_ends_as_what_it_is(case: Case) -> None:
    near, far = ends = outcome(case)
    for end in ends:
        assert end.peer.data.startswith(end.got)
    causes = tuple(type(cause) for end in ends for cause in end.causes)
    if causes == (NoneType, NoneType):  # closed here, in the end
        assert case.ending not in (Ending.FIN, Ending.RESET)
        assert all(end.got == end.peer.data for end in ends)
    elif case.ending is Ending.ABORT:
        assert causes == (NoneType, ConnectionResetError)
    elif case.ending is Ending.LIMIT:
        assert causes == (CircuitLimitReached, CircuitLimitReached)
    else:
        assert causes == (ConnectionResetError, ConnectionResetError) and case.ending is not Ending.NONE
    if case.ending is Ending.FIN:
        assert far.got == near.data, "what stood before it was lost"


def test_here_messages_are_longer_than_a_window() -> None:
    assert max(end.longest for end in outcome(LONG)) > 4 * LONG.window
