"""Which role each side takes on a punched connection, with every implementation there is, in virtual time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from p2pfwd.errors import RemoteProtocolError
from p2pfwd.wire.multistream import HEADER, DialerNegotiation, ListenerNegotiation, encode_token
from p2pfwd.wire.role_search import Role, RoleSearch, a_proposes, listens_s

NOISE = "/noise"
RTT_S = 0.1
P2PFWD, GO, RUST, JS, PY = "p2pfwd/1.0", "kubo/0.22.0/", "rust-libp2p/0.44", "js-libp2p/3.3", "py-libp2p/0.8"


@dataclass
class Wire:
    """Two ends and what is under way between them; one-way delay is half of RTT_S."""

    ends: list[End] = field(default_factory=list)
    events: list[tuple[float, int, Callable[[float], None]]] = field(default_factory=list)
    count: int = 0

    def at(self, when: float, what: Callable[[float], None]) -> None:
        self.count += 1
        self.events.append((when, self.count, what))

    def send(self, sender: End, now: float, data: bytes) -> None:
        (other,) = [end for end in self.ends if end is not sender]
        if data:
            self.at(now + RTT_S / 2, lambda then: other.receive(then, data))

    def run(self) -> None:
        while self.events and self.events[0][0] < 15.0:
            self.events.sort(key=lambda event: event[:2])
            when, _, what = self.events.pop(0)
            what(when)


class End:
    """One side: what it is, when it is done, and as what."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.role: Role | None = None
        self.done_at: float | None = None
        self.negotiation: DialerNegotiation | ListenerNegotiation | None = None
        self.failed = False
        wire.ends.append(self)

    def begin(self, now: float) -> None:
        raise NotImplementedError

    def feed(self, now: float, data: bytes) -> None:
        assert self.negotiation is not None
        try:
            self.wire.send(self, now, self.negotiation.receive(data))
        except RemoteProtocolError:
            self.failed = True
        if self.negotiation.selected is not None and self.done_at is None:
            self.done_at = now

    def receive(self, now: float, data: bytes) -> None:
        self.feed(now, data)


class Plain(End):
    """Another implementation: its role is fixed."""

    def __init__(self, wire: Wire, role: Role, *, silent_header: bool = False) -> None:
        super().__init__(wire)
        self.role = role
        self.silent_header = silent_header

    def begin(self, now: float) -> None:
        dialer = self.role is Role.DIALER
        self.negotiation = DialerNegotiation([NOISE]) if dialer else ListenerNegotiation(NOISE.__eq__)
        if not self.silent_header:
            self.wire.send(self, now, self.negotiation.start())

    def receive(self, now: float, data: bytes) -> None:
        if self.silent_header:  # rust's listener says nothing before it has heard the header
            self.silent_header = False
            self.wire.send(self, now, HEADER)
        super().receive(now, data)


class Ours(End):
    """p2pfwd."""

    def __init__(self, wire: Wire, *, is_a: bool, agent: str | None) -> None:
        super().__init__(wire)
        self.search = RoleSearch()
        self.listens_s = listens_s(is_a=is_a, rtt_s=RTT_S, agent=agent)

    def begin(self, now: float) -> None:
        self.wire.send(self, now, self.search.start())
        self.wire.at(now + self.listens_s, self.timed_out)

    def timed_out(self, now: float) -> None:
        self.search.timed_out()
        self.settle(now)

    def receive(self, now: float, data: bytes) -> None:
        if self.negotiation is not None:
            self.feed(now, data)
            return
        self.search.receive(data)
        self.settle(now)

    def settle(self, now: float) -> None:
        if self.negotiation is None and self.search.role is not Role.LISTENING:
            self.role = self.search.role
            self.negotiation, first, left = self.search.negotiation([NOISE], NOISE.__eq__)
            self.wire.send(self, now, first)
            self.feed(now, left)


