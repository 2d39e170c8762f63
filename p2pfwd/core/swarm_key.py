"""The pre-shared key of a private network, and Kubo's `swarm.key` file of it (libp2p spec: pnet).

    /key/swarm/psk/1.0.0/
    /base16/
    <64 hexadecimal digits>

The second line may also be `/base64/`, or `/bin/` with the 32 bytes as they are. Rules: lines may end in
CRLF, as go reads them; white space around the key is nothing, more than the key is an error; no error
message, and no `repr`, shows any of the file: a key without its two lines is a secret all the same.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from p2pfwd.core import salsa20
from p2pfwd.errors import InvalidKey

PSK_BYTES: Final = 32
_TYPE: Final = b"/key/swarm/psk/1.0.0/"
_FINGERPRINT_NONCE: Final = b"finprint"
_FINGERPRINT_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class SwarmKey:
    """32 secret bytes that every node of a private network has."""

    psk: bytes

    def __post_init__(self) -> None:
        """Raises InvalidKey on another length."""
        if len(self.psk) != PSK_BYTES:
            raise InvalidKey(f"the key has {len(self.psk)} bytes, where {PSK_BYTES} are needed")

    def __repr__(self) -> str:
        """Its fingerprint, not the key."""
        return f"SwarmKey({self.fingerprint()})"

    @classmethod
    def parse(cls, data: bytes) -> SwarmKey:
        """The key in the content of a swarm.key file. Raises InvalidKey."""
        kind, _, rest = data.partition(b"\n")
        encoding, _, body = rest.partition(b"\n")
        if kind.rstrip(b"\r") != _TYPE:
            raise InvalidKey(f"the first line must be {_TYPE.decode()}")
        match encoding.rstrip(b"\r"):
            case b"/base16/":
                return cls(_decoded("/base16/", binascii.unhexlify, body))
            case b"/base64/":
                return cls(_decoded("/base64/", lambda text: base64.b64decode(text, validate=True), body))
            case b"/bin/":
                # What ends a line after the key may also be the key's last byte: count first.
                return cls(body if len(body) <= PSK_BYTES or body[PSK_BYTES:].strip() else body[:PSK_BYTES])
        raise InvalidKey("the second line must be /base16/, /base64/ or /bin/")

    def encode(self) -> bytes:
        """The content of a swarm.key file, as Kubo's own tools write it."""
        return b"%s\n/base16/\n%s\n" % (_TYPE, self.psk.hex().encode())

    def fingerprint(self) -> str:
        """Tells keys apart and gives nothing away: 32 hexadecimal digits, the same as Kubo logs."""
        # Encrypted first, so that the hash never sees the key.
        block = salsa20.block(self.psk, _FINGERPRINT_NONCE)
        return hashlib.shake_128(block).hexdigest(_FINGERPRINT_BYTES)


def _decoded(encoding: str, decode: Callable[[bytes], bytes], body: bytes) -> bytes:
    try:
        return decode(b"".join(body.split()))
    except (binascii.Error, ValueError):
        raise InvalidKey(f"what follows {encoding} is not in that encoding") from None
