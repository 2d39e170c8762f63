"""Pins that strangers over circuits, where their word is taken, have few dials made, none behind a router."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import pytest

from p2pfwd.core.multiaddrs import AddressClass, Multiaddr, address_class, tcp_endpoint
from p2pfwd.errors import TimedOut
from p2pfwd.policy.pace import Rate
from p2pfwd.policy.service_bounds import PUNCHES
from p2pfwd.policy.shares import Paced
from p2pfwd.protocols.relay_client import RelayClient
from tests.net.swarm_rig import host
from tests.support.loops import on_loop, until
from tests.support.mini_relay import MiniRelay

OURS, THIRD = "11.0.0.9", "98.7.6.5"
"""The victim's public IP, and whom it is asked to knock at."""

BEHIND = ("192.168.1.1", "10.0.0.5", "169.254.169.254", "127.0.0.1")


def at(*hosts: str) -> tuple[Multiaddr, ...]:
    return tuple(Multiaddr.parse(f"/ip4/{host}/tcp/22") for host in hosts)


def telling(addrs: Sequence[Multiaddr]) -> Callable[[], tuple[Multiaddr, ...]]:
    return lambda: tuple(addrs)


@pytest.mark.parametrize("told", [(THIRD, OURS, *BEHIND), (OURS, THIRD, *BEHIND)], ids=["third", "ours"])
@on_loop
async def test_strangers_over_circuits_have_third_parties_dialed_seldom_and_private_addresses_never(
    monkeypatch: pytest.MonkeyPatch, told: tuple[str, ...]
) -> None:
    most = int(PUNCHES.network.burst)
    dialed: Counter[str] = Counter()

    async def note(_peer: object, addrs: Sequence[Multiaddr], *_args: Any, **_words: Any) -> None:
        assert all(address_class(addr) is AddressClass.PUBLIC for addr in addrs)
        dialed.update({end.host for addr in addrs if (end := tcp_endpoint(addr)) is not None})
        raise TimedOut("nobody there")

    async def never(*_args: object) -> bool:
        raise AssertionError("dialed plainly")

    async with AsyncExitStack() as stack:
        relay_host, victim = [await stack.enter_async_context(host()) for _ in range(2)]
        MiniRelay(relay_host)
        client = RelayClient(victim.swarm, strangers=False, is_public=lambda: False)
        stack.push_async_callback(client.close)
        client.start()
        client.name(relay_host.peer_id)
        await victim.swarm.connect(relay_host.peer_id, relay_host.swarm.listen_addrs())
        await until(client.places)
        assert victim.hole_punch is not None
        once = replace(PUNCHES, network=Rate(1e-9, most))  # however long the test takes
        monkeypatch.setattr(victim.hole_punch, "_paced", Paced(once))
        monkeypatch.setattr(victim.hole_punch, "offer", telling(at(OURS)))
        monkeypatch.setattr(victim.hole_punch, "meet", note)
        monkeypatch.setattr(victim.hole_punch, "dial", never)
        circuit = victim.swarm.listen_addrs()[-1]
        for _ in range(most):
            attacker = await stack.enter_async_context(host())
            assert attacker.hole_punch is not None
            monkeypatch.setattr(attacker.hole_punch, "offer", telling(at(*told)))
            monkeypatch.setattr(attacker.hole_punch, "meet", note_nothing)
            await attacker.swarm.connect(relay_host.peer_id, relay_host.swarm.listen_addrs())
            await attacker.swarm.connect(victim.peer_id, [circuit], only=True)
        await until(lambda: victim.swarm.refusals.counts["dcutr-dials"] >= most // 2)
        assert dialed == {told[0]: most}


async def note_nothing(*_args: object, **_words: object) -> None:
    """The attacker dials nobody itself."""
    await asyncio.sleep(0)
    raise TimedOut("nobody there")
