"""Pins what an end of a circuit does; its bytes are in `tests/net/test_relay_service`, its legs in
`tests/property/test_legs`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.errors import CircuitLimitReached, StreamReset
from p2pfwd.net.conduit.hurry import RETRY_S, STUCK_S
from p2pfwd.net.transport import circuit
from p2pfwd.net.transport.circuit import CircuitConduit
from p2pfwd.net.transport.leg import NEAR_BYTES
from p2pfwd.system.buffers import BufferPool
from p2pfwd.wire.circuit import READY, Limit
from p2pfwd.wire.yamux.reset_codes import NO_REASON, RESOURCE_LIMIT_EXCEEDED

ADDR = Multiaddr.parse("/ip4/192.0.2.1/tcp/1")


class Stream:
    """Takes nothing more after its FIN."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.acknowledged = 0
        self.wide_bytes = 0
        self.frame_bytes = 100

    def set_sink(self, sink: CircuitConduit, **_kinds: bool) -> None:
        pass

    def reset(self) -> None:
        self.log.append("reset")

    def consumed(self, n: int) -> None:
        self.acknowledged += n

    def begin_frame(self, size: int) -> memoryview | None:
        self.log.append(f"{size} to send")
        return None if "fin" in self.log else memoryview(bytearray(self.frame_bytes)) or None

    def end_frame(self, n: int) -> None:
        self.log.append(f"{n} bytes")

    def want_to_send(self) -> None:
        self.log.append("want")

    def close_write(self) -> None:
        self.log.append("fin")


def test_what_is_sent_after_the_end_asks_for_no_turn() -> None:
    stream = Stream()
    conduit = CircuitConduit(cast("Any", stream), BufferPool(), ADDR, ADDR, None)
    conduit.send(memoryview(b"before"))
    conduit.finish()
    conduit.send(memoryview(b"after"))  # it would have a turn of the loop again and again, in vain
    assert stream.log == ["6 to send", "6 bytes", "fin"] and not conduit.congested


