"""The lines people paste and the commands they are told to run next: pure policy, as tables."""

from __future__ import annotations

import shlex

import pytest

from p2pfwd.cli import advice, text
from tests.support.fake_daemon import PEER

LAN, V6, NAT = (f"/ip4/192.168.1.5/tcp/4011/p2p/{PEER}", f"/ip6/fd00::5/tcp/4011/p2p/{PEER}", PEER)
OVER_ONE, OVER_TWO, OVER_THREE = (
    f"/ip4/11.0.0.{number}/tcp/4011/p2p/12D3Relay{number}/p2p-circuit/p2p/{PEER}" for number in (1, 2, 3)
)
ALSO_OVER_ONE = OVER_ONE.replace("/ip4/11.0.0.1", "/ip6/2001:db8::1")
LOOP, LOOP6 = f"/ip4/127.0.0.1/tcp/4011/p2p/{PEER}", f"/ip6/::1/tcp/4011/p2p/{PEER}"


@pytest.mark.parametrize(
    ("protocol", "target", "port"),
    [
        ("/x/ssh", "/ip4/127.0.0.1/tcp/22", 2222),
        ("/x/a", "/ip4/127.0.0.1/tcp/80", 8080),
        ("/x/a", "/dns/localhost/tcp/443", 8443),
        ("/x/a", "/ip4/127.0.0.1/tcp/25", 10025),
        ("/x/a", "/ip4/127.0.0.1/tcp/8000", 18000),
        ("/x/a", "/ip6/::1/tcp/5432", 15432),
        ("/x/a", "/ip4/127.0.0.1/tcp/55535", 65535),
        ("/x/a", "/ip4/127.0.0.1/tcp/55536", 45536),
        ("/x/a", "/ip4/127.0.0.1/tcp/65535", 55535),
        ("/x/web", "/unix/run/web.sock", 8080),
        ("/x/a", "/unix/run/a.sock", 0),
    ],
)
def test_the_suggested_port_is_free_of_the_targets_own(protocol: str, target: str, port: int) -> None:
    assert advice.suggested_port(protocol, target) == port


@pytest.mark.parametrize(
    ("addresses", "chosen"),
    [
        ([], []),
        ([LOOP, LOOP6], [LOOP, LOOP6]),
        ([LOOP, LAN, LOOP6, V6], [LAN, V6]),
        ([LAN, V6, LAN, V6], [LAN, V6, LAN]),
        ([LAN, V6, LAN, OVER_ONE, ALSO_OVER_ONE, OVER_TWO, OVER_THREE], [LAN, V6, OVER_ONE, OVER_TWO]),
        ([LOOP, OVER_ONE], [OVER_ONE]),
    ],
)
def test_addresses_given_away_lead_out_of_this_machine_and_over_each_relay(
    addresses: list[str], chosen: list[str]
) -> None:
    assert advice.pasted_addresses(addresses) == chosen


@pytest.mark.parametrize(
    ("protocol", "addresses", "words"),
    [
        ("/x/ssh", [LAN], ["/x/ssh", "127.0.0.1:2222", LAN]),
        ("/x/ssh", [], ["/x/ssh", "127.0.0.1:2222", PEER]),
        ("/mine", [LAN], ["--allow-custom-protocol", "/mine", "127.0.0.1:2222", LAN]),
        ("/x/a b;$(c)'\"", [LAN], ["/x/a b;$(c)'\"", "127.0.0.1:2222", LAN]),
        ("-x", [LAN], ["--allow-custom-protocol", "--", "-x", "127.0.0.1:2222", LAN]),
    ],
)
def test_the_pasted_line_is_quoted_for_a_shell(protocol: str, addresses: list[str], words: list[str]) -> None:
    line = advice.forward_command(protocol, "/ip4/127.0.0.1/tcp/22", PEER, addresses)
    assert shlex.split(line) == ["p2pfwd", "forward", *words]
    assert "\n" not in line


