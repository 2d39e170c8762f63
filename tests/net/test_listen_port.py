"""Pins where connections leave from: the listen port, and another where that cannot be or proves nothing."""

from __future__ import annotations

import asyncio
import socket
from contextlib import closing

import pytest

from p2pfwd.core.keys import PrivateKey
from p2pfwd.core.multiaddrs import Multiaddr, tcp_endpoint
from p2pfwd.errors import AddressInUse, DialFailed
from p2pfwd.net.conduit import tcp
from p2pfwd.net.swarm import Swarm
from p2pfwd.net.transport.tcp_transport import TcpTransport
from p2pfwd.policy.provenance import Provenance
from p2pfwd.system import tcp_socket
from p2pfwd.system.loop_io import LoopIo
from tests.net.swarm_rig import next_conn, pair, stranger, swarm
from tests.support.loops import on_both_loops, on_loop
from tests.support.raw_peer import RawListener


def port_of(addr: Multiaddr) -> int:
    endpoint = tcp_endpoint(addr)
    assert endpoint is not None
    return endpoint.port


@on_both_loops
async def test_a_connection_leaves_from_the_listen_port() -> None:
    async with swarm() as near, swarm() as far, swarm() as third:
        for other in (far, third):
            arrived = next_conn(other)
            conn = await near.connect(other.peer_id, other.listen_addrs())
            assert conn.local_addr == near.listen_addrs()[0]
            assert (await arrived).remote_addr == near.listen_addrs()[0]


@on_loop
async def test_where_the_two_ports_are_connected_already_another_one_is_taken() -> None:
    async with swarm() as near, swarm() as far:
        first = await near.connect(far.peer_id, far.listen_addrs())
        arrived = next_conn(near)
        far.peerstore.add_addrs(near.peer_id, near.listen_addrs(), 60.0, Provenance.GIVEN)
        second = await far.dials.beside(near.peer_id)
        assert second.local_addr != far.listen_addrs()[0]
        assert (await arrived).remote_addr == second.local_addr
        assert first.remote_addr == far.listen_addrs()[0]


@on_loop
async def test_a_dial_back_leaves_from_another_port() -> None:
    async with swarm() as near, swarm() as far:
        arrived = next_conn(far)
        assert await near.dial_back(far.peer_id, far.listen_addrs()[0])
        assert port_of((await arrived).remote_addr) != port_of(near.listen_addrs()[0])


@on_loop
async def test_a_node_that_dials_its_own_port_meets_its_listener_and_not_itself() -> None:
    """The kernel would connect the socket to itself."""
    async with swarm() as node:
        with pytest.raises(DialFailed, match=str(node.peer_id)):
            await node.dials.dialer.dial(stranger(), node.listen_addrs(), [])


@on_loop
async def test_a_plain_connect_has_not_crossed_and_one_to_itself_has() -> None:
    async with pair() as (near, far):
        assert near.local_addr == far.remote_addr
    io = LoopIo.of(asyncio.get_running_loop())
    with tcp_socket.listen("127.0.0.1", 0, "here") as sock, RawListener() as listener:
        tcp_socket.share_port(sock)
        port = sock.getsockname()[1]
        for addr, crossed in ((listener.addr, False), (Multiaddr.parse(f"/ip4/127.0.0.1/tcp/{port}"), True)):
            endpoint = tcp_endpoint(addr)
            assert endpoint is not None
            conduit = await tcp.connect(endpoint, io, 5.0, local_port=port)
            assert conduit.has_crossed() is crossed
            conduit.abort()
    io.close()


@on_loop
async def test_a_port_that_others_listen_on_is_refused_though_ports_are_shared() -> None:
    """Another node of the same user, before it has dialed and after; and a program that shares its port."""
    async with swarm() as near, swarm() as far:
        addr = near.listen_addrs()[0]
        for _ in range(2):
            for where in (addr, Multiaddr.parse(f"/ip4/0.0.0.0/tcp/{port_of(addr)}")):
                other = Swarm(PrivateKey.generate())
                with pytest.raises(AddressInUse):
                    await other.listen(where)
                await other.close()
            await near.connect(far.peer_id, far.listen_addrs())
        with closing(socket.socket()) as program:
            program.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            program.bind(("127.0.0.1", 0))
            program.listen()
            with pytest.raises(AddressInUse):
                await near.listen(Multiaddr.parse(f"/ip4/127.0.0.1/tcp/{program.getsockname()[1]}"))


@on_loop
async def test_the_port_is_free_for_the_next_start_while_old_connections_linger() -> None:
    async with swarm() as far:
        near = Swarm(PrivateKey.generate())
        near.on_connected(lambda conn: conn.identified.set_result(None))
        addr = await near.listen(Multiaddr.parse("/ip4/127.0.0.1/tcp/0"))
        await near.connect(far.peer_id, far.listen_addrs())
        await near.close()
        again = Swarm(PrivateKey.generate())
        assert await again.listen(addr) == addr
        again.on_connected(lambda conn: conn.identified.set_result(None))
        assert (await again.connect(far.peer_id, far.listen_addrs())).is_usable
        await again.close()


@pytest.mark.parametrize(
    ("listens", "towards", "leaves"),
    [
        (["/ip4/127.0.0.1/tcp/1"], "/ip4/127.0.0.1/tcp/9", 0),
        (["/ip4/127.0.0.1/tcp/1"], "/ip4/192.0.2.1/tcp/9", None),
        (["/ip4/127.0.0.1/tcp/1", "/ip4/0.0.0.0/tcp/1"], "/ip4/192.0.2.1/tcp/9", 1),
        (["/ip4/127.0.0.1/tcp/1", "/ip4/0.0.0.0/tcp/1"], "/ip4/127.0.0.1/tcp/9", 1),
        (["/ip4/0.0.0.0/tcp/1"], "/ip6/2001:db8::1/tcp/9", None),
        (["/ip4/0.0.0.0/tcp/1", "/ip6/::/tcp/1"], "/ip6/2001:db8::1/tcp/9", 1),
        (["/ip6/::1/tcp/1", "/ip6/::/tcp/1"], "/ip6/::1/tcp/9", 1),
        ([], "/ip4/192.0.2.1/tcp/9", None),
    ],
)
@on_loop
async def test_which_port_a_connection_leaves_from(
    listens: list[str], towards: str, leaves: int | None
) -> None:
    """`leaves`: which of the listening sockets, each on a port that the system gave."""
    async with swarm() as gate:
        transport = gate._transports[0]
        assert isinstance(transport, TcpTransport)
        gate.unlisten(gate.listen_addrs()[0])
        made = [transport.listen(Multiaddr.parse(one[:-1] + "0"), gate) for one in listens]
        expected = None if leaves is None else port_of(made[leaves].addr)
        assert transport.port_towards(Multiaddr.parse(towards)) == expected
        for one in made:
            one.close()
        assert transport.port_towards(Multiaddr.parse(towards)) is None
