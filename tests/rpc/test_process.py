"""The daemon as a process: what it prints, how it ends, what keeps it from starting, the background start."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from p2pfwd import errors
from p2pfwd.rpc import autostart
from p2pfwd.rpc.client import Client
from p2pfwd.rpc.paths import Paths
from p2pfwd.rpc.schema import CheckParams, ListenParams
from tests.support import lifeline
from tests.support.fake_daemon import until

LOOPBACK = {"P2PFWD_SWARM_LISTEN": "/ip4/127.0.0.1/tcp/0", "P2PFWD_NETWORK": "lan"}


def environment(home: Path, **more: str) -> dict[str, str]:
    """A whole environment: nothing of this process's, but that the daemon ends with it."""
    fixed = {"PATH": os.environ["PATH"], "P2PFWD_HOME": str(home), "LC_ALL": "C.UTF-8"}
    return {**fixed, **LOOPBACK, **lifeline.mark(), **more}


@contextmanager
def daemon(home: Path, **more: str) -> Iterator[subprocess.Popen[str]]:
    """A daemon in the foreground, from its start; killed at the end if it is still there."""
    arguments, env = autostart.command(Paths.resolve(str(home), {}), environment(home, **more))
    with subprocess.Popen(
        arguments, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd="/"
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def until_ready(process: subprocess.Popen[str]) -> list[str]:
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line.rstrip("\n"))
        if lines[-1] == "Daemon is ready":
            return lines
    raise AssertionError(f"ended with {process.wait()}: {lines} {process.stderr and process.stderr.read()}")


def outcome(home: Path, **more: str) -> tuple[int, str, str]:
    """Status, stdout and stderr of a daemon that ends by itself."""
    with daemon(home, **more) as process:
        out, err = process.communicate(timeout=20)
    return process.returncode, out, err


@contextmanager
def started(home: Path, env: Mapping[str, str]) -> Iterator[Client]:
    """A client of the daemon in the background at `home`, which is stopped and waited for at the end."""
    paths = Paths.resolve(str(home), {})
    with Client.connect(paths.socket) as client:
        yield client
        client.call("daemon.shutdown")
        with pytest.raises(errors.ConnectionLost):
            client.subscribe(["log"]).next(20)
    os.waitpid(client.hello.pid, 0)


def test_the_daemon_prints_who_and_where_it_is_and_then_that_it_is_ready(home: Path) -> None:
    with daemon(home) as process:
        made, peer, listening, control, ready = until_ready(process)
        with Client.connect(home / "rpc.sock") as client:
            peer_id = client.hello.id
            assert client.hello.pid == process.pid
            assert client.call("daemon.status").log is None
        assert made == f"Made a new identity: {home}/identity.key"
        assert peer == f"Peer ID: {peer_id}"
        assert listening.startswith("Listening on /ip4/127.0.0.1/tcp/")
        assert listening.endswith(f"/p2p/{peer_id}")
        assert control == f"Control socket: {home}/rpc.sock"
        assert ready == "Daemon is ready"
        process.terminate()
        assert process.wait(20) == 0
    assert not (home / "rpc.sock").exists()
    with daemon(home) as process:
        assert until_ready(process)[0] == f"Peer ID: {peer_id}"
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0


@pytest.mark.parametrize("loop", ["asyncio", "uvloop", "auto"])
def test_either_event_loop_serves_without_the_systems_openssl(home: Path, loop: str) -> None:
    with daemon(home, P2PFWD_DAEMON_EVENT_LOOP=loop) as process:
        until_ready(process)
        with Client.connect(home / "rpc.sock") as client:
            listener = client.call("p2p.listen", ListenParams("/x/a", "1")).listener
            assert client.call("p2p.check", CheckParams(listener.id)).state == "target-refused"
        if sys.platform.startswith("linux"):
            maps = Path(f"/proc/{process.pid}/maps").read_text()
            assert ("uvloop" in maps) == (loop != "asyncio")
            assert "libssl" not in maps
            assert "libcrypto" not in maps
        process.terminate()
        assert process.wait(20) == 0


def test_a_second_daemon_is_refused_with_the_first_ones_process(home: Path) -> None:
    with daemon(home) as process:
        until_ready(process)
        status, out, err = outcome(home)
        process.terminate()
        process.wait(20)
    assert (status, out) == (1, "")
    assert err.startswith(f"Error: a daemon is running already for this home (process {process.pid}, ")
    assert "\nhint: " in err


