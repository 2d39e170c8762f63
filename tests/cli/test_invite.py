"""`invite …` and `join`: word for word, where the secret is not, and the README as real daemons print it."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from p2pfwd.cli.qr import qr_code
from p2pfwd.cli.text import short_peer
from p2pfwd.core.invite_token import InviteToken
from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import InviteRefused
from p2pfwd.rpc.schema import (
    AccessPeer,
    Invite,
    InviteJoinResult,
    InviteLsResult,
    InviteNewResult,
    InviteRevokeResult,
    Notice,
)
from tests.cli.conftest import Run
from tests.cli.samples import FORWARD, REACHED
from tests.support.daemon import PROGRAM, Daemon, environment, run_cli
from tests.support.fake_daemon import OTHER, PEER, FakeDaemon
from tests.support.readme import replaced, story
from tests.support.sockets import TcpServer, connect, echo, read_exactly

OnTerminal = Callable[..., str]

WORD = str(InviteToken(PeerId.parse("12D3KooWR4KPFhaHT7S5cNqip4Tc5SX8sBge946crSC2bqCucLPg"), (), bytes(16)))
INVITE = Invite(
    id="slt4r7de", protocol="/x/ssh", made=0.0, expires=3600.0, left_s=3599.9, uses=1, name="laptop"
)
TAKEN = replace(INVITE, state="used-up", left_s=0.0, taken_by=(AccessPeer(OTHER, "laptop"),))
JOINED = InviteJoinResult(FORWARD, OTHER, "inviter", listening=True)


def made(invite: Invite = INVITE, *notices: Notice) -> InviteNewResult:
    return InviteNewResult(invite, WORD, f"p2pfwd join {WORD}", (), notices)


# --- invite -----------------------------------------------------------------------------------------


def test_invite_prints_the_word_and_says_what_to_do_with_it(fake: FakeDaemon, run: Run) -> None:
    fake.answers["invite.new"] = made(INVITE, Notice("open", "it lets in any peer", "p2pfwd deny /x/ssh any"))
    done = run("invite", "/x/ssh", "--name", "laptop")
    assert (done.status, done.out) == (0, f"{WORD}\n")
    assert done.err == (
        "On the other machine, run:\n"
        f"  p2pfwd join {WORD}\n"
        "It lets the first machine that joins within 1h00m use /x/ssh, as laptop.\n"
        "To take it back: p2pfwd invite revoke slt4r7de\n"
        "Warning: it lets in any peer\n"
        "hint: p2pfwd deny /x/ssh any\n"
    )
    assert fake.called("invite.new") == [
        {"protocol": "/x/ssh", "expires_s": 3600.0, "uses": 1, "name": "laptop"}
    ]
    fake.answers["invite.new"] = made(replace(INVITE, uses=3, expires=172_800.0, name=None))
    said = run("invite", "/x/ssh", "--uses", "3", "--expires", "2d").err
    assert "It lets the first 3 machines that join within 2d0h use /x/ssh.\n" in said
    assert fake.called("invite.new")[1]["expires_s"] == 172_800.0
    document = json.loads(run("invite", "/x/ssh", "--json").out)
    assert (document["Token"], document["Invite"]["ID"]) == (WORD, "slt4r7de")


def test_a_slip_is_told_before_anything_is_done(fake: FakeDaemon, run: Run) -> None:
    done = run("invite", "/x/ssh", "--expires", "soon")
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith('Error: "soon" is no duration: write it as 90s, 30m')
    assert run("invite").status == 2
    assert not fake.called("invite.new")


def test_invite_ls(fake: FakeDaemon, run: Run, on_terminal: OnTerminal) -> None:
    many = replace(INVITE, id="aaaaaaaa", uses=9, name=None, taken_by=(AccessPeer(OTHER, None),) * 3)
    fake.answers["invite.ls"] = InviteLsResult((TAKEN, many))
    assert run("invite", "ls", "-v").out.splitlines() == [
        "ID       Protocol State   Expires              Used TakenBy",
        f"slt4r7de /x/ssh   used-up 1970-01-01T01:00:00Z 1/1  {OTHER}",
        f"aaaaaaaa /x/ssh   open    1970-01-01T01:00:00Z 3/9  {OTHER},{OTHER},{OTHER}",
    ]
    assert on_terminal("invite", "ls") == (
        "ID        PROTOCOL  STATE      LEFT  USED  NAME    TAKEN BY\n"
        "slt4r7de  /x/ssh    used up       -   1/1  laptop  laptop\n"
        "aaaaaaaa  /x/ssh    open     59m59s   3/9  -       3 peers\n"
    )
    assert json.loads(run("invite", "ls", "--json").out)["Invites"][0]["TakenBy"][0]["Name"] == "laptop"
    fake.answers["invite.ls"] = InviteLsResult(())
    assert on_terminal("invite", "ls") == "No invites.\n"


def test_invite_revoke_says_who_stays(fake: FakeDaemon, run: Run) -> None:
    fake.answers["invite.revoke"] = InviteRevokeResult(replace(INVITE, state="revoked"))
    said = "Revoked slt4r7de: nobody can join /x/ssh with it any more.\n"
    assert run("invite", "revoke", "slt4r7de").out == said
    assert fake.called("invite.revoke") == [{"id": "slt4r7de"}]
    fake.answers["invite.revoke"] = InviteRevokeResult(replace(TAKEN, state="revoked"))
    assert run("invite", "revoke", "slt4r7de").out == said, "who has taken it was denied since"
    fake.answers["invite.revoke"] = InviteRevokeResult(replace(TAKEN, state="revoked"), TAKEN.taken_by)
    assert run("invite", "revoke", "slt4r7de").out == (
        f"{said}laptop stays allowed. To change that: p2pfwd deny /x/ssh {OTHER}\n"
    )
    assert json.loads(run("invite", "revoke", "slt4r7de", "--json").out)["Invite"]["State"] == "revoked"


def test_words_are_completed(fake: FakeDaemon, run: Run) -> None:
    fake.answers["invite.ls"] = InviteLsResult((TAKEN, replace(INVITE, id="aaaaaaaa", state="revoked")))
    found = {line.partition("\t")[0] for line in run("__complete", "invite", "revoke", "").out.splitlines()}
    assert found == {"slt4r7de"}, "what is revoked is over"
    found = {line.partition("\t")[0] for line in run("__complete", "invite", "re").out.splitlines()}
    assert found == {"revoke"}


# --- the QR code ------------------------------------------------------------------------------------


def test_a_qr_code_fits_a_terminal_and_is_what_was_printed(fake: FakeDaemon, run: Run) -> None:
    """Its modules are those of the library, two rows in a line, light ones drawn."""
    import segno

    fake.answers["invite.new"] = made()
    lines = run("invite", "/x/ssh", "--qr").out.splitlines()
    assert lines[0] == WORD and "\n".join(lines[1:]) == qr_code(WORD.upper(), colour=False)
    rows = []
    for line in lines[1:]:
        rows += [[cell in "▀█" for cell in line], [cell in "▄█" for cell in line]]
    expected = [
        [not dark for dark in row] for row in segno.make(WORD.upper(), error="l").matrix_iter(border=2)
    ]
    assert rows[: len(expected)] == expected
    assert len(lines[1]) <= 80
    assert qr_code(WORD, colour=True).splitlines()[0].startswith("\x1b[0;97;40m")


# --- join -------------------------------------------------------------------------------------------


def test_join_says_what_stands_now(fake: FakeDaemon, run: Run) -> None:
    fake.answers |= {"invite.join": JOINED, "p2p.check": REACHED}
    done = run("join", WORD, "2222", "--name", "nas", "--timeout", "5")
    lines = done.out.splitlines()
    assert lines[0] == "Joined: 12D3…wvuTHr, here named inviter, lets this machine use /x/ssh."
    assert lines[1].startswith("Forwarding 127.0.0.1:2222 -> /x/ssh at ")
    assert lines[-1].startswith("The peer answers: ") and done.err == ""
    expected = {"token": WORD, "listen": "2222", "name": "nas", "timeout_s": 5.0}
    assert fake.called("invite.join") == [expected]
    document = json.loads(run("join", WORD, "--json").out)
    assert (document["Name"], document["Listening"], document["Check"]["State"]) == ("inviter", True, "ready")
    assert "Token" not in document


def test_join_where_nothing_is_shared_yet_does_not_try_it(fake: FakeDaemon, run: Run) -> None:
    fake.answers["invite.join"] = replace(JOINED, name=None, listening=False)
    done = run("join", WORD)
    assert done.out.startswith("Joined: 12D3…wvuTHr, lets this machine use /x/ssh.\nForwarding ")
    assert done.err == (
        "Warning: the service is not shared yet there; the forward stands and tries again at each "
        "connection\n"
        "hint: they run: p2pfwd listen /x/ssh TARGET\n"
    )
    assert not fake.called("p2p.check")


@pytest.mark.parametrize("words", [("join",), ("join", "-"), ("join", "-", "2222")])
def test_the_word_is_read_from_standard_input(
    fake: FakeDaemon, run: Run, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.answers |= {"invite.join": JOINED, "p2p.check": REACHED}
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{WORD[:40]}\n{WORD[40:]}\n"))
    assert run(*words).status == 0
    assert InviteToken.parse(fake.called("invite.join")[0]["token"]) == InviteToken.parse(WORD)


def test_on_a_terminal_it_is_asked_for_and_not_shown(fake: FakeDaemon, home: Path) -> None:
    fake.answers |= {"invite.join": JOINED, "p2p.check": REACHED}
    master, slave = pty.openpty()
    with subprocess.Popen(
        [PROGRAM, "join"],
        env=environment(home),
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    ) as process:
        os.close(slave)
        shown = b""
        while b"Invite: " not in shown:
            shown += os.read(master, 1024)
        os.write(master, WORD.encode() + b"\n")
        while True:
            try:
                data = os.read(master, 4096)
            except OSError:
                break
            if not data:
                break
            shown += data
    os.close(master)
    assert process.returncode == 0, shown
    assert b"Joined: " in shown and WORD.encode() not in shown
    assert fake.called("invite.join")[0]["token"] == WORD


@pytest.mark.parametrize(
    ("word", "error"),
    [
        (WORD[:-5], f"the invite was cut: {len(WORD) - 5} of its {len(WORD)} characters are there"),
        (WORD[:30] + ("a" if WORD[30] != "a" else "b") + WORD[31:], "the invite was mistyped"),
        ("2222", "that is no invite"),
        ("/ip4/192.0.2.1/tcp/1/p2p/x#y", "that is no invite"),
        ("", "no invite is given"),
    ],
)
def test_a_slip_in_the_word_is_told_without_a_daemon(run: Run, word: str, error: str) -> None:
    done = run("join", word)
    assert (
        (done.status, done.out) == (2, "") and error in done.err and "hint: copy the whole word" in done.err
    )
    assert json.loads(run("join", word, "--json").err)["Code"] == "invalid-invite"


def test_a_refusal_has_its_own_code_and_status(fake: FakeDaemon, run: Run) -> None:
    fake.answers["invite.join"] = InviteRefused(f"{PEER} refuses: the invite has expired", hint="ask for one")
    done = run("join", WORD)
    assert (done.status, done.err) == (
        5,
        f"Error: {PEER} refuses: the invite has expired\nhint: ask for one\n",
    )


# --- real daemons -----------------------------------------------------------------------------------

KILLED_IN_BETWEEN = """
import os, signal, sys
from pathlib import Path
from p2pfwd.daemon.access import AccessControl
from p2pfwd.daemon.run import run
from p2pfwd.rpc.paths import Paths

