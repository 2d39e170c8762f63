"""Settings of the daemon: one table of keys, read from config.toml, the environment and the command line.

`Settings` is the table: every field is a key with its name, default, meaning and check; `config show` and the
man page are made from it. Rules: the command line goes before the environment (`P2PFWD_SWARM_LISTEN` for
`swarm.listen`), that before config.toml, that before the default. An unknown key or a value that does not fit
is an error that names the key, its line and the nearest key there is; nothing is ignored.
Imports no asyncio: the CLI shows settings without a daemon.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from p2pfwd.errors import InvalidConfig, InvalidMultiaddr, InvalidPeerId

MAX_FILE_BYTES = 1 << 20
"""Longest config.toml read; ours with every key is 3 KB."""

DEFAULT = "default"
FILE = "config.toml"
ENVIRONMENT = "environment"
COMMAND_LINE = "command line"

AUTO = "auto"
"""What the network has by itself, where a setting could name something else."""

LEVELS = ("debug", "info", "warning", "error")

Check = Callable[[Any], str | None]
"""Says what a value of the right type should have been, or None when it is good."""


# --- checks -----------------------------------------------------------------------------------------


def _at_least(low: float) -> Check:
    return lambda value: None if value >= low else f"{low:g} or more"


def _between(low: int, high: int) -> Check:
    return lambda value: None if low <= value <= high else f"from {low} to {high}"


def _one_of(*words: str) -> Check:
    return lambda value: None if value in words else f"one of {', '.join(words)}"


def _orders(*words: str) -> Check:
    def check(value: tuple[str, ...]) -> str | None:
        if value and set(value) <= set(words) and len(set(value)) == len(value):
            return None
        return f"some of {', '.join(words)}, each once, the preferred first"

    return check


def _listen_addresses(value: tuple[str, ...]) -> str | None:
    from p2pfwd.core.multiaddrs import Multiaddr, tcp_endpoint

    if not value:
        return "at least one address"
    for text in value:
        try:
            address = Multiaddr.parse(text)
        except InvalidMultiaddr as exc:
            return f"multiaddrs ({exc.message})"
        endpoint = tcp_endpoint(address)
        if endpoint is None or endpoint.family not in ("ip4", "ip6") or address.peer_id() is not None:
            return f"of the form /ip4/…/tcp/… or /ip6/…/tcp/…, and {text} is not"
    return None


def _bootstrap_peers(value: tuple[str, ...]) -> str | None:
    from p2pfwd.core.multiaddrs import parse_peer

    for text in value:
        if text == AUTO:
            continue
        try:
            _, address = parse_peer(text)
        except (InvalidMultiaddr, InvalidPeerId) as exc:
            return f'"{AUTO}" or multiaddrs of peers ({exc.message})'
        if address is None:
            return f'"{AUTO}" or multiaddrs of peers, and {text} has no address'
    return None


def _prefix(value: str) -> str | None:
    if value == AUTO or re.fullmatch(r"(/[A-Za-z0-9_.-]{1,32}){1,4}", value):
        return None
    return f'"{AUTO}" or a path such as /office'


# --- the table --------------------------------------------------------------------------------------


def _key(name: str, default: Any, doc: str, check: Check | None = None) -> Any:
    return field(default=default, metadata={"key": name, "doc": doc, "check": check})


@dataclass(frozen=True, slots=True)
class Settings:
    """The effective settings. Durations are seconds, sizes bytes."""

    network: Literal["public", "lan", "private"] = _key(
        "network",
        "public",
        "Whom this node meets: public (the IPFS network), lan (its local network, which nothing leaves), "
        "private (those who have the same swarm key).",
        _one_of("public", "lan", "private"),
    )
    bootstrap: tuple[str, ...] = _key(
        "bootstrap.peers",
        (AUTO,),
        "Peers through which others are found, as multiaddrs; auto stands for the usual ones in the public "
        "network, and for none in others.",
        _bootstrap_peers,
    )
    dht_prefix: str = _key(
        "dht.prefix",
        AUTO,
        "What the protocol name of the DHT has before /kad/1.0.0; auto: /p2pfwd in a private network, /ipfs "
        "in others.",
        _prefix,
    )
    dht_mode: Literal["auto", "client", "server"] = _key(
        "dht.mode",
        AUTO,
        "Whether to answer others' questions: server, client (only ask), or auto: server in a private "
        "network and on the LAN, and in the public DHT where peers could dial this node back.",
        _one_of("auto", "client", "server"),
    )
    mdns: Literal["auto", "on", "off"] = _key(
        "discovery.mdns",
        AUTO,
        "Whether to be found on the local network, and to look who is there, by mDNS: on, off, or auto: not "
        "in a private network.",
        _one_of("auto", "on", "off"),
    )
    swarm_key: str = _key(
        "private.swarm_key",
        "",
        "File with the key of the private network; none named: swarm.key in the home directory.",
    )
    listen: tuple[str, ...] = _key(
        "swarm.listen",
        ("/ip4/0.0.0.0/tcp/4011", "/ip6/::/tcp/4011"),
        "Addresses on which peers reach this node. A taken port is replaced by a free one, with a warning."
        " Addresses that share a port keep one in common.",
        _listen_addresses,
    )
    security: tuple[str, ...] = _key(
        "swarm.security",
        ("noise", "tls"),
        "Security protocols offered, the preferred first.",
        _orders("noise", "tls"),
    )
    dial_timeout_s: float = _key(
        "swarm.dial_timeout_s", 30.0, "Budget for trying all addresses of one peer.", _at_least(0.1)
    )
    connect_timeout_s: float = _key(
        "swarm.connect_timeout_s", 5.0, "One TCP connect to one address.", _at_least(0.1)
    )
    upgrade_timeout_s: float = _key(
        "swarm.upgrade_timeout_s",
        15.0,
        "From connected or accepted to secured and multiplexed.",
        _at_least(0.1),
    )
    stream_timeout_s: float = _key(
        "swarm.stream_timeout_s",
        15.0,
        "Opening a stream on a connection, negotiation included.",
        _at_least(0.1),
    )
    dns_servers: tuple[str, ...] = _key(
        "swarm.dns_servers", (), "Name servers to ask, IP or IP:PORT; none means the system's."
    )
    max_connections: int = _key("limits.connections", 512, "Connections with peers, in all.", _at_least(1))
    max_connections_per_ip: int = _key(
        "limits.connections_per_ip",
        32,
        "Inbound connections from one IP address, loopback apart.",
        _at_least(1),
    )
    max_connections_per_peer: int = _key(
        "limits.connections_per_peer", 8, "Connections with one peer.", _at_least(1)
    )
    max_pending_inbound: int = _key(
        "limits.pending_inbound", 64, "Inbound connections in their handshake, in all.", _at_least(1)
    )
    max_pending_inbound_per_ip: int = _key(
        "limits.pending_inbound_per_ip", 8, "Inbound connections in their handshake, per IP.", _at_least(1)
    )
    high_water: int = _key(
        "limits.high_water",
        192,
        "Connections above which idle ones without streams are closed.",
        _at_least(1),
    )
    low_water: int = _key(
        "limits.low_water", 160, "Connections kept when idle ones are closed.", _at_least(0)
    )
    max_streams: int = _key("limits.streams", 8192, "Tunnelled streams, in all.", _at_least(1))
    max_streams_per_connection: int = _key(
        "limits.streams_per_connection", 4096, "Streams a peer may open on one connection.", _at_least(1)
    )
    max_streams_per_peer: int = _key(
        "limits.streams_per_peer", 4096, "Tunnelled streams with one peer.", _at_least(1)
    )
    max_streams_per_listener: int = _key(
        "limits.streams_per_listener", 4096, "Tunnelled streams of one listen or forward.", _at_least(1)
    )
    max_pending_targets: int = _key(
        "limits.pending_targets", 256, "Connects to local services under way, over all listens.", _at_least(1)
    )
    max_pending_opens: int = _key(
        "limits.pending_opens",
        256,
        "Local connections of one forward that wait for their stream.",
        _at_least(1),
    )
    open_timeout_s: float = _key(
        "forward.open_timeout_s",
        30.0,
        "How long an accepted local connection waits for its stream, dialing included.",
        _at_least(0.1),
    )
    target_timeout_s: float = _key(
        "forward.target_timeout_s", 10.0, "Connecting to a local service.", _at_least(0.1)
    )
    kubo_half_close: Literal["auto", "on", "off"] = _key(
        "forward.kubo_half_close",
        "auto",
        "Hold a tunnel's end of data until the reply has ended, as Kubo needs: auto (by the peer's agent), "
        "on (always), off (never).",
        _one_of("auto", "on", "off"),
    )
    drain_timeout_s: float = _key(
        "daemon.drain_timeout_s", 10.0, "How long live streams may go on when the daemon stops.", _at_least(0)
    )
    event_loop: Literal["auto", "asyncio", "uvloop"] = _key(
        "daemon.event_loop",
        AUTO,
        "Event loop: asyncio, uvloop, or auto: uvloop where it is installed.",
        _one_of("auto", "asyncio", "uvloop"),
    )
    busy_poll_us: int = _key(
        "daemon.busy_poll_us",
        500,
        "Microseconds for which the daemon stays awake for the next message where small ones follow each "
        "other closely: a third of the round-trip time on a virtual machine, for more processor time while "
        "it lasts. 0: never.",
        _between(0, 10_000),
    )
    log_level: str = _key("log.level", "info", f"Least level logged: {', '.join(LEVELS)}.", _one_of(*LEVELS))
    log_max_bytes: int = _key(
        "log.max_bytes",
        5_000_000,
        "Size at which the log file of a background daemon is set aside as daemon.log.1; one is kept.",
        _at_least(10_000),
    )


@dataclass(frozen=True, slots=True)
class Entry:
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

    def entries(self) -> Iterator[Entry]:
        """Every key, in the order of the table."""
        for f in fields(Settings):
            name = f.metadata["key"]
            origin: Any = self.origins.get(name, DEFAULT)
            yield Entry(name, getattr(self.settings, f.name), f.default, origin, f.metadata["doc"])


# --- reading ----------------------------------------------------------------------------------------


def load(path: Path, env: Mapping[str, str], overrides: Mapping[str, Any] | None = None) -> Config:
    """The effective settings for the file `path` (it may be absent), `env`, and `overrides` by key.

    Raises InvalidConfig.
    """
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for origin, found in (
        (FILE, _from_file(path)),
        (ENVIRONMENT, _from_environment(env)),
        (COMMAND_LINE, _from_overrides(overrides or {})),
    ):
        values |= found
        origins |= dict.fromkeys(found, origin)
    settings = Settings(**{f.name: values[key] for key, f in _TABLE.items() if key in values})
    if settings.low_water > settings.high_water:
        raise InvalidConfig("config: limits.low_water is above limits.high_water")
    return Config(settings, origins)


_TABLE: dict[str, Field[Any]] = {f.metadata["key"]: f for f in fields(Settings)}
_SECTIONS = frozenset(key.partition(".")[0] for key in _TABLE if "." in key)


def _from_file(path: Path) -> dict[str, Any]:
    text = _read(path)
    if text is None:
        return {}
    import tomllib

    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise InvalidConfig(f"config file {path}: {exc}", hint=_MEND, path=str(path)) from None
    except RecursionError:
        raise InvalidConfig(f"config file {path}: it is nested too deeply", hint=_MEND) from None
    values: dict[str, Any] = {}
    for key, value in _flatten(document):
        place = _place(path, text, key)
        if key not in _TABLE:
            raise _unknown(place, key)
        values[key] = _checked(place, key, value)
    return values


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
        return data.decode("utf-8")
    except UnicodeDecodeError as exc:
        line = data.count(b"\n", 0, exc.start) + 1
        raise InvalidConfig(f"config file {path}, line {line}: it is not UTF-8 text", hint=_MEND) from None


def _flatten(document: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for section, content in document.items():
        if section in _SECTIONS and isinstance(content, dict):
            for name, value in content.items():
                yield f"{section}.{name}", value
        else:
            yield section, content


def _place(path: Path, text: str, key: str) -> str:
    line = _line_of(text, key)
    return f"config file {path}" + (f", line {line}" if line else "")


def _line_of(text: str, key: str) -> int | None:
    section, _, name = key.partition(".")
    here = ""
    for number, line in enumerate(text.split("\n"), 1):
        header = re.match(r"\s*\[\s*\"?([^\]\"]+?)\"?\s*\]", line)
        if header:
            here = header[1]
            if not name and here == section:
                return number
            continue
        assigned = re.match(r"\s*\"?([A-Za-z0-9_.-]+)\"?\s*=", line)
        if assigned and key == (f"{here}.{assigned[1]}" if here else assigned[1]):
            return number
    return None


def _from_environment(env: Mapping[str, str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, f in _TABLE.items():
        variable = variable_of(key)
        text = env.get(variable)
        if text:
            values[key] = _checked(f"environment, {variable}", key, _from_text(text, f.default))
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


def _unknown(place: str, key: str) -> InvalidConfig:
    from difflib import get_close_matches

    if key in _SECTIONS:
        return InvalidConfig(f"{place}: {key} must be a table, [{key}]", key=key)
    near = [k for k in _TABLE if k.endswith("." + key)]
    if "." not in key:
        near += get_close_matches(key, sorted(_SECTIONS), 1)
    near += get_close_matches(key, _TABLE, 1)
    hint = f"did you mean {near[0]}?" if near else "p2pfwd config show lists every key"
    return InvalidConfig(f"{place}: unknown key {key}", hint=hint, key=key)
