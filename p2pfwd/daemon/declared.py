"""What the tables of a file mean (`daemon.tables`): tunnels, names, access rules and blocks, as values.

Rules: one file serves all machines of an owner, so what names this node itself as the other end is passed
over (`Declared.own`). A key of a tunnel is a term of it (`core.terms`), or one of the few here, so a new
option needs nothing here. Nothing is looked up outside this machine: what a file means does not depend on who
answers. An error names the file, the table's number, the key, what is wrong and what would be right. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from typing import Any, Final, Literal, TypeVar

from p2pfwd.core.byte_rates import parse_rate
from p2pfwd.core.durations import parse_duration
from p2pfwd.core.multiaddrs import Multiaddr, tcp_endpoint
from p2pfwd.core.peer_id import PeerId
from p2pfwd.core.quoting import quoted
from p2pfwd.core.target_check import check_wait, read_check
from p2pfwd.core.terms import ForwardTerms, ListenTerms, terms_from_json, wanted_of
from p2pfwd.core.typed import parse_endpoint, parse_target
from p2pfwd.daemon.access_arguments import ANY, read_allowed, read_blocks
from p2pfwd.daemon.tables import BLOCK, FORWARD, LISTEN, PEER, RULE, Entry
from p2pfwd.errors import InvalidConfig, UsageError
from p2pfwd.forwarding.bind import check_local
from p2pfwd.forwarding.names import PREFIX, check_protocol
from p2pfwd.forwarding.target import Target
from p2pfwd.peers.arguments import Names, read_known_peer
from p2pfwd.peers.named import NamedPeer, read_name
from p2pfwd.policy.access import NO_RULE, Rule
from p2pfwd.policy.blocks import Blocks
from p2pfwd.state.tunnel_file import Key, SavedTunnel
from p2pfwd.system.host_names import FAMILY_OF

_T = TypeVar("_T", ListenTerms, ForwardTerms)

OTHERS: Final = {"any": "any", "none": "listed"}
"""What `others` of a rule says, and `Rule.at_large` for it."""

Own = tuple[Literal["peer", "forward", "block"], str]
"""A table that names this node itself, and the name it has there."""


@dataclass(frozen=True, slots=True)
class Declared:
    """What a file asks for."""

    tunnels: Mapping[Key, SavedTunnel] = field(default_factory=dict)
    names: Mapping[str, NamedPeer] = field(default_factory=dict)
    rules: Mapping[str, Rule] = field(default_factory=dict)
    only: Mapping[str, frozenset[PeerId] | None] = field(default_factory=dict)
    """Whom a listen lets in by its `allow`; None: everybody."""
    blocks: Blocks = field(default_factory=Blocks)
    places: Mapping[Any, Entry] = field(default_factory=dict)
    """Of tunnels by key, of names, of rules and `only` by protocol (`RULE`, protocol)."""
    uses: Mapping[str, Entry] = field(default_factory=dict)
    """The names of `peer add` without which it would be wrong, and a table that uses each."""
    own: tuple[Own, ...] = ()
    """What of it names this node itself, and is not in it for that; each by table and name."""

    @property
    def is_empty(self) -> bool:
        """Whether it has nothing in it."""
        return not (self.tunnels or self.names or self.all_rules() or len(self.blocks))

    def all_rules(self) -> dict[str, Rule]:
        """The rules, and those that `allow` makes."""
        return {**self.rules, **{name: only_rule(peers) for name, peers in self.only.items()}}


_IN_WORDS: Final[Mapping[str, Callable[[str], int]]] = {
    "rate": parse_rate,
    "rate_per_peer": parse_rate,
    "idle_timeout_s": parse_duration,
}
"""Terms that may be a text, too, as the command line takes it."""

_RATE: Final = 'bytes a second as a whole number, or a text as "500k", "2M" or "1MiB/s"'
_RIGHT: Final = {
    "rate": _RATE,
    "rate_per_peer": _RATE,
    "idle_timeout_s": 'seconds as a whole number, or a text as "90s", "30m" or "2h"',
}

Errors = list[tuple[Entry, InvalidConfig]]


def only_rule(peers: frozenset[PeerId] | None, before: Rule = NO_RULE) -> Rule:
    """The rule that `allow` of a listen makes, beside those denied before."""
    if peers is None:
        return replace(before, at_large="any", allowed=frozenset(), ends={})
    return before.only(peers)


def read(entries: Sequence[Entry], names: Names, own_id: PeerId) -> tuple[Declared, Errors]:
    """What is right of them, and each table that is not; a name of the file goes before one of `names`.

    A listen that is wrong is left out; whom it lets in is not: `is_shut`.
    """
    reading = _Reading(names, own_id)
    for table in (PEER, LISTEN, FORWARD, RULE, BLOCK):
        for entry in entries:
            if entry.table == table:
                reading.take(entry)
    return reading.result(), reading.errors


def read_all(entries: Sequence[Entry], names: Names, own_id: PeerId) -> Declared:
    """The same where everything has to be right. Raises InvalidConfig, for the first that is not."""
    declared, errors = read(entries, names, own_id)
    for _, error in errors:
        raise error
    return declared


def is_shut(entry: Entry) -> bool:
    """Whether the name of this table, which is wrong, lets in nobody but whom commands allow."""
    return entry.table == LISTEN and "allow" in entry.values


def without_ended(declared: Declared, now: float) -> tuple[Declared, tuple[str, ...]]:
    """Without the tunnels whose end is over at `now`, unix seconds; and those in words."""
    over = [key for key, it in declared.tunnels.items() if 0 < it.terms.ends_at <= now]
    left = {key: it for key, it in declared.tunnels.items() if key not in over}
    words = (f"{key[0]} {key[1]}: its end, ends_at, is over; it is left out" for key in over)
    return replace(declared, tunnels=left), tuple(words)


class _Reading:
    def __init__(self, names: Names, own_id: PeerId) -> None:
        self.errors: Errors = []
        self._others = names
        self._own_id = own_id
        self._tunnels: dict[Key, SavedTunnel] = {}
        self._names: dict[str, NamedPeer] = {}
        self._rules: dict[str, Rule] = {}
        self._only: dict[str, frozenset[PeerId] | None] = {}
        self._blocks = Blocks()
        self._places: dict[Any, Entry] = {}
        self._uses: dict[str, Entry] = {}
        self._entry: Entry | None = None

    def result(self) -> Declared:
        """A peer, a forward and a block that name this node itself are right on every other machine."""
        own = self._own_id
        names = {name: it for name, it in self._names.items() if it.peer_id != own}
        tunnels = {key: it for key, it in self._tunnels.items() if it.peer != own}
        blocks = Blocks(self._blocks.peers - {own}, self._blocks.networks)
        passed_over: tuple[Own, ...] = (
            *(("peer", name) for name in self._names if name not in names),
            *(("forward", key[1]) for key in self._tunnels if key not in tunnels),
            *(("block", str(own)) for own in self._blocks.peers - blocks.peers),
        )
        return Declared(
            tunnels, names, self._rules, self._only, blocks, self._places, self._uses, passed_over
        )

    def find(self, text: str) -> NamedPeer | None:
        """As `Names.find`."""
        if (own := self._names.get(text.lower())) is not None:
            return own
        found = self._others.find(text)
        if found is not None and self._entry is not None:
            self._uses.setdefault(found.name, self._entry)
        return found

    def take(self, entry: Entry) -> None:
        """Read one table, or remember what is wrong with it."""
        self._entry = entry
        read: Mapping[str, Callable[[Entry], None]] = {
            PEER: self._peer,
            LISTEN: self._listen,
            FORWARD: self._forward,
            RULE: self._rule,
            BLOCK: self._block,
        }
        try:
            read[entry.table](entry)
        except InvalidConfig as exc:
            self.errors.append((entry, exc))
            self._shut(entry)

    def _shut(self, entry: Entry) -> None:
        """A listen that is wrong and says whom it lets in: a saved one of its name lets in nobody more."""
        protocol = entry.values.get("protocol")
        if is_shut(entry) and isinstance(protocol, str) and (RULE, protocol) not in self._places:
            self._only[protocol] = frozenset()
            self._places[RULE, protocol] = entry

    # --- tunnels ----------------------------------------------------------------------------------

    def _listen(self, entry: Entry) -> None:
        _check_keys(entry, ("protocol", "target", "allow"), ListenTerms)
        protocol, text = _text(entry, "protocol", "/x/ssh"), _text(entry, "target", "127.0.0.1:22")
        target, any_loopback = _as(entry, "target", lambda: parse_target(text))
        values = {"any_loopback": any_loopback, **_terms(entry, ListenTerms)}
        terms = _together(entry, ListenTerms, values)
        _as(entry, "target", lambda: Target(target, any_loopback=terms.any_loopback))
        _as(entry, "check", lambda: terms.check and read_check(terms.check))
        _as(entry, "wait_target_s", lambda: check_wait(terms.wait_target_s))
        _protocol(entry, protocol, custom=terms.custom_protocol, serving=True)
        peers: frozenset[PeerId] | None = None
        if "allow" in entry.values:
            allow = _texts(entry, "allow")
            peers = _as(entry, "allow", lambda: read_allowed(allow, self))
        self._place(entry, "protocol", SavedTunnel(LISTEN, protocol, target, terms))
        if "allow" in entry.values:
            self._only[protocol] = peers
            self._places[RULE, protocol] = entry

    def _forward(self, entry: Entry) -> None:
        _check_keys(entry, ("protocol", "listen", "peer"), ForwardTerms)
        protocol, text = _text(entry, "protocol", "/x/ssh"), _text(entry, "listen", "127.0.0.1:2222")
        listen = _as(entry, "listen", lambda: _fixed(parse_endpoint(text)))
        terms = _together(entry, ForwardTerms, _terms(entry, ForwardTerms))
        _protocol(entry, protocol, custom=terms.custom_protocol, serving=False)
        peer, addrs = self._whom(entry)
        self._place(entry, "listen", SavedTunnel(FORWARD, protocol, listen, terms, peer, addrs))

    def _place(self, entry: Entry, key: str, tunnel: SavedTunnel) -> None:
        other = self._places.get(tunnel.key)
        if other is not None:
            raise entry.wrong(
                key, f"{quoted(tunnel.key[1])} has a table already, {_short(other)}", "keep one"
            )
        self._tunnels[tunnel.key] = tunnel
        self._places[tunnel.key] = entry

    # --- names and rules --------------------------------------------------------------------------

    def _peer(self, entry: Entry) -> None:
        _check_keys(entry, ("name", "peer", "keep"))
        text = _text(entry, "name", "laptop")
        name = _as(entry, "name", lambda: read_name(text))
        keep = entry.values.get("keep", False)
        if not isinstance(keep, bool):
            raise entry.wrong("keep", f"{keep!r} is neither true nor false", "true or false")
        peer, addrs = self._whom(entry)
        for other in self._names.values():
            if name == other.name or peer == other.peer_id:
                what = f"the name {name}" if name == other.name else f"the peer {peer}"
                raise entry.wrong(
                    "name", f"{what} has a table already, {_short(self._places[other.name])}", "keep one"
                )
        self._names[name] = NamedPeer(name, peer, addrs, keep)
        self._places[name] = entry

    def _whom(self, entry: Entry) -> tuple[PeerId, tuple[Multiaddr, ...]]:
        found = entry.values.get("peer")
        example = '"12D3KooW…", or a list of addresses'
        texts = [found] if isinstance(found, str) else _texts(entry, "peer", example)
        names: Names = _NoNames() if entry.table == PEER else self
        whom: tuple[PeerId, tuple[Multiaddr, ...]]
        whom = _as(entry, "peer", lambda: read_known_peer(texts, names))
        return whom

    def _rule(self, entry: Entry) -> None:
        _check_keys(entry, ("protocol", "allow", "deny", "others", "tell", "tell_any"))
        protocol = _text(entry, "protocol", "/x/ssh")
        _protocol(entry, protocol, custom=True, serving=True)
        others = entry.values.get("others")
        if others is not None and (not isinstance(others, str) or others not in OTHERS):
            right = '"any" or "none"; without it, access.default says whom'
            raise entry.wrong("others", f"{quoted(str(others))} is neither any nor none", right)
        allowed, denied = self._listed(entry, "allow"), self._listed(entry, "deny")
        if both := allowed & denied:
            raise entry.wrong("deny", f"{next(iter(both))} is allowed, too", "list a peer once")
        if (other := self._places.get((RULE, protocol))) is not None:
            raise entry.wrong(
                "protocol", f"whom {quoted(protocol)} lets in is said already, {_short(other)}", "keep one"
            )
        at_large: Any = None if others is None else OTHERS[others]
        tells_any = entry.values.get("tell_any", False)
        if not isinstance(tells_any, bool):
            raise entry.wrong("tell_any", f"{tells_any!r} is neither true nor false", "true or false")
        told = self._listed(entry, "tell")
        self._rules[protocol] = Rule(at_large, allowed, denied, told=told, tells_any=tells_any)
        self._places[RULE, protocol] = entry

    def _listed(self, entry: Entry, key: str) -> frozenset[PeerId]:
        texts = _texts(entry, key) if key in entry.values else []
        found: frozenset[PeerId] | None = _as(entry, key, lambda: read_allowed(texts, self))
        if found is None:
            right = "tell_any = true tells everybody" if key == "tell" else 'others = "any" lets in everybody'
            raise entry.wrong(key, f"{ANY} is no peer", right)
        return found

    def _block(self, entry: Entry) -> None:
        _check_keys(entry, ("whom",))
        texts = _texts(entry, "whom")
        peers, networks = _as(entry, "whom", lambda: read_blocks(texts, self))
        self._blocks = Blocks(self._blocks.peers | peers, self._blocks.networks | networks)


class _NoNames:
    """A peer's name is not given by another name."""

    def find(self, text: str) -> NamedPeer | None:
        """Nobody."""


