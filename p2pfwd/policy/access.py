"""Who may use a listen: rules by protocol name, as values. Pure.

Rules: what is said of a peer by its ID comes first, and a denial before all; then whom the rule of the name
lets in at large; where that says nothing, or there is no rule, the node's default.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from p2pfwd.core.peer_id import PeerId

AtLarge = Literal["any", "listed"]
"""Whom a rule lets in beside those it lists: any peer, or nobody."""

Default = Literal["any", "named", "none"]
"""Whom a node lets in where no rule says so: any peer, those with a name, nobody."""

LetsIn = Literal["any", "named", "listed"]
"""Whom a name lets in at large, all told; `listed`: only those it lists."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What the owner said of one protocol name."""

    at_large: AtLarge | None = None
    """None: as the node's default."""
    allowed: frozenset[PeerId] = frozenset()
    denied: frozenset[PeerId] = frozenset()

    @property
    def size(self) -> int:
        """Peers that it lists."""
        return len(self.allowed) + len(self.denied)

    def allow(self, peers: Collection[PeerId]) -> Rule:
        """With these let in."""
        return replace(self, allowed=self.allowed.union(peers), denied=self.denied.difference(peers))

    def deny(self, peers: Collection[PeerId]) -> Rule:
        """With these kept out, whoever else is let in."""
        return replace(self, allowed=self.allowed.difference(peers), denied=self.denied.union(peers))


NO_RULE = Rule()


def joined(declared: Rule, typed: Rule) -> Rule:
    """Of config.toml's rule and the one that commands made, for one name: whom either keeps out is out."""
    at_large = declared.at_large if typed.at_large is None else typed.at_large
    if "listed" in (declared.at_large, typed.at_large):
        at_large = "listed"
    return Rule(at_large, declared.allowed | typed.allowed, declared.denied | typed.denied)


@dataclass(frozen=True, slots=True)
class Access:
    """All of one node."""

    default: Default = "any"
    rules: Mapping[str, Rule] = field(default_factory=dict)
    named: Collection[PeerId] = frozenset()
    """Peers that have a name here."""

    def admits(self, peer: PeerId, protocol: str) -> bool:
        """Whether this peer may use the listen of this name."""
        rule = self.rules.get(protocol)
        if rule is None:
            return self.default == "any" or self._by_default(peer)
        if peer in rule.denied:
            return False
        if peer in rule.allowed:
            return True
        return self._by_default(peer) if rule.at_large is None else rule.at_large == "any"

    def _by_default(self, peer: PeerId) -> bool:
        return self.default == "any" or (self.default == "named" and peer in self.named)

    def lets_in(self, protocol: str) -> LetsIn:
        """Whom the name lets in at large."""
        at_large = self.rules.get(protocol, NO_RULE).at_large
        if at_large is not None:
            return at_large
        return "listed" if self.default == "none" else self.default

    def is_denied(self, peer: PeerId, protocol: str) -> bool:
        """Whether the owner has kept this peer out by its ID."""
        return peer in self.rules.get(protocol, NO_RULE).denied
