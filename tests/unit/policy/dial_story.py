"""A dial schedule on a clock of its own, and shorthand for telling what happens to it."""

from __future__ import annotations

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.policy.dial_schedule import Dial, DialLimits, DialSchedule, Known, Priority
from tests.support.peers import peer

REFUSED = "cannot reach it: connection refused"
STATIC, RELAY, FORWARD, BOOTSTRAP, LISTED = Priority


def addr(number: int) -> Multiaddr:
    return Multiaddr.parse(f"/ip4/192.0.2.1/tcp/{number}")


ALICE, BOB, CAROL = peer(1), peer(2), peer(3)


class Story:
    """A schedule, what is known of peers (address -> age), and shorthand for what happens."""

    def __init__(self, limits: DialLimits | None = None, luck: float = 0.0) -> None:
        self.known: dict[PeerId, dict[Multiaddr, float]] = {}
        self.founded: set[tuple[PeerId, Multiaddr]] = set()
        self.schedule = DialSchedule(self._addresses, lambda: luck, limits)

    def _addresses(self, who: PeerId) -> list[Known]:
        known = self.known.get(who, {})
        return [Known(where, age_s, (who, where) in self.founded) for where, age_s in known.items()]

    def keep(
        self, who: PeerId, *numbers: int, now: float = 0.0, age_s: float = 0.0, priority: Priority = STATIC
    ) -> None:
        self.known[who] = {addr(number): age_s for number in numbers}
        self.schedule.keep(who, priority, now)

    def dial(self, now: float) -> list[Dial]:
        """Begin everything that is planned."""
        dials = self.schedule.plan(now)
        for dial in dials:
            self.schedule.started(dial, now)
        return dials

    def dialed(self, now: float) -> list[PeerId]:
        return [dial.peer_id for dial in self.dial(now)]

    def fail(self, who: PeerId, now: float) -> None:
        self.schedule.failed(who, now, REFUSED)

    def up(self, who: PeerId, now: float) -> None:
        self.schedule.connected(who, now)
        self.schedule.succeeded(who, now)

    def wakeup(self, now: float) -> float | None:
        return self.schedule.next_wakeup(now)
