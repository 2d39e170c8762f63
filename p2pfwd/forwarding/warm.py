"""Saved and declared forwards keep their peers connected, as `peer add --keep` does: who is kept is told to
the keeper.

Rules: nobody is kept before `start`, nor after the forward's end. Beyond `policy.warm.MOST_WARM` peers those
are kept whose forwards were used last; using another one changes that. Ephemeral and foreground forwards keep
nobody: they dial when they are used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from p2pfwd.core.peer_id import PeerId
from p2pfwd.core.terms import KEPT, Lifetime
from p2pfwd.policy import warm
from p2pfwd.policy.dial_schedule import Priority

if TYPE_CHECKING:
    from p2pfwd.protocols.keep import PeerKeeper


class Warmed(Protocol):
    """What is needed of a forward."""

    lifetime: Lifetime
    peer_id: PeerId
    used_at: float
    """When it was used last."""


class WarmPeers:
    """Of one Forwarding."""

    def __init__(self, keeper: PeerKeeper, forwards: Callable[[], Iterable[Warmed]]) -> None:
        self._keeper = keeper
        self._forwards = forwards
        self._kept: frozenset[PeerId] = frozenset()
        self._has_started = False
        self._holds = 0

    def start(self) -> None:
        """Keep whom to keep from now on: this node listens, and has its listens."""
        self._has_started = True
        self.look()

    def look(self) -> None:
        """A forward has come or gone, or lives longer or shorter."""
        if not self._has_started or self._holds:
            return
        used = ((it.peer_id, it.used_at) for it in self._forwards() if it.lifetime in KEPT)
        wanted = warm.warm_peers(used, warm.MOST_WARM)
        before, self._kept = self._kept, wanted
        for peer_id in before - wanted:
            self._keeper.release(peer_id, Priority.FORWARD)
        for peer_id in wanted - before:
            self._keeper.keep(peer_id, priority=Priority.FORWARD)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Around many changes: one look at the end, for each goes over all forwards."""
        self._holds += 1
        try:
            yield
        finally:
            self._holds -= 1
            self.look()

    def used(self, forward: Warmed) -> None:
        """A program has connected."""
        if self._has_started and forward.lifetime in KEPT and forward.peer_id not in self._kept:
            self.look()

    def is_warm(self, forward: Warmed) -> bool:
        """Whether its peer is kept connected for it."""
        return forward.lifetime in KEPT and forward.peer_id in self._kept
