"""What both versions of the server may dial: one budget."""

from __future__ import annotations

import time

from p2pfwd.net.refusals import Refusals
from p2pfwd.policy.service_bounds import AUTONAT_DIALS
from p2pfwd.policy.shares import Paced, Party, RankOf, binds


class Budget:
    """Of one node."""

    def __init__(self, refusals: Refusals, rank_of: RankOf) -> None:
        self._dials = Paced(AUTONAT_DIALS)
        self._refusals = refusals
        self._rank_of = rank_of

    def take(self, party: Party) -> bool:
        """Whether a request of this peer's may be answered with a dial; who asks too often is counted."""
        if not binds(self._dials.empty(party, time.monotonic()), party, self._rank_of):
            return True
        self._refusals.note("autonat-dials", party.peer, "autonat: it asks for too many dials back")
        return False
