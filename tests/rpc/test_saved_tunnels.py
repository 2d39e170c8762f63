"""Tunnels outlive the daemon: by the RPC, with real nodes in this process, stopped and made anew."""

from __future__ import annotations

import asyncio
import socket
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from p2pfwd.core.keys import PrivateKey
from p2pfwd.core.peer_id import PeerId
from p2pfwd.daemon.networks import profile
from p2pfwd.daemon.node import Running
from p2pfwd.errors import (
    AddressInUse,
    DaemonNotRunning,
    InvalidConfig,
    InvalidProtocol,
    ListenerExists,
    P2PForwardError,
    StorageFailed,
)
from p2pfwd.forwarding.values import CloseMatch
from p2pfwd.host.host import Host
from p2pfwd.rpc import schema as s
from p2pfwd.rpc.client import Client
from p2pfwd.rpc.paths import Paths
from p2pfwd.state.tunnel_file import SavedTunnel, TunnelFile
from p2pfwd.state.tunnels import SavedTunnels
from tests.rpc.test_daemon import SETTINGS, in_loop

PEER = "12D3KooWNBSMhmHonfyQbXYczUq24ujJKQxhpNNgSaLxvupFZ5uu"
OTHER = "12D3KooWGcQcL3RfR1bmquTwxEF25cPLg3c1EdrSUicVJm1WijhL"
WEB = s.ListenParams("/x/web", "127.0.0.1:9", report_peer_id=True)
ADDRESS = f"/ip4/192.0.2.1/tcp/4011/p2p/{PEER}"


def forward(port: int = 0, **more: Any) -> s.ForwardParams:
    return s.ForwardParams("/x/ssh", f"127.0.0.1:{port}", (PEER,), **more)


def life(home: Path, work: Callable[[Client], Any], identity: PrivateKey) -> Any:
    """One life of a daemon, from its start to its stop; what `work` returns."""

    def with_client(path: Path) -> Any:
        with Client.connect(path) as client:
            return work(client)

    async def main() -> Any:
        paths = Paths.resolve(str(home), {})
        running = await Running.start(paths, SETTINGS, profile(SETTINGS), identity, None)
        try:
            return await asyncio.to_thread(with_client, running.paths.socket)
        finally:
            await running.stop()

    return asyncio.run(asyncio.wait_for(main(), 30))


@pytest.fixture
def lives(home: Path) -> Callable[[Callable[[Client], Any]], Any]:
    """Runs one life after the other of the same daemon."""
    identity = PrivateKey.generate()
    return lambda work: life(home, work, identity)


Lives = Callable[[Callable[[Client], Any]], Any]


def ls(client: Client) -> tuple[s.Listener, ...]:
    listeners: tuple[s.Listener, ...] = client.call("p2p.ls").listeners
    return listeners


def is_bound(port: int) -> bool:
    """Whether the daemon has it."""
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return True
    return False


def essence(listener: s.Listener) -> tuple[Any, ...]:
    """What has to be the same in every life."""
    return (
        listener.direction,
        listener.protocol,
        listener.listen_address,
        listener.target_address,
        listener.created,
        listener.saved,
    )


def test_listens_and_forwards_are_there_again_in_their_order_and_work(lives: Lives) -> None:
    def first(client: Client) -> list[Any]:
        made = [
            client.call("p2p.listen", WEB).listener,
            client.call("p2p.forward", forward(path="direct", allow_limited_relay=True)).listener,
            client.call("p2p.listen", s.ListenParams("/own", "8080", allow_custom_protocol=True)).listener,
        ]
        assert all(listener.saved for listener in made)
        return list(map(essence, made))

    def second(client: Client) -> None:
        found = ls(client)
        assert list(map(essence, found)) == before
        port = int(found[1].listen_address.rpartition("/")[2])
        assert is_bound(port)
        for again in (WEB, s.ListenParams("/own", "8080", allow_custom_protocol=True)):
            assert client.call("p2p.listen", again).stood
        again = forward(port, path="direct", allow_limited_relay=True)
        assert client.call("p2p.forward", again).stood

    before = lives(first)
    lives(second)
    lives(second)


