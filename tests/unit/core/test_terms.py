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
    listen = ListenTerms(
        any_loopback=True,
        report_peer_id=True,
        custom_protocol=True,
        max_streams=5,
        max_streams_per_peer=2,
        rate=1 << 20,
        rate_per_peer=1000,
        idle_timeout_s=600,
        wait_target_s=2.5,
        check="tcp",
        ends_at=1_700_000_000.5,
    )
    assert terms_from_json(ListenTerms, terms_to_json(listen)) == listen
    forward = ForwardTerms(custom_protocol=True, path="relay", limited_relay=True, ends_at=1.5)
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


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        ({"rate": -1}, "rate is not from 0"),
        ({"rate": 1.0}, "1.0 is no rate"),
        ({"rate": True}, "True is no rate"),
        ({"max_streams": 1 << 60}, "max_streams is not from 0"),
        ({"proxy_protocol": "v1"}, "'v1' is no proxy_protocol"),
        ({"proxy_protocol": "v2", "report_peer_id": True}, "exclude each other"),
        ({"ends_at": float("nan")}, "it ends at no time"),
        ({"ends_at": -1.0}, "it ends at no time"),
        ({"ends_at": 1e12}, "it ends at no time"),
        ({"ends_at": 10**400}, "it is too large"),
    ],
)
def test_limits_and_ends_that_make_no_sense_are_refused(found: object, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        terms_from_json(ListenTerms, found)
