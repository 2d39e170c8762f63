"""Host names as the system resolves them: hosts file, search domains, `.local`, whatever NSS is to ask.

Rules: every look-up (getaddrinfo) has a thread of its own, which ends with it; there are at most
`MAX_LOOKUPS`; who asks for a name that is being looked up shares that look-up. So a module of NSS that hangs
holds one thread per name and no other name's. A wait is bounded, whatever becomes of the thread. A new thread
also reads resolv.conf anew: glibc keeps what it read per thread, and looks again only since 2.26. Where
resolv.conf, nsswitch.conf or the hosts file has changed, the next one who asks begins anew: what runs may
wait half a minute for name servers of another network. Such threads are at most `MAX_LOOKUPS` more.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import socket
from collections.abc import Callable
from concurrent.futures import Future
from itertools import takewhile
from pathlib import Path
from threading import Thread
from typing import Any, Final, NamedTuple

from p2pfwd.system.descriptors import reason

MAX_LOOKUPS: Final = 16
"""Look-ups at one time: more than a start with all its bootstrap peers needs, and 16 idle stacks at worst."""

LOOKUP_S: Final = 8.0
"""How long a name is waited for: less than a command waits for its peer, to say then what is missing."""

MAX_FILE_BYTES: Final = 1 << 20
"""Of resolv.conf, nsswitch.conf and the hosts file; longer ones are lists for blocking, read to here."""

RESOLV_CONF: Final = Path("/etc/resolv.conf")
NSSWITCH_CONF: Final = Path("/etc/nsswitch.conf")
HOSTS_FILE: Final = Path("/etc/hosts")

_NO_ADDRESS: Final = tuple(
    getattr(socket, name) for name in ("EAI_NODATA", "EAI_ADDRFAMILY") if hasattr(socket, name)
)
FAMILY_OF: Final = {"dns": socket.AF_UNSPEC, "dns4": socket.AF_INET, "dns6": socket.AF_INET6}
"""What is asked for a name in a multiaddr, by its component."""

_FAMILIES: Final = {socket.AF_INET: "IPv4 ", socket.AF_INET6: "IPv6 "}


class NameFailed(OSError):
    """A name has no address, or nobody could tell; its text is one clause with the name in it."""


class HostAddress(NamedTuple):
    """One address of a name: AF_INET or AF_INET6, and its text; a link-local one has its zone behind `%`."""

    family: int
    host: str


Lookup = Callable[[str, int], list[HostAddress]]
_Outcome = list[HostAddress] | BaseException
"""An exception as a value: nobody may be left to retrieve it."""


class _Begun(NamedTuple):
    """A look-up under way, and the fingerprints of the system's files from before."""

    future: Future[_Outcome]
    setup: Any


def look_up(host: str, family: int) -> list[HostAddress]:
    """getaddrinfo, waiting as long as it takes. Raises OSError, UnicodeError."""
    found: dict[HostAddress, None] = {}
    for kind, _, _, _, sockaddr in socket.getaddrinfo(host, None, family, socket.SOCK_STREAM):
        text, scope = str(sockaddr[0]), sockaddr[3] if len(sockaddr) == 4 else 0
        found[HostAddress(int(kind), f"{text}%{scope}" if scope and "%" not in text else text)] = None
    return list(found)