def test_how_a_target_is_waited_for_and_watched_is_saved(lives: Lives) -> None:
    asked = s.ListenParams("/x/web", "127.0.0.1:9", wait_target_s=30, check="http:/health")

    def work(client: Client) -> s.Listener:
        made = client.call("p2p.listen", asked)
        assert (made.listener.wait_target_s, made.listener.check) == (30.0, "http:/health")
        assert (made.target_check.ok, made.target_check.state) == (False, "target-refused")
        return made

    assert not lives(work).stood
    assert lives(work).stood
    (found,) = lives(ls)
    assert (found.wait_target_s, found.check) == (30.0, "http:/health")


def test_ephemeral_and_foreground_ones_end_with_the_daemon(lives: Lives) -> None:
    def first(client: Client) -> None:
        ephemeral = client.call("p2p.listen", s.ListenParams("/x/e", "9", ephemeral=True)).listener
        tied = client.call("p2p.forward", forward(foreground=True)).listener
        assert (ephemeral.saved, ephemeral.foreground) == (False, False)
        assert (tied.saved, tied.foreground) == (False, True)

    lives(first)
    assert lives(ls) == ()


def test_close_forgets_and_a_stop_is_no_close(lives: Lives) -> None:
    def first(client: Client) -> None:
        client.call("p2p.listen", WEB)
        client.call("p2p.listen", s.ListenParams("/x/other", "9"))
        (closed,) = client.call("p2p.close", s.CloseParams(protocol="/x/web")).closed
        assert closed.protocol == "/x/web" and closed.saved
        client.call("daemon.shutdown")

    lives(first)
    assert [listener.protocol for listener in lives(ls)] == ["/x/other"]
    lives(lambda client: client.call("p2p.close", s.CloseParams(all=True)))
    assert lives(ls) == ()


def test_a_close_while_the_daemon_drains_forgets_too(home: Path) -> None:
    async def script(running: Running) -> None:
        def ask() -> None:
            with Client.connect(running.paths.socket) as client:
                client.call("p2p.listen", WEB)
                running.forwarding._loop.call_soon_threadsafe(drain)
                (closed,) = client.call("p2p.close", s.CloseParams(protocol="/x/web")).closed
                assert (closed.protocol, closed.saved, closed.state) == ("/x/web", True, "unknown")

        def drain() -> None:
            running.forwarding.close(CloseMatch(all=True))  # as a stop does: in memory alone

        await asyncio.to_thread(ask)

    in_loop(home, script)
    file = TunnelFile(home / "state.db")
    assert file.load() == []
    file.close()


def test_the_same_again_stands_already_and_port_0_is_always_another(lives: Lives) -> None:
    def work(client: Client) -> None:
        assert not client.call("p2p.listen", WEB).stood
        as_listed = s.ListenParams("/x/web", "/ip4/127.0.0.1/tcp/9", report_peer_id=True)
        assert client.call("p2p.listen", as_listed).stood
        again = client.call("p2p.listen", WEB)
        assert again.stood and again.listener.id == 1 and again.peer
        one = client.call("p2p.forward", forward())
        other = client.call("p2p.forward", forward())
        assert not other.stood and one.listener.listen_address != other.listener.listen_address
        ephemeral = s.ListenParams("/x/e", "9", ephemeral=True)
        assert [client.call("p2p.listen", ephemeral).stood for _ in range(2)] == [False, True]
        assert len(ls(client)) == 4

    lives(work)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (s.ListenParams("/x/web", "127.0.0.1:10", report_peer_id=True), "its target is .*/9, not .*/10"),
        (s.ListenParams("/x/web", "127.0.0.1:9"), r"its target is told the peer ID \(-r\)"),
        (s.ListenParams("/x/web", "127.0.0.1:9", report_peer_id=True, ephemeral=True), "is saved, not eph"),
        (s.ListenParams("/x/web", "127.0.0.1:9", wait_target_s=2.5), "waited for 0 s, not 2.5 s"),
        (s.ListenParams("/x/web", "127.0.0.1:9", check="http:/a"), "its check is none, not http:/a"),
        (s.ListenParams("/x/web", "127.0.0.1:9", report_peer_id=True, foreground=True), "saved, not foreg"),
    ],
)
def test_a_listen_that_differs_is_told_with_what_differs(
    lives: Lives, other: s.ListenParams, words: str
) -> None:
    def work(client: Client) -> None:
        client.call("p2p.listen", WEB)
        with pytest.raises(ListenerExists, match=f"listener already registered: .*; .*{words}") as caught:
            client.call("p2p.listen", other)
        assert caught.value.hint == "to change it: p2pfwd close -p /x/web, then the same command again"
        assert caught.value.details == {"listener": 1}

    lives(work)


