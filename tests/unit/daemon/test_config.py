"""daemon.config: the table is the only source of keys, and every mistake names key and cure."""

from __future__ import annotations

import os
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from p2pfwd.daemon import config, networks, node
from p2pfwd.daemon.settings import Settings
from p2pfwd.errors import ExitStatus, InvalidConfig
from p2pfwd.forwarding.values import ForwardingLimits
from p2pfwd.net.settings import SwarmSettings
from p2pfwd.policy import relay_bounds
from p2pfwd.wire.tls import TLS

PEER = "12D3KooWGRUVh3xoVy6F6FQyRVFiDYpYPSrDzb2YwEGeYL8bBBZQ"
SLIP = "12D3KooWGRUVh3xoVy6F6FQyRVFiDYpYPSrDzb2YwEGeYL8bBBZC"
"""A whole ID that no key has."""


def load(
    tmp_path: Path, text: str | bytes, env: dict[str, str] | None = None, **overrides: Any
) -> config.Config:
    path = tmp_path / "config.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return config.load(path, env or {}, {k.replace("__", "."): v for k, v in overrides.items()})


def test_without_a_file_the_defaults_hold(tmp_path: Path) -> None:
    found = config.load(tmp_path / "none.toml", {})
    assert found.settings == Settings()
    assert {entry.origin for entry in found.entries()} == {"default"}


def test_every_key_is_documented_and_its_default_passes_its_own_check() -> None:
    for entry in config.load(Path("/nonexistent"), {}).entries():
        assert entry.doc.endswith(".")
        assert config._checked("here", entry.key, entry.default) == entry.default
        assert type(entry.default) in (tuple, float, int, str)


def test_the_default_port_is_not_kubos_and_both_families_are_served() -> None:
    listen = Settings().listen
    assert listen == ("/ip4/0.0.0.0/tcp/4011", "/ip6/::/tcp/4011")


