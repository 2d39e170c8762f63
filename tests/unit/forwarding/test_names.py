"""Pins which protocol names may be used: Kubo's `/x/` rule and text, and what Kubo lets pass by mistake."""

from __future__ import annotations

import pytest

from p2pfwd.errors import InvalidProtocol
from p2pfwd.forwarding.names import MAX_PROTOCOL_BYTES, RESERVED, check_protocol


@pytest.mark.parametrize("name", ["/x/ssh", "/x/1234", "/x/a b", "/x/größe", "/x/a/b/c"])
def test_names_within_the_namespace_pass_unchanged(name: str) -> None:
    assert check_protocol(name, allow_custom=False, serving=True) == name


@pytest.mark.parametrize("name", ["/its/not/a/x/path", "ssh", "", "/x", "x/ssh", "/X/ssh"])
def test_others_get_exactly_kubos_message(name: str) -> None:
    with pytest.raises(InvalidProtocol) as caught:
        check_protocol(name, allow_custom=False, serving=False)
    assert caught.value.message == "protocol name must be within '/x/' namespace"


def test_custom_names_pass_when_allowed() -> None:
    assert check_protocol("/p2p-test", allow_custom=True, serving=True) == "/p2p-test"
    assert check_protocol("/http/1.1", allow_custom=True, serving=False) == "/http/1.1"


@pytest.mark.parametrize("name", ["na", "ls", "", "p2p-test"])
def test_a_custom_name_begins_with_a_slash(name: str) -> None:
    # "na" and "ls" are words of multistream-select itself.
    with pytest.raises(InvalidProtocol, match="must begin with '/'"):
        check_protocol(name, allow_custom=True, serving=True)


@pytest.mark.parametrize("name", ["/x/", "/"])
def test_an_empty_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidProtocol, match="has nothing after") as caught:
        check_protocol(name, allow_custom=True, serving=True)
    assert caught.value.hint == "use a name like /x/ssh"


@pytest.mark.parametrize("char", ["\n", "\r", "\0", "\x1b", "\x7f", "\u202e", "\u2028", "\udcff"])
def test_control_characters_are_refused_and_not_repeated(char: str) -> None:
    with pytest.raises(InvalidProtocol, match=r"control character U\+[0-9A-F]{4} at position 4") as caught:
        check_protocol(f"/x/a{char}b", allow_custom=False, serving=True)
    assert char not in caught.value.message
    assert char not in str(caught.value.details)


def test_the_length_limit_counts_bytes() -> None:
    longest = "/x/" + "a" * (MAX_PROTOCOL_BYTES - 3)
    assert check_protocol(longest, allow_custom=False, serving=True) == longest
    with pytest.raises(InvalidProtocol, match="1001 bytes long, the limit is 1000"):
        check_protocol("/x/" + "ä" * 499, allow_custom=False, serving=True)


def test_the_nodes_own_protocols_cannot_be_served_but_can_be_forwarded_to() -> None:
    # HOUSE M9: the DHT's own name was taken; as a server the node lost its handler.
    for name in (
        *RESERVED,
        *("/ipfs/id/1.0.0", "/ipfs/kad/1.0.0", "/ipfs/lan/kad/1.0.0", "/libp2p/autonat/1.0.0"),
        *("/p2pfwd/probe/1.0.0/x/a", "/p2pfwd/kad/1.0.0", "/multistream/1.0.0", "/yamux/1.0.0"),
        *("/tls/1.0.0", "/noise"),
    ):
        with pytest.raises(InvalidProtocol, match="belongs to the node itself"):
            check_protocol(name, allow_custom=True, serving=True)
    assert check_protocol("/ipfs/ping/1.0.0", allow_custom=True, serving=False)
    for name in ("/ipfsx/a", "/noises", "/tlsa/b", "/x/ipfs/kad/1.0.0"):
        assert check_protocol(name, allow_custom=True, serving=True) == name


def test_the_longest_name_leaves_room_for_the_probe() -> None:
    from p2pfwd.forwarding.probe import PREFIX
    from p2pfwd.wire.multistream import MAX_TOKEN_BYTES

    assert len(PREFIX) + MAX_PROTOCOL_BYTES + 1 <= MAX_TOKEN_BYTES
