"""Tunnels, names and rules as the TOML that `daemon.declared` reads: the text of `p2pfwd export`. Pure.

Rules: the same state gives the same text, whatever order it came in. What has its default is left out. No
secret is in it: tunnels, names and rules have none. Nor is a right that ends by itself: it would last.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final

from p2pfwd.core.durations import utc_text
from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.core.terms import terms_to_json
from p2pfwd.daemon.declared import OTHERS
from p2pfwd.daemon.tables import BLOCK, FORWARD, LISTEN, PEER, RULE
from p2pfwd.peers.named import NamedPeer
from p2pfwd.policy.access import Rule
from p2pfwd.policy.blocks import Blocks
from p2pfwd.state.tunnel_file import SavedTunnel

HEAD: Final = (
    "# Tunnels, names and access rules of one node: for `p2pfwd apply FILE`, or for its config.toml,",
    "# where they are declared. p2pfwd-daemon(8) has every key.",
)

_TITLES: Final = {
    PEER: "Names of peers, as `p2pfwd peer add` gives them.",
    LISTEN: "Local services that are offered.",
    FORWARD: "Local addresses that lead to services of peers.",
    RULE: "Who may use which listen. Where there is no rule, access.default says it.",
    BLOCK: "Peers and networks that are not spoken with.",
}


def written(
    tunnels: Collection[SavedTunnel],
    names: Collection[NamedPeer],
    rules: Mapping[str, Rule],
    blocks: Blocks,
) -> str:
    """The whole text."""
    known = {it.peer_id: it.name for it in names}
    shown = {str(peer): name for peer, name in known.items()}
    listens = sorted((it for it in tunnels if it.peer is None), key=lambda it: it.key)
    forwards = sorted((it for it in tunnels if it.peer is not None), key=lambda it: it.key)
    whom = [*sorted(map(str, blocks.peers))]
    whom += [str(it) for it in sorted(blocks.networks, key=lambda it: (it.version, it))]
    parts = [
        (PEER, [_peer(it) for it in sorted(names, key=lambda it: it.name)]),
        (LISTEN, [_listen(it) for it in listens]),
        (FORWARD, [_forward(it, known) for it in forwards]),
        (RULE, [_rule(protocol, rules[protocol], shown) for protocol in sorted(rules)]),
        (BLOCK, [[_list("whom", whom, shown)]] if whom else []),
    ]
    lines = [*HEAD]
    for table, entries in parts:
        if entries:
            lines += ["", f"# {_TITLES[table]}"]
        for entry in entries:
            lines += ["", f"[[{table}]]", *entry]
    return "\n".join(lines) + "\n"


def _peer(named: NamedPeer) -> list[str]:
    lines = [_pair("name", named.name), _whom(named.peer_id, named.addrs)]
    return [*lines, _pair("keep", True)] if named.keep else lines


def _listen(tunnel: SavedTunnel) -> list[str]:
    return [_pair("protocol", tunnel.protocol), _pair("target", str(tunnel.address)), *_terms(tunnel)]


def _forward(tunnel: SavedTunnel, names: Mapping[PeerId, str]) -> list[str]:
    assert tunnel.peer is not None
    name = names.get(tunnel.peer)
    return [
        _pair("protocol", tunnel.protocol),
        _pair("listen", str(tunnel.address)),
        *([] if name is None else [f"# {name}:"]),
        _whom(tunnel.peer, tunnel.peer_addrs),
        *_terms(tunnel),
    ]


def _terms(tunnel: SavedTunnel) -> Iterable[str]:
    for name, value in terms_to_json(tunnel.terms).items():
        # The number is exact, and what is behind it is for people.
        yield _pair(name, value) + (f"  # {utc_text(value)}" if name == "ends_at" else "")


def _rule(protocol: str, rule: Rule, shown: Mapping[str, str]) -> list[str]:
    lines = [_pair("protocol", protocol)]
    for key, peers in (("allow", rule.allowed), ("deny", rule.denied), ("tell", rule.told)):
        if peers:
            lines.append(_list(key, sorted(map(str, peers)), shown))
    if rule.tells_any:
        lines.append(_pair("tell_any", True))
    others = {meant: word for word, meant in OTHERS.items()}
    return lines if rule.at_large is None else [*lines, _pair("others", others[rule.at_large])]


def _whom(peer: PeerId, addrs: Sequence[Multiaddr]) -> str:
    """An order that addresses came in says nothing."""
    if not addrs:
        return _pair("peer", str(peer))
    return _list("peer", sorted(str(addr.with_peer_id(peer)) for addr in addrs), {})


def _list(key: str, texts: Sequence[str], names: Mapping[str, str]) -> str:
    """One line each where there are several, and the name of a peer behind it."""
    if len(texts) == 1 and texts[0] not in names:
        return f"{key} = [{_value(texts[0])}]"
    lines = [f"    {_value(text)},{f'  # {names[text]}' if text in names else ''}" for text in texts]
    return "\n".join((f"{key} = [", *lines, "]"))


def _pair(key: str, value: Any) -> str:
    return f"{key} = {_value(value)}"


def _value(value: Any) -> str:
    # JSON's forms of texts, numbers, booleans and flat lists are TOML's too, but for this one character.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
