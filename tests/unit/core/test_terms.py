"""core.terms: what is written down comes back, what does not fit is refused."""

from __future__ import annotations

import pytest

from p2pfwd.core.terms import (
    PLAIN_FORWARD,
    PLAIN_LISTEN,
    ForwardTerms,
    ListenTerms,
    terms_from_json,
    terms_to_json,
)


def test_what_is_as_by_default_is_not_written_down() -> None:
    assert terms_to_json(PLAIN_LISTEN) == terms_to_json(PLAIN_FORWARD) == {}
    assert terms_to_json(ForwardTerms(path="direct")) == {"path": "direct"}


def test_what_is_written_down_comes_back() -> None:
    listen = ListenTerms(True, True, True, wait_target_s=2.5, check="tcp")
    assert terms_from_json(ListenTerms, terms_to_json(listen)) == listen
    forward = ForwardTerms(custom_protocol=True, path="relay", limited_relay=True)
    assert terms_from_json(ForwardTerms, terms_to_json(forward)) == forward


def test_a_whole_number_is_a_time_and_a_word_is_none() -> None:
    assert terms_from_json(ListenTerms, {"wait_target_s": 30}) == ListenTerms(wait_target_s=30.0)
    for found in ("30", True, None):
        with pytest.raises(ValueError, match="is no wait_target_s"):
            terms_from_json(ListenTerms, {"wait_target_s": found})


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (7, "no object"),
        ([], "no object"),
        ({"colour": "red"}, "no term colour"),
        ({"path": "scenic"}, "'scenic' is no path"),
        ({"limited_relay": 1}, "1 is no limited_relay"),
        ({"custom_protocol": None}, "None is no custom_protocol"),
    ],
)
def test_what_does_not_fit_is_refused(found: object, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        terms_from_json(ForwardTerms, found)
