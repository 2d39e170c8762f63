"""Names in multiaddrs (libp2p spec: addressing): dns, dns4, dns6 to addresses of a host, dnsaddr by TXT.

Names that the owner gave are resolved as any program of this machine resolves them (`system.host_names`),
unless the settings name the servers. Names that others told, in a dnsaddr too, go to name servers only: they
must find neither the hosts file nor a search domain. In the local network nothing is asked beyond it: the
hosts file, `.local` where the system asks the segment, and the servers that the settings name.

The TXT records of a dnsaddr are those of `_dnsaddr.<domain>`. An entry counts only if it ends with what
followed `/dnsaddr/<domain>` in the question; entries may name further dnsaddrs, to a bounded depth and in
bounded number.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.errors import InvalidMultiaddr, PeerNotFound
from p2pfwd.net.name_servers import Kind, NameServers
from p2pfwd.policy.undialable import why_undialable
from p2pfwd.system import host_names
from p2pfwd.system.host_names import FAMILY_OF, HostAddress, HostNames, NameFailed

MAX_DEPTH: Final = 4
"""dnsaddr entries that name dnsaddrs; as go."""

MAX_RESULTS: Final = 100
"""Addresses out of one name, as go: a hostile zone must not fill the dialer."""

MAX_QUESTIONS: Final = 64
"""Questions to name servers for one name that the owner gave: bootstrap.libp2p.io takes about thirty."""

MAX_STRANGERS_QUESTIONS: Final = 16
"""The same for a name that others told: each entry of a hostile zone may lead to as many again, and nothing
but the dial's end would end it."""

HOST_NAMES: Final[dict[str, tuple[Kind, ...]]] = {"dns": ("A", "AAAA"), "dns4": ("A",), "dns6": ("AAAA",)}
_KIND_FAMILY: Final = {"A": int(socket.AF_INET), "AAAA": int(socket.AF_INET6)}


def has_name(addr: Multiaddr) -> bool:
    """Whether `addr` must be resolved before it can be dialed."""
    return any(name == "dnsaddr" or name in HOST_NAMES for name, _ in addr.components())


class _Questions:
    """How many may yet be asked for one name."""

    def __init__(self, most: int) -> None:
        self._most = self._left = most

    def take(self, name: str, count: int) -> None:
        """Before so many are asked. Raises NameFailed."""
        if self._left < count:
            raise NameFailed(f"{name} is not looked up: {self._most} questions for one address are enough")
        self._left -= count


class Resolver:
    """servers: `ip` or `ip:port` each; empty means the system's way. local_only: see above."""

    def __init__(
        self,
        servers: Sequence[str] = (),
        *,
        local_only: bool = False,
        names: HostNames = host_names.SYSTEM_NAMES,
        resolv_conf: Path = host_names.RESOLV_CONF,
    ) -> None:
        self._servers = NameServers(servers, local_only=local_only, resolv_conf=resolv_conf)
        self._local_only = local_only
        self._names = names

    async def resolve(self, addr: Multiaddr, *, trusted: bool = True) -> list[Multiaddr]:
        """The addresses without names behind `addr`; itself if it has none.

        One that could not be dialed either way stays as it is: its name is nobody's business.
        `trusted`: the owner gave it, others did not tell it. Raises PeerNotFound, whose message begins with
        `DNS: `, when a name does not exist or nobody answers.
        """
        try:
            questions = _Questions(MAX_QUESTIONS if trusted else MAX_STRANGERS_QUESTIONS)
            return (await self._resolve(addr, trusted, MAX_DEPTH, questions))[:MAX_RESULTS]
        except NameFailed as exc:
            raise PeerNotFound(f"DNS: {exc}") from exc

    async def _resolve(
        self, addr: Multiaddr, trusted: bool, depth: int, questions: _Questions
    ) -> list[Multiaddr]:
        if why_undialable(addr, lambda _zone: True) is not None:
            return [addr]
        components = addr.components()
        for i, (name, value) in enumerate(components):
            if name == "dnsaddr" and value is not None:
                return await self._dnsaddr(value, components[i + 1 :], depth, questions)
            if name in HOST_NAMES and value is not None:
                found = await self._host(value, name, trusted, questions)
                return [_join([*components[:i], *_parts(one), *components[i + 1 :]]) for one in found]
        return [addr]

    async def _host(
        self, host: str, component: str, trusted: bool, questions: _Questions
    ) -> list[HostAddress]:
        kinds, family = HOST_NAMES[component], FAMILY_OF[component]
        if host.rstrip(".").lower() == "localhost":  # never asked of a name server (RFC 6761)
            loopback = {"A": "127.0.0.1", "AAAA": "::1"}
            return [HostAddress(_KIND_FAMILY[kind], loopback[kind]) for kind in kinds]
        if trusted and not self._servers.chosen and not self._local_only:
            return await self._names.find(host, family)
        if trusted and self._local_only:
            if found := host_names.in_hosts_file(host, family):
                return found
            if host.rstrip(".").lower().endswith(".local") and host_names.asks_local_names_locally():
                return await self._names.find(host, family)
        questions.take(host, len(kinds))
        return await self._ask_for_host(host, kinds)

    async def _ask_for_host(self, host: str, kinds: Sequence[Kind]) -> list[HostAddress]:
        questions = [self._servers.ask(host, kind) for kind in kinds]
        answers = await asyncio.gather(*questions, return_exceptions=True)
        found: list[HostAddress] = []
        for kind, answer in zip(kinds, answers, strict=True):
            if isinstance(answer, list):
                found += [HostAddress(_KIND_FAMILY[kind], text) for text in answer]
            elif not isinstance(answer, NameFailed):
                raise answer
        if not found:
            (*_, failure) = answers
            assert isinstance(failure, NameFailed)
            raise failure
        return found

    async def _dnsaddr(
        self, domain: str, suffix: Sequence[tuple[str, str | None]], depth: int, questions: _Questions
    ) -> list[Multiaddr]:
        if depth == 0:
            raise NameFailed(f"dnsaddr entries of {domain} are nested more than {MAX_DEPTH} deep")
        questions.take(domain, 1)
        found: list[Multiaddr] = []
        failure: NameFailed | None = None
        for text in await self._servers.ask(f"_dnsaddr.{domain}", "TXT"):
            if not text.startswith("dnsaddr="):
                continue
            try:
                entry = Multiaddr.parse(text.removeprefix("dnsaddr="))
            except InvalidMultiaddr:
                continue  # one entry of somebody's zone; the others may be good
            if tuple(entry.components()[-len(suffix) :]) == tuple(suffix) or not suffix:
                try:
                    found += await self._resolve(entry, False, depth - 1, questions)
                except NameFailed as exc:
                    failure = exc  # and so may the names they lead to
            if len(found) >= MAX_RESULTS:
                break
        if not found and failure is not None:
            raise failure
        return found


def _parts(found: HostAddress) -> list[tuple[str, str | None]]:
    host, _, zone = found.host.partition("%")
    if found.family == socket.AF_INET:
        return [("ip4", host)]
    return [("ip6zone", zone), ("ip6", host)] if zone else [("ip6", host)]


def _join(components: Sequence[tuple[str, str | None]]) -> Multiaddr:
    parts = (f"/{name}" if value is None else f"/{name}/{value}" for name, value in components)
    return Multiaddr.parse("".join(parts))
