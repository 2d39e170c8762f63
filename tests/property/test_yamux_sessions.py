"""Hypothesis: two sessions against each other, in any interleaving and any cut of what passes between.

The model knows what each side has sent on each stream and done to it. Checked all the time: what arrives
is what was sent, in order; no more is under way or waiting than credit was granted for; windows stay
within the budget. Checked at the end, when everything has been delivered and every stream ended: nothing
was lost, each end was told once, and neither session holds anything any more.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from p2pfwd.wire.yamux import frame as f
from p2pfwd.wire.yamux.session import (
    CreditGranted,
    PingAcked,
    Session,
    StreamFinished,
    StreamOpened,
    StreamWasReset,
    WentAway,
)
from p2pfwd.wire.yamux.stream import State, StreamCore
from p2pfwd.wire.yamux.window import WindowBudget

MAX_INBOUND = 4
BUDGET = 3 * f.INITIAL_WINDOW_BYTES


@dataclass
class End:
    """One side's view of one stream."""

    core: StreamCore
    written: int = 0
    received: int = 0
    consumed: int = 0
    finished: bool = False
    was_reset: bool = False
    told_eof: bool = False
    told_reset: bool = False
    waits_for_credit: bool = False
    lost_to_reset: bool = False
    """Payload arrived behind our own reset, and was dropped."""


@dataclass
class Side:
    """One session, what it has put on the wire, and its ends of streams."""

    name: str
    session: Session
    budget: WindowBudget
    wire: bytearray = field(default_factory=bytearray)
    ends: dict[int, End] = field(default_factory=dict)
    pings: list[int] = field(default_factory=list)
    pongs: list[int] = field(default_factory=list)

    def adopt(self, core: StreamCore) -> End:
        end = self.ends[core.id] = End(core)

        def sink(view: memoryview) -> None:
            check(view, core.id, self.name == "listener", end.received)
            end.received += len(view)

        core.sink = sink
        return end

    def put(self, data: bytes = b"") -> None:
        """Control frames first, as `Conn` does, then a data frame."""
        self.wire += self.session.control + data
        self.session.control.clear()


def payload(stream_id: int, from_dialer: bool, offset: int, size: int) -> bytes:
    """The bytes of one direction of one stream from `offset`: every position of it is recognisable."""
    salt = stream_id * 31 + from_dialer
    return bytes((salt + at + (at >> 8) * 7) & 0xFF for at in range(offset, offset + size))


def check(view: memoryview, stream_id: int, from_dialer: bool, offset: int) -> None:
    """Large pieces are checked at both ends only, for speed."""
    head, tail = view[:64], view[-64:]
    assert bytes(head) == payload(stream_id, from_dialer, offset, len(head))
    assert bytes(tail) == payload(stream_id, from_dialer, offset + len(view) - len(tail), len(tail))


BIG = {
    (stream_id, from_dialer): payload(stream_id, from_dialer, 0, 1 << 16) * 2
    for stream_id in range(1, 80)
    for from_dialer in (True, False)
}


