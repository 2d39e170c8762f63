"""AES-256-GCM in the transport phase: how it is agreed, its keys, nonces, rekeying, what strangers list.

And the same with wide messages.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from p2pfwd.core.keys import PrivateKey
from p2pfwd.core.pb.noise_pb2 import NoiseExtensions, NoiseHandshakePayload
from p2pfwd.errors import LocalProtocolError, RemoteProtocolError
from p2pfwd.wire.noise.cipher import (
    AES,
    AES_WIDE,
    CHACHA,
    MAX_MESSAGE,
    MAX_WIDE_MESSAGE,
    NONCE_END,
    REKEY_MESSAGES,
    REKEY_WIDE_MESSAGES,
    TAG,
    OpenCipher,
    SealCipher,
    Suite,
    wide_length,
)
from p2pfwd.wire.noise.handshake import (
    AES_CIPHER,
    AES_INFO,
    MAX_CIPHER_NAME,
    MAX_CIPHERS,
    SIGNATURE_PREFIX,
    WIDE_CIPHER,
    WIDE_INFO,
    NoiseHandshake,
)
from p2pfwd.wire.noise.xx import ENTROPY_BYTES, NoiseXX
from tests.vectors.make_noise_aes import made

VECTORS = json.loads((Path(__file__).parents[2] / "vectors/noise_aes.json").read_text())
TRANSCRIPTS = VECTORS["transcripts"]
YAMUX = "/yamux/1.0.0"
KEY = bytes(range(32))
IDENTITY = PrivateKey.generate()


def sealed(cipher: SealCipher, plain: bytes) -> bytes:
    out = bytearray(len(plain) + TAG + head(len(plain)))
    assert cipher.seal_into(memoryview(plain), memoryview(out)) == len(out)
    return bytes(out)


def opened(cipher: OpenCipher, frame: bytes) -> bytes:
    out = bytearray(len(frame))
    start = 2 if len(frame) <= MAX_MESSAGE + 2 else 4
    return bytes(out[: cipher.open_into(memoryview(frame)[start:], memoryview(out))])


def head(plain_bytes: int) -> int:
    """Bytes of the length in front."""
    return 2 if plain_bytes + TAG <= MAX_MESSAGE else 4


def passes(sender: SealCipher, receiver: OpenCipher, entry: dict[str, Any]) -> None:
    """A message of the vectors, sealed by one and opened by the other."""
    if "zeros" not in entry:
        assert sealed(sender, bytes.fromhex(entry["plaintext_hex"])).hex() == entry["frame_hex"]
        assert opened(receiver, bytes.fromhex(entry["frame_hex"])).hex() == entry["plaintext_hex"]
        return
    frame = sealed(sender, bytes(entry["zeros"]))
    assert frame[:32].hex() == entry["frame_start_hex"]
    assert hashlib.sha256(frame).hexdigest() == entry["frame_sha256_hex"]
    assert opened(receiver, frame) == bytes(entry["zeros"])


def identity(role: str) -> PrivateKey:
    seed = bytes.fromhex(VECTORS["identity_seeds_hex"][role])
    public = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
    return PrivateKey.from_protobuf(b"\x08\x01\x12\x40" + seed + public)


def from_vector(vector: dict[str, Any], role: str, *, aes: bool = True) -> NoiseHandshake:
    entropy = VECTORS["statics_hex"][role] + VECTORS["ephemerals_hex"][role]
    return NoiseHandshake(
        initiator=role == "init",
        identity=identity(role),
        expected_peer=None,
        muxers=vector["muxers"],
        entropy=bytes.fromhex(entropy),
        aes=aes,
        wide=vector["wide"],
    )


def side(role: str, *, aes: bool, wide: bool = False, muxers: Sequence[str] = ()) -> NoiseHandshake:
    return NoiseHandshake(
        initiator=role == "init",
        identity=IDENTITY,
        expected_peer=None,
        muxers=muxers,
        entropy=os.urandom(ENTROPY_BYTES),
        aes=aes,
        wide=wide,
    )


def run(init: NoiseHandshake, resp: NoiseHandshake) -> list[bytes]:
    resp.start()
    frames = [init.start()]
    frames.append(resp.receive(frames[-1]))
    frames.append(init.receive(frames[-1]))
    assert resp.receive(frames[-1]) == b""
    return frames


def suite_of(vector: dict[str, Any]) -> Suite:
    return AES_WIDE if vector["wide"] else AES


# --- as specified -----------------------------------------------------------------------------------


def test_the_vectors_are_what_their_maker_makes_and_the_names_and_bounds_are_its() -> None:
    assert made() == VECTORS
    assert (VECTORS["cipher"], VECTORS["info"].encode()) == (AES_CIPHER, AES_INFO)
    assert VECTORS["field"] == NoiseExtensions.CIPHERS_FIELD_NUMBER
    assert VECTORS["rekey_messages"] == REKEY_MESSAGES == AES.rekey_every
    assert (VECTORS["wide_cipher"], VECTORS["wide_info"].encode()) == (WIDE_CIPHER, WIDE_INFO)
    assert VECTORS["wide_rekey_messages"] == REKEY_WIDE_MESSAGES == AES_WIDE.rekey_every
    assert REKEY_WIDE_MESSAGES * MAX_WIDE_MESSAGE == REKEY_MESSAGES * (MAX_MESSAGE + 1)


@pytest.mark.parametrize("vector", TRANSCRIPTS, ids=[it["name"] for it in TRANSCRIPTS])
def test_handshake_keys_and_first_messages_are_those_of_the_vectors(vector: dict[str, Any]) -> None:
    init, resp = from_vector(vector, "init"), from_vector(vector, "resp")
    assert [frame.hex() for frame in run(init, resp)] == vector["frames_hex"]
    for one in (init, resp):
        assert one.handshake_hash.hex() == vector["handshake_hash_hex"]
        assert one.seal.suite is one.open.suite is suite_of(vector)
        assert one.muxer == (YAMUX if vector["muxers"] else None)
    for sender, receiver, way in ((init, resp, "from_init"), (resp, init, "from_resp")):
        for entry in vector[way]["messages"]:
            if entry["count"] >= suite_of(vector).rekey_every - 1:
                break
            passes(sender.seal, receiver.open, entry)


@pytest.mark.parametrize("epoch", [1, 2])
@pytest.mark.parametrize("way", ["from_init", "from_resp"])
@pytest.mark.parametrize("vector", TRANSCRIPTS, ids=[it["name"] for it in TRANSCRIPTS])
def test_the_key_changes_at_the_vectors_count(vector: dict[str, Any], way: str, epoch: int) -> None:
    """The last message of one key and the first of the next, by both ciphers, one after the other."""
    key = bytes.fromhex(vector[way]["keys_hex"][epoch - 1])
    suite = suite_of(vector)
    start = epoch * suite.rekey_every - 1
    sealer, opener = SealCipher(key, start, suite), OpenCipher(key, start, suite)
    entries = [it for it in vector[way]["messages"] if it["count"] in (start, start + 1)]
    assert len(entries) == 2
    for entry in entries:
        passes(sealer, opener, entry)


def test_with_a_bound_of_three_each_three_messages_have_their_own_key_and_the_counter_goes_on() -> None:
    suite = replace(AES, rekey_every=3)
    sealer, opener = SealCipher(KEY, suite=suite), OpenCipher(KEY, suite=suite)
    key = KEY
    for count in range(10):
        if count in (3, 6, 9):
            key = AESGCM(key).encrypt(bytes(4) + b"\xff" * 8, bytes(32), None)[:32]
        frame = sealed(sealer, b"plain %d" % count)
        nonce = bytes(4) + count.to_bytes(8, "big")
        assert AESGCM(key).decrypt(nonce, frame[2:], None) == b"plain %d" % count
        assert opened(opener, frame) == b"plain %d" % count


def test_a_cipher_that_rests_after_any_message_goes_on_with_the_same_keys_and_holds_no_aead() -> None:
    suite = replace(AES, rekey_every=3)
    sealer, twin = SealCipher(KEY, suite=suite), SealCipher(KEY, suite=suite)
    opener = OpenCipher(KEY, suite=suite)
    for count in range(10):
        frame = sealed(sealer, b"plain %d" % count)
        assert frame == sealed(twin, b"plain %d" % count)
        assert opened(opener, frame) == b"plain %d" % count
        for cipher in (sealer, opener):
            cipher.rest()
            cipher.rest()
            held = [getattr(value, "__self__", None) for value in gc.get_referents(cipher)]
            assert count % 3 == 2 or not any(isinstance(value, AESGCM) for value in held)


def test_an_opener_that_missed_the_change_of_keys_opens_nothing_behind_it() -> None:
    sealer, opener = SealCipher(KEY, suite=replace(AES, rekey_every=3)), OpenCipher(KEY, suite=AES)
    for _ in range(3):
        opened(opener, sealed(sealer, b""))
    with pytest.raises(RemoteProtocolError):
        opened(opener, sealed(sealer, b""))


def test_chacha_is_never_rekeyed_and_the_last_nonce_is_used_by_neither() -> None:
    for suite in (CHACHA, AES):
        sealer = SealCipher(KEY, NONCE_END - 1, suite)
        opener = OpenCipher(KEY, NONCE_END - 1, suite)
        frame = sealed(sealer, b"last")
        assert opened(opener, frame) == b"last"
        for _ in range(2):
            with pytest.raises(LocalProtocolError, match="used up"):
                sealed(sealer, b"")
            with pytest.raises(RemoteProtocolError, match="used up"):
                opened(opener, frame)
    assert CHACHA.rekey_every == NONCE_END


# --- who has it -------------------------------------------------------------------------------------


@pytest.mark.parametrize("muxers", [(), (YAMUX,)])
@pytest.mark.parametrize("theirs", [True, False])
@pytest.mark.parametrize("ours", [True, False])
def test_aes_is_used_when_both_list_it(ours: bool, theirs: bool, muxers: tuple[str, ...]) -> None:
    init, resp = side("init", aes=ours, muxers=muxers), side("resp", aes=theirs, muxers=muxers)
    run(init, resp)
    suite = AES if ours and theirs else CHACHA
    for sender, receiver in ((init, resp), (resp, init)):
        assert sender.seal.suite is sender.open.suite is suite
        assert opened(receiver.open, sealed(sender.seal, b"through")) == b"through"
    assert init.muxer == (YAMUX if muxers else None)


@pytest.mark.parametrize("theirs", ["wide", "aes", ""])
@pytest.mark.parametrize("ours", ["wide", "aes", ""])
def test_messages_may_be_wide_when_both_list_it_and_else_there_is_aes_or_chacha(
    ours: str, theirs: str
) -> None:
    init = side("init", aes=bool(ours), wide=ours == "wide")
    resp = side("resp", aes=bool(theirs), wide=theirs == "wide")
    run(init, resp)
    suite = AES_WIDE if ours == theirs == "wide" else AES if ours and theirs else CHACHA
    for sender, receiver in ((init, resp), (resp, init)):
        assert sender.seal.suite is sender.open.suite is suite
        assert opened(receiver.open, sealed(sender.seal, b"through")) == b"through"


def test_who_does_not_list_aes_lists_nothing_wide_either() -> None:
    assert not _payload_of(side("resp", aes=False, wide=True)).HasField("extensions")
    names = _payload_of(side("resp", aes=True, wide=True)).extensions.ciphers
    assert list(names) == [WIDE_CIPHER, AES_CIPHER]


@pytest.mark.parametrize("suite", [CHACHA, AES, AES_WIDE], ids=["chacha", "aes", "wide"])
def test_no_message_is_sealed_that_is_longer_than_its_suites(suite: Suite) -> None:
    sealer, opener = SealCipher(KEY, suite=suite), OpenCipher(KEY, suite=suite)
    longest = suite.max_message - TAG
    assert longest == ((1 << 18) - 16 if suite is AES_WIDE else 65519)
    assert opened(opener, sealed(sealer, bytes(longest))) == bytes(longest)
    with pytest.raises(LocalProtocolError, match="do not fit"):
        sealed(sealer, bytes(longest + 1))
    with pytest.raises(LocalProtocolError, match="do not fit"):
        sealer.seal_into(memoryview(bytes(longest)), memoryview(bytearray(longest + TAG + head(longest) - 1)))


@pytest.mark.parametrize("length", [MAX_MESSAGE + 1, MAX_WIDE_MESSAGE])
def test_a_wide_length_is_one_that_two_bytes_cannot_say_and_its_first_two_are_less_than_a_tag(
    length: int,
) -> None:
    prefix = length.to_bytes(4, "big")
    assert wide_length(memoryview(prefix)) == length
    assert int.from_bytes(prefix[:2], "big") < TAG
    for wrong in (0, 16, MAX_MESSAGE, MAX_WIDE_MESSAGE + 1, (TAG << 16) - 1, 0xFFFF_FFFF):
        with pytest.raises(RemoteProtocolError):
            wide_length(memoryview(wrong.to_bytes(4, "big")))


def test_a_wide_message_is_sealed_and_opened_in_place() -> None:
    sealer, opener = SealCipher(KEY, suite=AES_WIDE), OpenCipher(KEY, suite=AES_WIDE)
    buffer = bytearray(4) + bytes([9]) * 100_000 + bytes(TAG)
    view = memoryview(buffer)
    assert sealer.seal_into(view[4:-TAG], view) == len(buffer)
    assert opener.open_into(view[4:], view[4:]) == 100_000 and bytes(view[4:-TAG]) == bytes([9]) * 100_000


def test_one_side_without_it_leaves_chachas_keys_as_split_made_them() -> None:
    vector = TRANSCRIPTS[0]
    init, resp = from_vector(vector, "init", aes=False), from_vector(vector, "resp")
    run(init, resp)
    keys = init._xx.split()
    assert sealed(init.seal, b"x") == sealed(SealCipher(keys[0]), b"x")
    assert sealed(resp.seal, b"x") == sealed(SealCipher(keys[1]), b"x")


def test_without_it_and_without_muxers_no_extension_is_sent() -> None:
    assert not _payload_of(side("resp", aes=False)).HasField("extensions")
    assert list(_payload_of(side("resp", aes=True)).extensions.ciphers) == [AES_CIPHER]


def test_a_changed_list_ends_the_handshake() -> None:
    """A man in the middle who takes the cipher out of message 2 has to change a sealed message."""
    answer = bytes.fromhex(TRANSCRIPTS[0]["frames_hex"][1])
    behind = TAG + len(listed(NAME))
    for at in (None, *range(len(answer) - behind, len(answer))):
        changed = bytearray(answer)
        init = from_vector(TRANSCRIPTS[0], "init")
        init.start()
        if at is None:
            init.receive(changed)
            assert init.done
            continue
        changed[at] ^= 1
        with pytest.raises(RemoteProtocolError):
            init.receive(changed)


def _payload_of(resp: NoiseHandshake) -> NoiseHandshakePayload:
    """Of its message 2, as whoever dials it reads it."""
    xx = NoiseXX(initiator=True, entropy=os.urandom(ENTROPY_BYTES))
    resp.start()
    first = xx.write_message(b"")
    message = resp.receive(len(first).to_bytes(2, "big") + first)
    return NoiseHandshakePayload.FromString(xx.read_message(message[2:]))


def _meets(ciphers: bytes) -> NoiseHandshake:
    """An initiator that wants AES, after message 2 with `ciphers` as the extensions' bytes."""
    init = side("init", aes=True, muxers=(YAMUX,))
    xx = NoiseXX(initiator=False, entropy=os.urandom(ENTROPY_BYTES))
    xx.read_message(init.start()[2:])
    payload = NoiseHandshakePayload(
        identity_key=IDENTITY.public_key.to_protobuf(),
        identity_sig=IDENTITY.sign(SIGNATURE_PREFIX + xx.local_static),
        extensions=NoiseExtensions(stream_muxers=[YAMUX]),
    ).SerializeToString()
    length = bytes((len(ciphers) & 0x7F | 0x80, len(ciphers) >> 7))
    message = xx.write_message(payload + b"\x22" + length + ciphers)
    init.receive(len(message).to_bytes(2, "big") + message)
    return init


