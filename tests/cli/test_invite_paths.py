"""An invite from behind a router: over the places at a relay that it carries, or by the bare peer ID."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from p2pfwd.core.invite_token import InviteToken
from p2pfwd.core.multiaddrs import is_relayed
from tests.support.daemon import Daemon, run_cli

Carried = Callable[[InviteToken], InviteToken]


def relayed_only(token: InviteToken) -> InviteToken:
    """As where no address of the inviter's own leads there."""
    return replace(token, addrs=tuple(addr for addr in token.addrs if is_relayed(addr)))


def nothing(token: InviteToken) -> InviteToken:
    """As where every address has changed since."""
    return replace(token, addrs=())


@pytest.mark.timeout(150)
@pytest.mark.parametrize("carried", [relayed_only, nothing])
def test_join_over_what_is_left(home: Path, carried: Carried) -> None:
    """A hub, an inviter with a place there, and a joiner that knows the hub."""
    env = {"P2PFWD_NETWORK": "", "P2PFWD_AUTOSTART": "1"}
    one, other = home / "1", home / "2"
    for each in (home, one, other):
        each.mkdir(exist_ok=True)
        (each / "config.toml").write_text('[swarm]\nlisten = ["/ip4/127.0.0.1/tcp/0"]\n')
    hub = run_cli(home, "hub", "--private", "--json", env=env)
    try:
        assert hub.returncode == 0, hub.stderr
        line = json.loads(hub.stdout)["Line"]
        for each in (one, other):
            assert run_cli(each, "network", "join", line, env=env).returncode == 0
        plain = {"P2PFWD_NETWORK": ""}
        with Daemon(one, env=plain) as inviter, Daemon(other, env=plain) as joiner:
            token = invited(inviter)
            assert token.network == "private" and len(token.key_mark) == 4
            joined = joiner.cli("join", str(carried(token)), "--json", env=plain)
            assert joined.returncode == 0, joined.stderr
            assert json.loads(joined.stdout)["Peer"] == inviter.peer_id
            (shown,) = [it for it in inviter.json("invite", "ls")["Invites"] if it["State"] == "used-up"]
            assert [it["Peer"] for it in shown["TakenBy"]] == [joiner.peer_id]
    finally:
        run_cli(home, "shutdown", env=env)


def invited(inviter: Daemon) -> InviteToken:
    """An invite that carries a place at the hub, once there is one."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        token = InviteToken.parse(inviter.json("invite", "/x/ssh")["Token"])
        if any(map(is_relayed, token.addrs)):
            return token
        time.sleep(0.2)
    raise AssertionError("no place at the hub")
