"""core.typed: what people type and paste where an address or a peer is asked, and what they are told."""

from __future__ import annotations

import pytest

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.core.typed import parse_endpoint, parse_name_server, parse_peer, parse_target
from p2pfwd.errors import InvalidMultiaddr, InvalidPeerId

ID = "12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA"
RELAY_ID = "QmcgpsyWgH8Y8ajJz1Cu72KnS5uo2Aa2LpzU7kinSupNKC"
CID = "bafzaajaiaejcal72gwuz2or47oyxxn6b3rkwdmmkrxgkjxzy3rqt5kczyn7lcm3l"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:22", "/ip4/127.0.0.1/tcp/22"),
        ("0.0.0.0:22", "/ip4/0.0.0.0/tcp/22"),
        ("[::1]:22", "/ip6/::1/tcp/22"),
        ("[fe80::1%eth0]:22", "/ip6zone/eth0/ip6/fe80::1/tcp/22"),
        (":22", "/ip4/127.0.0.1/tcp/22"),
        ("22", "/ip4/127.0.0.1/tcp/22"),
        ("0", "/ip4/127.0.0.1/tcp/0"),
        ("localhost:22", "/ip4/127.0.0.1/tcp/22"),
        ("LOCALHOST:22", "/ip4/127.0.0.1/tcp/22"),
        ("host.name:22", "/dns/host.name/tcp/22"),
        ("my_host-1:22", "/dns/my_host-1/tcp/22"),
        ("/ip4/1.2.3.4/tcp/5/", "/ip4/1.2.3.4/tcp/5"),
        ("/unix/run/x", "/unix/run/x"),
    ],
)
def test_shorthand_for_endpoints(text: str, expected: str) -> None:
    assert str(parse_endpoint(text)) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "must begin with /"),
        ("unix:/run/a.sock /", "its path ends in a space"),
        ("/unix/run/a.sock /", "its path ends in a space"),
        ("foo", "the port is missing"),
        ("127.0.0.1", "the port is missing"),
        ("[::1]", "the port is missing"),
        ("host:", "a port is a number"),
        ("host:ssh", "a port is a number"),
        ("host:65536", "a port is a number"),
        ("host:\u0663", "a port is a number"),
        ("65536", "a port is a number from 0 to 65535"),
        ("99999", "a port is a number from 0 to 65535"),
        ("1" * 40, "a port is a number from 0 to 65535"),
        ("::1:22", "needs brackets"),
        ("1.2.3:22", "four numbers"),
        ("1.2.3.256:22", "four numbers"),
        ("[::g]:22", "not an IPv6 address"),
        ("a b:22", "is no host name"),
        ("a..b:22", "is no host name"),
        ("a/b:22", "is no host name"),
        ("\udcff:22", "is no host name"),
        ("x" * 64 + ":22", "is no host name"),
        ("/run/app", "unknown protocol run"),
    ],
)
def test_bad_endpoints_name_the_fault_and_the_cure(text: str, reason: str) -> None:
    with pytest.raises(InvalidMultiaddr) as caught:
        parse_endpoint(text)
    assert reason in caught.value.message
    assert caught.value.message.startswith("failed to parse multiaddr ")
    assert caught.value.hint and caught.value.message.isprintable()


@pytest.mark.parametrize(
    ("text", "addr"),
    [
        (ID, None),
        (CID, None),
        (f"/p2p/{ID}", None),
        (f"/ipfs/{ID}", None),
        (f"/p2p/{CID}", None),
        (f"/ip4/1.2.3.4/tcp/1/p2p/{ID}", "/ip4/1.2.3.4/tcp/1"),
        (f"/ip4/1.2.3.4/tcp/1/ipfs/{ID}/", "/ip4/1.2.3.4/tcp/1"),
        (f"/dnsaddr/example.com/p2p/{ID}", "/dnsaddr/example.com"),
        (
            f"/ip4/1.2.3.4/tcp/1/p2p/{RELAY_ID}/p2p-circuit/p2p/{ID}",
            f"/ip4/1.2.3.4/tcp/1/p2p/{RELAY_ID}/p2p-circuit",
        ),
    ],
)
def test_peer_arguments(text: str, addr: str | None) -> None:
    assert parse_peer(text) == (PeerId.parse(ID), None if addr is None else Multiaddr.parse(addr))


