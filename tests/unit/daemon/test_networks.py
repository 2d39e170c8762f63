"""daemon.networks: the three profiles as a table, what forces or forbids one, and the key's refusals."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

import pytest

from p2pfwd.core.swarm_key import SwarmKey
from p2pfwd.daemon import networks
from p2pfwd.daemon.networks import PUBLIC_BOOTSTRAP
from p2pfwd.daemon.settings import Settings
from p2pfwd.errors import ExitStatus, InvalidConfig, InvalidKey, NotFound
from p2pfwd.wire.kad.address_filter import Scope

TEXT = json.loads((Path(__file__).parents[2] / "vectors/pnet.json").read_text())["swarm_key"]
KEY = SwarmKey.parse(TEXT.encode())
ONE = "/dnsaddr/boot.example.org"
TWO = "/ip4/10.0.0.1/tcp/4011/p2p/12D3KooWGRUVh3xoVy6F6FQyRVFiDYpYPSrDzb2YwEGeYL8bBBZQ"

WAN, LAN = ("/ipfs/kad/1.0.0", Scope.WAN), ("/ipfs/lan/kad/1.0.0", Scope.LAN)
OURS = ("/p2pfwd/kad/1.0.0", Scope.PRIVATE)

CASES: list[tuple[dict[str, Any], list[str], list[tuple[str, Scope]]]] = [
    ({"network": "public"}, [*PUBLIC_BOOTSTRAP], [WAN, LAN]),
    ({"network": "public", "bootstrap": ()}, [], [WAN, LAN]),
    ({"network": "public", "bootstrap": (ONE, "auto", ONE)}, [ONE, *PUBLIC_BOOTSTRAP], [WAN, LAN]),
    ({"network": "public", "dht_prefix": "/office"}, [*PUBLIC_BOOTSTRAP], [
        ("/office/kad/1.0.0", Scope.WAN), ("/office/lan/kad/1.0.0", Scope.LAN),
    ]),
    ({"network": "lan"}, [], [LAN]),
    ({"network": "lan", "bootstrap": (TWO,)}, [TWO], [LAN]),
    ({"network": "private"}, [], [OURS]),
    ({"network": "private", "bootstrap": ("auto", TWO)}, [TWO], [OURS]),
    ({"network": "private", "dht_prefix": "/office"}, [], [("/office/kad/1.0.0", Scope.PRIVATE)]),
    ({"network": "private", "dht_prefix": "/ipfs"}, [], [
        ("/ipfs/kad/1.0.0", Scope.PRIVATE), ("/ipfs/lan/kad/1.0.0", Scope.PRIVATE),
    ]),
]  # fmt: skip


@pytest.mark.parametrize(("chosen", "bootstrap", "dhts"), CASES)
def test_what_follows_from_the_network(
    chosen: dict[str, Any], bootstrap: list[str], dhts: list[tuple[str, Scope]]
) -> None:
    name = chosen["network"]
    found = networks.profile(Settings(**chosen), KEY)
    assert found.name == name
    assert [str(address) for address in found.bootstrap] == bootstrap
    assert [(dht.protocol, dht.scope) for dht in found.dhts] == dhts
    assert found.mdns is (name != "private")
    assert found.local_only is (name == "lan")
    assert found.psk == (KEY.psk if name == "private" else None)
    assert found.fingerprint == (KEY.fingerprint() if name == "private" else None)


def test_the_public_network_is_the_default() -> None:
    assert networks.profile(Settings()).name == "public"


def test_the_public_bootstrap_peers_are_kubos_and_named_by_their_ids() -> None:
    assert len(PUBLIC_BOOTSTRAP) == 5
    found = networks.profile(Settings()).bootstrap
    assert all(address.peer_id() is not None for address in found)
    assert [str(address) for address in found] == [*PUBLIC_BOOTSTRAP]


def test_no_profile_shows_the_key() -> None:
    found = networks.profile(Settings(network="private"), KEY)
    assert str(KEY.psk) not in repr(found) and KEY.psk.hex() not in repr(found)


def test_a_private_network_has_a_key_or_is_none() -> None:
    with pytest.raises(InvalidConfig, match="there is no swarm key"):
        networks.profile(Settings(network="private"))


# --- with the file --------------------------------------------------------------------------------


def put_key(path: Path, mode: int = 0o600) -> Path:
    """The vector's key at `path`."""
    path.write_text(TEXT)
    path.chmod(mode)
    return path


def test_the_key_of_the_home_is_read(tmp_path: Path) -> None:
    put_key(tmp_path / "swarm.key")
    assert networks.load(tmp_path, Settings(network="private"), {}).psk == KEY.psk


def test_the_key_of_the_setting_is_read(tmp_path: Path) -> None:
    path = put_key(tmp_path / "office.key")
    for setting in ("office.key", str(path)):
        chosen = Settings(network="private", swarm_key=setting)
        assert networks.load(tmp_path, chosen, {}).psk == KEY.psk


def test_without_its_key_a_private_node_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=f"swarm key {tmp_path}/swarm.key: there is none") as caught:
        networks.load(tmp_path, Settings(network="private"), {})
    assert caught.value.hint and "p2pfwd swarm key new" in caught.value.hint
    put_key(tmp_path / "swarm.key", 0o644)
    with pytest.raises(InvalidKey, match="other users can read it"):
        networks.load(tmp_path, Settings(network="private"), {})


def test_without_its_package_a_private_node_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_key(tmp_path / "swarm.key")
    monkeypatch.setitem(sys.modules, "Crypto.Cipher", None)
    with pytest.raises(InvalidConfig, match="pycryptodome") as caught:
        networks.load(tmp_path, Settings(network="private"), {})
    assert caught.value.exit_status is ExitStatus.USAGE
    assert networks.load(tmp_path, Settings(network="lan"), {}).name == "lan", "others do without"


@pytest.mark.parametrize("network", ["public", "lan"])
def test_a_forced_private_network_refuses_the_others(tmp_path: Path, network: Any) -> None:
    put_key(tmp_path / "swarm.key")
    env = {"LIBP2P_FORCE_PNET": "1"}
    with pytest.raises(InvalidConfig, match=f"LIBP2P_FORCE_PNET is set, and the network is {network}"):
        networks.load(tmp_path, Settings(network=network), env)
    assert networks.load(tmp_path, Settings(network="private"), env).psk == KEY.psk
    assert networks.load(tmp_path, Settings(network=network), {"LIBP2P_FORCE_PNET": "0"}).psk is None


def test_a_key_that_is_there_for_nothing_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "p2pfwd.daemon"):
        networks.load(tmp_path, Settings(), {})
        assert caplog.messages == []
        path = put_key(tmp_path / "swarm.key")
        networks.load(tmp_path, Settings(network="lan"), {})
    assert caplog.messages == [f"the swarm key {path} is not used: the network is lan"]
