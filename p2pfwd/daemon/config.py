"""Reads the settings (`daemon.settings`) from config.toml, the environment and the command line.

What config.toml declares beside them (`daemon.tables`) is only found here.

Rules: the command line goes before the environment (`P2PFWD_SWARM_LISTEN` for `swarm.listen`), that before
config.toml, that before the default. An unknown key or a value that does not fit is an error that names the
key and the nearest key there is; nothing is ignored, except variables that begin with no section's name.
Imports no asyncio: the CLI shows settings without a daemon.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from p2pfwd.daemon.settings import Check, Settings
from p2pfwd.daemon.tables import TABLES, Entry, take, wrong
from p2pfwd.errors import InvalidConfig

MAX_FILE_BYTES = 1 << 20
"""Longest config.toml read; ours with every key is 3 KB."""

DEFAULT = "default"
FILE = "config.toml"
ENVIRONMENT = "environment"
COMMAND_LINE = "command line"


@dataclass(frozen=True, slots=True)
class Setting:
    """One key with its effective value, for `config show`."""

    key: str
    value: Any
    default: Any
    origin: Literal["default", "config.toml", "environment", "command line"]
    doc: str


@dataclass(frozen=True, slots=True)
class Config:
    """Effective settings and where each came from."""

    settings: Settings
    origins: Mapping[str, str]  # key -> origin, where it is not the default
    tables: tuple[Entry, ...] = ()  # tunnels, names and rules that config.toml declares

    def entries(self) -> Iterator[Setting]:
        """Every key, in the order of the table."""
        for f in fields(Settings):
            name = f.metadata["key"]
            origin: Any = self.origins.get(name, DEFAULT)
            yield Setting(name, getattr(self.settings, f.name), f.default, origin, f.metadata["doc"])


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration, and what it was read with, so that it can be read again."""

    config: Config
    env: Mapping[str, str] = field(default_factory=dict)
    overrides: Mapping[str, Any] = field(default_factory=dict)

    def again(self, path: Path) -> Config:
        """As the file is now. Raises InvalidConfig."""
        return load(path, self.env, self.overrides)


# --- reading ----------------------------------------------------------------------------------------