def test_a_dnsaddr_may_leave_the_peer_id_to_its_records() -> None:
    assert parse_peer("/dnsaddr/example.com") == (None, Multiaddr.parse("/dnsaddr/example.com"))


@pytest.mark.parametrize(
    ("text", "error", "reason"),
    [
        ("/ip4/1.2.3.4/tcp/1", InvalidMultiaddr, "no peer ID at its end"),
        ("/dnsaddr/example.com/tcp/1", InvalidMultiaddr, "no peer ID at its end"),
        (f"/p2p/{ID}/tcp/1", InvalidMultiaddr, "no peer ID at its end"),
        (f"/ip4/1.2.3.4/tcp/1/p2p/{RELAY_ID}/p2p-circuit", InvalidMultiaddr, "not the peer behind it"),
        ("/ip4/1.2.3.4/tcp/1/p2p", InvalidMultiaddr, "p2p needs a value"),
        ("/p2p/12D3KooW", InvalidMultiaddr, "incomplete or mistyped"),
        ("12D3KooW", InvalidPeerId, "incomplete or mistyped"),
        ("", InvalidPeerId, "is empty"),
        ("1.2.3.4:4001", InvalidPeerId, "is no peer ID"),
    ],
)
def test_bad_peer_arguments_name_the_fault_and_the_cure(
    text: str, error: type[InvalidMultiaddr | InvalidPeerId], reason: str
) -> None:
    with pytest.raises(error) as caught:
        parse_peer(text)
    assert reason in caught.value.message
    assert caught.value.hint


# --- what is pasted -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://127.0.0.1:8080/", "/ip4/127.0.0.1/tcp/8080"),
        ("http://127.0.0.1:8080", "/ip4/127.0.0.1/tcp/8080"),
        ("http://localhost:8080/", "/ip4/127.0.0.1/tcp/8080"),
        ("HTTP://LOCALHOST/", "/ip4/127.0.0.1/tcp/80"),
        ("https://nas.lan/", "/dns/nas.lan/tcp/443"),
        ("http://[::1]:3000/", "/ip6/::1/tcp/3000"),
        ("http://[::1]/", "/ip6/::1/tcp/80"),
        ("http://[fe80::1%25eth0]:80/", "/ip6zone/eth0/ip6/fe80::1/tcp/80"),
        ("tcp://0.0.0.0:2375", "/ip4/0.0.0.0/tcp/2375"),
        ("ssh://host", "/dns/host/tcp/22"),
        ("ssh://host:2222", "/dns/host/tcp/2222"),
        ("postgresql://localhost", "/ip4/127.0.0.1/tcp/5432"),
        ("gopher://old.example:70/", "/dns/old.example/tcp/70"),
        ("127.0.0.1:8080/", "/ip4/127.0.0.1/tcp/8080"),
        (" 8080 ", "/ip4/127.0.0.1/tcp/8080"),
        (" /ip4/1.2.3.4/tcp/5\n", "/ip4/1.2.3.4/tcp/5"),
        ("unix:/run/app.sock", "/unix/run/app.sock"),
        ("unix:///run/app", "/unix/run/app"),
        ("UNIX:/run/My App.sock", "/unix/run/My App.sock"),
        ("unix-connect:/run/app.sock", "/unix/run/app.sock"),
        ("UNIX-LISTEN:/run/app", "/unix/run/app"),
        ("tcp:127.0.0.1:80", "/ip4/127.0.0.1/tcp/80"),
        ("tcp:localhost:80", "/ip4/127.0.0.1/tcp/80"),
        ("TCP4:nas.lan:80", "/dns/nas.lan/tcp/80"),
        ("TCP6-CONNECT:[::1]:80", "/ip6/::1/tcp/80"),
        ("tcp:80", "/dns/tcp/tcp/80"),
        ("/run/app.sock", "/unix/run/app.sock"),
        ("/run/user/1000/app.socket", "/unix/run/user/1000/app.socket"),
        ("/var/run/postgresql/.s.PGSQL.5432", "/unix/var/run/postgresql/.s.PGSQL.5432"),
    ],
)
def test_what_can_be_meant_in_one_way_only_is_understood(text: str, expected: str) -> None:
    assert str(parse_endpoint(text)) == expected


