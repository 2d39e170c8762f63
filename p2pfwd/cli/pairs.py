"""Several listens or forwards in one command: `PROTOCOL ADDRESS` again and again, all of them or none.

A further pair of `forward` begins with a word that begins with /x/, which no PEER does; so the peer comes
last, and the line of one pair means what it always meant.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from p2pfwd.cli.env import answer
from p2pfwd.cli.foreground import remove
from p2pfwd.cli.render import talk
from p2pfwd.cli.text import joined, printable, short_address
from p2pfwd.errors import P2PForwardError, UsageError
from p2pfwd.rpc.schema import Listener

if TYPE_CHECKING:
    from p2pfwd.cli.env import Env
    from p2pfwd.rpc.client import Client

Pair = tuple[str, str]

_NAMESPACE = "/x/"


class Made(Protocol):
    """The result of making one listen or forward."""

    @property
    def listener(self) -> Listener:
        """What was made."""

    @property
    def stood(self) -> bool:
        """Whether it was there before."""


R = TypeVar("R", bound=Made)


def listen_pairs(first: Pair, rest: Sequence[str]) -> list[Pair]:
    """The pairs of a `listen`. Raises UsageError; of several pairs for an address that is none, too."""
    if len(rest) % 2:
        raise UsageError(
            f"'{printable(rest[-1])}' has no partner",
            hint="PROTOCOL and TARGET come in pairs: p2pfwd listen /x/web 8080 /x/ssh 22",
        )
    pairs = [first, *zip(rest[::2], rest[1::2], strict=True)]
    if len(pairs) > 1:
        _addresses(pairs)
        _refuse_twice([protocol for protocol, _ in pairs], "one name leads to one service")
    return pairs


def forward_pairs(first: Pair, rest: Sequence[str]) -> tuple[list[Pair], list[str]]:
    """The pairs of a `forward`, and the words for its peer. Raises as `listen_pairs`."""
    pairs, peers = [first], list(rest)
    while peers and peers[0].startswith(_NAMESPACE):
        if len(peers) < 3:
            raise UsageError(
                "no peer given: it comes last", hint="p2pfwd forward /x/web 8081 /x/ssh 2222 PEER"
            )
        pairs.append((peers[0], peers[1]))
        peers = peers[2:]
    if len(pairs) > 1:
        bound = [address for address in _addresses(pairs) if not address.endswith(":0")]
        _refuse_twice(bound, "choose another port for one of them, or port 0 for a free one")
    return pairs, peers


def _addresses(pairs: Sequence[Pair]) -> list[str]:
    """The addresses as they are meant, so that a mistyped one is told before a pair before it is made."""
    from p2pfwd.core.typed import parse_endpoint

    return [short_address(str(parse_endpoint(address))) for _, address in pairs]


def _refuse_twice(words: Sequence[str], hint: str) -> None:
    for word in words:
        if words.count(word) > 1:
            raise UsageError(f"{printable(word)} is given twice", hint=hint)


def make_all(
    env: Env, client: Client, method: str, params: Sequence[object], result: type[R], *, as_json: bool
) -> list[R]:
    """One call for each of `params`; when one fails, or is interrupted, those made before it are taken back.

    Those that stood before stay.
    """
    results: list[R] = []
    try:
        for one in params:
            results.append(answer(client, method, one, result))
    except (P2PForwardError, KeyboardInterrupt) as exc:
        made = [it for it in results if not it.stood]
        left = [it.listener for it in reversed(made) if not remove(env, it.listener)]
        if left and isinstance(exc, P2PForwardError):
            names = joined([printable(listener.protocol) for listener in left])
            raise type(exc)(f"{exc.message}; and {names} could not be taken back", hint=exc.hint) from exc
        if made and not as_json:
            talk(f"Taken back: {joined([printable(it.listener.protocol) for it in made])}.")
        raise
    return results


def one_or_list(documents: Sequence[Any]) -> Any:
    """What `--json` prints: the document of one pair by itself, those of several as a list."""
    return documents[0] if len(documents) == 1 else list(documents)
