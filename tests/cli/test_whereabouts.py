"""Where the daemon is: found from every session of its user, whatever became of the one it was started in.

Real daemons in the user's XDG directories, as without P2PFWD_HOME; and what is said where none is to be had.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from p2pfwd.errors import DaemonNotRunning, P2PForwardError
from p2pfwd.rpc.paths import Paths
from p2pfwd.rpc.reach import reach
from p2pfwd.state.home_lock import HomeLock, holder
from tests.cli.conftest import Run
from tests.support.daemon import CLI_S, PROGRAM, Completed, environment
from tests.support.fake_daemon import until

LOOPBACK = {"P2PFWD_SWARM_LISTEN": "/ip4/127.0.0.1/tcp/0", "P2PFWD_NETWORK": "lan"}
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="becomes other users: root alone can")


class Session:
    """Commands of one user, whose HOME is `home`, in sessions that have this or that runtime directory."""

    def __init__(self, home: Path, uid: int | None = None) -> None:
        self.home = home
        self._as = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"] if uid else []

    def environment(self, runtime: Path | None = None, **more: str) -> dict[str, str]:
        """Of a login with a runtime directory; None: of cron, of ssh without one."""
        base = {"PATH": os.environ["PATH"], "HOME": str(self.home), "LC_ALL": "C.UTF-8", **LOOPBACK}
        return {**base, **({"XDG_RUNTIME_DIR": str(runtime)} if runtime else {}), **more}

    def run(self, *args: str, runtime: Path | None = None, **more: str) -> Completed:
        """One command, to its end."""
        return subprocess.run(
            [*self._as, PROGRAM, *args],
            env=self.environment(runtime, **more),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=CLI_S,
            check=False,
        )

    @property
    def lock_file(self) -> Path:
        """The daemon's."""
        return self.home / ".local/share/p2pfwd/daemon.lock"

    def end(self) -> None:
        """Stop whatever daemon holds the home."""
        found = holder(self.lock_file)
        if found is not None and found.pid is not None:
            self.run("shutdown")
            with suppress(ChildProcessError):
                os.waitpid(found.pid, 0)


@pytest.fixture
def session(home: Path) -> Iterator[Session]:
    found = Session(home)
    yield found
    found.end()


def runtime_directory(home: Path) -> Path:
    path = home / "run"
    path.mkdir(mode=0o700)
    return path


@pytest.mark.parametrize("change", ["login", "logout", "another session", "state directory elsewhere"])
def test_a_daemon_is_found_from_every_session(session: Session, change: str) -> None:
    """Started by cron and looked for after a login; started over ssh and looked for after the logout."""
    runtime = runtime_directory(session.home)
    first, second = (None, runtime) if change == "login" else (runtime, None)
    more: Mapping[str, str] = {}
    started = session.run("listen", "/x/web", "1", runtime=first)
    assert started.returncode == 0, started.stderr
    if change == "logout":
        shutil.rmtree(runtime)
    elif change == "another session":
        second = session.home / "run2"
        second.mkdir(mode=0o700)
    elif change == "state directory elsewhere":
        more = {"XDG_STATE_HOME": str(session.home / "state2")}
    listed = session.run("ls", runtime=second, **more)
    assert (listed.returncode, "/x/web" in listed.stdout) == (0, True)
    again = session.run("listen", "/x/b", "1", runtime=second, **more)
    assert (again.returncode, again.stderr.count("Started")) == (0, 0)
    assert session.run("shutdown", runtime=second, **more).returncode == 0
    assert session.run("ls", runtime=second, **more).returncode == 3


def test_a_daemon_whose_socket_was_removed_is_reached_again_soon(session: Session) -> None:
    assert session.run("listen", "/x/web", "1").returncode == 0
    found = holder(session.lock_file)
    assert found is not None and found.socket is not None
    shutil.rmtree(found.socket.parent)
    lost = session.run("ls")
    assert lost.returncode in (0, 3)
    if lost.returncode:
        assert f"process {found.pid} holds the home" in lost.stderr
    assert session.run("listen", "/x/b", "1").returncode == 0  # waits for it, where it has to
    assert session.run("ls").stdout.count("/x/") == 2


def test_a_home_that_is_held_without_an_answer_is_no_success(session: Session) -> None:
    """As by a daemon on another machine that shares this home, or one that hangs."""
    paths = Paths.resolve(str(session.home), {})
    lock = HomeLock.take(paths.lock_file, paths.start_lock_file, paths.socket)
    lock.ready()
    try:
        tried = session.run("--home", str(session.home), "listen", "/x/web", "1")
        asked = session.run("--home", str(session.home), "ls")
    finally:
        lock.close()
    for done in (tried, asked):
        assert (done.returncode, done.stdout) == (3, "")
        assert done.stderr.startswith(f"Error: process {os.getpid()} holds the home {session.home}, and no")
        assert "\nhint: " in done.stderr
        assert "Started" not in done.stderr


