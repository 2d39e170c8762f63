"""What can be set on the daemon: one table of keys, each with its name, default, meaning and check.

`config show` and the manual are made from it. A field has the name of the part's setting that it is for
(`SwarmSettings`, `ForwardingLimits`), so that `daemon.node` hands it on by its name: one line here and one
there are all that a new setting takes. Imports no asyncio: the CLI shows settings without a daemon.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from p2pfwd.errors import InvalidMultiaddr, InvalidPeerId, UsageError

AUTO = "auto"
"""What the network has by itself, where a setting could name something else."""

LEVELS = ("debug", "info", "warning", "error")

Check = Callable[[Any], str | None]
"""Says what a value of the right type should have been, or None when it is good."""


# --- checks -----------------------------------------------------------------------------------------


def _at_least(low: float) -> Check:
    return lambda value: None if value >= low else f"{low:g} or more"


def _between(low: float, high: float) -> Check:
    return lambda value: None if low <= value <= high else f"from {low:g} to {high:g}"


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
    from p2pfwd.core.typed import parse_peer

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


def _relays(value: tuple[str, ...]) -> str | None:
    from p2pfwd.core.relay_token import read_token
    from p2pfwd.core.typed import parse_peer
    from p2pfwd.policy.undialable import why_no_relay

    for entry in value:
        text, mark, token = entry.partition("#")  # no message shows a token
        try:
            read_token(token) if mark else None
        except UsageError:
            return f"without a token or with a whole one, and what follows {text}# is none"
        if re.fullmatch(r"[A-Za-z][\w.-]{0,31}", text):  # a name, shorter than any ID: who has it may change
            continue
        try:
            peer_id, address = parse_peer(text)
        except (InvalidMultiaddr, InvalidPeerId) as exc:
            return f"multiaddrs of relays, or names of peers ({exc.message})"
        if peer_id is None:
            return f"multiaddrs that end in /p2p/<peer ID>, and {text} does not"
        why = None if address is None else why_no_relay(address)
        if why is not None:
            return f"relays to dial, as /ip4/192.0.2.1/tcp/4011/p2p/<peer ID>, and {text} is none: {why}"
    return None


def _name_servers(value: tuple[str, ...]) -> str | None:
    from p2pfwd.core.typed import parse_name_server

    for text in value:
        try:
            parse_name_server(text)
        except ValueError as exc:
            return f"addresses of name servers, and {exc}"
    return None


def _prefix(value: str) -> str | None:
    if value == AUTO or re.fullmatch(r"(/[A-Za-z0-9_.-]{1,32}){1,4}", value):
        return None
    return f'"{AUTO}" or a path such as /office'


CHACHA = "chacha20-poly1305"
AES = "aes-256-gcm"


def _ciphers(value: tuple[str, ...]) -> str | None:
    if value in ((AUTO,), (CHACHA,), (AES, CHACHA)):
        return None
    return (
        f'["{AUTO}"], ["{CHACHA}"] or ["{AES}", "{CHACHA}"]; {CHACHA} is all that other programs speak, '
        "so it cannot be left out, and comes last"
    )


# --- the table --------------------------------------------------------------------------------------


def _key(name: str, default: Any, doc: str, check: Check | None = None) -> Any:
    return field(default=default, metadata={"key": name, "doc": doc, "check": check})


@dataclass(frozen=True, slots=True)
class Settings:
    """The effective settings. Durations are seconds, sizes bytes."""

    network: Literal["public", "lan", "private"] = _key(
        "network",
        "public",
        "Whom this node meets: public (the IPFS network), lan (its local network alone), "
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
    relays: tuple[str, ...] = _key(
        "reach.relays",
        (),
        "Relays that give this node a place where others cannot dial it: multiaddrs that end in /p2p/<peer "
        "ID>, or names of peers, each with #TOKEN behind it where the relay wants one; in the public "
        "network, relays of strangers as well.",
        _relays,
    )
    relay_serve: Literal["off", "peers", "anyone"] = _key(
        "relay.serve",
        "peers",
        "For whom this node is a relay, where others can reach it: off (nobody), peers (those you named, "
        "keep, forward to or allow by their ID, those with a token, and all of a private network), anyone "
        "(strangers, too, within narrow limits).",
        _one_of("off", "peers", "anyone"),
    )
    relay_legs: int = _key(
        "relay.legs",
        64,  # policy/relay_bounds has it, and loads what no command needs
        "Circuits between peers of this relay's own that may go by two TCP connections of their own once "
        "they carry bulk, which is faster and costs all three machines less; 0: none.",
        _at_least(0),
    )
    access_default: Literal["any", "named", "none"] = _key(
        "access.default",
        "any",
        "Whom listens let in where no rule says so: any (every peer that knows the name), named (peers that "
        "have a name here), none (nobody but those allowed).",
        _one_of("any", "named", "none"),
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
    port_mapping: Literal["auto", "off"] = _key(
        "reach.port_mapping",
        AUTO,
        "Whether to ask the router to lead a port of its own here, by PCP, NAT-PMP or UPnP: off, or auto: "
        "not in the network lan, and where this node listens on more than loopback.",
        _one_of("auto", "off"),
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
        " Addresses that share a port keep one in common. One that this machine lacks is used once it has"
        " it.",
        _listen_addresses,
    )
    security: tuple[str, ...] = _key(
        "swarm.security",
        ("noise", "tls"),
        "Security protocols offered, the preferred first.",
        _orders("noise", "tls"),
    )
    ciphers: tuple[str, ...] = _key(
        "swarm.ciphers",
        (AUTO,),
        "What seals connections by noise: chacha20-poly1305 alone, or before it aes-256-gcm, with those "
        "p2pfwd that want it too; auto: aes-256-gcm where the processor does it in hardware, which is "
        "measured.",
        _ciphers,
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
        "swarm.dns_servers",
        (),
        "Name servers to ask for the names of peers, IP or IP:PORT; none: the hosts file and whatever else "
        "the system looks them up in.",
        _name_servers,
    )
    max_connections: int = _key("limits.connections", 512, "Connections with peers, in all.", _at_least(1))
    max_connections_per_ip: int = _key(
        "limits.connections_per_ip",
        32,
        "Inbound connections from one IP address or IPv6 /64.",
        _at_least(1),
    )
    max_connections_per_peer: int = _key(
        "limits.connections_per_peer", 8, "Connections with one peer.", _at_least(1)
    )
    max_pending_inbound: int = _key(
        "limits.pending_inbound", 64, "Inbound connections in their handshake, in all.", _at_least(1)
    )
    max_pending_inbound_per_ip: int = _key(
        "limits.pending_inbound_per_ip", 8, "Inbound handshakes under way, per IP or /64.", _at_least(1)
    )
    max_turned_away: int = _key(
        "limits.turned_away",
        512,
        "Connections, at all listening addresses, that came too fast and stay unread for a second before "
        "they are closed.",
        _at_least(1),
    )
    high_water: int = _key(
        "limits.high_water",
        192,
        "Connections above which idle ones without tunnels are closed.",
        _at_least(1),
    )
    low_water: int = _key(
        "limits.low_water",
        160,
        "Connections kept when idle ones are closed. Where only limits.high_water is set, at most five "
        "sixths of that.",
        _at_least(0),
    )
    max_streams: int = _key("limits.streams", 8192, "Tunnelled streams, in all.", _at_least(1))
    max_streams_per_connection: int = _key(
        "limits.streams_per_connection", 4096, "Streams a peer may open on one connection.", _at_least(1)
    )
    max_streams_per_peer: int = _key(
        "limits.streams_per_peer", 4096, "Tunnelled streams with one peer.", _at_least(1)
    )
    max_streams_per_listener: int = _key(
        "limits.streams_per_listener",
        4096,
        "Tunnelled streams of one listen or forward; of a listen's a peer may have half.",
        _at_least(1),
    )
    max_pending_targets: int = _key(
        "limits.pending_targets",
        4096,
        "Connects to local services under way, over all listens; one listen may have half of them.",
        _at_least(1),
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
    wait_s: float = _key(
        "forward.wait_s",
        10.0,
        "How long an accepted local connection waits for a peer that is away; a try that is under way then "
        "goes on. 0: it is reset at once.",
        _between(0, 600),
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
    kubo_hold_s: float = _key(
        "forward.kubo_hold_s",
        600.0,
        "Send such an end of data all the same when nothing has come for so long, for the sake of a service "
        "that answers only at the end of its input. 0: never.",
        _at_least(0),
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
    busy_poll: Literal["auto", "on", "off"] = _key(
        "daemon.busy_poll",
        AUTO,
        "Stay awake for the next message, half a millisecond at most, where small ones follow each other "
        "closely: on, off, or auto: where that was found to shorten round trips, as on most virtual "
        "machines, and never on battery. It takes a processor meanwhile, and yields it to whoever wants it.",
        _one_of("auto", "on", "off"),
    )
    log_level: str = _key("log.level", "info", f"Least level logged: {', '.join(LEVELS)}.", _one_of(*LEVELS))
    log_max_bytes: int = _key(
        "log.max_bytes",
        5_000_000,
        "Size at which the log file of a background daemon is set aside as daemon.log.1; one is kept.",
        _at_least(10_000),
    )
