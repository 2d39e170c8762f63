"""Tries a forward once and tells what was found. Failures are outcomes, never raised."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import P2PForwardError, TimedOut
from p2pfwd.forwarding.health_check import failure
from p2pfwd.forwarding.probe import probe
from p2pfwd.forwarding.values import READY, UNKNOWN, CheckOutcome
from p2pfwd.policy.paths import Way, worth_waiting_s

if TYPE_CHECKING:
    from p2pfwd.net.link.contract import Carrier
    from p2pfwd.net.swarm import Swarm

_ANSWER_S: Final = 2.0
"""For a new direct connection, which has just answered."""


async def check_peer(
    swarm: Swarm, peer: PeerId, protocol: str, timeout_s: float, way: Way
) -> CheckOutcome:
    """Is the peer reached by this way, does it serve the protocol, does its service answer? (See probe.py)

    Where a direct connection may come at any moment it is waited for: who opens a stream next has the way
    that is told, for as long as the stream lasts.
    """
    started = time.monotonic()
    deadline = asyncio.get_running_loop().time() + timeout_s
    try:
        # Not inside the time limit below: it has one itself, and says what it waited for.
        link = await swarm.connect(peer, timeout_s=timeout_s, force=True)  # somebody asked: no back-off
        async with asyncio.timeout_at(deadline):
            answer = await probe(swarm, peer, protocol, timeout_s, way)
            conn = answer.conn
            elapsed_s = time.monotonic() - started
            rtt_s = await conn.measure_rtt(timeout_s)
            if conn.is_relayed and way.wish != "relay":
                left_s = worth_waiting_s(time.monotonic() - link.opened_at, rtt_s)
                conn, rtt_s = await _better(swarm, conn, rtt_s, left_s)
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


async def _better(swarm: Swarm, conn: Carrier, rtt_s: float, left_s: float) -> tuple[Carrier, float]:
    """The direct connection that is being made, or the one over a relay; and its round trip."""
    try:
        direct = await swarm.paths.wait_direct(conn.remote_peer, left_s)
        return direct, await direct.measure_rtt(_ANSWER_S)
    except P2PForwardError:  # none yet, or lost again: the relayed one has answered
        return conn, rtt_s
