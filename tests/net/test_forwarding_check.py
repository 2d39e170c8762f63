"""Pins what a check finds between two real hosts, and that it does not touch the service."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import pytest

from p2pfwd.core.keys import PrivateKey
from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.forwarding.values import CheckOutcome, CloseMatch
from tests.net.forwarding_rig import ANY_PORT, FullBacklog, Pair
from tests.support.sockets import TcpServer, connect, echo, refusing_port


@pytest.fixture
def pair() -> Iterator[Pair]:
    with Pair("asyncio") as made:
        yield made


def check(pair: Pair, timeout_s: float = 10) -> CheckOutcome:
    outcome = pair.run(pair.near.service.check(pair.local.id, timeout_s))
    assert (pair.state().state, pair.state().reason) == (outcome.state, outcome.reason)
    return outcome


def test_a_working_tunnel_is_ready_and_its_service_was_not_touched(pair: Pair) -> None:
    with TcpServer(echo) as server:
        pair.tunnel(server.address)
        outcome = check(pair)
        assert outcome.ok and outcome.state == "ready"
        assert outcome.path == "direct" and outcome.remote_address == str(pair.far.address)
        assert outcome.security == "/noise"
        assert outcome.rtt_s is not None and 0 < outcome.rtt_s < 5
        listen_id = pair.do(pair.far.service.listeners)[0].id
        assert pair.run(pair.far.service.check(listen_id)).ok
        assert pair.run(pair.far.service.check_target(Multiaddr.parse(server.address))).ok
        with pair.settled():
            pass
    assert server.accepted == 0, "a one-shot service would have taken the check for its client"


def test_a_dead_service_is_the_far_sides_news_once_it_knows(pair: Pair) -> None:
    with refusing_port() as port:
        pair.tunnel(f"/ip4/127.0.0.1/tcp/{port}")
        listen_id = pair.do(pair.far.service.listeners)[0].id
        found = pair.run(pair.far.service.check(listen_id))
        assert (found.ok, found.state) == (False, "target-refused")
        assert found.reason is not None and str(port) in found.reason
        outcome = check(pair)
        assert (outcome.ok, outcome.state) == (False, "target-refused")
        assert outcome.reason == "the peer serves the protocol, but its service does not answer"
        with TcpServer(echo) as server:
            pair.do(pair.far.service.close, CloseMatch(all=True))
            pair.listen(server.address)
            assert check(pair).ok


def test_each_way_of_not_working_has_its_own_answer(pair: Pair) -> None:
    pair.forward("/x/nobody")
    outcome = check(pair)
    assert (outcome.ok, outcome.state) == (False, "protocol-not-supported")
    assert outcome.reason == "the peer is there but does not serve /x/nobody"
    address = pair.far.address
    pair.run(pair.close(pair.far))
    outcome = check(pair)
    assert (outcome.ok, outcome.state) == (False, "peer-unreachable")
    assert outcome.reason is not None and f"{address}: " in outcome.reason


def forward_to(pair: Pair, peer_id: PeerId, *addresses: Multiaddr) -> None:
    pair.local = pair.run(pair.near.service.forward("/x/test", ANY_PORT, peer_id, addresses))


def test_a_peer_nobody_knows(pair: Pair) -> None:
    stranger = PeerId.from_public_key(PrivateKey.generate().public_key)
    forward_to(pair, stranger)
    outcome = check(pair)
    assert (outcome.ok, outcome.state) == (False, "peer-unreachable")
    assert outcome.reason == f"no address is known for {stranger}"


def test_somebody_else_at_the_address(pair: Pair) -> None:
    stranger = PeerId.from_public_key(PrivateKey.generate().public_key)
    forward_to(pair, stranger, pair.far.address)
    outcome = check(pair)
    assert not outcome.ok and outcome.reason is not None
    assert str(pair.far.host.peer_id) in outcome.reason, "it says who is there instead"


def test_a_black_hole_ends_at_the_deadline(pair: Pair) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = Multiaddr.parse(f"/ip4/127.0.0.1/tcp/{silent.getsockname()[1]}")
        forward_to(pair, PeerId.from_public_key(PrivateKey.generate().public_key), address)
        outcome = check(pair, timeout_s=0.3)
        assert (outcome.ok, outcome.state) == (False, "peer-unreachable")
        assert outcome.reason is not None and "within 0.3 s" in outcome.reason
        assert 0.2 < outcome.elapsed_s < 5


def learned(pair: Pair, state: str) -> str | None:
    """The reason `ls` gives once a client's connection has brought the forward into `state`."""

    async def wait() -> str | None:
        changed = asyncio.Event()
        cancel = pair.near.service.on_event(lambda event: changed.set())
        try:
            async with asyncio.timeout(20):
                while pair.near.service.listeners()[0].state != state:
                    await changed.wait()
                    changed.clear()
        finally:
            cancel()
        return pair.near.service.listeners()[0].reason

    return pair.run(wait())


def test_a_client_that_meets_a_dead_service_makes_ls_say_so(pair: Pair) -> None:
    with refusing_port() as dead:
        port = pair.tunnel(f"/ip4/127.0.0.1/tcp/{dead}")
        with pytest.raises(ConnectionResetError), connect(port) as conn:
            conn.recv(1)
        assert learned(pair, "target-refused") == (
            "the peer serves the protocol, but its service does not answer"
        )


def test_a_client_that_meets_a_black_holed_service_makes_ls_say_so(pair: Pair) -> None:
    pair.run(pair.close(pair.far))
    pair.far = pair.run(pair.start(target_timeout_s=0.5))
    with FullBacklog() as target:
        port = pair.tunnel(target)
        with pytest.raises(ConnectionResetError), connect(port) as conn:
            conn.recv(1)
        assert learned(pair, "target-timeout") == (
            "the peer serves the protocol, but its service does not answer in time"
        )
        assert check(pair).state == "target-timeout", "that it listens does not make it answer"
