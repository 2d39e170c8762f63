"""What to do next: the line the other person pastes, and the command for a well-known service. Pure.

The printed lines are under test, pasted as printed: whatever is said here must run in a shell.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

from p2pfwd.cli.text import endpoint, host_port, is_loopback, unix_path

MAX_PASTED_ADDRESSES = 3
"""Addresses in the pasted line: enough for a LAN, a public and an IPv6 one; more would hide the command."""

MAX_PASTED_BESIDE_RELAYS = 2
MAX_PASTED_RELAYS = 2
"""... where there are places at relays: what is direct then helps on the same network at most."""

_CIRCUIT = "/p2p-circuit"

_PORT_SHIFT = 10_000
"""From a service's port to the suggested local one: both fit on one machine, for a first try alone."""

_SERVICES = {
    "ssh": "ssh -p {port} {name}",
    "http": "http://{endpoint}/",
    "https": "https://{endpoint}/",
    "postgres": "psql -h {host} -p {port}",
    "mysql": "mysql -h {host} -P {port} --protocol=tcp",
    "redis": "redis-cli -h {host} -p {port}",
    "mongodb": "mongosh --host {host} --port {port}",
    "vnc": "vncviewer {host}::{port}",
    "rdp": "xfreerdp /v:{endpoint}",
    "socks": "curl --socks5-hostname {endpoint} https://example.org/",
    "git": "git clone git://{endpoint}/",
}

_NAMES = {
    **{name: name for name in _SERVICES},
    "sftp": "ssh",
    "web": "http",
    "www": "http",
    "postgresql": "postgres",
    "pg": "postgres",
    "mariadb": "mysql",
    "mongo": "mongodb",
    "socks5": "socks",
}

_PORTS = {
    22: "ssh",
    80: "http",
    443: "https",
    1080: "socks",
    2222: "ssh",
    3000: "http",
    3306: "mysql",
    3389: "rdp",
    5432: "postgres",
    5900: "vnc",
    5901: "vnc",
    6379: "redis",
    8000: "http",
    8080: "http",
    8443: "https",
    9418: "git",
    27017: "mongodb",
}

_LOCAL_PORTS = {22: 2222, 80: 8080, 443: 8443}
_NAMED_LOCAL_PORTS = {"ssh": 2222, "http": 8080, "https": 8443}


def service_name(protocol: str, port: int | None) -> str | None:
    """The well-known service behind a protocol name, or behind a local port when the name says nothing."""
    for word in re.split(r"[^a-z0-9]+", protocol.lower()):
        if word in _NAMES:
            return _NAMES[word]
    if port is None:
        return None
    return _PORTS.get(port) or _PORTS.get(port - _PORT_SHIFT)


def suggested_port(protocol: str, target: str) -> int:
    """A local port for the other person's `forward`; 0 (the system chooses) when nothing suggests one.

    Never the target's own port, so that the line also runs on the machine that printed it.
    """
    parts = host_port(target)
    if parts is None:
        return _NAMED_LOCAL_PORTS.get(service_name(protocol, None) or "", 0)
    port = parts[1]
    if port in _LOCAL_PORTS:
        return _LOCAL_PORTS[port]
    shifted = port + _PORT_SHIFT
    return shifted if shifted <= 65535 else port - _PORT_SHIFT


def pasted_addresses(addresses: Sequence[str]) -> list[str]:
    """The addresses worth giving away: the first few from outside; loopback ones only if all are.

    Those that lead over a relay, one for each, are never pushed out by others: from far away there may be
    no other way.
    """
    outside = [address for address in addresses if not is_loopback(address)] or list(addresses)
    direct = [address for address in outside if _CIRCUIT not in address]
    by_relay: dict[str, str] = {}
    for address in outside:
        if _CIRCUIT in address:
            by_relay.setdefault(address.partition(_CIRCUIT)[0].rpartition("/p2p/")[2], address)
    relayed = list(by_relay.values())[:MAX_PASTED_RELAYS]
    return direct[: MAX_PASTED_BESIDE_RELAYS if relayed else MAX_PASTED_ADDRESSES] + relayed


def forward_command(protocol: str, target: str, peer: str, addresses: Sequence[str]) -> str:
    """The command line that forwards to this listen from elsewhere, quoted for a POSIX shell."""
    return forward_commands([(protocol, target)], peer, addresses)[0]


def forward_commands(listens: Sequence[tuple[str, str]], peer: str, addresses: Sequence[str]) -> list[str]:
    """The command lines that forward to these listens (protocol, target): one for all below /x/, and one for
    each of the others, whose names cannot be told from a peer.
    """
    ours = [it for it in listens if it[0].startswith("/x/")]
    groups = [ours] if ours else []
    groups += [[it] for it in listens if not it[0].startswith("/x/")]
    taken: set[int] = set()
    return [_forward_command(group, peer, addresses, taken) for group in groups]


def _forward_command(
    listens: Sequence[tuple[str, str]], peer: str, addresses: Sequence[str], taken: set[int]
) -> str:
    words = ["p2pfwd", "forward"]
    if not listens[0][0].startswith("/x/"):
        words.append("--allow-custom-protocol")
    if listens[0][0].startswith("-"):
        words.append("--")
    for protocol, target in listens:
        port = suggested_port(protocol, target)
        words += [protocol, f"127.0.0.1:{0 if port in taken else port}"]
        taken.add(port)
    words += pasted_addresses(addresses) or [peer]
    return shlex.join(words)


def close_listen_command(protocol: str) -> str:
    """The command line that closes a listen, quoted for a POSIX shell."""
    return shlex.join(["p2pfwd", "close", "-p", protocol])


def close_forward_command(listen_address: str) -> str:
    """The command line that closes this forward and no other of its protocol, quoted for a POSIX shell."""
    parts = host_port(listen_address)
    return shlex.join(["p2pfwd", "close", "-l", endpoint(*parts) if parts else listen_address])


def next_step(protocol: str, listen_address: str) -> str:
    """What to type or open to use a forward: a command, a URL, or where to connect a client."""
    parts = host_port(listen_address)
    if parts is None:
        path = unix_path(listen_address) or listen_address
        if service_name(protocol, None) == "http":
            return f"curl --unix-socket {shlex.quote(path)} http://localhost/"
        return f"connect a client to {path}"
    host, port = parts
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    name = "localhost" if host == "127.0.0.1" else host
    service = service_name(protocol, port)
    if service is None:
        return f"connect a client to {endpoint(host, port)}"
    where = endpoint(host, port)
    if "://" in _SERVICES[service]:
        where = where.replace("%", "%25")  # a zone in a URL (RFC 6874)
    return _SERVICES[service].format(host=host, port=port, name=name, endpoint=where)


def passing_addresses(taken: Sequence[int], what: str, command: str) -> tuple[str, str]:
    """The warning, and its hint, that `taken` ports of the settings were replaced until the restart.

    `what` that means for what was printed by `command`.
    """
    ports = ", ".join(map(str, taken))
    port, is_taken = ("port", "is") if len(taken) == 1 else ("ports", "are")
    return (
        f"{port} {ports} of this node's settings {is_taken} taken by another program, and it listens on "
        f"another one until the daemon restarts: {what}",
        f"free the port, or set swarm.listen to a free one, then p2pfwd shutdown and {command} again",
    )
