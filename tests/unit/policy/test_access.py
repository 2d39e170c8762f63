"""Who may use a listen, as a table; and that SECURITY.md says the same of its bounds."""

from __future__ import annotations

from pathlib import Path

import pytest

from p2pfwd.peers import access_rules
from p2pfwd.policy.access import NO_RULE, Access, Default, Rule
from p2pfwd.policy.service_bounds import ACCESS_REQUESTS, NEW_ACCESS_REQUESTS
from tests.support.peers import peer

SECURITY = " ".join((Path(__file__).parents[3] / "SECURITY.md").read_text(encoding="utf-8").split())
LISTED, NAMED, STRANGER = peer(1), peer(2), peer(3)


@pytest.mark.parametrize(
    ("default", "rule", "let_in"),
    [
        ("any", None, {LISTED, NAMED, STRANGER}),
        ("named", None, {NAMED}),
        ("none", None, set()),
        ("any", NO_RULE.allow([LISTED]), {LISTED, NAMED, STRANGER}),
        ("named", NO_RULE.allow([LISTED]), {LISTED, NAMED}),
        ("none", NO_RULE.allow([LISTED]), {LISTED}),
        ("any", NO_RULE.deny([LISTED]), {NAMED, STRANGER}),
        ("named", NO_RULE.deny([NAMED]), set()),
        ("none", Rule("any"), {LISTED, NAMED, STRANGER}),
        ("none", Rule("any").deny([NAMED]), {LISTED, STRANGER}),
        ("any", Rule("listed"), set()),
        ("any", Rule("listed").allow([LISTED]), {LISTED}),
        ("named", Rule("listed").allow([LISTED]), {LISTED}),
        ("any", NO_RULE.allow([LISTED]).deny([LISTED]), {NAMED, STRANGER}),
        ("none", NO_RULE.deny([LISTED]).allow([LISTED]), {LISTED}),
    ],
)
def test_whom_a_rule_lets_in(default: Default, rule: Rule | None, let_in: set[object]) -> None:
    rules = {} if rule is None else {"/x/a": rule}
    access = Access(default, rules, frozenset({NAMED}))
    assert {one for one in (LISTED, NAMED, STRANGER) if access.admits(one, "/x/a")} == let_in


def test_whom_it_lets_in_at_large_is_told_with_the_default() -> None:
    rules = {"/x/any": Rule("any"), "/x/listed": Rule("listed"), "/x/allows": NO_RULE.allow([LISTED])}
    for default, told in (("any", "any"), ("named", "named"), ("none", "listed")):
        access = Access(default, rules)  # type: ignore[arg-type]
        assert [access.lets_in(name) for name in (*rules, "/x/none")] == ["any", "listed", told, told]


def test_whom_a_rule_lists_is_known_whatever_the_name_and_whom_one_lets_in_at_large_is_not() -> None:
    rules = {"/x/a": Rule("any").deny([STRANGER]), "/x/b": Rule("listed").allow([LISTED])}
    access = Access("any", rules, frozenset({NAMED}))
    assert [one for one in (LISTED, NAMED, STRANGER) if access.lists(one)] == [LISTED]


def test_a_denial_is_told_from_what_was_never_allowed() -> None:
    access = Access("none", {"/x/a": Rule("listed").deny([LISTED])})
    assert access.is_denied(LISTED, "/x/a") and not access.is_denied(STRANGER, "/x/a")
    assert not access.is_denied(LISTED, "/x/b")


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        (NO_RULE.deny([LISTED]), set()),
        (NO_RULE.allow([LISTED]).deny([LISTED]), {LISTED}),
        (NO_RULE.allow([LISTED]).deny([LISTED]).allow([LISTED]), set()),
        (NO_RULE.allow([LISTED, NAMED]).only([NAMED]), {LISTED}),
        (Rule("listed", told=frozenset({STRANGER})), {STRANGER}),
        (Rule("any", told=frozenset({STRANGER})), set()),
        (Rule("listed", tells_any=True).allow([LISTED]), {NAMED, STRANGER}),
    ],
)
def test_who_is_told_of_a_denial(rule: Rule, told: set[object]) -> None:
    access = Access("any", {"/x/a": rule})
    assert {one for one in (LISTED, NAMED, STRANGER) if access.tells(one, "/x/a")} == told
    assert not any(access.tells(one, "/x/none") for one in (LISTED, NAMED, STRANGER))


def test_only_lets_in_these_and_no_other() -> None:
    rule = Rule("any").deny([LISTED]).only([LISTED, NAMED])
    assert (rule.at_large, rule.allowed, rule.denied) == ("listed", {LISTED, NAMED}, frozenset())


def test_security_md_has_the_bounds() -> None:
    most, rates = ACCESS_REQUESTS, NEW_ACCESS_REQUESTS
    assert rates.all is not None
    assert (rates.peer.per_s, rates.network.per_s, rates.all.per_s) == (1 / 10, 1 / 5, 2)
    assert (
        f"ten seconds after the last of its peer ({rates.peer.burst} at once), five after that of its "
        f"address ({rates.network.burst} at once), and two a second in all ({rates.all.burst} at once). "
        f"A peer has {most.peer} of them, its address {most.network}, all {most.all};"
    ) in SECURITY
    assert (
        f"{access_rules.MAX_RULES} names with {access_rules.MAX_RULED_PEERS:,} peers, and a block list of "
        f"{access_rules.MAX_BLOCKS} entries: `access.json` has at most "
        f"{access_rules.MAX_FILE_BYTES >> 20} MiB"
    ) in SECURITY


def test_a_right_may_have_an_end_which_the_last_word_replaces() -> None:
    rule = Rule("listed").allow([peer(1)], 10.0)
    assert rule.ended(9.9) is rule
    assert rule.ended(10.0) == Rule("listed", told=frozenset([peer(1)]))
    assert rule.allow([peer(1)]) == Rule("listed", frozenset([peer(1)])), "for good"
    assert rule.deny([peer(1)]) == Rule("listed", denied=frozenset([peer(1)]), told=frozenset([peer(1)]))
    assert rule.allow([peer(1)], 20.0).ended(10.0).allowed == {peer(1)}


def test_any_peer_for_a_time_leaves_those_listed() -> None:
    rule = Rule(None).allow([peer(1)]).let_in("any", 10.0)
    assert rule.ended(10.0) == Rule("listed", frozenset([peer(1)]))
    assert rule.let_in("any") == Rule("any", frozenset([peer(1)]))
    assert rule.let_in("listed").ends == {}