def _check_keys(entry: Entry, keys: Sequence[str], kind: type[Any] | None = None) -> None:
    known = [*keys, *(it.name for it in fields(kind))] if kind is not None else list(keys)
    for key in entry.values:
        if key not in known:
            from difflib import get_close_matches

            near = get_close_matches(key, known, 1)
            right = f"did you mean {near[0]}?" if near else f"its keys are {', '.join(known)}"
            raise entry.wrong(key, "there is no such key", right)


def _terms(entry: Entry, kind: type[Any]) -> dict[str, Any]:
    """The keys that are terms, each checked by itself."""
    found = {}
    for term in fields(kind):
        if term.name not in entry.values:
            continue
        value = entry.values[term.name]
        if term.name in _IN_WORDS and isinstance(value, str):
            value = _read_words(entry, term.name, value)
        if term.name == "ends_at" and isinstance(value, datetime) and value.tzinfo is not None:
            value = value.timestamp()
        try:
            terms_from_json(kind, {term.name: value})
        except ValueError as exc:
            is_number = type(value) in (type(term.default), int) and isinstance(term.default, int | float)
            what = f"{_shown(value)} does not fit" + (f": {exc}" if is_number else "")
            raise entry.wrong(term.name, what, _RIGHT.get(term.name, wanted_of(kind, term.name))) from None
        found[term.name] = value
    return found


