"""What a look-up that came to nothing says: the cure fits what was tried, and nothing is said twice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import pytest

from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import DialFailed, ExitStatus, P2PForwardError, PeerIdMismatch, PeerNotFound
from p2pfwd.host.routing import Finding, Progress, Routing, Try
from p2pfwd.net.dialer import NAME, NETWORK, Attempt
from p2pfwd.net.swarm import Swarm
from p2pfwd.policy.undialable import UNDIALABLE
from tests.support.virtual_time import in_virtual_time

PEER = PeerId(b"\x12\x20" + bytes(32))
REFUSED = Attempt("/ip4/192.0.2.1/tcp/1", "Connection refused", NETWORK)
NO_NAME = Attempt("/dns4/far.example/tcp/1", "DNS: the name far.example does not exist", NAME)
QUIC = Attempt("/ip4/192.0.2.1/udp/1/quic-v1", "it is for QUIC, and this node speaks TCP only", UNDIALABLE)
NO_KEY = Attempt("/ip4/192.0.2.2/tcp/1", "the peer has no swarm.key", "negotiation-failed")
ELSE = Attempt("/ip4/192.0.2.3/tcp/1", "noise: the node proved to be another", PeerIdMismatch.code)


class Nobody:
    """A source that knows nothing."""

    starts_slowly = False

    def __init__(self, name: str) -> None:
        self.name = name

    def is_ready(self) -> bool:
        return True

    async def wait_ready(self) -> None:
        pass

    async def find(self, peer_id: PeerId, attempt: Try) -> Finding:
        return Finding(False, 1)


class NoSwarm:
    def set_router(self, router: object) -> None:
        pass


async def given_up(
    attempts: Sequence[Attempt], *sources: str, nobody: tuple[str, str | None] | None = None
) -> tuple[P2PForwardError, list[str]]:
    """The error of a look-up after these failed dials, and what was told meanwhile."""
    routing = Routing(cast(Swarm, NoSwarm()))
    routing.why_nobody = lambda: nobody
    for name in sources:
        routing.add(Nobody(name))
    told: list[Progress] = []
    routing.on_progress(told.append)
    kind = PeerNotFound if all(it.code == UNDIALABLE for it in attempts) else DialFailed
    failure = kind("it failed", attempts=[it.detail for it in attempts])
    with pytest.raises(P2PForwardError) as caught:
        await routing.route(PEER, failure)
    return caught.value, [progress.text for progress in told]


@pytest.mark.parametrize(
    ("attempts", "hint"),
    [
        ([REFUSED], "is the daemon running there, and does a firewall"),
        ([REFUSED, QUIC, NO_NAME], "is the daemon running there, and does a firewall"),
        ([NO_NAME], "check the name, and the name servers of this machine; or give an address without"),
        ([NO_NAME, QUIC], "check the name, and the name servers of this machine; or give an address"),
        ([ELSE], "ask for the peer's ID and address anew"),
        ([NO_KEY], None),
        ([NO_KEY, NO_NAME], None),
        ([QUIC], f"give an address for TCP: /ip4/<address>/tcp/<port>/p2p/{PEER}"),
    ],
)
@in_virtual_time
async def test_the_cure_fits_what_was_tried(attempts: list[Attempt], hint: str | None) -> None:
    error, _ = await given_up(attempts, "the DHT")
    assert (error.hint or "").startswith(hint or "") and (hint is None) == (error.hint is None)
    for attempt in attempts:
        assert f"{attempt.addr}: {attempt.reason}" in error.message
    assert error.details["attempts"] == [attempt.detail for attempt in attempts]


@in_virtual_time
async def test_another_node_at_every_address_has_a_code_of_its_own() -> None:
    assert type((await given_up([ELSE, QUIC], "the DHT"))[0]) is PeerIdMismatch
    assert type((await given_up([ELSE, REFUSED], "the DHT"))[0]) is DialFailed


@in_virtual_time
async def test_what_cannot_be_dialed_is_not_called_out_of_reach() -> None:
    error, _ = await given_up([QUIC], "the DHT")
    assert error.exit_status is ExitStatus.NOT_FOUND
    assert error.message == (
        f"{PEER} cannot be dialed: {QUIC.addr}: {QUIC.reason}; 1 peer was asked for another address"
    )


@in_virtual_time
async def test_with_nobody_to_ask_the_reason_of_the_dial_stands() -> None:
    error, told = await given_up([QUIC])
    assert error.message == "it failed" and told == []


NOBODY = ("none of the 6 bootstrap peers answers (2 names, 4 addresses)", "is this machine's network up?")


@in_virtual_time
async def test_why_nobody_could_be_asked_is_said_with_its_cure() -> None:
    """Of a peer never heard of, of one that is not where it was, and where mDNS alone was asked."""
    unknown, _ = await given_up([], nobody=NOBODY)
    assert unknown.message == (
        f"no address is known for {PEER}, and no peer is there to ask for one: {NOBODY[0]}"
    )
    assert (unknown.hint or "").endswith(f"; or: {NOBODY[1]}")
    moved, _ = await given_up([REFUSED], nobody=NOBODY)
    assert type(moved) is DialFailed and moved.details["attempts"] == [REFUSED.detail]
    assert moved.message == f"it failed; nobody can be asked for another address: {NOBODY[0]}"
    near, _ = await given_up([], "the local network", nobody=NOBODY)
    assert near.message.endswith(f"({NOBODY[0]})") and near.hint == NOBODY[1]


@in_virtual_time
async def test_sources_of_one_name_are_named_once() -> None:
    _, told = await given_up([REFUSED], "the private DHT", "the private DHT")
    assert told[0] == "asking the private DHT"
    _, told = await given_up([REFUSED], "the private DHT", "the private DHT", "the local network")
    assert told[0] == "asking the private DHT and the local network"
