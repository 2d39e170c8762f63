"""Private networks: the key stream below multistream-select (libp2p spec: pnet).

Each side begins with a random nonce of 24 bytes; from then on its bytes are XORed with the XSalsa20 stream
of the network's key and that nonce. It keeps strangers out and authenticates nobody: a byte changed on
the way is found by the security protocol above. XSalsa20 is Salsa20 under a key from HSalsa20; the
stream is pycryptodome's, at 1.3 s/GB in place, and imported with the first connection.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from p2pfwd.core.salsa20 import hsalsa20
from p2pfwd.errors import InvalidConfig, LocalProtocolError

if TYPE_CHECKING:
    from types import ModuleType

NONCE_BYTES: Final = 24
_SUBKEY_NONCE_BYTES: Final = 16


class KeyStream:
    """One direction of one connection; bytes must pass in the order of the wire, each once."""

    __slots__ = ("_xor",)

    def __init__(self, psk: bytes, nonce: bytes) -> None:
        """psk: 32 bytes, nonce: 24. Raises InvalidConfig without pycryptodome."""
        if len(nonce) != NONCE_BYTES:
            raise LocalProtocolError(f"pnet: a nonce of {len(nonce)} bytes")
        subkey = hsalsa20(psk, nonce[:_SUBKEY_NONCE_BYTES])
        self._xor: Any = require_cipher().new(key=subkey, nonce=nonce[_SUBKEY_NONCE_BYTES:]).encrypt

    def xor(self, data: bytes | memoryview) -> bytes:
        """`data` XORed with the stream, anew."""
        result: bytes = self._xor(data)
        return result

    def xor_in_place(self, view: memoryview) -> None:
        """A writable view XORed with the stream."""
        self._xor(view, output=view)


def require_cipher() -> ModuleType:
    """pycryptodome's Salsa20. Raises InvalidConfig, which names the cure, where it is not installed."""
    try:
        from Crypto.Cipher import Salsa20
    except ImportError:
        raise InvalidConfig(
            "a private network needs the package pycryptodome, which is not installed",
            hint="pip install 'p2pfwd[pnet]'",
        ) from None
    return Salsa20