def test_a_byte_order_mark_is_no_statement(tmp_path: Path) -> None:
    found = load(tmp_path, '\ufeffnetwork = "lan"\n[log]\nlevel = "error"\n')
    assert (found.settings.network, found.settings.log_level) == ("lan", "error")


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
        ("[swarm]\n\nlisen = []\n", ": unknown key swarm.lisen", "did you mean swarm.listen?"),
        ("[swarms]\nlisten = []\n", ": unknown key swarms", "did you mean swarm?"),
        ("level = 'info'\n", ": unknown key level", "did you mean log.level?"),
        ("zebra = 1\n", ": unknown key zebra", "lists every key; mend it, or move the file away"),
        ("swarm = 1\n", ": swarm must be a table", None),
        ("[limits]\nstreams = '5'\n", ": limits.streams must be a whole number", "in all"),
        ("[limits]\nstreams = true\n", ": limits.streams must be a whole number", "in all"),
        ("[limits]\nstreams = 0\n", "limits.streams must be 1 or more", "in all"),
        ("[swarm]\ndial_timeout_s = nan\n", "must be a number", None),
        ("[swarm]\ndial_timeout_s = inf\n", "must be a number", None),
        ("swarm.security = ['ssl']\n", ": swarm.security must be some of noise, tls", None),
        ("[swarm]\nsecurity = ['tls', 'tls']\n", "each once", None),
        ("[swarm]\nciphers = ['aes-256-gcm']\n", "chacha20-poly1305 is all that other programs speak", None),
        ("[swarm]\nciphers = ['chacha20-poly1305', 'aes-256-gcm']\n", "and comes last", None),
        ("[swarm]\nciphers = ['auto', 'aes-256-gcm']\n", ": swarm.ciphers must be", None),
        ("[swarm]\nciphers = []\n", ": swarm.ciphers must be", None),
        ("[swarm]\nciphers = ['aes-128-gcm']\n", ": swarm.ciphers must be", None),
        ("[swarm]\nlisten = []\n", "at least one address", None),
        ("[swarm]\ndns_servers = ['not-an-ip']\n", ": swarm.dns_servers must be addresses", "IP:PORT"),
        ("[swarm]\ndns_servers = ['1.1.1.1', 'ns.example:53']\n", '"ns.example:53" is no IP address', None),
        ("[swarm]\ndns_servers = ['1.1.1.1:0']\n", "has no port from 1 to 65535", None),
        ("[swarm]\ndns_servers = ['[::1]:99999']\n", "has no port from 1 to 65535", None),
        ("[swarm]\ndns_servers = ['']\n", '"" is no IP address', None),
        ("[swarm]\nlisten = [1]\n", "a list of strings", None),
        ("[swarm]\nlisten = ['foo']\n", 'failed to parse multiaddr "foo"', None),
        ("[swarm]\nlisten = ['/ip4/0.0.0.0/udp/1/quic-v1']\n", "of the form /ip4/", None),
        ("[swarm]\nlisten = ['/dns4/localhost/tcp/1']\n", "of the form /ip4/", None),
        ("[log]\nlevel = 'loud'\n", "one of debug, info, warning, error", None),
        ("[limits]\nlow_water = 500\n", "low_water (500) is above limits.high_water (192)", "set both"),
        (
            "[swarm]\ndns_servers = ['not-an-ip']\n",
            '"not-an-ip" is no IP address, and none with a port',
            "Name servers",
        ),
        ("[swarm]\ndns_servers = ['192.0.2.1:0']\n", "has no port from 1 to 65535", None),
        ("[swarm]\ndns_servers = ['192.0.2.1:dns']\n", "is no IP address, and none with a port", None),
        ("swarm = { listen = ['foo'] }\n", "swarm.listen must be multiaddrs", None),
        ("network = 'home'\n", ": network must be one of public, lan, private", "Whom this node"),
        ("[log]\n[network]\nname = 'lan'\n", ": network must be a string", "Whom this node"),
        ("[swarm]\nnetwork = 'lan'\n", ": unknown key swarm.network", "did you mean network?"),
        ("[bootstrap]\npeers = ['automatic']\n", 'peers must be "auto" or multiaddrs of peers (', None),
        ("[bootstrap]\npeers = ['/ip4/10.0.0.1/tcp/1']\n", "multiaddrs of peers (", None),
        (f"[bootstrap]\npeers = ['auto', '/p2p/{PEER}']\n", f"/p2p/{PEER} has no address", None),
        ("[dht]\nprefix = 'office'\n", 'prefix must be "auto" or a path such as /office', None),
        ("[dht]\nprefix = '/office/'\n", "a path such as", None),
        ("[swarm\n", "line 1", "mend it"),
        ("[log]\nlevel = 'info'\nlevel = 'info'\n", "line 3", "mend it"),
        ("a = " + "[" * 5000, "nested too deeply", "mend it"),
        (f"a = 1{'0' * 5000}", "thousands of digits", "mend it"),
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


def test_an_unknown_name_in_the_environment_is_an_error(tmp_path: Path) -> None:
    """Where it begins as a table's settings do: P2PFWD_HOME and others are no settings."""
    with pytest.raises(InvalidConfig, match=r"environment: unknown key P2PFWD_SWARM_LISEN") as caught:
        load(tmp_path, "", {"P2PFWD_SWARM_LISEN": "/ip4/0.0.0.0/tcp/0"})
    assert caught.value.hint == "did you mean P2PFWD_SWARM_LISTEN?"
    names = ("HOME", "AUTOSTART", "READY_FD", "NETWORK", "PROFILE", "PEERS_CACHE")
    load(tmp_path, "", {f"P2PFWD_{name}": "lan" for name in names} | {"P2PFWD_SWARM_LISEN": ""})


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "config.toml").mkdir()
    with pytest.raises(InvalidConfig, match="Is a directory"):
        config.load(tmp_path / "config.toml", {})