class TwoSessions(RuleBasedStateMachine):
    """A dialer and a listener, two wires between them."""

    def __init__(self) -> None:
        super().__init__()
        budgets = WindowBudget(BUDGET), WindowBudget(BUDGET)
        limit = MAX_INBOUND
        self.dialer = Side(
            "dialer", Session(client=True, max_inbound_streams=limit, budget=budgets[0]), budgets[0]
        )
        self.listener = Side(
            "listener", Session(client=False, max_inbound_streams=limit, budget=budgets[1]), budgets[1]
        )
        self.now = 0.0
        self.pass_time(0.001, 1.0)

    def side(self, dialer: bool) -> Side:
        return self.dialer if dialer else self.listener

    def other(self, side: Side) -> Side:
        return self.listener if side is self.dialer else self.dialer

    def pick(self, side: Side, index: int) -> End | None:
        ends = list(side.ends.values())
        return ends[index % len(ends)] if ends else None

    # --- what a side does -------------------------------------------------------------------------

    @rule(dialer=st.booleans())
    def open(self, dialer: bool) -> None:
        side = self.side(dialer)
        if side.session.can_open and len(side.ends) < 30:
            side.adopt(side.session.open())

    @rule(
        dialer=st.booleans(),
        index=st.integers(0, 30),
        size=st.one_of(st.integers(1, 200), st.integers(1000, 1 << 16)),
    )
    def write(self, dialer: bool, index: int, size: int) -> None:
        side = self.side(dialer)
        end = self.pick(side, index)
        if end is None or not end.core.can_send:
            return
        size = min(size, end.core.send_window)
        if not size:
            end.waits_for_credit = True
            return
        frame = bytearray(f.HEADER_BYTES)
        side.session.write_data_header(end.core, size, memoryview(frame), 0)
        body = BIG[end.core.id, dialer]
        start = end.written & 0xFFFF
        side.put(bytes(frame) + body[start : start + size])
        end.written += size

    @rule(dialer=st.booleans(), index=st.integers(0, 30))
    def finish(self, dialer: bool, index: int) -> None:
        side = self.side(dialer)
        end = self.pick(side, index)
        if end is not None and end.core.can_send:
            side.session.finish(end.core)
            end.finished = True

    @rule(dialer=st.booleans(), index=st.integers(0, 30))
    def reset(self, dialer: bool, index: int) -> None:
        side = self.side(dialer)
        end = self.pick(side, index)
        if end is not None:
            end.was_reset |= end.core.id in side.session.streams
            side.session.reset(end.core)

    @rule(dialer=st.booleans(), index=st.integers(0, 30), share=st.sampled_from([0.1, 0.6, 1.0]))
    def consume(self, dialer: bool, index: int, share: float) -> None:
        side = self.side(dialer)
        end = self.pick(side, index)
        if end is not None:
            size = int((end.received - end.consumed) * share)
            end.consumed += size
            side.session.consumed(end.core, size, self.now)

    @rule(dialer=st.booleans(), index=st.integers(0, 3), turns=st.integers(1, 8))
    def pump(self, dialer: bool, index: int, turns: int) -> None:
        """A bulk transfer to a reader that keeps up: what makes windows grow."""
        for _ in range(turns):
            self.write(dialer, index, 1 << 16)
            self.write(dialer, index, 1 << 16)
            self.deliver(dialer, 1 << 18)
            self.consume_all(not dialer)
            self.flush(not dialer)
            self.deliver(not dialer, 1 << 18)

    def consume_all(self, dialer: bool) -> None:
        for index in range(len(self.side(dialer).ends)):
            self.consume(dialer, index, 1.0)

    @rule(dialer=st.booleans())
    def ping(self, dialer: bool) -> None:
        side = self.side(dialer)
        if len(side.pings) == len(side.pongs):
            side.pings.append(len(side.pings))
            side.session.ping(side.pings[-1])

    @rule(seconds=st.sampled_from([0.001, 0.1, 60.0]), rtt_s=st.sampled_from([None, 0.01, 1.0]))
    def pass_time(self, seconds: float, rtt_s: float | None) -> None:
        self.now += seconds
        self.dialer.session.rtt_s = self.listener.session.rtt_s = rtt_s

    # --- the wire ---------------------------------------------------------------------------------

    @rule(dialer=st.booleans())
    def flush(self, dialer: bool) -> None:
        self.side(dialer).put()

    @precondition(lambda self: self.dialer.wire or self.listener.wire)
    @rule(dialer=st.booleans(), size=st.one_of(st.integers(1, 60), st.integers(60, 1 << 18)))
    def deliver(self, dialer: bool, size: int) -> None:
        source = self.side(dialer)
        piece = bytes(source.wire[:size])
        del source.wire[:size]
        self.received(self.other(source), piece)

    def received(self, side: Side, piece: bytes) -> None:
        for event in side.session.receive(memoryview(piece)):
            match event:
                case StreamOpened(core):
                    backlog, core.backlog = core.backlog, None
                    end = side.adopt(core)
                    if backlog:
                        core.sink(memoryview(backlog))
                case StreamFinished(core):
                    end = side.ends[core.id]
                    assert not end.told_eof
                    end.told_eof = True
                    sent = self.other(side).ends[core.id].written
                    assert end.received == sent, "EOF comes behind the last byte"
                case StreamWasReset(core):
                    end = side.ends[core.id]
                    assert not end.told_reset and not end.was_reset
                    end.told_reset = True
                case CreditGranted(core):
                    assert core.send_window > 0
                case PingAcked(value):
                    side.pongs.append(value)
                case WentAway():
                    raise AssertionError("nobody went away")

    # --- what always holds ------------------------------------------------------------------------

    @invariant()
    def credit_is_never_exceeded(self) -> None:
        for side in (self.dialer, self.listener):
            for stream_id, core in side.session.streams.items():
                end, window = side.ends[stream_id], core.receive_window
                assert 0 <= window.credit <= window.size
                if core.can_receive:
                    held = end.received - end.consumed
                    assert window.credit + window.consumed + held <= window.size
                    peer = self.other(side).ends.get(stream_id)
                    if peer is not None and peer.core.state is not State.RESET:
                        assert peer.written - end.received + peer.core.send_window <= window.size + held

    @invariant()
    def the_budget_adds_up(self) -> None:
        for side in (self.dialer, self.listener):
            grown = sum(
                core.receive_window.size - f.INITIAL_WINDOW_BYTES for core in side.session.streams.values()
            )
            assert side.budget.left >= 0 and grown + side.budget.left == BUDGET

    @invariant()
    def what_is_buffered_is_counted(self) -> None:
        for side in (self.dialer, self.listener):
            held = 0
            for stream_id in side.session.streams:
                end = side.ends[stream_id]
                held += end.received - end.consumed
            on_the_way = side.session._body_left if side.session._body_stream is not None else 0
            assert held <= side.session.buffered_bytes <= held + on_the_way

    @invariant()
    def inbound_streams_are_bounded(self) -> None:
        assert sum(stream_id % 2 for stream_id in self.listener.session.streams) <= MAX_INBOUND
        assert sum(stream_id % 2 == 0 for stream_id in self.dialer.session.streams) <= MAX_INBOUND

    # --- the end ----------------------------------------------------------------------------------

    def settle(self) -> None:
        """Deliver everything until nothing moves."""
        for _ in range(100):
            for side in (self.dialer, self.listener):
                side.put()
                piece, side.wire = bytes(side.wire), bytearray()
                self.received(self.other(side), piece)
            if not any(side.wire or side.session.control for side in (self.dialer, self.listener)):
                return
        raise AssertionError("the sessions never come to rest")

    def teardown(self) -> None:
        self.settle()
        self.nothing_was_lost()
        for side in (self.dialer, self.listener):
            self.consume_all(side is self.dialer)
            for core in side.session.streams.values():
                stalled = core.can_receive and core.receive_window.credit * 2 <= core.receive_window.size
                assert not stalled, "a reader that has taken everything gets more"
            for end in side.ends.values():
                if end.core.can_send:
                    side.session.finish(end.core)
                    end.finished = True
        self.settle()
        self.nothing_was_lost()
        for side in (self.dialer, self.listener):
            assert side.session.streams == {} and side.session.buffered_bytes == 0
            assert side.session._inbound == 0 and side.session._unacked == 0
            assert side.budget.left == BUDGET and side.budget.growers == 0
            assert side.pings == side.pongs
            assert side.session.receive(memoryview(f.encode_header(f.PING, f.ACK, 0, 0))) == []

    def nothing_was_lost(self) -> None:
        for side in (self.dialer, self.listener):
            for stream_id, end in side.ends.items():
                peer = self.other(side).ends.get(stream_id)
                if peer is None:
                    assert end.told_reset or end.was_reset, "refused by the limit"
                    continue
                if end.was_reset or peer.was_reset:
                    over = end.told_reset or end.was_reset or end.core.state is State.CLOSED
                    assert over, "a reset of either side is known to both"
                    continue
                assert end.received == peer.written
                assert end.told_eof == peer.finished
                if end.core.can_send:
                    granted = peer.core.receive_window
                    assert end.core.send_window == granted.credit, "credit is neither lost nor made up"


TestTwoSessions = TwoSessions.TestCase
TestTwoSessions.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
