"""net.link.liveness on a fake conduit, in virtual time: what `policy.doubt` is told, and what follows."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import ConnectionLost, TimedOut
from p2pfwd.net.link.liveness import Liveness
from p2pfwd.policy import doubt
from p2pfwd.wire.yamux.session import Session
from tests.support.virtual_time import in_virtual_time

PEER = PeerId(b"\x00\x24\x08\x01\x12\x20" + bytes(31) + b"\x01")
LATER_S = 60.0


class Line:
    """A connection's liveness, its peer and its kernel; for `stopped_s` the process stood still."""

    remote_peer = PEER

    def __init__(self, *, kernel: bool = True, rtt_s: float = 0.01) -> None:
        self.loop = asyncio.get_running_loop()
        self.session = Session(client=True)
        self.session.rtt_s = rtt_s
        self.kernel = kernel
        self.acknowledged_at: float | None = None  # None: all of it
        self.congested = False
        self.progressed_at = 0.0
        self.pings: list[float] = []
        self.doubts: list[bool] = []
        self.retries: list[float | None] = []
        self.died: list[tuple[float, str]] = []
        self.stopped_s = 0.0
        self.answers = True
        self.liveness = Liveness(
            self.session, cast("Any", self), cast("Any", self), self.loop, self.now
        )
        self.suspicions: list[float] = []
        self.rests: list[float] = []
        self.liveness.on_doubt = lambda _conn, doubtful: self.doubts.append(doubtful)
        self.liveness.on_suspicion = lambda _conn: self.suspicions.append(self.now())

    def now(self) -> float:
        return self.loop.time() + self.stopped_s

    def acknowledged_s(self) -> float | None:
        if not self.kernel:
            return None
        return 0.0 if self.acknowledged_at is None else self.now() - self.acknowledged_at

    def retry_within(self, seconds: float | None) -> None:
        self.retries.append(seconds)

    def cut(self) -> None:
        """Nothing comes any more, nothing we send is acknowledged."""
        self.answers, self.acknowledged_at = False, self.now() - 0.01

    def heal(self) -> None:
        """TCP has got it all through; the peer answers."""
        self.answers, self.acknowledged_at = True, None
        self.hear()
        self._pong()

    def hear(self) -> None:
        self.liveness.heard_at = self.now()

    def speak(self) -> None:
        """Send on a stream, a moment after whatever was heard."""
        if not self.session.streams:
            self.session.open()
            self.session.control.clear()
        self.liveness.opening()
        self.liveness.spoke_at += 1e-6

    def flush(self) -> None:
        if self.session.control:
            self.session.control.clear()
            self.pings.append(self.now())
            if self.answers:
                self.loop.call_later(self.session.rtt_s or 0.0, self._pong)

    def _pong(self) -> None:
        if self.answers and self.liveness._pinged_at is not None:
            self.hear()
            self.session._ping_value = None
            self.liveness.ponged()

    def rest(self) -> None:
        self.rests.append(self.now())

    def abort(self, why: Exception) -> None:
        self.died.append((self.now(), str(why)))
        self.liveness.end(ConnectionLost("over"))


@in_virtual_time
async def test_an_idle_line_is_pinged_every_20_seconds_and_never_doubted() -> None:
    line = Line()
    await asyncio.sleep(3600)
    assert 3600 / (doubt.IDLE_S + doubt.LOOK_IDLE_S) <= len(line.pings) <= 3600 / doubt.IDLE_S
    assert not line.doubts and not line.died
    line.liveness.end(ConnectionLost("over"))


@in_virtual_time
async def test_a_connection_rests_at_each_look_at_which_no_stream_is_open() -> None:
    line = Line()
    await asyncio.sleep(doubt.LOOK_IDLE_S + 0.1)
    assert len(line.rests) == 1
    line.speak()
    await asyncio.sleep(3 * doubt.LOOK_IDLE_S)
    assert len(line.rests) == 1
    line.liveness.end(ConnectionLost("over"))


@in_virtual_time
async def test_a_cut_with_traffic_is_doubted_in_a_second_and_over_when_it_heals() -> None:
    line = Line()
    line.cut()
    line.speak()
    await asyncio.sleep(doubt.DOUBT_S + 2 * doubt.LOOK_WAITING_S)
    assert line.doubts == [True] and line.liveness.doubtful
    await asyncio.sleep(20)
    waits = [retry or 0.0 for retry in line.retries]
    assert waits == sorted(waits) and waits[0] >= doubt.DOUBT_S + doubt.RETRY_S
    line.heal()
    await asyncio.sleep(doubt.LOOK_WAITING_S)
    assert line.doubts == [True, False] and not line.died
    await asyncio.sleep(60)
    assert line.retries[-1] is None, "TCP is left alone again"
    line.liveness.end(ConnectionLost("over"))


@in_virtual_time
async def test_a_silence_in_the_middle_of_a_conversation_is_suspect_two_seconds_after_the_last_word() -> None:
    """The far end, whose router has forgotten all: it hears nothing, and has nothing to send."""
    line = Line()
    line.speak()
    line.hear()
    line.cut()
    began = line.now()
    await asyncio.sleep(10)
    assert line.pings[0] - began <= doubt.BUSY_IDLE_S + doubt.LOOK_WAITING_S
    (suspected_at,) = line.suspicions
    assert suspected_at - began <= 2.0 and line.doubts == [True]
    line.heal()
    await asyncio.sleep(doubt.LOOK_WAITING_S)
    line.cut()
    await asyncio.sleep(10)
    assert len(line.suspicions) == 2
    line.liveness.end(ConnectionLost("over"))


