"""AutoNAT v2: the bytes, and which address a server dials."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import RemoteProtocolError
from p2pfwd.wire import autonat2 as wire
from p2pfwd.wire.autonat2 import DataRequest, DialStatus, Request, Response, Status

FRAMES = {
    frame["name"]: bytes.fromhex(frame["hex"])[1:]
    for frame in json.loads((Path(__file__).parents[2] / "vectors/frames.json").read_text())["frames"]
    if frame["name"].startswith("autonat2")
}
ALICE = PeerId(b"\x00\x24\x08\x01\x12\x20" + bytes(31) + b"\x01")
BOB = PeerId(b"\x00\x24\x08\x01\x12\x20" + bytes(31) + b"\x02")


def addresses(*texts: str) -> tuple[Multiaddr, ...]:
    return tuple(Multiaddr.parse(text) for text in texts)


def test_a_request_is_read_and_written_byte_for_byte() -> None:
    request = wire.decode_request(FRAMES["autonat2 DialRequest"])
    assert request.addrs and wire.encode_request(request) == FRAMES["autonat2 DialRequest"]


def test_answers_of_others_are_read() -> None:
    response = wire.decode_answer(FRAMES["autonat2 DialResponse OK"])
    assert isinstance(response, Response)
    assert (response.status, response.dial) == (Status.OK, DialStatus.OK)
    wanted = wire.decode_answer(FRAMES["autonat2 DialDataRequest"])
    assert isinstance(wanted, DataRequest) and 30_000 <= wanted.nbytes <= wire.MAX_DATA_BYTES
    assert wire.decode_back(FRAMES["autonat2 DialBack"])


@pytest.mark.parametrize("status", Status)
@pytest.mark.parametrize("dial", DialStatus)
def test_an_answer_survives(status: Status, dial: DialStatus) -> None:
    answer = Response(status, 3, dial)
    assert wire.decode_answer(wire.encode_response(answer)) == answer


def test_a_number_of_64_bits_and_a_wish_for_data_survive() -> None:
    assert wire.decode_back(wire.encode_back(2**64 - 1)) == 2**64 - 1
    assert wire.decode_answer(wire.encode_data_request(DataRequest(2, 77))) == DataRequest(2, 77)
    assert wire.encode_back_answer() in (b"", b"\x08\x00")


def test_a_status_that_is_none_says_nothing() -> None:
    answer = wire.decode_answer(bytes.fromhex("12070863100018e707"))
    assert isinstance(answer, Response)
    assert (answer.status, answer.dial) == (Status.INTERNAL_ERROR, DialStatus.UNUSED)


@pytest.mark.parametrize(
    "data", [b"\xff\xff", b"", FRAMES["autonat2 DialRequest"], next(wire.data_messages(9))]
)
def test_what_is_no_answer_is_the_peers_fault(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        wire.decode_answer(data)


@pytest.mark.parametrize("data", [b"\x08", b"", FRAMES["autonat2 DialResponse OK"]])
def test_what_is_no_request_is_the_peers_fault(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        wire.decode_request(data)


@pytest.mark.parametrize("nbytes", [0, 1, 4080, 4081, 30_000, wire.MAX_DATA_BYTES])
def test_data_comes_in_messages_of_a_bounded_size(nbytes: int) -> None:
    messages = list(wire.data_messages(nbytes))
    assert all(len(message) <= wire.CHUNK_BYTES for message in messages)
    headers = len(messages) * 6
    assert nbytes <= sum(map(len, messages)) <= nbytes + headers


def test_an_address_that_cannot_be_read_keeps_its_place() -> None:
    good = Multiaddr.parse("/ip4/11.0.0.1/tcp/1")
    message = wire.encode_request(Request((good, good), 7))
    odd = message.replace(good.to_bytes(), b"\xff\xff\x7f45678", 1)
    assert wire.decode_request(odd) == Request((None, good), 7)
    many = wire.encode_request(Request((good,) * 99, 7))
    assert len(wire.decode_request(many).addrs) == wire.MAX_ADDRESSES


@pytest.mark.parametrize(
    ("seen", "asked", "dialed"),
    [
        ("/ip4/11.0.0.1/tcp/5", ["/ip4/11.0.0.1/tcp/4011"], 0),
        ("/ip4/11.0.0.1/tcp/5", ["/ip4/10.0.0.1/tcp/1", "/ip4/11.0.0.1/tcp/1", "/ip4/11.0.0.1/tcp/2"], 1),
        ("/ip4/11.0.0.1/tcp/5", ["/ip4/11.0.0.2/tcp/4011"], None),  # somebody else's door
        ("/ip4/11.0.0.1/tcp/5", ["/dns4/example.org/tcp/1", "/ip4/11.0.0.1/udp/4011/quic-v1"], None),
        ("/ip4/11.0.0.1/tcp/5", ["/ip4/11.0.0.1/tcp/0"], None),
        ("/ip4/11.0.0.1/tcp/5", [f"/ip4/11.0.0.1/tcp/1/p2p/{BOB}", f"/ip4/11.0.0.1/tcp/1/p2p/{ALICE}"], 1),
        ("/ip4/11.0.0.1/tcp/5", [f"/ip4/11.0.0.1/tcp/4011/p2p/{BOB}/p2p-circuit"], None),
        ("/ip6/2a00::1/tcp/5", ["/ip4/11.0.0.1/tcp/1", "/ip6/2a00::1/tcp/4011"], 1),
        ("/ip4/192.168.0.1/tcp/5", ["/ip4/192.168.0.1/tcp/4011"], None),
        (f"/ip4/11.0.0.1/tcp/1/p2p/{BOB}/p2p-circuit", ["/ip4/11.0.0.1/tcp/4011"], None),
    ],
)
def test_a_server_dials_the_first_address_where_it_is_asked_from(
    seen: str, asked: list[str], dialed: int | None
) -> None:
    request = Request((None, *addresses(*asked)), 1)
    index = wire.address_to_dial(request, ALICE, Multiaddr.parse(seen))
    assert index == (None if dialed is None else dialed + 1)
