"""Pins dialing: what is tried, what is said when nothing works, who wins, and that nothing is left over."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import cast

import pytest

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import (
    ConnectionLost,
    DialFailed,
    DialTimeout,
    ExitStatus,
    PeerIdMismatch,
    PeerNotFound,
    TimedOut,
)
from p2pfwd.net import dialer as dialer_module
from p2pfwd.net.link.conn import Conn
from p2pfwd.net.link.contract import Link
from p2pfwd.net.resolver import Resolver
from p2pfwd.policy.dial_plan import Candidate
from p2pfwd.policy.provenance import Provenance
from tests.net.swarm_rig import next_conn, stranger, swarm
from tests.support.loops import on_both_loops, on_loop, turns, until
from tests.support.raw_peer import RawListener
from tests.support.sockets import refusing_port

DNS = Multiaddr.parse("/dns4/far.example/tcp/4001")


@pytest.fixture
def refused() -> Iterator[Multiaddr]:
    with refusing_port() as port:
        yield Multiaddr.parse(f"/ip4/127.0.0.1/tcp/{port}")


@pytest.fixture
def silent() -> Iterator[Multiaddr]:
    """Connects, and then says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield Multiaddr.parse(f"/ip4/127.0.0.1/tcp/{server.getsockname()[1]}")


def attempts(exc: DialFailed) -> dict[str, str]:
    return {attempt["Address"]: attempt["Reason"] for attempt in exc.details["attempts"]}


@on_both_loops
async def test_a_failure_lists_every_address_with_its_reason(refused: Multiaddr, silent: Multiaddr) -> None:
    async with swarm(upgrade_timeout_s=0.1) as near, swarm() as somebody:
        peer = stranger()
        with RawListener() as listener:
            closes = asyncio.get_running_loop().create_task(listener.accept_tcp())
            closes.add_done_callback(lambda task: task.result().close())
            other = somebody.listen_addrs()[0]
            with pytest.raises(DialFailed) as failure:
                await near.connect(peer, [refused, silent, listener.addr, other])
        told = attempts(failure.value)
        assert set(told) == {str(addr) for addr in (refused, silent, listener.addr, other)}
        assert told[str(refused)] == "Connection refused"
        assert told[str(silent)] == "timed out"
        assert str(somebody.peer_id) in told[str(other)]
        assert "handshake" in told[str(listener.addr)] or "reset" in told[str(listener.addr)]
        for addr, reason in told.items():
            assert f"{addr}: {reason}" in failure.value.message
        assert near.conns() == []


@on_both_loops
async def test_the_first_address_that_works_wins_and_the_others_are_given_up(
    refused: Multiaddr, silent: Multiaddr
) -> None:
    async with swarm() as near, swarm() as far:
        conn = await near.connect(far.peer_id, [refused, silent, *far.listen_addrs()])
        assert conn.remote_addr == far.listen_addrs()[0]
        assert near.conns() == [conn]


@on_both_loops
async def test_lies_neither_hide_nor_delay_the_address_that_the_owner_gave() -> None:
    """H3: 32 addresses that strangers told put the given one out of the plan, and 16 delayed it by 4 s."""
    with socket.create_server(("0.0.0.0", 0)) as server:
        port = server.getsockname()[1]
        lies = [Multiaddr.parse(f"/ip4/127.0.1.{number}/tcp/{port}") for number in range(1, 65)]
        async with swarm() as near, swarm() as far:
            near.peerstore.add_addrs(far.peer_id, lies[:32], 3600.0, Provenance.ITSELF)
            near.peerstore.add_addrs(far.peer_id, lies[32:], 3600.0, Provenance.HEARSAY)
            async with asyncio.timeout(1):
                conn = await near.connect(far.peer_id, far.listen_addrs())
            assert conn.remote_addr == far.listen_addrs()[0]
            await near.disconnect(far.peer_id)
            async with asyncio.timeout(1):
                assert await near.connect(far.peer_id)


