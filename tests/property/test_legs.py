"""Hypothesis: a circuit changes over to its legs at any moment, and every byte arrives once, in order.

The two ends and the relay in memory of `test_wide_circuits`, and a leg from each end that the relay joins.
Legs come early and late, are full now and then, and may be lost; ends pause, go on, finish and abort, from
within what they are given as well, wherever the change-over is.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum, auto
from types import NoneType
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pfwd.net import channel as channel_module
from p2pfwd.net.conduit.contract import Receiver
from p2pfwd.net.transport import circuit as circuit_module
from p2pfwd.net.transport.circuit import CircuitConduit
from p2pfwd.system.buffers import BufferPool
from p2pfwd.wire.circuit import READY
from p2pfwd.wire.noise import cipher
from p2pfwd.wire.noise.cipher import AES_WIDE
from tests.property import test_wide_circuits as wide
from tests.property.test_wide_circuits import ADDR, MESSAGE_BYTES, SEGMENT_BYTES, End, Stream

ROUNDS = 2000


class Ending(Enum):
    """What comes of the circuit before all has been sent, if anything."""

    NONE = auto()
    FIN = auto()
    """The near end sends no more."""
    ABORT = auto()
    """The near end has enough, from within what it is given."""
    LEG = auto()
    """A leg is lost."""
    FAILED = auto()
    """The near end's leg never comes up; the far end's is given up then."""


@dataclass(frozen=True, slots=True)
class Case:
    """`busy_bytes`: when legs are asked for."""

    up: int
    down: int
    window: int
    whole: int
    busy_bytes: int
    ending: Ending
    seed: int


class Wire:
    """A leg as its end has it: a socket. `line` is what it has sent and the relay has not passed on."""

    other: Wire
    limit = limit_left = segment_bytes = None
    heard = True
    is_near = False
    local_addr = remote_addr = ADDR
    progressed_at = 0.0

    def __init__(self, chance: random.Random, pool: BufferPool, case: Case) -> None:
        self.chance, self.pool, self.wide_bytes = chance, pool, case.whole
        self.line, self.unsent = bytearray(), bytearray()
        self.carry = b""
        self.receiver: Receiver | None = None
        self.early = bytearray()
        """What has come while its end negotiated."""
        self.paused = self.congested = self.finishing = self.finished = self.at_eof = self.closed = False

    # --- as a conduit: see `net.conduit.tcp` ------------------------------------------------------

    def start(self, receiver: Receiver, leftover: bytes = b"") -> None:
        if self.closed:
            receiver.conduit_lost(None)
            return
        self.receiver = receiver
        if leftover:
            view = memoryview(bytearray(leftover))
            self.keep(view[receiver.data_received(view) :])
        if self.at_eof:
            receiver.eof_received()

    def keep(self, left: memoryview) -> None:
        self.pool.kept_bytes += len(left) - len(self.carry)
        self.carry = bytes(left)
        if self.closed and self.carry:
            self.keep(left[:0])

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        if not self.paused or self.closed:
            return
        self.paused = False
        if self.carry and self.receiver is not None:
            view = memoryview(bytearray(self.carry))
            self.keep(view[self.receiver.data_received(view) :])

    @property
    def kept_bytes(self) -> int:
        return len(self.carry) + len(self.unsent)

    def send(self, view: memoryview, *, framed: bool = False, more: bool = False) -> None:
        assert not self.finishing, "sent behind its end"
        if self.closed:
            return
        n = 0 if self.congested else self.chance.choice([len(view), len(view), len(view) // 2])
        self.line += view[:n]
        self.unsent += view[n:]
        self.pool.kept_bytes += len(view) - n
        self.congested = bool(self.unsent)

    def uncork(self) -> None:
        pass

    def spare(self, spare: bool) -> None:
        pass

    def tell(self, moved: Callable[[], None] | None) -> None:
        pass

    def squeeze(self, room: int | None) -> None:
        pass

    def finish(self) -> None:
        self.finishing = True
        self.finished = not self.congested

    def abort(self) -> None:
        self.lose(None)

    def lose(self, exc: Exception | None) -> None:
        if self.closed:
            return
        self.closed, self.congested = True, False
        self.pool.kept_bytes -= len(self.unsent)
        self.unsent.clear()
        self.keep(memoryview(b""))
        if self.receiver is not None:
            self.receiver.conduit_lost(exc)

    # --- what the system and the relay do ---------------------------------------------------------

    def drain(self) -> None:
        """There is room for more."""
        if self.congested:
            self.line += self.unsent
            self.pool.kept_bytes -= len(self.unsent)
            self.unsent.clear()
            self.congested = False
            if self.finishing:
                self.finished = True
            elif self.receiver is not None:
                self.receiver.drained()

    def pass_on(self) -> None:
        """Give the other end a piece of what this one has sent, or tell it of the end."""
        there = self.other
        if there.closed or there.paused or there.at_eof:
            return
        n = min(len(self.line), self.chance.choice([1, 3, 200, 1 << 20, 1 << 20]))
        piece = self.line[:n]
        del self.line[:n]
        if n and there.receiver is None:
            there.early += piece
        elif n:
            view = memoryview(bytearray(there.carry) + piece)
            assert there.receiver is not None
            there.keep(view[there.receiver.data_received(view) :])
        elif self.finished:
            there.at_eof = True
            if there.receiver is not None:
                there.receiver.eof_received()


class LegEnd(End):
    """An end that is given a leg once it asks for one."""

    wire: Wire

    def promise(self) -> None:
        self.asked = self.took = False
        self.losses = 0
        self.conduit.when_busy(self.ask)

    def ask(self) -> None:
        assert not self.asked
        self.asked = True

    def lost(self) -> None:
        self.losses += 1

    def plaintext_received(self, view: memoryview) -> None:
        """A socket is not resumed from within what it gives."""
        assert not self.causes and not self.channel._paused
        self.got += view
        last = self.conduit.abort if self.aborts else self.send
        self.chance.choice([self.send, self.channel.pause, last, *[lambda: None] * 10])()

    def turn_ended(self) -> None:
        self.chance.choice([self.channel.pause, *[lambda: None] * 10])()

    def take(self) -> None:
        """Its dial has ended."""
        self.took = True
        early, self.wire.early = bytes(self.wire.early), bytearray()
        self.conduit.take_leg(cast("Any", self.wire), early, self.lost)

    def check(self) -> None:
        """What waits is counted once, by the stream or the pool."""
        assert self.pool.unsent_bytes == 0
        if not (self.stream.is_over or self.conduit._closed):
            assert self.stream.unconsumed + self.pool.kept_bytes == self.conduit.kept_bytes


class Relay:
    """Joins the two legs when both are there; the end of one is the end of all."""

    def __init__(self, ends: tuple[LegEnd, LegEnd], chance: random.Random, case: Case) -> None:
        self.ends = ends
        self.joined = False
        for end in ends:
            end.wire = Wire(chance, end.pool, case)
        ends[0].wire.other, ends[1].wire.other = ends[1].wire, ends[0].wire

    def look(self) -> None:
        near, far = self.ends
        if not self.joined and near.asked and far.asked and not (near.wire.closed or far.wire.closed):
            self.joined = True
            for end in self.ends:
                end.wire.line[:0] = READY
        if self.joined and (near.wire.closed or far.wire.closed):
            for end in self.ends:
                end.wire.lose(ConnectionResetError("the relay has closed it"))
                if not end.stream.is_over and not (end.stream.finished and end.stream.at_eof):
                    end.stream.is_over = True
                    end.conduit.stream_lost(ConnectionResetError("the relay has reset it"))


def changed_over(case: Case) -> tuple[LegEnd, LegEnd]:
    chance = random.Random(case.seed)
    as_wide = wide.Case(case.up, case.down, case.window, case.whole, 1 << 18, wide.Ending.NONE, 0, case.seed)
    streams = Stream(chance, as_wide), Stream(chance, as_wide)
    streams[0].other, streams[1].other = streams[1], streams[0]
    suite, keys = replace(AES_WIDE, rekey_every=1 << 18), (b"a" * 32, b"b" * 32)
    near, far = ends = (
        LegEnd(streams[0], keys, suite, chance.randbytes(case.up)),
        LegEnd(streams[1], keys[::-1], suite, chance.randbytes(case.down)),
    )
    near.peer, far.peer = far, near
    relay = Relay(ends, chance, case)
    steps: list[Callable[[], object]] = []

    def take(end: LegEnd) -> None:
        if end.asked and not end.took:
            if case.ending is Ending.FAILED and end is near:
                end.took = True
                end.conduit.leg_failed()
            else:
                end.take()

    def both(end: LegEnd) -> list[Callable[[], object]]:
        return [
            *[end.channel.pause, *[end.stream.pass_on] * 4],
            *[end.wire.pass_on] * 5,
            *[end.send] * 3,
            *[end.stream.pass_on, end.stream.drain, end.wire.drain, end.channel.resume, lambda: take(end)],
        ]

    for end in ends:
        end.promise()
        steps += both(end)
    if case.ending is not Ending.FAILED:
        steps.append(relay.look)

    def step(what: Callable[[], object]) -> None:
        what()
        near.check()
        far.check()

    for _ in range(chance.randint(0, 400)):
        step(chance.choice(steps))
    near.aborts = case.ending is Ending.ABORT
    if case.ending is Ending.FIN:
        near.finish()
    elif case.ending is Ending.LEG and relay.joined:
        near.wire.lose(ConnectionResetError("here"))
    elif case.ending is Ending.FAILED:
        far.conduit.stand_or_fall()
    for _ in range(ROUNDS):  # nobody is slow for good
        lost = bool(near.causes) + bool(far.causes)
        if lost == 2 or (not lost and not near.conduit._finishing and near.is_done and far.is_done):
            break
        if case.ending is not Ending.FAILED:
            relay.look()
        for end in ends:
            for what in both(end)[1:]:
                step(what)
            if case.ending is Ending.FAILED or (end.peer.conduit._finishing and not end.peer.asked):
                end.conduit.stand_or_fall()
    else:
        raise AssertionError("it has come to a stop")
    for end in ends:
        end.conduit.abort()
        end.wire.abort()
        assert end.pool.kept_bytes == end.conduit.kept_bytes == 0
    return near, far


def outcome(case: Case) -> tuple[LegEnd, LegEnd]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cipher, "MAX_MESSAGE", MESSAGE_BYTES + cipher.TAG)
        patch.setattr(channel_module, "MAX_PLAINTEXT", MESSAGE_BYTES)
        patch.setattr(CircuitConduit, "segment_bytes", SEGMENT_BYTES)
        patch.setattr(circuit_module, "BUSY_BYTES", case.busy_bytes)
        return changed_over(case)


cases = st.builds(
    Case,
    up=st.integers(0, 20_000),
    down=st.integers(0, 20_000),
    window=st.sampled_from([400, 1000, 5000]),
    whole=st.sampled_from([200, 700, 4000]),
    busy_bytes=st.sampled_from([1, 300, 3000, 15_000]),
    ending=st.sampled_from(Ending),
    seed=st.integers(0, 1 << 32),
)


@settings(max_examples=300)
@given(cases)
def test_all_arrives_or_it_ends_as_an_error(case: Case) -> None:
    near, far = ends = outcome(case)
    for end in ends:
        assert end.peer.data.startswith(end.got)
    causes = tuple(type(cause) for end in ends for cause in end.causes)
    if causes == (NoneType, NoneType):  # closed here, in the end
        assert case.ending is not Ending.FIN
        assert all(end.got == end.peer.data for end in ends)
    if case.ending in (Ending.NONE, Ending.FAILED):
        assert causes == (NoneType, NoneType)
    if case.ending is Ending.FIN:
        assert far.got == near.data, "what stood before it was lost"
