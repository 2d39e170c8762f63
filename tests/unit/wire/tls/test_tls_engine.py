"""The TLS engine in both roles, in memory: agreement, refusals with their alerts, and the data path."""

import os
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from OpenSSL import SSL

from p2pfwd.core.keys import KeyType, PrivateKey
from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import HandshakeFailed, LocalProtocolError, PeerIdMismatch, RemoteProtocolError
from p2pfwd.wire.tls import ENTROPY_BYTES
from p2pfwd.wire.tls.certificate import VALID_UNTIL, make_certificate
from p2pfwd.wire.tls.engine import (
    MAX_BARREN_BYTES,
    MAX_HANDSHAKE_BYTES,
    MAX_RECORD_BYTES,
    MAX_RECORD_PLAINTEXT,
    TlsHandshake,
)

NOW = datetime(2026, 6, 1, tzinfo=UTC)
CLOCKS = [datetime(1970, 1, 1, tzinfo=UTC), NOW, datetime(2037, 12, 31, tzinfo=UTC)]
YAMUX = "/yamux/1.0.0"
CLIENT, SERVER = PrivateKey.generate(), PrivateKey.generate()


def peer_of(key: PrivateKey) -> PeerId:
    return PeerId.from_public_key(key.public_key)


def side(initiator: bool, **changes: Any) -> TlsHandshake:
    options = {
        "identity": CLIENT if initiator else SERVER,
        "expected_peer": peer_of(SERVER) if initiator else None,
        "muxers": [YAMUX],
        "now": NOW,
        "entropy": os.urandom(ENTROPY_BYTES),
    }
    return TlsHandshake(initiator=initiator, **{**options, **changes})


def feed(engine: TlsHandshake, data: bytes, step: int) -> bytes:
    return b"".join(engine.receive(data[i : i + step]) for i in range(0, len(data), step))


def shake(client: TlsHandshake, server: TlsHandshake, step: int = 100_000) -> None:
    """Until both are done; the server's tickets are fed to the client."""
    assert server.start() == b""
    flight = feed(server, client.start(), step)
    finished = feed(client, flight, step)
    assert client.done and not server.done
    tickets = feed(server, finished, step)
    assert server.done and server.leftover() == client.leftover() == b""
    assert client.read(tickets) == []


@pytest.fixture
def pair() -> tuple[TlsHandshake, TlsHandshake]:
    client, server = side(True), side(False)
    shake(client, server)
    return client, server


@pytest.mark.parametrize("step", [1, 7, 100_000])
def test_both_sides_prove_their_identity_in_any_chunking(step: int) -> None:
    client, server = side(True), side(False)
    shake(client, server, step)
    assert (client.remote_peer, server.remote_peer) == (peer_of(SERVER), peer_of(CLIENT))
    assert (client.remote_key, server.remote_key) == (SERVER.public_key, CLIENT.public_key)
    assert client.muxer == server.muxer == YAMUX


@pytest.mark.parametrize("key_type", list(KeyType))
def test_every_type_of_identity_shakes_hands(key_type: KeyType) -> None:
    identity = PrivateKey.generate(key_type)
    client, server = side(True, identity=identity), side(False)
    shake(client, server)
    assert server.remote_peer == peer_of(identity)


@pytest.mark.parametrize(
    ("clients", "servers", "agreed"),
    [
        (["/a", "/b"], ["/b", "/a"], "/a"),
        (["/a", "/b"], ["/b"], "/b"),
        ([YAMUX], [], None),
        ([], [YAMUX], None),
        (["/a"], ["/b"], None),
    ],
)
def test_alpn_takes_the_clients_first_common_muxer_or_none(
    clients: list[str], servers: list[str], agreed: str | None
) -> None:
    client, server = side(True, muxers=clients), side(False, muxers=servers)
    shake(client, server)
    assert client.muxer == server.muxer == agreed


@pytest.mark.parametrize("ours", CLOCKS)
@pytest.mark.parametrize("theirs", CLOCKS)
def test_nodes_whose_clocks_are_wrong_speak_to_each_other(ours: datetime, theirs: datetime) -> None:
    client, server = side(True, now=ours), side(False, now=theirs)
    shake(client, server)
    assert client.done and server.done


def test_a_client_refuses_another_identity_and_says_so_by_an_alert() -> None:
    client, server = side(True, expected_peer=peer_of(CLIENT)), side(False)
    server.start()
    flight = server.receive(client.start())
    with pytest.raises(PeerIdMismatch) as caught:
        client.receive(flight)
    assert caught.value.details == {"expected": str(peer_of(CLIENT)), "actual": str(peer_of(SERVER))}
    assert not client.done
    with pytest.raises(HandshakeFailed, match="alert"):
        server.receive(client.last_words())


def test_a_refused_client_learns_it_at_its_first_read() -> None:
    client, server = side(True), side(False, now=datetime(1969, 12, 31, tzinfo=UTC))
    server.start()
    # No clock says so: it is only the way to a certificate that is not valid.
    finished = client.receive(server.receive(client.start()))
    assert client.done
    with pytest.raises(HandshakeFailed, match="valid from"):
        server.receive(finished)
    client.leftover()
    with pytest.raises(RemoteProtocolError, match="alert"):
        client.read(server.last_words())


