"""rpc.server and rpc.client over a real Unix socket, with handlers made for the test."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import resource
import shutil
import socket
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import uvloop

from p2pfwd import errors
from p2pfwd.rpc import schema, server
from p2pfwd.rpc.client import Client
from p2pfwd.rpc.schema import RPC_MAJOR, HelloParams
from p2pfwd.rpc.server import CallContext, RpcServer
from p2pfwd.system import acceptor
from p2pfwd.system.unix_socket import UnixSocket
from tests.support.sockets import FailingAccept

uvloop.new_event_loop().close()  # libuv opens one signal pipe for the life of the process: not a leak

HELLO = schema.HelloResult(rpc=schema.RPC_MAJOR, version="9.9", id="12D3", pid=os.getpid())


class Node:
    """Handlers of a daemon that has nothing but its socket."""

    def __init__(self) -> None:
        self.waiting = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.lease_ended = asyncio.Event()

    async def hello(self, context: CallContext, params: schema.HelloParams) -> schema.HelloResult:
        return HELLO

    async def ping(self, context: CallContext, params: schema.PingParams) -> schema.PingResult:
        if params.peer == "hang":
            self.waiting.set()
            try:
                await asyncio.Event().wait()
            finally:
                self.cancelled.set()
        if params.peer == "defect":
            raise ZeroDivisionError
        if params.peer == "bad":
            raise errors.InvalidPeerId("peer ID bad: no", hint="give a good one")
        return schema.PingResult(params.peer, "/ip4/127.0.0.1/tcp/1", "direct", 0.5)

    async def disconnect(
        self, context: CallContext, params: schema.DisconnectParams
    ) -> schema.DisconnectResult:
        context.on_disconnect(self.lease_ended.set)
        return schema.DisconnectResult(params.peer, 0)

    def handlers(self) -> Mapping[str, server.Handler]:
        return {"daemon.hello": self.hello, "ping": self.ping, "swarm.disconnect": self.disconnect}


def serve(
    home: Path,
    in_thread: Callable[[Path], Any],
    *,
    after: Callable[[RpcServer, Node], Any] | None = None,
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
) -> Any:
    """Run a server, and beside it `in_thread(socket path)`; its result. `after` is awaited before closing."""

    async def main() -> Any:
        node = Node()
        rpc = RpcServer(home / "rpc.sock", node.handlers())
        await rpc.start()
        try:
            result = await asyncio.to_thread(in_thread, home / "rpc.sock")
            if after is not None:
                await after(rpc, node)
            return result
        finally:
            await rpc.close()
            assert not rpc.connections
            assert not (home / "rpc.sock").exists()

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        return runner.run(asyncio.wait_for(main(), 20))


def lines(path: Path, data: bytes, count: int) -> list[dict[str, Any]]:
    """What the server answers to raw bytes: `count` lines of it."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect(str(path))
        sock.sendall(data)
        with sock.makefile("rb") as reader:
            return [json.loads(reader.readline()) for _ in range(count)]


def request(number: int, method: str, **params: Any) -> bytes:
    message = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
    return json.dumps(message).encode() + b"\n"


GREETING = request(0, "daemon.hello", rpc=schema.RPC_MAJOR)


