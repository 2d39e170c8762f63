"""Pins listen, forward, ls, close and stream close as a whole: duplicates, ids, totals, events, end."""

from __future__ import annotations

import asyncio

import pytest

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.terms import ListenTerms
from p2pfwd.errors import (
    InvalidMultiaddr,
    InvalidProtocol,
    ListenerExists,
    NotFound,
    ProtocolTaken,
    SelfDial,
    ShuttingDown,
    StreamNotFound,
)
from p2pfwd.forwarding import probe
from p2pfwd.forwarding.values import CloseMatch, ForwardingEvent
from p2pfwd.net.services import Service
from tests.unit.forwarding.conftest import MakeForwarding
from tests.unit.forwarding.fakes import (
    ALICE,
    BOB,
    SELF,
    FakeAcceptor,
    FakeHost,
    FakeSocket,
    FakeSplice,
    turns,
)

TARGET = Multiaddr.parse("/ip4/127.0.0.1/tcp/22")
OTHER = Multiaddr.parse("/ip4/127.0.0.1/tcp/23")
LOCAL = Multiaddr.parse("/ip4/127.0.0.1/tcp/2222")


def test_one_listen_per_protocol_and_one_forward_per_address(forwarding: MakeForwarding) -> None:
    async def main() -> None:
        service = forwarding()
        await service.listen("/x/a", TARGET)
        for target in (TARGET, OTHER):  # A03, A15
            with pytest.raises(ListenerExists, match="listener already registered"):
                await service.listen("/x/a", target)
        await service.forward("/x/a", LOCAL, ALICE)
        with pytest.raises(ListenerExists, match="listener already registered"):
            await service.forward("/x/b", LOCAL, BOB)
        await service.forward("/x/a", OTHER, ALICE)  # one protocol, several forwards: A10
        assert [i.id for i in service.listeners()] == [1, 2, 3]
        await service.aclose()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("/ip4/127.0.0.1/tcp/0", "port can not be 0"),
        ("/ip4/127.0.0.1/udp/53", "address does not contain tcp or unix protocol"),
        ("/ip4/127.0.0.1", "address does not contain tcp or unix protocol"),
    ],
)
def test_targets_that_cannot_be_are_refused_with_kubos_words(
    forwarding: MakeForwarding, target: str, message: str
) -> None:
    async def main() -> None:
        service = forwarding()
        with pytest.raises(InvalidMultiaddr) as caught:
            await service.listen("/x/a", Multiaddr.parse(target))
        assert caught.value.message == message
        assert service.listeners() == []
        await service.aclose()

    asyncio.run(main())


def test_a_refused_name_or_peer_changes_nothing(forwarding: MakeForwarding, host: FakeHost) -> None:
    async def main() -> None:
        service = forwarding()
        with pytest.raises(InvalidProtocol):
            await service.listen("/nope", TARGET)
        with pytest.raises(InvalidProtocol):
            await service.forward("/nope", LOCAL, ALICE)
        with pytest.raises(SelfDial):
            await service.forward("/x/a", LOCAL, SELF)
        assert service.listeners() == [] and FakeAcceptor.made == []
        assert host.swarm.services.names() == ["/x/", probe.PREFIX] and host.swarm.peerstore.pinned == {}
        await service.aclose()

    asyncio.run(main())


def test_custom_protocols_get_a_handler_and_lose_it(forwarding: MakeForwarding, host: FakeHost) -> None:
    async def main() -> None:
        service = forwarding()
        host.swarm.services.serve(Service(name="/taken/1.0", handler=lambda _stream: None))
        with pytest.raises(ProtocolTaken, match=r"/taken/1\.0 is served already"):
            await service.listen("/taken/1.0", TARGET, ListenTerms(custom_protocol=True))
        host.swarm.services.reserve("/my-net/kad/1.0.0")  # a DHT's, while the node is its client
        with pytest.raises(InvalidProtocol, match="belongs to the node itself"):
            await service.listen("/my-net/kad/1.0.0", TARGET, ListenTerms(custom_protocol=True))
        await service.listen("/p2p-test", TARGET, ListenTerms(custom_protocol=True))
        assert {"/taken/1.0", "/p2p-test"} <= set(host.swarm.services.names())
        assert not host.swarm.services.accepts(ALICE, "/x/other")
        service.close(CloseMatch(protocol="/p2p-test"))
        assert "/p2p-test" not in host.swarm.services.names()
        await service.aclose()

    asyncio.run(main())


def test_close_means_what_its_filters_say_together(forwarding: MakeForwarding) -> None:
    async def main() -> None:
        service = forwarding()
        await service.listen("/x/a", TARGET)
        await service.forward("/x/a", TARGET, ALICE)  # listens where the other one leads: A23
        closed = service.close(CloseMatch(listen_address=TARGET))
        assert [c.direction for c in closed] == ["forward"]
        assert service.close(CloseMatch(protocol="/x/a", target_address=OTHER)) == []
        assert len(service.listeners()) == 1
        closed = service.close(CloseMatch(listen_address=Multiaddr.parse(f"/p2p/{SELF}")))  # A24
        assert [c.direction for c in closed] == ["listen"]
        assert service.listeners() == []
        await service.listen("/x/a", TARGET)
        assert service.listeners()[0].id == 3, "ids are never given again"
        await service.aclose()

    asyncio.run(main())


