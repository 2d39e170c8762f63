"""From one set of tunnels, names and rules to another: what differs, and what holds on the way. Pure.

Rule: at no moment, and after no crash, is a listen open to more than the state before or the one after
allows. So on the way a rule that differs lets in only whom both let in at large or list, and a name that
means another peer is nobody's. (`daemon.applying` writes first what holds on the way, then the tunnels, then
the rest.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from p2pfwd.core.peer_id import PeerId
from p2pfwd.policy.access import NO_RULE, AtLarge, Rule

K = TypeVar("K")
V = TypeVar("V")


class Named(Protocol):
    """What has a name: a peer."""

    @property
    def peer_id(self) -> PeerId:
        """Who it is, wherever it is."""


N = TypeVar("N", bound=Named)


@dataclass(frozen=True, slots=True)
class Difference(Generic[K]):
    """Keys, each in the order of the state that has it; changed and unchanged ones in that after."""

    removed: tuple[K, ...] = ()
    changed: tuple[K, ...] = ()
    added: tuple[K, ...] = ()
    unchanged: tuple[K, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.removed or self.changed or self.added)


def difference(
    before: Mapping[K, V],
    after: Mapping[K, V],
    *,
    prune: bool,
    is_same: Callable[[V, V], bool] = lambda one, other: one == other,
) -> Difference[K]:
    """What is to be done for what `after` asks; what it does not name goes only with `prune`.

    `is_same`: of a value before and one after.
    """
    both = [key for key in after if key in before]
    return Difference(
        removed=tuple(key for key in before if key not in after) if prune else (),
        changed=tuple(key for key in both if not is_same(before[key], after[key])),
        added=tuple(key for key in after if key not in before),
        unchanged=tuple(key for key in both if is_same(before[key], after[key])),
    )


def outcome(before: Mapping[K, V], after: Mapping[K, V], found: Difference[K]) -> dict[K, V]:
    """The state in which `before` ends by that difference."""
    kept = {key: value for key, value in before.items() if key not in found.removed}
    return kept | {key: after[key] for key in (*found.changed, *found.added)}


def rules_on_the_way(before: Mapping[str, Rule], after: Mapping[str, Rule]) -> dict[str, Rule]:
    """Rules under which nobody uses a name whom not both states let in."""
    found: dict[str, Rule] = {}
    for protocol in {**before, **after}:
        old, new = before.get(protocol, NO_RULE), after.get(protocol, NO_RULE)
        if old == new:
            found[protocol] = old
            continue
        at_large: AtLarge = "any" if old.lasting.at_large == new.lasting.at_large == "any" else "listed"
        found[protocol] = Rule(
            at_large,
            old.lasting.allowed & new.lasting.allowed,
            old.denied | new.denied,
            told=old.told & new.told,
            tells_any=old.tells_any and new.tells_any,
        )
    return found


def names_on_the_way(before: Mapping[str, N], after: Mapping[str, N]) -> dict[str, N]:
    """The names that mean the same peer in both states, wherever it is: killed now, they would stay so."""
    both = ((name, value) for name, value in before.items() if name in after)
    return {name: value for name, value in both if after[name].peer_id == value.peer_id}