@pytest.mark.parametrize("loop_factory", [None, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_a_client_is_greeted_and_its_calls_are_answered(home: Path, loop_factory: Any) -> None:
    def client(path: Path) -> None:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        with Client.connect(path) as daemon:
            assert daemon.hello == HELLO
            result = daemon.call("ping", schema.PingParams("x"))
            assert result == schema.PingResult("x", "/ip4/127.0.0.1/tcp/1", "direct", 0.5)

    serve(home, client, loop_factory=loop_factory)


def test_an_error_arrives_as_its_class_with_its_hint(home: Path) -> None:
    def client(path: Path) -> None:
        with Client.connect(path) as daemon:
            with pytest.raises(errors.InvalidPeerId) as caught:
                daemon.call("ping", schema.PingParams("bad"))
            assert (caught.value.message, caught.value.hint) == ("peer ID bad: no", "give a good one")
            with pytest.raises(errors.MethodNotFound):
                daemon.call("p2p.ls")

    serve(home, client)


def test_a_defect_is_told_without_its_inside_and_the_server_lives(
    home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def client(path: Path) -> None:
        with Client.connect(path) as daemon:
            with pytest.raises(errors.InternalError, match="ZeroDivisionError"):
                daemon.call("ping", schema.PingParams("defect"))
            assert daemon.call("ping", schema.PingParams("x")).peer == "x"

    serve(home, client)
    assert "defect in ping" in caplog.text
    assert "Traceback" in caplog.text


def test_calls_of_one_connection_run_side_by_side(home: Path) -> None:
    data = GREETING + request(1, "ping", peer="hang") + request(2, "ping", peer="x")
    answers = serve(home, lambda path: lines(path, data, 2))
    assert [a["id"] for a in answers] == [0, 2]


def test_the_first_call_must_be_hello(home: Path) -> None:
    answers = serve(home, lambda path: lines(path, request(1, "ping", peer="x"), 1))
    assert answers[0]["error"]["data"]["code"] == "rpc-protocol-error"
    assert "daemon.hello" in answers[0]["error"]["message"]


def test_another_major_is_one_clear_error(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def client(path: Path) -> None:
        with monkeypatch.context() as patch:
            patch.setattr("p2pfwd.rpc.client.RPC_MAJOR", 2)
            with pytest.raises(
                errors.RpcVersionMismatch, match="the daemon speaks RPC 1, the command RPC 2"
            ) as e:
                Client.connect(path)
        assert e.value.hint is not None

    serve(home, client)


def test_a_2_mib_line_is_one_error_and_the_connection_goes_on(home: Path) -> None:
    data = GREETING + b"x" * (2 << 20) + b"\n" + request(2, "ping", peer="x")
    answers = serve(home, lambda path: lines(path, data, 3))
    assert answers[1]["id"] is None
    assert answers[1]["error"]["message"] == "RPC line: longer than 1048576 bytes"
    assert answers[2]["result"]["Peer"] == "x"


@pytest.mark.parametrize(
    ("line", "number"),
    [
        (b"\xff\n", -32700),
        (b"{\n", -32700),
        (b"[]\n", -32700),
        (request(1, "no.such"), -32601),
        (request(1, "ping"), -32602),
        (request(1, "ping", peer=5), -32602),
        (request(1, "ping", peer="x", colour=1), -32602),
        (b'{"jsonrpc":"2.0","id":1,"method":5}\n', -32600),
    ],
)
def test_a_bad_line_has_json_rpcs_number_and_the_connection_goes_on(
    home: Path, line: bytes, number: int
) -> None:
    answers = serve(home, lambda path: lines(path, GREETING + line + request(2, "ping", peer="x"), 3))
    assert [a["error"]["code"] for a in answers if "error" in a] == [number]
    assert [a["result"]["Peer"] for a in answers if a["id"] == 2] == ["x"]


def test_an_id_in_use_is_refused(home: Path) -> None:
    data = GREETING + request(1, "ping", peer="hang") + request(1, "ping", peer="x")
    answers = serve(home, lambda path: lines(path, data, 2))
    assert "is under way" in next(a for a in answers if a["id"] == 1)["error"]["message"]


def test_calls_in_flight_are_bounded(home: Path) -> None:
    many = b"".join(request(n, "ping", peer="hang") for n in range(1, server.MAX_CALLS_IN_FLIGHT + 1))
    answers = serve(home, lambda path: lines(path, GREETING + many + request(999, "ping", peer="x"), 1))
    assert answers[0]["id"] == server.MAX_CALLS_IN_FLIGHT  # hello, not yet answered, is one of them
    assert answers[0]["error"]["data"]["code"] == "resource-limit"


def test_connections_are_bounded(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 1)

    def client(path: Path) -> None:
        with Client.connect(path), pytest.raises(errors.ResourceLimitExceeded):
            Client.connect(path)

    serve(home, client)


def test_another_users_process_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "peer_uid", lambda sock: os.geteuid() + 1)

    def client(path: Path) -> None:
        with pytest.raises(errors.UsageError, match="belongs to uid"):
            Client.connect(path)

    serve(home, client)


def test_a_client_refuses_another_users_daemon(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("p2pfwd.rpc.client.peer_uid", lambda sock: 4242)
    monkeypatch.setattr("p2pfwd.rpc.client.os.geteuid", lambda: 4243)

    def client(path: Path) -> None:
        with pytest.raises(errors.StorageFailed, match="held by another user"):
            Client.connect(path)

    monkeypatch.setattr(server, "peer_uid", lambda sock: None)
    serve(home, client)


def test_closing_the_connection_cancels_its_calls_and_ends_its_leases(home: Path) -> None:
    def client(path: Path) -> None:
        with Client.connect(path) as daemon:
            daemon.call("swarm.disconnect", schema.DisconnectParams("x"))
            with pytest.raises(errors.TimedOut):
                daemon.call("ping", schema.PingParams("hang"), timeout_s=0.2)

    async def after(rpc: RpcServer, node: Node) -> None:
        await node.lease_ended.wait()
        await node.cancelled.wait()

    serve(home, client, after=after)


def test_a_late_answer_is_not_taken_for_the_next(home: Path) -> None:
    def client(path: Path) -> None:
        with Client.connect(path) as daemon:
            daemon._sock.sendall(request(77, "ping", peer="late"))
            assert daemon.call("ping", schema.PingParams("x")).peer == "x"

    serve(home, client)


def test_a_closing_server_answers_calls_under_way(home: Path) -> None:
    async def main() -> None:
        node = Node()
        rpc = RpcServer(home / "rpc.sock", node.handlers())
        await rpc.start()

        def client() -> None:
            with Client.connect(home / "rpc.sock") as daemon:
                with pytest.raises(errors.ShuttingDown):
                    daemon.call("ping", schema.PingParams("hang"))
                with pytest.raises(errors.ConnectionLost):
                    daemon.call("ping", schema.PingParams("x"))

        calling = asyncio.create_task(asyncio.to_thread(client))
        await node.waiting.wait()
        await rpc.close()
        await calling

    asyncio.run(asyncio.wait_for(main(), 20))


@pytest.mark.parametrize("hangs", [False, True])
def test_a_closing_server_answers_what_it_saves_as_it_came_out(
    home: Path, monkeypatch: pytest.MonkeyPatch, hangs: bool
) -> None:
    """It waits for it, and where that takes too long says that it may have been done."""
    monkeypatch.setattr(server, "SAVING_GRACE_S", 0.05 if hangs else 20.0)

    async def main() -> None:
        node, rpc = Node(), RpcServer(home / "rpc.sock", {})
        writing, closing = asyncio.Event(), asyncio.Event()

        async def remove(context: CallContext, params: schema.PeerRmParams) -> schema.PeerRmResult:
            writing.set()
            await closing.wait()
            for _ in range(20):
                await asyncio.sleep(0)
            if hangs:
                await asyncio.Event().wait()
            gone = schema.NamedPeer("nas", "12D3", (), None, "not-connected", None, None, None, None)
            return schema.PeerRmResult(gone)

        rpc.handlers = {**node.handlers(), "peer.rm": remove}
        await rpc.start()

        def client() -> None:
            with Client.connect(home / "rpc.sock") as daemon:
                if not hangs:
                    assert daemon.call("peer.rm", schema.PeerRmParams("nas")).peer.name == "nas"
                    return
                with pytest.raises(errors.ShuttingDown, match="it may have been carried out") as caught:
                    daemon.call("peer.rm", schema.PeerRmParams("nas"))
                assert caught.value.details == {"may_be_done": True}

        calling = asyncio.create_task(asyncio.to_thread(client))
        await writing.wait()
        stopping = asyncio.create_task(rpc.close())
        closing.set()
        await stopping
        await calling

    asyncio.run(asyncio.wait_for(main(), 20))


def test_events_reach_their_subscription_beside_calls(home: Path) -> None:
    async def main() -> None:
        rpc = RpcServer(home / "rpc.sock", Node().handlers())
        await rpc.start()
        subscribed, loop = asyncio.Event(), asyncio.get_running_loop()

        def client() -> None:
            with Client.connect(home / "rpc.sock") as daemon:
                events = daemon.subscribe(["listeners"])
                loop.call_soon_threadsafe(subscribed.set)
                event = next(events)
                assert (event.topic, event.data) == ("listeners", {"action": "closed", "id": 4})
                assert daemon.call("ping", schema.PingParams("x")).peer == "x"
                events.cancel()
                with pytest.raises(errors.NotFound):
                    events.cancel()
                with pytest.raises(errors.TimedOut):
                    events.next(timeout_s=0.05)

        calling = asyncio.create_task(asyncio.to_thread(client))
        await subscribed.wait()
        rpc.publish("listeners", {"action": "closed", "id": 4})
        rpc.publish("streams", {"action": "opened"})
        await calling
        await rpc.close()

    asyncio.run(asyncio.wait_for(main(), 20))


def test_a_subscriber_that_does_not_read_costs_a_bounded_queue(home: Path) -> None:
    async def main() -> int:
        rpc = RpcServer(home / "rpc.sock", Node().handlers())
        await rpc.start()
        reader, writer = await asyncio.open_unix_connection(str(home / "rpc.sock"))
        writer.write(GREETING + request(1, "events.subscribe", topics=["log"]))
        assert b"Version" in await reader.readline()
        assert b"Subscription" in await reader.readline()
        for number in range(10_000):
            rpc.publish("log", {"n": number, "text": "x" * 200})
            if number % 100 == 0:
                await asyncio.sleep(0)
        dropped = last = 0
        while last < 9_999:
            data = json.loads(await reader.readline())["params"]["Data"]
            dropped += data.get("count", 0)
            last = data.get("n", last)
        writer.close()
        await writer.wait_closed()
        await rpc.close()
        return dropped

    assert asyncio.run(asyncio.wait_for(main(), 20)) > 5_000


def failing_accepts(monkeypatch: pytest.MonkeyPatch, times: int, code: int) -> None:
    """The first accepts of the control socket fail with this error."""
    bind_before = server._bind

    def bind(path: Path) -> UnixSocket:
        bound = bind_before(path)
        bound.sock = FailingAccept(bound.sock, times, code)  # type: ignore[assignment]
        return bound

    monkeypatch.setattr(server, "_bind", bind)


def test_accepting_pauses_when_descriptors_run_out_and_goes_on(
    home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failing_accepts(monkeypatch, 4, errno.EMFILE)  # the spare descriptor does not help either
    monkeypatch.setattr(acceptor, "RETRY_FIRST_S", 0.01)
    serve(home, lambda path: Client.connect(path).close())
    paused = "control socket: accepting paused: this process has as many files open as this machine"
    assert caplog.text.count(paused) == 1
    assert caplog.text.count("control socket: accepting again") == 1


@pytest.mark.parametrize("code", [errno.EPROTO, errno.ENETDOWN, errno.EHOSTUNREACH, errno.EPERM])
def test_a_connection_that_came_to_nothing_is_no_defect(
    home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, code: int
) -> None:
    failing_accepts(monkeypatch, 2, code)
    serve(home, lambda path: Client.connect(path).close())
    assert not caplog.records


@contextlib.contextmanager
def taken_descriptors() -> Iterator[None]:
    """Every descriptor is in use."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    taken: list[int] = []
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        yield
    finally:
        for fd in taken:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_client_is_accepted_though_no_descriptor_is_left(home: Path) -> None:
    def greet_without_descriptors(path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as sock, taken_descriptors():
            sock.connect(os.fsencode(path))
            sock.sendall(b'{"jsonrpc":"2.0","id":1,"method":"daemon.hello","params":{"rpc":1}}\n')
            sock.settimeout(10)
            assert b'"id":1' in sock.recv(65536).replace(b" ", b"")

    serve(home, greet_without_descriptors)


def test_lines_that_nobody_reads_the_answers_to_are_left_unread(home: Path) -> None:
    # FAULTS F14: 43 to 89 MB, and everybody else waited for seconds.
    def flood(path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(os.fsencode(path))
            sock.settimeout(0.5)
            sent = 0
            with contextlib.suppress(TimeoutError):
                while sent < 32 << 20:
                    sent += sock.send(b"\n" * 65536)
            assert sent < 4 << 20, "it is not read while it reads nothing"
            Client.connect(path).close()

    serve(home, flood)


def test_a_stale_socket_is_replaced(home: Path) -> None:
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(home / "rpc.sock"))
    serve(home, lambda path: Client.connect(path).close())


def test_a_socket_somebody_answers_on_is_left_alone(home: Path) -> None:
    async def main() -> None:
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(home / "rpc.sock"))
            other.listen()
            with pytest.raises(errors.DaemonRunning):
                await RpcServer(home / "rpc.sock", {}).start()
        assert (home / "rpc.sock").exists()

    asyncio.run(main())


def test_a_file_of_another_kind_is_left_alone(home: Path) -> None:
    (home / "rpc.sock").write_text("precious")
    with pytest.raises(errors.StorageFailed, match="another kind"):
        asyncio.run(RpcServer(home / "rpc.sock", {}).start())
    assert (home / "rpc.sock").read_text() == "precious"


def test_a_socket_whose_file_was_removed_is_made_anew(
    home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The file alone, its directory, and then something else in its place: told once, and left alone."""
    monkeypatch.setattr(server, "LOOK_S", 0.01)
    path = home / "state" / "rpc.sock"
    path.parent.mkdir()

    async def answers() -> None:
        while True:
            with contextlib.suppress(errors.DaemonNotRunning):
                return (await asyncio.to_thread(Client.connect, path)).close()
            await asyncio.sleep(0.01)

    async def main() -> None:
        rpc = RpcServer(path, Node().handlers())
        await rpc.start()
        with await asyncio.to_thread(Client.connect, path) as before:
            for remove in (path.unlink, lambda: shutil.rmtree(path.parent)):
                remove()
                await answers()
            path.unlink()
            path.mkdir()
            for _ in range(1000):
                if "commands cannot reach this daemon" in caplog.text:
                    break
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.05)
            path.rmdir()
            await answers()
            await asyncio.to_thread(before.call, "daemon.hello", HelloParams(RPC_MAJOR))
        await rpc.close()
        assert not path.exists()

    asyncio.run(asyncio.wait_for(main(), 20))
    assert caplog.text.count("commands cannot reach this daemon") == 1
    assert caplog.text.count("its file was gone, and is made anew") == 3


def test_closing_does_not_remove_a_socket_bound_by_another(home: Path) -> None:
    async def main() -> None:
        rpc = RpcServer(home / "rpc.sock", {})
        await rpc.start()
        (home / "rpc.sock").unlink()
        (home / "rpc.sock").write_text("another's")
        await rpc.close()
        await rpc.close()
        assert (home / "rpc.sock").exists()

    asyncio.run(main())


@pytest.mark.parametrize("place", ["absent", "stale", "no directory"])
def test_no_daemon_is_one_clear_error(home: Path, place: str) -> None:
    path = home / "rpc.sock"
    if place == "stale":
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(str(path))
    if place == "no directory":
        path = home / "none" / "rpc.sock"
    with pytest.raises(errors.DaemonNotRunning, match="no daemon is running") as caught:
        Client.connect(path)
    assert caught.value.exit_status == errors.ExitStatus.NOT_RUNNING
    assert "p2pfwd daemon" in str(caught.value.hint)


def test_a_socket_path_that_is_too_long_is_told_before_anything_else(home: Path) -> None:
    with pytest.raises(errors.BindFailed, match="Unix socket's path may have"):
        Client.connect(home / ("a" * 200) / "rpc.sock")
    with pytest.raises(errors.BindFailed):
        asyncio.run(RpcServer(home / ("a" * 200), {}).start())


def test_a_daemon_that_accepts_and_says_nothing_times_out(home: Path) -> None:
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(str(home / "rpc.sock"))
        mute.listen()
        with pytest.raises(errors.TimedOut):
            Client.connect(home / "rpc.sock", timeout_s=0.1)
