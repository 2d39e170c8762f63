"""libp2p over multicast DNS: what real nodes send, what we say, what of it all is believed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import RemoteProtocolError
from p2pfwd.wire import dns_message, mdns
from p2pfwd.wire.dns_message import PTR, TXT, Message, Pointer, Question, Text, name_of
from p2pfwd.wire.mdns import DIRECTORY, SERVICE, Heard, NearPeer

CAPTURES = json.loads((Path(__file__).parents[2] / "vectors/mdns_captures.json").read_text())
PEER = PeerId.parse(CAPTURES["kubo"]["peer"])
OTHER = PeerId.parse(CAPTURES["js"]["peer"])
INSTANCE = mdns.instance_name(bytes(range(mdns.INSTANCE_BYTES)))


def addrs(*texts: str) -> tuple[Multiaddr, ...]:
    return tuple(Multiaddr.parse(text) for text in texts)


def told(*strings: str, name: tuple[bytes, ...] = (INSTANCE, *SERVICE), ttl_s: int = 120) -> bytes:
    """An answer of anybody's with these TXT strings."""
    texts = Text(name, ttl_s, tuple(string.encode() for string in strings))
    return dns_message.encode(Message(0, True, records=(Pointer(SERVICE, ttl_s, name), texts)))


def heard_addrs(*strings: str, from_here: bool = False) -> tuple[Multiaddr, ...]:
    (peer,) = mdns.hear(told(*(f"dnsaddr={string}/p2p/{PEER}" for string in strings)), from_here).peers
    return peer.addrs


@pytest.mark.parametrize(
    ("node", "message"), [("kubo", "answer"), ("kubo", "announcement"), ("js", "answer")]
)
def test_what_a_real_node_answers(node: str, message: str) -> None:
    """The peer and its address, of Kubo's compressed answer and announcement and of js-libp2p's plain one."""
    captured = CAPTURES[node]
    heard = mdns.hear(bytes.fromhex(captured[message]), from_here=False)
    assert heard.peers == (NearPeer(PeerId.parse(captured["peer"]), addrs(captured["address"])),)
    assert not heard.asks_for_peers and not heard.asks_for_services


@pytest.mark.parametrize("node", ["kubo", "js"])
def test_what_a_real_node_asks(node: str) -> None:
    heard = mdns.hear(bytes.fromhex(CAPTURES[node]["question"]), from_here=False)
    assert heard.asks_for_peers and not heard.peers


def test_kubos_probe_for_its_own_name_is_no_question_for_peers() -> None:
    assert not mdns.hear(bytes.fromhex(CAPTURES["kubo"]["probe"]), from_here=False).asks_for_peers


def test_the_question_is_js_libp2ps_but_for_its_number() -> None:
    assert mdns.query(0) == bytes.fromhex(CAPTURES["js"]["question"])
    assert mdns.hear(mdns.query(77), from_here=True) == Heard(77, asks_for_peers=True)


def test_the_answer_says_what_go_wants_to_see() -> None:
    """PTR first; then TXT with one string per address, SRV, and A and AAAA of the host that SRV names."""
    mine = addrs("/ip4/192.168.1.5/tcp/4011", "/ip6/fd00::5/tcp/4012", "/ip4/10.0.0.5/tcp/4011")
    answer = mdns.answer(INSTANCE, PEER, mine)
    message = dns_message.decode(answer)
    assert message is not None and message.is_response and message.id == 0
    name = (INSTANCE, *SERVICE)
    assert message.records == (
        Pointer(SERVICE, 360, name),
        Text(name, 360, tuple(f"dnsaddr={addr}/p2p/{PEER}".encode() for addr in mine)),
    )
    host = bytes((len(INSTANCE),)) + INSTANCE + b"\x05local\x00"
    assert b"\x00\x00\x00\x00\x0f\xab" + host in answer  # SRV: priority, weight, port 4011, host
    assert host + bytes.fromhex("0001 0001 00000168 0004 c0a80105") in answer
    assert host + bytes.fromhex("001c 0001 00000168 0010 fd00 000000000000000000000000 0005") in answer
    assert mdns.hear(answer, from_here=False).peers == (NearPeer(PEER, mine),)


def test_only_private_addresses_are_told() -> None:
    mine = addrs(
        "/ip4/192.168.1.5/tcp/4011",
        "/ip4/127.0.0.1/tcp/4011",
        "/ip4/198.51.100.1/tcp/4011",
        "/ip4/8.8.8.8/tcp/4011",
        "/ip6/2a00::1/tcp/4011",
        "/ip6/fe80::1/tcp/4011",
        "/ip4/0.0.0.0/tcp/4011",
        "/ip4/192.168.1.5/udp/4011/quic-v1",
    )
    assert mdns.tellable(mine) == [mine[0]]


def test_an_answer_fits_one_frame() -> None:
    """With more addresses than there is room for, the first ones are told, all of them whole."""
    mine = addrs(*(f"/ip4/192.168.100.{number}/tcp/40110" for number in range(1, 100)))
    answer = mdns.answer(INSTANCE, PEER, mine)
    assert 1300 < len(answer) <= mdns.MAX_SENT_BYTES
    (peer,) = mdns.hear(answer, from_here=False).peers
    assert len(peer.addrs) > 8 and peer.addrs == mine[: len(peer.addrs)]