@pytest.mark.parametrize(
    ("agent", "we_are_a", "their_role", "silent", "ours", "within_s"),
    [
        # Their B dials or listens; our A.
        ("kubo/0.22.0/", True, Role.DIALER, False, Role.LISTENER, 0.1),  # go up to 0.40, and 0.48's third try
        ("kubo/0.43.0/", True, Role.LISTENER, False, Role.DIALER, 0.1),  # go from 0.41 on
        (RUST, True, Role.LISTENER, True, Role.DIALER, 0.2),
        (JS, True, Role.LISTENER, False, Role.DIALER, 0.1),
        (PY, True, Role.LISTENER, False, Role.DIALER, 0.4),
        (None, True, Role.LISTENER, False, Role.DIALER, 0.4),
        # Their A; our B.
        ("kubo/0.22.0/", False, Role.LISTENER, False, Role.DIALER, 0.1),
        (None, False, Role.LISTENER, False, Role.DIALER, 1.2),
        ("kubo/0.43.0/", False, Role.DIALER, False, Role.LISTENER, 0.1),
        (RUST, False, Role.DIALER, False, Role.LISTENER, 0.1),
        (JS, False, Role.DIALER, False, Role.LISTENER, 0.1),
        (PY, False, Role.DIALER, False, Role.LISTENER, 0.1),
    ],
)
@pytest.mark.parametrize("late_s", [-0.05, 0.0, 0.05])
def test_the_roles_with_every_implementation(
    agent: str | None,
    we_are_a: bool,
    their_role: Role,
    silent: bool,
    ours: Role,
    within_s: float,
    late_s: float,
) -> None:
    """`late_s`: how much later than ours their end is connected."""
    wire = Wire()
    us = Ours(wire, is_a=we_are_a, agent=agent)
    them = Plain(wire, their_role, silent_header=silent)
    wire.at(1.0, us.begin)
    wire.at(1.0 + late_s, them.begin)
    wire.run()
    assert us.role is ours and not (us.failed or them.failed)
    assert us.done_at is not None and them.done_at is not None
    assert us.done_at - 1.0 <= within_s + max(0.0, late_s) + 1e-6


@pytest.mark.parametrize("late_s", [-0.05, 0.0, 0.05])
def test_two_p2pfwd_lose_no_round_trip(late_s: float) -> None:
    """A knows by B's agent that it serves: its proposal leaves with the header."""
    wire = Wire()
    a = Ours(wire, is_a=True, agent=P2PFWD)
    b = Ours(wire, is_a=False, agent=P2PFWD)
    wire.at(1.0, a.begin)
    wire.at(1.0 + late_s, b.begin)
    wire.run()
    assert (a.role, b.role) == (Role.DIALER, Role.LISTENER)
    assert a.done_at is not None and a.done_at - 1.0 <= RTT_S + max(0.0, late_s - RTT_S / 2) + 1e-6


def test_two_p2pfwd_agree_though_neither_knows_the_other() -> None:
    """Identify may have failed over the circuit."""
    wire = Wire()
    a, b = Ours(wire, is_a=True, agent=None), Ours(wire, is_a=False, agent=None)
    for end in (a, b):
        wire.at(1.0, end.begin)
    wire.run()
    assert (a.role, b.role) == (Role.DIALER, Role.LISTENER) and a.done_at is not None


@pytest.mark.parametrize(
    ("agent", "proposes"),
    [
        (None, None),
        ("p2pfwd/0.1", True),
        ("js-libp2p/3.3", True),
        ("rust-libp2p/0.44", True),
        ("kubo/0.33.2/", False),
        ("kubo/0.34.0/", True),
        ("kubo/0.4", None),
        ("kubo/1.0.0", None),
        ("go-libp2p", None),
    ],
)
def test_what_an_agent_says_of_roles(agent: str | None, proposes: bool | None) -> None:
    assert a_proposes(agent) is proposes


def test_a_line_of_two_seconds_is_listened_to_for_longer() -> None:
    assert listens_s(is_a=True, rtt_s=2.0, agent=GO) > 2.0
    assert listens_s(is_a=False, rtt_s=2.0, agent=P2PFWD) == 4.0


@pytest.mark.parametrize("size", [1, 7, len(HEADER)])
def test_a_header_in_pieces_settles_nothing(size: int) -> None:
    search = RoleSearch()
    for at in range(0, len(HEADER), size):
        search.receive(HEADER[at : at + size])
        assert search.role is Role.LISTENING
    search.receive(encode_token(NOISE)[:1])
    assert search.role is Role.LISTENER


def test_who_is_no_libp2p_is_refused_by_the_negotiation() -> None:
    search = RoleSearch()
    search.receive(b"SSH-2.0")
    negotiation, first, left = search.negotiation([NOISE], NOISE.__eq__)
    with pytest.raises(RemoteProtocolError, match="opened with"):
        negotiation.receive(left)
    assert not first


def test_what_comes_too_late_for_the_role_is_an_answer() -> None:
    search = RoleSearch()
    search.receive(HEADER)
    search.timed_out()
    search.receive(encode_token(NOISE))
    negotiation, first, left = search.negotiation([NOISE], NOISE.__eq__)
    assert first == encode_token(NOISE)
    negotiation.receive(left)
    assert negotiation.selected == NOISE
