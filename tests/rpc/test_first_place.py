"""What is told of a node just after its start leads through the relay that gives it a place soon after."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.daemon.settings import Settings
from p2pfwd.rpc import schema as s
from tests.rpc import node
from tests.rpc.node import STRANGER

NOWHERE = f"/ip4/127.0.0.1/tcp/9/p2p/{STRANGER}"
THROUGH = f"/ip4/8.8.4.4/tcp/4011/p2p/{STRANGER}/p2p-circuit"
SETTINGS = Settings(network="lan", listen=("/ip4/127.0.0.1/tcp/0",), drain_timeout_s=5.0)


def test_listen_and_invite_wait_for_the_first_place_and_say_where_there_is_none(home: Path) -> None:
    async def main() -> None:
        it = node.Node(await node.running(home, replace(SETTINGS, relays=(NOWHERE,))))
        own, waits = it.running.host.swarm.own_addresses, 0

        async def first_place() -> None:
            nonlocal waits
            waits += 1
            own.set_relayed([Multiaddr.parse(THROUGH)])

        it.running.relays.first_place = first_place  # type: ignore[method-assign]
        try:
            listened = await it.call("p2p.listen", s.ListenParams("/x/a", "127.0.0.1:9"))
            assert f"{THROUGH}/p2p/{it.peer}" in listened.addresses and waits == 1
            own.set_relayed([])
            invited = await it.call("invite.new", s.InviteNewParams("/x/a"))
            assert f"{THROUGH}/p2p/{it.peer}" in invited.addresses and waits == 2
            for result in (listened, invited):
                (notice,) = [one for one in result.notices if one.code == "no-place"]
                assert "no relay of reach.relays has given" in notice.message and STRANGER in notice.message
        finally:
            await it.running.stop()

    asyncio.run(asyncio.wait_for(main(), 30))


def test_where_no_relay_is_named_nothing_is_said_of_one(home: Path) -> None:
    async def main() -> None:
        it = node.Node(await node.running(home, SETTINGS))
        try:
            listened = await it.call("p2p.listen", s.ListenParams("/x/a", "127.0.0.1:9"))
            assert listened.notices == ()
        finally:
            await it.running.stop()

    asyncio.run(asyncio.wait_for(main(), 30))
