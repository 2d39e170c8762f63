"""core.multiaddrs as a value: go's, rust's and our vectors, refusals and their sentences, composition."""

import json
from pathlib import Path

import pytest

from p2pfwd.core.multiaddr_components import BY_NAME, MAX_BYTES, MAX_TEXT_CHARS, VARIABLE
from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import InvalidMultiaddr

VECTORS = json.loads((Path(__file__).parents[2] / "vectors/multiaddr.json").read_text())
GOOD = [*VECTORS["valid"], *VECTORS["string_bytes"], *VECTORS["rust_valid"], *VECTORS["ours"]]
ID = "12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA"
OTHER_ID = "QmcgpsyWgH8Y8ajJz1Cu72KnS5uo2Aa2LpzU7kinSupNKC"


@pytest.mark.parametrize("vector", GOOD, ids=lambda vector: vector["text"][:60])
def test_good_text_has_its_bytes_and_canonical_text(vector: dict[str, str]) -> None:
    addr = Multiaddr.parse(vector["text"])
    assert "hex" not in vector or addr.to_bytes().hex() == vector["hex"]
    assert "canonical_text" not in vector or str(addr) == vector["canonical_text"]
    again = Multiaddr.from_bytes(addr.to_bytes())
    assert again == addr and hash(again) == hash(addr) and str(again) == str(addr)
    assert Multiaddr.parse(str(addr)) == addr


@pytest.mark.parametrize("text", VECTORS["invalid"], ids=lambda text: text[:60])
def test_bad_text_is_refused(text: str) -> None:
    with pytest.raises(InvalidMultiaddr, match="failed to parse multiaddr"):
        Multiaddr.parse(text)


@pytest.mark.parametrize("entry", VECTORS["protocols"], ids=lambda entry: entry["name"])
def test_the_table_is_gos(entry: dict[str, str | int]) -> None:
    component = BY_NAME[str(entry["name"])]
    assert component.code == entry["code"]
    if entry["name"] != "memory":  # go's table calls it variable and encodes 64 bits
        assert component.size == (VARIABLE if entry["size"] == "V" else int(entry["size"]) // 8)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("foo", 'failed to parse multiaddr "foo": must begin with /'),
        ("/", 'failed to parse multiaddr "/": empty multiaddr'),
        ("/bar/1", 'failed to parse multiaddr "/bar/1": unknown protocol bar'),
        (
            "/ip4/1.2.3.4/tcp",
            'failed to parse multiaddr "/ip4/1.2.3.4/tcp": unexpected end of multiaddr: tcp needs a value',
        ),
        (
            "/tcp/70000",
            'failed to parse multiaddr "/tcp/70000": invalid value "70000" for protocol tcp: '
            "a port is a number from 0 to 65535",
        ),
        (
            "/p2p/xyz",
            'failed to parse multiaddr "/p2p/xyz": invalid value "xyz" for protocol p2p: '
            "it is neither base58 nor a CIDv1",
        ),
        (
            "/udp/1/quic-v1/9",
            'failed to parse multiaddr "/udp/1/quic-v1/9": unknown protocol 9 (quic-v1 takes no value)',
        ),
        (
            "/ip4//tcp/1",
            'failed to parse multiaddr "/ip4//tcp/1": invalid value "" for protocol ip4: '
            "an IPv4 address has four numbers from 0 to 255",
        ),
        ("/\x1b[2J/1", 'failed to parse multiaddr "/\\x1b[2J/1": unknown protocol "\\x1b[2J"'),
        (
            "/dns/\udcff/tcp/1",
            'failed to parse multiaddr "/dns/\\udcff/tcp/1": invalid value "\\udcff" for protocol dns: '
            "not UTF-8",
        ),
    ],
)
def test_the_sentence_names_the_offending_part(text: str, message: str) -> None:
    with pytest.raises(InvalidMultiaddr) as caught:
        Multiaddr.parse(text)
    assert caught.value.message == message
    assert caught.value.hint


