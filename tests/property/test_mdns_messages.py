"""mDNS messages: what is written is read, what is cut off or changed is refused or within bounds."""

from __future__ import annotations

import runpy
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import RemoteProtocolError
from p2pfwd.wire import dns_message, mdns
from p2pfwd.wire.dns_message import Message, Pointer, Question, Text

FUZZ = runpy.run_path(str(Path(__file__).parents[1] / "fuzz/fuzz_mdns.py"))
PEER: PeerId = FUZZ["PEER"]

labels = st.binary(min_size=1, max_size=20).map(bytes.lower)
names = st.lists(labels, max_size=6).map(tuple)
ttls = st.integers(0, (1 << 32) - 1)
questions = st.builds(Question, names, st.integers(0, 65535))
pointers = st.builds(Pointer, names, ttls, names)
strings = st.lists(st.binary(max_size=255), min_size=1, max_size=5).map(tuple)
texts = st.builds(Text, names, ttls, strings)
messages = st.builds(
    Message,
    st.integers(0, 65535),
    st.booleans(),
    st.lists(questions, max_size=3).map(tuple),
    st.lists(pointers | texts, max_size=5).map(tuple),
)
private = st.builds(
    lambda network, host, port: Multiaddr.parse(f"{network}{host:x}/tcp/{port}"),
    st.sampled_from(["/ip6/fd00::", "/ip6/fc12:34::"]),
    st.integers(1, 0xFFFF),
    st.integers(1, 65535),
) | st.builds(
    lambda third, host, port: Multiaddr.parse(f"/ip4/192.168.{third}.{host}/tcp/{port}"),
    st.integers(0, 255),
    st.integers(0, 255),
    st.integers(1, 65535),
)


@given(messages)
def test_what_is_written_is_read(message: Message) -> None:
    assert dns_message.decode(dns_message.encode(message)) == message


@given(messages, st.data())
def test_a_message_cut_off_is_refused(message: Message, data: st.DataObject) -> None:
    """Wherever the cut is: what is missing is never made up."""
    whole = dns_message.encode(message)
    at = data.draw(st.integers(0, len(whole) - 1))
    try:
        dns_message.decode(whole[:at])
    except RemoteProtocolError:
        return
    raise AssertionError(f"cut at {at} of {len(whole)}")


@given(st.lists(private, min_size=1, max_size=8, unique=True))
def test_private_addresses_arrive_as_they_are(addrs: list[Multiaddr]) -> None:
    heard = mdns.hear(mdns.answer(b"a" * 32, PEER, addrs), from_here=False)
    assert heard.peers == (mdns.NearPeer(PEER, tuple(addrs)),)


@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    FUZZ["one"](data)
    FUZZ["one"](data + b"_p2p")
