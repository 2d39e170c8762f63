"""wire.port_mapping: NAT-PMP and PCP byte for byte as the RFCs have them, and which answers count."""

from __future__ import annotations

import pytest

from p2pfwd.errors import RemoteProtocolError
from p2pfwd.wire import port_mapping as wire
from p2pfwd.wire.port_mapping import Announced, ExternalAddress, Mapped, Refusal

NONCE = bytes(range(1, 13))
ME = "10.1.0.2"
ME_MAPPED = "00000000000000000000ffff0a010002"
WAN_MAPPED = "00000000000000000000ffff0b010001"

PMP_OK = bytes.fromhex("00820000000000070fab0fac00001c20")
PCP_OK = bytes.fromhex(f"0281000000001c2000000007{'00' * 12}{NONCE.hex()}060000000fab0fac{WAN_MAPPED}")


@pytest.mark.parametrize(
    ("request_", "wanted"),
    [
        pytest.param(wire.encode_pmp_address(), "0000", id="NAT-PMP address"),
        pytest.param(wire.encode_pmp_map(4011, 4012, 7200), "000200000fab0fac00001c20", id="NAT-PMP map"),
        pytest.param(wire.encode_pmp_map(4011, 0, 0), "000200000fab000000000000", id="NAT-PMP unmap"),
        pytest.param(wire.encode_pcp_announce(ME), f"0200000000000000{ME_MAPPED}", id="PCP announce"),
        pytest.param(
            wire.encode_pcp_map(ME, NONCE, 4011, 4012, 7200),
            f"0201000000001c20{ME_MAPPED}{NONCE.hex()}060000000fab0fac00000000000000000000ffff00000000",
            id="PCP map",
        ),
    ],
)
def test_requests_are_the_rfcs(request_: bytes, wanted: str) -> None:
    assert request_.hex() == wanted


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        pytest.param(PMP_OK, Mapped(4011, 4012, 7200, 7), id="granted"),
        pytest.param(bytes.fromhex("00820000000000070fab000000000000"), Mapped(4011, 0, 0, 7), id="unmapped"),
        pytest.param(bytes.fromhex("0082000200000007"), Refusal(2, wire.PMP_REFUSALS[2]), id="short refusal"),
        pytest.param(
            bytes.fromhex("00820003000000070fab000000000000"), Refusal(3, wire.PMP_REFUSALS[3]), id="no WAN"
        ),
        pytest.param(bytes.fromhex("0082ffff00000007"), Refusal(65535, "its error is 65535"), id="new code"),
    ],
)
def test_nat_pmp_answers(answer: bytes, wanted: Mapped | Refusal) -> None:
    assert wire.decode_pmp_map(answer, 4011) == wanted


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        pytest.param(PCP_OK, Mapped(4011, 4012, 7200, 7, "11.1.0.1"), id="granted"),
        pytest.param(PCP_OK + bytes(4), Mapped(4011, 4012, 7200, 7, "11.1.0.1"), id="with an option"),
        pytest.param(PCP_OK[:3] + b"\x02" + PCP_OK[4:], Refusal(2, wire.PCP_REFUSALS[2]), id="refused"),
        pytest.param(PCP_OK[:3] + b"\x63" + PCP_OK[4:], Refusal(99, "its error is 99"), id="new code"),
        pytest.param(bytes.fromhex("0081000100000007"), Refusal(1, wire.PMP_REFUSALS[1]), id="NAT-PMP only"),
        pytest.param(
            b"\x03\x81\x00\x01" + PCP_OK[4:24], Refusal(1, wire.PCP_REFUSALS[1]), id="a newer PCP only"
        ),
    ],
)
def test_pcp_answers(answer: bytes, wanted: Mapped | Refusal) -> None:
    assert wire.decode_pcp_map(answer, NONCE, 4011) == wanted


def test_only_an_unknown_version_means_the_other_protocol() -> None:
    assert Refusal(1, "").is_version and not Refusal(2, "").is_version
    # A NAT-PMP router may repeat the opcode of a request that it cannot read, or not.
    for opcode in ("80", "81", "82"):
        said = wire.decode_pcp_map(bytes.fromhex(f"00{opcode}000100000007"), NONCE, 4011)
        assert isinstance(said, Refusal) and said.is_version


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(PMP_OK[:7], id="half a header"),
        pytest.param(PMP_OK[:-1], id="a byte less"),
        pytest.param(PMP_OK + b"\0", id="a byte more"),
        pytest.param(b"\x02" + PMP_OK[1:], id="another version"),
        pytest.param(b"\0\x81" + PMP_OK[2:], id="UDP"),
        pytest.param(b"\0\x02" + PMP_OK[2:], id="a request"),
        pytest.param(PMP_OK[:8] + b"\0\x16" + PMP_OK[10:], id="another port"),
        pytest.param(PMP_OK[:10] + b"\0\0" + PMP_OK[12:], id="no external port"),
    ],
)
def test_what_is_no_nat_pmp_answer_to_us_does_not_count(answer: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        wire.decode_pmp_map(answer, 4011)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(PCP_OK[:24], id="no mapping in it"),
        pytest.param(PCP_OK[:-4], id="a word less"),
        pytest.param(PCP_OK + b"\0", id="a byte more"),
        pytest.param(PCP_OK + bytes(1044), id="too long"),
        pytest.param(b"\x01" + PCP_OK[1:], id="another version"),
        pytest.param(b"\x02\x01" + PCP_OK[2:], id="a request"),
        pytest.param(b"\x02\x82" + PCP_OK[2:], id="another opcode"),
        pytest.param(PCP_OK[:24] + bytes(12) + PCP_OK[36:], id="another nonce"),
        pytest.param(PCP_OK[:3] + b"\x02" + PCP_OK[4:24] + bytes(12) + PCP_OK[36:], id="a forged refusal"),
        pytest.param(PCP_OK[:36] + b"\x11" + PCP_OK[37:], id="UDP"),
        pytest.param(PCP_OK[:40] + b"\0\x16" + PCP_OK[42:], id="another port"),
        pytest.param(PCP_OK[:42] + b"\0\0" + PCP_OK[44:], id="no external port"),
        pytest.param(PCP_OK[:44] + b"\x26" + PCP_OK[45:], id="an IPv6 address"),
        pytest.param(bytes.fromhex("0081000200000007"), id="NAT-PMP, but no unknown version"),
    ],
)
def test_what_is_no_pcp_answer_to_us_does_not_count(answer: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        wire.decode_pcp_map(answer, NONCE, 4011)


def test_the_external_address_of_a_nat_pmp_router() -> None:
    address = bytes.fromhex("00800000000000090b010001")
    assert wire.decode_pmp_address(address) == ExternalAddress("11.1.0.1", 9)
    assert wire.decode_pmp_address(address[:3] + b"\x02" + address[4:]) == Refusal(2, wire.PMP_REFUSALS[2])
    for wrong in (address[:-1], address + b"\0", PMP_OK):
        with pytest.raises(RemoteProtocolError):
            wire.decode_pmp_address(wrong)


def test_a_router_that_began_anew_is_heard_in_both_protocols() -> None:
    pcp = bytes.fromhex(f"028000000000000000000005{'00' * 12}")
    assert wire.decode_pcp_announce(pcp) == Announced(5)
    assert wire.heard_epoch(pcp) == 5
    assert wire.heard_epoch(bytes.fromhex("00800000000000090b010001")) == 9
    for other in (b"", b"\0", PCP_OK, PMP_OK, b"M-SEARCH", pcp[:3] + b"\x02" + pcp[4:]):
        assert wire.heard_epoch(other) is None
