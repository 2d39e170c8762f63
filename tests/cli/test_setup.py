"""`export`, `apply`, `reload`, and what config.toml declares: the command line, real daemons, the README."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from p2pfwd.rpc.schema import ApplyResult, CloseResult, ExportResult, LsResult, ReloadResult, SetupChange
from p2pfwd.rpc.setup_values import MAX_APPLIED_BYTES
from tests.cli.conftest import Run
from tests.cli.samples import FORWARDED, LISTEN, LISTENED
from tests.support.daemon import PROGRAM, READY, Daemon, environment, run_cli
from tests.support.fake_daemon import OTHER, FakeDaemon, until
from tests.support.readme import story

OnTerminal = Callable[..., str]

LAPTOP = "12D3KooWR4PKFhaHT7S5cNqip4Tc5SX8sBge946crSC2bqCucLPg"
SSH = '[[listen]]\nprotocol = "/x/ssh"\ntarget = "127.0.0.1:9"\n'
DECLARED = replace(LISTEN, saved=False, lifetime="declared", declared_in="/home/me/config.toml, line 7")
CHANGES = (
    SetupChange("removed", "listen", "/x/old", "target /ip4/127.0.0.1/tcp/1"),
    SetupChange("changed", "rule", "/x/web", f"allow {LAPTOP}"),
    SetupChange("added", "block", "192.0.2.0/24", ""),
)


# --- word for word ---------------------------------------------------------------------------------


def test_apply_prints_the_difference(run: Run, fake: FakeDaemon, tmp_path: Path) -> None:
    file = tmp_path / "tunnels.toml"
    file.write_text(SSH)
    fake.answers["p2p.apply"] = ApplyResult(CHANGES, 4, ("/x/web: it waits",), False)
    done = run("apply", str(file))
    assert done.out.splitlines() == [
        "- listen /x/old: target /ip4/127.0.0.1/tcp/1",
        "~ rule /x/web: allow 12D3…CucLPg",
        "+ block 192.0.2.0/24",
        "unchanged: 4",
    ]
    assert (done.err, done.status) == ("Warning: /x/web: it waits\n", 0)
    skipped = (SetupChange("skipped", "peer", "nas", "this node itself"),)
    fake.answers["p2p.apply"] = ApplyResult((), 4, (), False, skipped)
    assert run("apply", str(file)).out.splitlines() == ["= peer nas: this node itself", "unchanged: 4"]
    fake.answers["p2p.apply"] = ApplyResult(CHANGES, 4, (), True)
    assert run("apply", "--dry-run", str(file)).out.splitlines()[-1] == "Nothing was changed: --dry-run."
    assert json.loads(run("apply", "--dry-run", "--json", str(file)).out)["Changes"][2] == {
        "Action": "added",
        "Kind": "block",
        "Name": "192.0.2.0/24",
        "Text": "",
    }


def test_reload_prints_what_holds_and_what_takes_a_restart(run: Run, fake: FakeDaemon) -> None:
    fake.answers["daemon.reload"] = ReloadResult(CHANGES[:1], 2, ("log.level",), ("swarm.listen",), ())
    assert run("reload").out.splitlines() == [
        "- listen /x/old: target /ip4/127.0.0.1/tcp/1",
        "unchanged: 2",
        "~ log.level",
        "swarm.listen changed: it takes a restart: p2pfwd shutdown",
    ]
    assert json.loads(run("reload", "--json").out)["Restart"] == ["swarm.listen"]
    skipped = (SetupChange("skipped", "forward", "/ip4/127.0.0.1/tcp/22", "this node itself"),)
    fake.answers["daemon.reload"] = ReloadResult((), 2, (), (), (), skipped)
    assert run("reload").out.splitlines()[0] == "= forward /ip4/127.0.0.1/tcp/22: this node itself"


def test_export_prints_the_text(run: Run, fake: FakeDaemon) -> None:
    fake.answers["p2p.export"] = ExportResult("# head\n\n[[listen]]\n")
    assert run("export").out == "# head\n\n[[listen]]\n"
    assert json.loads(run("export", "--json").out) == {"Text": "# head\n\n[[listen]]\n"}


def test_ls_and_close_say_what_declares_it(run: Run, fake: FakeDaemon, on_terminal: OnTerminal) -> None:
    fake.answers["p2p.ls"] = LsResult((DECLARED,))
    assert "/x/web: declared: /home/me/config.toml, line 7" in on_terminal("ls").splitlines()
    fake.answers["p2p.close"] = CloseResult((DECLARED,))
    done = run("close", "-p", "/x/web")
    assert (done.status, done.out) == (0, "Closed 1 listen.\n")
    assert done.err.splitlines() == [
        "Warning: /x/web is closed only until the next reload or restart: /home/me/config.toml, line 7, "
        "declares it",
        "hint: to close it for good, take it out there",
    ]


def test_an_end_of_a_declared_tunnel_is_said_not_to_last(run: Run, fake: FakeDaemon) -> None:
    """As new limits of one are; nothing is said where no end is given, or it is saved."""
    listen, forward = ("listen", "/x/web", "8000"), ("forward", "/x/ssh", "2222", OTHER, "--no-check")
    of_config = {"saved": False, "lifetime": "declared", "declared_in": "/home/me/config.toml, line 7"}
    for words, method, result in ((listen, "p2p.listen", LISTENED), (forward, "p2p.forward", FORWARDED)):
        declared = replace(result, listener=replace(result.listener, **of_config), stood=True)
        fake.answers[method] = declared
        protocol = declared.listener.protocol
        assert run(*words, "--expires", "2h").err.splitlines()[-2:] == [
            f"Warning: this end of {protocol} holds only until the next reload or restart: "
            "/home/me/config.toml, line 7, declares it",
            "hint: to have it end for good, set ends_at there",
        ]
        assert "this end" not in run(*words).err
        fake.answers[method] = result
        assert "this end" not in run(*words, "--expires", "2h").err


# --- bad input -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"a" * (MAX_APPLIED_BYTES + 1), f"longer than {MAX_APPLIED_BYTES} bytes"),
        (b"# ok\n\xff\n", ", line 2: it is not UTF-8 text"),
    ],
)
def test_what_no_daemon_is_asked(run: Run, fake: FakeDaemon, tmp_path: Path, data: bytes, said: str) -> None:
    file = tmp_path / "tunnels.toml"
    file.write_bytes(data)
    done = run("apply", str(file))
    assert done.status == 2 and said in done.err


def test_a_bad_file_is_told_with_its_place_and_changes_nothing(home: Path) -> None:
    with Daemon(home) as daemon:
        text = SSH + '[[listen]]\nprotocol = "/x/web"\ntarget = "zebra"\n'
        done = run_cli(home, "apply", "-", input=text)
        assert (done.returncode, done.stdout) == (2, "")
        first, hint = done.stderr.splitlines()
        assert first.startswith("Error: stdin, [[listen]] 2 (line 4): target: ")
        assert hint.startswith("hint: write HOST:PORT")
        assert daemon.json("ls")["Listeners"] == []
        done = run_cli(home, "apply", "-", "--json", input=text)
        assert json.loads(done.stderr)["Code"] == "invalid-config"
        assert run_cli(home, "apply", "-", input=SSH).returncode == 0
        exported = daemon.ok("export")
        assert run_cli(home, "apply", "--prune", "-", input=exported).stdout == "unchanged: 1\n"
        assert daemon.ok("export") == exported


# --- signals and systemd ---------------------------------------------------------------------------


def test_sighup_reads_config_toml_again_and_systemd_is_told(home: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(home / "notify"))
        manager.settimeout(20)
        with Daemon(home, env={"NOTIFY_SOCKET": str(home / "notify")}) as daemon:
            assert manager.recv(100).startswith(b"READY=1")
            (home / "config.toml").write_text(SSH)
            daemon.signal(signal.SIGHUP)
            assert re.fullmatch(rb"RELOADING=1\nMONOTONIC_USEC=[0-9]{6,}", manager.recv(100))
            assert manager.recv(100) == b"READY=1"
            (listener,) = daemon.json("ls")["Listeners"]
            assert listener["DeclaredIn"] == f"{home}/config.toml, line 1"
            (home / "config.toml").write_text("[[listen]]\n")
            daemon.signal(signal.SIGHUP)
            assert manager.recv(100).startswith(b"RELOADING=1")
            assert manager.recv(100) == b"READY=1"
            assert until(lambda: "ERROR daemon: config.toml was not reloaded, nothing" in daemon.stderr)
            done = daemon.cli("reload")
            assert (done.returncode, done.stdout) == (2, "")
            assert "config.toml, [[listen]] 1 (line 1): protocol: it is missing" in done.stderr
            assert len(daemon.json("ls")["Listeners"]) == 1


ON_A_TERMINAL = "import os, sys; os.login_tty(0); os.execv(sys.argv[1], sys.argv[1:])"


def test_a_daemon_whose_terminal_is_closed_stops(home: Path) -> None:
    """Its SIGHUP asks for no reload."""
    master, slave = os.openpty()
    arguments = [sys.executable, "-c", ON_A_TERMINAL, PROGRAM, "daemon"]
    with subprocess.Popen(arguments, stdin=slave, env=environment(home), cwd="/") as process:
        os.close(slave)
        seen = b""
        while READY.encode() not in seen:
            seen += os.read(master, 1 << 12)
        process.send_signal(signal.SIGHUP)
        while b"config.toml was read again" not in seen:
            seen += os.read(master, 1 << 12)
        os.close(master)
        assert process.wait(20) == 0


# --- the README, as printed ------------------------------------------------------------------------


def test_the_readme_says_what_is_printed(home: Path) -> None:
    file = home / "tunnels.toml"
    commands = story("All tunnels in one file")
    assert [command.split()[0] for command, _ in commands].count("p2pfwd") == len(commands) - 1
    for command, printed in commands:
        if command == "cat tunnels.toml":
            file.write_text(printed)
    with Daemon(home) as daemon:
        for command, printed in commands[1:-1]:
            words = shlex.split(command.replace("tunnels.toml", str(file)))[1:]
            assert daemon.ok(*words) == printed, command
    (home / "state.db").unlink()
    (home / "access.json").unlink()
    (home / "peers.json").unlink()
    (home / "config.toml").write_text(file.read_text())
    with Daemon(home) as daemon:
        settings = '[log]\nlevel = "warning"\n[swarm]\nsecurity = ["tls"]\n'
        (home / "config.toml").write_text(file.read_text().replace(":8080", ":8081") + settings)
        command, printed = commands[-1]
        assert daemon.ok(*shlex.split(command)[1:]) == printed
