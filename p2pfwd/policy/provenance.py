"""Who said where a peer is, and how well the peer itself is known: what counts more than what.

Rules: both are ordered, and nobody is lowered by what a stranger says. What is forgotten first
when there is no room: the least.
"""

from __future__ import annotations

from enum import IntEnum


class Standing(IntEnum):
    """How well a peer is known; it only rises. A stranger can make himself MET, by connecting."""

    HEARD_OF = 0
    """Others spoke of it."""
    MET = 1
    """It was connected."""
    REACHED = 2
    """A connection of ours found it."""
    SERVED = 3
    """It used a listen of ours. Whoever knows the name of one can do that, so these are few and count late."""
    OWN = 4
    """The owner gave an address of it, or forwarded to it."""
