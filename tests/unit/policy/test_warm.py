"""policy.warm: whose peers are kept connected for saved forwards."""

from __future__ import annotations

import pytest

from p2pfwd.policy.warm import MOST_WARM, warm_peers
from tests.support.peers import peer

A, B, C = peer(1), peer(2), peer(3)


@pytest.mark.parametrize(
    ("used", "most", "kept"),
    [
        ([], 2, []),
        ([(A, 1.0)], 2, [A]),
        ([(A, 1.0), (B, 2.0), (C, 3.0)], 2, [B, C]),
        ([(A, 1.0), (B, 2.0), (C, 3.0), (A, 4.0)], 2, [A, C]),  # by its forward that was used last
        ([(A, 4.0), (B, 2.0), (C, 3.0), (A, 1.0)], 2, [A, C]),
        ([(A, 1.0), (B, 1.0), (C, 1.0)], 2, [A, B]),  # nobody has used any: in their order
        ([(A, 1.0)], 0, []),
    ],
)
def test_those_used_last(used: list[tuple[object, float]], most: int, kept: list[object]) -> None:
    assert warm_peers(used, most) == frozenset(kept)  # type: ignore[arg-type]


def test_the_bound() -> None:
    assert len(warm_peers((peer(number), float(number)) for number in range(200))) == MOST_WARM
