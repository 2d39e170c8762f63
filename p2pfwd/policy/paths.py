"""Which way leads to a peer, and why: stable codes, each with its words; and what a tunnel may go over."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from p2pfwd.core.terms import PathWish


class PathCode(Enum):
    """The value is stable: `--json`, the RPC and its events have it."""

    DIRECT = "direct"
    PUNCHED = "punched"
    RELAYED = "relayed"
    """Nothing was tried yet, or nothing is known of it."""
    PUNCHING = "relayed-punching"
    NOT_SPOKEN = "relayed-not-spoken"
    NO_ADDRESS_HERE = "relayed-no-address-here"
    NO_ADDRESS_THERE = "relayed-no-address-there"
    SYMMETRIC_BOTH = "relayed-symmetric-both"
    SYMMETRIC_HERE = "relayed-symmetric-here"
    SYMMETRIC_THERE = "relayed-symmetric-there"
    FAILED = "relayed-failed"
    BUSY = "relayed-busy"
    BROKEN_OFF = "relayed-broken-off"
    """Who leads began a try, and did not go through with it."""

    @property
    def words(self) -> str:
        """For people."""
        return _WORDS[self]

    @property
    def is_direct(self) -> bool:
        """Whether no relay is between."""
        return self in (PathCode.DIRECT, PathCode.PUNCHED)


_EVERY: Final = "gives every connection another port"

_WORDS: Final = {
    PathCode.DIRECT: "direct",
    PathCode.PUNCHED: "direct: both sides dialed at once, through their routers",
    PathCode.RELAYED: "relayed",
    PathCode.PUNCHING: "relayed: a direct connection is being tried",
    PathCode.NOT_SPOKEN: "relayed: the peer cannot dial at the same time as this node (no /libp2p/dcutr)",
    PathCode.NO_ADDRESS_HERE: "relayed: nobody has told this node its public address yet",
    PathCode.NO_ADDRESS_THERE: "relayed: the peer knows no public address of its own",
    PathCode.SYMMETRIC_BOTH: f"relayed: both routers {_EVERY.replace('gives', 'give')}",
    PathCode.SYMMETRIC_HERE: f"relayed: the router here {_EVERY}, and the peer's lets no stranger in",
    PathCode.SYMMETRIC_THERE: f"relayed: the peer's router {_EVERY}, and the one here lets no stranger in",
    PathCode.FAILED: "relayed: no direct connection came up, though both sides dialed",
    PathCode.BUSY: "relayed: too many direct connections are being tried",
    PathCode.BROKEN_OFF: "relayed: the peer began to make a direct connection, and broke it off",
}


@dataclass(frozen=True, slots=True)
class Way:
    """What a tunnel may go over."""

    wish: PathWish = "any"
    limited: bool = False
    """Also a relay that lets only so many bytes pass, for so long."""

    def fits(self, *, is_relayed: bool, is_limited: bool) -> bool:
        """Whether a connection of this kind will do."""
        if not is_relayed:
            return self.wish != "relay"
        return self.wish != "direct" and (self.limited or not is_limited)


BETTER_MOST_S: Final = 2.0
BETTER_LEAST_S: Final = 0.5
_ROUND_TRIPS: Final = 12
"""Of the relay: for both sides to know each other, agree, dial and prove it, with a libp2p of any kind."""


def worth_waiting_s(age_s: float, rtt_s: float) -> float:
    """How long a direct connection may yet be waited for by who only wants to know which way it will be.

    `age_s`, `rtt_s`: of the connection over a relay that there is. Nothing that carries bytes waits for this.
    """
    return min(BETTER_MOST_S, max(BETTER_LEAST_S, _ROUND_TRIPS * rtt_s)) - age_s
