"""Pins a forward: one stream per connection, RST when there is none, limits, what `ls` says of it."""

from __future__ import annotations

import asyncio
import logging
import os
from errno import EMFILE
from types import SimpleNamespace

import pytest

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.core.terms import ForwardTerms
from p2pfwd.errors import ConnectionLost, DialFailed, ProtocolNotSupported, StreamReset, TimedOut
from p2pfwd.forwarding import registry
from p2pfwd.forwarding.forward import LocalListener
from p2pfwd.forwarding.service import Forwarding
from p2pfwd.forwarding.values import CloseMatch
from p2pfwd.peers.store import MAX_PEERS, Peerstore
from p2pfwd.system import descriptors
from tests.unit.forwarding.conftest import MakeForwarding
from tests.unit.forwarding.fakes import (
    ALICE,
    BOB,
    FakeAcceptor,
    FakeConn,
    FakeHost,
    FakeSocket,
    FakeSplice,
    FakeStream,
    turns,
)

LOCAL = Multiaddr.parse("/ip4/127.0.0.1/tcp/0")


async def open_forward(service: Forwarding) -> tuple[LocalListener, FakeAcceptor]:
    listener = await service.forward("/x/a", LOCAL, ALICE)
    return listener, FakeAcceptor.made[-1]


def state(service: Forwarding) -> tuple[str, str | None]:
    info = service.listeners()[0]
    return info.state, info.reason


def test_a_connection_becomes_a_stream_and_no_task_stays(
    forwarding: MakeForwarding, host: FakeHost, splices: list[FakeSplice]
) -> None:
    async def main() -> None:
        service = forwarding()
        _, acceptor = await open_forward(service)
        sock = FakeSocket(("127.0.0.1", 50001))
        acceptor.accepted(sock)
        await turns()
        assert host.swarm.asked == [(ALICE, ("/x/a",))]
        assert [s.started for s in splices] == [True]
        assert host.swarm.peerstore.forwarded == {ALICE}
        assert splices[0].sock is sock and not sock.closed
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert state(service) == ("ready", None)
        (stream,) = service.streams()
        assert (stream.direction, stream.protocol) == ("outbound", "/x/a")
        assert stream.origin_address == "/ip4/127.0.0.1/tcp/50001"
        assert stream.target_address == f"/p2p/{ALICE}"
        splices[0].end()
        assert service.streams() == []
        await service.aclose()

    asyncio.run(main())


def test_no_stream_means_rst_and_a_reason_never_a_clean_eof(
    forwarding: MakeForwarding, host: FakeHost, splices: list[FakeSplice]
) -> None:
    async def main() -> None:
        service = forwarding()
        _, acceptor = await open_forward(service)
        host.swarm.answers = [DialFailed("cannot reach it"), ProtocolNotSupported("not served")]
        sock = FakeSocket()
        acceptor.accepted(sock)
        await turns()
        assert sock.was_reset
        assert state(service) == ("peer-unreachable", "cannot reach it")
        sock = FakeSocket()
        acceptor.accepted(sock)
        await turns()
        assert sock.was_reset
        assert state(service) == ("protocol-not-supported", "the peer is there but does not serve /x/a")
        assert splices == [] and service.streams() == []
        await service.aclose()

    asyncio.run(main())


