"""core.word_order: arguments in another order than meant are told from what is merely wrong."""

from __future__ import annotations

import itertools

import pytest

from p2pfwd.core.word_order import check_forward, check_listen, kind_of
from p2pfwd.errors import UsageError

ID = "12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA"


@pytest.mark.parametrize(
    ("word", "kind"),
    [
        ("/x/web", "protocol"),
        ("8080", "address"),
        ("/unix/run/a", "address"),
        ("http://nas/", "address"),
        (ID, "peer"),
        (f"/ip4/1.2.3.4/tcp/1/p2p/{ID}", "peer"),
        ("nas", "other"),
        ("/custom", "other"),
        ("", "other"),
    ],
)
def test_what_a_word_is(word: str, kind: str) -> None:
    assert kind_of(word) == kind


@pytest.mark.parametrize("peer", [ID, f"/ip4/1.2.3.4/tcp/1/p2p/{ID}", "nas"])
def test_forward_in_any_other_order_tells_the_right_one(peer: str) -> None:
    right = ("/x/web", "8080", peer)
    for words in itertools.permutations(right):
        if words == right:
            check_forward(words[0], words[1], words[2:])
        else:
            with pytest.raises(UsageError, match="another order") as caught:
                check_forward(words[0], words[1], words[2:])
            assert caught.value.hint == f"write: p2pfwd forward /x/web 8080 {peer}"


def test_what_is_wrong_in_another_way_is_left_to_who_parses_it() -> None:
    check_forward("/x/web", "nonsense", [ID])
    check_forward("/x/web", "8080", ["also nonsense"])
    check_forward("/x/web", "8080", [ID, ID])
    check_forward("/custom", "8080", [ID])
    check_listen("/custom", "8080")
    check_listen("/x/web", "nonsense")


def test_listen_the_other_way_round_and_with_a_peer() -> None:
    with pytest.raises(UsageError, match="another order") as caught:
        check_listen("8080", "/x/web")
    assert caught.value.hint == "write: p2pfwd listen /x/web 8080"
    with pytest.raises(UsageError, match="is a peer") as caught:
        check_listen("/x/web", ID)
    assert caught.value.hint == f"to reach a peer's service: p2pfwd forward /x/web 0 {ID}"
