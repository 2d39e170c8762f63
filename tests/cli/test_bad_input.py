"""Bad input: one clear sentence on stderr, the documented exit status, and nothing changed.

Each against real daemons, through the real command line.
"""

from __future__ import annotations

import ctypes
import json
import resource
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from p2pfwd.rpc.schema import MAX_LINE_BYTES
from p2pfwd.state.identity_file import load_or_create
from tests.support.daemon import PROGRAM, Daemon, Program, environment, run_cli
from tests.support.fake_daemon import until
from tests.support.in_process import Pair, two_daemons
from tests.support.sockets import TcpServer, echo, free_port, refusing_port

NOBODY = "12D3KooWGjMCzjmzGgxx2Lu4HUpfSxRHUAAN4hN9ckgjFnKoTtB7"
PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_NET_BIND_SERVICE = 24, 1, 2, 10

SWARM = {"P2PFWD_SWARM_LISTEN": "/ip4/127.0.0.1/tcp/0"}


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    """Two daemons that are each other's DHT; the first offers an echo service as /x/there."""
    with two_daemons() as (one, other), TcpServer(echo) as server:
        one.ok("listen", "/x/there", server.address)
        other.ok("swarm", "connect", one.address)
        assert until(lambda: other.json("dht", "stat")["Tables"][0]["Peers"] == 1)
        yield one, other


