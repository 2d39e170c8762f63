"""The limits of a node, cut to the descriptors that this machine allows it.

Every connection and every tunnel has one, so limits that promise more end in failures that nobody
understands: a stranger's thousand tunnels would leave none for the owner's commands. What is cut is said
once, at the start.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Final

from p2pfwd.daemon.settings import Settings
from p2pfwd.system.descriptors import CURE

log = logging.getLogger("p2pfwd.daemon")

RESERVE: Final = 96
"""For what is no tunnel and no peer's: commands' connections, listening sockets, the address book, the log,
name look-ups, the event loop."""

TURNED_AWAY_PART: Final = 16
"""One in so many of the rest may be a connection that is turned away."""

LEGS_PART: Final = 32
"""One in so many of the rest, and its other end, may be a leg of a circuit that this node relays."""

CONNECTIONS_PART: Final = 4
"""One in so many of the rest may be a connection with a peer; each carries many tunnels."""


def allot(settings: Settings, descriptors: int) -> Settings:
    """The same settings, or less of what needs descriptors."""
    free = max(16, descriptors - RESERVE)
    connections = min(settings.max_connections, free // CONNECTIONS_PART)
    pending = min(settings.max_pending_inbound, max(4, free // 16))
    turned_away = min(settings.max_turned_away, max(1, free // TURNED_AWAY_PART))
    legs = min(settings.relay_legs, free // LEGS_PART)
    streams = min(settings.max_streams, free - connections - pending - turned_away - 2 * legs)
    cut = replace(
        settings,
        max_connections=connections,
        max_pending_inbound=pending,
        max_turned_away=turned_away,
        max_streams=streams,
        relay_legs=legs,
        # Shares of one listen are parts of these: of a limit that cannot be met nobody has a share.
        max_streams_per_listener=min(settings.max_streams_per_listener, streams),
        max_streams_per_peer=min(settings.max_streams_per_peer, streams),
        high_water=min(settings.high_water, connections),
        low_water=min(settings.low_water, connections),
    )
    for key, was, now in (
        ("limits.connections", settings.max_connections, connections),
        ("limits.streams", settings.max_streams, streams),
    ):
        if now < was:
            log.warning(
                "%s is %d, not %d: this machine allows %d open files; %s", key, now, was, descriptors, CURE
            )
    return cut