@pytest.mark.parametrize(
    "text",
    [
        "/tcp/+1", "/tcp/1_0", "/tcp/ 1", "/tcp/\u0663", "/ip4/1.2.3", "/ip4/01.2.3.4", "/ip6/fe80::1%eth0",
        "/ip6/1.2.3.4", "/dns/a\nb", "/dns/a b", "/unix//", "/unix/a\x00b", "/http-path/%zz", "/http-path/%4",
        "ip4/1.2.3.4",
        "/garlic64/" + "A" * 520 + "!", "/onion/timaq4ygg2iegci7.onion:80",
    ],
)  # fmt: skip
def test_looser_forms_python_would_take_are_refused(text: str) -> None:
    with pytest.raises(InvalidMultiaddr):
        Multiaddr.parse(text)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ("", "empty"),
        ("047f0000", "unexpected end"),
        ("047f00000106", "unexpected end"),
        ("3505616263", "unexpected end"),
        ("3500", "printable text"),
        ("a50300", "incomplete"),
        ("900300", "socket path"),
        ("a5030412023132", "sha2-256 digest|incomplete"),
        ("350461002f62", "printable text"),
        ("3502c328", "not UTF-8"),
        ("ffff0301", "unknown protocol code"),
        ("8400", "not minimal"),
        ("04", "unexpected end"),
        ("047f00000180", "varint"),
        ("d20303124001", "certificate hash"),
        ("90030378797a", "socket path"),
        ("9003022f61060050", "nothing can follow"),
    ],
)
def test_bad_bytes_are_refused_with_the_reason(data: str, reason: str) -> None:
    with pytest.raises(InvalidMultiaddr, match=reason):
        Multiaddr.from_bytes(bytes.fromhex(data))


def test_oversized_input_is_refused_unparsed() -> None:
    with pytest.raises(InvalidMultiaddr, match="longer than"):
        Multiaddr.from_bytes(b"\xdd\x03" * MAX_BYTES)
    with pytest.raises(InvalidMultiaddr, match="longer than"):
        Multiaddr.parse("/ws" * MAX_TEXT_CHARS)


def test_each_form_is_bounded_by_the_others_length_too() -> None:
    escaped = BY_NAME["http-path"].encode(b"\x00" * 1900)
    with pytest.raises(InvalidMultiaddr, match=r"longer than \d+ characters"):
        Multiaddr.from_bytes(escaped)
    with pytest.raises(InvalidMultiaddr, match=r"longer than \d+ bytes"):
        Multiaddr.parse("/dns/" + "\U00010348" * 1000)


def test_components_and_has() -> None:
    addr = Multiaddr.parse(f"/ip4/1.2.3.4/udp/1/quic-v1/ipfs/{ID}/p2p-circuit")
    assert addr.components() == (
        ("ip4", "1.2.3.4"), ("udp", "1"), ("quic-v1", None), ("p2p", ID), ("p2p-circuit", None),
    )  # fmt: skip
    assert addr.has("quic-v1") and addr.has("p2p") and addr.has("ipfs")
    assert not addr.has("tcp") and not addr.has("no-such-protocol")


def test_the_peer_id_is_the_one_at_the_end() -> None:
    relay = Multiaddr.parse(f"/ip4/1.2.3.4/tcp/1/p2p/{OTHER_ID}/p2p-circuit")
    assert relay.peer_id() is None and relay.without_peer_id() is relay
    full = relay.with_peer_id(PeerId.parse(ID))
    assert str(full) == f"{relay}/p2p/{ID}"
    assert full.peer_id() == PeerId.parse(ID) and full.without_peer_id() == relay
    assert full.with_peer_id(PeerId.parse(OTHER_ID)).peer_id() == PeerId.parse(OTHER_ID)
    alone = Multiaddr.parse(f"/p2p/{ID}").without_peer_id()
    assert not alone and str(alone) == "" and alone.peer_id() is None and alone.components() == ()


def test_encapsulate_appends() -> None:
    addr = Multiaddr.parse("/ip4/1.2.3.4").encapsulate(Multiaddr.parse("/tcp/80"))
    assert addr == Multiaddr.parse("/ip4/1.2.3.4/tcp/80")


def test_nothing_follows_a_unix_path_because_its_text_would_swallow_it() -> None:
    path = Multiaddr.parse("/unix/run/x")
    with pytest.raises(InvalidMultiaddr, match="nothing can follow"):
        path.encapsulate(Multiaddr.parse("/tcp/1"))
    with pytest.raises(InvalidMultiaddr, match="nothing can follow"):
        path.with_peer_id(PeerId.parse(ID))


def test_a_multiaddr_is_a_value() -> None:
    addr = Multiaddr.parse("/ip4/1.2.3.4/tcp/80")
    assert {addr: 1}[Multiaddr.parse("/ip4/1.2.3.4/tcp/80/")] == 1
    assert addr != "/ip4/1.2.3.4/tcp/80"
    with pytest.raises(AttributeError):
        addr.port = 1  # type: ignore[attr-defined]
