"""Shell completion: candidates from the command tree and the daemon, and a real bash that asks for them."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from p2pfwd.cli.completion import complete
from p2pfwd.cli.env import Env
from p2pfwd.cli.tree import root_command
from p2pfwd.rpc.schema import LsResult, PeersResult, StreamLsResult
from tests.cli.conftest import Run
from tests.cli.samples import CONNECTION, FORWARD, INBOUND, LISTEN, STREAM
from tests.support.daemon import PROGRAM, environment
from tests.support.fake_daemon import OTHER, PEER, FakeDaemon


@pytest.fixture
def filled(fake: FakeDaemon) -> FakeDaemon:
    """A fake daemon that has something of everything."""
    fake.answers |= {
        "p2p.ls": LsResult((LISTEN, FORWARD)),
        "p2p.stream.ls": StreamLsResult((STREAM, INBOUND)),
        "swarm.peers": PeersResult((CONNECTION,)),
    }
    return fake


OFFERED = {
    *("network", "protocol", "listen_address", "target_address", "of_peer", "of_protocol", "kind", "since"),
    *("journal_since", "path", "proxy_protocol", "check", "allow", "tell_denied"),
}
"""Options whose values are offered."""

CASES = [
    (("",), {"daemon", "listen", "forward", "close", "ls", "stream", "swarm", "completion"}),
    (("f",), {"forward"}),
    (("stream", ""), {"ls", "close"}),
    (("stream", "close", ""), {"7", "12"}),
    (("stream", "close", "1"), {"12"}),
    (("close", "-p", ""), {"/x/web", "/x/ssh"}),
    (("close", "-a", "--protocol", "/x/w"), {"/x/web"}),
    (("close", "--protocol=/x/w"), {"--protocol=/x/web"}),
    (("close", "-l", ""), {f"/p2p/{PEER}", "/ip4/127.0.0.1/tcp/2222"}),
    (("close", "-t", ""), {f"/p2p/{OTHER}", "/ip4/127.0.0.1/tcp/8000"}),
    (("close", "--l"), {"--listen-address"}),
    (("ping", ""), {OTHER}),
    (("ping", "-n", ""), set()),
    (("ping", "-n", "3", ""), {OTHER}),
    (("forward", "/x/a", "2222", ""), {OTHER, "/x/web", "/x/ssh"}),
    (("forward", "/x/a", "2222", OTHER, "1"), {OTHER}),
    (("forward", "--no-check", "/x/a", "2222", "/x/w"), {"/x/web"}),
    (("forward", "--", "/x/a", "2222", "1"), {OTHER}),
    (("listen", "/x/a", "2222", "/x/w"), {"/x/web"}),
    (("forward", "/x/a", ""), set()),
    (("swarm", "disconnect", "12"), {OTHER}),
    (("log", "level", "all", ""), {"debug", "info", "warning", "error"}),
    (("completion", ""), {"bash", "zsh", "fish"}),
    (("service", ""), {"install", "uninstall", "status", "logs"}),
    (("service", "install", "--"), {"--system", "--dry-run", "--json", "--help"}),
    (("service", "logs", "--since", ""), {"-1h", "-24h", "today", "yesterday"}),
    (("daemon", "--network", ""), {"public", "lan", "private"}),
    (("daemon", "--network=p"), {"--network=public", "--network=private"}),
    (("swarm", "key", ""), {"new", "show"}),
    (("bogus", ""), set()),
    (("bogus", "--"), set()),
    (("invite", ""), {"ls", "revoke", "/x/web", "/x/ssh"}),
    (("invite", "/x/web", ""), set()),
    (("invite", "/x/web", "--u"), {"--uses"}),
    (("invite", "--uses", "2", ""), {"/x/web", "/x/ssh"}),
    (("invite", "ls", "--"), {"--headers", "--json", "--help"}),
    (("block", OTHER, ""), {OTHER}),
    (("block", OTHER, "--"), {"--no-start", "--json", "--help"}),
    (("hub", ""), {"ls"}),
    (("hub", "--private", ""), set()),
    (("--home", "{home}", "hub", ""), {"ls"}),
    (("listen", "/x/a", "1", "--allow", ""), {"any", OTHER}),
    (("listen", "/x/a", "1", "--allow", "lap,1"), {f"lap,{OTHER}"}),
    (("listen", "/x/a", "1", "--allow=lap,1"), {f"--allow=lap,{OTHER}"}),
    (("listen", "/x/a", "1", "--tell-denied", "a,b,1"), {f"a,b,{OTHER}"}),
    (("close", "-p", "a,"), set()),
]


@pytest.mark.parametrize(("words", "expected"), CASES)
def test_candidates(
    filled: FakeDaemon, home: Path, run: Run, words: tuple[str, ...], expected: set[str]
) -> None:
    result = run("__complete", *(word.replace("{home}", str(home)) for word in words))
    assert (result.status, result.err) == (0, "")
    found = {line.partition("\t")[0] for line in result.out.splitlines()}
    assert expected <= found if words == ("",) else expected == found


def commands(command: Any, path: tuple[str, ...] = (), parent: Any = None) -> Iterator[tuple[Any, list[str]]]:
    """Every command of the tree, and the words up to where only its options are left."""
    context = command.context_class(command, info_name=command.name, parent=parent)
    arguments = [it for it in command.params if it.param_type_name == "argument"]
    yield command, [*path, *("word" for it in arguments for _ in range(1 if it.nargs == 1 else 2))]
    for name in command.list_commands(context) if hasattr(command, "commands") else ():
        yield from commands(command.get_command(context, name), (*path, name), context)


def test_each_option_of_each_command_completes_behind_its_arguments(filled: FakeDaemon, home: Path) -> None:
    """By its name, and its values, where there are any to offer."""
    root, env, valued = root_command(), Env(home=str(home)), set()
    for command, words in commands(root):
        shown = {value for value, _ in complete(root, env, [*words, "-"])}
        options = [it for it in command.params if it.param_type_name == "option"]
        assert shown == {max(it.opts, key=len) for it in options} | {"--help"}, words
        for option in options:
            if option.is_flag:
                continue
            values = complete(root, env, [*words, option.opts[0], ""])
            assert bool(values) == (option.name in OFFERED), (words, option.name)
            valued |= {option.name} if values else set()
    assert valued == OFFERED


@pytest.mark.parametrize("words", [("stream", "close", ""), ("close", "-p", ""), ("ping", "")])
def test_without_a_daemon_there_is_nothing_and_no_word(run: Run, words: tuple[str, ...]) -> None:
    result = run("__complete", *words)
    assert (result.status, result.out, result.err) == (0, "", "")


def test_the_home_on_the_line_being_typed_is_the_one_asked(
    filled: FakeDaemon, home: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("P2PFWD_HOME", str(home / "other"))
    assert "7\t" in run("__complete", "--home", str(home), "stream", "close", "").out
    assert "7\t" in run("__complete", f"--home={home}", "stream", "close", "").out
    assert run("__complete", "stream", "close", "").out == ""


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts_are_accepted_by_their_shell(run: Run, shell: str) -> None:
    script = run("completion", shell).out
    assert "__complete" in script
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not installed")
    done = subprocess.run([program, "-n", "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


BASH = b"""
eval "$(command p2pfwd completion bash)"
p2pfwd() { if [ "$1" = __complete ]; then command p2pfwd "$@"; else printf '%s <%s>\\n' ran "$*"; fi; }
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
@pytest.mark.parametrize(
    ("typed", "ran"),
    [
        ("close -p /x/we", "close -p /x/web"),
        ("  close   -p  /x/we", "close -p /x/web"),
        ("forward --path=di", "forward --path=direct"),
        ("--home={home} forward --path di", "--home={home} forward --path direct"),
        ("listen /x/a 1 --allow=lap,an", "listen /x/a 1 --allow=lap,any"),
        ("close -l /ip6/::1/tcp/2", "close -l /ip6/::1/tcp/2222"),
    ],
)
def test_a_real_bash_completes_what_is_typed(filled: FakeDaemon, home: Path, typed: str, ran: str) -> None:
    """Where it breaks words itself, too: at = and at colons."""
    there = replace(FORWARD, listen_address="/ip6/::1/tcp/2222")
    filled.answers["p2p.ls"] = LsResult((LISTEN, there))
    env = environment(home)
    env |= {"PATH": f"{Path(PROGRAM).parent}:{env['PATH']}", "TERM": "dumb"}
    ours, its = pty.openpty()
    command = ["bash", "--norc", "--noprofile", "-i"]
    with os.fdopen(ours, "r+b", buffering=0) as terminal:
        bash = subprocess.Popen(command, env=env, stdin=its, stdout=its, stderr=its, start_new_session=True)
        os.close(its)
        try:
            terminal.write(BASH + f"p2pfwd {typed}\t\n".format(home=home).encode())
            shown = b""
            while (found := re.search(rb"ran <([^>]*)>", shown)) is None:
                assert select.select([terminal], [], [], 20)[0], shown
                shown += terminal.read(4096)
        finally:
            bash.kill()
            bash.wait()
    assert found[1].decode() == ran.format(home=home)


def test_an_unknown_shell(run: Run) -> None:
    result = run("completion", "tcsh")
    assert (result.status, result.out) == (2, "")
    assert result.err.startswith("Error: Invalid value for 'SHELL': ")


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
def test_fish_completes_from_the_daemon(filled: FakeDaemon, home: Path) -> None:
    env = environment(home)
    env["PATH"] = f"{Path(PROGRAM).parent}:{env['PATH']}"
    script = "p2pfwd completion fish | source; complete -C 'p2pfwd close -p /x/'"
    done = subprocess.run(["fish", "-c", script], env=env, capture_output=True, text=True, check=True)
    assert [line.strip() for line in done.stdout.splitlines()] == ["/x/ssh", "/x/web"]
