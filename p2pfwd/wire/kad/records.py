"""What a DHT server stores for others: who provides what, and public keys (libp2p spec: kad-dht).

Rules:
- Everything is bounded, expires and is in memory only, because strangers fill it.
- A provider can enter only itself.
- Values are taken under `/pk/` only, where the key proves the value. Other values (`/ipns/`) need rules that
  p2pfwd has no use for; they are refused, as public servers refuse what they cannot validate.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from p2pfwd.core.keys import PublicKey
from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import InvalidKey, InvalidPeerId, RemoteProtocolError
from p2pfwd.wire.kad.messages import KadPeer, Record

PROVIDER_TTL_S: Final = 48 * 3600.0
"""Validity of a provider record; its owner renews it every 22 hours."""

PROVIDER_ADDRS_TTL_S: Final = 24 * 3600.0
"""For so long its addresses are told with it."""

VALUE_TTL_S: Final = 48 * 3600.0

MAX_PROVIDER_RECORDS: Final = 2048
"""Provider records in all: 8 MB if strangers do their worst. Those that end soonest go first."""

MAX_PROVIDER_ADDRS_BYTES: Final = 512
"""Addresses kept with one record, in bytes: a dozen usual ones."""

MAX_RECORDS_PER_PROVIDER: Final = 256
"""Records of one provider, so that one peer alone cannot push out the others."""

MAX_PROVIDERS_PER_KEY: Final = 40
"""Providers of one key: two answers full."""

MAX_VALUES: Final = 256
"""Values in all: a quarter of a megabyte."""

MAX_PUBLIC_KEY_BYTES: Final = 2048
"""Longest value under `/pk/`: an RSA key of 8192 bits has 1,070 bytes."""

PUBLIC_KEY_PREFIX: Final = b"/pk/"


@dataclass(slots=True)
class _Provided:
    """One provider of one key."""

    addrs: tuple[Multiaddr, ...]
    entered_at: float


class ProviderStore:
    """Who provides which key. `now` is any clock that does not go back, in seconds."""

    def __init__(self) -> None:
        self._records: OrderedDict[tuple[bytes, PeerId], _Provided] = OrderedDict()
        """Oldest first, which is also who ends soonest."""
        self._of_key: dict[bytes, OrderedDict[PeerId, None]] = {}
        self._of_provider: dict[PeerId, OrderedDict[bytes, None]] = {}

    def __len__(self) -> int:
        return len(self._records)

    def add(self, key: bytes, provider: KadPeer, sender: PeerId, now: float) -> bool:
        """Enter or renew a record; False if `sender` is not the provider itself.

        Where there are too many, the oldest of the provider, of the key, or of all goes.
        """
        if provider.peer_id != sender:
            return False
        self._drop(key, sender)
        if len(keys := self._of_provider.get(sender, OrderedDict())) >= MAX_RECORDS_PER_PROVIDER:
            self._drop(next(iter(keys)), sender)
        if len(peers := self._of_key.get(key, OrderedDict())) >= MAX_PROVIDERS_PER_KEY:
            self._drop(key, next(iter(peers)))
        if len(self._records) >= MAX_PROVIDER_RECORDS:
            self._drop(*next(iter(self._records)))
        self._records[key, sender] = _Provided(_within_bound(provider.addrs), now)
        self._of_key.setdefault(key, OrderedDict())[sender] = None
        self._of_provider.setdefault(sender, OrderedDict())[key] = None
        return True

    def get(self, key: bytes, now: float) -> list[KadPeer]:
        """The providers of `key`, latest first, without addresses that are too old."""
        self.expire(now)
        providers = []
        for peer_id in reversed(self._of_key.get(key, OrderedDict())):
            one = self._records[key, peer_id]
            fresh = now - one.entered_at < PROVIDER_ADDRS_TTL_S
            providers.append(KadPeer(peer_id, one.addrs if fresh else ()))
        return providers

    def expire(self, now: float) -> None:
        """Forget records that have ended."""
        for key, provider in list(self._ended(now)):
            self._drop(key, provider)

    def _ended(self, now: float) -> Iterator[tuple[bytes, PeerId]]:
        for name, one in self._records.items():
            if now - one.entered_at < PROVIDER_TTL_S:
                return
            yield name

    def _drop(self, key: bytes, provider: PeerId) -> None:
        if self._records.pop((key, provider), None) is None:
            return
        del self._of_key[key][provider]
        del self._of_provider[provider][key]
        if not self._of_key[key]:
            del self._of_key[key]
        if not self._of_provider[provider]:
            del self._of_provider[provider]


def _within_bound(addrs: tuple[Multiaddr, ...]) -> tuple[Multiaddr, ...]:
    sizes = accumulate(len(addr.to_bytes()) for addr in addrs)
    return tuple(addr for addr, size in zip(addrs, sizes, strict=True) if size <= MAX_PROVIDER_ADDRS_BYTES)


def validate(record: Record) -> PeerId:
    """The peer whose public key `record` holds; RemoteProtocolError unless its key proves its value."""
    if not record.key.startswith(PUBLIC_KEY_PREFIX):
        raise RemoteProtocolError("kad: a value outside /pk/ is not taken")
    if len(record.value) > MAX_PUBLIC_KEY_BYTES:
        raise RemoteProtocolError(f"kad: a public key of {len(record.value)} bytes")
    try:
        peer_id = PeerId.from_bytes(record.key.removeprefix(PUBLIC_KEY_PREFIX))
        matches = peer_id.matches(PublicKey.from_protobuf(record.value))
    except (InvalidPeerId, InvalidKey) as exc:
        raise RemoteProtocolError("kad: a /pk/ record that is no peer's key") from exc
    if not matches:
        raise RemoteProtocolError("kad: a /pk/ record with another peer's key")
    return peer_id


class ValueStore:
    """Public keys by `/pk/` key; the least recently stored goes when there are too many."""

    def __init__(self) -> None:
        self._values: OrderedDict[bytes, tuple[bytes, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._values)

    def put(self, record: Record, now: float) -> None:
        """Store a valid record; RemoteProtocolError as `validate`."""
        validate(record)
        self._values.pop(record.key, None)
        self._values[record.key] = (record.value, now)
        if len(self._values) > MAX_VALUES:
            self._values.popitem(last=False)

    def get(self, key: bytes, now: float) -> Record | None:
        """The record of `key`, if there is one that has not ended; an inlined key need not be stored."""
        value, stored_at = self._values.get(key, (b"", 0.0))
        if value and now - stored_at < VALUE_TTL_S:
            return Record(key, value)
        self._values.pop(key, None)
        return _inlined(key)


def _inlined(key: bytes) -> Record | None:
    if not key.startswith(PUBLIC_KEY_PREFIX):
        return None
    try:
        public = PeerId.from_bytes(key.removeprefix(PUBLIC_KEY_PREFIX)).public_key()
    except InvalidPeerId:
        return None
    return None if public is None else Record(key, public.to_protobuf())
