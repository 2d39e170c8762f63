"""Pins what an end of a circuit does once it is finished; its bytes are in `tests/net/test_relay_service`."""

from __future__ import annotations

from typing import Any, cast

import pytest

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.errors import CircuitLimitReached, StreamReset
from p2pfwd.net.transport.circuit import CircuitConduit
from p2pfwd.system.buffers import BufferPool
from p2pfwd.wire.circuit import Limit
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

    def data_received(self, view: memoryview) -> int:
        self.asked += 1
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
