"""`limit`, the options of limits, `--expires` and `--proxy-protocol`: word for word, and bad input."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from p2pfwd.cli.limits import ends_text, limits_text
from p2pfwd.cli.who import who
from p2pfwd.rpc.schema import (
    Access,
    AccessChangeResult,
    AccessPeer,
    AccessRule,
    LimitResult,
    Limits,
    ListenResult,
    LsResult,
)
from tests.cli.conftest import Run
from tests.cli.samples import FORWARD, FORWARDED, LISTEN, LISTENED
from tests.support.fake_daemon import OTHER, FakeDaemon

OnTerminal = Callable[..., str]

FULL = Limits(5, 2, 1 << 20, 500_000, 600)


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (Limits(), ""),
        (Limits(max_streams=1), "at most 1 stream"),
        (Limits(rate=2_000_000), "2MB/s each way"),
        (Limits(idle_timeout_s=90), "idle for at most 1 min 30 s"),
        (Limits(idle_timeout_s=5400), "idle for at most 1 h 30 min"),
        (Limits(idle_timeout_s=90_000), "idle for at most 1 d 1 h"),
        (
            FULL,
            "at most 5 streams, at most 2 of one peer, 1MiB/s each way, 500kB/s each way for each peer, "
            "idle for at most 10 min",
        ),
    ],
)
def test_limits_in_words(limits: Limits, words: str) -> None:
    assert limits_text(limits) == words


def test_an_end_in_words() -> None:
    assert ends_text(time.time() + 4320) == "ends in 1 h 12 min"
    assert ends_text(time.time() - 5) == "ends in 0 s"
    nas = AccessPeer(OTHER, "nas", time.time() + 120)
    assert who(Access("listed", (nas,))) == "nas (ends in 2 min)"
    assert who(Access("any", (), (), time.time() + 120)) == "any peer (ends in 2 min)"


def test_listen_hands_limits_over_and_says_them(fake: FakeDaemon, run: Run) -> None:
    limited = replace(LISTENED.listener, limits=FULL, ends_at=time.time() + 7200)
    fake.answers["p2p.listen"] = replace(LISTENED, listener=limited)
    words = "--max-streams 5 --max-streams-per-peer 2 --rate 1MiB/s --rate-per-peer 500k --idle-timeout 10m"
    out = run("listen", "/x/web", "8000", *words.split(), "--expires", "2h").out
    assert "Limits of /x/web: at most 5 streams, at most 2 of one peer" in out
    assert "/x/web ends in 2 h.\n" in out
    sent = fake.called("p2p.listen")[0]
    assert (sent["max_streams"], sent["max_streams_per_peer"]) == (5, 2)
    assert (sent["rate"], sent["rate_per_peer"], sent["idle_timeout_s"]) == (1 << 20, 500_000, 600)
    assert (sent["expires_s"], sent["proxy_protocol"]) == (7200, "none")


def test_limit_shows_and_changes(fake: FakeDaemon, run: Run) -> None:
    listener = replace(LISTEN, limits=FULL, streams=3)
    fake.answers["p2p.limit"] = LimitResult(listener, 2, 0.0, 1_040_000.0)
    assert run("limit", "/x/web").out == (
        f"/x/web: {limits_text(FULL)}.\n3 streams now, at most 2 of one peer, 0B/s in and 1.0MB/s out.\n"
    )
    assert set(fake.called("p2p.limit")[0].values()) == {"/x/web", None}
    run("limit", "/x/web", "--rate", "0", "--idle-timeout", "90")
    sent = fake.called("p2p.limit")[1]
    assert (sent["rate"], sent["idle_timeout_s"], sent["max_streams"]) == (0, 90, None)
    fake.answers["p2p.limit"] = LimitResult(replace(listener, limits=Limits(), streams=0), 0, 0.0, 0.0)
    assert run("limit", "/x/web").out == "/x/web: no limits.\n0 streams now.\n"
    declared = replace(listener, lifetime="declared", declared_in="c.toml, line 6")
    fake.answers["p2p.limit"] = LimitResult(declared, 2, 0.0, 0.0)
    said = "these limits of /x/web hold only until the next reload or restart: c.toml, line 6, declares it"
    assert said in run("limit", "/x/web", "--max-streams", "7").err
    assert run("limit", "/x/web").err == ""
    fake.answers["p2p.limit"] = LimitResult(replace(listener, limits=Limits(), streams=0), 0, 0.0, 0.0)
    document = json.loads(run("limit", "/x/web", "--json").out)
    assert document["Listener"]["Limits"]["MaxStreams"] == 0 and document["BusiestPeerStreams"] == 0


def test_ls_has_limits_and_counts_down(fake: FakeDaemon, on_terminal: OnTerminal) -> None:
    web = replace(LISTEN, reason=None, limits=Limits(rate=1000), ends_at=time.time() + 4320)
    fake.answers["p2p.ls"] = LsResult((web, replace(FORWARD, ends_at=time.time() + 120)))
    lines = on_terminal("ls").splitlines()
    assert "/x/web: ends in 1 h 12 min" in lines
    assert "/x/web: 1kB/s each way" in lines
    assert "/x/ssh: ends in 2 min" in lines


def test_ends_of_forwards_and_rights(fake: FakeDaemon, run: Run) -> None:
    forward = replace(FORWARDED.listener, ends_at=time.time() + 1800)
    fake.answers["p2p.forward"] = replace(FORWARDED, listener=forward)
    out = run("forward", "/x/ssh", "2222", OTHER, "--no-check", "--expires", "30m").out
    assert "It ends in 30 min.\n" in out
    assert fake.called("p2p.forward")[0]["expires_s"] == 1800
    rule = AccessRule("/x/web", Access("listed", (AccessPeer(OTHER, None, time.time() + 1800),)), True, True)
    fake.answers["access.allow"] = AccessChangeResult(rule, 0)
    assert run("allow", "/x/web", OTHER, "--expires", "30m").out.endswith(" (ends in 30 min).\n")
    assert fake.called("access.allow")[0]["expires_s"] == 1800


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--max-streams", "many"), "'many' is no number of streams"),
        (("--max-streams", "-1"), "'-1' is no number of streams"),
        (("--rate", "fast"), '"fast" is no rate: write bytes a second, as 500k, 2M or 1MiB/s'),
        (("--rate-per-peer", "2T"), '"2T" is more than a terabyte a second'),
        (("--idle-timeout", "soon"), '"soon" is no duration: write it as 90s, 30m, 2h or 1d12h'),
        (("--expires", "2"), '"2" is no duration: write it as 90s, 30m, 2h or 1d12h'),
        (("--expires", "0s"), '"0s" is no time at all'),
        (("--proxy-protocol", "v1"), "'v1' is not one of 'none', 'v2'"),
        (("--proxy-protocol", "v2", "-r"), "--proxy-protocol and -r exclude each other"),
    ],
)
def test_bad_input_is_named_and_nothing_is_asked_of_the_daemon(
    fake: FakeDaemon, run: Run, words: tuple[str, ...], sentence: str
) -> None:
    fake.answers["p2p.listen"] = LISTENED
    outcome = run("listen", "/x/web", "8000", *words)
    assert outcome.status == 2 and sentence in outcome.err
    assert not fake.called("p2p.listen")


def test_the_document_of_a_listen_has_its_limits_and_end(fake: FakeDaemon, run: Run) -> None:
    limited: ListenResult = replace(
        LISTENED, listener=replace(LISTENED.listener, limits=FULL, ends_at=1e9, proxy_protocol="v2")
    )
    fake.answers["p2p.listen"] = limited
    listener = json.loads(run("listen", "/x/web", "8000", "--proxy-protocol", "v2", "--json").out)["Listener"]
    assert listener["Limits"]["IdleTimeoutSeconds"] == 600
    assert (listener["EndsAt"], listener["ProxyProtocol"]) == (1e9, "v2")
