"""Whom does the router let in? Asked of two servers about a port from which only one of them was dialed.

A side door is opened: a listening port of its own, from which the first server is dialed. So the router has a
mapping for it, which the server tells. Then the first server is asked to dial that from elsewhere, and after
it one in another network, which the side door has never sent a packet to.

| the first gets in | the other gets in | the router lets in |
| --- | --- | --- |
| no | | answers alone |
| yes | no | whoever was dialed |
| yes | yes | everybody |
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

from p2pfwd.core.multiaddrs import AddressClass, Multiaddr, address_class
from p2pfwd.errors import P2PForwardError
from p2pfwd.net.link.contract import Link
from p2pfwd.net.swarm import Swarm
from p2pfwd.policy.evidence import Filtering
from p2pfwd.policy.networks import household
from p2pfwd.protocols.autonat.v2 import Outcome, SecondClient, Trial
from p2pfwd.wire import identify

log = logging.getLogger("p2pfwd.autonat")

SEEN_S: Final = 5.0
"""To dial the first server from the side door, and to be told what it sees."""

NEXT_S: Final = 5.0
"""Until another one is asked beside the one in another network: it may say nothing."""

OTHERS_S: Final = 30.0
"""For all of these."""


async def find_filtering(swarm: Swarm, client: SecondClient, servers: Sequence[Link]) -> Filtering:
    """Ask `servers`; UNKNOWN where they do not suffice."""
    first = next((conn for conn in servers if conn.direction == "outbound"), None)
    if first is None:
        return Filtering.UNKNOWN
    others = [conn for conn in servers if household(conn.remote_addr) != household(first.remote_addr)]
    try:
        door = swarm.side_door(first)
        try:
            async with asyncio.timeout(SEEN_S):
                link = await door.dial(first.remote_peer, first.remote_addr)
            try:
                seen = await _seen(link)
                if seen is None or address_class(seen) is not AddressClass.PUBLIC:
                    return Filtering.UNKNOWN
                return await _ask(client, first, others, seen, door.addr)
            finally:
                await link.close()
        finally:
            door.close()
    except (P2PForwardError, OSError) as exc:
        log.debug("whom the router lets in could not be found out: %s", exc)
        return Filtering.UNKNOWN


async def _ask(
    client: SecondClient, first: Link, others: Sequence[Link], seen: Multiaddr, door: Multiaddr
) -> Filtering:
    outcome = (await client.test(first, seen, door.__eq__)).outcome
    if outcome is Outcome.FAILED:
        return Filtering.BY_PORT
    if outcome is Outcome.WORKED:
        async with asyncio.timeout(OTHERS_S):
            return await _word_of(client, others, seen, door)
    return Filtering.UNKNOWN


async def _word_of(
    client: SecondClient, others: Sequence[Link], seen: Multiaddr, door: Multiaddr
) -> Filtering:
    """By the first of them that says whether it gets in."""
    asked: set[asyncio.Task[Trial]] = set()
    left = iter(others)
    try:
        while True:
            if (conn := next(left, None)) is not None:
                asked.add(asyncio.create_task(client.test(conn, seen, door.__eq__)))
            elif not asked:
                return Filtering.UNKNOWN
            timeout_s = None if conn is None else NEXT_S
            done, asked = await asyncio.wait(
                asked, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED
            )
            outcomes = {task.result().outcome for task in done}
            if Outcome.WORKED in outcomes:
                return Filtering.EVERYBODY
            if Outcome.FAILED in outcomes:
                return Filtering.BY_ADDRESS
    finally:
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)


async def _seen(link: Link) -> Multiaddr | None:
    """As whom the peer sees this connection."""
    async with asyncio.timeout(SEEN_S):
        stream = await link.open_stream([identify.ID], SEEN_S)
        try:
            message = await stream.read_delimited(identify.MAX_MESSAGE_BYTES)
        finally:
            stream.reset()
    return identify.decode(message).observed_addr
