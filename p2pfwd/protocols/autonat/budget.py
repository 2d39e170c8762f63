"""What both versions of the server may dial: one budget."""

from __future__ import annotations

import time

from p2pfwd.net.refusals import Refusals
from p2pfwd.policy.service_bounds import AUTONAT_DIALS
from p2pfwd.policy.shares import Paced, Party


class Budget:
    """Of one node."""

    def __init__(self, refusals: Refusals) -> None:
        self._dials = Paced(AUTONAT_DIALS)
        self._refusals = refusals

    def take(self, party: Party) -> bool:
        """Whether a request of this peer's may be answered with a dial; who asks too often is counted."""
        if self._dials.empty(party, time.monotonic()) is None:
            return True
        self._refusals.note("autonat-dials", party.peer, "autonat: it asks for too many dials back")
        return False
