"""`allow`, `deny`, `access …`, `block …`: word for word, and the README as real daemons print it."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from p2pfwd.cli.advice import suggested_port
from p2pfwd.cli.text import short_peer
from p2pfwd.cli.who import who
from p2pfwd.rpc.schema import (
    Access,
    AccessChangeResult,
    AccessLsResult,
    AccessPeer,
    AccessRequest,
    AccessRequestsResult,
    AccessRule,
    Block,
    BlockLsResult,
    BlockResult,
    LsResult,
    PeersResult,
)
from tests.cli.conftest import Run
from tests.cli.samples import LISTEN, LISTENED
from tests.support.daemon import Daemon, run_cli
from tests.support.fake_daemon import OTHER, PEER, FakeDaemon, until
from tests.support.readme import story
from tests.support.sockets import TcpServer, connect, echo, read_exactly

OnTerminal = Callable[..., str]

NAS, STRANGER = AccessPeer(OTHER, "nas"), AccessPeer(PEER, None)
LISTED = Access("listed", (NAS, STRANGER))
RULE = AccessRule("/x/web", LISTED, saved=True, listening=True)


# --- words ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("access", "words"),
    [
        (Access("any"), "any peer"),
        (Access("any", (NAS,)), "any peer"),
        (Access("any", (), (NAS,)), "any peer, but not nas"),
        (Access("named"), "peers with a name here"),
        (Access("named", (STRANGER,)), "peers with a name here and 12D3…defLcL"),
        (Access("listed"), "nobody"),
        (Access("listed", (), (NAS,)), "nobody"),
        (LISTED, "nas and 12D3…defLcL"),
        (Access("listed", (NAS,) * 6), "nas, nas, nas, nas and 2 more"),
    ],
)
def test_whom_a_listen_lets_in_in_words(access: Access, words: str) -> None:
    assert who(access) == words


# --- listen, ls -------------------------------------------------------------------------------------


def listened(access: Access) -> object:
    return replace(LISTENED, listener=replace(LISTENED.listener, access=access))


def test_listen_hands_over_whom_to_let_in_and_says_so(fake: FakeDaemon, run: Run) -> None:
    fake.answers["p2p.listen"] = listened(LISTED)
    lines = run("listen", "/x/web", "8000", "--allow", f"nas, {PEER}").out.splitlines()
    assert lines[1] == ("/x/web lets in nas and 12D3…defLcL. To let in a peer: p2pfwd allow /x/web PEER")
    assert lines[2] == "On the other machine, run:"
    assert fake.called("p2p.listen")[0]["allow"] == ["nas", PEER]
    fake.answers["p2p.listen"] = listened(Access("any", (), (NAS,)))
    assert run("listen", "/x/web", "8000").out.splitlines()[1] == "/x/web lets in any peer, but not nas."
    document = json.loads(run("listen", "/x/web", "8000", "--json").out)
    assert document["Listener"]["Access"]["Denied"] == [{"Peer": OTHER, "Name": "nas", "EndsAt": None}]


def test_listen_hands_over_who_is_told(fake: FakeDaemon, run: Run) -> None:
    fake.answers["p2p.listen"] = LISTENED
    assert run("listen", "/x/web", "8000", "--tell-denied", "nas,laptop").status == 0
    assert fake.called("p2p.listen")[0]["tell_denied"] == ["nas", "laptop"]
    wrong = run("listen", "/x/web", "8000", "--tell-denied", "nas,")
    assert (wrong.status, wrong.err.splitlines()[0]) == (2, "Error: --tell-denied has an empty place")


@pytest.mark.parametrize("allow", ["", ",", "nas,", "nas,,laptop"])
def test_an_empty_place_in_allow_is_told_before_anything_is_done(
    fake: FakeDaemon, run: Run, allow: str
) -> None:
    result = run("listen", "/x/web", "8000", "--allow", allow)
    assert (result.status, result.out) == (2, "")
    assert result.err.startswith("Error: --allow has an empty place\nhint: ")
    assert not fake.called("p2p.listen")


def test_ls_on_a_terminal_says_whom_a_listen_lets_in_that_is_not_open(
    fake: FakeDaemon, on_terminal: OnTerminal
) -> None:
    fake.answers["p2p.ls"] = LsResult((replace(LISTEN, reason=None, access=LISTED),))
    assert on_terminal("ls").splitlines()[-1] == "/x/web: lets in nas and 12D3…defLcL"
    fake.answers["p2p.ls"] = LsResult((replace(LISTEN, reason=None, access=Access("any", (NAS,))),))
    assert "lets in" not in on_terminal("ls")


# --- allow, deny ------------------------------------------------------------------------------------


def test_allow_and_deny_say_what_holds_now(fake: FakeDaemon, run: Run) -> None:
    fake.answers["access.allow"] = AccessChangeResult(RULE, 0)
    assert run("allow", "/x/web", "nas", PEER).out == "/x/web lets in nas and 12D3…defLcL.\n"
    expected = {"protocol": "/x/web", "peers": ["nas", PEER], "keep_live": False}
    assert fake.called("access.allow") == [{**expected, "expires_s": None}]
    fake.answers["access.deny"] = AccessChangeResult(
        replace(RULE, access=Access("listed", (), (NAS,)), listening=False), 2
    )
    assert run("deny", "/x/web", "nas", "--keep-live").out == (
        "/x/web lets in nobody.\nReset 2 streams.\nNo listen has this name now.\n"
    )
    assert fake.called("access.deny") == [{"protocol": "/x/web", "peers": ["nas"], "keep_live": True}]
    document = json.loads(run("deny", "/x/web", "any", "--json").out)
    assert (document["Rule"]["Access"]["LetsIn"], document["Streams"]) == ("listed", 2)


def test_to_allow_one_where_all_are_let_in_says_how_to_let_in_no_others(fake: FakeDaemon, run: Run) -> None:
    fake.answers["access.allow"] = AccessChangeResult(replace(RULE, access=Access("any", (NAS,))), 0)
    assert run("allow", "/x/web", "nas").out == (
        "/x/web lets in any peer.\nTo let in only whom you allow: p2pfwd deny /x/web any\n"
    )
    assert run("allow", "/x/web", "any").out == "/x/web lets in any peer.\n"


def test_to_allow_whom_config_toml_keeps_out_says_so(fake: FakeDaemon, run: Run) -> None:
    shut = replace(RULE, access=Access("listed", (STRANGER,), (NAS,)))
    fake.answers["access.allow"] = AccessChangeResult(shut, 0)
    cure = "hint: change it there, then p2pfwd reload\n"
    for asked in ("nas", OTHER, f"/ip4/192.0.2.1/tcp/1/p2p/{OTHER}"):
        err = run("allow", "/x/web", asked).err
        assert err == f"Warning: config.toml denies nas, and goes before\n{cure}"
    assert run("allow", "/x/web", PEER).err == ""
    err = run("allow", "/x/web", "any").err
    assert err == f"Warning: config.toml lets in only whom it or a command allows, and goes before\n{cure}"

    fake.answers["p2p.listen"] = listened(Access("listed", (STRANGER,), (NAS,)))
    err = run("listen", "/x/web", "8000", "--allow", "nas").err
    assert err == f"Warning: config.toml denies nas, and goes before\n{cure}"
    err = run("listen", "/x/web", "8000", "--allow", "any").err
    assert err == f"Warning: config.toml lets in only whom it or a command allows, and goes before\n{cure}"


# --- access -----------------------------------------------------------------------------------------


def test_access_ls(fake: FakeDaemon, run: Run, on_terminal: OnTerminal) -> None:
    open_one = AccessRule("/x/ssh", Access("any", (), (NAS,)), saved=False, listening=False)
    fake.answers["access.ls"] = AccessLsResult("any", None, (RULE, open_one))
    assert run("access", "ls", "-v").out.split("\n")[1:] == [
        f"/x/web   listed {OTHER},{PEER} -",
        f"/x/ssh   any    -{' ' * 104} {OTHER}",
        "",
    ]
    assert on_terminal("access", "ls") == (
        "PROTOCOL  LETS IN              BUT NOT  RULE     LISTEN\n"
        "/x/web    nas and 12D3…defLcL  -        yes      yes\n"
        "/x/ssh    any peer             nas      default  no\n"
        "Without a rule, a listen lets in any peer (access.default).\n"
    )
    assert json.loads(run("access", "ls", "--json").out)["Rules"][0]["Access"]["LetsIn"] == "listed"


def test_access_ls_warns_where_the_rules_are_lost(fake: FakeDaemon, run: Run) -> None:
    fake.answers["access.ls"] = AccessLsResult("none", "/home/ann/access.json.damaged", ())
    assert run("access", "ls").err == (
        "Warning: the rules are lost, what is left of them is in /home/ann/access.json.damaged; nobody "
        "is let in without a new one\n"
        "hint: mend it and move it back to access.json, or remove it; then start the daemon again\n"
    )


def test_access_rm(fake: FakeDaemon, run: Run) -> None:
    rule = replace(RULE, access=Access("any"), saved=False)
    fake.answers["access.rm"] = AccessChangeResult(rule, 1)
    assert run("access", "rm", "/x/web").out == "/x/web lets in any peer.\nReset 1 stream.\n"
    assert fake.called("access.rm") == [{"protocol": "/x/web", "keep_live": False}]
    assert json.loads(run("access", "rm", "/x/web", "--keep-live", "--json").out)["Rule"]["Saved"] is False


def test_access_requests(fake: FakeDaemon, run: Run, on_terminal: OnTerminal) -> None:
    command = f"p2pfwd allow '/x/a b' {OTHER}"
    request = AccessRequest("/x/a b", OTHER, None, 3, 3700.0, 12.0, "/ip4/192.0.2.7/tcp/4101", command)
    fake.answers["access.requests"] = AccessRequestsResult((request,))
    assert run("access", "requests").out == f"/x/a b {OTHER} 3\n"
    assert on_terminal("access", "requests") == (
        "PEER         PROTOCOL  FROM            ASKED  LAST\n"
        "12D3…wvuTHr  /x/a b    192.0.2.7:4101      3   12s\n"
        "To let them in, or with deny in place of allow to hear of them no more:\n"
        f"  {command}\n"
    )
    assert json.loads(run("access", "requests", "--json").out)["Requests"][0]["Command"] == command
    fake.answers["access.requests"] = AccessRequestsResult(())
    assert on_terminal("access", "requests") == "Nobody was denied anything since the daemon started.\n"
    assert run("access", "requests", "-v").out == "Protocol Peer Count\n"


# --- block ------------------------------------------------------------------------------------------


BLOCKS = (Block("peer", OTHER, "nas"), Block("peer", PEER, None), Block("network", "192.0.2.0/24", None))


def test_block_and_unblock(fake: FakeDaemon, run: Run) -> None:
    fake.answers["block.add"] = BlockResult(BLOCKS, 2, 1)
    assert run("block", "nas", PEER, "192.0.2.0/24").out == (
        "Blocked nas, 12D3…defLcL and 192.0.2.0/24.\nEnded 2 connections, 1 live stream.\n"
    )
    assert fake.called("block.add") == [{"whom": ["nas", PEER, "192.0.2.0/24"]}]
    for words in (("block", "--json", "nas"), ("block", "nas", "--json")):
        assert json.loads(run(*words).out)["Connections"] == 2
    fake.answers["block.rm"] = BlockLsResult(BLOCKS[:1])
    assert run("unblock", "nas").out == "Unblocked nas.\n"
    assert json.loads(run("unblock", "nas", "--json").out)["Blocked"][0]["Name"] == "nas"


def test_block_ls(fake: FakeDaemon, run: Run, on_terminal: OnTerminal) -> None:
    fake.answers["block.ls"] = BlockLsResult(BLOCKS)
    assert run("block", "ls", "-v").out == (
        f"Kind    Blocked\npeer    {OTHER}\npeer    {PEER}\nnetwork 192.0.2.0/24\n"
    )
    assert on_terminal("block", "ls", columns=100).splitlines()[1] == f"peer     {OTHER}  nas"
    assert len(json.loads(run("block", "ls", "--json").out)["Blocked"]) == 3
    fake.answers["block.ls"] = BlockLsResult(())
    assert on_terminal("block", "ls") == "Nobody is blocked.\n"
    assert not fake.called("block.add")


def test_block_without_whom_shows_its_help(fake: FakeDaemon, run: Run) -> None:
    result = run("block")
    assert (result.status, result.out) == (2, "")
    assert "Usage: p2pfwd block" in result.err


# --- completion -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("allow", "/x/w"), {"/x/web"}),
        (("allow", "/x/web", ""), {"any", OTHER}),
        (("deny", "/x/web", OTHER, "a"), {"any"}),
        (("listen", "--allow", "an"), {"any"}),
        (("access", ""), {"ls", "rm", "requests"}),
        (("access", "rm", ""), {"/x/web"}),
        (("block", "l"), {"ls"}),
        (("unblock", ""), {"nas", PEER, "192.0.2.0/24"}),
    ],
)
def test_words_are_completed(fake: FakeDaemon, run: Run, words: tuple[str, ...], expected: set[str]) -> None:
    request = AccessRequest("/x/web", OTHER, None, 1, 1.0, 1.0)
    fake.answers |= {
        "p2p.ls": LsResult((LISTEN,)),
        "access.ls": AccessLsResult("any", None, (RULE, replace(RULE, protocol="/x/b", saved=False))),
        "access.requests": AccessRequestsResult((request,)),
        "block.ls": BlockLsResult(BLOCKS),
        "swarm.peers": PeersResult(()),
    }
    found = {line.partition("\t")[0] for line in run("__complete", *words).out.splitlines()}
    assert found == expected


# --- the README, as printed ---------------------------------------------------------------------------


def masked(text: str) -> list[list[str]]:
    """Words by line; what differs from run to run is left out."""
    text = re.sub(r"\b[0-9.]+:[0-9]{4,5}\b(?=.*\b[0-9]+s$)", "ADDRESS", text, flags=re.MULTILINE)
    text = re.sub(r"\b[0-9]+s$", "AGE", text, flags=re.MULTILINE)
    return [line.split() for line in text.splitlines()]


def test_the_readme_says_what_is_printed(home: Path, on_terminal: OnTerminal) -> None:
    (home / "asker").mkdir()
    with Daemon(home) as owner, Daemon(home / "asker") as asker, TcpServer(echo) as server:
        place = owner.address.partition("/p2p/")[0]
        known = {
            "12D3KooWS8JciKc2RoVbTPHeDG2puS8DXRrK2gLAja91JmN3s51E": asker.peer_id,
            "12D3…N3s51E": short_peer(asker.peer_id),
            "12D3KooWGcQcL3RfR1bmquTwxEF25cPLg3c1EdrSUicVJm1WijhL": owner.peer_id,
            "/ip4/192.0.2.2/tcp/4011": place,
            "127.0.0.1:2222": f"127.0.0.1:{suggested_port('/x/ssh', server.address)}",
            "127.0.0.1:22,": f"127.0.0.1:{server.port},",
            "/x/ssh 22 ": f"/x/ssh {server.port} ",
        }

        def real(text: str) -> str:
            for shown, meant in known.items():
                text = text.replace(shown, meant)
            return text

        live: Any = None
        for command, printed in story("Who may connect"):
            words = shlex.split(real(command))[1:]
            if words[:2] == ["access", "requests"]:
                asker.cli("forward", "/x/ssh", "0", owner.address)
                assert until(lambda: bool(owner.json("access", "requests")["Requests"]))
            if words[0] == "deny":
                address = asker.json("ls")["Listeners"][0]["ListenAddress"]
                live = connect(int(address.rpartition("/")[2]))
                live.sendall(b"x")
                assert read_exactly(live, 1) == b"x"
            assert masked(on_terminal(*words)) == masked(real(printed)), command
        live.close()


def test_a_closed_name_is_told_to_the_other_person_as_one_that_is_not_there(home: Path) -> None:
    (home / "asker").mkdir()
    with Daemon(home) as owner, Daemon(home / "asker") as asker:
        owner.ok("listen", "/x/ssh", "9")
        owner.ok("deny", "/x/ssh", asker.peer_id)
        said = []
        for name in ("/x/ssh", "/x/none"):
            done = run_cli(home / "asker", "forward", name, "0", owner.address)
            said.append(done.stderr.replace(name, "NAME"))
        assert said[0] == said[1] and "does not serve NAME" in said[0]
        assert not owner.json("access", "requests")["Requests"], "the owner has answered that peer"
