"""A network without stewards, with real daemons: in again by peers known before; and why nobody answers."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from p2pfwd.core.keys import PrivateKey
from p2pfwd.core.peer_id import PeerId
from p2pfwd.state import swarm_key_file
from tests.support.daemon import Daemon
from tests.support.fake_daemon import until
from tests.support.fake_dns import FakeDns

DEAD = "/ip4/127.0.0.1/tcp/9/p2p/"
"""Nobody listens there."""


def nobody() -> str:
    return str(PeerId.from_public_key(PrivateKey.generate().public_key))


def servers(daemon: Daemon) -> set[str]:
    """Who is in the tables."""
    tables = daemon.json("dht", "stat")["Tables"]
    return {peer for table in tables for bucket in table["Buckets"] for peer in bucket["Peers"]}


@pytest.mark.parametrize("network", ["lan", "private"])
def test_a_node_gets_in_again_when_its_bootstrap_peer_is_gone_for_good(home: Path, network: str) -> None:
    """Its address book knows who served the DHT; by that it finds one who came while it was away."""
    env = {"P2PFWD_NETWORK": network, "P2PFWD_DISCOVERY_MDNS": "off"}
    if network == "private":
        pytest.importorskip("Crypto")
        env["P2PFWD_PRIVATE_SWARM_KEY"] = str(home / "swarm.key")
        swarm_key_file.create(home / "swarm.key")
    with Daemon(home / "far", env=env) as far:
        with Daemon(home / "hub", env=env) as hub:
            joining = {**env, "P2PFWD_BOOTSTRAP_PEERS": hub.address}
            far.ok("swarm", "connect", hub.address)
            with Daemon(home / "near", env=joining) as near:
                assert until(lambda: {hub.peer_id, far.peer_id} <= servers(near), 30)
        with Daemon(home / "late", env=env) as late:
            late.ok("swarm", "connect", far.address)
            assert until(lambda: late.peer_id in servers(far), 20)
            with Daemon(home / "near", env=joining) as near:
                assert until(lambda: far.peer_id in servers(near), 20)
                assert "was found" not in near.ok("ping", late.peer_id)
                assert near.json("status")["Bootstrap"]["State"] == "joined"


def test_where_nobody_answers_every_way_in_and_its_cure_are_told(home: Path) -> None:
    met, env = nobody(), {"P2PFWD_DISCOVERY_MDNS": "off"}
    with FakeDns() as dns:
        dns.texts["_dnsaddr.many.example."] = [f"dnsaddr={DEAD}{nobody()}" for _ in range(3)]
        peers = ["/dnsaddr/gone.example", "/dnsaddr/many.example", DEAD + nobody(), DEAD + nobody()]
        more = {"P2PFWD_BOOTSTRAP_PEERS": ",".join(peers), "P2PFWD_SWARM_DNS_SERVERS": dns.address}
        with Daemon(home / "alone", env={**env, **more}) as alone:
            assert until(lambda: alone.json("status")["Bootstrap"]["State"] == "alone", 20)
            told = alone.json("status")["Bootstrap"]
            message = (
                "none of the 4 bootstrap peers answers (2 names, 2 addresses): "
                "1 name cannot be looked up, 3 do not answer"
            )
            assert told["Message"] == message
            assert told["Outcomes"] == {"no-name": 1, "silent": 3}
            assert (told["Peers"], told["Names"], told["Addresses"]) == (4, 2, 2)
            for command in (("dht", "findpeer"), ("ping",)):
                done = alone.cli(*command, met)
                assert done.returncode == 4 and message in done.stderr
                assert "hint: " in done.stderr and "check the name, and the name servers" in done.stderr
            shown = alone.ok("status")
            assert message in shown and "is this machine's network up" in shown
            assert until(lambda: alone.stderr.count(message) == 1, 10)
    shutil.rmtree(home / "alone")


def test_a_bare_id_that_is_forwarded_to_says_it_too(home: Path) -> None:
    env = {"P2PFWD_BOOTSTRAP_PEERS": DEAD + nobody(), "P2PFWD_DISCOVERY_MDNS": "off"}
    with Daemon(home / "alone", env=env) as alone:
        done = alone.cli("forward", "/x/web", "127.0.0.1:0", nobody())
    assert "the bootstrap peer does not answer (1 address)" in done.stdout + done.stderr
