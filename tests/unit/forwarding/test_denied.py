"""A forward that stands as denied asks again by itself, at a pace, and says so when it is let in."""

from __future__ import annotations

import asyncio

import pytest

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.errors import BindFailed, DialFailed, ProtocolNotSupported
from p2pfwd.forwarding import probe
from p2pfwd.forwarding.denied import FIRST_S, MOST_S
from p2pfwd.forwarding.service import Forwarding
from p2pfwd.forwarding.values import CloseMatch
from tests.support.virtual_time import in_virtual_time
from tests.unit.forwarding.conftest import MakeForwarding
from tests.unit.forwarding.fakes import ALICE, FakeConn, FakeHost, FakeStream, turns

LOCAL = Multiaddr.parse("/ip4/127.0.0.1/tcp/0")
DAY_S = 86_400


def saying(text: bytes) -> FakeStream:
    """The stream of a probe on which the peer says `text`."""
    stream = FakeStream(ALICE, probe.PREFIX + "/x/a")
    stream.incoming.put_nowait(text)
    return stream


def state(service: Forwarding) -> str:
    return service.listeners()[0].state


async def denied(service: Forwarding, host: FakeHost) -> None:
    """A forward that a check has found denied."""
    listener = await service.forward("/x/a", LOCAL, ALICE)
    host.swarm.answers = [saying(b"not-allowed")]
    await service.check(listener.id)
    assert state(service) == "not-allowed"
    host.swarm.asked.clear()


@in_virtual_time
async def test_it_asks_ever_less_often_and_shows_that_it_is_let_in(
    forwarding: MakeForwarding, host: FakeHost, caplog: pytest.LogCaptureFixture
) -> None:
    service, told = forwarding(), []
    await denied(service, host)
    service.on_listener_event(lambda event: told.append(event.listener and event.listener.state))
    logged = len(caplog.records)
    host.swarm.answers = [saying(b"not-allowed") for _ in range(5000)]
    await asyncio.sleep(FIRST_S)
    assert len(host.swarm.asked) == 1
    await asyncio.sleep(DAY_S)
    asked = len(host.swarm.asked)
    assert DAY_S / MOST_S <= asked <= DAY_S / MOST_S * 1.3
    assert {protocols for _, protocols in host.swarm.asked} == {(probe.PREFIX + "/x/a",)}
    assert (told, len(caplog.records)) == ([], logged), "what has not changed is told once"
    host.swarm.answers = [saying(b"ready")]
    await asyncio.sleep(MOST_S)
    assert (state(service), told) == ("ready", ["ready"])
    assert caplog.records[-1].message.endswith("the peer lets this node use it now")
    await asyncio.sleep(DAY_S)
    assert len(host.swarm.asked) == asked + 1, "and nothing is asked any more"
    await service.aclose()


@in_virtual_time
@pytest.mark.parametrize(
    ("answer", "stands"),
    [
        (DialFailed("cannot reach it"), "peer-unreachable"),
        (ProtocolNotSupported("no"), "protocol-not-supported"),
        (saying, "target-refused"),
    ],
)
async def test_it_asks_no_more_once_it_stands_otherwise(
    forwarding: MakeForwarding, host: FakeHost, answer: object, stands: str
) -> None:
    service = forwarding()
    await denied(service, host)
    host.swarm.answers = [saying(b"target-refused") if answer is saying else answer]
    await asyncio.sleep(DAY_S)
    assert (state(service), len(host.swarm.asked)) == (stands, 1)
    await service.aclose()


@in_virtual_time
async def test_a_peer_that_comes_back_is_asked_at_once(forwarding: MakeForwarding, host: FakeHost) -> None:
    service = forwarding()
    await denied(service, host)
    host.swarm.answers = [saying(b"ready")]
    for connected in host.swarm.connected:
        connected(FakeConn(ALICE))
    await turns()
    assert state(service) == "ready"
    await service.aclose()


@in_virtual_time
async def test_a_peer_that_was_away_is_asked_when_it_is_back_and_then_as_before(
    forwarding: MakeForwarding, host: FakeHost
) -> None:
    """It may have been told to let this node in while it was away."""
    service = forwarding()
    await denied(service, host)
    host.swarm.answers = [DialFailed("cannot reach it"), saying(b"not-allowed"), saying(b"ready")]
    await asyncio.sleep(DAY_S)
    assert (state(service), len(host.swarm.asked)) == ("peer-unreachable", 1)
    told: list[str | None] = []
    service.on_listener_event(lambda event: told.append(event.listener and event.listener.state))
    for connected in host.swarm.connected:
        connected(FakeConn(ALICE))
    await turns()
    row = service.listeners()[0]
    assert (row.state, len(host.swarm.asked)) == ("not-allowed", 2)
    assert row.hint is not None and "p2pfwd allow /x/a" in row.hint
    await asyncio.sleep(FIRST_S)
    assert (state(service), told) == ("ready", ["not-allowed", "ready"])
    await service.aclose()


@in_virtual_time
async def test_a_forward_that_lost_its_address_stands_as_denied_when_it_has_it_again(
    forwarding: MakeForwarding, host: FakeHost
) -> None:
    service = forwarding()
    await denied(service, host)
    (listener,) = service._forwards()
    listener._unbind()
    listener.cannot_bind(BindFailed("no interface has that address"))
    assert state(service) == "bind-failed"
    listener.bind()
    assert state(service) == "not-allowed"
    host.swarm.answers = [saying(b"ready")]
    await turns()
    assert state(service) == "ready"
    await service.aclose()


@in_virtual_time
@pytest.mark.parametrize("answer", [b"ready", b"target-refused"])
async def test_who_was_let_in_is_not_shown_as_denied_after_the_peer_was_away(
    forwarding: MakeForwarding, host: FakeHost, answer: bytes
) -> None:
    service = forwarding()
    await denied(service, host)
    host.swarm.answers = [saying(answer)]
    await asyncio.sleep(FIRST_S)
    assert state(service) == answer.decode()
    (listener,) = service._forwards()
    listener.failed(DialFailed("cannot reach it"))
    for connected in host.swarm.connected:
        connected(FakeConn(ALICE))
    assert state(service) == "unknown"
    await service.aclose()


@in_virtual_time
async def test_a_closed_forward_asks_nothing(forwarding: MakeForwarding, host: FakeHost) -> None:
    service = forwarding()
    await denied(service, host)
    (listener,) = service._forwards()
    service.close(CloseMatch(all=True))
    await asyncio.sleep(DAY_S)
    assert not host.swarm.asked and listener._again._timer is None
    await service.aclose()
