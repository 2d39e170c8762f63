"""history.stream_log: few streams are told one by one, many are summed, and none is lost in between."""

from __future__ import annotations

from typing import Any

from p2pfwd.history.stream_log import EACH, MAX_SUMS, StreamLog
from p2pfwd.policy.shares import Party
from tests.support.peers import peer

KEY = ("A", "/x/a")


class Recorded:
    """A stream log, and what it has recorded."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.now = 0.0
        self.spends = True
        self.log = StreamLog(self, lambda party, now: self.spends, lambda: self.now)

    def __call__(self, code: str, **fields: Any) -> None:
        self.events.append((code, fields))

    def open(self, number: int, stranger: Party | None = None) -> None:
        self.log.opened(number, KEY, "listen", "direct", stranger)

    def end(self, number: int, broken: str | None = None, stranger: Party | None = None) -> None:
        """As `daemon.feed` does it."""
        if self.log.is_told(number):
            self.log.ended(number, KEY, stranger, duration_s=1.5, bytes_in=5, bytes_out=7, broken=broken)
            return
        found = self.log.sums.get(KEY) or self.log.sum_of(KEY, stranger)
        assert found is not None
        found.ended += 1
        found.broken += broken is not None
        found.bytes_in += 5

    def codes(self) -> list[str]:
        return [code for code, _ in self.events]


def test_a_stream_that_is_told_is_told_to_its_end() -> None:
    it = Recorded()
    it.open(1)
    it.open(2)
    it.end(1)
    it.end(2, broken="the peer reset the stream")
    assert it.codes() == ["stream-opened", "stream-opened", "stream-ended", "stream-broken"]
    assert it.events[2][1]["bytes_in"] == 5 and it.events[2][1]["duration_s"] == 1.5
    assert it.events[3][1]["reason"] == "the peer reset the stream"


def test_many_are_summed_and_told_one_by_one_again_when_they_are_few() -> None:
    it = Recorded()
    for number in range(1000):
        it.open(number)
        it.end(number, broken="x" if number == 999 else None)
    burst = int(EACH.burst)
    assert it.codes()[: 2 * burst] == ["stream-opened", "stream-ended"] * burst
    it.log.flush()
    ((code, fields),) = it.events[2 * burst :]
    assert (code, fields["peer"], fields["protocol"]) == ("streams-summed", *KEY)
    assert (fields["times"], fields["failed"], fields["bytes_in"]) == (1000 - burst, 1, 5 * (1000 - burst))
    it.log.flush()
    assert len(it.events) == 2 * burst + 1, "each stream once"
    it.now = 60.0
    it.open(2000)
    assert it.codes()[-1] == "stream-opened"


def test_a_strangers_streams_are_told_within_his_share() -> None:
    it = Recorded()
    party = Party(peer(1))
    it.open(1, party)
    it.spends = False
    it.open(2, party)
    it.end(2, stranger=party)
    it.end(1, stranger=party)
    it.log.flush()
    assert it.codes() == ["stream-opened", "stream-ended", "streams-summed"]
    assert all(fields["stranger"] is party for _, fields in it.events)


def test_what_is_summed_at_a_time_is_bounded() -> None:
    it = Recorded()
    for number in range(MAX_SUMS):
        assert it.log.sum_of((str(number), "/x/a"), None) is not None
    assert it.log.sum_of(("one more", "/x/a"), None) is None
