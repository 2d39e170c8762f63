"""Pins a listen: one target connection per stream, reset when there is none, visible while it is dialed."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from errno import EPIPE
from ipaddress import ip_address

import pytest

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.terms import ListenTerms
from p2pfwd.errors import P2PForwardError, ResourceLimitExceeded, TargetRefused, TargetTimeout
from p2pfwd.forwarding.glances import Glances
from p2pfwd.forwarding.listen import RemoteListener, _endpoint
from p2pfwd.forwarding.service import Forwarding
from p2pfwd.forwarding.target import Target
from p2pfwd.forwarding.values import CloseMatch
from p2pfwd.wire.yamux.reset_codes import RESOURCE_LIMIT_EXCEEDED
from tests.support.proxy_header import parse
from tests.unit.forwarding.conftest import MakeForwarding
from tests.unit.forwarding.fakes import ALICE, BOB, SELF, FakeHost, FakeSocket, FakeSplice, FakeStream, turns

TARGET = Multiaddr.parse("/ip4/127.0.0.1/tcp/22")
FAR_TARGET = Multiaddr.parse("/ip4/192.0.2.80/tcp/22")
"""One that is dialed for some time."""


class FakeTarget:
    """Answers `begin` and `finish` with what the test says: a socket, an error, or a future of either."""

    def __init__(self) -> None:
        self.begins: list[FakeSocket | P2PForwardError | tuple[FakeSocket | None, bool]] = []
        self.finishes: list[asyncio.Future[FakeSocket]] = []
        self.address = TARGET

    def begin(self) -> tuple[FakeSocket | None, bool]:
        answer = self.begins.pop(0) if self.begins else FakeSocket()
        if isinstance(answer, P2PForwardError):
            raise answer
        return answer if isinstance(answer, tuple) else (answer, True)

    async def finish(self, sock: FakeSocket | None, timeout_s: float) -> FakeSocket:
        try:
            return await self.finishes.pop(0)
        except BaseException:
            if sock is not None:
                sock.close()
            raise


@pytest.fixture
def target(monkeypatch: pytest.MonkeyPatch) -> FakeTarget:
    fake = FakeTarget()
    monkeypatch.setattr(Target, "begin", fake.begin)
    monkeypatch.setattr(Target, "finish", fake.finish)
    return fake


def incoming(host: FakeHost, protocol: str = "/x/a", peer: object = ALICE) -> FakeStream:
    """A stream as the swarm hands it over."""
    stream = FakeStream(peer, protocol)  # type: ignore[arg-type]
    host.swarm.services.dispatch(stream)  # type: ignore[arg-type]
    return stream


def state(service: Forwarding) -> tuple[str, str | None]:
    info = service.listeners()[0]
    return info.state, info.reason


def test_a_stream_becomes_a_connection_without_a_task_of_ours(
    forwarding: MakeForwarding, host: FakeHost, splices: list[FakeSplice], target: FakeTarget
) -> None:
    async def main() -> None:
        service = forwarding()
        await service.listen("/x/a", TARGET)
        sock = FakeSocket()
        target.begins = [sock]
        stream = incoming(host)
        await turns(1)
        assert splices[0].started and splices[0].sock is sock and splices[0].stream is stream
        assert sock.sent == b"", "nothing is written unless -r was given"
        assert sock.lingers == [struct.pack("ii", 1, 0)], "a killed daemon resets its service's connections"
        (info,) = service.streams()
        assert (info.direction, info.origin_address) == ("inbound", f"/p2p/{ALICE}")
        assert info.target_address == str(TARGET) and not info.dialing_target
        assert state(service) == ("ready", None)
        await service.aclose()

    asyncio.run(main())


@pytest.mark.parametrize("mode", ["auto", "on"])
def test_the_replys_fin_is_never_held_back(
    forwarding: MakeForwarding, host: FakeHost, splices: list[FakeSplice], target: FakeTarget, mode: str
) -> None:
    # A Kubo's client waits for it; only a request's FIN would cut the reply off.
    async def main() -> None:
        service = forwarding(kubo_half_close=mode)
        host.swarm.peerstore.agents[ALICE] = "kubo/0.22.0/"
        await service.listen("/x/a", TARGET)
        incoming(host)
        await turns(1)
        assert host.swarm.peerstore.served == {ALICE} and not host.swarm.peerstore.forwarded
        assert (splices[0].kubo, splices[0].hold_s) == (True, None)
        await service.aclose()

    asyncio.run(main())


def test_report_peer_id_writes_exactly_the_id_and_a_newline_first(
    forwarding: MakeForwarding, host: FakeHost, splices: list[FakeSplice], target: FakeTarget
) -> None:
    async def main() -> None:
        service = forwarding()
        await service.listen("/x/a", TARGET, ListenTerms(report_peer_id=True))
        sock = FakeSocket()
        target.begins = [sock]
        incoming(host)
        await turns(1)
        assert sock.sent == f"{ALICE}\n".encode()
        assert splices[0].started
        await service.aclose()

    asyncio.run(main())


@pytest.mark.parametrize("takes", [OSError(EPIPE, "Broken pipe"), 3])
def test_a_target_that_does_not_take_the_line_leaks_nothing(
    forwarding: MakeForwarding,
    host: FakeHost,
    splices: list[FakeSplice],
    target: FakeTarget,
    takes: int | OSError,
) -> None:
    # Kubo leaves the local socket open here.
    async def main() -> None:
        service = forwarding()
        await service.listen("/x/a", TARGET, ListenTerms(report_peer_id=True))
        sock = FakeSocket(takes=takes)
        target.begins = [sock]
        stream = incoming(host)
        await turns(1)
        assert sock.closed and stream.resets == 1
        assert splices == [] and service.streams() == []
        assert state(service)[0] == "target-refused"
        await service.aclose()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (TargetRefused("it refused"), "target-refused"),
        (TargetTimeout("it is silent"), "target-timeout"),
        (ResourceLimitExceeded("no descriptors"), "resource-limit"),
    ],
)
@pytest.mark.parametrize("at_once", [True, False])
def test_a_target_that_cannot_be_reached_resets_the_stream(
    forwarding: MakeForwarding,
    host: FakeHost,
    target: FakeTarget,
    error: P2PForwardError,
    expected: str,
    at_once: bool,
) -> None:
    async def main() -> None:
        service = forwarding()
        await service.listen("/x/a", TARGET)
        later: asyncio.Future[FakeSocket] = asyncio.get_running_loop().create_future()
        target.begins = [error if at_once else (None, False)]
        target.finishes = [later]
        stream = incoming(host)
        await turns()
        if not at_once:
            later.set_exception(error)
            await turns()
        assert stream.resets == 1 and not stream.finished
        assert service.streams() == [] and not host.swarm.connmgr.protected
        assert state(service) == (expected, error.message)
        await service.aclose()

    asyncio.run(main())


def test_a_stream_is_visible_and_can_be_closed_while_its_target_is_dialed(
    forwarding: MakeForwarding, host: FakeHost, splices: list[FakeSplice], target: FakeTarget
) -> None:
    async def main() -> None:
        service = forwarding()
        await service.listen("/x/a", TARGET)
        sock = FakeSocket()
        target.begins = [(sock, False)]
        target.finishes = [asyncio.get_running_loop().create_future()]
        stream = incoming(host)
        await turns()
        (info,) = service.streams()
        assert info.dialing_target
        service.close_stream(info.id)
        assert stream.resets >= 1 and service.streams() == []
        await turns()
        assert sock.closed and splices == []
        assert asyncio.all_tasks() == {asyncio.current_task()}
        await service.aclose()

    asyncio.run(main())


def test_closing_the_listen_during_a_dial_leaves_no_stream_task_or_socket(
    forwarding: MakeForwarding, host: FakeHost, splices: list[FakeSplice], target: FakeTarget
) -> None:
    # D07; one dial is under way, the other's task has not had its first step.
    async def main() -> None:
        service = forwarding()
        listener = await service.listen("/x/a", TARGET)
        socks = [FakeSocket(), FakeSocket()]
        target.begins = [(socks[0], False), (socks[1], False)]
        target.finishes = [asyncio.get_running_loop().create_future()]
        streams = [incoming(host)]
        await turns()
        streams.append(FakeStream(BOB, "/x/a"))
        listener.serve(streams[1])  # type: ignore[arg-type]
        service.close(CloseMatch(all=True))
        assert service.streams() == [] and all(s.resets for s in streams)
        await listener.closed
        assert all(sock.closed for sock in socks) and splices == []
        assert asyncio.all_tasks() == {asyncio.current_task()}
        await service.aclose()

    asyncio.run(main())


@pytest.mark.parametrize("end", ["turn", "reset", "close"])
def test_a_stream_that_waits_for_its_turn_touches_no_target(
    forwarding: MakeForwarding, host: FakeHost, splices: list[FakeSplice], target: FakeTarget, end: str
) -> None:
    async def main() -> None:
        service = forwarding()
        listener = await service.listen("/x/a", TARGET)
        assert isinstance(listener, RemoteListener)
        waiting: list[Callable[[], None]] = []
        sockets = listener._streams.sockets
        sockets.connect = lambda _entry, _count, connect: waiting.append(connect)  # type: ignore[method-assign]
        sockets.leave = lambda _entry: waiting.clear()  # type: ignore[method-assign]
        target.begins = [(FakeSocket(), True)]
        stream = incoming(host)
        await turns()
        assert service.streams()[0].dialing_target and len(target.begins) == 1
        if end == "turn":
            waiting.pop()()
            assert not target.begins and len(splices) == 1
        else:
            if end == "reset":
                stream.over()
            else:
                service.close(CloseMatch(all=True))
                await listener.closed
            assert not waiting and service.streams() == [] and splices == []
        await service.aclose()

    asyncio.run(main())


def test_a_stream_for_a_listen_closed_meanwhile_is_reset(forwarding: MakeForwarding, host: FakeHost) -> None:
    # Kubo neither handles nor resets it.
    async def main() -> None:
        service = forwarding()
        stream = incoming(host, "/x/gone")
        await turns()
        assert stream.resets == 1
        await service.aclose()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("limits", "second", "expected"),
    [
        ({"max_streams": 1}, BOB, "resource-limit"),
        ({"max_streams_per_peer": 1}, ALICE, "ready"),  # his own doing: not the listen's state
        ({"max_streams_per_listener": 1}, BOB, "resource-limit"),
    ],
)
def test_streams_above_a_limit_are_reset_without_touching_the_target(
    forwarding: MakeForwarding,
    host: FakeHost,
    splices: list[FakeSplice],
    target: FakeTarget,
    limits: dict[str, int],
    second: object,
    expected: str,
) -> None:
    async def main() -> None:
        service = forwarding(**limits)
        await service.listen("/x/a", TARGET)
        target.begins = [FakeSocket(), TargetRefused("it was dialed")]
        incoming(host)
        await turns()
        refused = incoming(host, peer=second)
        await turns()
        assert refused.resets == 1 and len(splices) == 1
        assert state(service)[0] == expected
        await service.aclose()

    asyncio.run(main())


def test_target_dials_under_way_are_bounded_over_all_listens(
    forwarding: MakeForwarding, host: FakeHost, target: FakeTarget
) -> None:
    async def main() -> None:
        service = forwarding(max_pending_targets=1)
        await service.listen("/x/a", FAR_TARGET)
        await service.listen("/x/b", FAR_TARGET)
        target.begins = [(None, False), FakeSocket()]
        pending: asyncio.Future[FakeSocket] = asyncio.get_running_loop().create_future()
        target.finishes = [pending]
        incoming(host, "/x/a")
        await turns()
        refused = incoming(host, "/x/b")
        await turns()
        assert refused.resets == 1 and len(target.begins) == 1
        pending.set_result(FakeSocket())
        await turns()
        served = incoming(host, "/x/b")
        await turns()
        assert served.resets == 0 and len(service.streams()) == 2
        await service.aclose()

    asyncio.run(main())


def test_a_glance_refreshes_the_state_but_not_at_a_strangers_pace(
    forwarding: MakeForwarding, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[float] = []

    def look(self: Glances, _look: object, looked_at: float) -> tuple[bool, float]:
        looked.append(looked_at)
        return looked_at < 0, 1.0

    async def main() -> None:
        service = forwarding()
        listener: RemoteListener = await service.listen("/x/a", TARGET)
        assert listener.listen_address == Multiaddr.parse(f"/p2p/{SELF}")
        monkeypatch.setattr(Glances, "at", look)
        assert listener.glance() == "ready"
        listener.failed(TargetRefused("it refused"))
        assert listener.glance() == "target-refused"
        assert looked == [float("-inf"), 1.0]
        await service.aclose()

    asyncio.run(main())


def test_a_glance_does_not_clear_a_service_that_never_answers(
    forwarding: MakeForwarding, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Its socket listens, with a full backlog.
    async def main() -> None:
        service = forwarding()
        listener: RemoteListener = await service.listen("/x/a", TARGET)
        monkeypatch.setattr(Glances, "at", lambda self, look, looked_at: (True, 1.0))
        listener.failed(TargetTimeout("it did not answer within 10 s"))
        assert listener.glance() == "target-timeout"
        await service.aclose()

    asyncio.run(main())


def test_the_owners_limits_hold_to_the_letter(
    forwarding: MakeForwarding, host: FakeHost, splices: list[FakeSplice], target: FakeTarget
) -> None:
    async def main() -> None:
        service = forwarding()
        listener = await service.listen("/x/a", TARGET, ListenTerms(max_streams=3, max_streams_per_peer=2))
        streams = [incoming(host, peer=peer) for peer in (ALICE, ALICE, ALICE, BOB, BOB)]
        assert [stream.resets for stream in streams] == [0, 0, 1, 0, 1]
        assert streams[2].reset_code == streams[4].reset_code == RESOURCE_LIMIT_EXCEEDED
        assert host.swarm.services.refusals.counts["tunnel-limit"] == 2
        assert listener.info().busiest == 2
        assert state(service)[0] == "ready", "it is no fault of the listen"
        splices[0].end()
        assert incoming(host, peer=ALICE).resets == 0
        listener.set_terms(ListenTerms(max_streams=1))
        assert incoming(host, peer=BOB).resets == 1
        assert len(service.streams()) == 3, "those beyond the new limit go on"
        await service.aclose()

    asyncio.run(main())


@pytest.mark.parametrize("relayed", [False, True])
def test_the_proxy_header_comes_first_and_whole(
    forwarding: MakeForwarding,
    host: FakeHost,
    splices: list[FakeSplice],
    target: FakeTarget,
    relayed: bool,
) -> None:
    async def main() -> None:
        service = forwarding()
        await service.listen("/x/a", TARGET, ListenTerms(proxy_protocol="v2"))
        sock, short = FakeSocket(), FakeSocket(takes=20)
        target.begins = [sock, short]
        stream = FakeStream(ALICE, "/x/a")
        stream.conn.is_relayed = relayed
        host.swarm.services.dispatch(stream)  # type: ignore[arg-type]
        header, rest = parse(sock.sent)
        assert header.command == ("LOCAL" if relayed else "PROXY") and rest == b""
        assert (header.source is None) == relayed
        assert header.tlvs == {0xE0: str(ALICE).encode()}
        second = incoming(host)
        assert second.resets == 1 and short.closed and len(splices) == 1
        why = "the target did not take the PROXY header: its buffer is full"
        assert state(service) == ("target-refused", why)
        await service.aclose()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [
        ("/ip4/192.0.2.7/tcp/4001", "192.0.2.7", 4001),
        (f"/ip4/192.0.2.7/tcp/4001/p2p/{ALICE}", "192.0.2.7", 4001),
        ("/ip6/2001:db8::7/tcp/1", "2001:db8::7", 1),
        ("/ip6zone/eth0/ip6/fe80::1/tcp/22", "fe80::1", 22),
        ("/ip6/::ffff:192.0.2.7/tcp/22", "192.0.2.7", 22),
    ],
)
def test_where_a_connection_ends_as_the_proxy_header_says_it(address: str, host: str, port: int) -> None:
    assert _endpoint(Multiaddr.parse(address)) == (ip_address(host), port)


@pytest.mark.parametrize("address", ["/dns4/nas/tcp/22", f"/ip4/192.0.2.7/tcp/1/p2p/{BOB}/p2p-circuit"])
def test_what_is_no_ip_address_is_not_told(address: str) -> None:
    assert _endpoint(Multiaddr.parse(address)) is None


def test_strangers_leave_the_last_eighth_of_all_streams_to_the_owners_peers(
    forwarding: MakeForwarding, host: FakeHost, splices: list[FakeSplice], target: FakeTarget
) -> None:
    async def main() -> None:
        service = forwarding(max_streams=8)
        host.swarm.limits.is_own = lambda peer: peer == BOB
        await service.listen("/x/a", TARGET)
        assert [incoming(host).resets for _ in range(8)] == 7 * [0] + [1]
        assert [incoming(host, peer=BOB).resets for _ in range(2)] == [0, 1]
        await service.aclose()

    asyncio.run(main())
