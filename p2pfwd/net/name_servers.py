"""Asking name servers (DNS): those of resolv.conf, read anew whenever it changes, or those of the settings.

For what the system's resolver cannot do: TXT records, chosen servers, and names that others told, which must
find neither the hosts file nor the search domains. A failure is one clause with the name in it, whatever the
files of the system have in them. dnspython is imported with the first question.
"""

from __future__ import annotations

from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.typed import parse_name_server
from p2pfwd.policy.dial_plan import is_local
from p2pfwd.system.descriptors import reason
from p2pfwd.system.host_names import (
    LOOKUP_S,
    RESOLV_CONF,
    NameFailed,
    fingerprint,
    lines,
    name_servers,
    no_name_server,
)

if TYPE_CHECKING:
    from dns.asyncresolver import Resolver as DnsResolver
    from dns.nameserver import Nameserver

LIFETIME_S: Final = LOOKUP_S
"""One question, over all servers and repetitions."""

Kind = Literal["A", "AAAA", "TXT"]
_WORDS: Final = {"A": "IPv4 address", "AAAA": "IPv6 address", "TXT": "TXT record"}


class NameServers:
    """servers: `ip` or `ip:port` each; none: the system's. local_only: of those given, only those on this
    machine or in its own network, and never the system's, which pass questions on.
    """

    def __init__(
        self, servers: Sequence[str] = (), *, local_only: bool = False, resolv_conf: Path = RESOLV_CONF
    ) -> None:
        self.chosen = bool(servers)
        """Whether the settings name servers."""
        self._servers = tuple(servers)
        self._local_only = local_only
        self._resolv_conf = resolv_conf
        self._dns: DnsResolver | None = None
        self._read: Any = None

    async def ask(self, name: str, kind: Kind) -> list[str]:
        """The records of `name` (absolute), as text; at least one. Raises NameFailed."""
        try:
            from dns import resolver as dns
            from dns.exception import DNSException, Timeout
        except (ImportError, OSError) as exc:  # no descriptor is left to read it with
            raise NameFailed(f"{name} cannot be looked up: {_why(exc)}") from exc
        try:
            resolver = self._resolver()
            if not resolver.nameservers:
                raise NameFailed(self._nobody(name))
            answer = await resolver.resolve(name, kind)
        except NameFailed:
            raise
        except dns.NXDOMAIN:
            raise NameFailed(f"the name {name} does not exist") from None
        except dns.NoAnswer:
            raise NameFailed(f"{name} has no {_WORDS[kind]}") from None
        except Timeout:
            servers = _listed(resolver)
            raise NameFailed(f"no answer for {name} within {LIFETIME_S:g} s from {servers}") from None
        except dns.NoNameservers:
            raise NameFailed(f"no name server can tell about {name} ({_listed(resolver)})") from None
        except (DNSException, ImportError, OSError, ValueError) as exc:
            raise NameFailed(f"{name} cannot be looked up: {_why(exc)}") from exc
        if kind == "TXT":
            return [b"".join(record.strings).decode("utf-8", "replace") for record in answer]
        return [record.to_text() for record in answer]

    def _resolver(self) -> DnsResolver:
        """With nobody to ask where there is nobody. Raises DNSException where this machine's name is none."""
        if self._dns is not None and (self.chosen or self._read == fingerprint(self._resolv_conf)):
            return self._dns
        from dns.asyncresolver import Resolver as DnsResolver
        from dns.nameserver import Do53Nameserver

        self._dns = None
        if self.chosen or self._local_only:
            resolver = DnsResolver(configure=False)
            parsed = map(parse_name_server, self._servers)
            servers: list[str | Nameserver] = [Do53Nameserver(*server) for server in parsed]
            resolver.nameservers = list(filter(_is_local, servers)) if self._local_only else servers
        else:
            self._read = fingerprint(self._resolv_conf)  # before it is read: a change meanwhile is seen
            found = [f"nameserver {server}" for server in name_servers(self._resolv_conf)]
            # dnspython refuses a whole file for one line that it does not understand. Search domains are left
            # out with them: the names are absolute.
            options = [line for line in lines(self._resolv_conf) if line.startswith("options")]
            text = StringIO("\n".join([*found, *options]))
            resolver = DnsResolver(filename=text) if found else DnsResolver(configure=False)
        resolver.lifetime = LIFETIME_S
        if resolver.nameservers:  # else the file may be readable the next time
            self._dns = resolver
        return resolver

    def _nobody(self, name: str) -> str:
        if not (self.chosen or self._local_only):
            return no_name_server(name, self._resolv_conf)
        why = "the system's name servers pass questions on"
        if self.chosen:
            why = "none of swarm.dns_servers is in it"
        return (
            f"{name} is not looked up outside the local network, where this node stays: {why} "
            "(name it in the hosts file, or a name server of the local network in swarm.dns_servers)"
        )


def _why(exc: Exception) -> str:
    if isinstance(exc, OSError) and exc.errno is not None:
        return reason(exc.errno)
    return str(exc).rstrip(".") or type(exc).__name__


def _address(server: str | Nameserver) -> str:
    return server if isinstance(server, str) else server.answer_nameserver()


def _listed(resolver: DnsResolver) -> str:
    return " and ".join(dict.fromkeys(map(_address, resolver.nameservers)))


def _is_local(server: str | Nameserver) -> bool:
    host = _address(server)
    family = "ip6" if ":" in host else "ip4"
    return is_local(Multiaddr.parse(f"/{family}/{host.partition('%')[0]}"))
