"""Tables of a file into tunnels, names and rules, and back into text: what is read, and each mistake."""

from __future__ import annotations

import tomllib
from dataclasses import fields, replace
from typing import Any, get_args, get_type_hints

import pytest

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.core.terms import PLAIN_FORWARD, PLAIN_LISTEN, ForwardTerms, ListenTerms, wanted_of
from p2pfwd.daemon import declared as declared_module
from p2pfwd.daemon.declared import Declared, read, read_all
from p2pfwd.daemon.export import written
from p2pfwd.daemon.tables import parse, take
from p2pfwd.errors import InvalidConfig
from p2pfwd.peers.named import NamedPeer
from p2pfwd.policy.access import Rule
from p2pfwd.policy.blocks import Blocks, parse_network
from p2pfwd.rpc.setup_values import MAX_APPLIED_BYTES
from p2pfwd.state.tunnel_file import SavedTunnel

OWN = PeerId.parse("12D3KooWR4PKFhaHT7S5cNqip4Tc5SX8sBge946crSC2bqCucLPg")
LAPTOP = PeerId.parse("12D3KooWNBSMhmHonfyQbXYczUq24ujJKQxhpNNgSaLxvupFZ5uu")
PHONE = PeerId.parse("12D3KooWGcQcL3RfR1bmquTwxEF25cPLg3c1EdrSUicVJm1WijhL")
ADDRESS = Multiaddr.parse("/ip4/192.0.2.1/tcp/4011")


class Names:
    """Whom commands gave a name."""

    def find(self, text: str) -> NamedPeer | None:
        return NamedPeer("phone", PHONE, (ADDRESS,), False) if text.lower() == "phone" else None


def declared(text: str) -> Declared:
    return read_all(parse(text, "here"), Names(), OWN)


def wrong(text: str) -> InvalidConfig:
    with pytest.raises(InvalidConfig) as caught:
        declared(text)
    return caught.value


WHOLE = f"""\
[[listen]]
protocol = "/x/ssh"
target = "22"
allow = ["laptop", "phone"]

[[peer]]
name = "Laptop"
peer = ["{ADDRESS}/p2p/{LAPTOP}"]
keep = true

[[listen]]
protocol = "/own"
target = "127.0.0.1:80"
custom_protocol = true
report_peer_id = true

[[forward]]
protocol = "/x/web"
listen = "8080"
peer = "laptop"
path = "direct"

[[rule]]
protocol = "/x/web"
allow = ["phone"]
deny = ["laptop"]
others = "none"

[[block]]
whom = ["192.0.2.0/24", "{PHONE}"]

[[block]]
whom = ["2001:db8::/32"]
"""


def network(text: str) -> Any:
    return parse_network(text)


def test_what_the_tables_mean() -> None:
    found = declared(WHOLE)
    ssh = SavedTunnel(
        "listen", "/x/ssh", Multiaddr.parse("/ip4/127.0.0.1/tcp/22"), ListenTerms(any_loopback=True)
    )
    own = SavedTunnel(
        "listen",
        "/own",
        Multiaddr.parse("/ip4/127.0.0.1/tcp/80"),
        ListenTerms(report_peer_id=True, custom_protocol=True),
    )
    local = Multiaddr.parse("/ip4/127.0.0.1/tcp/8080")
    web = SavedTunnel("forward", "/x/web", local, ForwardTerms(path="direct"), LAPTOP, (ADDRESS,))
    assert dict(found.tunnels) == {it.key: it for it in (ssh, own, web)}
    assert dict(found.names) == {"laptop": NamedPeer("laptop", LAPTOP, (ADDRESS,), True)}
    assert found.only == {"/x/ssh": {LAPTOP, PHONE}}
    assert found.rules == {"/x/web": Rule("listed", frozenset({PHONE}), frozenset({LAPTOP}))}
    assert found.blocks.peers == {PHONE}
    assert found.blocks.networks == {network("192.0.2.0/24"), network("2001:db8::/32")}
    assert found.all_rules()["/x/ssh"] == Rule("listed", frozenset({LAPTOP, PHONE}))
    assert [found.places[key].line for key in found.tunnels] == [1, 11, 17]


