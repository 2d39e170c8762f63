"""Who said where a peer is, and how well the peer itself is known: what counts more than what.

Rules:
- Both are ordered. What a stranger says lowers, hides, cuts and evicts nothing that is better founded.
- Where there is no room the least goes first, in memory and in the address book's file alike: peers by their
  standing, addresses by their provenance; among equals the one heard of longest ago.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Final


class Provenance(IntEnum):
    """How it is known that a peer is at an address; the best is the smallest."""

    GIVEN = 0
    """The owner said so: in a command, by a name, in the settings."""
    PROVED = 1
    """A connection of ours to the address found the peer. That it came from there proves nothing."""
    ITSELF = 2
    """The peer told it over a connection that proves who speaks."""
    SIGNED = 3
    """The peer signed it; somebody else brought it, nobody knows how late."""
    HEARSAY = 4
    """Others told it: the DHT, whoever speaks on the local network."""

    @property
    def text(self) -> str:
        """As it is written in files."""
        return self.name.lower()

    @classmethod
    def from_text(cls, text: str) -> Provenance:
        """The provenance that `text` names; HEARSAY for what is unknown. Two names are older ones."""
        return _BY_TEXT.get(text, cls.HEARSAY)


_BY_TEXT: Final = {provenance.text: provenance for provenance in Provenance} | {
    "connected": Provenance.PROVED,
    "identify": Provenance.ITSELF,
}


class Standing(IntEnum):
    """How well a peer is known; it rises, and falls only where the owner takes his word back. A stranger can
    make itself MET, by connecting."""

    HEARD_OF = 0
    """Others spoke of it."""
    MET = 1
    """It was connected."""
    REACHED = 2
    """A connection of ours found it."""
    SERVED = 3
    """It used a listen of ours. Whoever knows the name of one can do that: these are few and count late."""
    OWN = 4
    """The owner gave an address of it, or forwarded to it."""


SHARE: Final = 0.25
"""Part of the table that each standing is sure of: peers that were met, a thousand of one flood perhaps, must
leave room for those a look-up is just hearing of."""


def to_forget(counts: Mapping[Standing, int], room: int) -> Standing | None:
    """Of which standing the next peer is forgotten; `counts` of those that may be. None: nobody may."""
    present = [standing for standing in sorted(counts) if counts[standing]]
    beyond_share = (standing for standing in present if counts[standing] > room * SHARE)
    return next(beyond_share, present[0] if present else None)
