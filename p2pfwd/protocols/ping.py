"""Ping on the swarm, `/ipfs/ping/1.0.0`: 32 bytes echoed, as often as the opener likes."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Final

from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import StreamReset, TimedOut
from p2pfwd.net.link.conn import Conn
from p2pfwd.net.link.stream import Stream
from p2pfwd.net.services import Service
from p2pfwd.net.swarm import Swarm
from p2pfwd.wire import ping as wire

IDLE_S: Final = 60.0
"""A ping stream silent for this long is closed."""

MAX_STREAMS_PER_PEER: Final = 2
"""Inbound ping streams of one peer, as go."""


class Ping:
    """The service; registers itself on the swarm."""

    def __init__(self, swarm: Swarm) -> None:
        self._serving: dict[PeerId, int] = {}
        swarm.services.serve(Service(name=wire.ID, handler=self._answer))

    async def _answer(self, stream: Stream) -> None:
        peer = stream.remote_peer
        serving = self._serving.get(peer, 0)
        if serving >= MAX_STREAMS_PER_PEER:
            stream.reset()
            return
        self._serving[peer] = serving + 1
        try:
            while True:
                async with asyncio.timeout(IDLE_S):
                    first = await stream.read(wire.PAYLOAD_BYTES)
                    if not first:
                        break
                    rest = wire.PAYLOAD_BYTES - len(first)
                    await stream.write(first + await stream.read_exactly(rest))
            await stream.close()
        except TimeoutError:
            stream.reset()
        except StreamReset:
            pass  # how many implementations end a ping
        finally:
            self._serving[peer] -= 1
            if not self._serving[peer]:
                del self._serving[peer]

    async def ping(self, conn: Conn, timeout_s: float) -> float:
        """One round trip on a stream of its own; seconds, negotiation not counted.

        The clock is the system's: uvloop's is a millisecond coarse, and stands still while callbacks run.

        Raises TimedOut, ProtocolNotSupported, RemoteProtocolError on a wrong echo, ConnectionLost.
        """
        try:
            async with asyncio.timeout(timeout_s):
                stream = await conn.open_stream([wire.ID], timeout_s)
                try:
                    payload = os.urandom(wire.PAYLOAD_BYTES)
                    begin = time.monotonic()
                    await stream.write(payload)
                    echo = await stream.read_exactly(wire.PAYLOAD_BYTES)
                    rtt_s = time.monotonic() - begin
                except BaseException:
                    stream.reset()
                    raise
                await stream.close()
        except TimeoutError:
            raise TimedOut(f"{conn.remote_peer} did not answer a ping within {timeout_s:.3g} s") from None
        wire.check_echo(payload, echo)
        return rtt_s
