"""From one set of tunnels to another: what differs, as a table; and what holds on the way opens nothing."""

from __future__ import annotations

from dataclasses import fields, replace
from itertools import combinations, product

import pytest

from p2pfwd.peers.named import NamedPeer
from p2pfwd.policy.access import NO_RULE, Access, AtLarge, Default, Rule, joined
from p2pfwd.policy.setup_changes import (
    Difference,
    difference,
    names_on_the_way,
    outcome,
    rules_on_the_way,
)
from tests.support.peers import peer

ONE, TWO, THREE = peer(1), peer(2), peer(3)
PEERS = (ONE, TWO, THREE)


@pytest.mark.parametrize(
    ("before", "after", "prune", "found", "left"),
    [
        ({}, {}, True, Difference(), {}),
        ({"a": 1}, {}, False, Difference(), {"a": 1}),
        ({"a": 1}, {}, True, Difference(removed=("a",)), {}),
        ({}, {"a": 1}, False, Difference(added=("a",)), {"a": 1}),
        ({"a": 1}, {"a": 1}, True, Difference(unchanged=("a",)), {"a": 1}),
        ({"a": 1}, {"a": 2}, False, Difference(changed=("a",)), {"a": 2}),
        (
            {"a": 1, "b": 2, "c": 3},
            {"d": 4, "c": 0, "a": 1},
            True,
            Difference(("b",), ("c",), ("d",), ("a",)),
            {"a": 1, "c": 0, "d": 4},
        ),
        (
            {"a": 1, "b": 2},
            {"d": 4, "a": 1},
            False,
            Difference((), (), ("d",), ("a",)),
            {"a": 1, "b": 2, "d": 4},
        ),
    ],
)
def test_what_differs(
    before: dict[str, int], after: dict[str, int], prune: bool, found: Difference[str], left: dict[str, int]
) -> None:
    assert difference(before, after, prune=prune) == found
    assert bool(found) == (left != before)
    assert outcome(before, after, found) == left


def test_what_counts_as_the_same_is_the_callers() -> None:
    found = difference(
        {"a": 11, "b": 1}, {"a": 21, "b": 2}, prune=True, is_same=lambda x, y: x % 10 == y % 10
    )
    assert found == Difference(changed=("b",), unchanged=("a",))


def some_rules() -> list[Rule]:
    """Every rule about two of three peers."""
    sets = [frozenset(some) for size in range(3) for some in combinations((ONE, TWO), size)]
    at_large: tuple[AtLarge | None, ...] = (None, "any", "listed")
    return [Rule(*one) for one in product(at_large, sets, sets)]


DEFAULTS: tuple[Default, ...] = ("any", "named", "none")


def let_in(rule: Rule, default: Default) -> set[object]:
    access = Access(default, {"/x/a": rule}, frozenset({TWO}))
    return {one for one in PEERS if access.admits(one, "/x/a")}


def test_on_the_way_a_rule_lets_in_nobody_whom_not_both_let_in() -> None:
    for old, new in product(some_rules(), repeat=2):
        way = rules_on_the_way({"/x/a": old}, {"/x/a": new})["/x/a"]
        for default in DEFAULTS:
            assert let_in(way, default) <= let_in(old, default) & let_in(new, default)
        assert old != new or way == old


def test_a_rule_that_comes_or_goes_is_one_from_or_to_none() -> None:
    rule = Rule("listed", frozenset({ONE}))
    nobody = Rule("listed")
    assert rules_on_the_way({}, {"/x/a": rule}) == rules_on_the_way({"/x/a": rule}, {}) == {"/x/a": nobody}
    assert rules_on_the_way({"/x/a": NO_RULE}, {}) == {"/x/a": NO_RULE}


def test_on_the_way_a_name_of_another_peer_is_nobodys_and_one_of_the_same_stays() -> None:
    here, there = NamedPeer("a", ONE, (), keep=False), NamedPeer("a", ONE, (), keep=True)
    other = NamedPeer("a", TWO, (), keep=False)
    before = {"same": here, "moved": here, "gone": here, "another": here}
    after = {"same": here, "moved": there, "another": other, "new": here}
    assert names_on_the_way(before, after) == {"same": here, "moved": here}


def test_what_the_file_shuts_no_command_opens_and_the_other_way_round() -> None:
    for declared, typed in product(some_rules(), repeat=2):
        both = joined(declared, typed)
        assert both.denied == declared.denied | typed.denied
        shut = {declared.at_large, typed.at_large} & {"listed"}
        for default in DEFAULTS:
            allowed = let_in(both, default)
            assert not allowed & both.denied
            if shut:
                assert allowed <= both.allowed
    assert joined(Rule("any"), NO_RULE).at_large == joined(NO_RULE, Rule("any")).at_large == "any"


def test_whoever_gives_a_rule_more_to_say_looks_at_what_goes_through_here() -> None:
    """A field that `joined`, `rules_on_the_way`, the export and the plan do not know would be lost there."""
    assert [it.name for it in fields(Rule)] == ["at_large", "allowed", "denied", "ends", "told", "tells_any"]


def test_a_right_that_ends_by_itself_neither_lasts_nor_comes_on_the_way() -> None:
    one, other = peer(1), peer(2)
    rule = Rule("listed", frozenset({one, other}), ends={one: 100.0})
    assert rule.lasting == Rule("listed", frozenset({other}))
    assert Rule("any", ends={None: 100.0}).lasting == Rule("listed")
    way = rules_on_the_way({"/x/a": rule}, {"/x/a": replace(rule, tells_any=True)})["/x/a"]
    assert (way.allowed, way.ends, way.tells_any) == (frozenset({other}), {}, False)


def test_what_config_toml_gives_has_no_end() -> None:
    one, other = peer(1), peer(2)
    typed = Rule("any", frozenset({one, other}), ends={None: 100.0, one: 100.0, other: 200.0})
    assert joined(Rule(None, frozenset({one})), typed).ends == {None: 100.0, other: 200.0}
    assert joined(Rule("any"), typed).ends == {one: 100.0, other: 200.0}
    shut = joined(Rule("listed"), typed)
    assert (shut.at_large, shut.ends) == ("listed", {one: 100.0, other: 200.0})
    both = joined(Rule(told=frozenset({one})), Rule(told=frozenset({other}), tells_any=True))
    assert both.told == {one, other} and both.tells_any
