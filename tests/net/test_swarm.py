"""Pins the swarm: one connection for all who ask, who serves what, limits, trimming, and its end."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
from typing import Any

import pytest

from p2pfwd.core.keys import PrivateKey
from p2pfwd.core.multiaddrs import Multiaddr, address_class
from p2pfwd.errors import (
    AddressInUse,
    BindFailed,
    ConnectionLost,
    DialFailed,
    InvalidMultiaddr,
    ProtocolNotSupported,
    SelfDial,
    ShuttingDown,
    TimedOut,
)
from p2pfwd.host.host import Host, HostSettings
from p2pfwd.net.connmgr import TUNNEL_TAG
from p2pfwd.net.link.conn import Conn
from p2pfwd.net.link.stream import Stream
from p2pfwd.net.services import Service
from p2pfwd.net.swarm import Swarm
from p2pfwd.policy.networks import networks, networks_of_host
from p2pfwd.policy.provenance import Provenance
from p2pfwd.wire.yamux import frame as f
from tests.net.swarm_rig import ANY_PORT, ECHO, TAKE, Taken, echo, next_conn, read_all, stranger, swarm
from tests.support.loops import on_both_loops, on_loop, turns, until
from tests.support.raw_peer import RawListener, RawPeer
from tests.support.sockets import refusing_port


@on_both_loops
async def test_all_who_connect_at_once_share_one_connection() -> None:
    async with swarm() as near, swarm() as far:
        conns = await asyncio.gather(*(near.connect(far.peer_id, far.listen_addrs()) for _ in range(20)))
        assert set(conns) == {near.conns()[0]}
        await until(lambda: len(far.conns()) == 1)
        assert await near.connect(far.peer_id) is conns[0]


@on_both_loops
async def test_one_who_gives_up_does_not_take_the_dial_from_the_others() -> None:
    async with swarm() as near, swarm() as far:
        loop = asyncio.get_running_loop()
        first = loop.create_task(near.connect(far.peer_id, far.listen_addrs()))
        second = loop.create_task(near.connect(far.peer_id))
        await asyncio.sleep(0)
        first.cancel()
        with pytest.raises(TimedOut):
            await near.connect(far.peer_id, timeout_s=0)
        assert (await second).remote_peer == far.peer_id


@on_both_loops
async def test_a_dial_nobody_waits_for_fails_without_a_word(caplog: pytest.LogCaptureFixture) -> None:
    with RawListener() as listener:
        async with swarm() as near:
            with pytest.raises(TimedOut):
                await near.connect(stranger(), [listener.addr], timeout_s=0.05)
            (await listener.accept_tcp()).close()
            await until(lambda: not near.dials.under_way())
            gc.collect()
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@on_both_loops
async def test_one_who_knows_a_better_address_is_not_held_to_a_dial_without_it() -> None:
    with refusing_port() as port:
        stale = Multiaddr.parse(f"/ip4/127.0.0.1/tcp/{port}")
        async with swarm() as near, swarm() as far:
            loop = asyncio.get_running_loop()
            blind = loop.create_task(near.connect(far.peer_id, [stale]))
            await asyncio.sleep(0)
            knowing = loop.create_task(near.connect(far.peer_id, far.listen_addrs()))
            assert (await knowing).remote_peer == far.peer_id
            assert await blind is await knowing  # it has the better address, too


@on_both_loops
async def test_a_dial_with_given_addresses_only_tries_no_others() -> None:
    with refusing_port() as port:
        stale = Multiaddr.parse(f"/ip4/127.0.0.1/tcp/{port}")
        async with swarm() as near, swarm() as far:
            near.peerstore.add_addrs(far.peer_id, far.listen_addrs(), 60.0, Provenance.HEARSAY)
            with pytest.raises(DialFailed) as failure:
                await near.connect(far.peer_id, [stale], only=True)
            assert [attempt["Address"] for attempt in failure.value.details["attempts"]] == [str(stale)]
            assert near.peerstore.dialable(far.peer_id) == far.listen_addrs()


@on_both_loops
async def test_both_may_connect_at_once_and_either_connection_works() -> None:
    async with swarm() as near, swarm() as far:
        for node in (near, far):
            node.services.serve(Service(name=ECHO, handler=echo))
        await asyncio.gather(
            near.connect(far.peer_id, far.listen_addrs()), far.connect(near.peer_id, near.listen_addrs())
        )
        await turns()
        for node, other in ((near, far), (far, near)):
            for conn in node.conns(other.peer_id):
                stream = await conn.open_stream([ECHO])
                await stream.write(b"x")
                stream.close_write()
                assert await read_all(stream) == b"x"


@on_both_loops
async def test_this_node_is_not_dialed() -> None:
    async with swarm() as near:
        with pytest.raises(SelfDial):
            await near.connect(near.peer_id, near.listen_addrs())


@on_both_loops
async def test_a_connection_that_is_being_closed_is_not_used_for_new_streams() -> None:
    async with swarm() as near:
        with RawListener() as listener:
            connecting = asyncio.get_running_loop().create_task(
                near.connect(listener.peer_id, [listener.addr])
            )
            async with await listener.accept() as old:
                await connecting
                await old.frame(f.GO_AWAY, 0, 0, 0)  # go before v5: and streams that are open go on
                await old.frame(f.PING, f.SYN, 0, 7)
                await old.until(f.PING, f.ACK)
                opening = asyncio.get_running_loop().create_task(
                    near.open_stream(listener.peer_id, [ECHO], timeout_s=5)
                )
                async with await listener.accept() as new:
                    assert (await new.accept())[1] == ECHO
                    assert (await opening).conn in near.conns()
                    assert len(near.conns()) == 2


@on_both_loops
async def test_callbacks_tell_of_both_ends_of_a_connections_life() -> None:
    async with swarm() as near, swarm() as far:
        told: list[tuple[str, Conn]] = []
        near.on_connected(lambda conn: told.append(("up", conn)))
        near.on_disconnected(lambda conn: told.append(("down", conn)))
        conn = await near.connect(far.peer_id, far.listen_addrs())
        assert await near.disconnect(far.peer_id) == 1
        await turns()
        assert told == [("up", conn), ("down", conn)]
        assert near.conns() == [] and await near.disconnect(far.peer_id) == 0


@on_both_loops
async def test_handlers_come_and_go_and_live_streams_stay() -> None:
    async with swarm() as near, swarm() as far:
        far.services.serve(Service(name=ECHO, handler=echo))
        await near.connect(far.peer_id, far.listen_addrs())
        stream = await near.open_stream(far.peer_id, [ECHO])
        far.services.withdraw(ECHO)
        far.services.withdraw(ECHO)
        with pytest.raises(ProtocolNotSupported):
            await near.open_stream(far.peer_id, [ECHO], confirm=True)
        await stream.write(b"still")
        assert await stream.read() == b"still"


@on_both_loops
async def test_a_prefix_serves_what_it_accepts_and_is_listed_bare() -> None:
    async with swarm() as near, swarm() as far:
        far.services.serve(
            Service(name="/x/", is_prefix=True, accepts=lambda _, name: name != "/x/closed", handler=echo)
        )
        assert far.services.names() == ["/x/"]
        await near.connect(far.peer_id, far.listen_addrs())
        stream = await near.open_stream(far.peer_id, ["/x/open"])
        assert stream.protocol == "/x/open"
        for refused in ("/x/closed", "/y/open", "/x"):
            with pytest.raises(ProtocolNotSupported):
                await near.open_stream(far.peer_id, [refused])


@on_both_loops
async def test_a_second_stream_of_a_served_protocol_does_not_wait() -> None:
    async with swarm() as near, swarm() as far:
        far.services.serve(Service(name=ECHO, handler=echo))
        await near.connect(far.peer_id, far.listen_addrs())
        first = await near.open_stream(far.peer_id, [ECHO])
        second = await near.open_stream(far.peer_id, [ECHO])
        assert (first.protocol, second.protocol) == (ECHO, None)
        third = await near.open_stream(far.peer_id, [ECHO], confirm=True)
        assert third.protocol == ECHO
        far.services.withdraw(ECHO)
        lazily = await near.open_stream(far.peer_id, [ECHO])
        with pytest.raises(ProtocolNotSupported):
            await lazily.read()
        with pytest.raises(ProtocolNotSupported):  # learned: this one waits for the answer
            await near.open_stream(far.peer_id, [ECHO])


@on_both_loops
async def test_a_handlers_defect_is_logged_and_resets_its_stream_only(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def broken(stream: Stream) -> None:
        raise ZeroDivisionError("a defect")

    async with swarm() as near, swarm() as far:
        far.services.serve(Service(name="/broken", handler=broken))
        far.services.serve(Service(name=ECHO, handler=echo))
        await near.connect(far.peer_id, far.listen_addrs())
        stream = await near.open_stream(far.peer_id, ["/broken"])
        with pytest.raises(Exception, match="reset"):
            await stream.read()
        other = await near.open_stream(far.peer_id, [ECHO])
        await other.write(b"fine")
        assert await other.read() == b"fine"
    assert "a defect" in caplog.text
    caplog.clear()


@on_both_loops
async def test_idle_connections_are_trimmed_above_the_high_water_mark() -> None:
    async with swarm(high_water=4, low_water=2, grace_s=-1.0) as victim:
        addr = victim.listen_addrs()[0]
        keys = [PrivateKey.generate() for _ in range(5)]
        peers = [await RawPeer.dial(addr, identity=key) for key in keys[:2]]
        await until(lambda: len(victim.conns()) == 2)
        victim.connmgr.protect(peers[0].peer_id, "test")
        victim.connmgr.protect(peers[1].peer_id, "test")
        taken = Taken(victim)
        await peers[1].open(1, TAKE)
        busy = await taken.get()
        for key in keys[2:]:
            peers.append(await RawPeer.dial(addr, identity=key))
        await peers[2].until(f.GO_AWAY)
        for peer in peers[2:]:
            await peer.to_the_end()
            peer.close()
        await until(lambda: len(victim.conns()) == 2)
        assert {conn.remote_peer for conn in victim.conns()} == {peers[0].peer_id, peers[1].peer_id}
        assert busy.error is None
        victim.connmgr.unprotect(peers[0].peer_id, "test")
        assert not victim.connmgr.is_protected(peers[0].peer_id)
        for peer in peers[:2]:
            peer.close()


@pytest.mark.parametrize(
    ("address", "error"),
    [
        ("/ip4/127.0.0.1/udp/0", InvalidMultiaddr),
        ("/dns4/localhost/tcp/0", InvalidMultiaddr),
        ("/ip4/203.0.113.1/tcp/0", BindFailed),
    ],
)
@on_loop
async def test_what_cannot_be_listened_on_is_said(address: str, error: type[Exception]) -> None:
    async with swarm() as node:
        with pytest.raises(error, match="cannot listen on"):
            await node.listen(Multiaddr.parse(address))


@on_loop
async def test_a_taken_port_is_an_error_or_another_port() -> None:
    async with swarm() as node:
        taken = node.listen_addrs()[0]
        with pytest.raises(AddressInUse, match=str(taken)):
            await Host.start(PrivateKey.generate(), [taken])
        host = await Host.start(PrivateKey.generate(), [taken], HostSettings(fall_back_to_free_port=True))
        assert host.swarm.listen_addrs() != [taken] and len(host.swarm.listen_addrs()) == 1
        await host.close()


@on_loop
async def test_a_port_taken_for_one_family_is_replaced_for_both() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        addrs = [Multiaddr.parse(f"/ip4/127.0.0.1/tcp/{port}"), Multiaddr.parse(f"/ip6/::1/tcp/{port}")]
        settings = HostSettings(fall_back_to_free_port=True)
        host = await Host.start(PrivateKey.generate(), addrs, settings)
        assert host.taken_ports == (port,)
        bound = {str(addr).rpartition("/")[2] for addr in host.swarm.listen_addrs()}
        assert len(host.swarm.listen_addrs()) == 2 and len(bound) == 1 and str(port) not in bound
        await host.close()


@on_loop
async def test_an_unspecified_address_is_told_as_the_interfaces() -> None:
    node = Swarm(PrivateKey.generate())
    bound = await node.listen(Multiaddr.parse("/ip4/0.0.0.0/tcp/0"))
    addrs = node.listen_addrs()
    port = bound.components()[1][1]
    assert Multiaddr.parse(f"/ip4/127.0.0.1/tcp/{port}") in addrs and bound not in addrs
    await node.close()


@on_both_loops
async def test_the_end_closes_everything_and_says_so() -> None:
    async with swarm() as near, swarm() as far:
        serving = asyncio.Event()
        ended: list[Any] = []

        async def hold(stream: Stream) -> None:
            serving.set()
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                ended.append(stream)

        far.services.serve(Service(name=TAKE, handler=hold))
        await near.connect(far.peer_id, far.listen_addrs())
        stream = await near.open_stream(far.peer_id, [TAKE])
        addr = far.listen_addrs()[0]
        await serving.wait()
        await asyncio.gather(far.close(), far.close())
        assert len(ended) == 1 and far.conns() == []
        with pytest.raises(ConnectionLost):
            await stream.read()
        with pytest.raises(ShuttingDown):
            await far.connect(near.peer_id, near.listen_addrs())
        with pytest.raises(DialFailed, match="refused"):
            await near.connect(far.peer_id, [addr], force=True)


@on_both_loops
async def test_the_end_cancels_a_dial() -> None:
    with RawListener() as listener:
        near = Swarm(PrivateKey.generate())
        await near.listen(ANY_PORT)
        dialing = asyncio.get_running_loop().create_task(near.connect(listener.peer_id, [listener.addr]))
        accepted = await listener.accept_tcp()
        await near.close()
        accepted.close()
        with pytest.raises((asyncio.CancelledError, DialFailed)):
            await dialing


@on_both_loops
async def test_a_thousand_streams_at_once_come_and_go() -> None:
    async with swarm() as near, swarm() as far:
        far.services.serve(Service(name=ECHO, handler=echo))
        arrived = next_conn(far)
        await near.connect(far.peer_id, far.listen_addrs())

        async def one(number: int) -> None:
            stream = await near.open_stream(far.peer_id, [ECHO])
            await stream.write(b"%d" % number)
            stream.close_write()
            assert await read_all(stream) == b"%d" % number

        await asyncio.gather(*(one(number) for number in range(1000)))
        conn = await arrived
        await until(lambda: not conn.streams and not near.conns()[0].streams)


@on_loop
async def test_a_proposal_on_a_connection_that_is_lost_is_made_anew_on_another() -> None:
    """Nothing but the proposal was sent: whoever wanted the stream need not know."""
    async with swarm() as near, swarm() as far:
        far.services.serve(Service(name=ECHO, handler=echo))
        conn = await near.connect(far.peer_id, far.listen_addrs())
        opening = asyncio.get_running_loop().create_task(near.open_stream(far.peer_id, [ECHO]))
        await turns(1)
        conn.abort()
        stream = await opening
        await stream.write(b"hello")
        assert await stream.read() == b"hello"
        stream.reset()


@on_loop
async def test_what_is_remembered_of_addresses_goes_when_memory_is_given_back() -> None:
    """Small, but of a flood's addresses it lies in every megabyte that the flood took."""
    async with swarm() as made:
        assert networks(Multiaddr.parse("/ip4/192.0.2.1/tcp/1"))
        assert networks_of_host.cache_info().currsize
        made._spare()
        assert not networks_of_host.cache_info().currsize and not address_class.cache_info().currsize


@on_loop
async def test_what_strangers_lose_does_not_count_for_whom_this_node_wants() -> None:
    """See `net.recovery`: relays and servers that it chose, and the owner's peers."""
    async with swarm() as node:
        used, chosen, kept = stranger(), stranger(), stranger()
        node.connmgr.protect(used, TUNNEL_TAG)
        node.peerstore.pin(chosen, (), "named")
        node.connmgr.protect(kept, "relay")
        assert [node.recovery.is_own(one) for one in (used, chosen, kept)] == [False, True, True]
