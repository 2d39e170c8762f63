"""wire.kad.keys: ids, distances and prefixes as go computes them; targets with a wanted prefix."""

import json
from pathlib import Path

import pytest

from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import LocalProtocolError
from p2pfwd.wire.kad.keys import (
    MAX_SEARCHED_CPL,
    SEED_BYTES,
    KadKey,
    TargetSearch,
    common_prefix_length,
    distance,
    key_of,
    key_of_peer,
)

VECTORS = json.loads((Path(__file__).parents[3] / "vectors/kad_distance.json").read_text())
LOCAL = key_of(b"local")


@pytest.mark.parametrize("vector", VECTORS["ids"], ids=lambda v: v["peer"][-6:])
def test_a_peers_kad_id_is_the_hash_of_its_multihash(vector: dict[str, str]) -> None:
    assert f"{key_of_peer(PeerId.parse(vector['peer'])):064x}" == vector["kad_id_hex"]


@pytest.mark.parametrize("vector", VECTORS["pairs"], ids=lambda v: f"{v['a'][-4:]}-{v['b'][-4:]}")
def test_distance_and_common_prefix(vector: dict[str, str | int]) -> None:
    a, b = (key_of_peer(PeerId.parse(str(vector[name]))) for name in "ab")
    assert f"{distance(a, b):064x}" == vector["xor_hex"]
    assert common_prefix_length(a, b) == common_prefix_length(b, a) == vector["cpl"]


def test_a_key_shares_all_its_bits_with_itself() -> None:
    assert common_prefix_length(LOCAL, LOCAL) == 256
    assert common_prefix_length(LOCAL, KadKey(LOCAL ^ 1)) == 255


@pytest.mark.parametrize("cpl", [0, 1, 7, MAX_SEARCHED_CPL])
def test_a_searched_target_has_exactly_the_prefix_and_reads_as_a_peer_id(cpl: int) -> None:
    search = TargetSearch(LOCAL, cpl, bytes(SEED_BYTES))
    target = None
    while target is None:
        target = search.step()
    assert common_prefix_length(LOCAL, key_of(target)) == cpl
    assert PeerId.from_bytes(target).to_bytes() == target


def test_a_search_goes_on_where_its_last_step_ended() -> None:
    whole = TargetSearch(LOCAL, 8, bytes(SEED_BYTES))
    pieces = TargetSearch(LOCAL, 8, bytes(SEED_BYTES))
    first = whole.step(1 << 20)
    found = [target for _ in range(1 << 13) if (target := pieces.step(1)) is not None]
    assert first == found[0]
    assert whole.step(1 << 20) == found[1] != first


def test_a_step_ends_in_vain_after_its_tries() -> None:
    assert TargetSearch(LOCAL, MAX_SEARCHED_CPL, bytes(SEED_BYTES)).step(1) is None


@pytest.mark.parametrize(("cpl", "seed"), [(-1, 28), (16, 28), (0, 27), (0, 29)])
def test_a_search_that_cannot_be_is_our_own_fault(cpl: int, seed: int) -> None:
    with pytest.raises(LocalProtocolError):
        TargetSearch(LOCAL, cpl, bytes(seed))
