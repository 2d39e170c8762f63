"""Stream ids of the peer: each opens once, late ones still open, and what is remembered is bounded."""

from __future__ import annotations

import pytest

from p2pfwd.errors import RemoteProtocolError
from p2pfwd.wire.yamux.ids import MAX_SKIPPED, RemoteIds


def test_ids_in_order_open_once() -> None:
    """The plain case, and a second SYN for the same id."""
    ids = RemoteIds(1)
    for stream_id in (1, 3, 5):
        ids.open(stream_id)
    for stream_id in (1, 3, 5):
        with pytest.raises(RemoteProtocolError, match="opened before"):
            ids.open(stream_id)


def test_swapped_ids_both_open_once() -> None:
    """go opens two streams at once, and the second's SYN is first on the wire."""
    ids = RemoteIds(0)
    ids.open(4)
    ids.open(2)
    with pytest.raises(RemoteProtocolError, match="stream 2 was opened before"):
        ids.open(2)


@pytest.mark.parametrize(("parity", "stream_id"), [(0, 1), (1, 2), (0, 0), (1, 0)])
def test_foreign_ids_are_refused(parity: int, stream_id: int) -> None:
    """Ids of the other parity, and the session's own id 0."""
    with pytest.raises(RemoteProtocolError, match="may not open"):
        RemoteIds(parity).open(stream_id)


def test_what_is_left_out_is_remembered_within_bounds() -> None:
    """After a jump over four thousand million ids the latest are still open, older ones are gone."""
    ids = RemoteIds(1)
    last = (1 << 32) - 1
    ids.open(last)
    ids.open(last - 2 * MAX_SKIPPED)
    with pytest.raises(RemoteProtocolError, match="opened before"):
        ids.open(last - 2 * MAX_SKIPPED - 2)
    assert len(ids._skipped) < MAX_SKIPPED