@pytest.mark.parametrize(
    ("text", "reason", "hint"),
    [
        ("http://127.0.0.1:8080/app", "a path cannot be part", "leave it out: 127.0.0.1:8080"),
        ("http://localhost/?q=1", "a path cannot be part", "leave it out: localhost:80"),
        ("localhost:3000/app", "a path cannot be part", "leave it out: localhost:3000"),
        ("ssh://ann@host", "a user cannot be part", "leave it out: host:22"),
        ("postgres://u:p@db:5432/x", "a user cannot be part", "leave it out: db:5432"),
        ("udp://1.2.3.4:53", "udp is not TCP", "write HOST:PORT"),
        ("gopher://old.example/", "it has no port", "write HOST:PORT"),
        ("tcp://host", "it has no port", "write HOST:PORT"),
        ("http://", "it has no host", "write HOST:PORT"),
        ("http://:80", "it has no host", "write HOST:PORT"),
        ("2222:localhost:22", "as ssh -L takes them", "p2pfwd listen /x/NAME localhost:22; "),
        ("2222:localhost:22", "as ssh -L takes them", "p2pfwd forward /x/NAME 2222 PEER"),
        ("127.0.0.1:2222:[::1]:22", "as ssh -L takes them", "p2pfwd listen /x/NAME [::1]:22; "),
        ("8080:80", "as ssh -L takes them", "p2pfwd listen /x/NAME 80; "),
        ("2222:/run/app.sock", "as ssh -L takes them", "p2pfwd listen /x/NAME /unix/run/app.sock; "),
        ("2222:/run/app.sock", "as ssh -L takes them", "p2pfwd forward /x/NAME 2222 PEER"),
        ("localhost:2222:/run/my app", "as ssh -L takes them", "p2pfwd listen /x/NAME '/unix/run/my app'; "),
        ("/tmp/a.sock:localhost:22", "as ssh -L takes them", "p2pfwd listen /x/NAME localhost:22; "),
        ("/tmp/a.sock:localhost:22", "as ssh -L takes them", "forward /x/NAME /unix/tmp/a.sock PEER"),
        ("/tmp/a:[::1]:22", "as ssh -L takes them", "p2pfwd listen /x/NAME [::1]:22; "),
        ("/tmp/a.sock:/run/b.sock", "as ssh -L takes them", "p2pfwd listen /x/NAME /unix/run/b.sock; "),
        ("tcp:2222:localhost:22", "as ssh -L takes them", "p2pfwd listen /x/NAME localhost:22; "),
        ("tcp:::1:80", "needs brackets", "write HOST:PORT"),
        ("TCP-LISTEN:2222,fork", "a word of socat", "write 2222 for 127.0.0.1, or 0.0.0.0:2222 for every"),
        ("udp:127.0.0.1:53", "udp is not TCP", "write HOST:PORT"),
        ("udp6-connect:[::1]:53", "udp is not TCP", "write HOST:PORT"),
        ("unix:app.sock", "begins with a slash", "/unix/run/app.sock"),
        ("/run/app", "unknown protocol run", "for a Unix socket write /unix/run/app"),
        ("/ipv4/127.0.0.1/tcp/80", "unknown protocol ipv4", "for a Unix socket write"),
        ("/x/web", "unknown protocol x", "that is a protocol name; it comes first"),
        ("/ip4/1.2.3.4/tcp/1 /ip4/1.2.3.4/tcp/2", "failed to parse", "give each as an argument"),
        (ID, "it is a peer", "write HOST:PORT"),
        (CID, "it is a peer", "write HOST:PORT"),
        ("*:8080", "write 0.0.0.0 or", "write HOST:PORT"),
    ],
)
def test_what_is_pasted_and_cannot_be_meant_gets_the_words_to_write(
    text: str, reason: str, hint: str
) -> None:
    with pytest.raises(InvalidMultiaddr) as caught:
        parse_endpoint(text)
    assert reason in caught.value.message and hint in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("text", "either"),
    [
        ("8080", True),
        (":8080", True),
        ("localhost:8080", True),
        ("http://localhost:8080/", True),
        ("127.0.0.1:8080", False),
        ("[::1]:8080", False),
        ("/ip4/127.0.0.1/tcp/8080", False),
        ("/run/app.sock", False),
        ("nas:8080", False),
    ],
)
def test_a_bare_port_and_localhost_mean_either_loopback(text: str, either: bool) -> None:
    assert parse_target(text)[1] is either