def load(path: Path, env: Mapping[str, str], overrides: Mapping[str, Any] | None = None) -> Config:
    """The effective settings for the file `path` (it may be absent), `env`, and `overrides` by key.

    Raises InvalidConfig.
    """
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    from_file, tables = _from_file(path)
    for origin, found in (
        (FILE, from_file),
        (ENVIRONMENT, _from_environment(env)),
        (COMMAND_LINE, _from_overrides(overrides or {})),
    ):
        values |= found
        origins |= dict.fromkeys(found, origin)
    settings = Settings(**{f.name: values[key] for key, f in _TABLE.items() if key in values})
    if "limits.low_water" not in origins:
        settings = replace(settings, low_water=min(settings.low_water, settings.high_water * 5 // 6))
    if settings.low_water > settings.high_water:
        raise InvalidConfig(
            f"config: limits.low_water ({settings.low_water}) is above limits.high_water "
            f"({settings.high_water})",
            hint="set both, or limits.high_water alone",
        )
    return Config(settings, origins, tables)


_TABLE: dict[str, Field[Any]] = {f.metadata["key"]: f for f in fields(Settings)}
_SECTIONS = frozenset(key.partition(".")[0] for key in _TABLE if "." in key)


def _from_file(path: Path) -> tuple[dict[str, Any], tuple[Entry, ...]]:
    text = _read(path)
    if text is None:
        return {}, ()
    import tomllib

    try:
        document = tomllib.loads(text)
    except ValueError as exc:
        twice = _FORWARD_TABLE.search(text) and re.search(r"overwrite|'forward'", str(exc))
        hint = _TWO_FORWARDS if twice else _MEND
        raise InvalidConfig(f"config file {path}: {wrong(exc)}", hint=hint, path=str(path)) from None
    except RecursionError:
        raise InvalidConfig(f"config file {path}: it is nested too deeply", hint=_MEND) from None
    values: dict[str, Any] = {}
    place = f"config file {path}"
    tables = take(document, text, place)
    for key, value in _flatten(document):
        if key not in _TABLE:
            raise _unknown(place, key, "mend it, or move the file away to use the defaults")
        if key in values:
            raise InvalidConfig(f"{place}: {key} is set twice", hint=f"[forward] and [{FORWARDING}] are one")
        values[key] = _checked(place, key, value)
    return values, tables


FORWARDING = "forwarding"
"""What the section `forward` is called beside tables `[[forward]]`: TOML allows no name two meanings."""

_FORWARD_TABLE = re.compile(r"^\s*\[\[\s*forward\s*\]\]", re.MULTILINE)
_TWO_FORWARDS = f"beside [[forward]] the settings of [forward] are written in [{FORWARDING}]"
_MEND = "mend it, or move it away to use the defaults"


def _read(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):  # whoever needs the home will say what is wrong with it
        return None
    except OSError as exc:
        raise InvalidConfig(f"config file {path}: {exc.strerror}", hint=_MEND, path=str(path)) from exc
    if len(data) > MAX_FILE_BYTES:
        raise InvalidConfig(f"config file {path}: longer than {MAX_FILE_BYTES} bytes", hint=_MEND)
    try:
        return data.decode("utf-8-sig")  # some editors begin a file with a byte order mark
    except UnicodeDecodeError as exc:
        line = exc.object.count(b"\n", 0, exc.start) + 1
        raise InvalidConfig(f"config file {path}, line {line}: it is not UTF-8 text", hint=_MEND) from None


def _flatten(document: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for section, content in document.items():
        if section == FORWARDING and isinstance(content, dict):
            yield from ((f"forward.{name}", value) for name, value in content.items())
        elif section in _SECTIONS and isinstance(content, dict):
            for name, value in content.items():
                yield f"{section}.{name}", value
        else:
            yield section, content


def _from_environment(env: Mapping[str, str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, f in _TABLE.items():
        variable = variable_of(key)
        text = env.get(variable)
        if text:
            values[key] = _checked(f"environment, {variable}", key, _from_text(text, f.default))
    known = {variable_of(key) for key in _TABLE}
    for variable, text in env.items():
        for section in _SECTIONS:
            head = variable_of(section) + "_"
            if text and variable.startswith(head) and variable not in known:
                key = f"{section}.{variable.removeprefix(head).lower()}"
                raise _unknown("environment", key, spell=variable_of)
    return values


def variable_of(key: str) -> str:
    """The environment variable that sets `key`."""
    return "P2PFWD_" + key.replace(".", "_").upper()


def _from_text(text: str, default: Any) -> Any:
    if isinstance(default, tuple):
        return text.replace(",", " ").split()
    if isinstance(default, (int, float)):
        for kind in (int, float):
            try:
                return kind(text)
            except ValueError:
                continue
    return text


def _from_overrides(overrides: Mapping[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in overrides.items():
        if key not in _TABLE:
            raise _unknown("command line", key)
        values[key] = _checked("command line", key, value)
    return values


def _checked(place: str, key: str, value: Any) -> Any:
    f = _TABLE[key]
    assert f.default is not MISSING
    fitting, wanted = _fit(value, f.default)
    check: Check | None = f.metadata["check"]
    if wanted is None and check is not None:
        wanted = check(fitting)
    if wanted is not None:
        raise InvalidConfig(f"{place}: {key} must be {wanted}", hint=f"{key}: {f.metadata['doc']}", key=key)
    return fitting


def _fit(value: Any, default: Any) -> tuple[Any, str | None]:
    """The value in the type of the key's default, and what was wanted when it has none."""
    if isinstance(default, tuple):
        if isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value):
            return tuple(value), None
        return None, "a list of strings"
    if isinstance(default, float):
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if number and -1e9 < value < 1e9:  # no NaN, no infinity: it becomes a timer
            return float(value), None
        return None, "a number"
    if isinstance(default, int):
        if isinstance(value, int) and not isinstance(value, bool) and value < 1 << 31:
            return value, None
        return None, "a whole number"
    return (value, None) if isinstance(value, str) else (None, "a string")


def _unknown(
    place: str, key: str, cure: str = "correct it", spell: Callable[[str], str] = str
) -> InvalidConfig:
    """`spell`: a key as it is written there."""
    from difflib import get_close_matches

    if key in _SECTIONS:
        return InvalidConfig(f"{place}: {key} must be a table, [{key}]", key=key)
    near = [k for k in _TABLE if k.endswith("." + key)]
    if "." not in key:
        near += get_close_matches(key, [*sorted(_SECTIONS), *TABLES], 1)
    near += get_close_matches(key, _TABLE, 1)
    hint = f"did you mean {spell(near[0])}?" if near else f"p2pfwd-daemon(8) lists every key; {cure}"
    return InvalidConfig(f"{place}: unknown key {spell(key)}", hint=hint, key=key)
