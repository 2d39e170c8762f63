"""daemon.config: the table is the only source of keys, and every mistake names key, line and cure."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from p2pfwd.daemon import config
from p2pfwd.errors import ExitStatus, InvalidConfig
from p2pfwd.forwarding.values import ForwardingLimits
from p2pfwd.net.settings import SwarmSettings

PEER = "12D3KooWGRUVh3xoVy6F6FQyRVFiDYpYPSrDzb2YwEGeYL8bBBZQ"


def load(
    tmp_path: Path, text: str | bytes, env: dict[str, str] | None = None, **overrides: Any
) -> config.Config:
    path = tmp_path / "config.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return config.load(path, env or {}, {k.replace("__", "."): v for k, v in overrides.items()})


def test_without_a_file_the_defaults_hold(tmp_path: Path) -> None:
    found = config.load(tmp_path / "none.toml", {})
    assert found.settings == config.Settings()
    assert {entry.origin for entry in found.entries()} == {"default"}


def test_every_key_is_documented_and_its_default_passes_its_own_check() -> None:
    for entry in config.load(Path("/nonexistent"), {}).entries():
        assert entry.doc.endswith(".")
        assert config._checked("here", entry.key, entry.default) == entry.default
        assert type(entry.default) in (tuple, float, int, str)


def test_the_default_port_is_not_kubos_and_both_families_are_served() -> None:
    listen = config.Settings().listen
    assert listen == ("/ip4/0.0.0.0/tcp/4011", "/ip6/::/tcp/4011")


def test_the_nearest_origin_wins_and_is_told(tmp_path: Path) -> None:
    text = '[log]\nlevel = "error"\n[swarm]\ndial_timeout_s = 3\nsecurity = ["tls"]\n'
    env = {"P2PFWD_SWARM_DIAL_TIMEOUT_S": "4", "P2PFWD_SWARM_SECURITY": "tls, noise", "P2PFWD_HOME": "/x"}
    found = load(tmp_path, text, env, swarm__security=["noise"])
    assert found.settings.log_level == "error"
    assert found.settings.dial_timeout_s == 4.0
    assert found.settings.security == ("noise",)
    told = {entry.key: entry.origin for entry in found.entries() if entry.origin != "default"}
    assert told == {
        "log.level": "config.toml",
        "swarm.dial_timeout_s": "environment",
        "swarm.security": "command line",
    }


@pytest.mark.parametrize(
    ("text", "said", "hint"),
    [
        ("[swarm]\n\nlisen = []\n", "line 3: unknown key swarm.lisen", "did you mean swarm.listen?"),
        ("[swarms]\nlisten = []\n", "line 1: unknown key swarms", "did you mean swarm?"),
        ("level = 'info'\n", "line 1: unknown key level", "did you mean log.level?"),
        ("zebra = 1\n", "line 1: unknown key zebra", "config show"),
        ("swarm = 1\n", "line 1: swarm must be a table", None),
        ("[limits]\nstreams = '5'\n", "line 2: limits.streams must be a whole number", "in all"),
        ("[limits]\nstreams = true\n", "line 2: limits.streams must be a whole number", "in all"),
        ("[limits]\nstreams = 0\n", "limits.streams must be 1 or more", "in all"),
        ("[swarm]\ndial_timeout_s = nan\n", "must be a number", None),
        ("[swarm]\ndial_timeout_s = inf\n", "must be a number", None),
        ("swarm.security = ['ssl']\n", "line 1: swarm.security must be some of noise, tls", None),
        ("[swarm]\nsecurity = ['tls', 'tls']\n", "each once", None),
        ("[swarm]\nlisten = []\n", "at least one address", None),
        ("[swarm]\ndns_servers = ['not-an-ip']\n", "line 2: swarm.dns_servers must be addresses", "IP:PORT"),
        ("[swarm]\ndns_servers = ['1.1.1.1', 'ns.example:53']\n", '"ns.example:53" is no IP address', None),
        ("[swarm]\ndns_servers = ['1.1.1.1:0']\n", "has no port from 1 to 65535", None),
        ("[swarm]\ndns_servers = ['[::1]:99999']\n", "has no port from 1 to 65535", None),
        ("[swarm]\ndns_servers = ['']\n", '"" is no IP address', None),
        ("[swarm]\nlisten = [1]\n", "a list of strings", None),
        ("[swarm]\nlisten = ['foo']\n", 'failed to parse multiaddr "foo"', None),
        ("[swarm]\nlisten = ['/ip4/0.0.0.0/udp/1/quic-v1']\n", "of the form /ip4/", None),
        ("[swarm]\nlisten = ['/dns4/localhost/tcp/1']\n", "of the form /ip4/", None),
        ("[log]\nlevel = 'loud'\n", "one of debug, info, warning, error", None),
        ("[limits]\nlow_water = 500\n", "low_water is above limits.high_water", None),
        ("network = 'home'\n", "line 1: network must be one of public, lan, private", "Whom this node"),
        ("[log]\n[network]\nname = 'lan'\n", "line 2: network must be a string", "Whom this node"),
        ("[swarm]\nnetwork = 'lan'\n", "line 2: unknown key swarm.network", "did you mean network?"),
        ("[bootstrap]\npeers = ['automatic']\n", 'peers must be "auto" or multiaddrs of peers (', None),
        ("[bootstrap]\npeers = ['/ip4/10.0.0.1/tcp/1']\n", "multiaddrs of peers (", None),
        (f"[bootstrap]\npeers = ['auto', '/p2p/{PEER}']\n", f"/p2p/{PEER} has no address", None),
        ("[dht]\nprefix = 'office'\n", 'prefix must be "auto" or a path such as /office', None),
        ("[dht]\nprefix = '/office/'\n", "a path such as", None),
        ("[swarm\n", "line 1", "mend it"),
        ("[log]\nlevel = 'info'\nlevel = 'info'\n", "line 3", "mend it"),
        ("a = " + "[" * 5000, "nested too deeply", "mend it"),
        (b"[log]\nlevel = '\xff'\n", "line 2: it is not UTF-8", "mend it"),
        (b"\x00\x01", "line 1", "mend it"),
        (b"#" * (config.MAX_FILE_BYTES + 1), "longer than", "mend it"),
    ],
)
def test_a_mistake_in_the_file_is_one_clear_error(
    tmp_path: Path, text: str | bytes, said: str, hint: str | None
) -> None:
    with pytest.raises(InvalidConfig) as caught:
        load(tmp_path, text)
    assert said in caught.value.message
    assert hint is None or hint in str(caught.value.hint)
    assert caught.value.exit_status == ExitStatus.USAGE


def test_a_mistake_in_the_environment_or_on_the_command_line_says_where(tmp_path: Path) -> None:
    with pytest.raises(
        InvalidConfig, match=r"environment, P2PFWD_LIMITS_STREAMS: limits.streams must be a whole"
    ):
        load(tmp_path, "", {"P2PFWD_LIMITS_STREAMS": "many"})
    with pytest.raises(InvalidConfig, match=r"command line: swarm.listen must be multiaddrs"):
        load(tmp_path, "", swarm__listen=["foo"])
    with pytest.raises(InvalidConfig, match=r"command line: unknown key swarm\.lisen"):
        load(tmp_path, "", swarm__lisen=["foo"])


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "config.toml").mkdir()
    with pytest.raises(InvalidConfig, match="Is a directory"):
        config.load(tmp_path / "config.toml", {})


@pytest.mark.parametrize("key", sorted(config._TABLE))
def test_every_key_can_be_set_in_the_file(tmp_path: Path, key: str) -> None:
    default = config._TABLE[key].default
    value = list(default) if isinstance(default, tuple) else default
    section, _, name = key.rpartition(".")
    table = f"[{section}]\n" if section else ""
    found = load(tmp_path, f"{table}{name} = {value!r}\n")
    assert {e.key: (e.value, e.origin) for e in found.entries()}[key] == (default, "config.toml")


def test_the_defaults_are_those_of_the_parts() -> None:
    mine, swarm, forward = config.Settings(), SwarmSettings(), ForwardingLimits()
    for name in (
        "dial_timeout_s",
        "connect_timeout_s",
        "upgrade_timeout_s",
        "stream_timeout_s",
        "dns_servers",
        "busy_poll_us",
    ):
        assert getattr(mine, name) == getattr(swarm, name)
    for name in (
        "max_connections",
        "max_connections_per_ip",
        "max_connections_per_peer",
        "max_pending_inbound",
    ):
        assert getattr(mine, name) == getattr(swarm, name)
    assert (mine.high_water, mine.low_water) == (swarm.high_water, swarm.low_water)
    assert mine.max_pending_inbound_per_ip == swarm.max_pending_inbound_per_ip
    assert mine.max_streams_per_connection == swarm.max_streams_per_peer
    for name in ("max_streams", "max_streams_per_peer", "max_streams_per_listener", "max_pending_targets"):
        assert getattr(mine, name) == getattr(forward, name)
    for name in (
        "max_pending_opens",
        "open_timeout_s",
        "target_timeout_s",
        "kubo_half_close",
        "kubo_hold_s",
    ):
        assert getattr(mine, name) == getattr(forward, name)


def test_the_environment_of_this_process_has_no_stray_settings() -> None:
    assert not [name for name in map(config.variable_of, config._TABLE) if name in os.environ]