# --- peers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [f" {ID}", f"{ID} \n", f" /ip4/1.2.3.4/tcp/1/p2p/{ID} "])
def test_blanks_around_a_peer_do_not_count(text: str) -> None:
    assert parse_peer(text)[0] == PeerId.parse(ID)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("1.2.3.4:4001", "with the peer ID at its end, as /ip4/1.2.3.4/tcp/4001/p2p/12D3KooW…"),
        (f"1.2.3.4:4001/p2p/{ID}", "as /ip4/1.2.3.4/tcp/4001/p2p/"),
        ("http://nas.lan:4011/", "as /dns/nas.lan/tcp/4011/p2p/"),
        ("8080", "that is an address"),
        (f"/ip4/1.2.3.4/tcp/1/p2p/{ID} /ip4/1.2.3.4/tcp/2/p2p/{ID}", "give each as an argument of its own"),
        ("/x/web", "that is a protocol name, and a peer is asked"),  # by `ping`, too: no word of an order
    ],
)
def test_what_is_no_peer_gets_the_words_to_write(text: str, hint: str) -> None:
    with pytest.raises((InvalidMultiaddr, InvalidPeerId)) as caught:
        parse_peer(text)
    assert hint in (caught.value.hint or "")


@pytest.mark.parametrize("text", ["12D3KooWnope", "12D3KooW", ID[:-1], ID + "x", ID[:-2]])
@pytest.mark.parametrize("form", ["{}", "/p2p/{}", "/ip4/1.2.3.4/tcp/1/p2p/{}"])
def test_a_truncated_id_is_mistyped(text: str, form: str) -> None:
    with pytest.raises((InvalidMultiaddr, InvalidPeerId), match="mistyped"):
        parse_peer(form.format(text))


@pytest.mark.parametrize(
    "form",
    [
        "{}",
        "/p2p/{}",
        "/ip4/1.2.3.4/tcp/1/p2p/{}",
        f"/ip4/1.2.3.4/tcp/1/p2p/{{}}/p2p-circuit/p2p/{ID}",
        "/ip4/1.2.3.4/tcp/1/p2p/{}/p2p-circuit",
    ],
)
def test_an_id_that_no_key_can_have_is_mistyped(form: str) -> None:
    slip = str(PeerId.from_bytes(PeerId.parse(ID).to_bytes()[:-1] + b"\x01"))
    assert not PeerId.parse(slip).is_possible(), "the vector: half of all slips are found"
    with pytest.raises((InvalidMultiaddr, InvalidPeerId), match="no key can have the ID 12D3…"):
        parse_peer(form.format(slip))


@pytest.mark.parametrize(
    ("server", "expected"),
    [
        ("192.0.2.1", ("192.0.2.1", 53)),
        ("192.0.2.1:5353", ("192.0.2.1", 5353)),
        ("2001:db8::1", ("2001:db8::1", 53)),
        ("[2001:db8::1]", ("2001:db8::1", 53)),
        ("[2001:db8::1]:5353", ("2001:db8::1", 5353)),
        ("fe80::1%eth0", ("fe80::1%eth0", 53)),
    ],
)
def test_name_servers_are_given_with_or_without_a_port(server: str, expected: tuple[str, int]) -> None:
    assert parse_name_server(server) == expected