def test_a_forward_that_differs_is_told_with_what_differs(lives: Lives) -> None:
    def work(client: Client) -> None:
        made = client.call("p2p.forward", forward()).listener.listen_address
        for other, words in (
            (s.ForwardParams("/x/web", made, (PEER,)), "its protocol is /x/ssh, not /x/web"),
            (s.ForwardParams("/x/ssh", made, (OTHER,)), f"its peer is {PEER}, not {OTHER}"),
            (s.ForwardParams("/x/ssh", made, (PEER,), path="relay"), "its path is any, not relay"),
            (s.ForwardParams("/x/ssh", made, (PEER,), allow_limited_relay=True), "may not go over limited"),
            (s.ForwardParams("/x/ssh", made, (PEER,), ephemeral=True), "it is saved, not ephemeral"),
        ):
            with pytest.raises(ListenerExists, match=words) as caught:
                client.call("p2p.forward", other)
            assert caught.value.hint == f"to change it: p2pfwd close -l {made}, then the same command again"

    lives(work)


def test_a_foreground_one_belongs_to_its_command(lives: Lives) -> None:
    def work(client: Client) -> None:
        tied = s.ListenParams("/x/f", "9", foreground=True)
        client.call("p2p.listen", tied)
        with pytest.raises(ListenerExists, match="it ends with the command that made it"):
            client.call("p2p.listen", tied)

    lives(work)


def test_new_addresses_of_the_peer_are_added_and_saved(lives: Lives, home: Path) -> None:
    def work(client: Client) -> None:
        made = client.call("p2p.forward", forward()).listener.listen_address
        assert client.call("p2p.forward", s.ForwardParams("/x/ssh", made, (ADDRESS,))).stood
        assert client.call("p2p.forward", s.ForwardParams("/x/ssh", made, (PEER,))).stood

    lives(work)
    file = TunnelFile(home / "state.db")
    (saved,) = file.load()
    file.close()
    assert [str(addr) for addr in saved.peer_addrs] == ["/ip4/192.0.2.1/tcp/4011"]


def test_a_forward_whose_port_is_taken_at_the_start_is_kept_and_bound_when_it_is_free(lives: Lives) -> None:
    made = lives(lambda client: client.call("p2p.forward", forward()).listener)
    port = int(made.listen_address.rpartition("/")[2])

    def taken(client: Client) -> None:
        (found,) = ls(client)
        assert essence(found) == essence(made)
        assert found.state == "address-in-use" and "already in use" in (found.reason or "")
        with pytest.raises(AddressInUse):  # a new one is refused, as ever
            client.call("p2p.forward", s.ForwardParams("/x/new", f"127.0.0.2:{port}", (PEER,)))
        check = client.call("p2p.check", s.CheckParams(found.id))
        assert (check.ok, check.state) == (False, "address-in-use")
        for holder in holders:
            holder.close()
        assert client.call("p2p.forward", forward(port)).stood  # tries it at once
        assert ls(client)[0].state == "unknown"
        assert is_bound(port)

    holders = [socket.create_server((host, port)) for host in ("127.0.0.1", "127.0.0.2")]
    lives(taken)


def test_one_that_waits_can_be_closed_for_good(lives: Lives) -> None:
    made = lives(lambda client: client.call("p2p.forward", forward()).listener)
    port = int(made.listen_address.rpartition("/")[2])
    with socket.create_server(("127.0.0.1", port)):
        close = s.CloseParams(listen_address=str(port))
        closed = lives(lambda client: client.call("p2p.close", close)).closed
        assert [it.listen_address for it in closed] == [made.listen_address]
    assert lives(ls) == ()


def test_what_cannot_be_made_again_is_listed_with_why_and_can_be_closed(home: Path) -> None:
    identity, other = PrivateKey.generate(), PrivateKey.generate()
    target = str(PeerId.from_public_key(other.public_key))
    asked = s.ForwardParams("/x/ssh", "127.0.0.1:0", (target,))
    life(home, lambda client: client.call("p2p.forward", asked), identity)

    def as_the_other(client: Client) -> None:
        (found,) = ls(client)
        assert (found.id, found.state, found.saved) == (0, "self-dial", True)
        assert "is this node itself" in (found.reason or "")
        assert client.call("p2p.close", s.CloseParams(protocol="/x/ssh")).closed == (found,)
        assert ls(client) == ()

    life(home, lambda client: None, other)
    life(home, as_the_other, other)
    assert life(home, ls, identity) == ()


