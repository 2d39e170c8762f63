"""Which peers of saved forwards are kept connected: those that were used last, so many at most. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from p2pfwd.core.peer_id import PeerId

MOST_WARM: Final = 64
"""Peers: a third of the connections above which idle ones are closed, and some 2.5 MB an hour where all are
idle: 39 kB each, both ways, for a ping every 20 to 24 s."""


def warm_peers(used: Iterable[tuple[PeerId, float]], most: int = MOST_WARM) -> frozenset[PeerId]:
    """The peers to keep, of saved forwards as (peer, when it was used last); the first counts where equal."""
    latest: dict[PeerId, float] = {}
    for peer_id, at in used:
        latest[peer_id] = max(at, latest.get(peer_id, at))
    return frozenset(sorted(latest, key=lambda peer_id: -latest[peer_id])[:most])
