"""Showing a token to a relay: who is let in, what a refusal says, and what revoking ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from p2pfwd.core.keys import PrivateKey
from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.daemon.networks import profile
from p2pfwd.daemon.relaying import Relaying
from p2pfwd.daemon.relays import Relays
from p2pfwd.daemon.settings import Settings
from p2pfwd.errors import RelayRefused, StreamReset
from p2pfwd.host.host import Host
from p2pfwd.net.link.contract import Link
from p2pfwd.net.swarm import Swarm
from p2pfwd.net.transport.relay_transport import connect
from p2pfwd.policy.shares import Most, Party
from p2pfwd.protocols import relay_service, relay_token
from p2pfwd.rpc.paths import Paths
from p2pfwd.wire.circuit import HOP, Status
from tests.net.relay_rig import Target, reserve
from tests.net.swarm_rig import ANY_PORT, swarm
from tests.support.loops import on_loop, until


class Hub:
    """A node that relays as the daemon does it."""

    def __init__(self, host: Host, relaying: Relaying) -> None:
        self.host = host
        self.relaying = relaying

    async def link(self, client: Swarm) -> Link:
        return await client.connect(self.host.peer_id, self.host.swarm.listen_addrs())


@asynccontextmanager
async def hub(home: Path, *, reachable: bool = True, **settings: str) -> AsyncIterator[Hub]:
    """One; its network is the public one."""
    made = Settings(network="public", **settings)  # type: ignore[arg-type]
    host = await Host.start(PrivateKey.generate(), [ANY_PORT])
    paths = Paths.resolve(str(home), {})
    relaying = Relaying(host, paths, made, profile(made), lambda: reachable)
    try:
        relaying.start()
        yield Hub(host, relaying)
    finally:
        relaying.close()
        await host.close()


@on_loop
async def test_who_shows_a_token_gets_a_place_without_limits(tmp_path: Path) -> None:
    async with hub(tmp_path) as made, swarm() as client:
        link = await made.link(client)
        assert (await reserve(link)).status is Status.PERMISSION_DENIED
        _, text = await made.relaying.tokens.make("nas")
        await relay_token.show(link, text)
        answer = await reserve(link)
        assert answer.status is Status.OK and answer.limit is None
        assert made.host.swarm.peerstore.is_chosen(client.peer_id)


@pytest.mark.parametrize("mode", ["auto", "server"])
@on_loop
async def test_in_a_network_of_ones_own_it_relays_until_it_is_known_that_nobody_gets_in(
    tmp_path: Path, mode: str
) -> None:
    """A node behind a router would be a relay for nobody, and its places would be announced."""
    hidden: list[bool] = []
    made = Settings(network="lan", dht_mode=mode)  # type: ignore[arg-type]
    host = await Host.start(PrivateKey.generate(), [ANY_PORT])
    paths = Paths.resolve(str(tmp_path), {})
    relaying = Relaying(host, paths, made, profile(made), lambda: False, lambda: bool(hidden))
    try:
        relaying.start()
        assert relaying.service.serves == "peers"
        hidden.append(True)
        relaying.look_again()
        assert relaying.service.serves == ("peers" if mode == "server" else "off")
        hidden.clear()
        relaying.look_again()
        assert relaying.service.serves == "peers"
    finally:
        relaying.close()
        await host.close()


@on_loop
async def test_a_member_is_one_after_a_restart(tmp_path: Path) -> None:
    async with swarm() as client:
        async with hub(tmp_path) as made:
            _, text = await made.relaying.tokens.make("nas")
            await relay_token.show(await made.link(client), text)
        async with hub(tmp_path) as made:
            assert (await reserve(await made.link(client))).status is Status.OK


@pytest.mark.parametrize(
    ("kind", "status", "words"),
    [("unknown", "TOKEN_UNKNOWN", "does not know"), ("taken", "TOKEN_TAKEN", "another machine's")],
)
@on_loop
async def test_a_refusal_says_why_and_what_to_do(tmp_path: Path, kind: str, status: str, words: str) -> None:
    async with hub(tmp_path) as made, swarm() as client, swarm() as other:
        _, text = await made.relaying.tokens.make("nas")
        if kind == "taken":
            await relay_token.show(await made.link(other), text)
        else:
            text = "a" * len(text)
        with pytest.raises(RelayRefused, match=words) as caught:
            await relay_token.show(await made.link(client), text)
        assert caught.value.details["status"] == status and caught.value.hint
        assert text not in str(caught.value)
        assert made.host.swarm.refusals.counts["relay-token-refused"] == 1


@on_loop
async def test_who_knows_no_tokens_says_so() -> None:
    async with swarm() as client, swarm() as other:
        link = await client.connect(other.peer_id, other.listen_addrs())
        with pytest.raises(RelayRefused, match="knows no tokens; take the # and what follows it out"):
            await relay_token.show(link, "a" * 26)


@on_loop
async def test_revoking_cuts_the_place_and_live_circuits(tmp_path: Path) -> None:
    async with hub(tmp_path) as made, swarm() as target, swarm() as dialer:
        taking = Target(target)
        _, text = await made.relaying.tokens.make("all", many=True)
        for client in (target, dialer):
            await relay_token.show(await made.link(client), text)
        assert (await reserve(await made.link(target))).status is Status.OK
        near, answer = await connect(await made.link(dialer), target.peer_id)
        _, far = await taking.next()
        assert answer.limit is None
        token, circuits, still = await made.relaying.revoke("all")
        assert set(token.peers) == {target.peer_id, dialer.peer_id} and circuits == 1 and not still
        for stream in (near, far):
            with pytest.raises(StreamReset):
                await stream.read()
        assert (await reserve(await made.link(target))).status is Status.PERMISSION_DENIED
        assert not made.host.swarm.peerstore.is_chosen(target.peer_id)


@on_loop
async def test_who_may_use_the_relay_without_the_token_is_named_when_it_is_revoked(tmp_path: Path) -> None:
    """Its owner believes that it is out."""
    async with hub(tmp_path) as made, swarm() as named, swarm() as twice, swarm() as other:
        _, text = await made.relaying.tokens.make("all", many=True)
        _, second = await made.relaying.tokens.make("second")
        for client in (named, twice, other):
            await relay_token.show(await made.link(client), text)
        await relay_token.show(await made.link(twice), second)
        made.host.swarm.peerstore.pin(named.peer_id, (), "named")
        *_, still = await made.relaying.revoke("all")
        assert set(still) == {named.peer_id, twice.peer_id}


@asynccontextmanager
async def member(made: Hub, text: str) -> AsyncIterator[tuple[Relays, str]]:
    """A node with a place at the hub, by this token; and what its settings say but for the token."""

    async def read(texts: Sequence[str]) -> tuple[PeerId, tuple[Multiaddr, ...]]:
        addr = Multiaddr.parse(texts[0])
        return made.host.peer_id, (addr.without_peer_id(),)

    address = f"{made.host.swarm.listen_addrs()[0]}/p2p/{made.host.peer_id}"
    client_host = await Host.start(PrivateKey.generate(), [ANY_PORT])
    relays = Relays(client_host, [f"{address}#{text}"], read, strangers=False, is_public=lambda: False)
    try:
        relays.start()
        await until(relays.client.places)
        yield relays, address
    finally:
        await relays.close()
        await client_host.close()


@on_loop
async def test_who_loses_its_token_gives_its_place_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("p2pfwd.protocols.relay_client.REASK_S", 0.0)
    async with hub(tmp_path) as made:
        _, text = await made.relaying.tokens.make("nas")
        async with member(made, text) as (relays, _):
            await made.relaying.revoke("nas")
            await until(lambda: not relays.client.places())


@on_loop
async def test_another_token_is_shown_over_the_same_connection(tmp_path: Path) -> None:
    async with hub(tmp_path) as made:
        _, text = await made.relaying.tokens.make("old")
        async with member(made, text) as (relays, address):
            (link,) = (place.link for place in relays.client.places())
            await made.relaying.revoke("old")
            _, text = await made.relaying.tokens.make("new")
            relays.change([f"{address}#{text}"])
            await until(lambda: relays.client.places() and made.relaying.service.places())
            assert [place.link for place in relays.client.places()] == [link]
            assert made.relaying.service.places()[0].is_own


@pytest.mark.parametrize(
    ("reachable", "settings", "serves"),
    [
        (True, {}, True),
        (False, {}, False),
        (False, {"dht_mode": "server"}, True),  # the owner's word
        (True, {"relay_serve": "off"}, False),
        (False, {"relay_serve": "anyone"}, False),
    ],
)
@on_loop
async def test_a_node_relays_where_others_reach_it(
    tmp_path: Path, reachable: bool, settings: dict[str, str], serves: bool
) -> None:
    async with hub(tmp_path, reachable=reachable, **settings) as made:
        assert (HOP in made.host.swarm.services.names()) == serves
        assert (made.relaying.why_not is None) == serves


@on_loop
async def test_it_begins_to_relay_when_it_is_found_reachable_and_tells_so(tmp_path: Path) -> None:
    async with hub(tmp_path, reachable=False) as made, swarm() as client:
        await made.link(client)
        made.relaying._is_reachable = lambda: True
        pushed: list[bool] = []
        made.host.identify.push = lambda: pushed.append(True)  # type: ignore[method-assign]
        made.relaying.look_again()
        made.relaying.look_again()
        assert pushed == [True] and HOP in made.host.swarm.services.names()
        await asyncio.sleep(0)


def _pushes(made: Hub) -> list[PeerId | None]:
    """Who is told of the hub by a push, from now on."""
    pushed: list[PeerId | None] = []
    made.host.identify.push = pushed.append  # type: ignore[method-assign, assignment]
    return pushed


@on_loop
async def test_who_asked_in_vain_is_told_once_when_its_owner_names_it(tmp_path: Path) -> None:
    async with hub(tmp_path) as made, swarm() as client, swarm() as other:
        link = await made.link(client)
        await made.link(other)  # it asked for nothing
        assert (await reserve(link)).status is Status.PERMISSION_DENIED
        pushed, service = _pushes(made), made.relaying.service
        assert service.is_turned_away(client.peer_id) and not service.is_turned_away(other.peer_id)
        for peer in (other.peer_id, client.peer_id, client.peer_id):
            made.host.swarm.peerstore.pin(peer, (), "named")
        assert pushed == [client.peer_id] and not service.is_turned_away(client.peer_id)
        assert (await reserve(link)).status is Status.OK


@on_loop
async def test_who_asked_in_vain_is_told_when_a_rule_lets_it_in(tmp_path: Path) -> None:
    async with hub(tmp_path) as made, swarm() as client:
        link = await made.link(client)
        assert (await reserve(link)).status is Status.PERMISSION_DENIED
        pushed = _pushes(made)
        made.relaying.rights_changed()
        assert pushed == []
        made.relaying.service.is_own = client.peer_id.__eq__
        made.relaying.rights_changed()
        made.relaying.rights_changed()
        assert pushed == [client.peer_id]


@on_loop
async def test_who_found_no_room_as_a_stranger_is_told_when_it_is_none_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with hub(tmp_path, relay_serve="anyone") as made, swarm() as client:
        link = await made.link(client)
        monkeypatch.setattr(made.relaying.service._places_held, "full", lambda party: "all")
        assert (await reserve(link)).status is Status.RESERVATION_REFUSED
        pushed = _pushes(made)
        made.host.swarm.peerstore.pin(client.peer_id, (), "named")
        assert pushed == [client.peer_id]


@on_loop
async def test_of_who_asked_in_vain_and_left_nothing_is_kept(tmp_path: Path) -> None:
    async with hub(tmp_path) as made, swarm() as client:
        link = await made.link(client)
        await reserve(link)
        assert made.relaying.service.strangers() == [client.peer_id]
        await link.close()
        await until(lambda: not made.relaying.service.strangers())
        asked_last = SimpleNamespace(conn=link, remote_peer=client.peer_id)
        party = Party.at(client.peer_id, link.remote_addr)
        made.relaying.service._reserve(asked_last, party)  # type: ignore[arg-type]
        assert not made.relaying.service.strangers()


@on_loop
async def test_of_those_who_found_no_room_one_is_told_for_each_place_that_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay_service, "RESERVATIONS", Most(all=2, peer=1, network=2))
    async with hub(tmp_path, relay_serve="anyone") as made, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(swarm()) for _ in range(5)]
        links = [await made.link(client) for client in clients]
        answers = [(await reserve(link)).status for link in links]
        assert answers == [Status.OK] * 2 + [Status.RESERVATION_REFUSED] * 3
        pushed = _pushes(made)
        await links[2].close()  # who has left is told of nothing
        await until(lambda: clients[2].peer_id not in made.relaying.service.strangers())
        made.relaying.service.cut(clients[0].peer_id)
        assert pushed == [clients[3].peer_id]
        assert (await reserve(links[3])).status is Status.OK
        await links[1].close()
        await until(lambda: len(pushed) == 2)
        assert pushed[1] == clients[4].peer_id


@on_loop
async def test_who_has_a_strangers_place_and_is_named_has_it_without_limits_and_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay_service, "RESERVATIONS", Most(all=1, peer=1, network=1))
    async with hub(tmp_path, relay_serve="anyone") as made, swarm() as client, swarm() as other:
        service, store = made.relaying.service, made.host.swarm.peerstore
        link = await made.link(client)
        assert (await reserve(link)).limit is not None
        assert (await reserve(await made.link(other))).status is Status.RESERVATION_REFUSED
        pushed = _pushes(made)
        for _ in range(2):
            store.pin(client.peer_id, (), "named")
        assert sorted(map(str, pushed)) == sorted(map(str, (client.peer_id, other.peer_id))), "it left room"
        assert [place.is_own for place in service.places()] == [True]
        assert (await reserve(link)).limit is None
        store.unpin(client.peer_id, "named")
        made.relaying.rights_changed()
        assert not service.places() and service._places_held.total == 0


@on_loop
async def test_who_asks_anew_as_an_own_peer_leaves_room_for_a_stranger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Let in by a rule, say, of which nobody was told yet."""
    monkeypatch.setattr(relay_service, "RESERVATIONS", Most(all=1, peer=1, network=1))
    async with hub(tmp_path, relay_serve="anyone") as made, swarm() as client, swarm() as other:
        link = await made.link(client)
        await reserve(link)
        await reserve(await made.link(other))
        pushed = _pushes(made)
        made.relaying.service.is_own = client.peer_id.__eq__
        assert (await reserve(link)).limit is None
        assert pushed == [other.peer_id]
