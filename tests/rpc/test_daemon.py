"""The daemon's RPC against a real node in this process: every method, errors, leases, events, the stop."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from p2pfwd import __version__, errors
from p2pfwd.core.keys import PrivateKey
from p2pfwd.core.peer_id import PeerId
from p2pfwd.daemon.networks import profile
from p2pfwd.daemon.node import Running
from p2pfwd.daemon.settings import Settings
from p2pfwd.rpc import schema as s
from p2pfwd.rpc.client import Client
from p2pfwd.rpc.paths import Paths
from tests.support.loops import until

SETTINGS = Settings(network="lan", listen=("/ip4/127.0.0.1/tcp/0",), drain_timeout_s=5.0)


def in_node(home: Path, in_thread: Callable[[Client], Any], settings: Settings = SETTINGS) -> Any:
    """Run a node, and beside it, in a thread, `in_thread(client)`."""

    def with_client(path: Path) -> Any:
        with Client.connect(path) as client:
            return in_thread(client)

    async def script(running: Running) -> Any:
        return await asyncio.to_thread(with_client, running.paths.socket)

    return in_loop(home, script, settings)


def in_loop(home: Path, script: Callable[[Running], Awaitable[Any]], settings: Settings = SETTINGS) -> Any:
    """Run a node, and `script(running)` in its loop; the node is stopped after it."""

    async def main() -> Any:
        paths = Paths.resolve(str(home), {})
        running = await Running.start(paths, settings, profile(settings), PrivateKey.generate(), "the log")
        try:
            return await script(running)
        finally:
            await running.stop()

    return asyncio.run(asyncio.wait_for(main(), 30))


@contextmanager
def two_nodes(home: Path) -> Iterator[list[Path]]:
    """Directories of two nodes."""
    homes = [home / "a", home / "b"]
    for each in homes:
        each.mkdir()
    yield homes


def test_status_and_id_describe_the_node(home: Path) -> None:
    def client(client: Client) -> None:
        status, known = client.call("daemon.status"), client.call("id")
        assert client.hello == s.HelloResult(s.RPC_MAJOR, __version__, known.id, os.getpid())
        assert (status.version, status.pid, status.id) == (__version__, os.getpid(), known.id)
        assert (status.home, status.socket) == (str(home), str(home / "rpc.sock"))
        assert (status.log, status.draining, status.refused) == ("the log", False, {})
        assert status.addresses == known.addresses
        assert known.addresses[0].startswith("/ip4/127.0.0.1/tcp/")
        assert known.addresses[0].endswith(f"/p2p/{known.id}")
        assert status.rss_bytes > 10_000_000
        assert known.agent_version == f"p2pfwd/{__version__}"
        assert "/ipfs/ping/1.0.0" in known.protocols
        assert "/x/" in known.protocols

    in_node(home, client)


def test_listen_says_whether_the_target_answers_and_where_this_node_is(home: Path) -> None:
    def client(client: Client) -> None:
        with socket.create_server(("127.0.0.1", 0)) as target:
            port = target.getsockname()[1]
            result = client.call("p2p.listen", s.ListenParams("/x/web", f"{port}"))
        assert result.target_check.ok
        assert result.listener.target_address == f"/ip4/127.0.0.1/tcp/{port}"
        assert result.listener.listen_address == f"/p2p/{result.peer}"
        assert result.addresses == client.call("id").addresses
        dead = client.call("p2p.listen", s.ListenParams("/x/dead", f":{port}"))
        assert (dead.target_check.ok, dead.target_check.state) == (False, "target-refused")
        assert [x.protocol for x in client.call("p2p.ls").listeners] == ["/x/web", "/x/dead"]

    in_node(home, client)


@pytest.mark.parametrize(
    ("params", "error", "said"),
    [
        (s.ListenParams("/its/not/a/x/path", "22"), errors.InvalidProtocol, "must be within '/x/' namespace"),
        (s.ListenParams("/x/a", "/ip4/127.0.0.1/tcp/0"), errors.UsageError, "port can not be 0"),
        (s.ListenParams("/x/a", "foo"), errors.InvalidMultiaddr, 'failed to parse multiaddr "foo"'),
        (s.ListenParams("/x/a", "/ip4/1.2.3.4/bar/1"), errors.InvalidMultiaddr, "bar"),
    ],
)
def test_a_listen_that_cannot_be_meant_changes_nothing(
    home: Path, params: s.ListenParams, error: type[Exception], said: str
) -> None:
    def client(client: Client) -> None:
        with pytest.raises(error, match=said):
            client.call("p2p.listen", params)
        assert client.call("p2p.ls").listeners == ()

    in_node(home, client)


def test_a_forward_that_cannot_be_meant_changes_nothing(home: Path) -> None:
    def client(client: Client) -> None:
        other = str(PeerId.from_public_key(PrivateKey.generate().public_key))
        own = client.call("id").id
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = str(taken.getsockname()[1])
            for params, error in (
                (s.ForwardParams("/x/a", "0", (own,)), errors.SelfDial),
                (s.ForwardParams("/x/a", "0", ()), errors.UsageError),
                (s.ForwardParams("/x/a", "0", ("/ip4/1.2.3.4/tcp/1",)), errors.InvalidMultiaddr),
                (s.ForwardParams("/x/a", "0", ("zebra",)), errors.InvalidPeerId),
                (s.ForwardParams("/x/a", port, (other,)), errors.AddressInUse),
                (s.ForwardParams("/y/a", "0", (other,)), errors.InvalidProtocol),
            ):
                with pytest.raises(error):
                    client.call("p2p.forward", params)
        assert client.call("p2p.ls").listeners == ()

    in_node(home, client)


def test_listeners_are_closed_by_filters_that_and_together(home: Path) -> None:
    def client(client: Client) -> None:
        other = str(PeerId.from_public_key(PrivateKey.generate().public_key))
        client.call("p2p.listen", s.ListenParams("/x/a", "22"))
        client.call("p2p.listen", s.ListenParams("/x/b", "22"))
        client.call("p2p.forward", s.ForwardParams("/x/a", "0", (other,)))
        own = client.call("id").id

        def close(**params: Any) -> list[str]:
            closed = client.call("p2p.close", s.CloseParams(**params)).closed
            return [f"{x.direction} {x.protocol}" for x in closed]

        assert close(protocol="/x/a", target_address="23") == []
        assert close(listen_address=own, protocol="/x/b") == ["listen /x/b"]
        assert close(target_address=f"/p2p/{other}") == ["forward /x/a"]
        for params, said in (
            ({}, "no matching options given"),
            ({"all": True, "protocol": "x"}, "can't combine"),
        ):
            with pytest.raises(errors.UsageError, match=said):
                close(**params)
        with pytest.raises(errors.InvalidMultiaddr):
            close(listen_address="")
        assert close(all=True) == ["listen /x/a"]
        assert close(all=True) == []

    in_node(home, client)


@pytest.mark.parametrize(
    ("params", "error", "said"),
    [
        (s.StreamCloseParams(), errors.UsageError, "no id specified"),
        (s.StreamCloseParams(id="abc"), errors.UsageError, "'abc' is not a number"),
        (s.StreamCloseParams(id="-1"), errors.UsageError, "'-1' is not a number"),
        (s.StreamCloseParams(id="1", all=True), errors.UsageError, "can't combine"),
        (s.StreamCloseParams(id="9" * 5000), errors.StreamNotFound, "9"),
        (s.StreamCloseParams(id="77"), errors.StreamNotFound, "77"),
    ],
)
def test_a_stream_that_is_not_there_is_an_error(
    home: Path, params: s.StreamCloseParams, error: type[Exception], said: str
) -> None:
    def client(client: Client) -> None:
        with pytest.raises(error, match=said):
            client.call("p2p.stream.close", params)
        assert client.call("p2p.stream.close", s.StreamCloseParams(all=True)).closed == ()
        assert client.call("p2p.stream.ls").streams == ()

    in_node(home, client)


def test_a_foreground_listener_goes_with_its_client_and_no_other_does(home: Path) -> None:
    async def script(running: Running) -> None:
        path = running.paths.socket

        def foreground() -> None:
            with Client.connect(path) as client:
                client.call("p2p.listen", s.ListenParams("/x/held", "22", foreground=True))
                other = str(PeerId.from_public_key(PrivateKey.generate().public_key))
                client.call("p2p.forward", s.ForwardParams("/x/held", "0", (other,), foreground=True))
                client.call("p2p.listen", s.ListenParams("/x/kept", "22"))
                client.call("p2p.listen", s.ListenParams("/x/again", "22", foreground=True))
                client.call("p2p.close", s.CloseParams(protocol="/x/again"))
                client.call("p2p.listen", s.ListenParams("/x/again", "22"))
                assert len(client.call("p2p.ls").listeners) == 4

        await asyncio.to_thread(foreground)
        while len(running.server.connections):
            await next(iter(running.server.connections)).ended
        assert [info.protocol for info in running.forwarding.listeners()] == ["/x/kept", "/x/again"]

    in_loop(home, script)


def test_closing_elsewhere_is_told_to_who_follows(home: Path) -> None:
    def client(client: Client) -> None:
        events = client.subscribe(["listeners"])
        listener = client.call("p2p.listen", s.ListenParams("/x/a", "22", foreground=True)).listener
        with Client.connect(home / "rpc.sock") as elsewhere:
            elsewhere.call("p2p.close", s.CloseParams(protocol="/x/a"))
        told = [events.next(5)]
        while told[-1].data["action"] != "closed":
            told.append(events.next(5))
        assert told[0].data["action"] == "opened"
        assert {event.data["id"] for event in told} == {listener.id}
        assert told[-1].data["listener"]["Protocol"] == "/x/a"

    in_node(home, client)


def test_the_forwarding_service_is_followed_only_while_somebody_listens(home: Path) -> None:
    async def script(running: Running) -> None:
        assert running._unfollow is None

        def follow() -> None:
            with Client.connect(running.paths.socket) as client:
                client.subscribe(["log"])
                assert running._unfollow is None
                events = client.subscribe(["streams"])
                assert running._unfollow is not None
                events.cancel()
                assert running._unfollow is None
                client.subscribe(["listeners"])

        await asyncio.to_thread(follow)
        while len(running.server.connections):
            await next(iter(running.server.connections)).ended
        assert running._unfollow is None

    in_loop(home, script)


def test_a_listen_whose_client_went_is_undone(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(running: Running) -> None:
        checking = asyncio.Event()

        async def hang(*args: object) -> None:
            checking.set()
            await asyncio.Event().wait()

        monkeypatch.setattr(running.forwarding, "look", hang)

        def give_up(client: Client) -> None:
            with client, pytest.raises(KeyboardInterrupt):
                client.call("p2p.listen", s.ListenParams("/x/a", "22"))

        interrupted, interrupt = os.pipe()
        try:
            client = await asyncio.to_thread(Client.connect, running.paths.socket)
            client.interrupt_on(interrupted)
            asking = asyncio.create_task(asyncio.to_thread(give_up, client))
            await checking.wait()
            os.write(interrupt, b"!")
            await asking
        finally:
            os.close(interrupted)
            os.close(interrupt)
        while len(running.server.connections):
            await next(iter(running.server.connections)).ended
        await until(lambda: running.forwarding.listeners() == [])

    in_loop(home, script)


def test_two_nodes_meet(home: Path) -> None:
    with two_nodes(home) as (first, second):

        async def script(one: Running) -> None:
            paths = Paths.resolve(str(second), {})
            other = await Running.start(paths, SETTINGS, profile(SETTINGS), PrivateKey.generate())
            address = str(other.host.swarm.listen_addrs()[0].with_peer_id(other.host.peer_id))
            try:
                await asyncio.to_thread(meet, one.paths.socket, address, str(other.host.peer_id))
            finally:
                await other.stop()

        in_loop(first, script)


def meet(path: Path, address: str, peer: str) -> None:
    with Client.connect(path) as client:
        events = client.subscribe(["peers"])
        connection = client.call("swarm.connect", s.ConnectParams((address,))).connection
        assert (connection.peer, connection.direction, connection.security) == (peer, "outbound", "/noise")
        assert connection.addr == address.partition("/p2p/")[0]
        event = events.next(5)
        assert (event.data["action"], event.data["peer"]) == ("connected", peer)
        pong = client.call("ping", s.PingParams(peer))
        assert (pong.peer, pong.path) == (peer, "direct")
        assert 0 < pong.rtt_ms < 5000
        assert [p.peer for p in client.call("swarm.peers").peers] == [peer]
        assert client.call("daemon.status").connections == 1
        addrs = client.call("swarm.addrs")
        assert addrs.listen and addrs.id == client.hello.id
        assert client.call("swarm.disconnect", s.DisconnectParams(peer)) == s.DisconnectResult(peer, 1)
        with pytest.raises(errors.NotFound, match="not connected"):
            client.call("swarm.disconnect", s.DisconnectParams(peer))


def test_a_peer_that_cannot_be_reached_is_told_with_every_address(home: Path) -> None:
    def client(client: Client) -> None:
        other = str(PeerId.from_public_key(PrivateKey.generate().public_key))
        with pytest.raises(errors.PeerNotFound):
            client.call("ping", s.PingParams(other))
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        dead = f"/ip4/127.0.0.1/tcp/{port}"
        with pytest.raises(errors.DialFailed, match=dead) as caught:
            client.call("swarm.connect", s.ConnectParams((f"{dead}/p2p/{other}",)))
        assert caught.value.details["attempts"][0]["Address"] == dead
        for timeout_s in (0.0, -1.0, 1e9):
            for method, params in (
                ("ping", s.PingParams(other, timeout_s)),
                ("swarm.connect", s.ConnectParams((other,), timeout_s)),
                ("dht.findpeer", s.DhtFindParams(other, timeout_s)),
                ("dht.query", s.DhtQueryParams(other, timeout_s)),
                ("swarm.discover", s.DiscoverParams(timeout_s)),
                ("p2p.check", s.CheckParams(1, timeout_s)),
            ):
                with pytest.raises(errors.UsageError, match="time limit"):
                    client.call(method, params)

    in_node(home, client)


def test_log_levels_are_set_over_the_rpc(home: Path) -> None:
    def client(client: Client) -> None:
        with pytest.raises(errors.InvalidParams):
            client.call("log.level", s.LogLevelParams("net", "loud"))
        levels = client.call("log.level", s.LogLevelParams("rpc", "error")).levels
        assert levels["rpc"] == "error"
        client.call("log.level", s.LogLevelParams("rpc", "info"))

    in_node(home, client)


def test_shutdown_is_answered_and_then_happens(home: Path) -> None:
    async def script(running: Running) -> None:
        def client() -> None:
            with Client.connect(running.paths.socket) as client:
                assert client.call("daemon.shutdown") == s.Empty()

        await asyncio.to_thread(client)
        await asyncio.wait_for(running.wait_for_stop(), 5)
        assert not running.forced

    in_loop(home, script)


def test_a_stop_waits_for_live_streams_and_a_second_one_does_not(home: Path) -> None:
    async def script(running: Running) -> None:
        waiting = asyncio.Event()

        async def drain(timeout_s: float) -> int:
            assert timeout_s == 5.0
            waiting.set()
            await asyncio.Event().wait()
            return 0

        running.forwarding.drain = drain  # type: ignore[method-assign]
        running.request_stop()
        stopping = asyncio.create_task(running.stop())
        await waiting.wait()
        assert not stopping.done()
        assert running.draining
        assert running.paths.socket.exists()
        running.request_stop()
        await asyncio.wait_for(stopping, 5)
        assert running.forced
        assert not running.paths.socket.exists()

    in_loop(home, script)


def test_a_socket_that_cannot_be_bound_leaves_nothing(home: Path) -> None:
    (home / "rpc.sock").mkdir()

    async def main() -> None:
        with pytest.raises(errors.StorageFailed):
            paths = Paths.resolve(str(home), {})
            await Running.start(paths, SETTINGS, profile(SETTINGS), PrivateKey.generate())

    asyncio.run(main())
