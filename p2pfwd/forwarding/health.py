"""State of a listener: does it work, since when, and if not, why.

One error class is one state; what means "the peer cannot be reached" shares one state and differs in
its sentence. Pure: the time is passed in.
"""

from __future__ import annotations

from p2pfwd.errors import ConnectionLost, DialFailed, P2PForwardError, PeerNotFound, TimedOut
from p2pfwd.forwarding.values import PEER_UNREACHABLE, READY, UNKNOWN

_UNREACHABLE = (DialFailed, PeerNotFound, ConnectionLost, TimedOut)


def state_of(error: P2PForwardError) -> str:
    """The state an error puts a listener in."""
    return PEER_UNREACHABLE if isinstance(error, _UNREACHABLE) else error.code


class Health:
    """Current state with its reason; each setter says whether anything changed."""

    __slots__ = ("hint", "reason", "since", "state")

    def __init__(self, now: float) -> None:
        self.state = UNKNOWN
        self.reason: str | None = None
        self.hint: str | None = None
        self.since = now

    def ready(self, now: float) -> bool:
        """The last try worked."""
        return self._set(READY, None, None, now)

    def failed(self, error: P2PForwardError, now: float) -> bool:
        """The last try failed with `error`."""
        return self._set(state_of(error), error.message, error.hint, now)

    def told(self, state: str, reason: str | None, hint: str | None, now: float) -> bool:
        """Somebody else (a check, the peer) found `state`."""
        return self._set(state, reason, hint, now)

    def _set(self, state: str, reason: str | None, hint: str | None, now: float) -> bool:
        if (state, reason, hint) == (self.state, self.reason, self.hint):
            return False
        self.state, self.reason, self.hint, self.since = state, reason, hint, now
        return True
