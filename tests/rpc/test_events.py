"""events.ls and the topic `events`, on real nodes in this process: what happens is what is told."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from p2pfwd import errors
from p2pfwd.core.keys import PrivateKey
from p2pfwd.daemon.settings import Settings
from p2pfwd.history import history as module
from p2pfwd.history.kinds import KINDS
from p2pfwd.rpc import schema as s
from p2pfwd.rpc.client import Client
from tests.rpc import node
from tests.rpc.node import Node
from tests.support.loops import until
from tests.support.sockets import TcpServer, connect, echo, free_port, read_to_end

SETTINGS = Settings(network="lan", listen=("/ip4/127.0.0.1/tcp/0",), mdns="off", drain_timeout_s=0.0)
NAME = "/x/echo"

Script = Callable[[Node, Node, TcpServer], Awaitable[None]]


@asynccontextmanager
async def running(home: Path, identity: PrivateKey | None = None) -> AsyncIterator[Node]:
    await asyncio.to_thread(home.mkdir, exist_ok=True)
    made = Node(await node.running(home, SETTINGS, identity))
    try:
        yield made
    finally:
        await made.running.stop()


def run(home: Path, script: Script) -> None:
    """A script with a node that offers, one that asks, and an echo service."""

    async def main() -> None:
        async with running(home / "a") as owner, running(home / "b") as asker:
            with TcpServer(echo) as server:
                await script(owner, asker, server)

    asyncio.run(asyncio.wait_for(main(), 30))


def exchange(port: int, data: bytes) -> bytes:
    """What an echo service behind a forward answers, to its end. Raises OSError."""
    with connect(port) as sock:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        return read_to_end(sock)


async def told(at: Node, **wanted: Any) -> list[s.HistoryEvent]:
    result = await at.call("events.ls", s.EventsParams(**wanted))
    assert result.failure is None
    events: tuple[s.HistoryEvent, ...] = result.events
    return list(events)


async def codes(at: Node, **wanted: Any) -> list[str]:
    return [event.code for event in await told(at, **wanted)]


async def until_told(at: Node, code: str) -> s.HistoryEvent:
    while True:
        for event in await told(at):
            if event.code == code:
                return event
        await asyncio.sleep(0.01)


async def listen(at: Node, port: int) -> None:
    await at.call("p2p.listen", s.ListenParams(NAME, f"/ip4/127.0.0.1/tcp/{port}"))


async def forward(at: Node, to: Node, name: str = NAME) -> int:
    result = await at.call("p2p.forward", s.ForwardParams(name, "/ip4/127.0.0.1/tcp/0", (to.address,)))
    return int(result.listener.listen_address.rpartition("/")[2])


def test_a_tunnels_life_is_told_on_both_sides(home: Path) -> None:
    async def script(owner: Node, asker: Node, server: TcpServer) -> None:
        await listen(owner, server.port)
        port = await forward(asker, owner)
        assert await asyncio.to_thread(exchange, port, b"hello") == b"hello"
        ended = await until_told(asker, "stream-ended")
        assert (ended.protocol, ended.peer, ended.stranger) == (NAME, owner.peer, False)
        assert (ended.data["bytes_in"], ended.data["bytes_out"]) == (5, 5)
        seen = await until_told(owner, "stream-ended")
        assert (seen.peer, seen.stranger, seen.data["bytes_in"]) == (asker.peer, True, 5)
        assert (await codes(asker))[:3] == ["daemon-started", "tunnel-made", "peer-up"]
        assert await codes(owner, kinds=("tunnel", "stream-opened")) == ["tunnel-made", "stream-opened"]
        assert await codes(asker, peer=owner.peer, protocol=NAME, kinds=("stream",)) == [
            "stream-opened",
            "stream-ended",
        ]
        await asker.call("p2p.close", s.CloseParams(all=True))
        closed = await until_told(asker, "tunnel-closed")
        assert closed.data["direction"] == "forward"
        status = await asker.call("daemon.status")
        assert (status.history.streams, status.history.drops) == (1, ())

    run(home, script)


def test_a_service_that_is_down_is_told_and_remembered_by_ls(home: Path) -> None:
    async def script(owner: Node, asker: Node, server: TcpServer) -> None:
        target = free_port()
        await listen(owner, target)
        port = await forward(asker, owner)
        with pytest.raises(OSError):
            await asyncio.to_thread(exchange, port, b"hello")
        down = await until_told(owner, "tunnel-target-down")
        assert "refused" in down.data["reason"]
        (listener,) = (await owner.call("p2p.ls")).listeners
        assert listener.last_problem.code == "tunnel-target-down"
        assert listener.last_problem.reason == down.data["reason"]
        with socket.create_server(("127.0.0.1", target)):
            await owner.call("p2p.check", s.CheckParams(listener.id))
            await until_told(owner, "tunnel-target-up")
        (listener,) = (await owner.call("p2p.ls")).listeners
        assert listener.state == "ready" and listener.last_problem.code == "tunnel-target-down"

    run(home, script)


def test_a_lost_peer_is_a_drop_and_one_that_stops_is_none(home: Path) -> None:
    async def script(owner: Node, asker: Node, server: TcpServer) -> None:
        await asker.call("peer.add", s.PeerAddParams("laptop", (owner.address,)))
        await asker.call("swarm.connect", s.ConnectParams((owner.address,)))
        (link,) = owner.running.host.swarm.conns()
        link.abort()
        lost = await until_told(asker, "peer-lost")
        assert (lost.peer, lost.name) == (owner.peer, "laptop") and lost.data["reason"]
        (drop,) = (await asker.call("daemon.status")).history.drops
        assert (drop.name, drop.times, drop.reason) == ("laptop", 1, lost.data["reason"])
        await asker.call("swarm.connect", s.ConnectParams((owner.address,)))
        await owner.running.stop()
        down = await until_told(asker, "peer-down")
        assert down.data["reason"] == "by the peer"
        assert await codes(asker, peer="laptop", kinds=("peer", "config")) == [
            "peer-named",
            "peer-up",
            "peer-lost",
            "peer-up",
            "peer-down",
        ]

    run(home, script)


def test_who_is_denied_is_told_once_with_his_number(home: Path) -> None:
    async def script(owner: Node, asker: Node, server: TcpServer) -> None:
        await listen(owner, server.port)
        await owner.call("access.deny", s.AccessChangeParams(NAME, ("any",)))
        changed = await until_told(owner, "access-changed")
        assert changed.data["change"] == "nobody"
        port = await forward(asker, owner)
        requests = owner.running.forwarding.access.requests
        for _ in range(3):
            with pytest.raises(OSError):
                await asyncio.to_thread(exchange, port, b"hello")
        await until(lambda: bool(requests.all()))
        (request,) = requests.all()  # a name just denied is tried again: it might be of a daemon that starts
        assert request.count >= 3
        at_least = request.count  # the forward goes on asking
        (asked,) = await told(owner, kinds=("access-requested",))
        assert (asked.peer, asked.protocol, asked.stranger) == (asker.peer, NAME, True)
        assert at_least <= asked.count <= request.count
        at_least = request.count
        denied = (await owner.call("daemon.status")).history.denied
        assert at_least <= denied <= request.count
        await owner.call("block.add", s.BlockParams((asker.peer,)))
        blocked = await until_told(owner, "blocks-changed")
        assert blocked.data["change"] == f"{asker.peer} blocked"

    run(home, script)


def test_live_ones_come_with_the_topic_and_are_those_of_the_history(home: Path) -> None:
    async def script(owner: Node, asker: Node, server: TcpServer) -> None:
        def follow() -> list[dict[str, Any]]:
            with Client.connect(owner.running.paths.socket) as client:
                live = client.subscribe(("events",))
                client.call("p2p.listen", s.ListenParams(NAME, f"/ip4/127.0.0.1/tcp/{server.port}"))
                client.call("p2p.close", s.CloseParams(protocol=NAME))
                return [live.next(5).data for _ in range(2)]

        live = await asyncio.to_thread(follow)
        assert [it["Code"] for it in live] == ["tunnel-made", "tunnel-closed"]
        assert [it["ID"] for it in live] == [it.id for it in await told(owner, kinds=("tunnel",))]
        assert await codes(owner, after=live[0]["ID"]) == ["tunnel-closed"]

    run(home, script)


def test_what_stands_after_a_restart_is_no_news_and_a_stop_closes_nothing(home: Path) -> None:
    identity = PrivateKey.generate()

    async def main() -> None:
        with TcpServer(echo) as server:
            async with running(home, identity) as first:
                await listen(first, server.port)
            async with running(home, identity) as second:
                assert await codes(second) == [
                    "daemon-started",
                    "tunnel-made",
                    "daemon-stopped",
                    "daemon-started",
                ]
                result = await second.call("events.ls", s.EventsParams(limit=2))
                assert not result.complete and result.last_id == result.events[-1].id
                assert [event.code for event in result.events] == ["daemon-stopped", "daemon-started"]

    asyncio.run(asyncio.wait_for(main(), 30))


def test_a_sick_history_does_not_keep_the_daemon_from_serving(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ANSWER_S", 0.2)

    async def main() -> None:
        path = home / "events.db"
        await asyncio.to_thread(path.mkdir)  # nothing can be written there
        async with running(home) as owner:
            with TcpServer(echo) as server:
                await listen(owner, server.port)
            result = await owner.call("events.ls", s.EventsParams())
            assert [event.code for event in result.events] == ["daemon-started", "tunnel-made"]
            assert result.failure.startswith(f"history {path}: ")
            assert (await owner.call("daemon.status")).history.failure.startswith(f"history {path}: ")

    asyncio.run(asyncio.wait_for(main(), 30))


@pytest.mark.parametrize(
    ("params", "said"),
    [
        (s.EventsParams(limit=0), "a limit of 0 events, and it is from 1 to 10000"),
        (s.EventsParams(kinds=("foo",)), 'no kind of event is called "foo"'),
        (s.EventsParams(peer="/dnsaddr/example.com"), '"/dnsaddr/example.com" has no peer ID in it'),
        (s.EventsParams(peer="nobody"), '"nobody" is no peer ID, and no peer has that name'),
    ],
)
def test_bad_input_has_one_sentence(home: Path, params: s.EventsParams, said: str) -> None:
    async def main() -> None:
        async with running(home) as owner:
            with pytest.raises(errors.P2PForwardError) as caught:
                await owner.call("events.ls", params)
            assert caught.value.message == said and int(caught.value.exit_status) == 2

    asyncio.run(asyncio.wait_for(main(), 30))


def test_every_topic_and_code_is_a_filter(home: Path) -> None:
    async def main() -> None:
        async with running(home) as owner:
            for code, kind in KINDS.items():
                for text in (code, kind.topic):
                    result = await owner.call("events.ls", s.EventsParams(kinds=(text,)))
                    assert {event.topic for event in result.events} <= {kind.topic}

    asyncio.run(asyncio.wait_for(main(), 60))