class Receiver:
    """Takes messages of `size` bytes, whole or not at all."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.missing = self.asked = 0
        self.got = bytearray()
        self.lost: Exception | None = None
        self.pauses: CircuitConduit | None = None
        """Who is paused behind each message."""

    def data_received(self, view: memoryview) -> int:
        self.asked += 1
        if self.pauses is not None:
            self.pauses.pause()
            view = view[: self.size]
        used = len(view) // self.size * self.size
        self.got += view[:used]
        rest = len(view) - used
        self.missing = self.size - rest if rest else 0
        return used

    def conduit_lost(self, exc: Exception | None) -> None:
        self.lost = exc


def test_a_part_of_a_message_is_acknowledged_and_nobody_is_asked_before_the_rest_has_come() -> None:
    """The window may be smaller than the message: its rest would wait for credit, and the credit for it."""
    stream, receiver, pool = Stream(), Receiver(100), BufferPool()
    conduit = CircuitConduit(cast("Any", stream), pool, ADDR, ADDR, None)
    conduit.start(cast("Any", receiver))
    sent = bytearray(range(250))
    at = 0
    for size, asked in ((70, 1), (20, 1), (40, 2), (60, 2), (20, 3), (40, 3)):
        conduit.data_received(memoryview(sent[at : at + size]))
        at += size
        assert stream.acknowledged == at and receiver.asked == asked
        assert conduit.kept_bytes == pool.kept_bytes == at - len(receiver.got) < 100
    assert receiver.got == sent[:200]
    conduit.abort()
    assert pool.kept_bytes == 0 and receiver.lost is None


def test_what_a_paused_receiver_was_not_given_is_not_acknowledged() -> None:
    stream, receiver = Stream(), Receiver(100)
    conduit = CircuitConduit(cast("Any", stream), BufferPool(), ADDR, ADDR, None)
    conduit.start(cast("Any", receiver))
    conduit.pause()
    conduit.data_received(memoryview(bytearray(150)))
    assert stream.acknowledged == 0
    conduit.resume()
    assert stream.acknowledged == 150 and conduit.kept_bytes == 50
    conduit.pause()
    conduit.data_received(memoryview(bytearray(100)))
    conduit.data_received(memoryview(bytearray(100)))
    assert stream.acknowledged <= 200, "no more than the message of which a part was there"
    conduit.resume()
    assert stream.acknowledged == 350 and len(receiver.got) == 300


@pytest.mark.parametrize(("whole", "cut"), [(100_000, [100_000]), (65_507, [65_507, 34_493])])
def test_a_wide_message_has_one_frame_or_is_cut_up(whole: int, cut: list[int]) -> None:
    stream, pool = Stream(), BufferPool()
    conduit = CircuitConduit(cast("Any", stream), pool, ADDR, ADDR, None)
    stream.wide_bytes, stream.frame_bytes = 200_000, whole
    assert conduit.wide_bytes == 200_000
    conduit.send(pool.wide[:100_000], framed=True)
    left, log = 100_000, []
    for size in cut:
        log += [f"{left} to send", f"{size} bytes"]
        left -= size
    assert stream.log == log and pool.kept_bytes == 0


def test_what_waits_for_credit_is_counted_until_it_is_sent_or_given_up() -> None:
    stream, pool = Stream(), BufferPool()
    conduit = CircuitConduit(cast("Any", stream), pool, ADDR, ADDR, None)
    stream.frame_bytes = 0
    conduit.send(memoryview(bytes(150)))
    conduit.send(memoryview(bytes(150)))
    assert conduit.congested and conduit.kept_bytes == pool.kept_bytes == 300
    stream.frame_bytes = 100
    assert conduit.resume_sending()
    assert conduit.kept_bytes == pool.kept_bytes == 200
    conduit.abort()
    assert pool.kept_bytes == 0


@pytest.mark.parametrize(
    ("limit", "code", "words"),
    [
        (Limit(120, 1 << 17), RESOURCE_LIMIT_EXCEEDED, "131072 bytes and 120 s at most"),
        (Limit(0, 1 << 17), RESOURCE_LIMIT_EXCEEDED, "had 131072 bytes at most"),
        (Limit(120, 1 << 17), NO_REASON, None),
        (None, RESOURCE_LIMIT_EXCEEDED, None),
    ],
)
def test_a_relay_that_says_that_a_limit_is_reached_is_believed_though_less_has_come(
    limit: Limit | None, code: int, words: str | None
) -> None:
    """What waited at the relay for a slow end was lost with the circuit."""
    receiver, reset = Receiver(1), StreamReset("the peer reset the stream", by="remote", reset_code=code)
    conduit = CircuitConduit(cast("Any", Stream()), BufferPool(), ADDR, ADDR, limit)
    conduit.start(cast("Any", receiver))
    conduit.data_received(memoryview(bytearray(1000)))
    conduit.stream_lost(reset)
    if words is None:
        assert receiver.lost is reset
    else:
        assert isinstance(receiver.lost, CircuitLimitReached) and words in str(receiver.lost)


class Leg:
    """A socket that somebody else reads; it keeps what its receiver leaves."""

    kept_bytes = 0
    is_near = False
    receiver: Any
    moved: Callable[[], None] | None = None

    def __init__(self) -> None:
        self.log: list[str] = []
        self.retries: list[float | None] = []
        self.acknowledged: float | None = 0.0
        self.carry = b""
        self.paused = self.congested = self.is_near = False
        self.progressed_at = 1.0

    def start(self, receiver: object, leftover: bytes) -> None:
        self.receiver = receiver
        if leftover:
            self.give(leftover)

    def give(self, data: bytes) -> None:
        view = memoryview(bytearray(self.carry + data))
        self.carry = bytes(view[self.receiver.data_received(view) :])

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        if self.paused:
            self.paused = False
            self.give(b"")

    def send(self, view: memoryview, **_kinds: bool) -> None:
        self.congested = True

    def acknowledged_s(self) -> float | None:
        return self.acknowledged

    def retry_within(self, seconds: float | None) -> None:
        self.retries.append(seconds)

    def tell(self, moved: Callable[[], None] | None) -> None:
        self.moved = moved

    def spare(self, spare: bool) -> None:
        self.log.append(f"spare {spare}")

    def squeeze(self, room: int | None) -> None:
        self.log.append(f"room {room}")

    def finish(self) -> None:
        self.log.append("fin")

    def abort(self) -> None:
        self.log.append("abort")
        self.receiver.conduit_lost(None)


def busy(monkeypatch: pytest.MonkeyPatch, stream: Stream, receiver: Receiver) -> CircuitConduit:
    """One that has asked for its leg."""
    monkeypatch.setattr(circuit, "BUSY_BYTES", 1)
    conduit = CircuitConduit(cast("Any", stream), BufferPool(), ADDR, ADDR, None)
    asked: list[bool] = []
    conduit.when_busy(lambda: asked.append(True))
    conduit.start(cast("Any", receiver))
    conduit.data_received(memoryview(bytearray(100)))
    assert asked
    return conduit


def test_who_pauses_in_the_middle_of_the_change_over_is_given_nothing_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    leg, receiver = Leg(), Receiver(100)
    conduit = busy(monkeypatch, Stream(), receiver)
    conduit.pause()
    conduit.take_leg(cast("Any", leg), READY, pytest.fail)
    leg.give(bytes(range(200)))
    conduit.eof_received()
    assert receiver.asked == 1, "it is paused"
    receiver.pauses = conduit
    for asked in (2, 3):
        conduit.resume()
        assert receiver.asked == asked and len(receiver.got) == 100 * asked
    assert receiver.got[100:] == bytes(range(200))


def test_an_end_that_comes_while_a_leg_is_dialed_takes_nothing_back(monkeypatch: pytest.MonkeyPatch) -> None:
    leg, stream = Leg(), Stream()
    conduit = busy(monkeypatch, stream, Receiver(100))
    conduit.finish()
    conduit.take_leg(cast("Any", leg), b"", pytest.fail)
    assert leg.log[-1] == "fin", "an abort would end the circuit at the relay, with what is under way there"
    leg.give(READY)
    assert stream.log == ["fin"]


@pytest.mark.parametrize("near", [False, True])
def test_a_leg_is_read_as_its_peer_deserves_and_as_far_as_it_is(
    near: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    leg = Leg()
    conduit = busy(monkeypatch, Stream(), Receiver(100))
    conduit.spare(True)
    conduit.squeeze(1000)
    leg.is_near = near
    conduit.take_leg(cast("Any", leg), b"", pytest.fail)
    assert leg.log == ["spare True", "room 1000"]
    conduit.squeeze(None)
    conduit.squeeze(1 << 20)  # a crowd's: sixteen times what a keystroke should wait for
    least = [NEAR_BYTES, NEAR_BYTES] if near else [None, 1 << 20]
    assert leg.log[2:] == [f"room {room}" for room in least]


@pytest.mark.parametrize("before", [False, True])
def test_a_crowd_is_told_of_what_a_leg_moves(before: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """To its own crowd a leg was somebody else, for whom all of them waited."""
    leg, told = Leg(), list[bool]()
    conduit = busy(monkeypatch, Stream(), Receiver(100))
    if before:
        conduit.tell(lambda: told.append(True))
    conduit.take_leg(cast("Any", leg), b"", pytest.fail)
    if not before:
        conduit.tell(lambda: told.append(True))
    assert leg.moved is not None
    leg.moved()
    assert told == [True]
    conduit.tell(None)
    assert leg.moved is None


def test_the_line_of_a_leg_is_looked_at_whenever_the_whole_is(monkeypatch: pytest.MonkeyPatch) -> None:
    leg = Leg()
    conduit = busy(monkeypatch, Stream(), Receiver(100))
    assert conduit.acknowledged_s() is None
    conduit.take_leg(cast("Any", leg), READY, pytest.fail)
    leg.acknowledged = 2 * STUCK_S
    assert conduit.acknowledged_s() is None, "it says nothing of the other end"
    (wanted,) = leg.retries
    assert wanted is not None and wanted >= RETRY_S
    conduit.retry_within(5.0)
    assert len(leg.retries) == 1


@pytest.mark.parametrize("ended", ["here", "there", "not at all"])
def test_a_leg_in_use_that_is_given_up_and_has_not_ended_was_lost(
    ended: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The peer is silent for too long: where that comes of legs, there are no more for a while."""
    leg, lost = Leg(), list[bool]()
    conduit = busy(monkeypatch, Stream(), Receiver(100))
    conduit.take_leg(cast("Any", leg), READY, lambda: lost.append(True))
    if ended == "here":
        conduit.finish()
    elif ended == "there":
        leg.receiver.eof_received()
    conduit.abort()
    conduit.abort()
    assert lost == ([True] if ended == "not at all" else [])


def test_a_leg_that_takes_what_waits_bit_by_bit_makes_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    leg = Leg()
    conduit = busy(monkeypatch, Stream(), Receiver(100))
    conduit.take_leg(cast("Any", leg), READY, pytest.fail)
    conduit.send(memoryview(b"much"))
    assert conduit.congested and conduit.progressed_at == 1.0
    leg.progressed_at = 2.0
    assert conduit.progressed_at == 2.0