def test_a_daemon_killed_outright_leaves_nothing_in_the_way(home: Path) -> None:
    with daemon(home) as process:
        until_ready(process)
        process.kill()
        process.wait()
    assert (home / "rpc.sock").exists()
    with pytest.raises(errors.DaemonNotRunning):
        Client.connect(home / "rpc.sock")
    with daemon(home) as process:
        until_ready(process)
        process.terminate()
        assert process.wait(20) == 0


def test_a_taken_port_is_replaced_with_a_warning(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with daemon(home, P2PFWD_SWARM_LISTEN=f"/ip4/127.0.0.1/tcp/{port}") as process:
            lines = until_ready(process)
            process.terminate()
            _, err = process.communicate(timeout=20)
    assert f"/tcp/{port}/" not in lines[2]
    assert "WARNING" in err
    assert f"/ip4/127.0.0.1/tcp/{port}" in err


def test_a_reader_that_goes_away_does_not_end_the_daemon(home: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(home / "notify"))
        manager.settimeout(20)
        with daemon(home, NOTIFY_SOCKET=str(home / "notify")) as process:
            assert process.stdout is not None
            process.stdout.close()
            assert manager.recv(100).startswith(b"READY=1")
            Client.connect(home / "rpc.sock").close()
            process.terminate()
            assert process.wait(20) == 0


def test_systemd_is_told_that_it_is_ready_and_that_it_stops(home: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(home / "notify"))
        manager.settimeout(20)
        with daemon(home, NOTIFY_SOCKET=str(home / "notify")) as process:
            assert manager.recv(100) == f"READY=1\nMAINPID={process.pid}".encode()
            Client.connect(home / "rpc.sock").close()
            process.terminate()
            assert manager.recv(100) == b"STOPPING=1"
            process.communicate(timeout=20)


def bad_config(home: Path) -> None:
    (home / "config.toml").write_text("[swarm]\nlisen = 1\n")


def bad_key(home: Path) -> None:
    (home / "identity.key").write_text("zebra\n")
    (home / "identity.key").chmod(0o600)


def open_key(home: Path) -> None:
    (home / "identity.key").write_text("zebra\n")
    (home / "identity.key").chmod(0o644)


def not_a_socket(home: Path) -> None:
    (home / "rpc.sock").mkdir()


@pytest.mark.parametrize(
    ("spoil", "status", "said"),
    [
        (bad_config, 2, "config.toml: unknown key swarm.lisen\nhint: did you mean swarm.listen?\n"),
        (bad_key, 2, "it is not base64 text\nhint: restore it"),
        (open_key, 2, "other users can read it (mode 0644)\nhint: chmod 600"),
        (not_a_socket, 1, "there is a file of another kind\nhint: move it away"),
    ],
)
@pytest.mark.parametrize("way", ["foreground", "background"])
def test_what_keeps_a_daemon_from_starting_is_one_clear_error(
    home: Path, spoil: Callable[[Path], None], status: int, said: str, way: str
) -> None:
    spoil(home)
    before = sorted(p.name for p in home.iterdir())
    if way == "foreground":
        got, out, err = outcome(home)
        assert (got, out) == (status, "")
        assert err.startswith("Error: ")
    else:
        with pytest.raises(errors.P2PForwardError) as caught:
            autostart.start(Paths.resolve(str(home), {}), environment(home), 20)
        assert int(caught.value.exit_status) == status
        err = f"{caught.value.message}\nhint: {caught.value.hint}\n"
    assert said in err
    made = {"daemon.log", "daemon.lock", "start.lock", "identity.key"}
    assert sorted(p.name for p in home.iterdir() if p.name not in made - set(before)) == before


def test_a_socket_path_too_long_is_told_with_its_cure(home: Path) -> None:
    deep = home / ("a" * 100)
    status, _, err = outcome(deep)
    assert status == 1
    assert err.startswith("Error: control socket: the path ")
    assert "P2PFWD_HOME" in err
    with pytest.raises(errors.BindFailed):
        autostart.start(Paths.resolve(str(deep), {}), environment(deep), 20)
    assert list(home.iterdir()) == []


def test_a_background_daemon_answers_when_its_start_returns(home: Path) -> None:
    paths = Paths.resolve(str(home), {})
    autostart.start(paths, environment(home), 20)
    with started(home, environment(home)) as client:
        assert client.call("daemon.status").log == str(paths.log_file)
        autostart.start(paths, environment(home), 20)  # it runs: nothing to do
        with Client.connect(paths.socket) as again:
            assert again.hello.pid == client.hello.pid
    text = paths.log_file.read_text()
    assert "Daemon is ready" in text
    assert "a daemon is running already" in text
    assert paths.log_file.stat().st_mode & 0o077 == 0


def test_two_starts_at_once_end_with_one_daemon_and_both_succeed(home: Path) -> None:
    paths, found = Paths.resolve(str(home), {}), []

    def start() -> None:
        autostart.start(paths, environment(home), 30)
        with Client.connect(paths.socket) as client:
            found.append(client.hello.pid)

    threads = [threading.Thread(target=start) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with started(home, environment(home)) as client:
        assert found == [client.hello.pid] * 3


def test_a_daemon_that_ends_without_a_word_is_told_with_its_last_line(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dies = "import sys; sys.stderr.write('zebra crossing\\n'); sys.exit(3)"
    monkeypatch.setattr(autostart, "command", lambda *args: ([sys.executable, "-c", dies], {}))
    with pytest.raises(errors.StorageFailed, match="before it was ready: zebra crossing") as caught:
        autostart.start(Paths.resolve(str(home), {}), {}, 20)
    assert str(home / "daemon.log") in str(caught.value.hint)


def test_a_daemon_that_is_not_ready_in_time_is_ended(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hangs = "import signal; signal.pause()"
    monkeypatch.setattr(autostart, "command", lambda *args: ([sys.executable, "-c", hangs], {}))
    with pytest.raises(errors.TimedOut, match="not ready after"):
        autostart.start(Paths.resolve(str(home), {}), {}, 0.3)


def test_a_log_that_cannot_be_written_is_told(home: Path) -> None:
    (home / "daemon.log").mkdir()
    with pytest.raises(errors.StorageFailed, match=r"log file .*: Is a directory"):
        autostart.start(Paths.resolve(str(home), {}), environment(home), 20)


def test_a_home_that_is_a_file_is_told_as_that(home: Path) -> None:
    (home / "file").write_text("")
    status, _, err = outcome(home / "file")
    assert status == 1
    assert err == (
        f"Error: home directory {home}/file: Not a directory\n"
        "hint: choose another home with P2PFWD_HOME or --home\n"
    )


def test_the_event_loop_itself_shows_the_watchdog_that_it_turns(home: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(home / "notify"))
        manager.settimeout(20)
        with daemon(home, NOTIFY_SOCKET=str(home / "notify"), WATCHDOG_USEC="300000") as process:
            until_ready(process)
            assert {manager.recv(100)[:8] for _ in range(4)} == {b"READY=1\n", b"WATCHDOG"}
            process.send_signal(signal.SIGSTOP)
            manager.settimeout(1)
            with pytest.raises(TimeoutError):
                while manager.recv(100):
                    pass
            process.send_signal(signal.SIGCONT)
            manager.settimeout(20)
            assert manager.recv(100) == b"WATCHDOG=1"
            process.send_signal(signal.SIGABRT)
            _, err = process.communicate(timeout=20)
    assert "Fatal Python error: Aborted" in err, "where it hangs is in the journal"


def test_as_an_agent_of_launchd_the_log_is_the_bounded_file(home: Path) -> None:
    from p2pfwd.service.launchd_plist import IN_BACKGROUND

    with daemon(home, **IN_BACKGROUND) as process:
        log = home / "daemon.log"
        assert until(lambda: log.exists() and "Daemon is ready" in log.read_text())
        with Client.connect(home / "rpc.sock") as client:
            assert client.call("daemon.status").log == str(log)
        process.terminate()
        assert process.wait(20) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere Python keeps its own allocator")
@pytest.mark.parametrize("chosen", [{}, {"PYTHONMALLOC": "pymalloc"}])
def test_every_daemon_has_the_allocator_that_gives_back_whoever_starts_it(
    tmp_path: Path, chosen: dict[str, str]
) -> None:
    """What few things outlive a flood kept a megabyte each; the owner's own choice counts."""
    wanted = chosen.get("PYTHONMALLOC", "malloc")
    with daemon(tmp_path / "command", **chosen) as process:
        until_ready(process)
        assert allocator_of(process.pid) == wanted
    by_hand = [sys.executable, "-m", "p2pfwd.daemon"]
    env = environment(tmp_path / "by-hand", **chosen)
    with subprocess.Popen(by_hand, env=env, stdout=subprocess.PIPE, text=True) as process:
        try:
            until_ready(process)
            assert allocator_of(process.pid) == wanted, "the same process, begun anew"
        finally:
            process.kill()


def allocator_of(pid: int) -> str | None:
    words = Path(f"/proc/{pid}/environ").read_text(encoding="utf-8").split("\0")
    return dict(word.partition("=")[::2] for word in words).get("PYTHONMALLOC")
