"""Access at work: a denied name is as none at all, a lost right ends streams, the owner hears of it later."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.core.terms import ListenTerms
from p2pfwd.forwarding import access as module
from p2pfwd.forwarding import probe
from p2pfwd.forwarding.access import LATER_S
from p2pfwd.forwarding.service import Forwarding
from p2pfwd.policy.access import NO_RULE, Access, Rule
from p2pfwd.policy.shares import Party
from tests.support.virtual_time import in_virtual_time
from tests.unit.forwarding.conftest import MakeForwarding
from tests.unit.forwarding.fakes import ALICE, BOB, FakeConn, FakeHost, FakeStream

TARGET = Multiaddr.parse("/ip4/127.0.0.1/tcp/22")
ONLY_BOB = Access("any", {"/x/a": Rule("listed").allow([BOB]), "/own": Rule("listed").allow([BOB])})


@pytest.fixture
def connected(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> list[PeerId]:
    """Peers that have a connection."""
    peers = [ALICE, BOB]
    monkeypatch.setattr(host.swarm, "conns", lambda peer: [FakeConn(peer)] if peer in peers else [])
    return peers


async def listening(forwarding: MakeForwarding, access: Access) -> Forwarding:
    service = forwarding()
    await service.listen("/x/a", TARGET)
    await service.listen("/own", TARGET, ListenTerms(custom_protocol=True))
    service.set_access(access)
    return service


def test_a_denied_name_is_as_one_that_does_not_exist(forwarding: MakeForwarding, host: FakeHost) -> None:
    async def main() -> None:
        service = await listening(forwarding, ONLY_BOB)
        services = host.swarm.services
        for name in ("/x/a", "/own"):
            assert services.accepts(BOB, name) and services.accepts(BOB, probe.PREFIX + name)
            assert not services.accepts(ALICE, name) and not services.accepts(ALICE, probe.PREFIX + name)
        assert "/own" in services.names(BOB) and "/own" in services.names()
        assert "/own" not in services.names(ALICE)
        assert {"/x/", probe.PREFIX} <= set(services.names(ALICE))
        await service.aclose()

    asyncio.run(main())


def test_by_default_every_peer_is_served(forwarding: MakeForwarding, host: FakeHost) -> None:
    async def main() -> None:
        service = await listening(forwarding, Access())
        assert host.swarm.services.accepts(ALICE, "/x/a") and "/own" in host.swarm.services.names(ALICE)
        await service.aclose()

    asyncio.run(main())


def test_a_right_that_goes_between_negotiation_and_stream_ends_it(
    forwarding: MakeForwarding, host: FakeHost
) -> None:
    async def main() -> None:
        service = await listening(forwarding, Access())
        assert host.swarm.services.accepts(ALICE, "/x/a")
        service.set_access(ONLY_BOB)
        stream = FakeStream(ALICE, "/x/a")
        host.swarm.services.dispatch(stream)  # type: ignore[arg-type]
        assert stream.resets == 1 and not service.streams()
        await service.aclose()

    asyncio.run(main())


@pytest.mark.parametrize("keep_live", [False, True])
def test_a_lost_right_ends_that_peers_live_streams_and_no_others(
    forwarding: MakeForwarding, host: FakeHost, monkeypatch: pytest.MonkeyPatch, keep_live: bool
) -> None:
    # They wait for their target: that is a live stream, too.
    monkeypatch.setattr("p2pfwd.forwarding.local_sockets.LocalSockets.connect", lambda *_: False)

    async def main() -> None:
        service = await listening(forwarding, Access())
        streams = {peer: FakeStream(peer, "/x/a") for peer in (ALICE, BOB)}
        for stream in streams.values():
            host.swarm.services.dispatch(stream)  # type: ignore[arg-type]
        await service.forward("/x/a", Multiaddr.parse("/ip4/127.0.0.1/tcp/2222"), ALICE)
        ended = service.set_access(ONLY_BOB, keep_live=keep_live)
        assert [info.peer for info in ended] == ([] if keep_live else [str(ALICE)])
        assert (streams[ALICE].resets, streams[BOB].resets) == (0 if keep_live else 1, 0)
        assert service.set_access(Access("none")) != [], "and another change ends whose right it takes"
        assert streams[BOB].resets == 1
        assert streams[ALICE].resets == (0 if keep_live else 1), "who was kept alive stays so"
        await service.aclose()

    asyncio.run(main())


@in_virtual_time
async def test_the_owner_hears_of_a_denial_a_moment_later_and_once(
    forwarding: MakeForwarding, host: FakeHost, connected: list[PeerId]
) -> None:
    service = await listening(forwarding, ONLY_BOB)
    services, access = host.swarm.services, service.access
    for _ in range(3):  # a check asks for the probe, then for the name
        services.accepts(ALICE, probe.PREFIX + "/x/a")
        services.accepts(ALICE, "/x/a")
    assert not host.swarm.refusals.counts and not access.requests.all()
    await asyncio.sleep(LATER_S)
    assert host.swarm.refusals.counts == {"tunnel-denied": 1}
    (request,) = access.requests.all()
    assert (request.party.peer, request.protocol, request.count) == (ALICE, "/x/a", 1)
    assert request.address == "/ip4/192.0.2.7/tcp/4002"
    services.accepts(ALICE, "/x/none")
    services.accepts(BOB, "/x/a")
    await asyncio.sleep(LATER_S)
    assert host.swarm.refusals.counts == {"tunnel-denied": 1}
    services.accepts(ALICE, "/x/a")
    await asyncio.sleep(LATER_S)
    assert [it.count for it in access.requests.all()] == [2]
    await service.aclose()


@in_virtual_time
@pytest.mark.parametrize(
    ("rule", "times"),
    [(Rule("listed", tells_any=True), 1), (Rule("listed", denied=frozenset({ALICE}), tells_any=True), 0)],
)
async def test_who_is_told_and_asks_again_and_again_is_no_flood(
    forwarding: MakeForwarding, host: FakeHost, connected: list[PeerId], rule: Rule, times: int
) -> None:
    """Its forward does so by itself: it is shown once, and counted no more; its streams are."""
    service = await listening(forwarding, Access("any", {"/x/a": rule}))
    services, told = host.swarm.services, []
    service.access.on_denied = lambda party, _protocol, _asks: told.append(party.peer)
    for _ in range(3):
        assert services.accepts(ALICE, probe.PREFIX + "/x/a"), "it is told"
        await asyncio.sleep(LATER_S)
    assert told == [ALICE] * times and len(service.access.requests.all()) == times
    assert not services.accepts(ALICE, "/x/a")
    await asyncio.sleep(LATER_S)
    assert told == [ALICE] * (times + 1) and host.swarm.refusals.counts == {"tunnel-denied": times + 1}
    await service.aclose()


@in_virtual_time
async def test_who_asks_and_leaves_counts_for_his_network(
    forwarding: MakeForwarding, host: FakeHost, connected: list[PeerId]
) -> None:
    """Under ever new names he would have the shares of all others."""
    service = await listening(forwarding, ONLY_BOB)
    told: list[Party] = []
    service.access.on_denied = lambda party, _protocol, _asks: told.append(party)
    host.swarm.services.accepts(ALICE, "/x/a")
    connected.remove(ALICE)
    service._disconnected(FakeConn(ALICE))  # type: ignore[arg-type]
    await asyncio.sleep(LATER_S)
    (party,), (request,) = told, service.access.requests.all()
    assert party.peer == ALICE and party.networks
    assert request.address == "/ip4/192.0.2.7/tcp/4002"
    service._disconnected(FakeConn(BOB))  # type: ignore[arg-type]
    assert not service.access._left
    await service.aclose()


@in_virtual_time
async def test_an_answer_takes_a_request_off_the_list(
    forwarding: MakeForwarding, host: FakeHost, connected: list[PeerId]
) -> None:
    closed = Access("none")
    service = await listening(forwarding, closed)
    accepts = host.swarm.services.accepts
    for answer in (NO_RULE.allow([ALICE]), NO_RULE.deny([ALICE])):
        service.set_access(closed)
        accepts(ALICE, "/x/a")
        accepts(BOB, "/x/a")
        await asyncio.sleep(LATER_S)
        assert [it.party.peer for it in service.access.requests.all()] == [BOB, ALICE]
        service.set_access(Access("none", {"/x/a": answer}))
        assert [it.party.peer for it in service.access.requests.all()] == [BOB]
        service.access.requests.forget(lambda *_: True)
    accepts(ALICE, "/x/a")  # denied by its ID: counted, and shown no more
    await asyncio.sleep(LATER_S)
    assert not service.access.requests.all()
    assert host.swarm.refusals.counts["tunnel-denied"] == 5
    await service.aclose()


@in_virtual_time
async def test_a_flood_is_counted_and_holds_little(
    forwarding: MakeForwarding, host: FakeHost, connected: list[PeerId], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_UNWRITTEN", 3)
    service = await listening(forwarding, Access("none"))
    for number in range(1, 11):
        host.swarm.services.accepts(PeerId(b"\x12\x20" + bytes([number]) * 32), "/x/a")
    assert len(service.access._denied) == 3
    await asyncio.sleep(LATER_S)
    assert host.swarm.refusals.counts == {"tunnel-denied": 10}
    assert not service.access.requests.all(), "they are gone already"
    host.swarm.services.accepts(ALICE, "/x/a")
    await service.aclose()  # and nothing is written down after the end
    await asyncio.sleep(LATER_S)
    assert host.swarm.refusals.counts == {"tunnel-denied": 10}


def test_to_ask_by_default_is_one_look_up(monkeypatch: pytest.MonkeyPatch) -> None:
    class Rules(dict[str, Rule]):
        asked = 0

        def get(self, *args: Any) -> Any:
            Rules.asked += 1
            return super().get(*args)

    swarm: Any = SimpleNamespace()
    listens = module.ListenAccess(swarm, SimpleNamespace(time=lambda: 0.0))  # type: ignore[arg-type]
    listens.rules = Access("any", Rules())
    assert listens.admits(ALICE, "/x/a") and Rules.asked == 1
