"""The libp2p handshake: full transcripts with fixed keys, real Kubo payloads, and every refusal."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from p2pfwd.core.keys import MAX_SIGNATURE_BYTES, PrivateKey, PublicKey
from p2pfwd.core.pb.noise_pb2 import NoiseExtensions, NoiseHandshakePayload
from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import HandshakeFailed, LocalProtocolError, PeerIdMismatch
from p2pfwd.wire.noise.cipher import TAG
from p2pfwd.wire.noise.handshake import (
    MAX_HANDSHAKE_MESSAGE_BYTES,
    MAX_MUXERS,
    SIGNATURE_PREFIX,
    NoiseHandshake,
)
from p2pfwd.wire.noise.xx import ENTROPY_BYTES, NoiseXX

VECTORS = Path(__file__).parents[2] / "vectors"
TRANSCRIPTS = json.loads((VECTORS / "noise_libp2p_transcript.json").read_text())["transcripts"]
YAMUX = "/yamux/1.0.0"


@pytest.fixture(scope="module")
def identities() -> tuple[PrivateKey, PrivateKey]:
    return PrivateKey.generate(), PrivateKey.generate()


def peer_of(key: PrivateKey) -> PeerId:
    return PeerId.from_public_key(key.public_key)


def handshake(**options: Any) -> NoiseHandshake:
    return NoiseHandshake(**options, entropy=os.urandom(ENTROPY_BYTES))


def from_vector(vector: dict[str, Any], role: str, muxers: list[str]) -> NoiseHandshake:
    other = "resp" if role == "init" else "init"
    return NoiseHandshake(
        initiator=role == "init",
        identity=PrivateKey.from_protobuf(bytes.fromhex(vector[f"{role}_identity_private_pb_hex"])),
        expected_peer=PeerId.parse(vector[f"{other}_peer_id"]) if role == "init" else None,
        muxers=muxers,
        entropy=bytes.fromhex(vector[f"{role}_static_hex"] + vector[f"{role}_ephemeral_hex"]),
    )


def feed(side: NoiseHandshake, data: bytes, step: int) -> bytes:
    return b"".join(side.receive(data[i : i + step]) for i in range(0, len(data), step))


@pytest.mark.parametrize("step", [1, 5, 100_000])
@pytest.mark.parametrize(
    ("vector", "muxers"),
    [(TRANSCRIPTS[0], [YAMUX]), (TRANSCRIPTS[1], [])],
    ids=[t["name"] for t in TRANSCRIPTS],
)
def test_the_transcript_is_reproduced_to_the_byte(
    vector: dict[str, Any], muxers: list[str], step: int
) -> None:
    frames = [bytes.fromhex(f["frame_hex"]) for f in vector["frames"]]
    init, resp = (from_vector(vector, role, muxers) for role in ("init", "resp"))
    assert init.start() == frames[0]
    assert resp.start() == b""
    assert feed(resp, frames[0], step) == frames[1]
    assert feed(init, frames[1], step) == frames[2]
    assert init.done and not resp.done
    later = b"".join(bytes.fromhex(f["frame_hex"]) for f in vector["frames"][3:] if f["from_"] == "init")
    assert feed(resp, frames[2] + later, step) == b""
    assert resp.done
    assert resp.leftover() == later
    for side, other in ((init, "resp"), (resp, "init")):
        assert side.handshake_hash.hex() == vector["handshake_hash_hex"]
        assert str(side.remote_peer) == vector[f"{other}_peer_id"]
        assert side.muxer == (YAMUX if muxers else None)
    check_transport(init, resp, vector)


def check_transport(init: NoiseHandshake, resp: NoiseHandshake, vector: dict[str, Any]) -> None:
    for entry in vector["frames"][3:]:
        sender, receiver = (init, resp) if entry["from_"] == "init" else (resp, init)
        plain = bytes.fromhex(entry["plaintext_hex"])
        out = bytearray(len(plain) + TAG + 2)
        sender.seal.seal_into(memoryview(plain), memoryview(out))
        assert out.hex() == entry["frame_hex"]
        assert receiver.open.open_into(memoryview(out)[2:], memoryview(out)) == len(plain)
        assert out[: len(plain)] == plain


@pytest.mark.parametrize("name", ["noise_msg2_payload_fields", "noise_rsa_msg2_payload_fields"])
def test_payloads_of_a_real_kubo_parse(name: str) -> None:
    """Kubo 0.22 offers yamux and mplex; its identity may be Ed25519 or RSA."""
    fields = json.loads((VECTORS / "kubo022_capture.json").read_text())[name]
    payload = NoiseHandshakePayload(
        identity_key=bytes.fromhex(fields["1"][0]),
        identity_sig=bytes.fromhex(fields["2"][0]),
        extensions=NoiseExtensions.FromString(bytes.fromhex(fields["4"][0])),
    )
    PublicKey.from_protobuf(payload.identity_key)
    assert len(payload.identity_sig) <= MAX_SIGNATURE_BYTES
    assert list(payload.extensions.stream_muxers) == [YAMUX, "/mplex/6.7.0"]


def run(init: NoiseHandshake, resp: NoiseHandshake) -> None:
    to_resp = init.start()
    resp.start()
    while not (init.done and resp.done):
        to_init = resp.receive(to_resp)
        to_resp = init.receive(to_init) if to_init else b""


@pytest.mark.parametrize(
    ("initiators", "responders", "agreed"),
    [
        ([YAMUX], [YAMUX], YAMUX),
        ([YAMUX], [YAMUX, "/mplex/6.7.0"], YAMUX),
        (["/mplex/6.7.0", YAMUX], [YAMUX, "/mplex/6.7.0"], "/mplex/6.7.0"),
        (["/mplex/6.7.0"], [YAMUX], None),
        ([], [YAMUX], None),
        ([YAMUX], [], None),
        ([YAMUX], ["/a"] * MAX_MUXERS + [YAMUX], None),
        ([YAMUX], ["/a"] * (MAX_MUXERS - 1) + [YAMUX], YAMUX),
    ],
)
def test_the_muxer_is_the_initiators_first_that_the_responder_lists(
    identities: tuple[PrivateKey, PrivateKey],
    initiators: list[str],
    responders: list[str],
    agreed: str | None,
) -> None:
    a, b = identities
    init = handshake(initiator=True, identity=a, expected_peer=peer_of(b), muxers=initiators)
    resp = handshake(initiator=False, identity=b, expected_peer=None, muxers=responders)
    run(init, resp)
    # Each side ignores a list that is too long on its own; here only the responder's may be.
    assert init.muxer == agreed
    if len(responders) <= MAX_MUXERS:
        assert resp.muxer == agreed
    assert resp.remote_peer == peer_of(a)
    assert init.remote_key == b.public_key


def test_a_dialer_refuses_another_identity_before_it_checks_the_signature(
    identities: tuple[PrivateKey, PrivateKey],
) -> None:
    a, b = identities
    init = handshake(initiator=True, identity=a, expected_peer=peer_of(a), muxers=[])
    with pytest.raises(PeerIdMismatch) as caught:
        init.receive(answer(init, b, signature=b"not a signature"))
    assert caught.value.details == {"expected": str(peer_of(a)), "actual": str(peer_of(b))}
    assert not init.done


def answer(init: NoiseHandshake, identity: PrivateKey, **fields: Any) -> bytes:
    """The framed message 2 of a responder whose payload differs from a right one in `fields`."""
    xx = NoiseXX(initiator=False, entropy=os.urandom(ENTROPY_BYTES))
    xx.read_message(init.start()[2:])
    key = fields.get("key", identity.public_key.to_protobuf())
    signature = fields.get(
        "signature", identity.sign(SIGNATURE_PREFIX + fields.get("signed", xx.local_static))
    )
    payload = NoiseHandshakePayload(identity_key=key, identity_sig=signature).SerializeToString()
    message = xx.write_message(fields.get("payload", payload))
    return len(message).to_bytes(2, "big") + message


@pytest.mark.parametrize(
    "fields",
    [
        {"signature": b""},
        {"signature": bytes(64)},
        {"signature": bytes(MAX_SIGNATURE_BYTES + 1)},
        {"signed": bytes(32)},
        {"key": b""},
        {"key": b"\x08\x01\x12\x05short"},
        {"key": b"\x08\x63\x12\x20" + bytes(32)},
        {"payload": b""},
        {"payload": b"\x0a\xff\xff\xff\xff\x0f"},
        {"payload": b"\xff" * 20},
    ],
)
def test_a_wrong_payload_ends_the_handshake(
    identities: tuple[PrivateKey, PrivateKey], fields: dict[str, Any]
) -> None:
    a, b = identities
    init = handshake(initiator=True, identity=a, expected_peer=None, muxers=[])
    with pytest.raises(HandshakeFailed):
        init.receive(answer(init, b, **fields))
    with pytest.raises(LocalProtocolError):
        _ = init.seal


def test_muxer_names_outside_utf8_and_unknown_fields_do_no_harm(
    identities: tuple[PrivateKey, PrivateKey],
) -> None:
    a, b = identities
    init = handshake(initiator=True, identity=a, expected_peer=None, muxers=[YAMUX])
    xx = NoiseXX(initiator=False, entropy=os.urandom(ENTROPY_BYTES))
    xx.read_message(init.start()[2:])
    payload = NoiseHandshakePayload(
        identity_key=b.public_key.to_protobuf(), identity_sig=b.sign(SIGNATURE_PREFIX + xx.local_static)
    ).SerializeToString()
    payload += b"\x1a\x05early"  # field 3 was early data
    payload += b"\x22\x10\x12\x0c" + YAMUX.encode() + b"\x12\x00" + b"\x22\x04\x12\x02\xff\xfe"
    message = xx.write_message(payload)
    init.receive(len(message).to_bytes(2, "big") + message)
    assert init.muxer == YAMUX


@pytest.mark.parametrize("step", [1, 100_000])
@pytest.mark.parametrize(
    "data",
    [
        b"\x00\x00",
        b"\x00\x1f" + bytes(31),
        (MAX_HANDSHAKE_MESSAGE_BYTES + 1).to_bytes(2, "big"),
        b"\xff\xff" + bytes(100),
        b"HTTP/1.1 400",
        b"\x00\x20" + bytes(32),
    ],
)
def test_hostile_first_messages_are_refused(
    identities: tuple[PrivateKey, PrivateKey], data: bytes, step: int
) -> None:
    resp = handshake(initiator=False, identity=identities[0], expected_peer=None, muxers=[])
    resp.start()
    with pytest.raises(HandshakeFailed):
        feed(resp, data, step)


def test_misuse_is_local_blame(identities: tuple[PrivateKey, PrivateKey]) -> None:
    a, b = identities
    init = handshake(initiator=True, identity=a, expected_peer=None, muxers=[])
    resp = handshake(initiator=False, identity=b, expected_peer=None, muxers=[])
    with pytest.raises(LocalProtocolError):
        init.receive(b"")
    for attribute in ("seal", "open", "remote_key", "remote_peer"):
        with pytest.raises(LocalProtocolError):
            getattr(init, attribute)
    with pytest.raises(LocalProtocolError):
        init.leftover()
    run(init, resp)
    with pytest.raises(LocalProtocolError):
        init.start()
    init.leftover()
    with pytest.raises(LocalProtocolError):
        init.receive(b"")
