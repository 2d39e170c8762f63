"""Noise transport ciphers: framing, nonces, bounds, in-place work and altered messages."""

import pytest
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from p2pfwd.errors import LocalProtocolError, RemoteProtocolError
from p2pfwd.wire.noise.cipher import MAX_PLAINTEXT, NONCE_END, TAG, OpenCipher, SealCipher

KEY = bytes(range(32))


def seal(cipher: SealCipher, plain: bytes) -> bytes:
    out = bytearray(len(plain) + TAG + 2)
    assert cipher.seal_into(memoryview(plain), memoryview(out)) == len(out)
    return bytes(out)


@pytest.mark.parametrize("size", [0, 1, 12, 1000, MAX_PLAINTEXT])
def test_a_frame_is_length_ciphertext_tag_under_a_counting_nonce(size: int) -> None:
    plain = bytes(i & 0xFF for i in range(size))
    cipher = SealCipher(KEY)
    for counter in range(3):
        nonce = bytes(4) + counter.to_bytes(8, "little")
        expected = (size + TAG).to_bytes(2, "big") + ChaCha20Poly1305(KEY).encrypt(nonce, plain, b"")
        assert seal(cipher, plain) == expected


@pytest.mark.parametrize("size", [0, 1, 1000, MAX_PLAINTEXT])
def test_open_undoes_seal_and_counts_along(size: int) -> None:
    sealer, opener = SealCipher(KEY), OpenCipher(KEY)
    out = bytearray(MAX_PLAINTEXT)
    for fill in (b"\xaa", b"\xbb"):
        frame = seal(sealer, fill * size)
        assert opener.open_into(memoryview(frame)[2:], memoryview(out)) == size
        assert out[:size] == fill * size


def test_seal_writes_nothing_behind_its_frame() -> None:
    out = bytearray(b"\xee" * 40)
    assert SealCipher(KEY).seal_into(memoryview(b"12345"), memoryview(out)) == 23
    assert out[23:] == b"\xee" * 17


def test_plaintext_in_its_place_is_sealed_and_opened_in_place() -> None:
    plain = bytes(range(256)) * 40
    expected = seal(SealCipher(KEY), plain)
    buffer = bytearray(2 + len(plain) + TAG)
    buffer[2 : 2 + len(plain)] = plain
    view = memoryview(buffer)
    SealCipher(KEY).seal_into(view[2 : 2 + len(plain)], view)
    assert buffer == expected
    assert OpenCipher(KEY).open_into(view[2:], view[2:]) == len(plain)
    assert buffer[2 : 2 + len(plain)] == plain


def test_an_altered_repeated_or_short_message_is_remote_blame() -> None:
    out = memoryview(bytearray(64))
    frame = seal(SealCipher(KEY), b"hello")[2:]
    for index in range(len(frame)):
        bad = bytearray(frame)
        bad[index] ^= 1
        with pytest.raises(RemoteProtocolError):
            OpenCipher(KEY).open_into(memoryview(bad), out)
    with pytest.raises(RemoteProtocolError):
        OpenCipher(KEY).open_into(memoryview(frame)[: TAG - 1], out)
    opener = OpenCipher(KEY)
    opener.open_into(memoryview(frame), out)
    with pytest.raises(RemoteProtocolError):
        opener.open_into(memoryview(frame), out)


def test_the_last_nonce_is_never_used() -> None:
    out = bytearray(64)
    sealer = SealCipher(KEY, nonce=NONCE_END - 1)
    opener = OpenCipher(KEY, nonce=NONCE_END - 1)
    frame = seal(sealer, b"last")
    assert opener.open_into(memoryview(frame)[2:], memoryview(out)) == 4
    with pytest.raises(LocalProtocolError):
        sealer.seal_into(memoryview(b""), memoryview(out))
    with pytest.raises(RemoteProtocolError):
        opener.open_into(memoryview(frame)[2:], memoryview(out))


def test_wrong_sizes_are_local_blame_and_cost_no_nonce() -> None:
    sealer, opener = SealCipher(KEY), OpenCipher(KEY)
    with pytest.raises(LocalProtocolError):
        sealer.seal_into(memoryview(bytes(MAX_PLAINTEXT + 1)), memoryview(bytearray(70_000)))
    with pytest.raises(LocalProtocolError):
        sealer.seal_into(memoryview(b"12345"), memoryview(bytearray(22)))
    frame = seal(sealer, b"12345")
    with pytest.raises(LocalProtocolError):
        opener.open_into(memoryview(frame)[2:], memoryview(bytearray(4)))
    assert opener.open_into(memoryview(frame)[2:], memoryview(bytearray(5))) == 5
