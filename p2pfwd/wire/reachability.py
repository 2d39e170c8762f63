"""Whether strangers can reach this node: a verdict from several servers' dial-backs, as go-libp2p forms it.

The first answer counts at once. A verdict grows surer with each answer that agrees, up to `SURE`, and has to
lose that again before the other one takes its place: one server with a bad line changes nothing.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

SURE: Final = 3
"""Agreeing answers after which a verdict is as sure as it gets."""


class Reachability(Enum):
    """What is known."""

    UNKNOWN = "unknown"
    PUBLIC = "public"
    PRIVATE = "private"


class Verdict:
    """The answers so far."""

    def __init__(self) -> None:
        self.reachability = Reachability.UNKNOWN
        self._confidence = 0

    @property
    def is_sure(self) -> bool:
        """Whether enough answers agreed."""
        return self._confidence >= SURE

    def add(self, reachable: bool) -> bool:
        """One more answer; whether the verdict changed."""
        said = Reachability.PUBLIC if reachable else Reachability.PRIVATE
        if said is self.reachability:
            self._confidence = min(self._confidence + 1, SURE)
            return False
        if self._confidence:
            self._confidence -= 1
            return False
        self.reachability = said
        return True

    def doubt(self) -> None:
        """What it rested on is gone: the next answer counts at once."""
        self._confidence = 0

    def forget(self) -> bool:
        """The network changed: nothing is known; whether anything was."""
        known = self.reachability is not Reachability.UNKNOWN
        self.reachability, self._confidence = Reachability.UNKNOWN, 0
        return known
