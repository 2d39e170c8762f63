"""multistream-select: the bytes of both roles, every refusal, and what must survive a negotiation."""

import json
from pathlib import Path

import pytest

from p2pfwd.errors import LocalProtocolError, ProtocolNotSupported, RemoteProtocolError
from p2pfwd.wire.multistream import (
    HEADER,
    MAX_PROPOSALS,
    MAX_TOKEN_BYTES,
    MULTISTREAM,
    DialerNegotiation,
    ListenerNegotiation,
    encode_token,
)

VECTORS = Path(__file__).parents[2] / "vectors"
NA = b"\x03na\n"


def feed(negotiation: DialerNegotiation | ListenerNegotiation, data: bytes, step: int) -> bytes:
    return b"".join(negotiation.receive(data[i : i + step]) for i in range(0, len(data), step))


def frames() -> list[tuple[str, str]]:
    entries = json.loads((VECTORS / "frames.json").read_text())["frames"]
    return [(e["name"][4:], e["hex"]) for e in entries if e["name"].startswith("mss:")]


@pytest.mark.parametrize(("name", "encoded"), frames())
def test_tokens_match_the_hand_encoded_frames(name: str, encoded: str) -> None:
    assert encode_token(name).hex() == encoded


def test_dialer_sends_header_and_first_proposal_in_one_write() -> None:
    assert DialerNegotiation(["/noise", "/tls/1.0.0"]).start() == HEADER + encode_token("/noise")


@pytest.mark.parametrize("step", [1, 3, 1000])
def test_dialer_goes_to_the_next_proposal_on_na_and_keeps_what_follows(step: int) -> None:
    dialer = DialerNegotiation(["/tls/1.0.0", "/noise"])
    dialer.start()
    assert feed(dialer, HEADER + NA, step) == encode_token("/noise")
    assert dialer.selected is None
    assert feed(dialer, encode_token("/noise") + b"next layer", step) == b""
    assert dialer.selected == "/noise"
    assert dialer.leftover() == b"next layer"
    assert dialer.leftover() == b""


def test_dialer_reports_that_every_proposal_was_refused() -> None:
    dialer = DialerNegotiation(["/a", "/b"])
    dialer.receive(HEADER + NA)
    with pytest.raises(ProtocolNotSupported) as caught:
        dialer.receive(NA)
    assert caught.value.details == {"protocols": ["/a", "/b"]}


@pytest.mark.parametrize(
    "reply",
    [
        encode_token("/multistream/2.0.0"),
        NA,
        HEADER + encode_token("/other"),
        HEADER + encode_token("ls"),
        HEADER + b"\x00",
        HEADER + b"\x02/a",
        b"H",  # an HTTP or SSH server must fail at its first byte, not at a deadline
        b"\x81\x00",
        HEADER + b"\x81\x00",
        HEADER + b"\x81\x08",
        HEADER + b"\xff\xff",
        HEADER + b"\x80\x80",
    ],
)
@pytest.mark.parametrize("step", [1, 1000])
def test_dialer_refuses_anything_but_header_echo_or_na(reply: bytes, step: int) -> None:
    dialer = DialerNegotiation(["/a"])
    with pytest.raises(RemoteProtocolError):
        feed(dialer, reply, step)


@pytest.mark.parametrize("step", [1, 7, 1000])
def test_listener_survives_the_simopen_dial_of_old_go(step: int) -> None:
    """Kubo <= 0.23 pipelines header, simopen and tls in one write on every dial."""
    listener = ListenerNegotiation({"/noise", "/tls/1.0.0"}.__contains__)
    assert listener.start() == HEADER
    simopen, tls = encode_token("/libp2p/simultaneous-connect"), encode_token("/tls/1.0.0")
    assert feed(listener, HEADER + simopen + tls + b"\x16\x03\x01", step) == NA + encode_token("/tls/1.0.0")
    assert listener.selected == "/tls/1.0.0"
    assert listener.leftover() == b"\x16\x03\x01"


@pytest.mark.parametrize("name", [b"ls", b"na", b"", b"noise", b"/\xff\xfe", MULTISTREAM.encode(), b"/a\n/b"])
def test_listener_answers_na_to_what_cannot_be_a_protocol_of_ours(name: bytes) -> None:
    asked: list[str] = []
    listener = ListenerNegotiation(lambda n: bool(asked.append(n)))
    assert listener.receive(HEADER + bytes([len(name) + 1]) + name + b"\n") == NA
    assert listener.selected is None
    assert all(n.startswith("/") for n in asked)


def test_listener_never_asks_about_names_after_the_selection() -> None:
    asked: list[str] = []

    def supported(name: str) -> bool:
        asked.append(name)
        return True

    listener = ListenerNegotiation(supported)
    assert listener.receive(HEADER + encode_token("/a") + encode_token("/b")) == encode_token("/a")
    assert asked == ["/a"]
    assert listener.leftover() == encode_token("/b")


def test_listener_ends_a_peer_that_proposes_without_end() -> None:
    listener = ListenerNegotiation(lambda name: False)
    assert listener.receive(HEADER + encode_token("/a") * MAX_PROPOSALS) == NA * MAX_PROPOSALS
    with pytest.raises(RemoteProtocolError):
        listener.receive(encode_token("/a"))


def test_the_longest_token_is_taken_and_one_byte_more_is_not() -> None:
    name = "/" + "x" * (MAX_TOKEN_BYTES - 2)
    listener = ListenerNegotiation(name.__eq__)
    assert listener.receive(HEADER + encode_token(name)) == encode_token(name)
    with pytest.raises(LocalProtocolError):
        encode_token(name + "x")
    with pytest.raises(RemoteProtocolError):
        ListenerNegotiation(name.__eq__).receive(HEADER + b"\x81\x08")


def test_bytes_after_the_selection_are_kept_until_they_are_handed_on() -> None:
    listener = ListenerNegotiation("/a".__eq__)
    listener.receive(HEADER + encode_token("/a") + b"1")
    assert listener.receive(b"2") == b""
    assert listener.leftover() == b"12"
    with pytest.raises(LocalProtocolError):
        listener.receive(b"3")


def test_misuse_is_local_blame() -> None:
    with pytest.raises(LocalProtocolError):
        DialerNegotiation([])
    with pytest.raises(LocalProtocolError):
        DialerNegotiation(["/a\n/b"])
    with pytest.raises(LocalProtocolError):
        DialerNegotiation(["/a"]).leftover()


def test_the_refusal_before_a_violation_can_still_be_sent() -> None:
    """A dialer whose data rode along with a refused proposal must learn that it was refused."""
    listener = ListenerNegotiation(lambda _name: False)
    with pytest.raises(RemoteProtocolError):
        listener.receive(HEADER + encode_token("/gone/1") + b"\x05no token")
    assert listener.last_words() == encode_token("na")
    assert listener.last_words() == b""