@pytest.mark.parametrize(
    ("protocol", "address", "step"),
    [
        ("/x/ssh", "/ip4/127.0.0.1/tcp/2222", "ssh -p 2222 localhost"),
        ("/x/my-ssh", "/ip6/::1/tcp/9", "ssh -p 9 ::1"),
        ("/x/web", "/ip4/127.0.0.1/tcp/9", "http://127.0.0.1:9/"),
        ("/x/web", "/ip6/::1/tcp/9", "http://[::1]:9/"),
        ("/x/web", "/ip4/0.0.0.0/tcp/9", "http://127.0.0.1:9/"),
        ("/x/web", "/ip6/::/tcp/9", "http://[::1]:9/"),
        ("/x/web", "/ip6zone/eth0/ip6/fe80::1/tcp/9", "http://[fe80::1%25eth0]:9/"),
        ("/x/ssh", "/ip6zone/eth0/ip6/fe80::1/tcp/9", "ssh -p 9 fe80::1%eth0"),
        ("/x/site/https", "/ip4/127.0.0.1/tcp/9", "https://127.0.0.1:9/"),
        ("/x/postgres", "/ip4/127.0.0.1/tcp/9", "psql -h 127.0.0.1 -p 9"),
        ("/x/db", "/ip4/127.0.0.1/tcp/15432", "psql -h 127.0.0.1 -p 15432"),
        ("/x/db", "/ip4/127.0.0.1/tcp/3306", "mysql -h 127.0.0.1 -P 3306 --protocol=tcp"),
        ("/x/redis", "/ip4/127.0.0.1/tcp/9", "redis-cli -h 127.0.0.1 -p 9"),
        ("/x/vnc", "/ip4/127.0.0.1/tcp/9", "vncviewer 127.0.0.1::9"),
        ("/x/desk", "/ip4/127.0.0.1/tcp/13389", "xfreerdp /v:127.0.0.1:13389"),
        ("/x/thing", "/ip4/127.0.0.1/tcp/8080", "http://127.0.0.1:8080/"),
        ("/x/thing", "/ip4/127.0.0.1/tcp/9", "connect a client to 127.0.0.1:9"),
        ("/x/sshd2", "/ip4/127.0.0.1/tcp/9", "connect a client to 127.0.0.1:9"),
        ("/x/web", "/unix/run/it's", "curl --unix-socket '/run/it'\"'\"'s' http://localhost/"),
        ("/x/ssh", "/unix/run/a", "connect a client to /run/a"),
    ],
)
def test_what_to_do_next(protocol: str, address: str, step: str) -> None:
    assert advice.next_step(protocol, address) == step


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0B"), (999, "999B"), (1000, "1.0kB"), (9_949, "9.9kB"), (9_950, "10kB"), (999_499, "999kB"),
     (999_500, "1.0MB"), (340e6, "340MB"), (1e9, "1.0GB"), (5e15, "5000TB")],
)  # fmt: skip
def test_sizes_have_at_most_three_digits(value: float, shown: str) -> None:
    assert text.size(value) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0s"),
        (59.9, "59s"),
        (60, "1m00s"),
        (3599, "59m59s"),
        (3600, "1h00m"),
        (86399, "23h59m"),
        (90000, "1d1h"),
    ],
)
def test_ages(seconds: float, shown: str) -> None:
    assert text.age(seconds) == shown


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("/ip4/127.0.0.1/tcp/22", "127.0.0.1:22"),
        ("/ip6/::1/tcp/22", "[::1]:22"),
        ("/ip6zone/eth0/ip6/fe80::1/tcp/22", "[fe80::1%eth0]:22"),
        ("/dns4/host.name/tcp/22", "host.name:22"),
        (f"/p2p/{PEER}", "12D3…defLcL"),
        (f"/ip4/1.2.3.4/tcp/1/p2p/{PEER}", "1.2.3.4:1/p2p/12D3…defLcL"),
        ("/unix/run/a.sock", "/unix/run/a.sock"),
        ("/ip4/1.2.3.4/udp/1/quic-v1", "/ip4/1.2.3.4/udp/1/quic-v1"),
        ("", ""),
    ],
)
def test_addresses_for_people(address: str, shown: str) -> None:
    assert text.short_address(address) == shown


def test_milliseconds() -> None:
    assert [text.milliseconds(it) for it in (None, 0.04, 0.99, 1.0, 9.94, 9.96, 240.0)] == [
        "-", "0.04ms", "0.99ms", "1.0ms", "9.9ms", "10ms", "240ms",
    ]  # fmt: skip


def test_peer_ids_in_sentences_are_shortened() -> None:
    rsa = "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N"
    peer = "12D3KooWGjMCzjmzGgxx2Lu4HUpfSxRHUAAN4hN9ckgjFnKoTtB7"
    said = f"cannot reach {peer}: /ip4/1.2.3.4/tcp/1/p2p/{rsa} is another"
    assert text.shorten_peers(said) == (
        "cannot reach 12D3…KoTtB7: /ip4/1.2.3.4/tcp/1/p2p/QmYy…Wjhx5N is another"
    )
