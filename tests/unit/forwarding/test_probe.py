"""Pins the probe: what a peer is asked, what it may tell, and how each answer is put to the user."""

from __future__ import annotations

import asyncio

import pytest

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.errors import (
    DialFailed,
    P2PForwardError,
    ProtocolNotSupported,
    RemoteProtocolError,
    StreamReset,
    TargetRefused,
)
from p2pfwd.forwarding import probe
from p2pfwd.forwarding.values import CheckOutcome
from tests.unit.forwarding.conftest import MakeForwarding
from tests.unit.forwarding.fakes import ALICE, FakeHost, FakeStream, turns

LOCAL = Multiaddr.parse("/ip4/127.0.0.1/tcp/2222")
TARGET = Multiaddr.parse("/ip4/192.0.2.1/tcp/22")
ASKED = (probe.PREFIX + "/x/a", "/x/a")


def check(forwarding: MakeForwarding, host: FakeHost, *incoming: object, protocol: str) -> CheckOutcome:
    """The outcome of checking a forward whose peer takes `protocol` and then sends `incoming`."""

    async def main() -> CheckOutcome:
        service = forwarding()
        listener = await service.forward("/x/a", LOCAL, ALICE)
        stream = FakeStream(ALICE, protocol)
        for item in incoming:
            stream.incoming.put_nowait(item)  # type: ignore[arg-type]
        host.swarm.answers = [stream]
        outcome = await service.check(listener.id, timeout_s=5)
        assert host.swarm.asked == [(ALICE, ASKED)]
        assert host.swarm.forced[0], "a person asked: no back-off"
        assert stream.resets == 1, "nothing is left open"
        assert not stream.finished, "a Kubo answers a FIN with FIN or reset, its service alive or not"
        info = service.listeners()[0]
        assert info.state == outcome.state
        assert info.reason == (outcome.reason if outcome.state != "ready" else None)
        await service.aclose()
        return outcome

    return asyncio.run(main())


@pytest.mark.parametrize("state", [b"ready", b"unknown"])
def test_a_p2pfwd_peer_that_serves_it_is_ready(
    forwarding: MakeForwarding, host: FakeHost, state: bytes
) -> None:
    outcome = check(forwarding, host, state, protocol=ASKED[0])
    assert outcome.ok and outcome.state == "ready" and outcome.reason is None
    assert (outcome.path, outcome.security, outcome.rtt_s) == ("direct", "/noise", 0.003)
    assert outcome.remote_address == "/ip4/192.0.2.7/tcp/4002"


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (b"target-refused", "the peer serves the protocol, but its service does not answer"),
        (b"target-timeout", "the peer serves the protocol, but its service does not answer in time"),
        (b"resource-limit", "the peer serves the protocol, but it is at its limit of connections"),
        (b"some-later-state", "the peer serves the protocol, but it reports some-later-state"),
    ],
)
def test_what_the_peer_says_of_its_service_is_told(
    forwarding: MakeForwarding, host: FakeHost, state: bytes, reason: str
) -> None:
    outcome = check(forwarding, host, state, protocol=ASKED[0])
    assert (outcome.ok, outcome.state, outcome.reason) == (False, state.decode(), reason)


@pytest.mark.parametrize("answer", [b"", b"READY", b"a\x1b[31m", b"two words"])
def test_an_answer_that_is_no_state_is_the_peers_fault(
    forwarding: MakeForwarding, host: FakeHost, answer: bytes
) -> None:
    outcome = check(forwarding, host, answer, protocol=ASKED[0])
    assert (outcome.ok, outcome.state) == (False, RemoteProtocolError.code)


@pytest.mark.parametrize(
    ("first", "ok", "state"),
    [
        (b"SSH-2.0-", True, "ready"),  # a service that speaks first
        (b"", True, "ready"),  # one that ends at once
        (StreamReset("reset", by="remote"), False, "stream-reset"),
    ],
)
def test_a_kubo_peer_is_tried_with_a_stream_that_is_reset_after_it(
    forwarding: MakeForwarding, host: FakeHost, first: object, ok: bool, state: str
) -> None:
    outcome = check(forwarding, host, first, protocol="/x/a")
    assert (outcome.ok, outcome.state) == (ok, state)
    assert (outcome.reason == probe.TRIED) == ok, "its owner may wonder who that was"