async def let_in(*_args):
    os.kill(os.getpid(), signal.SIGKILL)

AccessControl.let_in = let_in
run(Paths.resolve(None, os.environ), {}, os.environ)
"""


def test_killed_between_the_use_and_the_right_it_lets_in_nobody_else(home: Path) -> None:
    """kill -9 of the inviter at the worst moment: the invite is its first peer's, and only that one's."""
    first, second = home / "1", home / "2"
    with Daemon(home) as owner:
        port = owner.address.split("/")[4]
        owner.ok("deny", "/x/ssh", "any")
        word = owner.json("invite", "/x/ssh")["Token"]
    where = {
        "P2PFWD_SWARM_LISTEN": f"/ip4/127.0.0.1/tcp/{port}",
        "P2PFWD_REACH_PORT_MAPPING": "off",
    }
    with (home / "killed.txt").open("wb") as output:
        killed = subprocess.Popen(
            [sys.executable, "-c", KILLED_IN_BETWEEN], env=environment(home, where), stdout=output
        )
    try:
        deadline = time.monotonic() + 20
        while run_cli(home, "id").returncode != 0:
            assert time.monotonic() < deadline
        with Daemon(first) as joiner, Daemon(second) as other:
            failed = joiner.cli("join", word)
            assert failed.returncode == 5 and "may be used up" in failed.stderr, failed.stderr
            assert killed.wait(10) == -9
            assert joiner.json("ls")["Listeners"] == [] == joiner.json("peer", "ls")["Peers"]
            with Daemon(home, swarm=(f"/ip4/127.0.0.1/tcp/{port}",)) as owner:
                rule = next(it for it in owner.json("access", "ls")["Rules"] if it["Protocol"] == "/x/ssh")
                assert rule["Access"]["Allowed"] == [], "the right was not given"
                late = other.cli("join", word)
                assert late.returncode == 5 and "used up" in late.stderr, late.stderr
                joiner.ok("join", word)
                rule = next(it for it in owner.json("access", "ls")["Rules"] if it["Protocol"] == "/x/ssh")
                assert [it["Peer"] for it in rule["Access"]["Allowed"]] == [joiner.peer_id]
    finally:
        if killed.poll() is None:
            killed.kill()
            killed.wait()


def test_the_secret_is_in_no_file_and_no_log(home: Path) -> None:
    """Both daemons at debug, through a join that works, one that comes late, and one with a slip."""
    debug = {"P2PFWD_LOG_LEVEL": "debug"}
    homes = [home, home / "1", home / "2"]
    with (
        Daemon(home, env=debug) as owner,
        Daemon(homes[1], env=debug) as joiner,
        Daemon(homes[2], env=debug) as other,
    ):
        made = owner.json("invite", "/x/ssh")
        word = made["Token"]
        secret = InviteToken.parse(word).secret
        joiner.ok("join", word)
        assert other.cli("join", word).returncode == 5
        assert other.cli("join", word[:-1]).returncode == 2
        for daemon in (owner, joiner, other):
            words = Path(f"/proc/{daemon.process.pid}/cmdline").read_bytes()
            words += Path(f"/proc/{daemon.process.pid}/environ").read_bytes()
            assert word.encode() not in words
        said = [owner.stderr, joiner.stderr, other.stderr]
    seen = "".join(said).encode()
    for one in homes:
        seen += b"".join(path.read_bytes() for path in one.rglob("*") if path.is_file())
    assert made["Invite"]["ID"].encode() in seen, "the search finds what is there"
    import base64

    forms = [secret, secret.hex().encode(), base64.b64encode(secret)[:20], word.encode(), word[:60].encode()]
    letters = base64.b32encode(secret)[:24]
    assert not any(form in seen for form in [*forms, letters, letters.lower()])


def test_the_printed_line_runs_as_printed(home: Path) -> None:
    with Daemon(home) as owner, Daemon(home / "1") as joiner, TcpServer(echo) as server:
        owner.ok("listen", "/x/echo", server.address)
        line = owner.cli("invite", "/x/echo").stderr.splitlines()[1].strip()
        env = environment(joiner.home)
        env["PATH"] = f"{Path(PROGRAM).parent}{os.pathsep}{env['PATH']}"
        done = subprocess.run(
            line, shell=True, env=env, capture_output=True, text=True, check=True, timeout=30
        )
        port = int(re.findall(r"Forwarding 127\.0\.0\.1:(\d+)", done.stdout)[0])
        with connect(port) as local:
            local.sendall(b"x")
            assert read_exactly(local, 1) == b"x"


# --- the README, as printed ---------------------------------------------------------------------------


def masked(text: str) -> list[list[str]]:
    """Words by line; what differs from run to run, and the warning of a loopback-only node, left out."""
    text = re.sub(r"^Warning: this node has no address .*\nhint: .*\n", "", text, flags=re.MULTILINE)
    text = re.sub(r"\binvite[a-z2-7]{15,}…?", "WORD", text)
    text = re.sub(r"round trip [0-9.]+ms", "round trip", text)
    return [line.split() for line in text.splitlines()]


def test_the_readme_says_what_is_printed(home: Path, on_terminal: OnTerminal) -> None:
    with Daemon(home) as owner, Daemon(home / "1") as joiner, TcpServer(echo) as server:
        with TcpServer(echo) as unused:
            port = unused.port
        known = {
            "12D3KooWR4KPFhaHT7S5cNqip4Tc5SX8sBge946crSC2bqCucLPg": joiner.peer_id,
            "12D3KooWGcQcL3RfR1bmquTwxEF25cPLg3c1EdrSUicVJm1WijhL": owner.peer_id,
            "12D3…1WijhL": short_peer(owner.peer_id),
            "/ip4/192.0.2.2/tcp/4011": owner.address.partition("/p2p/")[0],
            "127.0.0.1:22,": f"127.0.0.1:{server.port},",
            "/x/ssh 22\n": f"/x/ssh {server.port}\n",
        }
        word = ""
        for typed, shown in story("Invite somebody"):
            words = shlex.split(replaced(f"{typed}\n", known))[1:]
            if words[0] == "join":
                words = ["--home", str(joiner.home), "join", word, str(port)]
                known["2222"] = str(port)
            seen = on_terminal(*words)
            if words[0] == "listen":
                suggested = re.findall(r"forward /x/ssh 127\.0\.0\.1:(\d+)", seen)[0]
                assert masked(seen) == masked(replaced(shown, {**known, "2222": suggested}))
                continue
            if words[:2] == ["invite", "/x/ssh"]:
                word = seen.splitlines()[0]
                known["slt4r7de"] = owner.json("invite", "ls")["Invites"][0]["ID"]
            assert masked(seen) == masked(replaced(shown, known)), typed