@on_loop
async def test_what_a_name_leads_to_is_tried_when_the_name_is_due() -> None:
    """Though liars told the same address last."""
    async with swarm() as near:
        heard = [
            Candidate(Multiaddr.parse(f"/ip4/1.2.3.4/tcp/{n}"), Provenance.HEARSAY) for n in range(1, 20)
        ]
        race = dialer_module._Race(near.dials.dialer, stranger(), (), False)
        race._plan(heard)
        last = race._queue[-1]
        race._plan([Candidate(last.addr, Provenance.GIVEN)])
        due = [planned for planned in race._queue if planned.addr == last.addr]
        assert len(due) == 1 and due[0].delay_s < 0.25 < last.delay_s
        race._plan([Candidate(last.addr, Provenance.HEARSAY)])
        assert len(race._queue) == len(heard)


@on_both_loops
async def test_the_same_peer_at_several_addresses_ends_up_with_one_connection() -> None:
    async with swarm() as near, swarm() as far:
        for _ in range(3):
            await far.listen(Multiaddr.parse("/ip4/127.0.0.1/tcp/0"))
        conn = await near.connect(far.peer_id, far.listen_addrs())
        await until(lambda: len(far.conns()) == 1)
        assert near.conns() == [conn] and not conn.closed.done()


@on_both_loops
async def test_somebody_else_at_an_address_takes_it_out_of_the_book() -> None:
    async with swarm() as near, swarm() as somebody, swarm() as far:
        wrong = somebody.listen_addrs()[0]
        near.peerstore.add_addrs(far.peer_id, [wrong], 60.0, Provenance.ITSELF)
        with pytest.raises(PeerIdMismatch, match=str(somebody.peer_id)) as failure:
            await near.connect(far.peer_id)
        assert failure.value.exit_status is ExitStatus.REFUSED and "anew" in str(failure.value.hint)
        assert near.peerstore.dialable(far.peer_id) == []
        with pytest.raises(PeerIdMismatch):
            await near.connect(far.peer_id, [wrong], force=True)
        assert near.peerstore.dialable(far.peer_id) == [wrong], "unless the owner gave it"
        conn = await near.connect(somebody.peer_id, [wrong])
        assert conn.remote_peer == somebody.peer_id, "the address is not held back for the one who is there"


@on_both_loops
async def test_a_failed_address_is_left_alone_for_a_moment_unless_a_person_asks(refused: Multiaddr) -> None:
    async with swarm() as near:
        peer = stranger()
        for force, reason in (
            (False, "Connection refused"),
            (False, "Connection refused (tried a moment ago)"),
            (True, "Connection refused"),
        ):
            with pytest.raises(DialFailed) as failure:
                await near.connect(peer, [refused], force=force)
            assert attempts(failure.value) == {str(refused): reason}
            assert "is the daemon running there" in str(failure.value.hint)