class Odd:
    """A peer made of OpenSSL alone, right but for what a test changes."""

    def __init__(
        self, server: bool = False, change: Callable[[SSL.Context], None] = lambda context: None
    ) -> None:
        der, key = make_certificate(CLIENT, os.urandom(ENTROPY_BYTES))
        context: Any = SSL.Context(SSL.TLS_METHOD)
        context.use_certificate(x509.load_der_x509_certificate(der))
        context.use_privatekey(key)
        context.set_verify(SSL.VERIFY_PEER, lambda *_: True)
        if not server:
            context.set_alpn_protos([b"libp2p"])
        change(context)
        self.connection: Any = SSL.Connection(context)
        (self.connection.set_accept_state if server else self.connection.set_connect_state)()

    def exchange(self, data: bytes) -> bytes:
        if data:
            self.connection.bio_write(data)
        with suppress(SSL.WantReadError):
            self.connection.do_handshake()
        out = b""
        try:
            while True:
                out += self.connection.bio_read(65536)
        except SSL.WantReadError:
            return out


def fails_against_server(odd: Odd, reason: str) -> None:
    server = side(False)
    server.start()
    with pytest.raises(HandshakeFailed, match=reason):
        data = odd.exchange(b"")
        while True:
            data = odd.exchange(server.receive(data))
    assert not server.done
    assert server.last_words()[:1] in (b"", b"\x15", b"\x17")  # an alert, sealed or not


def plain_certificate() -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    key = ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateBuilder(x509.Name([]), x509.Name([]), key.public_key(), 1, NOW, VALID_UNTIL)
    return builder.sign(key, SHA256()), key


def test_a_server_refuses_what_is_not_libp2p_tls() -> None:
    def plain(context: Any) -> None:
        certificate, key = plain_certificate()
        context.use_certificate(certificate)
        context.use_privatekey(key)

    def two_certificates(context: Any) -> None:
        context.add_extra_chain_cert(plain_certificate()[0])

    fails_against_server(Odd(change=plain), "no libp2p extension")
    fails_against_server(Odd(change=two_certificates), "more than one")
    fails_against_server(
        Odd(change=lambda c: c.set_alpn_protos([b"h2"])), "no application protocol in common"
    )
    fails_against_server(
        Odd(change=lambda c: c.set_max_proto_version(SSL.TLS1_2_VERSION)), "protocol|version"
    )


def test_a_server_refuses_a_client_without_certificate() -> None:
    odd = Odd()
    context: Any = SSL.Context(SSL.TLS_METHOD)
    odd.connection = SSL.Connection(context)
    odd.connection.set_connect_state()
    fails_against_server(odd, "certificate")


def test_a_peer_without_alpn_negotiates_the_muxer_inside() -> None:
    """No implementation does it today; OpenSSL then asks nobody, and None is the right answer."""
    odd = Odd(server=True)
    client = side(True, expected_peer=peer_of(CLIENT))
    client.receive(odd.exchange(client.start()))
    assert client.done and client.muxer is None


def test_a_client_refuses_a_server_with_two_certificates() -> None:
    odd = Odd(server=True, change=lambda c: c.add_extra_chain_cert(plain_certificate()[0]))
    client = side(True, expected_peer=peer_of(CLIENT))
    with pytest.raises(HandshakeFailed, match="more than one"):
        client.receive(odd.exchange(client.start()))
    assert not client.done
    # What OpenSSL had ready, our certificate among it, is not sent.
    assert len(client.last_words()) < 100


@pytest.mark.parametrize("step", [1, 100_000])
@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x13/multistream/1.0.0\n" + bytes(200),
        b"\x16\x03\x01" + (MAX_RECORD_BYTES + 1).to_bytes(2, "big"),
        b"\x16\x03\x01\xff\xff",
        b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00",
        b"\x15\x03\x03\x00\x02\x02\x28",
        b"\x17\x03\x03\x00\x14" + bytes(20),
        b"\x16\x03\x01\x40\x00\x01\xff\xff\xff" + bytes(0x3FFC),
        (b"\x16\x03\x01\x10\x00\x01\x00\xff\xff" + bytes(0xFFC))
        + (b"\x16\x03\x01\x10\x00" + bytes(0x1000)) * 30,
    ],
)
def test_hostile_openings_are_refused_within_bounds(data: bytes, step: int) -> None:
    server = side(False)
    server.start()
    with pytest.raises(HandshakeFailed):
        feed(server, data, step)


