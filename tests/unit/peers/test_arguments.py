"""peers.arguments: every form of PEER, and what cannot be one."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import cast

import pytest

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import InvalidMultiaddr, InvalidPeerId, PeerNotFound, UsageError
from p2pfwd.peers.arguments import MAX_PEER_ARGUMENTS, read_filter, read_peers
from p2pfwd.peers.named import NamedPeer, NamedPeers

ONE = "12D3KooWR4KPFhaHT7S5cNqip4Tc5SX8sBge946crSC2bqCucLPg"
TWO = "12D3KooWS8JciKc2RoVbTPHeDG2puS8DXRrK2gLAja91JmN3s51E"
SLIP = str(PeerId.from_bytes(PeerId.parse(ONE).to_bytes()[:-1] + b"\x01"))
"""A whole ID that no key has."""

ADDRESS = "/ip4/192.0.2.1/tcp/4011"

NAS = "/dns4/nas.lan/tcp/4002"


class Names:
    """In place of a NamedPeers: `nas` is ONE, with an address."""

    def find(self, text: str) -> NamedPeer | None:
        return NamedPeer("nas", PeerId.parse(ONE), (Multiaddr.parse(NAS),), False) if text == "nas" else None


NAMES = cast("NamedPeers", Names())


def read(*texts: str, records: Sequence[str] = ()) -> tuple[str, list[str]]:
    async def resolve(addr: Multiaddr) -> list[Multiaddr]:
        assert str(addr) == "/dnsaddr/example.org"
        return [Multiaddr.parse(record) for record in records]

    peer_id, addrs = asyncio.run(read_peers(texts, NAMES, resolve))
    return str(peer_id), list(map(str, addrs))


@pytest.mark.parametrize("form", [ONE, f"/p2p/{ONE}", f"/ipfs/{ONE}"])
def test_a_bare_peer_in_every_form(form: str) -> None:
    assert read(form) == (ONE, [])


def test_a_peer_in_cid_form() -> None:
    import base64

    cid = b"\x01\x72" + PeerId.parse(ONE).to_bytes()
    text = "b" + base64.b32encode(cid).decode().lower().rstrip("=")
    assert read(text) == (ONE, [])


def test_addresses_are_kept_in_order_without_the_id_and_once() -> None:
    other = "/dns4/example.org/tcp/1"
    texts = (f"{ADDRESS}/p2p/{ONE}", ONE, f"{other}/p2p/{ONE}", f"{ADDRESS}/p2p/{ONE}")
    assert read(*texts) == (ONE, [ADDRESS, other])


def test_a_named_peer_has_its_addresses_beside_those_given() -> None:
    assert read("nas") == (ONE, [NAS])
    assert read(f"{ADDRESS}/p2p/{ONE}", "nas", ONE) == (ONE, [ADDRESS, NAS])


def test_a_name_with_its_peer_is_not_resolved_now() -> None:
    assert read(f"/dnsaddr/example.net/p2p/{ONE}") == (ONE, ["/dnsaddr/example.net"])


def test_a_name_alone_is_resolved_for_its_peer() -> None:
    records = [f"{ADDRESS}/p2p/{ONE}", "/ip4/192.0.2.7/tcp/1", f"/ip4/192.0.2.8/tcp/1/p2p/{ONE}"]
    assert read("/dnsaddr/example.org", records=records) == (ONE, ["/dnsaddr/example.org"])


def test_a_name_of_two_peers_is_ambiguous() -> None:
    records = [f"{ADDRESS}/p2p/{ONE}", f"{ADDRESS}/p2p/{TWO}"]
    said = f"ambiguous multiaddr /dnsaddr/example.org could refer to {ONE} or {TWO}"
    with pytest.raises(InvalidMultiaddr, match=said):
        read("/dnsaddr/example.org", records=records)


@pytest.mark.parametrize("records", [(), (ADDRESS,)])
def test_a_name_of_no_peer_is_not_found(records: Sequence[str]) -> None:
    with pytest.raises(PeerNotFound, match=r"/dnsaddr/example\.org"):
        read("/dnsaddr/example.org", records=records)


@pytest.mark.parametrize(
    ("texts", "error", "said"),
    [
        (("zeb",), InvalidPeerId, '"zeb" is no peer ID, and no peer has that name'),
        (("nas", TWO), UsageError, "two peers"),
        ((), UsageError, "no peer given"),
        ((ONE, TWO), UsageError, "two peers"),
        ((ONE,) * (MAX_PEER_ARGUMENTS + 1), UsageError, "limit"),
        ((ADDRESS,), InvalidMultiaddr, "no peer"),
        (("zebra",), InvalidPeerId, "zebra"),
        (("/zebra",), InvalidMultiaddr, "zebra"),
    ],
)
def test_what_is_no_peer_is_refused(texts: tuple[str, ...], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        read(*texts)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("2222", "/ip4/127.0.0.1/tcp/2222"),
        ("localhost:80", "/ip4/127.0.0.1/tcp/80"),
        (f"/p2p/{ONE}", f"/p2p/{ONE}"),
        (ONE, f"/p2p/{ONE}"),
        ("nas", f"/p2p/{ONE}"),
        ("/ip4/1.2.3.4/tcp/5", "/ip4/1.2.3.4/tcp/5"),
    ],
)
def test_filters_take_addresses_shorthand_and_peers(text: str, meant: str) -> None:
    assert read_filter(text, NAMES) == Multiaddr.parse(meant)


@pytest.mark.parametrize("slip", ["12D3KooWnope", ONE[:-1], SLIP, "16Uiu2HAnope", "Qmnope"])
@pytest.mark.parametrize("form", ["{}", "/p2p/{}", f"{ADDRESS}/p2p/{{}}"])
def test_a_filter_by_an_id_that_nobody_can_have_is_mistyped(slip: str, form: str) -> None:
    with pytest.raises((InvalidMultiaddr, InvalidPeerId), match="mistyped"):
        read_filter(form.format(slip), NAMES)


@pytest.mark.parametrize("text", ["", "zebra", "70000", "/zebra"])
def test_a_filter_that_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(InvalidMultiaddr):
        read_filter(text, NAMES)
