"""How many places of the routing table one network may hold (go-libp2p's bounds: 3 per /16, 2 per prefix).

Peer IDs cost nothing, networks do. A peer counts for the IP group of the address at which it was met, not of
an address that it tells. Peers that were met at no public IP share one group.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Final

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.wire.kad.address_filter import ip_group

UNLOCATED: Final = "unlocated"
"""The group of peers met at no public IP: a relay's address, a local one."""


@dataclass(frozen=True, slots=True)
class DiversityLimits:
    """Entries that one group may have: in the table, and among those of one common prefix length."""

    per_table: int = 3
    per_cpl: int = 2


class Census:
    """Counts the table's entries by group. Without limits there is one group, and it is never full."""

    def __init__(self, limits: DiversityLimits | None) -> None:
        self.limits = limits
        self._in_table: Counter[str] = Counter()
        self._at_cpl: Counter[tuple[int, str]] = Counter()

    def group(self, met_at: Multiaddr) -> str:
        """The group of a peer met at this address."""
        return UNLOCATED if self.limits is None else ip_group(met_at) or UNLOCATED

    def permits(self, cpl: int, group: str) -> bool:
        """Whether one more of `group` may be entered."""
        return self.limits is None or (
            self._in_table[group] < self.limits.per_table and self._at_cpl[cpl, group] < self.limits.per_cpl
        )

    def enter(self, cpl: int, group: str) -> None:
        """One more."""
        self._in_table[group] += 1
        self._at_cpl[cpl, group] += 1

    def leave(self, cpl: int, group: str) -> None:
        """One less; what nobody is left of is forgotten, or strangers could fill the memory with groups."""
        self._in_table[group] -= 1
        self._at_cpl[cpl, group] -= 1
        if not self._in_table[group]:
            del self._in_table[group]
        if not self._at_cpl[cpl, group]:
            del self._at_cpl[cpl, group]
