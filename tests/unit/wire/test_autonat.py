"""AutoNAT v1: the bytes, and whom a server dials back where."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import RemoteProtocolError
from p2pfwd.wire import autonat
from p2pfwd.wire.autonat import DialAnswer, DialRequest, Status
from p2pfwd.wire.reachability import SURE, Reachability, Verdict

FRAMES = json.loads((Path(__file__).parents[2] / "vectors/frames.json").read_text())["frames"]
DIAL = bytes.fromhex(next(frame["hex"] for frame in FRAMES if frame["name"] == "autonat1 DIAL"))[1:]
ALICE = PeerId(b"\x00\x24\x08\x01\x12\x20" + bytes(31) + b"\x01")
BOB = PeerId(b"\x00\x24\x08\x01\x12\x20" + bytes(31) + b"\x02")


def addresses(*texts: str) -> tuple[Multiaddr, ...]:
    return tuple(Multiaddr.parse(text) for text in texts)


def test_a_request_is_read_and_written_byte_for_byte() -> None:
    request = autonat.decode_request(DIAL)
    assert list(map(str, request.addrs)) == ["/ip4/192.0.2.1/tcp/4001"]
    assert autonat.encode_request(request) == DIAL


@pytest.mark.parametrize("status", Status)
def test_an_answer_survives(status: Status) -> None:
    answer = DialAnswer(status, "words", addresses("/ip4/11.0.0.1/tcp/4011")[0])
    assert autonat.decode_answer(autonat.encode_answer(answer)) == answer


def test_a_status_of_zero_is_written() -> None:
    # OK is 0: an encoder that leaves it out says nothing.
    assert autonat.encode_answer(DialAnswer(Status.OK)).hex() == "08011a0408001200"


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\xff\xff", id="no message"),
        pytest.param(b"", id="no type"),
        pytest.param(bytes.fromhex("0801"), id="an answer without a status"),
        pytest.param(bytes.fromhex("08011a020809"), id="an unknown status"),
        pytest.param(DIAL, id="a request"),
    ],
)
def test_what_is_no_answer_is_the_peers_fault(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        autonat.decode_answer(data)


@pytest.mark.parametrize("data", [b"\x08", b"", bytes.fromhex("08001200"), bytes.fromhex("0801")])
def test_what_is_no_request_is_the_peers_fault(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        autonat.decode_request(data)


def test_a_servers_words_are_bounded_whatever_they_are() -> None:
    long = autonat.encode_answer(DialAnswer(Status.DIAL_ERROR, "x" * 3000))
    assert len(autonat.decode_answer(long).text) == autonat.MAX_STATUS_CHARS
    odd = autonat.encode_answer(DialAnswer(Status.DIAL_ERROR, "zz")).replace(b"zz", b"\xff\xfe")
    assert autonat.decode_answer(odd).text.isprintable()


def test_only_so_many_addresses_are_looked_at_and_odd_ones_left_out() -> None:
    many = tuple(Multiaddr.parse(f"/ip4/11.0.0.1/tcp/{port}") for port in range(1, 100))
    assert len(autonat.decode_request(autonat.encode_request(DialRequest(ALICE, many))).addrs) == 16
    message = autonat.encode_request(DialRequest(ALICE, addresses("/ip4/11.0.0.1/tcp/1")))
    odd = message.replace(b"\x04\x0b\0\0\x01\x06\0\x01", b"\xff\xff\x7f45678")
    assert autonat.decode_request(odd).addrs == () and odd != message


@pytest.mark.parametrize(
    ("seen", "asked", "dialed"),
    [
        ("/ip4/11.0.0.1/tcp/50000", ["/ip4/11.0.0.1/tcp/4011"], ["/ip4/11.0.0.1/tcp/4011"]),
        ("/ip4/11.0.0.1/tcp/50000", ["/ip4/11.0.0.2/tcp/4011"], []),  # somebody else's door
        ("/ip4/11.0.0.1/tcp/50000", ["/ip4/10.0.0.1/tcp/4011", "/ip4/127.0.0.1/tcp/22"], []),
        ("/ip4/11.0.0.1/tcp/50000", ["/dns4/example.org/tcp/4011", "/ip4/11.0.0.1/udp/4011/quic-v1"], []),
        ("/ip4/11.0.0.1/tcp/50000", ["/ip4/11.0.0.1/tcp/0"], []),
        ("/ip4/11.0.0.1/tcp/50000", [f"/ip4/11.0.0.1/tcp/4011/p2p/{BOB}"], []),
        (
            "/ip4/11.0.0.1/tcp/50000",
            [f"/ip4/11.0.0.1/tcp/4011/p2p/{ALICE}", "/ip4/11.0.0.1/tcp/4011"],
            ["/ip4/11.0.0.1/tcp/4011"],
        ),
        ("/ip4/11.0.0.1/tcp/50000", [f"/ip4/11.0.0.1/tcp/4011/p2p/{BOB}/p2p-circuit"], []),
        ("/ip6/2a00::1/tcp/5", ["/ip6/2a00::1/tcp/4011", "/ip4/11.0.0.1/tcp/1"], ["/ip6/2a00::1/tcp/4011"]),
        ("/ip4/192.168.0.1/tcp/50000", ["/ip4/192.168.0.1/tcp/4011"], []),  # a private network is not asked
        ("/ip4/127.0.0.1/tcp/50000", ["/ip4/127.0.0.1/tcp/4011"], []),
        (f"/ip4/11.0.0.1/tcp/1/p2p/{BOB}/p2p-circuit", ["/ip4/11.0.0.1/tcp/4011"], []),
    ],
)
def test_a_server_dials_only_where_it_is_asked_from(seen: str, asked: list[str], dialed: list[str]) -> None:
    found = autonat.addresses_to_dial(DialRequest(ALICE, addresses(*asked)), Multiaddr.parse(seen))
    assert list(map(str, found)) == dialed


def test_candidates_are_public_addresses_and_own_ports_at_the_observed_ip() -> None:
    bound = addresses(
        "/ip4/11.0.0.5/tcp/4011", "/ip4/10.0.0.5/tcp/4011", "/ip4/127.0.0.1/tcp/4011", "/ip6/fd00::1/tcp/4012"
    )
    observed = addresses("/ip4/12.0.0.9/tcp/51234", "/ip4/10.0.0.5/tcp/3", "/ip6/2a00::9/tcp/5")
    assert list(map(str, autonat.candidates(bound, observed))) == [
        "/ip4/11.0.0.5/tcp/4011",
        "/ip4/12.0.0.9/tcp/4011",
        "/ip6/2a00::9/tcp/4012",
    ]
    assert autonat.candidates(addresses("/ip4/127.0.0.1/tcp/1"), observed) == ()


def test_a_mapped_address_is_a_candidate_with_its_own_port_where_it_is_public() -> None:
    bound = addresses("/ip4/10.0.0.5/tcp/4011")
    mapped = addresses("/ip4/12.0.0.9/tcp/5000", "/ip4/10.8.0.2/tcp/5000")
    observed = addresses("/ip4/12.0.0.9/tcp/51234")
    assert list(map(str, autonat.candidates(bound, observed, (), mapped))) == [
        "/ip4/12.0.0.9/tcp/5000",
        "/ip4/12.0.0.9/tcp/4011",
    ]


def test_a_relays_address_is_nobodys_own() -> None:
    seen = addresses(f"/ip4/12.0.0.9/tcp/1/p2p/{BOB}/p2p-circuit")
    assert autonat.candidates(addresses("/ip4/10.0.0.5/tcp/4011"), seen) == ()


# --- the verdict


def test_the_first_answer_counts_at_once() -> None:
    for reachable, said in ((True, Reachability.PUBLIC), (False, Reachability.PRIVATE)):
        verdict = Verdict()
        assert verdict.reachability is Reachability.UNKNOWN
        assert verdict.add(reachable) and verdict.reachability is said


def test_a_sure_verdict_needs_as_many_answers_against_it() -> None:
    verdict = Verdict()
    for _ in range(SURE + 5):
        verdict.add(True)
    assert verdict.is_sure
    assert [verdict.add(False) for _ in range(SURE + 1)] == [False] * SURE + [True]
    assert verdict.reachability is Reachability.PRIVATE and not verdict.is_sure


def test_one_bad_answer_among_good_ones_changes_nothing() -> None:
    verdict = Verdict()
    for reachable in (True, True, False, True, True, False, True):
        verdict.add(reachable)
    assert verdict.reachability is Reachability.PUBLIC


def test_a_new_network_starts_anew() -> None:
    verdict = Verdict()
    assert not verdict.forget()
    verdict.add(True)
    assert verdict.forget() and verdict.reachability is Reachability.UNKNOWN
