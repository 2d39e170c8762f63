"""What is to be changed for a file: in words, whole or not at all, and never what config.toml declares."""

from __future__ import annotations

from typing import Any

import pytest

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.daemon import plan as plans
from p2pfwd.daemon.declared import Declared, read_all
from p2pfwd.daemon.plan import Plan, State, plan
from p2pfwd.daemon.tables import parse
from p2pfwd.errors import InvalidConfig, ResourceLimitExceeded
from p2pfwd.peers.named import NamedPeer

OWN = PeerId.parse("12D3KooWR4PKFhaHT7S5cNqip4Tc5SX8sBge946crSC2bqCucLPg")
LAPTOP = PeerId.parse("12D3KooWNBSMhmHonfyQbXYczUq24ujJKQxhpNNgSaLxvupFZ5uu")
PHONE = PeerId.parse("12D3KooWGcQcL3RfR1bmquTwxEF25cPLg3c1EdrSUicVJm1WijhL")


class Nobody:
    """No names."""

    def find(self, text: str) -> NamedPeer | None:
        return None


def declared(text: str) -> Declared:
    return read_all(parse(text, "here"), Nobody(), OWN)


def planned(before: str, after: str, *, prune: bool = False, fixed: str = "") -> Plan:
    return plan(State.of(declared(before)), declared(after), prune=prune, fixed=declared(fixed))


def lines(found: Plan) -> list[str]:
    return [f"{it.action} {it.kind} {it.name}: {it.text}" for it in found.changes()]


def listen(name: str = "/x/a", target: str = "127.0.0.1:1", more: str = "") -> str:
    return f'[[listen]]\nprotocol = "{name}"\ntarget = "{target}"\n{more}\n'


def forward(port: int = 1, whom: object = LAPTOP, more: str = "") -> str:
    return f'[[forward]]\nprotocol = "/x/a"\nlisten = "127.0.0.1:{port}"\npeer = "{whom}"\n{more}\n'


def named(name: str = "laptop", whom: object = LAPTOP, more: str = "") -> str:
    return f'[[peer]]\nname = "{name}"\npeer = "{whom}"\n{more}\n'


RULE = '[[rule]]\nprotocol = "/x/a"\n'
AT = f"/ip4/192.0.2.1/tcp/4011/p2p/{LAPTOP}"


@pytest.mark.parametrize(
    ("before", "after", "prune", "told", "unchanged"),
    [
        ("", listen(), False, ["added listen /x/a: target /ip4/127.0.0.1/tcp/1"], 0),
        (listen(), listen(), True, [], 1),
        (listen(), "", False, [], 0),
        (listen(), "", True, ["removed listen /x/a: target /ip4/127.0.0.1/tcp/1"], 0),
        (
            listen(),
            listen(target="127.0.0.1:2"),
            False,
            ["changed listen /x/a: target /ip4/127.0.0.1/tcp/2"],
            0,
        ),
        (
            listen(),
            listen(more="report_peer_id = true"),
            False,
            ["changed listen /x/a: report_peer_id true"],
            0,
        ),
        (
            listen(more="report_peer_id = true"),
            listen(),
            False,
            ["changed listen /x/a: no more report_peer_id true"],
            0,
        ),
        (
            forward(),
            forward(whom=PHONE, more='path = "relay"'),
            False,
            [f"changed forward /ip4/127.0.0.1/tcp/1: peer {PHONE}; path relay"],
            0,
        ),
        (forward(whom=AT), forward(), True, [], 1),
        (
            forward(),
            forward(whom=AT),
            True,
            ["changed forward /ip4/127.0.0.1/tcp/1: address /ip4/192.0.2.1/tcp/4011"],
            0,
        ),
        (
            listen(more="ends_at = 1796148000"),
            listen(more="ends_at = 2026-12-01T18:00:00.5Z"),
            False,
            ["changed listen /x/a: ends_at 2026-12-01T18:00:00.5Z"],
            0,
        ),
        (
            named(),
            named(more="keep = true") + RULE + 'others = "none"',
            False,
            ["changed peer laptop: kept connected", "added rule /x/a: others none"],
            0,
        ),
        (
            RULE + f'allow = ["{LAPTOP}", "{PHONE}"]',
            RULE + f'allow = ["{PHONE}"]',
            False,
            [f"changed rule /x/a: no more allow {LAPTOP}"],
            0,
        ),
        (
            RULE + f'tell = ["{LAPTOP}", "{PHONE}"]',
            RULE + f'tell = ["{PHONE}"]',
            False,
            [f"changed rule /x/a: no more tell {LAPTOP}"],
            0,
        ),
        (
            '[[block]]\nwhom = ["192.0.2.0/24", "192.0.3.0/24"]',
            '[[block]]\nwhom = ["192.0.3.0/24", "192.0.4.0/24"]',
            True,
            ["removed block 192.0.2.0/24: ", "added block 192.0.4.0/24: "],
            1,
        ),
    ],
)
def test_in_words(before: str, after: str, prune: bool, told: list[str], unchanged: int) -> None:
    found = planned(before, after, prune=prune)
    assert (lines(found), found.unchanged) == (told, unchanged)


