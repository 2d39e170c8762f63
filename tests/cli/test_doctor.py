"""`doctor` on real daemons: what it finds, the way to a peer, and its exit status."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from p2pfwd.core.keys import PrivateKey
from p2pfwd.core.peer_id import PeerId
from tests.support.in_process import Pair, two_daemons
from tests.support.sockets import TcpServer, free_port


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with two_daemons() as made:
        yield made


def squeezed(text: str) -> str:
    """One space where there are several: the columns are as wide as their contents."""
    return " ".join(text.split())


def test_a_node_on_loopback_is_no_use_to_others_and_is_told_so(pair: Pair) -> None:
    one, _ = pair
    result = one.cli("doctor")
    assert result.returncode == 1 and result.stdout.endswith("So no peer of this network gets a tunnel.\n")
    # The second in a namespace of the tests', which has no network.
    said = ("this node listens on this machine only", "this machine has no network")
    assert any(f"sockets bad: {words}" in squeezed(result.stdout) for words in said)
    checks = [finding["Check"] for finding in json.loads(one.cli("doctor", "--json").stdout)["Findings"]]
    assert checks[:6] == ["sockets", "clock", "DNS", "bootstrap", "NAT", "IPv6"]
    assert checks[6:] == ["dial back", "port mapping", "relay", "access"]


def test_whom_the_listens_let_in_is_told_without_their_names(pair: Pair) -> None:
    one, _ = pair
    assert "access left out: access.default is any; there is no listen" in squeezed(one.cli("doctor").stdout)
    one.ok("listen", "/x/secret", "9")
    said = "access note: access.default is any; 1 of 1 listens let in any peer that knows the name"
    found = squeezed(one.cli("doctor").stdout)
    assert said in found and "/x/secret" not in found
    one.ok("deny", "/x/secret", "any")
    said = "access good: access.default is any; none of 1 listens lets in any peer"
    assert said in squeezed(one.cli("doctor").stdout)
    one.ok("close", "-a")
    one.ok("access", "rm", "/x/secret")


def test_the_way_to_a_peer_and_its_services(pair: Pair) -> None:
    one, other = pair
    with TcpServer(lambda conn: conn.close()) as server:
        other.ok("listen", "/x/doctor", server.address)
        one.ok("forward", "/x/doctor", str(free_port()), other.address, "--no-check")
        result = one.cli("doctor", other.address)
        assert result.returncode == 0 and result.stdout.endswith("So the peer is reached.\n")
        assert "direct good: direct" in squeezed(result.stdout)
        assert "service good: /x/doctor: ready" in squeezed(result.stdout)
    other.ok("close", "-p", "/x/doctor")
    result = one.cli("doctor", other.peer_id)
    assert result.returncode == 1 and "service bad: /x/doctor: " in squeezed(result.stdout)
    one.ok("close", "-a")


def test_a_peer_that_nobody_knows_is_said_not_to_be_found(pair: Pair) -> None:
    one, _ = pair
    nobody = str(PeerId.from_public_key(PrivateKey.generate().public_key))
    result = one.cli("doctor", nobody)
    assert result.returncode == 1
    assert "found bad: no address of the peer was found" in squeezed(result.stdout)
    assert one.cli("doctor", "nobody-by-that-name").returncode == 2