def listed(*names: bytes) -> bytes:
    return b"".join(b"\x8a\x40" + bytes((len(name),)) + name for name in names)


NAME = AES_CIPHER.encode()


@pytest.mark.parametrize(
    ("ciphers", "suite"),
    [
        (listed(NAME), AES),
        (listed(NAME, NAME), AES),
        (listed(b"other", NAME), AES),
        (listed(b"", b"\xff\xfe", NAME), AES),
        (listed(*[b"x"] * (MAX_CIPHERS - 1), NAME), AES),
        (listed(b"x" * MAX_CIPHER_NAME, NAME), AES),
        (b"", CHACHA),
        (listed(b"\xff\xfe"), CHACHA),
        (listed(b"p2pfwd/aes-256-gcm/2", NAME[:-1], NAME + b"\x00", NAME.upper()), CHACHA),
        (listed(*[b"x"] * MAX_CIPHERS, NAME), CHACHA),
        (listed(NAME, *[b"x"] * 4000), CHACHA),
        (listed(NAME, b"x" * (MAX_CIPHER_NAME + 1)), CHACHA),
        (b"\x88\x40\x07", CHACHA),  # a number in its place
    ],
)
def test_what_a_stranger_lists_leads_to_aes_or_to_chacha_and_never_to_a_failure(
    ciphers: bytes, suite: Any
) -> None:
    init = _meets(ciphers)
    assert init.done and init.muxer == YAMUX
    assert init.seal.suite is init.open.suite is suite


def test_each_direction_has_its_own_key() -> None:
    for vector in TRANSCRIPTS:
        keys = [key for way in ("from_init", "from_resp") for key in vector[way]["keys_hex"]]
        keys += vector["split_hex"]
        assert all(a != b for a, b in pairwise(sorted(keys)))
