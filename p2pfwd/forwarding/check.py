"""Tries a forward once and tells what was found. Failures are outcomes, never raised."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import P2PForwardError, TimedOut
from p2pfwd.forwarding.health_check import failure
from p2pfwd.forwarding.probe import probe
from p2pfwd.forwarding.values import READY, UNKNOWN, CheckOutcome

if TYPE_CHECKING:
    from p2pfwd.net.swarm import Swarm


async def check_peer(swarm: Swarm, peer: PeerId, protocol: str, timeout_s: float) -> CheckOutcome:
    """Can the peer be reached, does it serve the protocol, and does its service answer (see probe.py)?"""
    started = time.monotonic()
    deadline = asyncio.get_running_loop().time() + timeout_s
    try:
        # Not inside the time limit below: it has one itself, and says what it waited for.
        await swarm.connect(peer, timeout_s=timeout_s, force=True)  # somebody asked: no back-off
        async with asyncio.timeout_at(deadline):
            answer = await probe(swarm, peer, protocol, timeout_s)
            conn = answer.conn
            elapsed_s = time.monotonic() - started
            rtt_s = await conn.measure_rtt(timeout_s)
    except TimeoutError:
        return failure(TimedOut(f"the peer did not answer within {timeout_s:g} s"), started)
    except P2PForwardError as exc:
        return failure(exc, started)
    return CheckOutcome(
        ok=answer.state in (READY, UNKNOWN),
        state=answer.state,
        reason=answer.reason,
        path="relayed" if conn.is_relayed else "direct",
        remote_address=str(conn.remote_addr),
        security=conn.security,
        elapsed_s=elapsed_s,
        rtt_s=rtt_s,
    )