def _read_words(entry: Entry, key: str, text: str) -> int:
    try:
        return _IN_WORDS[key](text)
    except ValueError as exc:
        raise entry.wrong(key, str(exc), _RIGHT[key]) from None


def _shown(value: object) -> str:
    """As it is written in the file."""
    if isinstance(value, bool):
        return str(value).lower()
    return quoted(value) if isinstance(value, str) else str(value)


def _together(entry: Entry, kind: type[_T], values: Mapping[str, Any]) -> _T:
    """The terms of these values, which are right each by itself."""
    try:
        return terms_from_json(kind, values)
    except ValueError as exc:
        raise entry.wrong(None, str(exc), "leave one of its keys out") from None


def _text(entry: Entry, key: str, example: str) -> str:
    value = entry.values.get(key)
    if isinstance(value, str) and value:
        return value
    what = "it is missing" if value is None else f"{value!r} is no text"
    raise entry.wrong(key, what, f'write {key} = "{example}"')


def _texts(entry: Entry, key: str, example: str = '["…", "…"]') -> list[str]:
    value = entry.values.get(key)
    if isinstance(value, list) and all(isinstance(it, str) for it in value):
        return value
    what = "it is missing" if value is None else f"{value!r} is no list of texts"
    raise entry.wrong(key, what, f"write {key} = {example}")