def test_where_no_daemon_runs_it_is_said_where_was_looked(session: Session) -> None:
    done = session.run("ls")
    share, state = session.home / ".local/share/p2pfwd", session.home / ".local/state/p2pfwd"
    assert done.stderr.startswith(
        f"Error: no daemon is running (home {share}, control socket {state}/rpc.sock)\nhint: "
    )


def test_another_homes_daemon_at_ones_own_path_is_not_taken_for_ones_own(session: Session) -> None:
    """Two homes can share a state directory, and with it the path of the socket."""
    assert session.run("listen", "/x/web", "1").returncode == 0
    done = session.run("ls", XDG_DATA_HOME=str(session.home / "other"))
    assert done.returncode == 3
    refused = session.run("listen", "/x/web", "1", XDG_DATA_HOME=str(session.home / "other"))
    assert refused.returncode == 1
    assert "a daemon with another home answers there\nhint: set XDG_STATE_HOME" in refused.stderr


@pytest.mark.parametrize("full", [True, False])
def test_a_silent_daemon_is_told_with_what_ails_it(home: Path, full: bool) -> None:
    """Out of descriptors, and merely stopped: a process that holds the home and never accepts."""
    script = (
        "import resource, socket, sys, pathlib, os\n"
        "from p2pfwd.state.home_lock import HomeLock\n"
        "home = pathlib.Path(sys.argv[1])\n"
        "lock = HomeLock.take(home / 'daemon.lock', home / 'start.lock', home / 'rpc.sock')\n"
        "sock = socket.socket(socket.AF_UNIX); sock.bind(str(home / 'rpc.sock')); sock.listen()\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))\n"
        "kept = []\n"
        "try:\n"
        "    while sys.argv[2] == 'True': kept.append(os.dup(0))\n"
        "except OSError: pass\n"
        "print('ready', flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(home), str(full)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(P2PForwardError, match="did not answer in time") as caught:
            reach(Paths.resolve(str(home), {}), 0.2)
        assert process.stdin is not None
        process.stdin.close()
    hint = str(caught.value.hint)
    assert ("64 of at most 64 files and connections open, a limit of this machine" in hint) == full
    assert ("its log may say why" in hint) != full


def test_a_lock_without_a_socket_is_an_import_under_way(home: Path) -> None:
    paths = Paths.resolve(str(home), {})
    lock = HomeLock.take(paths.lock_file, paths.start_lock_file)
    with pytest.raises(DaemonNotRunning, match="holds the home"):
        reach(paths, 1)
    lock.close()


def test_no_key_is_imported_beside_a_daemon_that_is_starting(home: Path, run: Run) -> None:
    """It has read the old key already; it does not answer yet."""
    from p2pfwd.state import identity_file

    text = identity_file.encode(identity_file.load_or_create(home / "other" / "k")[0])
    (home / "given").write_text(text)
    paths = Paths.resolve(str(home), {})
    lock = HomeLock.take(paths.lock_file, paths.start_lock_file, paths.socket)
    (paths.start_lock_file).unlink()  # past its first steps
    try:
        refused = run("key", "import", str(home / "given"))
    finally:
        lock.close()
    assert (refused.status, refused.out) == (1, "")
    assert refused.err.startswith(f"Error: a daemon is running here (process {os.getpid()})")
    assert run("key", "import", str(home / "given")).status == 0


@pytest.mark.skipif(not Path("/proc/locks").exists(), reason="it tells who waits for a lock")
@pytest.mark.parametrize("comes_up", [True, False])
def test_an_import_waits_for_a_daemon_that_is_in_its_first_steps(home: Path, comes_up: bool) -> None:
    """It has no socket to be asked at, and may have read the old key: what becomes of it is waited for."""
    from p2pfwd.state import identity_file

    key = home / "identity.key"
    before = identity_file.encode(identity_file.load_or_create(key)[0])
    given = identity_file.encode(identity_file.load_or_create(home / "other" / "k")[0])
    (home / "given").write_text(given)

    def now() -> str:
        return identity_file.encode(identity_file.load(key))

    paths = Paths.resolve(str(home), {})
    starting = HomeLock.take(paths.lock_file, paths.start_lock_file, paths.socket)
    with subprocess.Popen(
        [PROGRAM, "key", "import", "--force", str(home / "given")],
        env=environment(home),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as importing:
        try:
            assert until(lambda: importing.poll() is not None or waits_for_a_lock(importing.pid), 20)
            assert importing.poll() is None and now() == before
            if comes_up:
                starting.ready()
            else:
                starting.close()
            out, err = importing.communicate(timeout=CLI_S)
        finally:
            starting.close()
    if comes_up:
        assert (importing.returncode, out) == (1, "") and "a daemon is running here" in err
        assert now() == before
    else:
        assert (importing.returncode, err) == (0, "")
        assert now() == given


def waits_for_a_lock(pid: int) -> bool:
    """Whether the system has this process wait for a file's lock."""
    lines = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    return any(words[1] == "->" and words[5] == str(pid) for words in map(str.split, lines))


# --- other users ----------------------------------------------------------------------------------

ANN = 54321


@contextmanager
def anns_home(home: Path) -> Iterator[Session]:
    """A home of another user; the directories above it are open to her."""
    home.chmod(0o755)
    (home / "ann").mkdir(mode=0o700)
    os.chown(home / "ann", ANN, ANN)
    session = Session(home / "ann", ANN)
    try:
        yield session
    finally:
        session.end()


def reachable_program() -> bool:
    """Whether another user can run this checkout at all."""
    done = subprocess.run(
        ["setpriv", f"--reuid={ANN}", f"--regid={ANN}", "--clear-groups", PROGRAM, "--version"],
        capture_output=True,
        check=False,
    )
    return done.returncode == 0


@needs_root
def test_roots_leftovers_are_told_with_their_cure(home: Path) -> None:
    """A run as root with the user's HOME, before there were any directories (an older release made them)."""
    if not reachable_program():
        pytest.skip("this checkout cannot be read by other users")
    with anns_home(home) as ann:
        share = ann.home / ".local/share/p2pfwd"
        for directory in (ann.home / ".local", ann.home / ".local/share"):
            directory.mkdir()
            os.chown(directory, ANN, ANN)
        share.mkdir(mode=0o700)
        (share / "daemon.lock").touch(0o600)
        for arguments in (("ls",), ("listen", "/x/a", "1"), ("key", "export")):
            done = ann.run(*arguments)
            assert (done.returncode, done.stdout) == (1, "")
            assert f"{share} belongs to root (uid 0)" in done.stderr or "it belongs to root" in done.stderr
            assert f"sudo chown -R {ANN} {share}" in done.stderr
        os.chown(share, ANN, ANN)  # the directory given back, the file forgotten
        done = ann.run("ls")
        assert f"sudo chown -R {ANN} {share}/daemon.lock" in done.stderr


@needs_root
def test_root_makes_nothing_in_a_users_home(home: Path) -> None:
    with anns_home(home) as ann:
        done = Session(ann.home).run("listen", "/x/a", "1")
        assert (done.returncode, done.stdout) == (1, "")
        assert f"{ann.home} belongs to uid {ANN}\nhint: run it as that user, without sudo" in done.stderr
        assert os.listdir(ann.home) == []


@needs_root
def test_a_user_that_the_system_does_not_know_is_told_what_to_set(home: Path) -> None:
    if not reachable_program():
        pytest.skip("this checkout cannot be read by other users")
    done = subprocess.run(
        ["setpriv", f"--reuid={ANN}", f"--regid={ANN}", "--clear-groups", PROGRAM, "ls"],
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"Error: home directory: HOME is not set, and the system knows no user with the uid {ANN}\n"
        "hint: set P2PFWD_HOME (or --home) to a directory of your own, or set HOME\n"
    )


def test_a_read_only_home_is_one_clear_error(home: Path) -> None:
    """Under root a mode does not bind, so the file system itself says no where that can be had."""
    done = subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False)
    if done.returncode != 0:
        pytest.skip("mount namespaces are not to be had here")
    (home / "p2pfwd").mkdir(mode=0o700)
    script = f'mount -t tmpfs -o ro,mode=700 none "{home}/p2pfwd" && exec {PROGRAM} listen /x/a 1'
    env = {"PATH": os.environ["PATH"], "HOME": str(home), "P2PFWD_HOME": str(home / "p2pfwd"), **LOOPBACK}
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script], env=env, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"Error: home directory {home}/p2pfwd: Read-only file system\nhint: ")


def test_a_full_home_is_one_clear_error(home: Path) -> None:
    done = subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False)
    if done.returncode != 0:
        pytest.skip("mount namespaces are not to be had here")
    (home / "p2pfwd").mkdir(mode=0o700)
    script = (
        f'mount -t tmpfs -o size=16k,mode=700 none "{home}/p2pfwd"'
        f' && (cat /dev/zero >"{home}/p2pfwd/big" 2>/dev/null; exec {PROGRAM} listen /x/a 1)'
    )
    env = {"PATH": os.environ["PATH"], "HOME": str(home), "P2PFWD_HOME": str(home / "p2pfwd"), **LOOPBACK}
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script], env=env, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "No space left on device\nhint: free some space" in done.stderr