def test_a_service_that_a_foreign_peer_lists_is_not_touched(
    forwarding: MakeForwarding, host: FakeHost
) -> None:
    """It may be one for a single connection: `nc -l 8080 < file`."""

    async def main() -> None:
        service = forwarding()
        listener = await service.forward("/x/a", LOCAL, ALICE)
        host.swarm.peerstore.listed[ALICE] = frozenset({"/ipfs/ping/1.0.0", "/x/a"})
        outcome = await service.check(listener.id, timeout_s=5)
        assert host.swarm.asked == [], "no stream of any kind"
        assert (outcome.ok, outcome.state, outcome.reason) == (True, "unknown", probe.NOT_TRIED)
        assert outcome.path == "direct" and outcome.rtt_s is not None
        assert service.listeners()[0].state == "unknown"
        host.swarm.peerstore.listed[ALICE] = frozenset({probe.PREFIX, "/x/a"})
        host.swarm.answers = [stream := FakeStream(ALICE, ASKED[0])]
        stream.incoming.put_nowait(b"ready")
        assert (await service.check(listener.id, timeout_s=5)).state == "ready", "a p2pfwd is asked"
        await service.aclose()

    asyncio.run(main())


def test_a_silent_service_behind_a_kubo_is_alive(
    forwarding: MakeForwarding, host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "GRACE_S", 0.0)
    assert check(forwarding, host, protocol="/x/a").ok


@pytest.mark.parametrize(
    ("error", "state", "reason"),
    [
        (ProtocolNotSupported("na"), "protocol-not-supported", "the peer is there but does not serve /x/a"),
        (DialFailed("every address refused"), "peer-unreachable", "every address refused"),
    ],
)
def test_failures_are_outcomes_with_their_reason(
    forwarding: MakeForwarding, host: FakeHost, error: P2PForwardError, state: str, reason: str
) -> None:
    async def main() -> None:
        service = forwarding()
        listener = await service.forward("/x/a", LOCAL, ALICE)
        host.swarm.answers = [error]
        outcome = await service.check(listener.id, timeout_s=5)
        assert (outcome.ok, outcome.state, outcome.reason) == (False, state, reason)
        await service.aclose()

    asyncio.run(main())


def test_a_check_ends_at_its_deadline(forwarding: MakeForwarding, host: FakeHost) -> None:
    async def main() -> None:
        service = forwarding()
        listener = await service.forward("/x/a", LOCAL, ALICE)
        host.swarm.answers = [asyncio.get_running_loop().create_future()]
        outcome = await service.check(listener.id, timeout_s=0)
        assert (outcome.ok, outcome.state) == (False, "peer-unreachable")
        assert outcome.reason == "the peer did not answer within 0 s"
        await service.aclose()

    asyncio.run(main())


def test_probes_are_answered_for_what_is_served_only(forwarding: MakeForwarding, host: FakeHost) -> None:
    async def main() -> None:
        service = forwarding()
        listener = await service.listen("/x/a", TARGET)
        accepts, serve = host.swarm.services.accepts, host.swarm.services.dispatch
        assert accepts(ALICE, probe.PREFIX + "/x/a")
        assert not accepts(ALICE, probe.PREFIX + "/x/b")
        assert not accepts(ALICE, "/x/b") and not accepts(ALICE, probe.PREFIX)
        listener.failed(TargetRefused("/ip4/192.0.2.1/tcp/22 refused: a secret"))
        stream = FakeStream(ALICE, probe.PREFIX + "/x/a")
        serve(stream)
        await turns()
        assert stream.sent == [b"target-refused"], "the state, and no address"
        assert stream.finished
        gone = FakeStream(ALICE, probe.PREFIX + "/x/b")
        serve(gone)
        await turns()
        assert gone.resets == 1 and gone.sent == []
        assert service.streams() == [], "a probe is no tunnelled stream"
        await service.aclose()

    asyncio.run(main())
