"""The key space of the DHT: sha256 of a record's key or a peer ID's multihash, XOR distance (kad-dht spec).

A kad key is held as a 256-bit integer: distance is one XOR, its order is the order of nearness, and the
common prefix length (cpl) of two keys is the number of leading zero bits of their distance.
"""

from __future__ import annotations

import hashlib
from typing import Final, NewType

from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import LocalProtocolError

KEY_BITS: Final = 256

MAX_SEARCHED_CPL: Final = 15
"""Deepest prefix a target is searched for: the depth to which go refreshes. It takes 65,536 hashes, about
40 ms in all; a network has to have a million nodes before buckets beyond it matter."""

SEED_BYTES: Final = 28
"""Random bytes a search for a target starts from; with 4 counted ones they fill a sha2-256 digest."""

STEP_TRIES: Final = 2000
"""Hashes of one step of a search: about a millisecond, which a busy event loop can spare."""

_SHA2_256: Final = b"\x12\x20"

KadKey = NewType("KadKey", int)
"""A point of the key space."""


def key_of(data: bytes) -> KadKey:
    """The kad key of a record's key, or of a peer ID's multihash."""
    return KadKey(int.from_bytes(hashlib.sha256(data).digest(), "big"))


def key_of_peer(peer_id: PeerId) -> KadKey:
    """The kad key of a peer."""
    return key_of(peer_id.to_bytes())


def distance(a: KadKey, b: KadKey) -> int:
    """XOR distance; the lesser, the nearer."""
    return a ^ b


def common_prefix_length(a: KadKey, b: KadKey) -> int:
    """Leading bits that both keys share, 0 to 256."""
    return KEY_BITS - (a ^ b).bit_length()


class TargetSearch:
    """Searches a lookup target whose kad key shares exactly `cpl` leading bits with `local`.

    Others hash what they are asked for, so a point of the key space can be asked for only by something
    that hashes to it: a random sha2-256 multihash, which every implementation takes for a peer ID.
    """

    def __init__(self, local: KadKey, cpl: int, seed: bytes) -> None:
        """`seed`: SEED_BYTES random bytes. LocalProtocolError if `cpl` is not 0 to MAX_SEARCHED_CPL."""
        if not 0 <= cpl <= MAX_SEARCHED_CPL or len(seed) != SEED_BYTES:
            raise LocalProtocolError(f"kad: no target can be searched with prefix {cpl}, seed of {len(seed)}")
        self._prefix = local >> (KEY_BITS - 16)
        self._shift = 15 - cpl
        self._start = _SHA2_256 + seed
        self._hash = hashlib.sha256(self._start)
        self._count = 0

    def step(self, tries: int = STEP_TRIES) -> bytes | None:
        """The target's bytes; None if none of the next `tries` hashes fits. 2**(cpl + 1) are expected."""
        prefix, shift = self._prefix, self._shift
        for count in range(self._count, self._count + tries):
            end = count.to_bytes(4, "big")
            attempt = self._hash.copy()
            attempt.update(end)
            # Exactly cpl equal bits: the first bit that differs is the one behind them.
            if (int.from_bytes(attempt.digest()[:2], "big") ^ prefix) >> shift == 1:
                self._count = count + 1
                return self._start + end
        self._count += tries
        return None
