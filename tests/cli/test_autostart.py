"""Which commands start a daemon where none runs: those that change what is there tomorrow, and no others."""

from __future__ import annotations

from pathlib import Path

import pytest

from p2pfwd.cli.env import Env
from p2pfwd.errors import DaemonNotRunning
from p2pfwd.rpc.schema import METHODS, SAVING, TAKES_AWAY
from tests.cli.conftest import Run
from tests.cli.test_man import COMMANDS, flags, sections

PEER = "12D3KooWR4PKFhaHT7S5cNqip4Tc5SX8sBge946crSC2bqCucLPg"

SAVES = {
    "p2p.listen": ("listen", "/x/a", "80"),
    "p2p.forward": ("forward", "/x/a", "80", PEER),
    "p2p.close": ("close", "-a"),
    "p2p.limit": ("limit", "/x/a", "--rate", "1M"),
    "p2p.apply": ("apply", "FILE"),
    "access.allow": ("allow", "/x/a", PEER),
    "access.deny": ("deny", "/x/a", PEER),
    "access.rm": ("access", "rm", "/x/a"),
    "block.add": ("block", PEER),
    "block.rm": ("unblock", PEER),
    "invite.new": ("invite", "/x/a"),
    "invite.revoke": ("invite", "revoke", "abc"),
    "invite.join": ("join", "INVITE"),
    "peer.add": ("peer", "add", "nas", PEER),
    "peer.rm": ("peer", "rm", "nas"),
    "relay.token.new": ("relay", "token", "new"),
    "relay.token.revoke": ("relay", "token", "revoke", "nas"),
}
"""A command line for each method of `SAVING`."""

SHOWS = [
    ("ls",),
    ("limit", "/x/a"),
    ("access", "ls"),
    ("block", "ls"),
    ("invite", "ls"),
    ("peer", "ls"),
    ("relay", "token", "ls"),
    ("export",),
    ("stream", "close", "-a"),
    ("swarm", "connect", PEER),
    ("status",),
]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, run: Run) -> list[bool]:
    """That a daemon was to be started; none is."""
    starts: list[bool] = []

    def start(_env: Env) -> None:
        starts.append(True)
        raise DaemonNotRunning("it does not start in this test")

    monkeypatch.setenv("P2PFWD_AUTOSTART", "1")
    monkeypatch.setattr(Env, "_start", start)
    return starts


def test_every_method_that_saves_has_its_command() -> None:
    assert set(SAVES) == SAVING <= set(METHODS)


@pytest.mark.parametrize("method", SAVES)
def test_what_saves_starts_a_daemon(
    home: Path,
    run: Run,
    started: list[bool],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
) -> None:
    (tmp_path / "tunnels.toml").write_text("")
    monkeypatch.setattr("p2pfwd.core.invite_token.InviteToken.parse", lambda text: text)
    words = [str(tmp_path / "tunnels.toml") if word == "FILE" else word for word in SAVES[method]]
    assert run(*words).status == 3 and bool(started) is (method not in TAKES_AWAY)
    started.clear()
    home.mkdir(exist_ok=True)
    (home / "identity.key").touch()
    assert run(*words).status == 3 and started == [True], "where a daemon has run before"
    started.clear()
    assert run(*words, "--no-start").status == 3 and not started
    monkeypatch.setenv("P2PFWD_AUTOSTART", "0")
    assert run(*words).status == 3 and not started


@pytest.mark.parametrize("words", SHOWS)
def test_what_shows_starts_none(run: Run, started: list[bool], words: tuple[str, ...]) -> None:
    assert run(*words).status == 3 and not started


def command_of(words: tuple[str, ...]) -> str:
    """The command that these words begin with."""
    return max((it for it in COMMANDS if words[: len(it.split())] == tuple(it.split())), key=len)


def test_the_option_belongs_to_what_saves_alone() -> None:
    has = {name for name in COMMANDS if "--no-start" in flags(sections("p2pfwd.1", "Ss")[name])}
    assert has == set(map(command_of, SAVES.values())), "hub, which saves too, is no use without its daemon"