def test_stream_ids_are_shared_by_both_directions_and_never_reused(
    forwarding: MakeForwarding, splices: list[FakeSplice]
) -> None:
    async def main() -> None:
        service = forwarding()
        await service.forward("/x/a", LOCAL, ALICE)
        for _ in range(3):
            FakeAcceptor.made[0].accepted(FakeSocket())
        await turns()
        assert [s.id for s in service.streams()] == [0, 1, 2]
        assert service.close_stream(1).id == 1
        assert splices[1].sock.closed and splices[1].stream.resets == 1
        with pytest.raises(StreamNotFound):
            service.close_stream(1)
        FakeAcceptor.made[0].accepted(FakeSocket())
        await turns()
        assert [s.id for s in service.streams()] == [0, 2, 3]
        assert len(service.close_all_streams()) == 3
        assert service.streams() == []
        await service.aclose()

    asyncio.run(main())


def test_the_peer_is_protected_exactly_while_it_has_streams(
    forwarding: MakeForwarding, host: FakeHost, splices: list[FakeSplice]
) -> None:
    async def main() -> None:
        service = forwarding()
        await service.forward("/x/a", LOCAL, ALICE)
        assert not host.swarm.connmgr.protected
        for _ in range(2):
            FakeAcceptor.made[0].accepted(FakeSocket())
        await turns()
        assert {p for p, _ in host.swarm.connmgr.protected} == {ALICE}
        splices[0].end()
        assert host.swarm.connmgr.protected
        splices[1].end()
        assert not host.swarm.connmgr.protected
        await service.aclose()

    asyncio.run(main())


def test_bytes_of_live_and_ended_streams_add_up(
    forwarding: MakeForwarding, splices: list[FakeSplice]
) -> None:
    async def main() -> None:
        service = forwarding()
        await service.forward("/x/a", LOCAL, ALICE)
        for _ in range(2):
            FakeAcceptor.made[0].accepted(FakeSocket())
        await turns()
        splices[0].bytes_in, splices[0].bytes_out = 10, 20
        splices[1].bytes_in, splices[1].bytes_out = 1, 2
        splices[0].end()
        (info,) = service.listeners()
        assert (info.streams, info.bytes_in, info.bytes_out) == (1, 11, 22)
        assert service.totals() == (11, 22)
        (stream,) = service.streams()
        assert (stream.bytes_in, stream.bytes_out) == (1, 2)
        service.close(CloseMatch(all=True))
        splices[1].end()
        assert service.totals() == (11, 22)
        await service.aclose()

    asyncio.run(main())


def test_every_change_is_one_event(forwarding: MakeForwarding, splices: list[FakeSplice]) -> None:
    async def main() -> None:
        service = forwarding()
        events: list[ForwardingEvent] = []
        cancel = service.on_event(events.append)
        await service.forward("/x/a", LOCAL, ALICE)
        FakeAcceptor.made[0].accepted(FakeSocket())
        await turns()
        splices[0].bytes_in = 7
        splices[0].end()
        service.close(CloseMatch(all=True))
        seen = [
            (
                e.change,
                "listener" if e.listener else "stream",
                e.listener.state if e.listener else e.stream and e.stream.bytes_in,
            )
            for e in events
        ]
        assert seen == [
            ("added", "listener", "unknown"),
            ("added", "stream", 0),
            ("changed", "listener", "ready"),
            ("removed", "stream", 7),
            ("removed", "listener", "ready"),
        ]
        cancel()
        cancel()
        await service.listen("/x/b", TARGET)
        assert len(events) == 5
        await service.aclose()

    asyncio.run(main())


def test_closed_can_be_awaited_by_several_and_again(forwarding: MakeForwarding) -> None:
    async def main() -> None:
        service = forwarding()
        listener = await service.listen("/x/a", TARGET)

        async def wait() -> str:
            await listener.closed
            return "over"

        waiters = [asyncio.create_task(wait()) for _ in range(2)]
        impatient = asyncio.create_task(wait())
        await turns()
        impatient.cancel()
        await turns()
        assert not listener.closed.done(), "one waiter's end is not the listener's"
        service.close(CloseMatch(all=True))
        assert await asyncio.gather(*waiters) == ["over", "over"]
        await listener.closed
        await service.aclose()

    asyncio.run(main())


def test_draining_takes_nothing_new_and_waits_for_live_streams(
    forwarding: MakeForwarding, splices: list[FakeSplice]
) -> None:
    async def main() -> None:
        service = forwarding()
        await service.forward("/x/a", LOCAL, ALICE)
        FakeAcceptor.made[0].accepted(FakeSocket())
        await turns()
        draining = asyncio.create_task(service.drain(timeout_s=60))
        await turns()
        assert not draining.done() and FakeAcceptor.made[0].closed
        with pytest.raises(ShuttingDown):
            await service.listen("/x/b", TARGET)
        with pytest.raises(ShuttingDown):
            await service.forward("/x/b", LOCAL, ALICE)
        splices[0].end()
        assert await draining == 0
        await service.aclose()

    asyncio.run(main())


def test_draining_resets_what_is_left_at_its_deadline(
    forwarding: MakeForwarding, splices: list[FakeSplice]
) -> None:
    async def main() -> None:
        service = forwarding()
        await service.forward("/x/a", LOCAL, ALICE)
        FakeAcceptor.made[0].accepted(FakeSocket())
        await turns()
        assert await service.drain(timeout_s=0) == 1
        assert splices[0].stream.resets == 1 and service.streams() == []
        await service.aclose()
        await service.aclose()

    asyncio.run(main())


def test_checking_an_unknown_listener_is_an_error(forwarding: MakeForwarding) -> None:
    async def main() -> None:
        service = forwarding()
        with pytest.raises(NotFound, match="no listener has id 7"):
            await service.check(7)
        await service.aclose()

    asyncio.run(main())