def test_what_names_this_node_itself_is_passed_over() -> None:
    """One file is for all machines. Its name means it in other tables, and rules are as they are written."""
    text = f"""\
[[peer]]
name = "nas"
peer = ["{ADDRESS}/p2p/{OWN}"]
keep = true

[[peer]]
name = "laptop"
peer = "{LAPTOP}"

[[listen]]
protocol = "/x/ssh"
target = "22"
allow = ["nas", "laptop"]

[[forward]]
protocol = "/x/ssh"
listen = "2222"
peer = "nas"

[[forward]]
protocol = "/x/ssh"
listen = "2223"
peer = "laptop"

[[rule]]
protocol = "/x/web"
allow = ["nas"]
deny = ["laptop"]

[[block]]
whom = ["nas", "phone"]
"""
    found = declared(text)
    assert (list(found.names), found.blocks.peers) == (["laptop"], {PHONE})
    local = "/ip4/127.0.0.1/tcp/222"
    assert list(found.tunnels) == [("listen", "/x/ssh"), ("forward", f"{local}3")]
    assert found.own == (("peer", "nas"), ("forward", f"{local}2"), ("block", str(OWN)))
    assert found.only == {"/x/ssh": {OWN, LAPTOP}}
    assert found.rules == {"/x/web": Rule(None, frozenset({OWN}), frozenset({LAPTOP}))}
    elsewhere = read_all(parse(text, "here"), Names(), PHONE)
    assert set(elsewhere.names) == {"nas", "laptop"} and elsewhere.own == (("block", str(PHONE)),)


def test_any_as_a_list_and_an_empty_one() -> None:
    listen = '[[listen]]\nprotocol = "/x/a"\ntarget = "1"\nallow = '
    assert declared(listen + '["any"]').all_rules() == {"/x/a": Rule("any")}
    assert declared(listen + "[]").all_rules() == {"/x/a": Rule("listed")}


LISTEN = '[[listen]]\nprotocol = "/x/a"\ntarget = "1"\n'
FORWARD = f'[[forward]]\nprotocol = "/x/a"\nlisten = "1"\npeer = "{LAPTOP}"\n'


def test_a_rate_and_an_idle_time_may_be_written_as_the_command_line_takes_them() -> None:
    text = LISTEN + 'rate = "2M"\nrate_per_peer = "1MiB/s"\nidle_timeout_s = "1h30m"'
    (found,) = declared(text).tunnels.values()
    assert found.terms == ListenTerms(True, rate=2_000_000, rate_per_peer=1 << 20, idle_timeout_s=5400)


def test_a_byte_order_mark_is_no_statement() -> None:
    assert parse("\ufeff" + WHOLE, "here") == parse(WHOLE, "here")


