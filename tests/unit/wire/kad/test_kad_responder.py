"""wire.kad.responder: who is told of whom, with which addresses; what is stored; answers fit the wire."""

import pytest

from p2pfwd.core.multiaddrs import AddressClass, Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import RemoteProtocolError
from p2pfwd.wire.kad.address_filter import Scope
from p2pfwd.wire.kad.buckets import RoutingTable
from p2pfwd.wire.kad.codec import MAX_SENT_BYTES, decode_response, encode_response
from p2pfwd.wire.kad.keys import key_of
from p2pfwd.wire.kad.messages import (
    AddProvider,
    ConnectionType,
    FindNode,
    GetProviders,
    GetValue,
    KadPeer,
    MessageType,
    Ping,
    PutValue,
    Record,
    Response,
)
from p2pfwd.wire.kad.responder import Responder


def peer(number: int) -> PeerId:
    return PeerId.from_bytes(b"\x12\x20" + number.to_bytes(32, "big"))


LOCAL, ASKER, CLIENT = peer(1000), peer(1001), peer(1002)
PUBLIC, PRIVATE = Multiaddr.parse("/ip4/11.1.1.1/tcp/4001"), Multiaddr.parse("/ip4/10.0.0.1/tcp/4001")
WAN, LAN = AddressClass.PUBLIC, AddressClass.PRIVATE


class World:
    """A responder over a table of 100 peers, and what the node knows of addresses."""

    def __init__(self, scope: Scope) -> None:
        self.table = RoutingTable(LOCAL, limits=None)
        self.addrs = {peer(number): [PUBLIC, PRIVATE] for number in range(100)}
        for one in (ASKER, *self.addrs):
            self.table.add(one, PUBLIC, 0.0)
        self.addrs[ASKER] = [PUBLIC]
        self.responder = Responder(
            self.table,
            scope=scope,
            addrs_of=lambda one: self.addrs.get(one, []),
            is_connected=lambda one: one == CLIENT,
        )

    def ask(self, key: bytes, via: AddressClass = WAN) -> tuple[KadPeer, ...]:
        response = self.responder.respond(FindNode(key), ASKER, via, 0.0)
        assert response is not None and response.type is MessageType.FIND_NODE
        return response.closer_peers


@pytest.fixture
def wan() -> World:
    return World(Scope.WAN)


def test_the_nearest_of_the_table_are_told_nearest_first_and_the_asker_is_not(wan: World) -> None:
    key = b"some key"
    told = [one.peer_id for one in wan.ask(key)]
    assert told == wan.table.closest(key_of(key), exclude=(ASKER,))
    assert len(told) == 20
    assert ASKER not in [one.peer_id for one in wan.ask(ASKER.to_bytes())]


def test_a_client_we_are_connected_to_is_told_first(wan: World) -> None:
    wan.addrs[CLIENT] = [PUBLIC]
    first, *others = wan.ask(CLIENT.to_bytes())
    assert first == KadPeer(CLIENT, (PUBLIC,), ConnectionType.CONNECTED)
    assert len(others) == 20
    assert {one.connection for one in others} == {ConnectionType.NOT_CONNECTED}


def test_a_target_of_the_table_is_told_once(wan: World) -> None:
    told = [one.peer_id for one in wan.ask(peer(7).to_bytes())]
    assert told[0] == peer(7)
    assert len(set(told)) == len(told) == 20


def test_nobody_is_told_without_addresses_the_asker_may_use(wan: World) -> None:
    nearest = wan.table.closest(key_of(b"key"), 3, exclude=(ASKER,))
    wan.addrs[nearest[0]] = []
    wan.addrs[nearest[1]] = [PRIVATE]
    told = wan.ask(b"key")
    assert told[0] == KadPeer(nearest[2], (PUBLIC,))
    wan.addrs[CLIENT] = [PRIVATE]
    assert CLIENT not in [one.peer_id for one in wan.ask(CLIENT.to_bytes())]


def test_private_addresses_are_told_on_the_lan_to_those_on_it() -> None:
    lan = World(Scope.LAN)
    assert lan.ask(b"key", LAN)[0].addrs == (PUBLIC, PRIVATE)
    assert lan.ask(b"key", WAN)[0].addrs == (PUBLIC,)


def test_the_live_check_of_a_go_node_is_answered(wan: World) -> None:
    """go asks a newcomer for its own ID and wants to hear of at least one peer."""
    assert len(wan.ask(LOCAL.to_bytes())) == 20


def test_ping(wan: World) -> None:
    assert wan.responder.respond(Ping(), ASKER, WAN, 0.0) == Response(MessageType.PING)


def test_a_provider_enters_itself_with_what_others_may_be_told(wan: World) -> None:
    entry = KadPeer(ASKER, (PRIVATE, PUBLIC))
    other = KadPeer(peer(7), (PUBLIC,))
    assert wan.responder.respond(AddProvider(b"key", (entry, other)), ASKER, WAN, 0.0) is None
    response = wan.responder.respond(GetProviders(b"key"), peer(5), WAN, 1.0)
    assert response is not None
    assert response.provider_peers == (KadPeer(ASKER, (PUBLIC,)),)
    assert len(response.closer_peers) == 20


def test_a_provider_without_addresses_of_its_own_is_told_with_those_we_know(wan: World) -> None:
    wan.responder.respond(AddProvider(b"key", (KadPeer(ASKER),)), ASKER, WAN, 0.0)
    response = wan.responder.respond(GetProviders(b"key"), peer(5), WAN, 1.0)
    assert response is not None and response.provider_peers[0].addrs == (PUBLIC,)


def test_values(wan: World) -> None:
    response = wan.responder.respond(GetValue(b"/pk/nobody"), ASKER, WAN, 0.0)
    assert response is not None and response.record is None
    assert len(response.closer_peers) == 20
    with pytest.raises(RemoteProtocolError):
        wan.responder.respond(PutValue(Record(b"/ipns/x", b"v")), ASKER, WAN, 0.0)


def test_a_public_key_is_stored_echoed_and_told(wan: World) -> None:
    from p2pfwd.core.keys import KeyType, PrivateKey

    public = PrivateKey.generate(KeyType.ECDSA).public_key
    key = b"/pk/" + PeerId.from_public_key(public).to_bytes()
    record = Record(key, public.to_protobuf())
    assert wan.responder.respond(PutValue(record), ASKER, WAN, 0.0) == Response(
        MessageType.PUT_VALUE, key, record
    )
    response = wan.responder.respond(GetValue(key), ASKER, WAN, 1.0)
    assert response is not None and response.record == record


def test_the_fullest_answer_fits_what_rust_reads(wan: World) -> None:
    long = "/ip4/11.1.1.1/udp/4001/quic-v1/p2p/QmVMT29id3TUASyfZZ6k9hmNyc2nYabCo4uMSpDw4zrgDk/p2p-circuit"
    for one in wan.addrs:
        wan.addrs[one] = [Multiaddr.parse(long.replace("4001", str(port))) for port in range(1, 30)]
    response = wan.responder.respond(FindNode(b"key"), ASKER, WAN, 0.0)
    assert response is not None
    data = encode_response(response)
    assert len(data) <= MAX_SENT_BYTES
    assert len(decode_response(data, FindNode(b"key")).closer_peers) == 20