def _protocol(entry: Entry, name: str, *, custom: bool, serving: bool) -> None:
    if not custom and not name.startswith(PREFIX):
        right = "a name like /x/ssh, or custom_protocol = true for another namespace"
        raise entry.wrong("protocol", f"{quoted(name)} is not within {PREFIX}", right)
    _as(entry, "protocol", lambda: check_protocol(name, allow_custom=custom, serving=serving))


def _fixed(address: Multiaddr) -> Multiaddr:
    """A local address that is the same whenever the file is read."""
    check_local(address)
    endpoint = tcp_endpoint(address)
    if endpoint is not None and endpoint.port == 0:
        raise UsageError("port 0 is another port at each start", hint="a port of its own, as 127.0.0.1:2222")
    if endpoint is not None and endpoint.family in FAMILY_OF:
        raise UsageError(f"{endpoint.host} is a name", hint="an IP address, as 127.0.0.1:2222")
    return address


def _as(entry: Entry, key: str, work: Callable[[], Any]) -> Any:
    """What `work` gives; what it finds wrong is an error of this key."""
    try:
        return work()
    except UsageError as exc:
        raise entry.wrong(key, exc.message, exc.hint) from exc


def _short(entry: Entry) -> str:
    return f"[[{entry.table}]] {entry.number}" + ("" if entry.line is None else f" in line {entry.line}")
