"""PCP and NAT-PMP by UDP: a question is sent `len(PAUSES_S)` times, until the gateway answers it.

Rules: the socket is connected, so it hears the gateway alone, and hears at once where nobody listens there.
An answer that is none to our question does not end the wait; after `MAX_STRAY` of them nobody is listened to.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable
from typing import Final, TypeVar

from p2pfwd.errors import RemoteProtocolError
from p2pfwd.net.port_mapping.contract import No, Sign
from p2pfwd.policy.port_mapping import Grant, Protocol
from p2pfwd.system.gateway import Gateway
from p2pfwd.wire import port_mapping as wire

log = logging.getLogger("p2pfwd.mapping")

PAUSES_S: Final = (0.25, 0.5, 1.0)
"""As RFC 6886 3.1 begins; a router on the same network has answered by then."""

MAX_STRAY: Final = 16

T = TypeVar("T")


async def readable(sock: socket.socket) -> None:
    """Until something has come."""
    loop = asyncio.get_running_loop()  # uvloop has no sock_recvfrom
    came = asyncio.Event()
    loop.add_reader(sock, came.set)
    try:
        await came.wait()
    finally:
        loop.remove_reader(sock)


async def ask(gateway: Gateway, question: bytes, read: Callable[[bytes], T]) -> T | None:
    """The gateway's answer as `read` understands it; None: there is none."""
    stray = 0
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.bind((gateway.own_host, 0))
            sock.connect((gateway.host, wire.PORT))
            for pause_s in PAUSES_S:
                sock.send(question)
                try:
                    async with asyncio.timeout(pause_s):
                        while stray < MAX_STRAY:
                            await readable(sock)
                            data = sock.recv(wire.MAX_PCP_BYTES + 1)
                            try:
                                return read(data)
                            except RemoteProtocolError as exc:
                                stray += 1
                                log.debug("%s: %s", gateway.host, exc.message)
                except TimeoutError:
                    continue
                break
    except OSError as exc:  # nobody listens there, or the network is gone
        log.debug("%s, port %d: %s", gateway.host, wire.PORT, exc.strerror or exc)
    return None


class Pcp:
    """See `contract.Way`. One nonce a port, for as long as the process lives."""

    def __init__(self, nonce: Callable[[int], bytes] = os.urandom) -> None:
        self._draw = nonce
        self._nonces: dict[int, bytes] = {}

    async def map(
        self, gateway: Gateway, port: int, external_port: int, lease_s: int
    ) -> Grant | No | None:
        nonce = self._nonces.setdefault(port, self._draw(wire.NONCE_BYTES))
        question = wire.encode_pcp_map(gateway.own_host, nonce, port, external_port, lease_s)
        said = await ask(gateway, question, lambda data: wire.decode_pcp_map(data, nonce, port))
        if said is None or isinstance(said, wire.Refusal):
            return _no(said)
        if not said.lifetime_s or said.host is None:
            return No("it maps nothing for any time")
        return Grant(Protocol.PCP, said.host, said.external_port, said.lifetime_s, said.epoch_s)

    async def check(self, gateway: Gateway, port: int, grant: Grant) -> Sign | None:
        said = await ask(gateway, wire.encode_pcp_announce(gateway.own_host), wire.decode_pcp_announce)
        if isinstance(said, wire.Refusal):  # one that knows no ANNOUNCE is there, and that is all it says
            return Sign(has_mapping=said.is_opcode)
        return None if said is None else Sign(said.epoch_s)

    async def unmap(self, gateway: Gateway, port: int, grant: Grant) -> None:
        await self.map(gateway, port, grant.port, 0)


class NatPmp:
    """See `contract.Way`."""

    async def map(
        self, gateway: Gateway, port: int, external_port: int, lease_s: int
    ) -> Grant | No | None:
        outside = await ask(gateway, wire.encode_pmp_address(), wire.decode_pmp_address)
        if outside is None or isinstance(outside, wire.Refusal):
            return _no(outside)
        question = wire.encode_pmp_map(port, external_port, lease_s)
        said = await ask(gateway, question, lambda data: wire.decode_pmp_map(data, port))
        if said is None or isinstance(said, wire.Refusal):
            return _no(said)
        if not said.lifetime_s:
            return No("it maps nothing for any time")
        return Grant(Protocol.NAT_PMP, outside.host, said.external_port, said.lifetime_s, said.epoch_s)

    async def check(self, gateway: Gateway, port: int, grant: Grant) -> Sign | None:
        said = await ask(gateway, wire.encode_pmp_address(), wire.decode_pmp_address)
        if isinstance(said, wire.Refusal):
            return Sign(has_mapping=False)
        return None if said is None else Sign(said.epoch_s, said.host)

    async def unmap(self, gateway: Gateway, port: int, grant: Grant) -> None:
        question = wire.encode_pmp_map(port, 0, 0)
        await ask(gateway, question, lambda data: wire.decode_pmp_map(data, port))


def _no(said: wire.Refusal | None) -> No | None:
    return None if said is None or said.is_version else No(said.words)
