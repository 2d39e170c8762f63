"""What is to be changed so that a node is as a file says, checked and in words, before it is done. Pure.

Rules: what config.toml declares is changed there alone: another file may say the same, and --prune leaves it.
A file that cannot be carried out whole is refused whole.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, TypeVar

from p2pfwd.core.durations import utc_text
from p2pfwd.core.terms import terms_to_json
from p2pfwd.daemon.declared import Declared, only_rule
from p2pfwd.daemon.kept import knowing
from p2pfwd.daemon.tables import RULE, Entry
from p2pfwd.errors import ResourceLimitExceeded
from p2pfwd.peers.access_rules import AccessTable, check_bounds
from p2pfwd.peers.named import MAX_NAMED, NamedPeer
from p2pfwd.policy.access import NO_RULE, Rule
from p2pfwd.policy.blocks import Blocks
from p2pfwd.policy.setup_changes import Difference, difference, outcome
from p2pfwd.rpc.setup_values import SetupChange
from p2pfwd.state.tunnel_file import MAX_SAVED, Key, SavedTunnel

K = TypeVar("K")
Kind = Literal["listen", "forward", "peer", "rule", "block"]


@dataclass(frozen=True, slots=True)
class State:
    """What there is."""

    tunnels: Mapping[Key, SavedTunnel] = field(default_factory=dict)
    names: Mapping[str, NamedPeer] = field(default_factory=dict)
    rules: Mapping[str, Rule] = field(default_factory=dict)
    blocks: Blocks = field(default_factory=Blocks)

    @classmethod
    def of(cls, declared: Declared) -> State:
        """What a file asks for, as what there is."""
        return cls(declared.tunnels, declared.names, declared.all_rules(), declared.blocks)


@dataclass(frozen=True, slots=True)
class Plan:
    """The changes from `before` to `after`."""

    before: State
    after: State
    """All of it, with what the file does not name."""
    tunnels: Difference[Key]
    names: Difference[str]
    rules: Difference[str]
    blocks: Difference[str]
    notes: tuple[str, ...] = ()

    @property
    def unchanged(self) -> int:
        """How many things of the file are as they are."""
        parts = (self.tunnels, self.names, self.rules, self.blocks)
        return sum(len(part.unchanged) for part in parts)

    def changes(self) -> tuple[SetupChange, ...]:
        """In words: what goes, what changes, what comes, in the order of the tables."""
        before, after = self.before, self.after
        return (
            *_told(lambda _: "peer", self.names, before.names, after.names, _peer),
            *_told(lambda key: key[0], self.tunnels, before.tunnels, after.tunnels, _tunnel),
            *_told(lambda _: "rule", self.rules, before.rules, after.rules, _rule),
            *_told(lambda _: "block", self.blocks, _texts(before.blocks), _texts(after.blocks), lambda _: []),
        )


def plan(before: State, wanted: Declared, *, prune: bool, fixed: Declared | None = None) -> Plan:
    """What takes `before` to what the file says; `fixed` is what config.toml declares.

    Raises InvalidConfig, ResourceLimitExceeded.
    """
    fixed = Declared() if fixed is None else fixed
    rules = {**wanted.rules}
    for protocol, peers in wanted.only.items():
        rules[protocol] = only_rule(peers, before.rules.get(protocol, NO_RULE))
    notes: list[str] = []

    def kept(
        what: str, found: Difference[K], of_config: Collection[Any], place: Callable[[K], Any]
    ) -> Difference[K]:
        for key in found.changed:
            if key in of_config:
                where = fixed.places.get(place(key))
                raise _place(wanted, place(key)).wrong(
                    None,
                    "config.toml declares it otherwise" + ("" if where is None else f", {where.where}"),
                    "change it there, then p2pfwd reload",
                )
        stay = [key for key in found.removed if key in of_config]
        notes.extend(f"{what}{_named(key)} stays: config.toml declares it" for key in stay)
        gone = tuple(key for key in found.removed if key not in stay)
        return Difference(gone, found.changed, found.added, found.unchanged)

    tunnels = difference(before.tunnels, wanted.tunnels, prune=prune, is_same=_is_same_tunnel)
    names = difference(before.names, wanted.names, prune=prune, is_same=_is_same_name)
    of_rules = difference(before.rules, rules, prune=prune)
    blocks = difference(_texts(before.blocks), _texts(wanted.blocks), prune=prune)
    tunnels = kept("", tunnels, fixed.tunnels, lambda key: key)
    names = kept("peer ", names, fixed.names, lambda key: key)
    in_use = [name for name in names.removed if name in fixed.uses]
    notes.extend(f"peer {name} stays: {fixed.uses[name].where} uses it" for name in in_use)
    names = replace(names, removed=tuple(name for name in names.removed if name not in in_use))
    of_rules = kept("rule ", of_rules, fixed.all_rules(), lambda key: (RULE, key))
    blocks = kept("block ", blocks, _texts(fixed.blocks), lambda key: key)
    after_blocks = outcome(_texts(before.blocks), _texts(wanted.blocks), blocks)
    after = State(
        outcome(before.tunnels, _knowing(before.tunnels, wanted.tunnels), tunnels),
        outcome(before.names, wanted.names, names),
        outcome(before.rules, rules, of_rules),
        _blocks(after_blocks.values()),
    )
    _check(after, names, wanted)
    return Plan(before, after, tunnels, names, of_rules, blocks, tuple(notes))


def _check(after: State, names: Difference[str], wanted: Declared) -> None:
    """Raises InvalidConfig, ResourceLimitExceeded for a state that cannot be."""
    by_id = {it.peer_id: name for name, it in after.names.items()}
    for name in (*names.changed, *names.added):
        for other, it in after.names.items():
            if other != name and it.peer_id == after.names[name].peer_id:
                raise _place(wanted, name).wrong(
                    "name", f"its peer has the name {other}", f"p2pfwd peer rm {other} first, or --prune"
                )
    if len(by_id) > MAX_NAMED:
        raise ResourceLimitExceeded(
            f"with that file there are {len(by_id)} named peers, where {MAX_NAMED} is the limit",
            hint="take some out of the file, or p2pfwd peer rm",
        )
    if len(after.tunnels) > MAX_SAVED:
        raise ResourceLimitExceeded(
            f"with that file there are {len(after.tunnels)} tunnels, where {MAX_SAVED} is the limit",
            hint="take some out of the file, or p2pfwd close",
        )
    check_bounds(AccessTable(after.rules, after.blocks))


def _knowing(
    before: Mapping[Key, SavedTunnel], wanted: Mapping[Key, SavedTunnel]
) -> dict[Key, SavedTunnel]:
    """With the addresses that were known before of the same peer: none is forgotten."""
    found = dict(wanted)
    for key, tunnel in wanted.items():
        old = before.get(key)
        if old is not None and old.peer == tunnel.peer:
            found[key] = knowing(replace(tunnel, peer_addrs=old.peer_addrs), tunnel.peer_addrs)
    return found


def _place(wanted: Declared, key: Any) -> Entry:
    return wanted.places[key]


def _named(key: Any) -> str:
    return f"{key[0]} {key[1]}" if isinstance(key, tuple) else str(key)


def _is_same_tunnel(before: SavedTunnel, after: SavedTunnel) -> bool:
    """The order of addresses says nothing, and more of them than the file names is no difference."""
    one = (before.protocol, before.address, before.terms, before.peer)
    other = (after.protocol, after.address, after.terms, after.peer)
    return one == other and set(after.peer_addrs) <= set(before.peer_addrs)


def _is_same_name(before: NamedPeer, after: NamedPeer) -> bool:
    same = (before.peer_id, before.keep) == (after.peer_id, after.keep)
    return same and set(before.addrs) == set(after.addrs)


def _texts(blocks: Blocks) -> dict[str, Any]:
    peers = {str(peer): peer for peer in sorted(blocks.peers, key=str)}
    return peers | {str(net): net for net in sorted(blocks.networks, key=str)}


def _blocks(whom: Collection[Any]) -> Blocks:
    return Blocks(
        (it for it in whom if not hasattr(it, "prefixlen")), (it for it in whom if hasattr(it, "prefixlen"))
    )


# --- in words -------------------------------------------------------------------------------------


def told(changes: Collection[SetupChange]) -> list[str]:
    """Each in a few words."""
    return [f"{it.kind} {it.name} {it.action}" for it in changes]


ITSELF: Final = "this node itself"


def skipped(wanted: Declared) -> tuple[SetupChange, ...]:
    """What of a file is passed over, because it names this node itself."""
    return tuple(SetupChange("skipped", kind, name, ITSELF) for kind, name in wanted.own)


_MANY: Final = frozenset(("allow", "deny", "tell", "address"))
"""Words of which one thing may have several."""


def _told(
    kind: Callable[[Any], Kind],
    found: Difference[Any],
    before: Mapping[Any, Any],
    after: Mapping[Any, Any],
    words: Callable[[Any], list[str]],
) -> Sequence[SetupChange]:
    """`words`: of one value; of a changed one those are told that are new."""

    def name(key: Any) -> str:
        return str(key[1] if isinstance(key, tuple) else key)

    told = [SetupChange("removed", kind(it), name(it), "; ".join(words(before[it]))) for it in found.removed]
    for it in found.changed:
        old, new = words(before[it]), words(after[it])
        lines = [word for word in new if word not in old]
        firsts = {word.partition(" ")[0] for word in new} - _MANY
        lines += [f"no more {word}" for word in old if word not in new and word.split(" ")[0] not in firsts]
        told.append(SetupChange("changed", kind(it), name(it), "; ".join(lines)))
    told += [SetupChange("added", kind(it), name(it), "; ".join(words(after[it]))) for it in found.added]
    return told


def _tunnel(tunnel: SavedTunnel) -> list[str]:
    words = [f"target {tunnel.address}"]
    if tunnel.peer is not None:
        words = [f"protocol {tunnel.protocol}", f"peer {tunnel.peer}"]
        words += [f"address {addr}" for addr in sorted(map(str, tunnel.peer_addrs))]
    terms = terms_to_json(tunnel.terms)
    if tunnel.terms.ends_at:
        terms["ends_at"] = utc_text(tunnel.terms.ends_at)
    return words + [f"{name} {_value(value)}" for name, value in terms.items()]


def _value(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _peer(named: NamedPeer) -> list[str]:
    words = [f"peer {named.peer_id}", *(f"address {addr}" for addr in sorted(map(str, named.addrs)))]
    return [*words, "kept connected"] if named.keep else words


def _rule(rule: Rule) -> list[str]:
    others = {"any": "others any", "listed": "others none", None: "others by access.default"}
    words = [f"allow {peer}" for peer in sorted(map(str, rule.allowed))]
    words += [f"deny {peer}" for peer in sorted(map(str, rule.denied))]
    words += [f"tell {peer}" for peer in sorted(map(str, rule.told))]
    words += ["tell everybody"] if rule.tells_any else []
    return [*words, others[rule.at_large]]