def test_an_endless_handshake_is_cut_at_its_bound() -> None:
    server = side(False)
    server.start()
    # Change-cipher-spec records are legal noise to OpenSSL once a ClientHello has come; here they
    # are refused by whichever bound is met first.
    ccs = b"\x14\x03\x03\x00\x01\x01"
    server.receive(side(True).start())
    with pytest.raises(HandshakeFailed):
        server.receive(ccs * (MAX_HANDSHAKE_BYTES // len(ccs)))


@pytest.mark.parametrize("size", [0, 1, 16384, 16385, 65519, 200_000])
@pytest.mark.parametrize("step", [999, 1_000_000])
def test_data_passes_unchanged_both_ways_in_any_chunking(
    pair: tuple[TlsHandshake, TlsHandshake], size: int, step: int
) -> None:
    plain = bytes(i * 7 & 0xFF for i in range(size))
    for sender, receiver in (pair, pair[::-1]):
        records = sender.write(memoryview(plain))
        got = [
            c for i in range(0, len(records), step) for c in receiver.read(memoryview(records)[i : i + step])
        ]
        assert b"".join(got) == plain
        assert all(0 < len(chunk) <= 16384 for chunk in got)


def test_data_in_the_same_segment_as_the_last_flight_is_left_over() -> None:
    client, server = side(True), side(False)
    server.start()
    finished = client.receive(server.receive(client.start()))
    tickets = server.receive(finished + client.write(b"early bird"))
    assert server.done
    assert server.read(server.leftover()) == [b"early bird"]
    assert server.leftover() == b""
    assert client.receive(tickets + server.write(b"answer")) == b""
    assert client.read(client.leftover()) == [b"answer"]


def test_what_came_before_close_notify_is_returned_before_it_is_told(
    pair: tuple[TlsHandshake, TlsHandshake],
) -> None:
    client, server = pair
    data = server.write(b"bye") + server.last_words()
    assert client.read(data) == [b"bye"]
    with pytest.raises(RemoteProtocolError, match="closed"):
        client.read(b"")


def test_an_altered_record_is_remote_blame(pair: tuple[TlsHandshake, TlsHandshake]) -> None:
    client, server = pair
    record = bytearray(server.write(b"hello"))
    record[-1] ^= 1
    for _ in range(2):
        with pytest.raises(RemoteProtocolError):
            client.read(bytes(record))
            record.clear()


def test_misuse_is_local_blame(pair: tuple[TlsHandshake, TlsHandshake]) -> None:
    fresh = side(True)
    calls: list[Callable[[], object]] = [
        lambda: fresh.receive(b""),
        lambda: fresh.write(b"x"),
        lambda: fresh.read(b""),
        fresh.leftover,
        lambda: fresh.remote_peer,
        pair[0].start,
        lambda: pair[0].receive(b""),
    ]
    for call in calls:
        with pytest.raises(LocalProtocolError):
            call()


class KeyUpdates:
    """The records of a client that does nothing but change its key: RFC 8446, sections 4.6.3 and 7.2."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def _expanded(self, label: str, length: int) -> bytes:
        name = b"tls13 " + label.encode()
        info = length.to_bytes(2, "big") + bytes([len(name)]) + name + bytes(1)
        return HKDFExpand(SHA384(), length, info).derive(self._secret)

    def record(self) -> bytes:
        """The next one; it asks for one of the server's."""
        key, nonce = self._expanded("key", 32), self._expanded("iv", 12)
        message = bytes((24, 0, 0, 1, 1, 22))
        header = bytes((23, 3, 3, 0, len(message) + 16))
        self._secret = self._expanded("traffic upd", 48)
        return header + AESGCM(key).encrypt(nonce, message, header)


def test_key_updates_without_end_are_cut_at_their_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """A read full of them took a tenth of a second, and no lane counts what brings no plaintext."""
    lines: list[bytes] = []
    context = TlsHandshake._context

    def logged(engine: TlsHandshake, *args: Any) -> Any:
        made = context(engine, *args)
        made.set_keylog_callback(lambda _connection, line: lines.append(line))
        return made

    monkeypatch.setattr(TlsHandshake, "_context", logged)
    client, server = side(True), side(False)
    shake(client, server)
    assert client.cipher == "aes-256-gcm"
    (secret,) = {line.split()[2] for line in lines if line.startswith(b"CLIENT_TRAFFIC_SECRET_0")}
    updates = KeyUpdates(bytes.fromhex(secret.decode()))
    some = b"".join(updates.record() for _ in range(1000))
    assert server.read(some) == [] and client.read(server.write(b"answered")) == [b"answered"]
    more = b"".join(updates.record() for _ in range(4 * MAX_BARREN_BYTES // 27))
    with pytest.raises(RemoteProtocolError, match="bring nothing"):
        server.read(more)
    assert len(server.last_words()) < 2 * MAX_BARREN_BYTES, "nor is the rest of the read opened"


def test_data_in_small_records_and_in_parts_of_records_is_not_barren(
    pair: tuple[TlsHandshake, TlsHandshake],
) -> None:
    client, server = pair
    for size in (1, 100, MAX_RECORD_PLAINTEXT):
        sealed = b"".join(client.write(bytes(size)) for _ in range(3 * MAX_BARREN_BYTES // (size + 22)))
        for start in range(0, len(sealed), 5000):
            server.read(sealed[start : start + 5000])
    assert server._barren_bytes < MAX_RECORD_BYTES