@on_loop
async def test_the_back_off_grows_to_its_bound_and_a_success_ends_it(
    refused: Multiaddr, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with swarm() as near:
        dialer = near.dials.dialer
        now = asyncio.get_running_loop().time()
        peer = stranger()
        delays = []
        for _ in range(6):
            dialer.failed(peer, refused, ConnectionRefusedError(111, "x"))
            delays.append(round(dialer._backoffs[peer, refused].until - now, 1))
        assert delays == [0.5, 1.0, 2.0, 2.0, 2.0, 2.0], "a peer that comes back is reached within 5 s"
        assert dialer.held_back(peer, refused) is not None
        assert dialer.held_back(stranger(), refused) is None
        dialer.worked(peer, refused)
        assert dialer.held_back(peer, refused) is None
        monkeypatch.setattr(dialer_module, "MAX_BACKOFFS", 3)
        for _ in range(10):
            dialer.failed(stranger(), refused, ConnectionRefusedError(111, "x"))
        assert len(dialer._backoffs) == 3


@on_both_loops
async def test_a_dial_has_a_limit_over_all_addresses(silent: Multiaddr) -> None:
    async with swarm(dial_timeout_s=0.1) as near:
        with pytest.raises(DialTimeout, match=r"within 0\.1 s") as failure:
            await near.connect(stranger(), [silent])
        assert attempts(failure.value) == {str(silent): "no answer"}


@on_both_loops
async def test_nothing_to_dial_is_not_found_and_says_what_to_do() -> None:
    async with swarm() as near:
        with pytest.raises(PeerNotFound) as unknown:
            await near.connect(stranger())
        assert "/p2p/" in (unknown.value.hint or "")
        quic = Multiaddr.parse("/ip4/192.0.2.1/udp/4001/quic-v1")
        with pytest.raises(PeerNotFound, match="quic-v1"):
            await near.connect(stranger(), [quic])
        with pytest.raises(PeerNotFound):
            await near.connect(stranger(), near.listen_addrs())


@pytest.mark.parametrize("stage", ["connecting", "resolving"])
@on_both_loops
async def test_a_cancelled_dial_leaves_nothing(
    stage: str, silent: Multiaddr, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolving = hang(monkeypatch)
    async with swarm() as near:
        loop = asyncio.get_running_loop()
        dial = near.dials.dialer.dial(stranger(), [silent if stage == "connecting" else DNS], [])
        dialing = loop.create_task(dial)
        await turns()
        assert (DNS in resolving()) is (stage == "resolving")
        dialing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await dialing
        assert len(asyncio.all_tasks()) == 1, "the descriptors are the fixture's to check"


def hang(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[Multiaddr]]:
    """A name server that never answers; the names asked for."""
    asked: list[Multiaddr] = []

    async def resolve(_self: Resolver, addr: Multiaddr, *, trusted: bool) -> list[Multiaddr]:
        asked.append(addr.without_peer_id())
        await asyncio.get_running_loop().create_future()
        raise AssertionError

    monkeypatch.setattr(Resolver, "resolve", resolve)
    return lambda: asked


@on_both_loops
async def test_a_dead_name_server_does_not_keep_a_literal_address_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = hang(monkeypatch)
    async with swarm() as near, swarm() as far:
        conn = await near.connect(far.peer_id, [DNS, *far.listen_addrs()])
        assert conn.remote_peer == far.peer_id and asked() == [DNS]


@on_both_loops
async def test_a_name_resolved_late_joins_the_race(
    monkeypatch: pytest.MonkeyPatch, refused: Multiaddr
) -> None:
    async with swarm() as near, swarm() as far:

        async def resolve(_self: Resolver, addr: Multiaddr, *, trusted: bool) -> list[Multiaddr]:
            await turns()
            return [far.listen_addrs()[0].with_peer_id(far.peer_id), refused]

        monkeypatch.setattr(Resolver, "resolve", resolve)
        conn = await near.connect(far.peer_id, [DNS, refused])
        assert conn.remote_addr == far.listen_addrs()[0]


@on_both_loops
async def test_names_without_an_answer_are_among_the_attempts(
    monkeypatch: pytest.MonkeyPatch, refused: Multiaddr
) -> None:
    async def resolve(_self: Resolver, addr: Multiaddr, *, trusted: bool) -> list[Multiaddr]:
        raise PeerNotFound("DNS: no A record for far.example")

    monkeypatch.setattr(Resolver, "resolve", resolve)
    async with swarm() as near:
        with pytest.raises(DialFailed) as failure:
            await near.connect(stranger(), [DNS, refused])
        assert attempts(failure.value) == {
            str(DNS): "DNS: no A record for far.example",
            str(refused): "Connection refused",
        }


@on_both_loops
async def test_names_that_never_answer_are_told_at_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    hang(monkeypatch)
    async with swarm(dial_timeout_s=0.05) as near:
        with pytest.raises(DialTimeout) as failure:
            await near.connect(stranger(), [DNS])
        assert attempts(failure.value) == {str(DNS): "DNS: no answer"}


@pytest.mark.parametrize("how", ["closes", "resets"])
@on_both_loops
async def test_a_peer_that_ends_the_connection_as_it_comes_up_is_no_success_for_long(how: str) -> None:
    async with swarm() as near:
        with RawListener() as listener:
            connecting = asyncio.get_running_loop().create_task(
                near.connect(listener.peer_id, [listener.addr])
            )
            peer = await listener.accept()
            if how == "closes":
                peer.close()
            else:
                peer.reset()
            try:
                conn = await connecting
            except (DialFailed, ConnectionLost):
                return
            assert isinstance(await conn.closed, ConnectionError)
            await turns()
            assert near.conns() == []


@on_both_loops
async def test_an_address_that_worked_is_remembered_for_the_next_dial() -> None:
    async with swarm() as near, swarm() as far:
        arrived = next_conn(far)
        await near.connect(far.peer_id, far.listen_addrs())
        await (await arrived).close()
        await until(lambda: near.conns() == [])
        again = await near.connect(far.peer_id)
        assert again.remote_addr == far.listen_addrs()[0]


# --- what no dial can reach -----------------------------------------------------------------------

QUIC = Multiaddr.parse("/ip4/192.0.2.1/udp/4001/quic-v1")
WEBSOCKET = Multiaddr.parse("/dns4/h.libp2p.direct/tcp/4001/tls/ws")


@on_loop
async def test_a_name_in_an_address_that_cannot_be_dialed_is_not_looked_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = hang(monkeypatch)
    async with swarm() as near:
        with pytest.raises(PeerNotFound, match="WebSocket") as failure:
            await near.connect(stranger(), [WEBSOCKET])
    assert asked() == []
    assert [one["Code"] for one in failure.value.details["attempts"]] == ["undialable"]


@on_loop
async def test_an_address_that_cannot_be_dialed_is_told_beside_those_that_failed(refused: Multiaddr) -> None:
    async with swarm() as near:
        with pytest.raises(DialFailed) as failure:
            await near.connect(stranger(), [QUIC, refused])
    assert attempts(failure.value) == {
        str(refused): "Connection refused",
        str(QUIC): "it is for QUIC, and this node speaks TCP only",
    }
    assert failure.value.message.endswith(f"{QUIC}: it is for QUIC, and this node speaks TCP only")


@on_loop
async def test_of_dozens_that_cannot_be_dialed_a_few_are_told_and_the_rest_counted() -> None:
    many = [Multiaddr.parse(f"/ip4/192.0.2.{number}/udp/1/quic-v1") for number in range(30)]
    async with swarm() as near:
        with pytest.raises(PeerNotFound) as failure:
            await near.connect(stranger(), many)
    assert failure.value.message.count("quic-v1") == 4
    assert failure.value.message.endswith("; 26 more that cannot be dialed")
    assert len(failure.value.details["attempts"]) == 30


@on_loop
async def test_what_a_name_leads_to_is_told_too_when_it_cannot_be_dialed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def resolve(_self: Resolver, addr: Multiaddr, *, trusted: bool) -> list[Multiaddr]:
        return [QUIC] if addr.without_peer_id() == DNS else []

    monkeypatch.setattr(Resolver, "resolve", resolve)
    empty = Multiaddr.parse("/dnsaddr/empty.example")
    async with swarm() as near:
        with pytest.raises(DialFailed) as failure:
            await near.connect(stranger(), [DNS, empty])
    assert attempts(failure.value) == {
        str(empty): "DNS: it lists no address of this peer",
        str(QUIC): "it is for QUIC, and this node speaks TCP only",
    }


@on_both_loops
async def test_a_race_with_a_literal_address_survives_whatever_a_look_up_does(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, refused: Multiaddr
) -> None:
    async def resolve(_self: Resolver, addr: Multiaddr, *, trusted: bool) -> list[Multiaddr]:
        raise RuntimeError("no resolver configuration")

    monkeypatch.setattr(Resolver, "resolve", resolve)
    async with swarm() as near, swarm() as far:
        conn = await near.connect(far.peer_id, [DNS, *far.listen_addrs()])
        assert conn.remote_peer == far.peer_id
        with pytest.raises(DialFailed) as failure:
            await near.connect(stranger(), [DNS, refused])
    assert attempts(failure.value)[str(DNS)] == "DNS: a defect here (RuntimeError)"
    assert "a defect while looking up" in caplog.text


@on_both_loops
async def test_a_race_survives_a_defect_of_one_dial(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, refused: Multiaddr
) -> None:
    attempt = dialer_module.Dialer.attempt

    async def broken(
        self: dialer_module.Dialer, peer_id: PeerId, addr: Multiaddr, *, fresh_port: bool = False
    ) -> Conn:
        if addr == refused:
            raise RuntimeError("a defect")
        return await attempt(self, peer_id, addr, fresh_port=fresh_port)

    monkeypatch.setattr(dialer_module.Dialer, "attempt", broken)
    async with swarm() as near, swarm() as far:
        assert (await near.connect(far.peer_id, [refused, *far.listen_addrs()])).remote_peer == far.peer_id
    assert "a defect while dialing" in caplog.text


@on_both_loops
async def test_who_cannot_wait_is_told_what_has_not_answered(
    monkeypatch: pytest.MonkeyPatch, refused: Multiaddr, silent: Multiaddr
) -> None:
    hang(monkeypatch)
    async with swarm() as near:
        with pytest.raises(TimedOut) as failure:
            await near.connect(stranger(), [DNS, refused, silent], timeout_s=0.5)
    assert failure.value.message.partition(" s: ")[2].split("; ") == [
        f"{refused}: Connection refused",
        f"{silent}: no answer yet",
        f"{DNS}: DNS: no answer yet",
    ]


@on_loop
async def test_who_knows_a_better_address_does_not_wait_for_a_dial_that_does_not(silent: Multiaddr) -> None:
    async with swarm() as near, swarm() as far:
        others = asyncio.create_task(near.connect(far.peer_id, [silent]))
        await turns()
        async with asyncio.timeout(4.0):  # the other dial takes five seconds
            conn = await near.connect(far.peer_id, far.listen_addrs())
        assert conn is await others  # and neither do those who wait for that


@on_loop
async def test_an_address_that_others_tell_meanwhile_is_tried_by_the_next_who_asks(silent: Multiaddr) -> None:
    async with swarm() as near, swarm() as far:
        others = asyncio.create_task(near.connect(far.peer_id, [silent]))
        await turns()
        near.peerstore.add_addrs(far.peer_id, far.listen_addrs(), 60.0, Provenance.HEARSAY)
        async with asyncio.timeout(4.0):
            assert await near.connect(far.peer_id) is await others


@on_loop
async def test_a_dial_that_others_share_may_still_win(refused: Multiaddr) -> None:
    async with swarm() as near, swarm() as far:
        others = asyncio.create_task(near.connect(far.peer_id, far.listen_addrs()))
        await turns()
        conn = await near.connect(far.peer_id, [refused])
        assert conn is await others


@on_loop
async def test_all_who_reach_for_one_that_is_back_have_one_connection() -> None:
    """As a hub that returns is: by the keeper, by who goes by it, by who replaces a lost connection."""
    async with swarm() as near, swarm() as far:
        addrs = far.listen_addrs()
        near.peerstore.add_addrs(far.peer_id, addrs, 60.0, Provenance.PROVED)
        by_only = [near.connect(far.peer_id, addrs, only=True, force=True) for _ in range(3)]
        others = near.dials.beside(far.peer_id), near._reach_relay(far.peer_id, addrs)
        links = await asyncio.gather(*by_only, *others)
        assert len(set(links)) == 1 and near.conns() == [links[0]]
        echoing = await links[0].measure_rtt(5.0)
        assert echoing > 0 and len(far.conns()) == 1
        own = await near.dials.beside(far.peer_id, addrs, fresh_port=True)
        assert own is not links[0] and len(near.conns()) == 2


@on_loop
async def test_what_joined_a_dial_that_failed_is_not_dialed_again(
    refused: Multiaddr, silent: Multiaddr, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with swarm(upgrade_timeout_s=0.7) as near:  # the back-off of the refused one is over by then
        dialed: list[Multiaddr] = []
        attempt = near.dials.dialer.attempt

        async def counted(peer_id: PeerId, addr: Multiaddr, *, fresh_port: bool = False) -> Link:
            dialed.append(addr)
            return await attempt(peer_id, addr, fresh_port=fresh_port)

        monkeypatch.setattr(near.dials.dialer, "attempt", counted)
        peer = stranger()
        first = asyncio.ensure_future(near.connect(peer, [silent]))
        await until(lambda: dialed)
        others = [asyncio.ensure_future(near.connect(peer, [refused], only=only)) for only in (False, True)]
        ends = await asyncio.gather(first, *others, return_exceptions=True)
        assert {type(end) for end in ends} == {DialFailed}
        assert sorted(dialed, key=str) == sorted([silent, refused], key=str)


@on_both_loops
async def test_two_peers_that_are_each_others_relays_do_not_wait_for_each_other(refused: Multiaddr) -> None:
    one, other = stranger(), stranger()
    async with swarm(dial_timeout_s=5.0) as near:
        dials = [
            near.connect(peer, [refused, Multiaddr.parse(f"{refused}/p2p/{relay}/p2p-circuit")], force=True)
            for peer, relay in ((one, other), (other, one))
        ]
        ends = await asyncio.gather(*dials, return_exceptions=True)
    # Each of them would wait for the other, until there is no more time.
    assert [type(end) for end in ends] == [DialFailed, DialFailed]
    for end in ends:
        assert isinstance(end, DialFailed)
        assert [reason.count("Connection refused") for reason in attempts(end).values()] == [1, 1]


@on_both_loops
async def test_a_relay_is_not_reached_through_another(refused: Multiaddr) -> None:
    peer, relay, further = stranger(), stranger(), stranger()
    async with swarm() as near:
        behind = Multiaddr.parse(f"{refused}/p2p/{further}/p2p-circuit")
        near.peerstore.add_addrs(relay, [behind], 60.0, Provenance.GIVEN)
        with pytest.raises(DialFailed) as failure:
            await near.connect(peer, [Multiaddr.parse(f"/p2p/{relay}/p2p-circuit")])
    assert "a relay is to be reached without another" in failure.value.message


@on_both_loops
async def test_a_connection_that_the_peer_makes_ends_the_dial(silent: Multiaddr) -> None:
    async with swarm() as near, swarm() as far:
        dial = asyncio.ensure_future(near.connect(far.peer_id, [silent]))
        await turns(10)
        arrives = next_conn(near)
        await far.connect(near.peer_id, near.listen_addrs())
        assert await dial is await arrives
        assert len(near.conns(far.peer_id)) == 1 and near.dials.under_way() == []


@on_loop
async def test_a_relayed_connection_does_not_end_the_dial_of_a_direct_one(silent: Multiaddr) -> None:
    peer = stranger()
    async with swarm() as near:
        dial = asyncio.ensure_future(near.connect(peer, [silent]))
        await turns(10)
        near.dials.dialer.arrived(cast("Link", SimpleNamespace(remote_peer=peer, is_relayed=True)))
        await turns(10)
        assert not dial.done()
        dial.cancel()


@on_both_loops
async def test_this_node_is_no_relay_of_its_own() -> None:
    async with swarm() as near:
        through = Multiaddr.parse(f"{near.listen_addrs()[0]}/p2p/{near.peer_id}/p2p-circuit")
        with pytest.raises(DialFailed, match="the relay is this node itself"):
            await near.connect(stranger(), [through])