def test_a_key_of_before_is_refused_with_the_one_that_took_its_place(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match=r"unknown key daemon\.busy_poll_us") as caught:
        load(tmp_path, "[daemon]\nbusy_poll_us = 500\n")
    assert caught.value.hint == "did you mean daemon.busy_poll?"


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("/ip4/192.0.2.1/udp/4011/quic-v1", "it is for QUIC, and this node speaks TCP only"),
        ("/ip4/192.0.2.1/tcp/4011/ws", "it is for WebSocket"),
        ("/ip4/192.0.2.1/tcp/0", "0 is no port to dial"),
        ("/ip4/0.0.0.0/tcp/4011", "stands for every address"),
        (f"/ip4/192.0.2.1/tcp/4011/p2p/{PEER}/p2p-circuit", "a relay has to be reached directly"),
    ],
)
def test_a_relay_that_cannot_be_dialed_is_refused_and_told_why(
    tmp_path: Path, address: str, why: str
) -> None:
    with pytest.raises(InvalidConfig, match=re.escape(why)) as caught:
        load(tmp_path, f'reach.relays = ["{address}/p2p/{PEER}#{"a" * 26}"]\n')
    assert "as /ip4/192.0.2.1/tcp/4011/p2p/<peer ID>" in caught.value.message
    assert "aaa" not in caught.value.message
    for text in (f"/ip4/192.0.2.1/tcp/4011/p2p/{PEER}", f"/dns/x.example/tcp/1/p2p/{PEER}", PEER, "nas"):
        assert load(tmp_path, f'reach.relays = ["{text}"]\n').settings.relays == (text,)


@pytest.mark.parametrize("key", ["reach.relays", "bootstrap.peers"])
@pytest.mark.parametrize("form", ["{}", "/ip4/192.0.2.1/tcp/4011/p2p/{}"])
@pytest.mark.parametrize("peer", ["12D3KooWnope", PEER[:-1], SLIP])
def test_a_mistyped_peer_id_in_a_list_of_peers_is_refused(
    tmp_path: Path, key: str, form: str, peer: str
) -> None:
    with pytest.raises(InvalidConfig, match="mistyped"):
        load(tmp_path, f'{key} = ["{form.format(peer)}"]\n')


@pytest.mark.parametrize("key", sorted(config._TABLE))
def test_every_key_can_be_set_in_the_file(tmp_path: Path, key: str) -> None:
    default = config._TABLE[key].default
    value = list(default) if isinstance(default, tuple) else default
    section, _, name = key.rpartition(".")
    table = f"[{section}]\n" if section else ""
    found = load(tmp_path, f"{table}{name} = {value!r}\n")
    assert {e.key: (e.value, e.origin) for e in found.entries()}[key] == (default, "config.toml")


def test_every_setting_is_handed_on_with_the_parts_own_default() -> None:
    """By its name, to one part; the rest is the daemon's own."""
    parts = {f.name: f for kind in (SwarmSettings, ForwardingLimits) for f in fields(kind)}
    assert len(parts) == len(fields(SwarmSettings)) + len(fields(ForwardingLimits))
    own = {f.name for f in fields(Settings)} - set(parts)
    assert own == {
        "network",
        "access_default",
        "bootstrap",
        "relays",
        "relay_serve",
        "relay_legs",
        "dht_prefix",
        "dht_mode",
        "mdns",
        "port_mapping",
        "swarm_key",
        "ciphers",
        "listen",
        "drain_timeout_s",
        "event_loop",
        "log_level",
        "log_max_bytes",
    }
    for f in fields(Settings):
        if f.name in parts and f.name != "security":  # there it is protocol names
            assert f.default == parts[f.name].default, f.name
    assert Settings().relay_legs == relay_bounds.LEGS


@pytest.mark.parametrize(
    ("line", "aes"),
    [
        ("", None),
        ("ciphers = ['auto']", None),
        ("ciphers = ['chacha20-poly1305']", False),
        ("ciphers = ['aes-256-gcm', 'chacha20-poly1305']", True),
    ],
)
def test_the_ciphers_say_whether_aes_is_offered_or_the_processor_is_asked(
    tmp_path: Path, line: str, aes: bool | None
) -> None:
    settings = load(tmp_path, f"[swarm]\n{line}\n").settings
    assert node.host_settings(settings, networks.load(tmp_path, settings, {})).swarm.aes is aes