class HostNames:
    """The look-ups of a process. Used from one thread, that of its event loop."""

    def __init__(self, lookup: Lookup = look_up, resolv_conf: Path = RESOLV_CONF) -> None:
        self._lookup = lookup
        self._resolv_conf = resolv_conf
        self._under_way: dict[tuple[str, int], _Begun] = {}
        self._outdated: list[Future[_Outcome]] = []
        """Under way, and shared with nobody any more: they ask as the system was set up before."""

    async def find(
        self, host: str, family: int = socket.AF_UNSPEC, timeout_s: float = LOOKUP_S
    ) -> list[HostAddress]:
        """The addresses of `host`, at least one, in the system's order of preference. Raises NameFailed."""
        future: Future[_Outcome] | None = None
        try:
            async with asyncio.timeout(timeout_s):
                future = await self._begun(host, family)
                # Not cancelled with us: it runs, and others may wait for it.
                found = await asyncio.wrap_future(future)
            if isinstance(found, BaseException):
                raise found
        except TimeoutError:
            if future is not None:
                raise NameFailed(f"no answer for {host} within {timeout_s:g} s") from None
            raise NameFailed(f"{host} waits for {MAX_LOOKUPS} other names that nobody answers") from None
        except UnicodeError:  # no host name, by its own rules
            raise NameFailed(f"{host} cannot be a host name") from None
        except OSError as exc:
            raise NameFailed(self._why(host, family, exc)) from exc
        if not found:
            raise NameFailed(f"{host} has no address")
        return found

    async def _begun(self, host: str, family: int) -> Future[_Outcome]:
        key = (host, family)
        while True:
            setup = tuple(map(fingerprint, (self._resolv_conf, NSSWITCH_CONF, HOSTS_FILE)))
            self._tidy(setup)
            if (begun := self._under_way.get(key)) is not None:
                return begun.future
            if len(self._under_way) < MAX_LOOKUPS:
                break
            waits = [asyncio.wrap_future(begun.future) for begun in self._under_way.values()]
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for wait in waits:
                    wait.cancel()  # they may outlive the loop
        future: Future[_Outcome] = Future()
        self._under_way[key] = _Begun(future, setup)
        future.set_running_or_notify_cancel()  # from now on nobody can cancel it
        # A daemon thread: one that hangs does not keep the process from ending.
        thread = Thread(target=self._run, args=(future, host, family), name=f"look up {host}", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            future.set_result(OSError(errno.EAGAIN, "this machine allows this process no more threads"))
        return future

    def _tidy(self, setup: Any) -> None:
        self._outdated = [future for future in self._outdated if not future.done()]
        for key, begun in list(self._under_way.items()):
            if begun.future.done():
                del self._under_way[key]
            elif begun.setup != setup and len(self._outdated) < MAX_LOOKUPS:
                self._outdated.append(begun.future)
                del self._under_way[key]

    def _run(self, future: Future[_Outcome], host: str, family: int) -> None:
        try:
            outcome: _Outcome = self._lookup(host, family)
        except Exception as exc:  # noqa: BLE001 - this thread's root: whoever waits for the name is told
            outcome = exc
        future.set_result(outcome)

    def _why(self, host: str, family: int, exc: OSError) -> str:
        kind = _FAMILIES.get(socket.AddressFamily(family), "")
        if exc.errno == socket.EAI_NONAME:
            return f"the name {host} does not exist"
        if exc.errno in _NO_ADDRESS:
            return f"{host} has no {kind}address"
        if exc.errno in (socket.EAI_AGAIN, socket.EAI_FAIL):
            servers = name_servers(self._resolv_conf)
            if not servers:
                return no_name_server(host, self._resolv_conf)
            answers = "answers" if exc.errno == socket.EAI_AGAIN else "can tell"
            return f"no name server {answers} for {host} ({', '.join(servers)} in {self._resolv_conf})"
        return f"{host} cannot be looked up: {exc.strerror or exc}"


SYSTEM_NAMES: Final = HostNames()
"""The process's: its bound on threads is one for all who ask."""


def no_name_server(host: str, resolv_conf: Path = RESOLV_CONF) -> str:
    """The clause for a name that nobody can be asked for."""
    what = "names no name server by its IP address" if _named(resolv_conf) else "names no name server"
    try:
        resolv_conf.open("rb").close()
    except FileNotFoundError:
        pass  # as good as an empty one
    except OSError as exc:
        what = f"cannot be read: {reason(exc.errno)}"
    return (
        f"{host} cannot be looked up, {resolv_conf} {what} "
        "(add one there or in swarm.dns_servers, or give an IP address)"
    )


def name_servers(resolv_conf: Path = RESOLV_CONF) -> list[str]:
    """The name servers of a resolv.conf; none where there is no such file.

    Without those that are no IP addresses: the system leaves them out, too.
    """
    return list(filter(_is_address, _named(resolv_conf)))


def _named(resolv_conf: Path) -> list[str]:
    words = (line.split() for line in lines(resolv_conf))
    return [rest[0] for first, *rest in filter(None, words) if first == "nameserver" and rest]


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def in_hosts_file(host: str, family: int = socket.AF_UNSPEC, path: Path = HOSTS_FILE) -> list[HostAddress]:
    """The addresses of `host` in the hosts file, without asking anybody (hosts(5)).

    A line without an address is left out.
    """
    wanted = host.lower().rstrip(".")
    found: list[HostAddress] = []
    for line in lines(path):
        address, *names = line.partition("#")[0].split() or [""]
        if wanted in (name.lower() for name in names) and _is_address(address):
            kind = socket.AF_INET6 if ":" in address else socket.AF_INET
            if family in (socket.AF_UNSPEC, kind):
                found.append(HostAddress(kind, address))
    return found


def asks_local_names_locally(path: Path = NSSWITCH_CONF) -> bool:
    """Whether NSS asks the local network, by mDNS, for names below `.local`, before any name server."""
    for line in lines(path):
        database, _, modules = line.partition("#")[0].partition(":")
        if database.strip() == "hosts":
            before = takewhile(lambda module: module != "dns", modules.split())
            return any("mdns" in module for module in before)
    return False


def lines(path: Path) -> list[str]:
    """Of a text file of the system's; bytes that are no text are replaced. None where it cannot be read."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.read(MAX_FILE_BYTES).splitlines()
    except OSError:  # not there, or not to be read: nothing is in it for us
        return []


def fingerprint(path: Path) -> Any:
    """Equal as long as the file at `path` is the same and unchanged; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size)
