"""What a tunnel is made with, besides its name and its two ends: one value for each direction.

The command line, the RPC, the state file and the tunnel itself have the same fields, so a new option is a
field here and a line where it is asked for. A field whose value is the default is not written down.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any, Final, Literal, TypeVar, get_args

from p2pfwd.core.durations import MAX_TIME

PathWish = Literal["any", "direct", "relay"]

ProxyProtocol = Literal["none", "v2"]
"""Which PROXY protocol header the target of a listen gets first."""

Lifetime = Literal["saved", "ephemeral", "foreground", "declared"]
"""Until it is closed; at most as long as the daemon, or as the command; while config.toml says so."""

KEPT: Final[tuple[Lifetime, ...]] = ("saved", "declared")
"""Those of tunnels that are there tomorrow."""


@dataclass(frozen=True, slots=True)
class ListenTerms:
    """Of a listen."""

    any_loopback: bool = False  # ::1 is as good a target as 127.0.0.1
    report_peer_id: bool = False
    custom_protocol: bool = False  # the name need not begin with /x/
    max_streams: int = 0  # at once; 0, here and below: no limit of its own
    max_streams_per_peer: int = 0
    rate: int = 0  # bytes a second each way, over all its streams
    rate_per_peer: int = 0
    idle_timeout_s: int = 0  # a stream on which no byte passes for so long is reset
    proxy_protocol: ProxyProtocol = "none"
    ends_at: float = 0.0  # unix seconds; 0: when it is closed
    wait_target_s: float = 0.0  # how long a stream waits for a target that is down
    check: str = ""  # how the target is watched, as `core.target_check` reads it; "": not at all


@dataclass(frozen=True, slots=True)
class ForwardTerms:
    """Of a forward."""

    custom_protocol: bool = False
    path: PathWish = "any"
    limited_relay: bool = False
    ends_at: float = 0.0  # as of a listen


@dataclass(frozen=True, slots=True)
class Life:
    """How long a tunnel is there, and since when."""

    lifetime: Lifetime = "ephemeral"
    created: float | None = None
    """Unix seconds; None: now."""


PLAIN_LISTEN: Final = ListenTerms()
PLAIN_FORWARD: Final = ForwardTerms()
UNSAVED: Final = Life()

_T = TypeVar("_T", ListenTerms, ForwardTerms)

LIMITS: Final = ("max_streams", "max_streams_per_peer", "rate", "rate_per_peer", "idle_timeout_s")
"""Terms of a listen that change while it stands: whole numbers from 0 to `MAX_LIMIT`."""

MAX_LIMIT: Final = 1 << 40

_CHOICES: Final[Mapping[str, tuple[Any, ...]]] = {
    "path": get_args(PathWish),
    "proxy_protocol": get_args(ProxyProtocol),
}


def limited(terms: ListenTerms, changes: Mapping[str, int]) -> ListenTerms:
    """With these of `LIMITS` in place of its own."""
    changed: dict[str, Any] = dict(changes)
    return replace(terms, **changed)


def why_no_terms(terms: ListenTerms | ForwardTerms) -> str | None:
    """What is wrong with these together, in a sentence; None where nothing is."""
    if not 0 <= terms.ends_at <= MAX_TIME:
        return "it ends at no time"
    if isinstance(terms, ForwardTerms):
        return None
    for name in LIMITS:
        if not 0 <= getattr(terms, name) <= MAX_LIMIT:
            return f"{name} is not from 0 to {MAX_LIMIT}"
    if terms.report_peer_id and terms.proxy_protocol != "none":
        return "the peer ID line (-r) and the PROXY protocol header exclude each other"
    return None


def terms_to_json(terms: ListenTerms | ForwardTerms) -> dict[str, Any]:
    """The fields whose values are not the defaults."""
    found = ((it.name, getattr(terms, it.name), it.default) for it in fields(terms))
    return {name: value for name, value, default in found if value != default}


def terms_from_json(kind: type[_T], found: object) -> _T:
    """The reverse. Raises ValueError for a field that there is not, or a value that does not fit it."""
    if not isinstance(found, dict):
        raise ValueError("its terms are no object")
    known = {field.name: field.default for field in fields(kind)}
    values: dict[str, Any] = {}
    for name, value in found.items():
        default = known.get(name, MISSING)
        if default is MISSING:
            raise ValueError(f"there is no term {name}")
        values[name] = _as_float(value) if type(default) is float and type(value) is int else value
        fits = value in _CHOICES[name] if name in _CHOICES else type(values[name]) is type(default)
        if not fits:
            raise ValueError(f"{value!r} is no {name}")
    terms = kind(**values)
    if (why := why_no_terms(terms)) is not None:
        raise ValueError(why)
    return terms


def _as_float(value: int) -> float:
    try:
        return float(value)
    except OverflowError:
        raise ValueError("it is too large") from None


def wanted_of(kind: type[ListenTerms] | type[ForwardTerms], name: str) -> str | None:
    """What a value of this term is, for people; None where there is no such term."""
    hint = next((str(field.type) for field in fields(kind) if field.name == name), None)
    if hint is None:
        return None
    if name in _CHOICES:
        return f"one of {', '.join(map(repr, _CHOICES[name]))}".replace("'", '"')
    if name == "ends_at":
        return "a date and time with its zone, as 2026-12-01T18:00:00Z, or unix seconds"
    words = {"bool": "true or false", "int": "a whole number", "float": "a number", "str": "a text"}
    return next((text for word, text in words.items() if word in hint), hint)
