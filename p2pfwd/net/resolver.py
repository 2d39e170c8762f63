"""Names in multiaddrs (libp2p spec: addressing): dns4, dns6, dns by A and AAAA, dnsaddr by TXT.

The TXT records are those of `_dnsaddr.<domain>`. An entry counts only if it ends with what followed
`/dnsaddr/<domain>` in the question; entries may name further dnsaddrs, to a bounded depth. dnspython is
imported on the first name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.errors import InvalidMultiaddr, PeerNotFound
from p2pfwd.policy.dial_plan import is_local

if TYPE_CHECKING:
    from dns.asyncresolver import Resolver as DnsResolver
    from dns.nameserver import Nameserver

MAX_DEPTH: Final = 4
"""dnsaddr entries that name dnsaddrs; as go."""

MAX_RESULTS: Final = 100
"""Addresses out of one name, as go: a hostile zone must not fill the dialer."""

LIFETIME_S: Final = 10.0
HOST_NAMES: Final = {"dns": ("A", "AAAA"), "dns4": ("A",), "dns6": ("AAAA",)}
_FAMILY: Final = {"A": "ip4", "AAAA": "ip6"}


def has_name(addr: Multiaddr) -> bool:
    """Whether `addr` must be resolved before it can be dialed."""
    return any(name == "dnsaddr" or name in HOST_NAMES for name, _ in addr.components())


class Resolver:
    """servers: `ip` or `ip:port` each; empty means the system's. local_only: ask only those of them that
    are on this machine or in its own network.
    """

    def __init__(self, servers: Sequence[str] = (), *, local_only: bool = False) -> None:
        self._servers = tuple(servers)
        self._local_only = local_only
        self._dns: DnsResolver | None = None

    def _resolver(self) -> DnsResolver:
        if self._dns is None:
            from dns.asyncresolver import Resolver as DnsResolver
            from dns.nameserver import Do53Nameserver

            self._dns = DnsResolver(configure=not self._servers)
            self._dns.lifetime = LIFETIME_S
            if self._servers:
                self._dns.nameservers = [Do53Nameserver(*_host_port(server)) for server in self._servers]
            if self._local_only:
                self._dns.nameservers = list(filter(_is_local, self._dns.nameservers))
        return self._dns

    async def resolve(self, addr: Multiaddr) -> list[Multiaddr]:
        """The addresses without names behind `addr`; itself if it has none.

        Raises PeerNotFound when a name does not exist or nobody answers.
        """
        return (await self._resolve(addr, MAX_DEPTH))[:MAX_RESULTS]

    async def _resolve(self, addr: Multiaddr, depth: int) -> list[Multiaddr]:
        components = addr.components()
        for i, (name, value) in enumerate(components):
            if name == "dnsaddr" and value is not None:
                return await self._dnsaddr(value, components[i + 1 :], depth)
            if name in HOST_NAMES and value is not None:
                found = []
                for family, host in await self._host(value, HOST_NAMES[name]):
                    parts = [*components[:i], (family, host), *components[i + 1 :]]
                    found.append(_join(parts))
                return found
        return [addr]

    async def _host(self, host: str, kinds: Sequence[str]) -> list[tuple[str, str]]:
        if host == "localhost":  # never asked of a name server (RFC 6761)
            loopback = {"A": "127.0.0.1", "AAAA": "::1"}
            return [(_FAMILY[kind], loopback[kind]) for kind in kinds]
        found: list[tuple[str, str]] = []
        error: Exception | None = None
        for kind in kinds:
            try:
                found += [(_FAMILY[kind], text) for text in await self._ask(host, kind)]
            except PeerNotFound as exc:
                error = exc
        if not found:
            raise error or PeerNotFound(f"DNS: {host} has no address")
        return found

    async def _dnsaddr(
        self, domain: str, suffix: Sequence[tuple[str, str | None]], depth: int
    ) -> list[Multiaddr]:
        if depth == 0:
            raise PeerNotFound(f"DNS: dnsaddr entries of {domain} are nested more than {MAX_DEPTH} deep")
        found: list[Multiaddr] = []
        error: PeerNotFound | None = None
        for text in await self._ask(f"_dnsaddr.{domain}", "TXT"):
            if not text.startswith("dnsaddr="):
                continue
            try:
                entry = Multiaddr.parse(text.removeprefix("dnsaddr="))
            except InvalidMultiaddr:
                continue  # one entry of somebody's zone; the others may be good
            if tuple(entry.components()[-len(suffix) :]) == tuple(suffix) or not suffix:
                try:
                    found += await self._resolve(entry, depth - 1)
                except PeerNotFound as exc:
                    error = exc  # and so may the names they lead to
            if len(found) >= MAX_RESULTS:
                break
        if not found and error is not None:
            raise error
        return found

    async def _ask(self, name: str, kind: str) -> list[str]:
        from dns.exception import DNSException

        resolver = self._resolver()
        if self._local_only and not resolver.nameservers:
            raise PeerNotFound(
                f"DNS: {name} is not looked up: no name server is in the local network, where this node stays"
            )
        try:
            answer = await resolver.resolve(name, kind)
        except DNSException as exc:
            reason = str(exc).rstrip(".") or type(exc).__name__
            raise PeerNotFound(f"DNS: no {kind} record for {name}: {reason}") from exc
        if kind == "TXT":
            return [b"".join(record.strings).decode("utf-8", "replace") for record in answer]
        return [record.to_text() for record in answer]


def _host_port(server: str) -> tuple[str, int]:
    host, colon, port = server.rpartition(":")
    if colon and port.isdigit() and (host.startswith("[") or ":" not in host):
        return host.strip("[]"), int(port)
    return server, 53


def _is_local(server: str | Nameserver) -> bool:
    host = server if isinstance(server, str) else server.answer_nameserver()
    family = "ip6" if ":" in host else "ip4"
    return is_local(Multiaddr.parse(f"/{family}/{host.partition('%')[0]}"))


def _join(components: Sequence[tuple[str, str | None]]) -> Multiaddr:
    parts = (f"/{name}" if value is None else f"/{name}/{value}" for name, value in components)
    return Multiaddr.parse("".join(parts))