@in_virtual_time
async def test_after_a_cut_tcp_has_the_time_that_the_cut_had_lasted_though_the_peer_is_heard() -> None:
    """The other direction works again at once; ours when TCP tries again."""
    line = Line()
    line.cut()
    line.speak()
    await asyncio.sleep(5)
    line.liveness.replaced()
    line.hear()
    await asyncio.sleep(0.3)
    line.speak()
    line.acknowledged_at = line.now() - 0.01
    await asyncio.sleep(1.5)
    line.liveness.replaced()
    await asyncio.sleep(3.5)
    assert line.doubts == [True, False, True] and not line.died
    await asyncio.sleep(5)
    assert line.died
    line.liveness.end(ConnectionLost("over"))


@in_virtual_time
async def test_a_dead_peer_is_dead_within_45_seconds_idle_or_not() -> None:
    for speaks in (False, True):
        line = Line()
        line.cut()
        began = line.now()
        if speaks:
            line.speak()
        await asyncio.sleep(LATER_S)
        ((at, why),) = line.died
        assert 30 < at - began < 45 and "no sign of life" in why


@in_virtual_time
async def test_what_the_kernel_acknowledges_needs_no_ping_and_raises_no_doubt() -> None:
    """A log that is sent on and on, and never answered."""
    line = Line()
    for _ in range(100):
        line.speak()
        await asyncio.sleep(1)
    assert not line.doubts and len(line.pings) <= 100 / doubt.BUSY_IDLE_S
    line.liveness.end(ConnectionLost("over"))


@in_virtual_time
async def test_where_the_kernel_does_not_tell_a_ping_does() -> None:
    line = Line(kernel=False)
    line.speak()
    await asyncio.sleep(2)
    assert len(line.pings) == 1 and not line.doubts
    line.cut()
    line.speak()
    await asyncio.sleep(doubt.DOUBT_S + 2 * doubt.LOOK_WAITING_S)
    assert line.doubts == [True]
    line.liveness.end(ConnectionLost("over"))


@in_virtual_time
async def test_an_answer_that_takes_long_is_waited_for_and_a_cut_meanwhile_is_noticed_in_10_seconds() -> None:
    line = Line()
    line.speak()
    await asyncio.sleep(3)  # all is acknowledged, the service thinks
    line.cut()
    began = line.now()
    await asyncio.sleep(10)
    assert line.doubts == [True] and line.now() - began <= 10
    line.liveness.end(ConnectionLost("over"))


@in_virtual_time
async def test_a_challenge_asks_at_once_and_doubts_in_half_a_second() -> None:
    line = Line()
    await asyncio.sleep(1)
    line.cut()
    line.liveness.challenge()
    assert len(line.pings) == 1
    await asyncio.sleep(doubt.CHALLENGED_S + 2 * doubt.LOOK_WAITING_S)
    assert line.doubts == [True]
    await asyncio.sleep(doubt.CHALLENGE_S)
    assert line.died, "idle, and not there after a change of network"


@in_virtual_time
async def test_a_challenge_that_is_answered_leaves_no_trace() -> None:
    line = Line()
    line.liveness.challenge()
    await asyncio.sleep(10)
    assert not line.doubts and not line.died and not line.liveness._challenged
    line.liveness.end(ConnectionLost("over"))


@in_virtual_time
async def test_an_address_that_is_gone_is_doubted_at_once() -> None:
    line = Line()
    line.speak()
    await asyncio.sleep(0.1)
    line.hear()
    await asyncio.sleep(0.1)
    line.cut()
    line.liveness.address_gone = True
    line.liveness.challenge()
    await asyncio.sleep(0.01)
    assert line.doubts == [True] and not line.died
    line.liveness.replaced()
    await asyncio.sleep(doubt.LOOK_WAITING_S)
    ((_, why),) = line.died
    assert "another connection answers" in why


@in_virtual_time
async def test_time_in_which_this_process_stood_still_is_nobodys_silence() -> None:
    """SIGSTOP for a minute, with a ping out and something that waits."""
    line = Line()
    line.speak()
    line.acknowledged_at = line.now() - 1
    await asyncio.sleep(0.5)
    line.liveness.ping()
    line.stopped_s += LATER_S
    await asyncio.sleep(0.3)
    assert not line.died and not line.doubts
    line.heal()
    await asyncio.sleep(10)
    assert not line.died and not line.doubts
    line.liveness.end(ConnectionLost("over"))


@in_virtual_time
async def test_a_bad_line_is_not_taken_for_dead() -> None:
    """A round trip of 2 s: TCP, repeating what is lost, acknowledges 6 s later, the peer 8 s later."""
    line = Line(rtt_s=2.0)
    for _ in range(20):
        line.speak()
        line.acknowledged_at = line.now()
        await asyncio.sleep(6)
        line.acknowledged_at = None
        await asyncio.sleep(2)
        line.hear()
    assert not line.died and True not in line.doubts
    line.liveness.end(ConnectionLost("over"))


@in_virtual_time
async def test_prove_says_whether_the_peer_answers_in_little_time() -> None:
    line = Line()
    await asyncio.sleep(doubt.STALE_S + 0.1)
    assert line.liveness.is_stale and await line.liveness.prove()
    line.cut()
    assert not await line.liveness.prove() and line.doubts == [True]
    line.liveness.end(ConnectionLost("over"))
    assert not await asyncio.wait_for(line.liveness.prove(), 5)


@in_virtual_time
async def test_who_cannot_wait_for_the_proof_is_told_in_time_and_nothing_is_held_against_the_peer() -> None:
    line = Line()
    line.cut()
    began = asyncio.get_running_loop().time()
    with pytest.raises(TimedOut):
        await line.liveness.prove(within_s=0.2)
    assert asyncio.get_running_loop().time() - began == pytest.approx(0.2)
    assert line.doubts == []