def test_what_is_set_reaches_the_part(tmp_path: Path) -> None:
    text = (
        "[limits]\nstreams_per_connection = 7\nstreams_per_peer = 8\nhigh_water = 100\n"
        "[swarm]\nsecurity = ['tls']\ndns_servers = ['192.0.2.1']\n[forward]\nopen_timeout_s = 3\n"
    )
    settings = load(tmp_path, text).settings
    network = networks.load(tmp_path, settings, {})
    swarm = node.host_settings(settings, network).swarm
    assert (swarm.max_streams_per_connection, swarm.high_water, swarm.low_water) == (7, 100, 83)
    assert (swarm.security, swarm.dns_servers) == ((TLS,), ("192.0.2.1",))
    limits = node.forwarding_limits(settings)
    assert (limits.max_streams_per_peer, limits.open_timeout_s) == (8, 3.0)


@pytest.mark.parametrize(
    ("text", "low"),
    [
        ("", 160),
        ("high_water = 100", 83),
        ("high_water = 500", 160),
        ("high_water = 1", 0),
        ("high_water = 100\nlow_water = 100", 100),
    ],
)
def test_a_high_water_alone_brings_its_low_water(tmp_path: Path, text: str, low: int) -> None:
    assert load(tmp_path, f"[limits]\n{text}\n").settings.low_water == low


def test_the_environment_of_this_process_has_no_stray_settings() -> None:
    assert not [name for name in map(config.variable_of, config._TABLE) if name in os.environ]


# --- what it declares beside the settings ----------------------------------------------------------


def test_tables_are_no_settings(tmp_path: Path) -> None:
    text = '[log]\nlevel = "error"\n\n[[listen]]\nprotocol = "/x/a"\n[[listen]]\nzebra = 1\n'
    found = load(tmp_path, text)
    assert (found.settings, found.origins) == (Settings(log_level="error"), {"log.level": "config.toml"})
    assert [(it.table, it.number, it.line) for it in found.tables] == [("listen", 1, 4), ("listen", 2, 6)]
    assert found.tables[1].where == f"config file {tmp_path / 'config.toml'}, [[listen]] 2 (line 6)"


def test_the_settings_of_forward_have_another_name_beside_its_tables(tmp_path: Path) -> None:
    text = "[forwarding]\nopen_timeout_s = 5\n\n[[forward]]\nprotocol = '/x/a'\n"
    found = load(tmp_path, text)
    assert found.settings.open_timeout_s == 5
    assert [it.table for it in found.tables] == ["forward"]
    assert load(tmp_path, "[forward]\nopen_timeout_s = 5\n").settings == found.settings


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("[forward]\nopen_timeout_s = 5\n[[forward]]\n", "written in [forwarding]"),
        ("forward.open_timeout_s = 5\n[[forward]]\n", "written in [forwarding]"),
        ("[[forward]]\n[forward]\nopen_timeout_s = 5\n", "written in [forwarding]"),
        ("[[forward]]\nlisten = \n", "mend it, or move it away"),
        (
            "[forward]\nopen_timeout_s = 5\n[forwarding]\nopen_timeout_s = 5\n",
            "[forward] and [forwarding] are one",
        ),
        ("[forwarding]\nopen_timeout = 5\n", "did you mean forward.open_timeout_s?"),
        ("[[listens]]\n", "did you mean listen?"),
        ("[listen]\nprotocol = '/x/a'\n", "write [[listen]] above each"),
    ],
)
def test_what_is_wrong_with_the_tables_has_its_cure(tmp_path: Path, text: str, hint: str) -> None:
    with pytest.raises(InvalidConfig) as caught:
        load(tmp_path, text)
    assert hint in (caught.value.hint or "")