def test_when_the_disk_takes_nothing_nothing_changes(lives: Lives, home: Path) -> None:
    def work(client: Client) -> None:
        client.call("p2p.listen", WEB)
        with monkey_disk(home):
            for method, params in (
                ("p2p.listen", s.ListenParams("/x/more", "9")),
                ("p2p.forward", forward()),
                ("p2p.close", s.CloseParams(all=True)),
            ):
                with pytest.raises(StorageFailed, match=r"state file .*state\.db") as caught:
                    client.call(method, params)
                assert caught.value.hint
            assert [listener.protocol for listener in ls(client)] == ["/x/web"]
            assert not client.call("p2p.listen", s.ListenParams("/x/e", "9", ephemeral=True)).stood
        assert not client.call("p2p.listen", s.ListenParams("/x/more", "9")).stood

    lives(work)
    assert [listener.protocol for listener in lives(ls)] == ["/x/web", "/x/more"]


class monkey_disk:
    """A disk that takes nothing: every write of the state file fails as on a full one."""

    def __init__(self, home: Path) -> None:
        self._home = home

    def __enter__(self) -> None:
        self._patch = pytest.MonkeyPatch()
        home = self._home

        def full(*_: object) -> None:
            raise StorageFailed(f"state file {home / 'state.db'}: database or disk is full", hint="free some")

        self._patch.setattr(TunnelFile, "_write", full)

    def __exit__(self, *_: object) -> None:
        self._patch.undo()


def test_a_newer_state_file_keeps_the_daemon_from_starting(lives: Lives, home: Path) -> None:
    lives(lambda client: client.call("p2p.listen", WEB))
    with sqlite3.connect(home / "state.db") as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(InvalidConfig, match="it has the form 99") as caught:
        lives(ls)
    assert caught.value.hint == "use that version; or move the file away: then no tunnel is saved"
    with pytest.raises(DaemonNotRunning):
        Client.connect(home / "rpc.sock")


def test_a_command_that_does_not_wait_for_its_answer_changes_nothing(
    lives: Lives, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = TunnelFile._write
    writing, go_on = threading.Event(), threading.Event()

    def slow(self: TunnelFile, work: Any) -> None:
        writing.set()
        assert go_on.wait(20)
        write(self, work)

    def work(client: Client) -> None:
        with Client.connect(home / "rpc.sock") as hasty, pytest.raises(P2PForwardError):
            monkeypatch.setattr(TunnelFile, "_write", slow)
            threading.Thread(target=lambda: (writing.wait(20), hasty._sock.shutdown(2))).start()  # type: ignore[func-returns-value]
            hasty.call("p2p.listen", s.ListenParams("/x/hasty", "9"))
        monkeypatch.setattr(TunnelFile, "_write", write)
        go_on.set()
        client.call("p2p.listen", WEB)  # one after the other: it is done when this is
        for _ in range(200):
            if [listener.protocol for listener in ls(client)] == ["/x/web"]:
                return
        raise AssertionError(ls(client))

    lives(work)
    assert [listener.protocol for listener in lives(ls)] == ["/x/web"]


def test_a_name_that_is_refused_is_not_saved(lives: Lives, home: Path) -> None:
    def work(client: Client) -> None:
        with pytest.raises(InvalidProtocol):
            client.call("p2p.listen", s.ListenParams("/no", "9"))

    lives(work)
    assert not (home / "state.db").exists()


def test_a_peer_that_gets_in_finds_the_saved_listens(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a restart others dial at once; a stream that they open is not refused because a file is read."""
    identity = PrivateKey.generate()
    life(home, lambda client: client.call("p2p.listen", WEB), identity)
    found: list[bool] = []
    listen, load = Host.listen, SavedTunnels.load

    async def slow_load(self: SavedTunnels) -> list[SavedTunnel]:
        await asyncio.sleep(0.05)
        return await load(self)

    async def watched_listen(self: Host, addrs: Any) -> None:
        def look() -> None:
            found.append(self.swarm.services.accepts(PeerId.parse(PEER), "/x/web"))

        await listen(self, addrs)
        assert self.swarm.listen_addrs()
        asyncio.get_running_loop().call_soon(look)  # the first turn in which anybody can get in

    monkeypatch.setattr(SavedTunnels, "load", slow_load)
    monkeypatch.setattr(Host, "listen", watched_listen)
    life(home, ls, identity)
    assert found == [True]
