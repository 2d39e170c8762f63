"""What comes goes on at once and in order; what does not fit is held and not acknowledged.

Streams are fakes; real ones are bridged in `tests/property/test_cork`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

import pytest

from p2pfwd.net.link.bridge import CHUNK_BYTES, CORK_BYTES, Bridge
from p2pfwd.wire.yamux.reset_codes import NO_REASON, RESOURCE_LIMIT_EXCEEDED

if TYPE_CHECKING:
    from p2pfwd.net.link.bridge import End

FRAME_BYTES = 100


class Stream:
    """Notes what it is asked for; takes `room` bytes, in frames of at most `FRAME_BYTES`."""

    def __init__(self) -> None:
        self.room = 1 << 30
        self.log: list[str | int] = []
        self.taken = bytearray()
        self.acknowledged = 0
        self.more_follows = False
        self.wide_bytes = 1 << 20
        self.has_others = False
        self.gatherer: End | None = None
        self._frame = memoryview(bytearray(FRAME_BYTES))
        self.sink: End

    def set_sink(self, sink: End, **_kinds: bool) -> None:
        self.sink = sink

    def begin_frame(self, size: int) -> memoryview | None:
        self.asked = size
        return self._frame[: self.room] or None

    def end_frame(self, n: int) -> None:
        self.room -= n
        self.taken += self._frame[:n]
        self.log.append(n)

    def want_to_send(self) -> None:
        self.log.append("want")

    def consumed(self, n: int) -> None:
        self.acknowledged += n

    def gather(self, sink: End) -> bool:
        if self.more_follows:
            self.gatherer = sink
        return self.more_follows

    def cork(self) -> bool:
        self.log.append("cork")
        return not self.has_others

    def uncork(self) -> None:
        self.log.append("uncork")

    def close_write(self) -> None:
        self.log.append("fin")

    def reset(self, code: int = NO_REASON) -> None:
        self.log.append("reset" if code == NO_REASON else f"reset {code:#x}")


def bridge(
    one: Stream, other: Stream, over: list[Bridge] | None = None, *, most_bytes: int | None = None
) -> Bridge:
    loop = cast("asyncio.AbstractEventLoop", None)  # it has no rate
    on_over = (over if over is not None else []).append
    made = Bridge(cast("Any", one), cast("Any", other), loop, on_over, most_bytes=most_bytes)
    made.start()
    return made


def test_what_comes_goes_on_in_order_before_the_call_is_over() -> None:
    one, other = Stream(), Stream()
    bridge(one, other)
    for piece in (b"ab", b"c" * (FRAME_BYTES + 1), b"d"):
        one.sink.data_received(memoryview(piece))
    assert bytes(other.taken) == b"ab" + b"c" * (FRAME_BYTES + 1) + b"d"
    assert other.log == [2, FRAME_BYTES, 1, 1] and one.acknowledged == FRAME_BYTES + 4


def test_what_one_read_brings_goes_out_together_and_not_later() -> None:
    one, other = Stream(), Stream()
    bridge(one, other)
    one.more_follows = True
    for _ in range(3):
        one.sink.data_received(memoryview(bytes(CORK_BYTES)))
    frames = [n for n in other.log if isinstance(n, int)]
    assert other.log == ["cork", *frames] and sum(frames) == 3 * CORK_BYTES == one.acknowledged
    assert one.gatherer is one.sink
    for _ in range(2):  # another's turn in the read, and the read's end
        one.sink.pass_gathered()
    assert other.log == ["cork", *frames, "uncork"]


@pytest.mark.parametrize(
    ("size", "more_follows", "has_others"),
    [(CORK_BYTES - 1, True, False), (CORK_BYTES, False, False), (CORK_BYTES, True, True)],
    ids=["somebody's keystroke", "the only piece of its read", "others have bulk for the same peer"],
)
def test_what_need_not_wait_for_more_does_not(size: int, more_follows: bool, has_others: bool) -> None:
    one, other = Stream(), Stream()
    bridge(one, other)
    one.more_follows, other.has_others = more_follows, has_others
    one.sink.data_received(memoryview(bytes(size)))
    one.sink.pass_gathered()
    assert "uncork" not in other.log and ("cork" in other.log) == has_others


def test_a_long_piece_is_told_of_as_one_and_waits_for_no_other() -> None:
    one, other = Stream(), Stream()
    bridge(one, other)
    one.more_follows, other.room = True, FRAME_BYTES
    one.sink.data_received(memoryview(bytes(CHUNK_BYTES + 1)))
    assert "cork" not in other.log and other.asked == CHUNK_BYTES + 1 - FRAME_BYTES
    other.room = FRAME_BYTES
    assert other.sink.resume_sending()
    assert other.asked == CHUNK_BYTES + 1 - FRAME_BYTES, "what is held of it is not cut up either"


@pytest.mark.parametrize("wide", [True, False])
def test_a_long_piece_that_is_cut_up_goes_out_in_one(wide: bool) -> None:
    one, other = Stream(), Stream()
    other.wide_bytes = CHUNK_BYTES + 1 if wide else 0
    bridge(one, other)
    one.sink.data_received(memoryview(bytes(CHUNK_BYTES + 1)))
    corks = [it for it in other.log if not isinstance(it, int)]
    assert corks == ([] if wide else ["cork", "uncork"]) and len(other.taken) == CHUNK_BYTES + 1
    if not wide:
        assert other.log[0] == "cork" and other.log[-1] == "uncork"


def test_what_waits_for_more_goes_out_though_the_bridge_is_over() -> None:
    one, other = Stream(), Stream()
    made = bridge(one, other)
    one.more_follows = True
    one.sink.data_received(memoryview(bytes(CORK_BYTES)))
    made.reset()
    one.sink.pass_gathered()
    assert other.log[0] == "cork" and other.log[-1] == "uncork"


def test_what_does_not_fit_is_held_and_not_acknowledged() -> None:
    one, other = Stream(), Stream()
    other.room = 5
    bridge(one, other)
    one.sink.data_received(memoryview(b"held back"))
    other.room = 100
    one.sink.data_received(memoryview(b", and more"))  # comes before the held one's turn
    one.sink.eof_received()
    assert bytes(other.taken) == b"held " and one.acknowledged == 5
    assert not other.sink.resume_sending(), "all has gone"
    assert bytes(other.taken) == b"held back, and more" and one.acknowledged == 19
    assert other.log == [5, "want", "want", 14, "fin"], "the FIN behind it"


@pytest.mark.parametrize("reset_by", ["one", "other"])
def test_a_reset_of_one_side_resets_the_other_and_drops_what_waits(reset_by: str) -> None:
    one, other = Stream(), Stream()
    other.room = 1
    over: list[Bridge] = []
    bridge(one, other, over)
    one.sink.data_received(memoryview(b"ab"))
    (one if reset_by == "one" else other).sink.stream_lost(ConnectionResetError())
    assert other.log == [1, "want", "reset"] and one.log == ["reset"] and len(over) == 1
    other.room = 100
    assert not other.sink.resume_sending() and bytes(other.taken) == b"a"


def test_no_more_passes_than_a_bounded_bridge_lets() -> None:
    one, other = Stream(), Stream()
    made = bridge(one, other, most_bytes=3)
    one.sink.data_received(memoryview(b"abc"))
    assert not made.is_over
    one.sink.data_received(memoryview(b"d"))
    assert bytes(other.taken) == b"abc" and made.limit_reached
    assert one.log[-1] == other.log[-1] == f"reset {RESOURCE_LIMIT_EXCEEDED:#x}", "both are told why"