@pytest.mark.parametrize(
    ("text", "said", "right"),
    [
        ("[[listen]]\n", "[[listen]] 1 (line 1): protocol: it is missing", 'protocol = "/x/ssh"'),
        (LISTEN + "[[listen]]\nprotocol = 3", "[[listen]] 2 (line 4): protocol: 3 is no text", None),
        (
            LISTEN + "reportpeerid = true",
            "reportpeerid: there is no such key",
            "did you mean report_peer_id?",
        ),
        (LISTEN + "zebra = true", "zebra: there is no such key", "its keys are protocol, target, allow"),
        (LISTEN + "report_peer_id = 1", "report_peer_id: 1 does not fit", "true or false"),
        (LISTEN + 'allow = "laptop"', "allow: 'laptop' is no list of texts", '["…", "…"]'),
        (LISTEN + 'allow = ["nobody"]', 'allow: "nobody" is no peer ID', "p2pfwd peer ls"),
        (LISTEN + 'allow = ["any", "phone"]', "allow: any is every peer", "leave out the others"),
        (
            LISTEN + LISTEN,
            '[[listen]] 2 (line 4): protocol: "/x/a" has a table already, [[listen]] 1 in line 1',
            "keep one",
        ),
        (LISTEN.replace('"1"', '"0"'), "target: port can not be 0", "give the port"),
        (LISTEN.replace('"1"', '"22:80"'), "target: ", "p2pfwd listen"),
        (LISTEN.replace("/x/a", "/y/a"), 'protocol: "/y/a" is not within /x/', "custom_protocol = true"),
        (LISTEN.replace("/x/a", "/ipfs/a") + "custom_protocol = true", "belongs to the node itself", None),
        (LISTEN + "max_streams = -1", "max_streams: -1 does not fit: max_streams is not from 0 to", "number"),
        (LISTEN + 'rate = "2 fast"', 'rate: "2 fast" is no rate', 'a text as "500k", "2M"'),
        (LISTEN + "rate_per_peer = 2.5", "rate_per_peer: 2.5 does not fit", 'a text as "500k", "2M"'),
        (LISTEN + "rate = -1", "rate: -1 does not fit: rate is not from 0 to", "bytes a second"),
        (LISTEN + 'idle_timeout_s = "2 hours"', 'idle_timeout_s: "2 hours" is no duration', '"30m"'),
        (LISTEN + 'max_streams = "5"', 'max_streams: "5" does not fit', "a whole number"),
        (FORWARD.replace("peer =", "#"), "peer: it is missing", 'write peer = "12D3KooW…", or a list'),
        (FORWARD.replace(f'"{LAPTOP}"', "3"), "peer: 3 is no list of texts", 'write peer = "12D3KooW…"'),
        (LISTEN + 'check = "smtp"', 'check: "smtp" is no check of a target', "tcp asks whether"),
        (LISTEN + "wait_target_s = 601", "wait_target_s: 601 s is no time to wait", "give 0 to 600 seconds"),
        (LISTEN + "ends_at = 2026-12-01T18:00:00", "ends_at: 2026-12-01 18:00:00 does not fit", "its zone"),
        (FORWARD + 'path = "fast"', 'path: "fast" does not fit', 'one of "any", "direct", "relay"'),
        (FORWARD.replace('"1"', '"0"'), "listen: port 0 is another port at each start", "127.0.0.1:2222"),
        (FORWARD.replace('"1"', '"host.example:80"'), "listen: host.example is a name", "an IP address"),
        (
            FORWARD.replace('"1"', '"/ip4/1.2.3.4/udp/1"'),
            "listen: cannot listen on",
            "/ip4/127.0.0.1/tcp/2222",
        ),
        (FORWARD.replace(str(LAPTOP), "/dnsaddr/a.example"), "does not say which peer", "/p2p/<peer ID>"),
        (FORWARD.replace(f'"{LAPTOP}"', "[]"), "peer: no peer given", None),
        (FORWARD + FORWARD, 'listen: "/ip4/127.0.0.1/tcp/1" has a table already', "keep one"),
        ('[[peer]]\nname = "9"\npeer = "x"', "name: ", "begins with a letter"),
        (f'[[peer]]\nname = "a"\npeer = "{LAPTOP}"\nkeep = 1', "keep: 1 is neither true nor false", None),
        (
            f'[[peer]]\nname = "a"\npeer = "{LAPTOP}"\n' * 2,
            "[[peer]] 2 (line 4): name: the name a",
            "keep one",
        ),
        ('[[peer]]\nname = "a"\npeer = "phone"', "peer: ", None),
        ('[[rule]]\nprotocol = "/x/a"\nothers = "all"', "others: ", '"any" or "none"'),
        ('[[rule]]\nprotocol = "/x/a"\nallow = ["any"]', "allow: any is no peer", 'others = "any"'),
        (
            '[[rule]]\nprotocol = "/x/a"\nallow = ["phone"]\ndeny = ["phone"]',
            "is allowed, too",
            "list a peer once",
        ),
        (
            LISTEN + 'allow = []\n[[rule]]\nprotocol = "/x/a"',
            'whom "/x/a" lets in is said already',
            "keep one",
        ),
        ('[[block]]\nwhom = ["192.0.2.1/24"]', "whom: ", "the network is 192.0.2.0/24"),
        ("[listen]\nprotocol = 1", "here: listen must be tables", "write [[listen]] above each"),
        ("listen = 3", "here: listen must be tables", "of this node are `listen` under [swarm]"),
        ("[log]\nlevel = 'info'", "here: log is not what apply takes", "config.toml"),
        ("[[listen]", "here: ", "mend it first"),
        ("# " + "a" * MAX_APPLIED_BYTES, f"longer than {MAX_APPLIED_BYTES} bytes", "several files"),
        ("a = " + "[" * 5000, "nested too deeply", "nothing was changed"),
        (LISTEN + f"rate = 1{'0' * 5000}", "here: a number in it has thousands of digits", "mend it first"),
        (LISTEN + f"ends_at = 1{'0' * 400}", "does not fit: it is too large", "a date and time"),
        (LISTEN + "ends_at = 1e300", "ends_at: 1e+300 does not fit: it ends at no time", "a date and time"),
        (LISTEN + "ends_at = -5", "ends_at: -5 does not fit: it ends at no time", "a date and time"),
    ],
)
def test_a_mistake_names_its_place_and_what_would_be_right(text: str, said: str, right: str | None) -> None:
    error = wrong(text)
    assert error.message.startswith("here")
    assert said in error.message
    assert right is None or right in (error.hint or "")


def test_an_end_may_be_written_as_a_time() -> None:
    found, errors = read(parse(LISTEN + "ends_at = 2026-12-01T18:00:00Z", "here"), Names(), OWN)
    assert not errors
    assert [it.terms.ends_at for it in found.tunnels.values()] == [1796148000.0]


def test_one_bad_tunnel_leaves_the_others() -> None:
    text = LISTEN + '[[listen]]\nprotocol = "/x/b"\n' + FORWARD
    found, errors = read(parse(text, "here"), Names(), OWN)
    assert [key[0] for key in found.tunnels] == ["listen", "forward"]
    assert [(entry.table, entry.number) for entry, _ in errors] == [("listen", 2)]


