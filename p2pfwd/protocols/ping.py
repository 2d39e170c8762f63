"""Ping on the swarm, `/ipfs/ping/1.0.0`: 32 bytes echoed, as often as the opener likes."""

from __future__ import annotations

import os
import time

from p2pfwd.errors import StreamReset, TimedOut
from p2pfwd.net.exchange import exchange
from p2pfwd.net.link.contract import Link
from p2pfwd.net.services import Service
from p2pfwd.net.swarm import Swarm
from p2pfwd.net.visits import Visit
from p2pfwd.policy.service_bounds import PING, Bounds
from p2pfwd.wire import ping as wire


class Ping:
    """The service; registers itself on the swarm."""

    def __init__(self, swarm: Swarm, bounds: Bounds = PING) -> None:
        swarm.services.serve(Service(name=wire.ID, talk=self._answer, bounds=bounds))

    async def _answer(self, visit: Visit) -> None:
        try:
            while (block := await visit.block()) is not None:
                await visit.send(block)
            await visit.stream.close()
        except StreamReset:
            pass  # how many implementations end a ping

    async def ping(self, conn: Link, timeout_s: float) -> float:
        """One round trip on a stream of its own; seconds, negotiation not counted.

        The clock is the system's: uvloop's is a millisecond coarse, and stands still while callbacks run.

        Raises TimedOut, ProtocolNotSupported, RemoteProtocolError on a wrong echo, ConnectionLost.
        """
        try:
            async with exchange(conn, wire.ID, timeout_s) as stream:
                payload = os.urandom(wire.PAYLOAD_BYTES)
                begin = time.monotonic()
                await stream.write(payload)
                echo = await stream.read_exactly(wire.PAYLOAD_BYTES)
                rtt_s = time.monotonic() - begin
        except TimeoutError:
            raise TimedOut(f"{conn.remote_peer} did not answer a ping within {timeout_s:.3g} s") from None
        wire.check_echo(payload, echo)
        return rtt_s
