"""Circuit relay v2: the bytes, the vouchers, and what is made of nonsense."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from p2pfwd.core import varint
from p2pfwd.core.keys import PrivateKey
from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.core.record import InvalidRecord
from p2pfwd.errors import RemoteProtocolError
from p2pfwd.wire import circuit
from p2pfwd.wire.circuit import HopAnswer, HopRequest, Limit, Reservation, Status, StopRequest, Voucher

FRAMES = json.loads((Path(__file__).parents[2] / "vectors/frames.json").read_text())["frames"]
KEY = PrivateKey.generate()
RELAY = PeerId.from_public_key(KEY.public_key)
PEER = PeerId.from_public_key(PrivateKey.generate().public_key)
ADDR = Multiaddr.parse("/ip4/192.0.2.1/tcp/4011")


def frame(name: str) -> bytes:
    """A message as another implementation wrote it, without its length."""
    data = bytes.fromhex(next(one["hex"] for one in FRAMES if one["name"] == name))
    length, begin = varint.decode(data)
    assert length == len(data) - begin
    return data[begin:]


def test_a_request_for_a_place_is_the_bytes_that_others_send() -> None:
    assert circuit.encode_hop_request(HopRequest()) == frame("hop RESERVE")
    assert circuit.decode_hop_request(frame("hop RESERVE")) == HopRequest()


def test_what_another_implementation_wrote_is_understood() -> None:
    asked, told = frame("hop CONNECT to B"), frame("stop CONNECT from A")
    assert circuit.encode_hop_request(circuit.decode_hop_request(asked)) == asked
    assert circuit.encode_stop_request(circuit.decode_stop_request(told)) == told
    answer = circuit.decode_hop_answer(frame("hop STATUS OK reservation"))
    assert answer.status is Status.OK and answer.reservation is not None
    assert circuit.encode_hop_answer(answer) == frame("hop STATUS OK reservation")
    assert circuit.decode_hop_answer(frame("hop STATUS NO_RESERVATION")).status is Status.NO_RESERVATION
    assert circuit.decode_stop_answer(frame("stop STATUS OK")) is Status.OK


@pytest.mark.parametrize("request_", [HopRequest(), HopRequest(PEER)])
def test_a_request_survives(request_: HopRequest) -> None:
    assert circuit.decode_hop_request(circuit.encode_hop_request(request_)) == request_


@pytest.mark.parametrize(
    "answer",
    [
        *map(HopAnswer, Status),
        HopAnswer(Status.OK, Reservation(1_800_000_000, (ADDR,), b"voucher"), Limit(120, 131_072)),
        HopAnswer(Status.OK, Reservation(1_800_000_000)),
        HopAnswer(Status.OK, None, Limit(0, 1)),
    ],
)
def test_an_answer_survives(answer: HopAnswer) -> None:
    assert circuit.decode_hop_answer(circuit.encode_hop_answer(answer)) == answer


@pytest.mark.parametrize("request_", [StopRequest(PEER), StopRequest(PEER, Limit(120, 131_072))])
def test_what_a_target_is_told_survives(request_: StopRequest) -> None:
    assert circuit.decode_stop_request(circuit.encode_stop_request(request_)) == request_


@pytest.mark.parametrize("status", Status)
def test_what_a_target_answers_survives(status: Status) -> None:
    assert circuit.decode_stop_answer(circuit.encode_stop_answer(status)) is status


def test_a_limit_of_nothing_is_no_limit() -> None:
    encoded = circuit.encode_hop_answer(HopAnswer(Status.OK, None, Limit()))
    assert circuit.decode_hop_answer(encoded).limit is None


@pytest.mark.parametrize("data", [b"", b"\xff\xff", bytes.fromhex("0802"), bytes.fromhex("08022863")])
def test_what_is_no_answer_is_the_relays_fault(data: bytes) -> None:
    for decode in (circuit.decode_hop_answer, circuit.decode_stop_answer):
        with pytest.raises(RemoteProtocolError):
            decode(data)


@pytest.mark.parametrize(
    "data", [b"", b"\xff\xff", *map(bytes.fromhex, ("08022864", "0801", "080112020a00"))]
)
def test_what_is_no_request_is_the_peers_fault(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        circuit.decode_hop_request(data)


@pytest.mark.parametrize("data", [b"", *map(bytes.fromhex, ("0801", "0800", "080012020a00"))])
def test_what_names_no_peer_is_no_circuit(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        circuit.decode_stop_request(data)


def test_a_voucher_is_its_relays_word() -> None:
    voucher = Voucher(RELAY, PEER, 1_800_000_000)
    assert Voucher.from_signed(voucher.to_signed(KEY)) == voucher
    with pytest.raises(InvalidRecord, match="another than its relay"):
        Voucher.from_signed(voucher.to_signed(PrivateKey.generate()))
    signed = voucher.to_signed(KEY)
    with pytest.raises(InvalidRecord):
        Voucher.from_signed(signed[:-1] + bytes([signed[-1] ^ 1]))


def test_a_relayed_address_names_the_relay_and_not_the_peer() -> None:
    (addr,) = circuit.relayed([ADDR], RELAY)
    assert str(addr) == f"/ip4/192.0.2.1/tcp/4011/p2p/{RELAY}/p2p-circuit"