def test_a_defect_while_opening_still_ends_the_client_with_rst(
    forwarding: MakeForwarding, host: FakeHost, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        service = forwarding()
        _, acceptor = await open_forward(service)
        host.swarm.answers = [ZeroDivisionError("a defect")]
        sock = FakeSocket()
        acceptor.accepted(sock)
        await turns()
        assert sock.was_reset
        await service.aclose()

    asyncio.run(main())
    assert "a defect here ended a connection" in caplog.text


def test_closing_during_a_dial_ends_the_client_and_the_task(
    forwarding: MakeForwarding, host: FakeHost, splices: list[FakeSplice]
) -> None:
    # D07. One connection waits for its stream, the other's task has not had its first step.
    async def main() -> None:
        service = forwarding()
        listener, acceptor = await open_forward(service)
        host.swarm.answers = [asyncio.get_running_loop().create_future()]
        waiting, fresh = FakeSocket(), FakeSocket()
        acceptor.accepted(waiting)
        await turns()
        acceptor.accepted(fresh)
        service.close(CloseMatch(all=True))
        assert waiting.was_reset and fresh.was_reset and acceptor.closed
        assert not listener.closed.done()
        await listener.closed
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert splices == [] and service.listeners() == []
        await service.aclose()

    asyncio.run(main())


def test_live_streams_outlive_their_listener(forwarding: MakeForwarding, splices: list[FakeSplice]) -> None:
    async def main() -> None:
        service = forwarding()
        listener, acceptor = await open_forward(service)
        acceptor.accepted(FakeSocket())
        await turns()
        (closed,) = service.close(CloseMatch(protocol="/x/a"))
        assert closed.streams == 1
        await listener.closed
        assert len(service.streams()) == 1 and not splices[0].sock.closed
        await service.aclose()
        assert splices[0].sock.closed and service.streams() == []

    asyncio.run(main())


def test_accepting_waits_while_too_many_are_being_opened(forwarding: MakeForwarding, host: FakeHost) -> None:
    async def main() -> None:
        service = forwarding(max_pending_opens=2)
        _, acceptor = await open_forward(service)
        first: asyncio.Future[FakeStream] = asyncio.get_running_loop().create_future()
        host.swarm.answers = [first, asyncio.get_running_loop().create_future()]
        acceptor.accepted(FakeSocket())
        assert not acceptor.paused
        acceptor.accepted(FakeSocket())
        assert acceptor.paused
        await turns()
        first.set_result(FakeStream(ALICE, "/x/a"))
        await turns()
        assert not acceptor.paused
        await service.aclose()

    asyncio.run(main())


def test_above_the_stream_limit_clients_get_rst_and_the_state_says_so(
    forwarding: MakeForwarding, host: FakeHost, splices: list[FakeSplice]
) -> None:
    async def main() -> None:
        service = forwarding(max_streams_per_peer=1)
        _, acceptor = await open_forward(service)
        acceptor.accepted(FakeSocket())
        await turns()
        sock = FakeSocket()
        acceptor.accepted(sock)
        assert sock.was_reset and len(host.swarm.asked) == 1
        assert state(service)[0] == "resource-limit"
        splices[0].end()
        acceptor.accepted(FakeSocket())
        await turns()
        assert state(service) == ("ready", None)
        await service.aclose()

    asyncio.run(main())


def test_the_limit_met_while_opening_resets_the_stream_too(
    forwarding: MakeForwarding, host: FakeHost
) -> None:
    async def main() -> None:
        service = forwarding(max_streams=1)
        _, acceptor = await open_forward(service)
        late: asyncio.Future[FakeStream] = asyncio.get_running_loop().create_future()
        host.swarm.answers = [late]
        sock = FakeSocket()
        acceptor.accepted(sock)
        await turns()
        acceptor.accepted(FakeSocket())
        await turns()
        stream = FakeStream(ALICE, "/x/a")
        late.set_result(stream)
        await turns()
        assert stream.resets == 1 and sock.was_reset and len(service.streams()) == 1
        await service.aclose()

    asyncio.run(main())


def test_running_out_of_descriptors_is_a_state(forwarding: MakeForwarding) -> None:
    async def main() -> None:
        service = forwarding()
        _, acceptor = await open_forward(service)
        acceptor.exhausted(OSError(EMFILE, os.strerror(EMFILE)))
        found, reason = state(service)
        assert found == "resource-limit" and reason is not None and descriptors.reason(EMFILE) in reason
        acceptor.exhausted(None)
        assert state(service) == ("ready", None)
        await service.aclose()

    asyncio.run(main())


def test_a_peer_that_resets_before_any_answer_is_a_state_until_bytes_come(
    forwarding: MakeForwarding, splices: list[FakeSplice]
) -> None:
    async def main() -> None:
        service = forwarding()
        _, acceptor = await open_forward(service)
        acceptor.accepted(FakeSocket())
        await turns()
        splices[0].end(StreamReset("reset", by="remote"))
        assert state(service)[0] == "stream-reset"
        acceptor.accepted(FakeSocket())
        await turns()
        assert state(service)[0] == "stream-reset", "an accepted stream alone proves nothing"
        splices[1].bytes_in = 5
        assert state(service)[0] == "ready", "asked while it is alive"
        splices[1].end(StreamReset("reset", by="remote"))
        assert state(service)[0] == "ready", "it answered before"
        await service.aclose()

    asyncio.run(main())


def test_an_older_stream_does_not_take_back_a_newer_ones_failure(
    forwarding: MakeForwarding, splices: list[FakeSplice]
) -> None:
    async def main() -> None:
        service = forwarding()
        _, acceptor = await open_forward(service)
        for error, expected in (
            (StreamReset("reset", by="remote"), "stream-reset"),
            (ProtocolNotSupported("not served any more"), "protocol-not-supported"),
        ):
            for _ in range(2):
                acceptor.accepted(FakeSocket())
            await turns()
            older, newer = splices[-2:]
            older.bytes_in = 5
            newer.end(error)
            assert state(service)[0] == expected
            older.end()
            assert state(service)[0] == expected
        await service.aclose()

    asyncio.run(main())


def test_a_refusal_that_comes_after_the_stream_was_handed_out_is_a_state(
    forwarding: MakeForwarding, splices: list[FakeSplice]
) -> None:
    async def main() -> None:
        service = forwarding()
        _, acceptor = await open_forward(service)
        for error, *expected in (
            (
                ProtocolNotSupported("multistream: no"),
                "protocol-not-supported",
                "the peer is there but does not serve /x/a",
            ),
            (ConnectionLost("lost"), "peer-unreachable", "lost"),
        ):
            acceptor.accepted(FakeSocket())
            await turns()
            splices[-1].end(error)
            assert list(state(service)) == expected
        await service.aclose()

    asyncio.run(main())


def test_connections_of_the_peer_correct_the_state(forwarding: MakeForwarding, host: FakeHost) -> None:
    async def main() -> None:
        service = forwarding()
        _, acceptor = await open_forward(service)
        host.swarm.answers = [DialFailed("cannot reach it")]
        acceptor.accepted(FakeSocket())
        await turns()
        host.swarm.connected[0](FakeConn(ALICE))
        assert state(service) == ("unknown", None)
        acceptor.accepted(FakeSocket())
        await turns()
        assert state(service) == ("ready", None)
        host.swarm.disconnected[0](FakeConn(ALICE))
        assert state(service) == ("unknown", None)
        await service.aclose()

    asyncio.run(main())


def test_a_peer_that_falls_silent_is_said_to_be_unreachable_until_it_answers(
    forwarding: MakeForwarding, host: FakeHost
) -> None:
    async def main() -> None:
        service = forwarding()
        _, acceptor = await open_forward(service)
        acceptor.accepted(FakeSocket())
        await turns()
        assert state(service) == ("ready", None)
        host.swarm.silent[0](BOB, TimedOut("another peer"))
        assert state(service) == ("ready", None)
        host.swarm.silent[0](ALICE, TimedOut("it has fallen silent"))
        assert state(service) == ("peer-unreachable", "it has fallen silent")
        host.swarm.silent[0](ALICE, None)
        assert state(service) == ("unknown", None)
        await service.aclose()

    asyncio.run(main())


def test_one_log_line_for_many_failures_of_one_kind(
    forwarding: MakeForwarding, host: FakeHost, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        service = forwarding()
        _, acceptor = await open_forward(service)
        for _ in range(20):
            host.swarm.answers.append(DialFailed("cannot reach it"))
            acceptor.accepted(FakeSocket())
            await turns()
        host.swarm.answers.append(ProtocolNotSupported("not served"))
        acceptor.accepted(FakeSocket())
        await turns()
        await service.aclose()

    with caplog.at_level(logging.WARNING):
        asyncio.run(main())
    assert [r.getMessage() for r in caplog.records] == [
        "forward 1 /x/a: cannot reach it",
        "forward 1 /x/a: the peer is there but does not serve /x/a (19 more in between)",
    ]


def test_a_clock_set_back_does_not_silence_the_log(
    forwarding: MakeForwarding,
    host: FakeHost,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> None:
        service = forwarding()
        _, acceptor = await open_forward(service)
        for monotonic, wall in ((1000.0, 1.8e9), (1020.0, 1.7e9)):
            clocks = SimpleNamespace(monotonic=lambda now=monotonic: now, time=lambda now=wall: now)
            monkeypatch.setattr(registry, "time", clocks)
            host.swarm.answers.append(DialFailed("cannot reach it"))
            acceptor.accepted(FakeSocket())
            await turns()
        monkeypatch.undo()
        await service.aclose()

    with caplog.at_level(logging.WARNING):
        asyncio.run(main())
    assert [r.getMessage() for r in caplog.records] == ["forward 1 /x/a: cannot reach it"] * 2


def test_explicit_addresses_are_pinned_for_the_life_of_the_forward(
    forwarding: MakeForwarding, host: FakeHost
) -> None:
    async def main() -> None:
        service = forwarding()
        addr = Multiaddr.parse("/ip4/192.0.2.1/tcp/4002")
        await service.forward("/x/a", LOCAL, ALICE, [addr])
        assert list(host.swarm.peerstore.pinned.values()) == [(addr,)]
        other = Multiaddr.parse("/ip4/127.0.0.1/tcp/40001")
        await service.forward("/x/b", other, ALICE)  # without an address, and one's own peer all the same
        assert list(host.swarm.peerstore.pinned.values()) == [(addr,), ()]
        service.close(CloseMatch(all=True))
        assert host.swarm.peerstore.pinned == {}
        await service.aclose()

    asyncio.run(main())


def test_an_address_others_can_reach_is_allowed_with_a_warning(
    forwarding: MakeForwarding, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        service = forwarding()
        await service.forward("/x/a", Multiaddr.parse("/ip4/0.0.0.0/tcp/7"), ALICE)
        await service.forward("/x/a", Multiaddr.parse("/ip4/127.0.0.1/tcp/7"), ALICE)
        await service.forward("/x/a", Multiaddr.parse("/ip6/::1/tcp/7"), ALICE)
        await service.aclose()

    with caplog.at_level(logging.WARNING):
        asyncio.run(main())
    assert [r.getMessage() for r in caplog.records] == [
        "forward 1 /x/a: other machines can connect to /ip4/0.0.0.0/tcp/7"
    ]


def test_the_fin_is_held_back_after_thousands_of_others_came(
    forwarding: MakeForwarding, host: FakeHost, splices: list[FakeSplice]
) -> None:
    """M4: the Kubo we were connected to was forgotten, its agent with it, and replies were cut off."""

    async def main() -> None:
        service = forwarding()
        host.swarm.peerstore = store = Peerstore()  # type: ignore[assignment]
        store.connected(ALICE, None)
        store.identified(ALICE, "kubo/0.22.0/", ["/x/a"])
        for number in range(MAX_PEERS + 100):
            sybil = PeerId(b"\x00\x24\x08\x01\x12\x20" + number.to_bytes(32, "big"))
            store.connected(sybil, None)
            store.identified(sybil, "sybil", [])
            store.disconnected(sybil)
        await service.forward("/x/a", LOCAL, ALICE)
        FakeAcceptor.made[-1].accepted(FakeSocket())
        await turns()
        assert splices[0].hold_s is not None
        await service.aclose()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("agent", "protocol", "mode", "held"),
    [
        ("kubo/0.22.0/", "/x/a", "auto", True),
        ("go-ipfs/0.7.0/", "/x/a", "auto", True),
        ("kubo/0.22.0/", "/http/1.1", "auto", False),
        ("p2pfwd/1", "/x/a", "auto", False),
        (None, "/x/a", "auto", False),
        ("p2pfwd/1", "/x/a", "on", True),
        ("kubo/0.22.0/", "/x/a", "off", False),
    ],
)
def test_the_fin_is_held_back_for_kubo(
    forwarding: MakeForwarding,
    host: FakeHost,
    splices: list[FakeSplice],
    agent: str | None,
    protocol: str,
    mode: str,
    held: bool,
) -> None:
    async def main() -> None:
        service = forwarding(kubo_half_close=mode)
        if agent is not None:
            host.swarm.peerstore.agents[ALICE] = agent
        await service.forward(protocol, LOCAL, ALICE, terms=ForwardTerms(custom_protocol=True))
        FakeAcceptor.made[-1].accepted(FakeSocket())
        await turns()
        assert (splices[0].kubo, splices[0].hold_s) == (held, 600.0 if held else None)
        assert not service.streams()[0].holds_end
        splices[0].holds_fin = held
        assert service.streams()[0].holds_end == held
        await service.aclose()

    asyncio.run(main())


def test_a_peer_known_to_serve_it_gets_its_stream_without_a_task(
    forwarding: MakeForwarding, host: FakeHost, splices: list[FakeSplice]
) -> None:
    async def main() -> None:
        host.swarm.at_once = True
        service = forwarding()
        _, acceptor = await open_forward(service)
        client = FakeSocket()
        acceptor.accepted(client)
        assert [splice.sock for splice in splices] == [client], "before the loop's next turn"
        await service.aclose()

    asyncio.run(main())
