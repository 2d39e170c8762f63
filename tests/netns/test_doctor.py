"""`doctor` in a network of one's own: an address on a card proves nothing; a peer that dialed does."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.netns.two_machines import TwoMachines, Unavailable
from tests.support.daemon import Daemon, run_cli

pytestmark = [pytest.mark.netns, pytest.mark.timeout(120)]


@pytest.mark.parametrize("network", ["lan", "private"])
def test_alone_nothing_is_known_and_once_dialed_a_peer_gets_a_tunnel(home: Path, network: str) -> None:
    env = {"P2PFWD_DISCOVERY_MDNS": "off", "P2PFWD_NETWORK": network}
    homes = home / "left", home / "right"
    if network == "private":
        pytest.importorskip("Crypto")
        assert run_cli(homes[0], "swarm", "key", "new").returncode == 0
        homes[1].mkdir(0o700)
        (homes[1] / "swarm.key").write_bytes((homes[0] / "swarm.key").read_bytes())
        (homes[1] / "swarm.key").chmod(0o600)
    try:
        wire = TwoMachines()
    except Unavailable as exc:
        pytest.skip(str(exc))
    with wire, Daemon(homes[0], swarm=(), env=env, within=wire.left.within) as left:
        alone = left.cli("doctor")
        assert alone.returncode == 1
        assert "So it is not known whether a peer of this network gets a tunnel" in alone.stdout
        assert "p2pfwd ping from another machine of it" in alone.stdout
        with Daemon(homes[1], swarm=(), env=env, within=wire.right.within) as right:
            right.ok("swarm", "connect", f"/ip4/{wire.left.address}/tcp/4011/p2p/{left.peer_id}")
            dialed = left.cli("doctor")
            assert dialed.returncode == 0, dialed.stdout
            assert "So a peer of this network gets a tunnel where it can dial this node" in dialed.stdout
            assert "1 peer is connected that dialed this node" in dialed.stdout