def test_leaving() -> None:
    """A goodbye is an answer whose time to live is over."""
    mine = addrs("/ip4/192.168.1.5/tcp/4011")
    heard = mdns.hear(mdns.answer(INSTANCE, PEER, mine, mdns.GOODBYE_TTL_S), from_here=False)
    assert heard.peers == (NearPeer(PEER, mine, leaving=True),)


def test_the_directory_of_services() -> None:
    """Who asks which services there are is told of ours; that answer is no peer."""
    question = dns_message.encode(Message(5, False, questions=(Question(DIRECTORY, PTR),)))
    assert mdns.hear(question, from_here=False) == Heard(5, asks_for_services=True)
    answer = dns_message.decode(mdns.directory_answer())
    assert answer is not None and answer.records == (Pointer(DIRECTORY, 360, SERVICE),)
    assert mdns.hear(mdns.directory_answer(), from_here=False) == Heard(0)


def test_the_instance_name_is_random_and_long_enough() -> None:
    assert 32 <= len(INSTANCE) <= 63 and INSTANCE.isalnum() and INSTANCE.lower() == INSTANCE
    assert mdns.instance_name(bytes(mdns.INSTANCE_BYTES)) != INSTANCE
    with pytest.raises(ValueError, match="16 bytes"):
        mdns.instance_name(b"short")


def test_only_plain_private_addresses_are_believed() -> None:
    """Names, relays, other transports and the Internet are left out; the peer stays."""
    good = "/ip4/192.168.1.5/tcp/4001"
    bad = (
        "/ip4/8.8.8.8/tcp/4001",
        "/dns4/printer.local/tcp/4001",
        "/dns4/example.com/tcp/4001",
        f"/ip4/10.0.0.1/tcp/4001/p2p/{OTHER}/p2p-circuit",
        "/ip4/10.0.0.1/udp/4001/quic-v1",
        "/ip4/10.0.0.1/tcp/0",
        "/ip6/fe80::1/tcp/4001",
        "/ip4/224.0.0.251/tcp/4001",
    )
    assert heard_addrs(*bad[:4], good, *bad[4:]) == addrs(good)
    assert heard_addrs(*bad) == ()


def test_loopback_is_believed_of_this_machine_only() -> None:
    here = "/ip4/127.0.0.1/tcp/4001"
    assert heard_addrs(here) == ()
    assert heard_addrs(here, from_here=True) == addrs(here)


def test_nonsense_costs_nothing_but_itself() -> None:
    """Strings of other kinds, no address, no peer ID, no UTF-8: the good one beside them counts."""
    good = f"dnsaddr=/ip4/10.0.0.1/tcp/1/p2p/{PEER}"
    for bad in ("", "dnsaddr=", "dnsaddr=/nonsense/1", "dnsaddr=/ip4/10.0.0.1/tcp/1", "txtvers=1", "=", "p"):
        (peer,) = mdns.hear(told(bad, good), from_here=False).peers
        assert peer.peer_id == PEER
    texts = Text((INSTANCE, *SERVICE), 1, (b"dnsaddr=/\xff", good.encode()))
    assert mdns.hear(dns_message.encode(Message(0, True, records=(texts,))), from_here=False).peers


def test_what_names_another_service_is_not_heard() -> None:
    """A TXT of something else, of the service itself, or below an instance says nothing."""
    good = f"dnsaddr=/ip4/10.0.0.1/tcp/1/p2p/{PEER}"
    for name in (name_of("x._ipp._tcp.local"), SERVICE, (b"a", b"b", *SERVICE)):
        data = dns_message.encode(Message(0, True, records=(Text(name, 1, (good.encode(),)),)))
        assert mdns.hear(data + b"_p2p", from_here=False).peers == ()


def test_a_question_of_another_type_or_name_is_not_for_us() -> None:
    for question in (Question(SERVICE, TXT), Question(name_of("_ipp._tcp.local"), PTR)):
        data = dns_message.encode(Message(1, False, questions=(question,)))
        assert not mdns.hear(data + b"_p2p", from_here=False).asks_for_peers


def test_other_services_are_set_aside_unread() -> None:
    """Even broken ones: no mark of ours, no look inside. Broken ones of ours are refused."""
    assert mdns.hear(b"\xff" * 40, from_here=False) == mdns.NOTHING
    assert mdns.hear(dns_message.encode(Message(1, False)), from_here=False) == mdns.NOTHING
    with pytest.raises(RemoteProtocolError):
        mdns.hear(mdns.query(1)[:-1], from_here=False)


def test_what_one_answer_can_make_us_hold_is_bounded() -> None:
    """At most 8 peers, at most 16 addresses of each."""
    many = told(*(f"dnsaddr=/ip4/10.0.0.{n}/tcp/1/p2p/{PEER}" for n in range(1, 60)))
    (peer,) = mdns.hear(many, from_here=False).peers
    assert len(peer.addrs) == mdns.MAX_TOLD_ADDRESSES
    everybody = [PeerId.from_bytes(b"\x00\x24\x08\x01\x12\x20" + bytes((n,)) * 32) for n in range(20)]
    crowd = told(*(f"dnsaddr=/ip4/10.0.0.1/tcp/1/p2p/{one}" for one in everybody))
    assert [peer.peer_id for peer in mdns.hear(crowd, from_here=False).peers] == everybody[: mdns.MAX_PEERS]
