"""Kept peers between real hosts: found at start, found again after a restart, and nobody hammered."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, cast

import pytest

from p2pfwd.core.keys import PrivateKey
from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.host.host import Host
from p2pfwd.net.channel import NoiseChannel
from p2pfwd.policy.dial_schedule import DialLimits, KeptStatus, Priority
from p2pfwd.policy.provenance import Provenance
from p2pfwd.protocols.keep import PeerKeeper
from p2pfwd.system.network_watch import NetworkWatch
from tests.net.forwarding_rig import ANY_PORT, LOOPS

QUICK = DialLimits(redial_s=0.2, backoff_first_s=0.05, backoff_most_s=0.2, stable_s=0.0)


class Near:
    """A host whose keeper has limits of the test's choice."""

    def __init__(self, host: Host, limits: DialLimits) -> None:
        self.host = host
        self.network = NetworkWatch(host.swarm.own_addresses.interfaces)
        self.keeper = PeerKeeper(host.swarm, self.network, limits)
        self._moved = asyncio.Event()
        host.swarm.on_connected(lambda _: self._moved.set())
        host.swarm.on_disconnected(lambda _: self._moved.set())

    async def until(self, far: Host, met: Callable[[KeptStatus], bool], timeout_s: float = 5.0) -> KeptStatus:
        """Wait for connections to come and go until the peer's status is as wanted."""
        async with asyncio.timeout(timeout_s):
            while True:
                self._moved.clear()
                status = self.keeper.status(far.peer_id)
                assert status is not None
                if met(status):
                    return status
                await self._moved.wait()

    async def close(self) -> None:
        self.network.close()
        await self.keeper.close()
        await self.host.close()


async def a_host(key: PrivateKey | None = None, listen: Multiaddr = ANY_PORT) -> Host:
    return await Host.start(key or PrivateKey.generate(), [listen])


def run(loop: str, story: Callable[[], Awaitable[None]]) -> None:
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(story())  # type: ignore[arg-type]  # a coroutine


def connected(status: KeptStatus) -> bool:
    return status.state == "connected"


@pytest.mark.parametrize("loop", LOOPS)
def test_a_peer_that_restarts_on_its_port_is_connected_again_within_5_s(loop: str) -> None:
    async def story() -> None:
        near = Near(await a_host(), QUICK)
        key = PrivateKey.generate()
        far = await a_host(key)
        address = far.swarm.listen_addrs()[0]
        near.keeper.keep(far.peer_id, [address])
        await near.until(far, connected)
        await far.close()
        status = await near.until(far, lambda it: not connected(it))
        assert status.outcome is not None and "connection" in status.outcome
        began = time.monotonic()
        far = await a_host(key, address)
        await near.until(far, connected)
        assert time.monotonic() - began < 5
        assert near.host.swarm.connmgr.is_protected(far.peer_id)
        await near.close()
        await far.close()

    run(loop, story)


def test_a_peer_kept_before_it_is_there_and_one_that_comes_by_itself() -> None:
    async def story() -> None:
        near, key = Near(await a_host(), QUICK), PrivateKey.generate()
        far = await a_host(key)
        address = far.swarm.listen_addrs()[0]
        await far.close()
        near.keeper.keep(far.peer_id, [address])
        far = await a_host(key)  # somewhere else: it calls
        await far.swarm.connect(near.host.peer_id, near.host.swarm.listen_addrs())
        await near.until(far, connected)
        assert near.host.swarm.conns(far.peer_id)[0].direction == "inbound"
        await near.close()
        await far.close()

    run("asyncio", story)


def test_without_an_address_it_is_looked_up_and_what_is_found_is_verified() -> None:
    async def story() -> None:
        near = Near(await a_host(), replace(QUICK, resolve_first_s=0.05))
        far, other = await a_host(), await a_host()
        answers = [other.swarm.listen_addrs(), far.swarm.listen_addrs()]

        async def resolve(_: object) -> list[Multiaddr]:
            return answers.pop(0) if answers else []

        near.keeper.set_resolve(resolve)
        near.keeper.keep(far.peer_id)
        await near.until(far, connected)
        assert answers == []
        assert not near.host.swarm.conns(other.peer_id)
        await near.close()
        await far.close()
        await other.close()

    run("asyncio", story)


def test_what_was_learned_in_an_earlier_life_is_enough() -> None:
    """The peerstore restored from an address book: stale addresses, and no other."""

    async def story() -> None:
        near, far = Near(await a_host(), QUICK), await a_host()
        store = near.host.swarm.peerstore
        store.add_addrs(far.peer_id, far.swarm.listen_addrs(), -10.0, Provenance.PROVED)
        assert store.addrs(far.peer_id) == []
        near.keeper.keep(far.peer_id, priority=Priority.BOOTSTRAP)
        await near.until(far, connected)
        await near.close()
        await far.close()

    run("asyncio", story)


def test_a_connection_dead_after_a_network_change_is_dropped_and_made_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("ASKED_S", "CHALLENGE_S", "LOOK_WAITING_S", "DOUBT_S"):
        monkeypatch.setattr(f"p2pfwd.policy.doubt.{name}", 0.1)

    async def story() -> None:
        hears = NoiseChannel._open
        near, far = Near(await a_host(), QUICK), await a_host()
        near.keeper.keep(far.peer_id, far.swarm.listen_addrs())
        await near.until(far, connected)
        (dead,) = far.swarm.conns(near.host.peer_id)
        (old,) = near.host.swarm.conns(far.peer_id)
        for conn in (old, dead):
            await conn.measure_rtt(5)
            await conn.identified
        channel = cast("Any", dead)._channel

        def opened(one: NoiseChannel, view: memoryview) -> int:
            return len(view) if one is channel else hears(one, view)  # deaf, as across a cut

        monkeypatch.setattr(NoiseChannel, "_open", opened)
        near.host.swarm.recovery.network_changed()
        cause = await asyncio.wait_for(asyncio.shield(old.closed), 5)
        assert "no sign of life" in str(cause) and "another connection answers" in str(cause)
        await near.until(far, connected)
        await near.close()
        await far.close()

    run("asyncio", story)


def test_many_peers_are_all_connected_16_at_a_time() -> None:
    async def story() -> None:
        near = Near(await a_host(), QUICK)
        fars = [await a_host() for _ in range(40)]
        busiest = 0

        def count(_: object) -> None:
            nonlocal busiest
            busiest = max(busiest, sum(1 for it in near.keeper.statuses() if it.state == "dialing"))

        near.host.swarm.on_connected(count)
        for far in fars:
            near.keeper.keep(far.peer_id, far.swarm.listen_addrs())
        for far in fars:
            await near.until(far, connected, 20)
        assert busiest <= 16
        await near.close()
        for far in fars:
            await far.close()

    run("asyncio", story)
