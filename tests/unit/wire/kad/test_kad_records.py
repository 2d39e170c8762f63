"""wire.kad.records: ages, bounds and who may enter what; keys prove values under /pk/."""

import json
from pathlib import Path

import pytest

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import RemoteProtocolError
from p2pfwd.wire.kad.messages import KadPeer, Record
from p2pfwd.wire.kad.records import (
    MAX_PROVIDER_ADDRS_BYTES,
    MAX_PROVIDER_RECORDS,
    MAX_PROVIDERS_PER_KEY,
    MAX_PUBLIC_KEY_BYTES,
    MAX_RECORDS_PER_PROVIDER,
    MAX_VALUES,
    PROVIDER_ADDRS_TTL_S,
    PROVIDER_TTL_S,
    VALUE_TTL_S,
    ProviderStore,
    ValueStore,
    validate,
)

VECTORS = json.loads((Path(__file__).parents[3] / "vectors/keys_peerids.json").read_text())["vectors"]
KEYS = {
    PeerId.parse(vector["base58"]): bytes.fromhex(vector["public_pb_hex"])
    for vector in VECTORS
    if "base58" in vector
}
HASHED = next(peer for peer in KEYS if str(peer).startswith("Qm"))
INLINED = next(peer for peer in KEYS if str(peer).startswith("12D3"))
ADDR = Multiaddr.parse("/ip4/11.1.1.1/tcp/4001")


def peer(number: int) -> PeerId:
    return PeerId.from_bytes(b"\x12\x20" + number.to_bytes(32, "big"))


def provider(number: int) -> KadPeer:
    return KadPeer(peer(number), (ADDR,))


def enter(store: ProviderStore, key: bytes, number: int, now: float) -> None:
    assert store.add(key, provider(number), peer(number), now)


# --- providers ------------------------------------------------------------------------------------


def test_providers_are_told_latest_first() -> None:
    store = ProviderStore()
    for number in (1, 2, 3, 1):
        enter(store, b"key", number, float(number))
    assert store.get(b"key", 5.0) == [provider(1), provider(3), provider(2)]
    assert store.get(b"other", 5.0) == []
    assert len(store) == 3


def test_nobody_enters_anybody_else() -> None:
    store = ProviderStore()
    assert not store.add(b"key", provider(1), peer(2), 0.0)
    assert len(store) == 0


def test_records_lose_their_addresses_first_and_then_end_unless_renewed() -> None:
    store = ProviderStore()
    enter(store, b"key", 1, 0.0)
    enter(store, b"key", 2, 0.0)
    assert store.get(b"key", PROVIDER_ADDRS_TTL_S - 1)[0].addrs == (ADDR,)
    enter(store, b"key", 2, PROVIDER_ADDRS_TTL_S)
    assert store.get(b"key", PROVIDER_ADDRS_TTL_S) == [provider(2), KadPeer(peer(1))]
    assert store.get(b"key", PROVIDER_TTL_S - 1)[0] == provider(2)
    assert store.get(b"key", PROVIDER_TTL_S) == [KadPeer(peer(2))]
    store.expire(PROVIDER_TTL_S + PROVIDER_ADDRS_TTL_S)
    assert len(store) == 0


def test_a_key_has_so_many_providers_and_the_oldest_gives_way() -> None:
    store = ProviderStore()
    for number in range(MAX_PROVIDERS_PER_KEY + 2):
        enter(store, b"key", number, float(number))
    told = store.get(b"key", 99.0)
    assert len(told) == MAX_PROVIDERS_PER_KEY
    assert told[-1] == provider(2)


def test_one_provider_cannot_push_out_the_others() -> None:
    store = ProviderStore()
    enter(store, b"honest", 1, 0.0)
    for number in range(MAX_PROVIDER_RECORDS):
        enter(store, b"key %d" % number, 2, 1.0)
    assert len(store) == 1 + MAX_RECORDS_PER_PROVIDER
    assert store.get(b"honest", 2.0) == [provider(1)]
    assert store.get(b"key 0", 2.0) == []


def test_all_records_together_are_bounded_and_the_oldest_go() -> None:
    store = ProviderStore()
    for number in range(MAX_PROVIDER_RECORDS + 1):
        enter(store, b"key %d" % number, number, float(number))
    assert len(store) == MAX_PROVIDER_RECORDS
    assert store.get(b"key 0", 1e4) == []
    assert store.get(b"key 1", 1e4) == [provider(1)]


def test_addresses_of_a_record_are_bounded_and_the_first_are_kept() -> None:
    store = ProviderStore()
    addrs = tuple(Multiaddr.parse(f"/dns/{chr(97 + n) * 97}/tcp/1") for n in range(16))
    store.add(b"key", KadPeer(peer(1), addrs), peer(1), 0.0)
    (told,) = store.get(b"key", 1.0)
    assert told.addrs == addrs[: MAX_PROVIDER_ADDRS_BYTES // len(addrs[0].to_bytes())]


# --- values ---------------------------------------------------------------------------------------


def pk(peer_id: PeerId, value: bytes) -> Record:
    return Record(b"/pk/" + peer_id.to_bytes(), value)


def test_a_hashed_key_is_stored_and_ends() -> None:
    store, record = ValueStore(), pk(HASHED, KEYS[HASHED])
    assert store.get(record.key, 0.0) is None
    store.put(record, 0.0)
    assert validate(record) == HASHED
    assert store.get(record.key, VALUE_TTL_S - 1) == record
    assert store.get(record.key, VALUE_TTL_S) is None
    assert len(store) == 0


def test_an_inlined_key_is_known_without_being_stored() -> None:
    record = pk(INLINED, KEYS[INLINED])
    assert ValueStore().get(record.key, 0.0) == record


@pytest.mark.parametrize("key", [b"/pk/", b"/pk/nonsense", b"/ipns/x", b"", b"\x00\x24" + bytes(36)])
def test_there_is_no_value_under_other_keys(key: bytes) -> None:
    assert ValueStore().get(key, 0.0) is None


@pytest.mark.parametrize(
    ("record", "why"),
    [
        (Record(b"/ipns/" + HASHED.to_bytes(), KEYS[HASHED]), "outside /pk/"),
        (Record(b"/pk/nonsense", KEYS[HASHED]), "no peer's key"),
        (pk(HASHED, b"nonsense"), "no peer's key"),
        (pk(HASHED, KEYS[INLINED]), "another peer's key"),
        (pk(HASHED, bytes(MAX_PUBLIC_KEY_BYTES + 1)), "public key of"),
    ],
)
def test_a_value_its_key_does_not_prove_is_refused(record: Record, why: str) -> None:
    store = ValueStore()
    with pytest.raises(RemoteProtocolError, match=why):
        store.put(record, 0.0)
    assert len(store) == 0


def test_values_are_bounded_and_the_latest_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("p2pfwd.wire.kad.records.validate", lambda record: HASHED)
    store = ValueStore()
    for number in range(MAX_VALUES):
        store.put(pk(peer(number), b"value"), 0.0)
    store.put(pk(peer(0), b"value"), 0.0)
    store.put(pk(peer(MAX_VALUES), b"value"), 0.0)
    assert len(store) == MAX_VALUES
    assert store.get(pk(peer(0), b"").key, 0.0) is not None
    assert store.get(pk(peer(1), b"").key, 0.0) is None
