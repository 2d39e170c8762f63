"""How a run ends: exit status, one sentence on stderr, and nothing on stdout when it failed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from p2pfwd import errors
from p2pfwd.rpc.schema import LsResult
from tests.cli.conftest import Run
from tests.cli.samples import FORWARD
from tests.support.daemon import PROGRAM, Program, environment, run_cli
from tests.support.fake_daemon import OTHER, FakeDaemon

LEAVE_OUT = "leave out -a, or all the others"

BEHIND = "'{}' is a command of 'p2pfwd {}', and stands behind other words"

USAGE_ERRORS = [
    (("close",), "no matching options given", "give -a, or some of -p, -l and -t"),
    (("close", "-a", "-p", "/x/a"), "can't combine --all with other matching options", LEAVE_OUT),
    (("close", "-a", "-l", "1"), "can't combine --all with other matching options", LEAVE_OUT),
    (("stream", "close"), "no id specified", "give a stream ID (see 'p2pfwd stream ls') or -a"),
    (("stream", "close", "-a", "3"), "can't combine --all with a stream ID", "leave out one of the two"),
    (("invite", "revoke"), "Missing argument 'ID'", "see 'p2pfwd invite revoke --help'"),
    (("forward", "/x/a", "2222"), "Missing argument 'PEER...'", "see 'p2pfwd forward --help'"),
    (("completion",), "Missing argument 'SHELL'. Choose from: bash, zsh, fish", ...),
    (("listn",), "No such command 'listn'. Did you mean 'listen', 'limit'?", "see 'p2pfwd --help'"),
    (("events", "--kind"), "Option '--kind' requires an argument", "see 'p2pfwd events --help'"),
    (
        ("swarm", "key", "new", "--json=x"),
        "Option '--json' does not take a value",
        "see 'p2pfwd swarm key new --help'",
    ),
    (("--home",), "Option '--home' requires an argument", "see 'p2pfwd --help'"),
    (("ls", "--bogus"), "No such option: --bogus", "see 'p2pfwd ls --help'"),
    (("invite", "/x/a", "ls"), BEHIND.format("ls", "invite"), "write: p2pfwd invite ls"),
    (("invite", "--qr", "revoke", "ab"), BEHIND.format("revoke", "invite"), "write: p2pfwd invite revoke"),
    (("invite", "/x/a", "/x/b"), "Got unexpected extra argument(s) (/x/b)", "see 'p2pfwd invite --help'"),
    (("block", "laptop", "ls"), BEHIND.format("ls", "block"), "write: p2pfwd block ls"),
    (("block", "--no-start", "ls"), BEHIND.format("ls", "block"), "write: p2pfwd block ls"),
    (("hub", "--private", "ls"), BEHIND.format("ls", "hub"), "write: p2pfwd hub ls"),
    (("ping", "-n", "0", OTHER), "Invalid value for '-n' / '--count': 0 is not in the range x>=1", ...),
]


@pytest.mark.parametrize(("arguments", "message", "hint"), USAGE_ERRORS)
def test_usage_errors_ask_nothing_of_the_daemon(
    fake: FakeDaemon, run: Run, arguments: tuple[str, ...], message: str, hint: object
) -> None:
    result = run(*arguments)
    lines = result.err.splitlines()
    assert (result.status, result.out, lines[0]) == (2, "", f"Error: {message}")
    if hint is not ...:
        assert lines[1:] == ([f"hint: {hint}"] if hint else [])
    assert fake.calls == []


@pytest.mark.parametrize("arguments", [(), ("stream",), ("swarm",), ("log",), ("key",), ("config",)])
def test_a_group_without_a_command_shows_its_help_on_stderr(run: Run, arguments: tuple[str, ...]) -> None:
    result = run(*arguments)
    assert (result.status, result.out) == (2, "")
    assert result.err.startswith(f"Usage: {' '.join(['p2pfwd', *arguments])} [OPTIONS] COMMAND")


@pytest.mark.parametrize(
    ("words", "usage"),
    [
        (("invite",), "[OPTIONS] [PROTOCOL] | COMMAND [ARGS]..."),
        (("invite", "revoke"), "[OPTIONS] {ID}"),
        (("block",), "[OPTIONS] [PEER|NETWORK...] | COMMAND [ARGS]..."),
        (("block", "ls"), "[OPTIONS]"),
        (("hub",), "[OPTIONS] | COMMAND [ARGS]..."),
    ],
)
def test_a_command_with_commands_shows_what_can_be_typed(
    run: Run, words: tuple[str, ...], usage: str
) -> None:
    """Its words or a command: behind its words a command is refused."""
    assert run(*words, "--help").out.splitlines()[0] == f"Usage: p2pfwd {' '.join(words)} {usage}"


NEED_A_DAEMON = [
    ("ls",),
    ("close", "-a"),
    ("stream", "ls"),
    ("stream", "close", "1"),
    ("id",),
    ("status",),
    ("ping", OTHER),
    ("swarm", "connect", f"/ip4/127.0.0.1/tcp/1/p2p/{OTHER}"),
    ("swarm", "disconnect", OTHER),
    ("swarm", "peers"),
    ("swarm", "addrs"),
    ("log", "level", "all", "info"),
    ("log", "tail"),
    ("shutdown",),
    ("listen", "/x/a", "80", "--no-start"),
    ("forward", "/x/a", "80", OTHER, "--no-start"),
]


@pytest.mark.parametrize("arguments", NEED_A_DAEMON)
def test_without_a_daemon(home: Path, run: Run, arguments: tuple[str, ...]) -> None:
    result = run(*arguments)
    assert (result.status, result.out) == (3, "")
    assert result.err == (
        f"Error: no daemon is running (home {home}, control socket {home}/rpc.sock)\n"
        "hint: start it with: p2pfwd daemon (a command that saves something starts it by itself)\n"
    )


EXITS = [
    (errors.P2PForwardError, 1),
    (errors.ListenerExists, 1),
    (errors.AddressInUse, 1),
    (errors.InvalidMultiaddr, 2),
    (errors.SelfDial, 2),
    (errors.StreamNotFound, 4),
    (errors.PeerNotFound, 4),
    (errors.ProtocolNotSupported, 5),
    (errors.PeerIdMismatch, 5),
    (errors.DialFailed, 1),
    (errors.DialTimeout, 6),
    (errors.TimedOut, 6),
]


@pytest.mark.parametrize(("error", "status"), EXITS)
def test_the_daemons_errors_have_their_exit_status(
    fake: FakeDaemon, run: Run, error: type[errors.P2PForwardError], status: int
) -> None:
    fake.answers["p2p.listen"] = error("layer: what went wrong", hint="the cure")
    result = run("listen", "/x/a", "80")
    assert result.status == status
    assert (result.out, result.err) == ("", "Error: layer: what went wrong\nhint: the cure\n")


@pytest.mark.parametrize("limit", ["nan", "inf", "-inf", "-5", "0", "1e300", "601"])
@pytest.mark.parametrize(
    "arguments", [("dht", "findpeer", OTHER), ("dht", "query", OTHER), ("swarm", "discover")]
)
def test_what_is_no_time_limit_is_refused_before_anything_waits(
    fake: FakeDaemon, run: Run, limit: str, arguments: tuple[str, ...]
) -> None:
    result = run(*arguments, f"--timeout={limit}")
    assert (result.status, result.out, fake.calls) == (2, "", [])
    assert result.err.startswith("Error: a time limit of ")
    most = 60 if arguments[0] == "swarm" else 600
    assert f" and at most {most} s" in result.err


def test_with_json_an_error_is_one_object_on_stderr(fake: FakeDaemon, run: Run) -> None:
    fake.answers["p2p.listen"] = errors.InvalidProtocol("protocol name must be within '/x/' namespace")
    result = run("listen", "/its/not/a/x/path", "80", "--json")
    assert (result.status, result.out) == (2, "")
    assert json.loads(result.err) == {
        "Code": "invalid-protocol",
        "Message": "protocol name must be within '/x/' namespace",
        "Hint": None,
    }
    usage = json.loads(run("ls", "--json", "--bogus").err)
    assert (usage["Code"], usage["Message"]) == ("usage", "No such option: --bogus")


def test_an_unknown_code_from_a_newer_daemon_is_a_plain_failure(fake: FakeDaemon, run: Run) -> None:
    class FromTheFuture(errors.P2PForwardError):
        code = "from-the-future"

    fake.answers["p2p.ls"] = FromTheFuture("something new")
    assert (run("ls").status, run("ls").err) == (1, "Error: something new\n")


def test_rpc_version_mismatch(home: Path, run: Run) -> None:
    with FakeDaemon(home / "rpc.sock", rpc=2):
        result = run("ls")
    assert (result.status, result.out) == (1, "")
    assert result.err.startswith("Error: control socket: the daemon speaks RPC 2, this command 1\nhint: ")


def test_a_daemon_that_dies_during_a_call(fake: FakeDaemon, home: Path) -> None:
    fake.answers["p2p.ls"] = None
    with Program(home, ["ls"]) as program:
        fake.wait_for_call("p2p.ls")
        fake.hang_up()
        assert (program.wait(), program.stdout) == (1, "")
        assert program.stderr == "Error: control socket: the daemon ended the connection\n"


def test_arguments_that_are_not_utf8(home: Path) -> None:
    result = subprocess.run(
        [PROGRAM, "listen", b"/x/\xff", "80"], env=environment(home), capture_output=True, check=False
    )
    assert (result.returncode, result.stdout) == (2, b"")
    assert result.stderr == (
        b"Error: argument 2 is not valid UTF-8: /x/\\xff\nhint: protocol names and paths are UTF-8 text\n"
    )


def test_a_home_that_is_not_utf8(home: Path) -> None:
    env = {**environment(home), "P2PFWD_HOME": os.fsdecode(b"/tmp/\xff")}
    result = subprocess.run([PROGRAM, "ls"], env=env, capture_output=True, check=False)
    assert result.returncode == 2 and result.stderr.startswith(b"Error: home directory")


def test_a_socket_path_that_is_too_long(home: Path) -> None:
    result = run_cli(home, "--home", str(home / ("long" * 40)), "ls")
    assert (result.returncode, result.stdout) == (1, "")
    assert "a Unix socket's path may have 107" in result.stderr
    assert "\nhint: set P2PFWD_HOME (or --home)" in result.stderr


def test_a_socket_this_user_may_not_use(home: Path) -> None:
    (home / "rpc.sock").mkdir()
    result = run_cli(home, "ls")
    assert result.returncode in (1, 3) and len(result.stderr.splitlines()) <= 2


def test_ctrl_c_is_quiet(fake: FakeDaemon, home: Path) -> None:
    with Program(home, ["log", "tail"]) as program:
        fake.wait_for_call("events.subscribe")
        program.process.send_signal(signal.SIGINT)
        assert (program.wait(), program.stdout, program.stderr) == (130, "", "")


def test_a_reader_that_goes_away_is_no_error(fake: FakeDaemon, home: Path) -> None:
    fake.answers["p2p.ls"] = LsResult((FORWARD,) * 5000)
    process = subprocess.Popen(
        [PROGRAM, "ls"], env=environment(home), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.read(10)
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(20) == -signal.SIGPIPE


def test_stdout_in_ascii_loses_nothing(fake: FakeDaemon, home: Path) -> None:
    fake.answers["p2p.ls"] = errors.NotFound("gone: ü")
    result = run_cli(home, "ls", env={"PYTHONIOENCODING": "ascii"})
    assert (result.returncode, result.stderr) == (4, "Error: gone: \\xfc\n")


def test_version(run: Run) -> None:
    from p2pfwd import __version__

    assert (run("--version").out, run("--version").status) == (f"p2pfwd {__version__}\n", 0)


def test_a_strangers_control_characters_do_not_reach_stderr(fake: FakeDaemon, run: Run) -> None:
    fake.answers["p2p.ls"] = errors.RemoteProtocolError("peer said \x1b[2J\u202e")
    assert run("ls").err == "Error: peer said \\x1b[2J\\u202e\n"


def test_run_as_a_module(home: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "p2pfwd.cli.app", "ls"],
        env=environment(home),
        capture_output=True,
        check=False,
    )
    assert result.returncode == 3


def test_a_full_disk_under_stdout(fake: FakeDaemon, home: Path) -> None:
    fake.answers["p2p.ls"] = LsResult((FORWARD,))
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [PROGRAM, "ls"],
            env=environment(home),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stderr) == (1, "Error: standard output: No space left on device\n")


def test_a_closed_stdout(fake: FakeDaemon, home: Path) -> None:
    fake.answers["p2p.ls"] = LsResult((FORWARD,))
    done = subprocess.run(
        ["/bin/sh", "-c", f"{PROGRAM} ls >&- 2>&-"], env=environment(home), capture_output=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


@pytest.mark.parametrize("words", ["join -", "network join -", "apply -", "key import -"])
def test_a_closed_standard_input_is_an_empty_one(home: Path, words: str) -> None:
    line = ["sh", "-c", 'exec "$0" "$@" <&-', PROGRAM, *words.split()]
    env = environment(home, {"P2PFWD_AUTOSTART": "0"})
    done = subprocess.run(line, env=env, capture_output=True, text=True, check=False)
    assert done.stderr.startswith("Error: ") and "defect" not in done.stderr
    assert (done.returncode, done.stdout) == (3 if words == "apply -" else 2, "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_standard_error_that_takes_nothing_changes_no_exit_status(home: Path) -> None:
    with open("/dev/full", "w") as full:
        to = {"stdout": subprocess.PIPE, "stderr": full}
        done = subprocess.run([PROGRAM, "ls"], env=environment(home), check=False, **to)
    assert (done.returncode, done.stdout) == (3, b"")