@pytest.fixture(autouse=True)
def emptied(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test that fails does not take the next ones with it."""
    yield
    if "pair" in request.fixturenames:
        request.getfixturevalue("pair")[1].ok("close", "-a")


def said(stderr: str) -> list[str]:
    """The lines without the words about a look-up under way."""
    return [line for line in stderr.splitlines() if not line.startswith("Looking up ")]


def sentence(stderr: str) -> str:
    """The one sentence of a failure, its hint checked and cut off."""
    first, *rest = said(stderr)
    assert first.startswith("Error: ") and len(rest) <= 1, stderr
    assert all(line.startswith("hint: ") for line in rest), stderr
    return first.removeprefix("Error: ")


REFUSED = [
    # malformed multiaddr, unknown protocol component
    (("listen", "/x/a", "foo"), 2, 'failed to parse multiaddr "foo": must begin with /'),
    (("listen", "/x/a", "/ip4/300.1.1.1/tcp/1"), 2, 'failed to parse multiaddr "/ip4/300.1.1.1/tcp/1"'),
    (("listen", "/x/a", "/ip4/1.2.3.4/tcp"), 2, 'failed to parse multiaddr "/ip4/1.2.3.4/tcp": unexp'),
    (("listen", "/x/a", "/foo/1/tcp/2"), 2, 'failed to parse multiaddr "/foo/1/tcp/2": unknown protocol foo'),
    (("listen", "/x/a", "/ip4/127.0.0.1/udp/4"), 2, "address does not contain tcp or unix protocol"),
    (("listen", "/x/a", "/ip4/127.0.0.1/tcp/70000"), 2, "failed to parse multiaddr"),
    (("forward", "/x/a", "/ip4/127.0.0.1/udp/4", "PEER"), 2, "cannot listen on /ip4/127.0.0.1/udp/4"),
    (("close", "-l", "foo"), 2, 'failed to parse multiaddr "foo"'),
    (("close", "-t", "/nope"), 2, 'failed to parse multiaddr "/nope"'),
    (("swarm", "connect", "/ip4/1.2.3.4/tcp/1"), 2, 'multiaddr "/ip4/1.2.3.4/tcp/1" names no peer'),
    # missing, malformed, own peer ID
    (("forward", "/x/a", "0", "/ip4/127.0.0.1/tcp/1"), 2, 'multiaddr "/ip4/127.0.0.1/tcp/1" names no peer'),
    (("forward", "/x/a", "0", "garbage"), 2, '"garbage" is no peer ID'),
    (("forward", "/x/a", "0", "/p2p/garbage"), 2, 'failed to parse multiaddr "/p2p/garbage"'),
    (("forward", "/x/a", "0", ""), 2, ""),
    (("forward", "/x/a", "0", "SELF"), 2, "SELF is this node itself"),
    (("ping", "SELF"), 2, "the peer is this node itself"),
    (("forward", "/x/a", "0", "PEER", NOBODY), 2, "the arguments name two peers"),
    # names
    (("listen", "/its/not/a/x/path", "80"), 2, "protocol name must be within '/x/' namespace"),
    (("listen", "", "80"), 2, "protocol name must be within '/x/' namespace"),
    (("listen", "/x/" + "a" * 2000, "80"), 2, ""),
    (("listen", "/x/a\nb", "80"), 2, ""),
    # how a target is waited for and watched
    (("listen", "/x/a", "80", "--wait-target", "-1"), 2, "-1 s is no time to wait for a target"),
    (("listen", "/x/a", "80", "--wait-target", "1e9"), 2, "1e+09 s is no time to wait for a target"),
    (("listen", "/x/a", "80", "--wait-target", "nan"), 2, "p2p.listen: a number that is not finite"),
    (("listen", "/x/a", "80", "--check", "ping"), 2, '"ping" is no check of a target'),
    (("listen", "/x/a", "80", "--check", "http://h/x"), 2, '"http://h/x" is no check of a target'),
    (("listen", "/x/a", "80", "--check", "http:/a b"), 2, '"http:/a b": a path like that cannot be asked'),
    # nothing of that name
    (("stream", "close", "99999"), 4, "no live stream has id 99999"),
    (("stream", "close", "abc"), 2, "stream id 'abc' is not a number"),
    (("ping", NOBODY), 4, f"{NOBODY} was not found: 1 peer was asked in "),
    (("swarm", "disconnect", NOBODY), 4, f"not connected to {NOBODY}"),
    (("log", "level", "bogus", "info"), 4, "log: no subsystem 'bogus'"),
    (("log", "level", "all", "loud"), 2, "log level 'loud'"),
    (("forward", "/x/a", "/ip4/192.0.2.1/tcp/0", "PEER"), 1, "cannot listen on /ip4/192.0.2.1/tcp/0: no "),
    (("forward", "/x/a", "/unix/" + "a" * 200, "PEER"), 1, "cannot listen on /unix/"),
    (("daemon",), 1, "a daemon is running already for this home"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "status", "message"), REFUSED)
def test_refused(pair: Pair, arguments: tuple[str, ...], status: int, message: str) -> None:
    one, other = pair
    words = [{"PEER": one.peer_id, "SELF": other.peer_id}.get(word, word) for word in arguments]
    before = other.ok("ls")
    result = run_cli(other.home, *words) if words == ["daemon"] else other.cli(*words)
    assert (result.returncode, result.stdout) == (status, "")
    assert sentence(result.stderr).startswith(message.replace("SELF", other.peer_id))
    assert other.ok("ls") == before


def test_port_in_use(pair: Pair) -> None:
    one, other = pair
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        result = other.cli("forward", "/x/there", str(port), one.address)
    assert (result.returncode, result.stdout) == (1, "")
    assert sentence(result.stderr) == (
        f"cannot listen on /ip4/127.0.0.1/tcp/{port}: the address is already in use"
    )
    assert other.ok("ls") == ""


def unprivileged() -> None:
    """In a child before exec: root loses the right to any port and any file; others lack it."""
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_NET_BIND_SERVICE):
        libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)


def test_privileged_port(home: Path) -> None:
    floor = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")
    if not floor.exists() or int(floor.read_text()) <= 79:
        pytest.skip("this system lets everybody bind every port")
    with subprocess.Popen(
        [PROGRAM, "daemon", "--swarm", "/ip4/127.0.0.1/tcp/0"],
        env=environment(home),
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=unprivileged,  # noqa: PLW1509 - this test has no threads
    ) as daemon:
        assert daemon.stdout is not None
        assert any("Daemon is ready" in line for line in daemon.stdout)
        result = run_cli(home, "forward", "/x/there", "79", NOBODY)
        daemon.terminate()
    assert (result.returncode, result.stdout) == (1, "")
    assert "cannot listen on /ip4/127.0.0.1/tcp/79" in sentence(result.stderr)
    assert "\nhint: " in result.stderr


def test_a_forward_to_what_does_not_answer_is_made_and_warned_of(pair: Pair) -> None:
    one, other = pair
    with refusing_port() as port:
        for peer, protocol, reason in (
            (one.address, "/x/nothing", "the peer is there but does not serve /x/nothing"),
            (NOBODY, "/x/there", f"{NOBODY} was not found: 1 peer was asked in "),
            (
                f"/ip4/127.0.0.1/tcp/{port}/p2p/{NOBODY}",
                "/x/there",
                f"{NOBODY} cannot be reached where it was: /ip4/127.0.0.1/tcp/{port}: Connection refused",
            ),
        ):
            result = other.cli("forward", protocol, "0", peer)
            assert result.returncode == 0
            assert said(result.stderr)[0].startswith(f"Warning: {reason}")
            state = other.json("ls")["Listeners"][0]
            assert state["State"] != "ready" and state["Reason"].startswith(reason)
            assert other.ok("close", "-a") == "Closed 1 forward.\n"


def test_a_listen_for_a_target_that_refuses_is_made_and_warned_of(pair: Pair) -> None:
    one, other = pair
    with refusing_port() as port:
        result = other.cli("listen", "/x/later", str(port))
    assert result.returncode == 0
    assert result.stderr.startswith(f"Warning: the target /ip4/127.0.0.1/tcp/{port} refused the connection")
    assert other.json("ls")["Listeners"][0]["State"] == "target-refused"
    # And whoever forwards to it learns it, too.
    told = one.cli("forward", "/x/later", "0", other.address)
    assert told.returncode == 0 and told.stderr.startswith("Warning: ")
    one.ok("close", "-p", "/x/later")
    other.ok("close", "-a")


def test_a_request_of_2_mib(pair: Pair) -> None:
    one, other = pair
    result = other.cli("listen", "/x/" + "a" * (2 * MAX_LINE_BYTES), "80")
    assert (result.returncode, result.stdout) == (2, "")
    assert len(sentence(result.stderr)) < 200
    assert one.ok("ls").startswith("/x/there ")


# --- homes ----------------------------------------------------------------------------------------


def test_a_home_that_cannot_be_made(home: Path) -> None:
    (home / "file").write_text("")
    result = run_cli(home / "file" / "below", "daemon")
    assert (result.returncode, result.stdout) == (1, "")
    assert sentence(result.stderr) == f"home directory {home / 'file' / 'below'}: Not a directory"


def run_unprivileged(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PROGRAM, *words],
        env=environment(home),
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=unprivileged,
        timeout=30,
    )


def test_a_home_that_is_not_writable(home: Path) -> None:
    home.chmod(0o500)
    result = run_unprivileged(home, "daemon")
    home.chmod(0o700)
    assert (result.returncode, result.stdout) == (1, "")
    assert sentence(result.stderr).startswith(f"home directory {home}: ")


def test_no_room_for_the_identity(home: Path) -> None:
    def no_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))

    result = subprocess.run(
        [PROGRAM, "daemon"],
        env=environment(home),
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=no_room,
        timeout=30,
    )
    assert (result.returncode, result.stdout) == (1, "")
    assert sentence(result.stderr).endswith("File too large")
    assert not (home / "identity.key").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[swarm\n", "config file {}: "),
        ("[swarm]\nlistne = []\n", "config file {}: unknown key swarm.listne"),
        ("[log]\nlevel = 7\n", "config file {}: log.level must be a string"),
        ("\udcff", "config file {}, line 1: it is not UTF-8 text"),
    ],
)
def test_a_corrupt_config(home: Path, text: str, message: str) -> None:
    path = home / "config.toml"
    path.write_bytes(text.encode(errors="surrogateescape"))
    for command in ("daemon", "config"):
        result = run_cli(home, command, *(["show"] if command == "config" else []))
        assert (result.returncode, result.stdout) == (2, "")
        assert sentence(result.stderr).startswith(message.format(path))


@pytest.mark.parametrize("content", [b"", b"rubbish!", b"AAAA", b"\xff" * 40])
def test_a_corrupt_key(home: Path, content: bytes) -> None:
    path = home / "identity.key"
    path.touch(0o600)
    path.write_bytes(content)
    result = run_cli(home, "daemon")
    assert (result.returncode, result.stdout) == (2, "")
    assert sentence(result.stderr).startswith(f"identity file {path}: ")
    assert path.read_bytes() == content


def test_a_key_that_others_can_read(home: Path) -> None:
    with Daemon(home):
        pass
    (home / "identity.key").chmod(0o644)
    result = run_cli(home, "daemon")
    assert (result.returncode, result.stdout) == (2, "")
    assert "other users can read it" in sentence(result.stderr)
    assert result.stderr.endswith(f"hint: chmod 600 {home / 'identity.key'}\n")


def test_a_socket_path_that_is_too_long(home: Path) -> None:
    deep = home / ("d" * 60) / ("e" * 60)
    for command in (("daemon",), ("ls",), ("listen", "/x/a", "80")):
        result = run_cli(deep, *command, env={"P2PFWD_AUTOSTART": "1"})
        assert (result.returncode, result.stdout) == (1, "")
        assert "a Unix socket's path may have" in sentence(result.stderr)
    assert not deep.exists()


def test_a_bad_swarm_address_of_the_daemon(home: Path) -> None:
    for address in ("foo", "/ip4/127.0.0.1/udp/1", "/unix/tmp/a"):
        result = run_cli(home, "daemon", "--swarm", address)
        assert (result.returncode, result.stdout) == (2, "")
        assert sentence(result.stderr).startswith("command line: swarm.listen must be ")


def test_autostart_tells_why_the_daemon_does_not_run(home: Path) -> None:
    (home / "config.toml").write_text("[swarm\n")
    result = run_cli(home, "listen", "/x/a", "80", env={"P2PFWD_AUTOSTART": "1", **SWARM})
    assert (result.returncode, result.stdout) == (2, "")
    assert sentence(result.stderr).startswith(f"config file {home / 'config.toml'}: ")


def test_bad_arguments_start_a_daemon_all_the_same_and_change_nothing_else(home: Path) -> None:
    # Only the daemon knows what an address is; that it runs afterwards is said.
    env = {"P2PFWD_AUTOSTART": "1", **SWARM}
    try:
        result = run_cli(home, "listen", "/x/a", "foo", env=env)
        assert (result.returncode, result.stdout) == (2, "")
        assert result.stderr.startswith("Started the p2pfwd daemon ")
        assert run_cli(home, "ls").stdout == ""
    finally:
        run_cli(home, "shutdown")


# --- files that a command names ---------------------------------------------------------------------


PATH_RIGHT = "see that its path is right; - is standard input"
READABLE = "have it made readable for you, or give what it holds on standard input, which is -"


@pytest.mark.parametrize(
    ("path", "reason", "hint"),
    [
        ("none", "No such file or directory", PATH_RIGHT),
        ("shut/below", "Not a directory", PATH_RIGHT),
        ("", "Is a directory", "name a file; - is standard input"),
        ("shut", "Permission denied", READABLE),
    ],
)
@pytest.mark.parametrize(("command", "what"), [("apply", "file to apply"), ("key import", "key file")])
def test_a_file_that_cannot_be_read(
    home: Path, command: str, what: str, path: str, reason: str, hint: str
) -> None:
    (home / "shut").touch(0o000)
    words, message = [*command.split(), str(home / path)], f"{what} {home / path}: {reason}"
    result = run_unprivileged(home, *words)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == f"Error: {message}\nhint: {hint}\n"
    told = json.loads(run_unprivileged(home, *words, "--json").stderr)
    assert told == {"Code": "storage-failed", "Message": message, "Hint": hint}


def test_a_standard_input_that_cannot_be_read(home: Path) -> None:
    with (home / "file").open("wb") as write_only:
        result = subprocess.run(
            [PROGRAM, "apply", "-"],
            env=environment(home),
            stdin=write_only,
            capture_output=True,
            text=True,
            check=False,
        )
    assert (result.returncode, sentence(result.stderr)) == (1, "file to apply stdin: Bad file descriptor")


@pytest.mark.parametrize(
    ("path", "status", "reason", "hint"),
    [
        ("none/new", 1, "No such file or directory", "make its directory first, or name another one"),
        ("file/new", 1, "Not a directory", "name a file in a directory"),
        ("shut/new", 1, "Permission denied", "name a file in a directory of yours"),
        ("file", 2, "it exists already", "give the name of a new file"),
        ("", 2, "it exists already", "give the name of a new file"),
    ],
)
def test_a_file_that_cannot_be_made(home: Path, path: str, status: int, reason: str, hint: str) -> None:
    load_or_create(home / "identity.key")
    (home / "file").touch()
    (home / "shut").mkdir(0o500)
    result = run_unprivileged(home, "key", "export", str(home / path))
    assert (result.returncode, result.stdout) == (status, "")
    assert result.stderr == f"Error: key file {home / path}: {reason}\nhint: {hint}\n"


@pytest.mark.parametrize("path", ["", ".", "/"])
def test_a_path_without_a_name_is_no_new_file(home: Path, path: str) -> None:
    load_or_create(home / "identity.key")
    result = run_cli(home, "key", "export", path)
    assert (result.returncode, result.stdout) == (2, "")
    assert sentence(result.stderr) == f"key file {path or '.'}: it exists already"


# --- interrupts -----------------------------------------------------------------------------------


def test_ctrl_c_while_a_peer_is_tried_leaves_no_forward(pair: Pair) -> None:
    _, other = pair
    port = free_port()
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, and never says a word
        address = f"/ip4/127.0.0.1/tcp/{silent.getsockname()[1]}/p2p/{NOBODY}"
        with Program(other.home, ["forward", "/x/there", str(port), address]) as program:
            program.wait_for("To stop")
            silent.settimeout(10)
            dialed, _ = silent.accept()
            program.signal(signal.SIGINT)
            assert program.wait() == 130
            dialed.close()
    assert other.ok("ls") == ""


def test_ctrl_c_while_a_daemon_is_started_leaves_none(home: Path) -> None:
    with Program(home, ["listen", "/x/a", "80"], {"P2PFWD_AUTOSTART": "1", **SWARM}) as program:
        assert until((home / "start.lock").exists)
        program.signal(signal.SIGINT)
        assert program.wait() in (130, 0)  # 0: it was done already
    if program.process.returncode == 0:
        assert run_cli(home, "shutdown").returncode == 0
    assert until(lambda: run_cli(home, "ls").returncode == 3)


def test_ctrl_c_during_a_ping(pair: Pair) -> None:
    one, other = pair
    with Program(other.home, ["ping", "-n", "1000", one.address]) as program:
        program.wait_for("ms (direct")
        program.signal(signal.SIGINT)
        assert (program.wait(), program.stderr) == (130, "")


def test_errors_as_json(pair: Pair) -> None:
    _, other = pair
    result = other.cli("forward", "/x/a", "0", "garbage", "--json")
    told = json.loads(result.stderr)
    assert (result.returncode, result.stdout, told["Code"]) == (2, "", "invalid-peer-id")
