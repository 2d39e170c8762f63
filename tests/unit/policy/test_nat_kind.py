"""The table of NAT kinds: what is seen of connections, and what follows."""

from __future__ import annotations

import pytest

from p2pfwd.policy.nat_kind import Endpoint, NatKind, Sight, nat_kind, next_ports

HOME = Endpoint("10.0.0.7", 4011)
OUT = "11.0.0.1"


def sights(*seen: tuple[str, str, int], own: str = "", local: Endpoint = HOME) -> list[Sight]:
    """(observer, host, port) of each; the observers in `own` are the owner's."""
    return [Sight(who, local, Endpoint(host, port), who in own) for who, host, port in seen]


@pytest.mark.parametrize(
    ("seen", "kind"),
    [
        pytest.param([], NatKind.UNKNOWN, id="nobody"),
        pytest.param(sights(("a", OUT, 4011)), NatKind.UNKNOWN, id="one of them, translated"),
        pytest.param(sights(("a", *HOME)), NatKind.NONE, id="as it is here"),
        pytest.param(sights(("a", *HOME), ("b", *HOME)), NatKind.NONE, id="as it is here, twice"),
        pytest.param(
            sights(("a", OUT, 9), ("a", OUT, 9)), NatKind.UNKNOWN, id="two connections to one network"
        ),
        pytest.param(
            sights(("a", OUT, 9), ("b", OUT, 9)), NatKind.ENDPOINT_INDEPENDENT, id="two of one opinion"
        ),
        pytest.param(sights(("a", OUT, 9), ("b", OUT, 30000)), NatKind.SYMMETRIC, id="two of two opinions"),
        pytest.param(
            sights(("a", OUT, 9), ("b", "11.0.0.2", 9)), NatKind.SYMMETRIC, id="a pool of addresses"
        ),
        pytest.param(
            sights(("a", OUT, 9), ("b", OUT, 9), ("c", OUT, 30000)),
            NatKind.ENDPOINT_INDEPENDENT,
            id="one that lies",
        ),
        pytest.param(
            sights(("a", OUT, 9), ("b", OUT, 9), ("c", OUT, 700), ("d", OUT, 800), own="ab"),
            NatKind.ENDPOINT_INDEPENDENT,
            id="two that lie, and two of one's own",
        ),
        pytest.param(sights(("a", OUT, 20000), ("b", OUT, 20001)), NatKind.SEQUENTIAL, id="it counts up"),
        pytest.param(
            sights(("a", OUT, 20007), ("b", OUT, 20000), ("c", OUT, 20003)),
            NatKind.SEQUENTIAL,
            id="others use it too, answers in any order",
        ),
        pytest.param(
            sights(("a", OUT, 20000), ("b", OUT, 20001), ("c", OUT, 40000)),
            NatKind.SYMMETRIC,
            id="close together by chance",
        ),
        pytest.param(
            sights(("a", OUT, 9), ("b", OUT, 9)) + sights(("a", "1.1.1.1", 5), local=Endpoint("10.9.9.9", 1)),
            NatKind.ENDPOINT_INDEPENDENT,
            id="another interface is another matter",
        ),
    ],
)
def test_the_kind(seen: list[Sight], kind: NatKind) -> None:
    assert nat_kind(seen) is kind
    assert nat_kind(reversed(seen)) is kind


def test_the_last_word_of_a_network_counts() -> None:
    assert nat_kind(sights(("a", OUT, 9), ("b", OUT, 8), ("a", OUT, 8))) is NatKind.ENDPOINT_INDEPENDENT


def test_the_next_port_of_a_nat_that_counts_up() -> None:
    seen = sights(("a", OUT, 20007), ("b", OUT, 20000))
    assert next(iter(next_ports(seen, NatKind.SEQUENTIAL))) == 20008
    assert not next_ports(seen, NatKind.SYMMETRIC) and not next_ports([], NatKind.SEQUENTIAL)
