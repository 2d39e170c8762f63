"""Pins which ids a peer may open: each once, swapped or with gaps, the lost ones for a while."""

from __future__ import annotations

import random
import time

import pytest

from p2pfwd.errors import RemoteProtocolError
from p2pfwd.wire.yamux.ids import REMEMBERED, RemoteIds


def takes(ids: RemoteIds, stream_id: int) -> bool:
    try:
        ids.open(stream_id)
    except RemoteProtocolError:
        return False
    return True


@pytest.mark.parametrize("parity", [0, 1])
def test_any_order_within_what_go_opens_at_once_is_taken_and_each_id_once(parity: int) -> None:
    rng = random.Random(parity)
    ids = RemoteIds(parity)
    for start in range(2 - parity, 40 * REMEMBERED, 2 * REMEMBERED):
        burst = list(range(start, start + 2 * REMEMBERED, 2))
        rng.shuffle(burst)
        assert all([takes(ids, stream_id) for stream_id in burst])
        assert not any(takes(ids, stream_id) for stream_id in burst)


def test_the_model_of_a_set_agrees_for_ids_that_are_remembered() -> None:
    rng = random.Random(7)
    ids, used, newest = RemoteIds(1), set[int](), -1
    for _ in range(20_000):
        stream_id = max(1, newest + 2 * rng.randint(-REMEMBERED + 1, 5)) | 1
        assert takes(ids, stream_id) is (stream_id not in used)
        used.add(stream_id)
        newest = max(newest, stream_id)


def test_an_id_too_far_behind_counts_as_used() -> None:
    ids = RemoteIds(1)
    ids.open(3 + 2 * REMEMBERED)
    assert not takes(ids, 1)
    assert takes(ids, 5)


def test_after_a_jump_to_the_last_id_the_latest_may_still_come() -> None:
    ids = RemoteIds(1)
    last = (1 << 32) - 1
    ids.open(last)
    assert takes(ids, last - 2 * REMEMBERED + 2)
    assert not takes(ids, last - 2 * REMEMBERED)


@pytest.mark.parametrize("wrong", [0, 2, 4, 0xFFFF_FFFE])
def test_the_other_sides_ids_are_refused(wrong: int) -> None:
    with pytest.raises(RemoteProtocolError, match="may not open"):
        RemoteIds(1).open(wrong)
    assert takes(RemoteIds(1), 1)


def test_a_jump_to_the_last_id_costs_no_more_than_a_step() -> None:
    # A hostile peer leaves out as many ids as it can with every SYN.
    begin = time.process_time()
    for _ in range(50):
        ids = RemoteIds(1)
        for stream_id in range(1, 1 << 32, 1 << 24):
            ids.open(stream_id)
    assert time.process_time() - begin < 1.0, "12800 jumps of 8 million ids"
