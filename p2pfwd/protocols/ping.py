"""Ping on the swarm, `/ipfs/ping/1.0.0`: 32 bytes echoed, as often as the opener likes."""

from __future__ import annotations

import asyncio
import os

from p2pfwd.errors import RemoteProtocolError, StreamReset, TimedOut
from p2pfwd.net.link.conn import Conn
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

    async def ping(self, conn: Conn, timeout_s: float) -> float:
        """One round trip on a stream of its own; seconds, negotiation not counted.

        Raises TimedOut, ProtocolNotSupported, RemoteProtocolError on a wrong echo, ConnectionLost.
        """
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout_s):
                stream = await conn.open_stream([wire.ID], timeout_s)
                try:
                    payload = os.urandom(wire.PAYLOAD_BYTES)
                    begin = loop.time()
                    await stream.write(payload)
                    echo = await stream.read_exactly(wire.PAYLOAD_BYTES)
                    rtt_s = loop.time() - begin
                except BaseException:
                    stream.reset()
                    raise
                await stream.close()
        except TimeoutError:
            raise TimedOut(f"{conn.remote_peer} did not answer a ping within {timeout_s:g} s") from None
        if echo != payload:
            raise RemoteProtocolError(f"ping: {conn.remote_peer} echoed other bytes")
        return rtt_s
