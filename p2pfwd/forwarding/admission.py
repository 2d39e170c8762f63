"""Who may have how many of the listens' tunnels, and of the dials to their targets.

Rules: one peer has at most half of a listen's streams and of the dials under way, its network five eighths,
and the last eighth is kept for others; one listen has at most half of all dials. A tunnel that ends without
the peer's having used it costs its peer a token; tunnels that are used have no rate. The owner's peers are
bound by their own share alone, who was served before by its own and its networks'. The owner's own limits of
a listen (`--max-streams`, `--max-streams-per-peer`) come first, to the letter.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from p2pfwd.errors import ResourceLimitExceeded
from p2pfwd.forwarding.glances import Glances
from p2pfwd.policy.service_bounds import UNUSED_TUNNELS
from p2pfwd.policy.shares import Held, Most, Paced, Party, Whose, binds

if TYPE_CHECKING:
    from p2pfwd.forwarding.values import ForwardingLimits
    from p2pfwd.net.link.contract import DuplexStream
    from p2pfwd.net.services import Services


class Admission:
    """Of all listens of one node."""

    def __init__(self, services: Services, limits: ForwardingLimits, clock: Callable[[], float]) -> None:
        self.services = services
        self.limits = limits
        self.clock = clock
        self.dials = Held(Most.halves(limits.max_pending_targets))
        self.unused = Paced(UNUSED_TUNNELS)
        self.glances = Glances()

    def of_listen(self) -> ListenAdmission:
        """For one more listen."""
        return ListenAdmission(self)


class ListenAdmission:
    """Of one listen."""

    def __init__(self, whole: Admission) -> None:
        limits = whole.limits
        self.max_streams = 0  # the owner's own limits; 0: none
        self.max_streams_per_peer = 0
        self._whole = whole
        self._streams = Held(Most.halves(limits.max_streams_per_listener))
        self._dials = Held(Most.halves(max(1, limits.max_pending_targets // 2)))

    def enter(self, stream: DuplexStream) -> Party | None:
        """Count a stream in; None where its peer may have no more now.

        Raises ResourceLimitExceeded where the listen itself has no more.
        """
        whole = self._whole
        party = whole.services.party(stream.conn)
        if (self.max_streams or self.max_streams_per_peer) and (what := self._beyond(party)) is not None:
            what = f"{stream.protocol}: it is refused a stream, {what}"
            whole.services.refusals.note("tunnel-limit", party.peer, what)
            return None
        if self._is_refused(party, whole.unused.is_spent(party, whole.clock())):
            whole.services.refused(stream, "tunnel-unused", hasty=True)
            return None
        whose = self._streams.full(party)
        if self._is_refused(party, whose):
            whole.services.refused(stream, "tunnel-streams", hasty=False)
            if whose == "all":
                most = self._streams.most.all
                raise ResourceLimitExceeded(f"the limit of {most} streams of one listener is reached")
            return None
        self._streams.take(party)
        return party

    def _is_refused(self, party: Party, whose: Whose | None) -> bool:
        """Whether a share that is used up, if one is, binds this peer."""
        return binds(whose, party, self._whole.services.rank_of)

    def _beyond(self, party: Party) -> str | None:
        """Which of the owner's limits is reached, in words."""
        most = self.max_streams_per_peer
        if most and self._streams.held(party) >= most:
            return f"--max-streams-per-peer is {most}"
        most = self.max_streams
        return f"--max-streams is {most}" if most and self._streams.total >= most else None

    @property
    def busiest(self) -> int:
        """How many streams the peer has that has most."""
        return self._streams.most_held()

    def leave(self, party: Party, *, used: bool) -> None:
        """A stream of `enter` is over."""
        self._streams.give(party)
        if not used:
            self._whole.unused.empty(party, self._whole.clock())

    def may_dial(self, stream: DuplexStream, party: Party) -> bool:
        """Whether one more dial to a target may be under way; else it is counted as refused."""
        if not any(self._is_refused(party, held.full(party)) for held in (self._dials, self._whole.dials)):
            return True
        self._whole.services.refused(stream, "tunnel-dials", hasty=False)
        return False

    def dialing(self, party: Party) -> None:
        """A dial has begun; ask `may_dial` before."""
        self._dials.take(party)
        self._whole.dials.take(party)

    def dialed(self, party: Party) -> None:
        """A dial is over."""
        self._dials.give(party)
        self._whole.dials.give(party)

    def glance(self, look: Callable[[], bool], looked_at: float) -> tuple[bool, float]:
        """See `Glances.at`."""
        return self._whole.glances.at(look, looked_at)
