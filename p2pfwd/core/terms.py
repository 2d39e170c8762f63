"""What a tunnel is made with, besides its name and its two ends: one value for each direction.

The command line, the RPC, the state file and the tunnel itself have the same fields, so a new option is a
field here and a line where it is asked for. A field whose value is the default is not written down.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any, Final, Literal, TypeVar, get_args

PathWish = Literal["any", "direct", "relay"]

Lifetime = Literal["saved", "ephemeral", "foreground", "declared"]
"""Until it is closed; at most as long as the daemon, or as the command; while config.toml says so."""


@dataclass(frozen=True, slots=True)
class ListenTerms:
    """Of a listen."""

    any_loopback: bool = False  # ::1 is as good a target as 127.0.0.1
    report_peer_id: bool = False
    custom_protocol: bool = False  # the name need not begin with /x/


@dataclass(frozen=True, slots=True)
class ForwardTerms:
    """Of a forward."""

    custom_protocol: bool = False
    path: PathWish = "any"
    limited_relay: bool = False


@dataclass(frozen=True, slots=True)
class Life:
    """How long a tunnel is there, and since when."""

    lifetime: Lifetime = "ephemeral"
    created: float | None = None
    """Unix seconds; None: now."""

    @property
    def is_saved(self) -> bool:
        """Whether it outlives the daemon."""
        return self.lifetime == "saved"

    @property
    def is_foreground(self) -> bool:
        """Whether it ends with a command."""
        return self.lifetime == "foreground"


PLAIN_LISTEN: Final = ListenTerms()
PLAIN_FORWARD: Final = ForwardTerms()
UNSAVED: Final = Life()

_T = TypeVar("_T", ListenTerms, ForwardTerms)

_CHOICES: Final[Mapping[str, tuple[Any, ...]]] = {"path": get_args(PathWish)}


def terms_to_json(terms: ListenTerms | ForwardTerms) -> dict[str, Any]:
    """The fields whose values are not the defaults."""
    defaults = asdict(type(terms)())
    return {name: value for name, value in asdict(terms).items() if value != defaults[name]}


def terms_from_json(kind: type[_T], found: object) -> _T:
    """The reverse. Raises ValueError for a field that there is not, or a value that does not fit it."""
    if not isinstance(found, dict):
        raise ValueError("its terms are no object")
    known = {field.name: field.default for field in fields(kind)}
    for name, value in found.items():
        default = known.get(name, MISSING)
        if default is MISSING:
            raise ValueError(f"there is no term {name}")
        fits = value in _CHOICES[name] if name in _CHOICES else type(value) is type(default)
        if not fits:
            raise ValueError(f"{value!r} is no {name}")
    return kind(**found)


def wanted_of(kind: type[ListenTerms] | type[ForwardTerms], name: str) -> str | None:
    """What a value of this term is, for people; None where there is no such term."""
    hint = next((str(field.type) for field in fields(kind) if field.name == name), None)
    if hint is None:
        return None
    if name in _CHOICES:
        return f"one of {', '.join(map(repr, _CHOICES[name]))}".replace("'", '"')
    words = {"bool": "true or false", "int": "a whole number", "float": "a number", "str": "a text"}
    return next((text for word, text in words.items() if word in hint), hint)
