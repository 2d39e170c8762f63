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
    ends: Mapping[PeerId | None, float] = field(default_factory=dict)
    """Of those allowed until some time, unix seconds; None: that it lets in any peer."""
    told: frozenset[PeerId] = frozenset()
    """Who is told that it is denied: those the owner named for it, and those that were allowed once."""
    tells_any: bool = False
    """Everybody is told."""

    @property
    def size(self) -> int:
        """Peers that it lists, each counted once: whom it denies instead of allowing is no more."""
        return len(self.allowed | self.denied | self.told)

    def allow(self, peers: Collection[PeerId], ends_at: float = 0.0) -> Rule:
        """With these let in, for good or until then."""
        ends = self._ends_without(peers) | (dict.fromkeys(peers, ends_at) if ends_at else {})
        allowed, denied = self.allowed.union(peers), self.denied.difference(peers)
        return replace(self, allowed=allowed, denied=denied, ends=ends)

    def deny(self, peers: Collection[PeerId]) -> Rule:
        """With these kept out, whoever else is let in; who was allowed by its ID is told so from now on."""
        return replace(
            self,
            allowed=self.allowed.difference(peers),
            denied=self.denied.union(peers),
            ends=self._ends_without(peers),
            told=self.told.union(self.allowed.intersection(peers)),
        )

    def only(self, peers: Collection[PeerId]) -> Rule:
        """With these let in, and nobody else."""
        return replace(
            self,
            at_large="listed",
            allowed=frozenset(peers),
            denied=self.denied.difference(peers),
            ends={},
            told=self.told.union(self.allowed.difference(peers)),
        )

    def let_in(self, at_large: AtLarge, ends_at: float = 0.0) -> Rule:
        """With these let in beside those it lists; any peer perhaps until some time only."""
        ends = self._ends_without((None,)) | ({None: ends_at} if ends_at else {})
        return replace(self, at_large=at_large, ends=ends)

    def tell(self, peers: Collection[PeerId] | None) -> Rule:
        """With these told when they are denied; None: everybody."""
        return replace(self, tells_any=True) if peers is None else replace(self, told=self.told.union(peers))

    def _ends_without(self, whom: Collection[PeerId | None]) -> dict[PeerId | None, float]:
        return {one: end for one, end in self.ends.items() if one not in whom}

    @property
    def lasting(self) -> Rule:
        """Without those that are let in until some time only."""
        at_large: AtLarge | None = "listed" if None in self.ends else self.at_large
        return replace(self, at_large=at_large, allowed=self.allowed - self.ends.keys(), ends={})

    def ended(self, now: float) -> Rule:
        """Without those whose time is over, who are told so; after any peer those listed are let in."""
        over = {one for one, end in self.ends.items() if end <= now}
        if not over:
            return self
        at_large: AtLarge | None = "listed" if None in over else self.at_large
        return replace(
            self,
            at_large=at_large,
            allowed=self.allowed - over,
            ends=self._ends_without(over),
            told=self.told.union(self.allowed & over),
        )

    def keeping_ends(self, before: Rule) -> Rule:
        """With whom `before` lets in until some time, but those this one denies, or lets in for good."""
        rule = self
        for whom, end in before.ends.items():
            if whom is None:
                rule = rule.let_in("any", end) if rule.at_large == "listed" else rule
            elif whom not in rule.denied | rule.allowed:
                rule = rule.allow({whom}, end)
        return rule


NO_RULE = Rule()


def joined(declared: Rule, typed: Rule) -> Rule:
    """Of config.toml's rule and the one that commands made, for one name: whom either keeps out is out."""
    at_large = declared.at_large if typed.at_large is None else typed.at_large
    if "listed" in (declared.at_large, typed.at_large):
        at_large = "listed"
    denied = declared.denied | typed.denied
    return Rule(
        at_large,
        (declared.allowed | typed.allowed) - denied,
        denied,
        # What config.toml gives lasts; an end of any peer is the commands' word, while theirs is any peer.
        {
            whom: end
            for whom, end in typed.ends.items()
            if (
                at_large == "any" != declared.at_large
                if whom is None
                else whom not in declared.allowed | denied
            )
        },
        declared.told | typed.told,
        declared.tells_any or typed.tells_any,
    )


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

    def tells(self, peer: PeerId, protocol: str) -> bool:
        """Whether this peer is denied the name, and told so."""
        rule = self.rules.get(protocol, NO_RULE)
        return (rule.tells_any or peer in rule.told) and not self.admits(peer, protocol)

    def lists(self, peer: PeerId) -> bool:
        """Whether a rule of any name lets this peer in by its ID."""
        return any(peer in rule.allowed for rule in self.rules.values())

    def is_denied(self, peer: PeerId, protocol: str) -> bool:
        """Whether the owner has kept this peer out by its ID."""
        return peer in self.rules.get(protocol, NO_RULE).denied
