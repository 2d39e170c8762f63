"""Whether the arguments of `listen` and `forward` stand in another order than they were meant. Pure.

Only what can be told for certain: a protocol begins with /x/, a peer is an ID or ends in one, an address is a
port or has one.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Final, Literal

from p2pfwd.core.typed import parse_endpoint, parse_peer
from p2pfwd.errors import P2PForwardError, UsageError

Kind = Literal["protocol", "address", "peer", "other"]

_LISTEN: Final = ("protocol", "address")
_FORWARD: Final = ("protocol", "address", "peer")


def kind_of(word: str) -> Kind:
    """What a word is, wherever it stands."""
    if word.startswith("/x/"):
        return "protocol"
    try:
        parse_peer(word)
    except P2PForwardError:
        pass
    else:
        return "peer"
    try:
        parse_endpoint(word)
    except P2PForwardError:
        return "other"
    return "address"


def check_listen(protocol: str, target: str) -> None:
    """Raise UsageError when they are the other way round, or when a peer is where the service should be."""
    kinds = (kind_of(protocol), kind_of(target))
    if kinds == _LISTEN[::-1]:
        raise _wrong_order(["p2pfwd", "listen", target, protocol])
    if kinds == ("protocol", "peer"):
        raise UsageError(
            f"TARGET is a service of this machine or network, and {target} is a peer",
            hint=f"to reach a peer's service: {shlex.join(['p2pfwd', 'forward', protocol, '0', target])}",
        )


def check_forward(protocol: str, listen: str, peers: Sequence[str]) -> None:
    """Raise UsageError when the three are there in another order. A word may also be the name of a peer."""
    if len(peers) != 1:
        return
    words = (protocol, listen, peers[0])
    kinds = [kind_of(word) for word in words]
    if kinds.count("other") == 1:
        kinds[kinds.index("other")] = "peer"
    if sorted(kinds) == sorted(_FORWARD) and tuple(kinds) != _FORWARD:
        by_kind = dict(zip(kinds, words, strict=True))
        raise _wrong_order(["p2pfwd", "forward", *(by_kind[kind] for kind in _FORWARD)])


def _wrong_order(words: Sequence[str]) -> UsageError:
    return UsageError("the arguments are in another order than meant", hint=f"write: {shlex.join(words)}")
