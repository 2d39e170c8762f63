"""Pins which listeners a close means: filters AND together (A22–A24)."""

from __future__ import annotations

import pytest

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.errors import UsageError
from p2pfwd.forwarding.values import CloseMatch

A = Multiaddr.parse("/ip4/127.0.0.1/tcp/1")
B = Multiaddr.parse("/ip4/127.0.0.1/tcp/2")


def test_nothing_given_is_a_usage_error_with_kubos_words() -> None:
    with pytest.raises(UsageError) as caught:
        CloseMatch()
    assert caught.value.message == "no matching options given"


@pytest.mark.parametrize(
    "match",
    [
        {"protocol": "/x/a"},
        {"listen_address": A},
        {"target_address": A},
    ],
)
def test_all_excludes_the_others(match: dict[str, object]) -> None:
    with pytest.raises(UsageError) as caught:
        CloseMatch(all=True, **match)  # type: ignore[arg-type]
    assert caught.value.message == "can't combine --all with other matching options"


@pytest.mark.parametrize(
    ("match", "expected"),
    [
        (CloseMatch(all=True), True),
        (CloseMatch(protocol="/x/a"), True),
        (CloseMatch(protocol="/x/b"), False),
        (CloseMatch(listen_address=A), True),
        (CloseMatch(listen_address=B), False),
        (CloseMatch(target_address=B), True),
        (CloseMatch(target_address=A), False),
        (CloseMatch(protocol="/x/a", listen_address=A, target_address=B), True),
        (CloseMatch(protocol="/x/a", listen_address=B), False),
        (CloseMatch(protocol="/x/b", target_address=B), False),
    ],
)
def test_filters_and_together(match: CloseMatch, expected: bool) -> None:
    assert match.matches("/x/a", A, B) is expected