def test_a_table_without_a_header_of_its_own_has_no_line() -> None:
    text = 'listen = [{protocol = "/x/a", target = "1"}]\nname = """\n[[forward]]\n"""\n'
    document = tomllib.loads(text)
    (entry,) = take(document, text, "here")
    assert (entry.line, entry.where) == (None, "here, [[listen]] 1")
    assert list(document) == ["name"]


# --- every term ------------------------------------------------------------------------------------


def other_value(kind: Any, term: Any) -> Any:
    """One that is not the default and fits, for a term of any kind."""
    hint = get_type_hints(kind)[term.name]
    if choices := [it for it in get_args(hint) if isinstance(it, str) and it != term.default]:
        return choices[0]
    if "bool" in str(term.type):
        return not term.default
    if "int" in str(term.type):
        return 7
    return 7.5 if "float" in str(term.type) else "tcp"


def with_one_term_each(kind: Any) -> list[Any]:
    """Values of which one term each differs from its default."""
    found = {term.name: other_value(kind, term) for term in fields(kind)}
    return [kind(**{name: value}) for name, value in found.items()]


def test_every_term_is_a_key_without_more_code() -> None:
    listens = [
        SavedTunnel("listen", f"/x/{number}", Multiaddr.parse("/ip4/127.0.0.1/tcp/1"), terms)
        for number, terms in enumerate(with_one_term_each(ListenTerms))
    ]
    forwards = [
        SavedTunnel(
            "forward", "/x/a", Multiaddr.parse(f"/ip4/127.0.0.1/tcp/{port}"), terms, LAPTOP, (ADDRESS,)
        )
        for port, terms in enumerate(with_one_term_each(ForwardTerms), start=1)
    ]
    assert len(listens) == len(fields(ListenTerms)) and len(forwards) == len(fields(ForwardTerms))
    text = written([*listens, *forwards], (), {}, Blocks())
    assert dict(declared(text).tunnels) == {it.key: it for it in (*listens, *forwards)}
    for term in fields(ListenTerms):
        assert wanted_of(ListenTerms, term.name)
    assert wanted_of(ListenTerms, "zebra") is None


def test_terms_that_exclude_each_other_are_a_mistake_of_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    def exclude(kind: Any, found: Any) -> Any:
        if len(found) > 1:
            raise ValueError("they exclude each other")
        return kind(**found)

    monkeypatch.setattr(declared_module, "terms_from_json", exclude)
    error = wrong(LISTEN + "report_peer_id = true")
    assert error.message == "here, [[listen]] 1 (line 1): they exclude each other"


# --- out and in again ------------------------------------------------------------------------------


def text_of(found: Declared) -> str:
    return written(found.tunnels.values(), found.names.values(), found.all_rules(), found.blocks)


def test_what_is_written_is_read_back_as_it_was() -> None:
    found = declared(WHOLE)
    text = text_of(found)
    again = declared(text)
    assert text_of(again) == text
    assert again.tunnels == found.tunnels
    assert again.names == found.names
    assert again.rules == found.all_rules()
    assert (again.blocks.peers, again.blocks.networks) == (found.blocks.peers, found.blocks.networks)
    assert "# Local services that are offered." in text


def test_an_end_is_written_exactly_and_for_people() -> None:
    tunnel = SavedTunnel("listen", "/x/a", ADDRESS, ListenTerms(ends_at=1_796_148_000.1234567))
    text = written([tunnel], (), {}, Blocks())
    assert "ends_at = 1796148000.1234567  # 2026-12-01T18:00:00.123457Z\n" in text
    assert declared(text).tunnels[tunnel.key].terms == tunnel.terms


def test_an_empty_node_is_an_empty_file() -> None:
    text = written((), (), {}, Blocks())
    assert (declared(text).tunnels, declared(text).all_rules()) == ({}, {})
    assert all(line.startswith("#") for line in text.splitlines())


def test_the_order_in_which_things_came_says_nothing() -> None:
    more = Multiaddr.parse("/ip4/192.0.2.2/tcp/4011")
    one = SavedTunnel("forward", "/x/a", ADDRESS, PLAIN_FORWARD, LAPTOP, (ADDRESS, more))
    other = SavedTunnel("listen", "/x/b", ADDRESS, PLAIN_LISTEN)
    swapped = replace(one, peer_addrs=(more, ADDRESS), created=5.0)
    assert written([one, other], (), {}, Blocks()) == written([other, swapped], (), {}, Blocks())


def test_what_a_name_can_have_survives_toml() -> None:
    name = '/x/"quoted" \\ # 漢字'
    tunnel = SavedTunnel("listen", name, ADDRESS, PLAIN_LISTEN)
    text = written([tunnel], (), {name: Rule("any")}, Blocks())
    assert [it.protocol for it in declared(text).tunnels.values()] == [name]
    assert list(declared(text).rules) == [name]