def test_addresses_known_before_are_not_forgotten() -> None:
    other = f"/ip4/192.0.2.9/tcp/4011/p2p/{LAPTOP}"
    found = planned(forward(whom=AT), forward(whom=other))
    (tunnel,) = found.after.tunnels.values()
    assert tunnel.peer_addrs == tuple(Multiaddr.parse(f"/ip4/192.0.2.{last}/tcp/4011") for last in (9, 1))


def test_allow_of_a_listen_keeps_whom_was_denied() -> None:
    before = RULE + f'deny = ["{PHONE}", "{LAPTOP}"]'
    found = planned(before, listen(more=f'allow = ["{LAPTOP}"]'))
    rule = found.after.rules["/x/a"]
    assert (rule.at_large, rule.allowed, rule.denied) == ("listed", {LAPTOP}, {PHONE})


# --- what config.toml declares ---------------------------------------------------------------------

ALL = listen() + forward() + named() + RULE + '[[block]]\nwhom = ["192.0.2.0/24"]'


def test_the_same_as_config_toml_says_is_no_change() -> None:
    assert lines(planned(ALL, ALL, prune=True, fixed=ALL)) == []


@pytest.mark.parametrize(
    "other",
    [
        listen(target="127.0.0.1:2"),
        listen(more="report_peer_id = true"),
        forward(whom=PHONE),
        named(whom=PHONE),
        named(more="keep = true"),
        RULE + 'others = "any"',
        listen(more='allow = ["any"]'),
    ],
)
def test_otherwise_than_config_toml_says_is_refused_with_its_place(other: str) -> None:
    with pytest.raises(InvalidConfig) as caught:
        planned(ALL, other, fixed=ALL)
    assert "config.toml declares it otherwise, here, [[" in caught.value.message
    assert caught.value.hint == "change it there, then p2pfwd reload"


def test_prune_leaves_it_and_says_so() -> None:
    found = planned(listen("/x/b") + ALL, "", prune=True, fixed=ALL)
    assert [it.name for it in found.changes()] == ["/x/b"]
    assert found.notes == (
        "listen /x/a stays: config.toml declares it",
        "forward /ip4/127.0.0.1/tcp/1 stays: config.toml declares it",
        "peer laptop stays: config.toml declares it",
        "rule /x/a stays: config.toml declares it",
        "block 192.0.2.0/24 stays: config.toml declares it",
    )


# --- what cannot be --------------------------------------------------------------------------------


def test_a_peer_with_another_name_is_refused_unless_that_goes() -> None:
    with pytest.raises(InvalidConfig, match="has the name laptop") as caught:
        planned(named(), named("notebook"))
    assert caught.value.hint == "p2pfwd peer rm laptop first, or --prune"
    assert [it.action for it in planned(named(), named("notebook"), prune=True).changes()] == [
        "removed",
        "added",
    ]


@pytest.mark.parametrize(("bound", "after"), [("MAX_SAVED", listen()), ("MAX_NAMED", named())])
def test_more_than_can_be_kept_is_refused(monkeypatch: pytest.MonkeyPatch, bound: str, after: str) -> None:
    monkeypatch.setattr(plans, bound, 0)
    with pytest.raises(ResourceLimitExceeded, match=r"with that file there are 1 .* is the limit") as caught:
        planned("", after)
    assert (caught.value.hint or "").startswith("take some out of the file, or p2pfwd ")


def test_more_rules_than_can_be_kept_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Any) -> None:
        raise ResourceLimitExceeded("too many rules")

    monkeypatch.setattr(plans, "check_bounds", refuse)
    with pytest.raises(ResourceLimitExceeded):
        planned("", RULE)
