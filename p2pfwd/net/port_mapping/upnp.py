"""UPnP-IGD: the gateway is searched by SSDP, and asked by miniupnpc in a process of its own (`upnp_child`).

Rules: only the default gateway counts. A search ends with its first answer or after `SEARCH_S`; a question
after `QUESTION_S`, and its process with it; more than `MAX_ANSWER_BYTES` is no answer. Where the gateway was
found is remembered until it is silent there.
"""

from __future__ import annotations

import asyncio
import importlib.util
import ipaddress
import json
import logging
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from p2pfwd.errors import RemoteProtocolError
from p2pfwd.net.port_mapping.contract import No, Sign
from p2pfwd.net.port_mapping.datagrams import readable
from p2pfwd.policy.port_mapping import Grant, Protocol
from p2pfwd.system.gateway import Gateway
from p2pfwd.wire import ssdp

log = logging.getLogger("p2pfwd.mapping")

MISSING: Final = "the package miniupnpc is missing (pip install 'p2pfwd[upnp]')"

SEARCH_S: Final = 3.0
SEARCHES: Final = 4
"""Datagrams of one search, evenly spread."""

MAX_STRAY: Final = 64
"""Answers of other devices: a search for gateways has few."""

QUESTION_S: Final = 10.0
MAX_ANSWER_BYTES: Final = 4096
MAX_WORDS: Final = 100

_CHILD: Final = str(Path(__file__).with_name("upnp_child.py"))
_HOPS: Final = 2  # as UPnP says

_TAKEN: Final = frozenset({"ConflictInMappingEntry", "ConflictWithOtherMechanisms"})
_SILENT: Final = frozenset({"No UPnP device discovered", "Miniupnpc HTTP error", "Miniupnpc Socket error"})


def is_installed() -> bool:
    """Whether the library is there."""
    return importlib.util.find_spec("miniupnpc") is not None


async def search(gateway: Gateway) -> str | None:
    """The URL of the gateway's description; None: it does not answer."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            through = socket.inet_aton(gateway.own_host)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, through)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, _HOPS)
            sock.bind((gateway.own_host, 0))
            stray = 0
            for number in range(SEARCHES):
                target = ssdp.TARGETS[number % len(ssdp.TARGETS)]
                sock.sendto(ssdp.encode_search(target), (ssdp.GROUP, ssdp.PORT))
                with suppress(TimeoutError):
                    async with asyncio.timeout(SEARCH_S / SEARCHES):
                        while stray < MAX_STRAY:
                            await readable(sock)
                            data, sender = sock.recvfrom(ssdp.MAX_BYTES)
                            if sender[0] == gateway.host:
                                with suppress(RemoteProtocolError):
                                    return ssdp.decode_answer(data, gateway.host)
                            stray += 1
    except OSError as exc:  # the network is gone
        log.debug("SSDP from %s: %s", gateway.own_host, exc.strerror or exc)
    return None


async def question(*words: object) -> dict[str, Any] | None:
    """Run the child, and read its answer; None: none came in time, or none that can be read."""
    argv = (sys.executable, "-I", _CHILD, *map(str, words))
    try:
        process = await asyncio.create_subprocess_exec(
            *argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
    except OSError as exc:
        log.warning("UPnP: a process cannot be started: %s", exc.strerror or exc)
        return None
    assert process.stdout is not None
    said = b""
    try:
        async with asyncio.timeout(QUESTION_S):
            while len(said) <= MAX_ANSWER_BYTES and (more := await process.stdout.read(MAX_ANSWER_BYTES + 1)):
                said += more
            if len(said) <= MAX_ANSWER_BYTES:
                await process.wait()
    except TimeoutError:
        log.debug("UPnP: no answer within %g s", QUESTION_S)
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if len(said) > MAX_ANSWER_BYTES:
        return None
    try:
        found = json.loads(said)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


class Upnp:
    """See `contract.Way`."""

    def __init__(self) -> None:
        self._found: tuple[Gateway, str] | None = None

    async def _ask(
        self, gateway: Gateway, task: str, port: int, external_port: int, lease_s: int = 0
    ) -> dict[str, Any] | None:
        if self._found is None or self._found[0] != gateway:
            location = await search(gateway)
            if location is None:
                return None
            self._found = gateway, location
        said = await question(self._found[1], task, gateway.own_host, port, external_port, lease_s)
        if said is None or said.get("error") in _SILENT:
            self._found = None  # it may have moved: its port often changes with a restart
            return None
        return said

    async def map(
        self, gateway: Gateway, port: int, external_port: int, lease_s: int
    ) -> Grant | No | None:
        said = await self._ask(gateway, "map", port, external_port, lease_s)
        if said is None:
            return None
        if "error" in said:
            error = str(said["error"])
            return No(f"it says {_printable(error)}", error in _TAKEN)
        host, granted_s = _host(said.get("host")), said.get("lease_s")
        if host is None or not isinstance(granted_s, int):
            return No("it does not say its external address")
        if said.get("has_mapping") is not True:
            return No("it says that it maps the port, and has no such mapping")
        return Grant(Protocol.UPNP, host, external_port, granted_s)

    async def check(self, gateway: Gateway, port: int, grant: Grant) -> Sign | None:
        said = await self._ask(gateway, "check", port, grant.port)
        if said is None:
            return None
        return Sign(None, _host(said.get("host")), said.get("has_mapping") is True)

    async def unmap(self, gateway: Gateway, port: int, grant: Grant) -> None:
        await self._ask(gateway, "unmap", port, grant.port)


def _host(said: object) -> str | None:
    """An IPv4 address, or None."""
    try:
        return str(ipaddress.IPv4Address(said)) if isinstance(said, str) else None
    except ValueError:
        return None


def _printable(words: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in words[:MAX_WORDS])
