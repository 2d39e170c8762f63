"""libp2p TLS 1.3 over memory BIOs: a CPU-only engine, in both roles (libp2p spec: tls).

Bytes in, bytes out; the caller owns the socket. `start`, `receive`, `leftover` are the handshake, as in
`wire.handshake`; `write` and `read` are the data path after it.

Rules:
- OpenSSL checks the peer's possession of its certificate's key and nothing else. What the certificate
  proves is judged by `wire.tls.certificate`, during the handshake, so that a refusal is answered by an alert.
- A TLS 1.3 client is done before the server has looked at its certificate: a refusal arrives as an
  alert at the first `read`. Callers count a connection as made when its first bytes have come.
- One certificate and one context per handshake: nothing links two connections, and no session can be
  resumed: OpenSSL's tickets, which pyOpenSSL cannot turn off in TLS 1.3, die with the context that
  could open them. The client offers no name (SNI).
- OpenSSL is loaded by the first handshake, or by `load`, not by this module: a node that only speaks Noise
  never pays its 5 MB.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from p2pfwd.core.keys import PrivateKey
from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import HandshakeFailed, LocalProtocolError, RemoteProtocolError
from p2pfwd.wire.handshake import Handshake

if TYPE_CHECKING:
    from OpenSSL import SSL, crypto

ALPN_NO_MUXER: Final = "libp2p"
"""Last in every ALPN offer: take TLS, and negotiate the muxer inside the channel."""

RECORD_HEADER_BYTES: Final = 5
CONTENT_TYPES: Final = range(20, 24)
"""First byte of a record: change_cipher_spec, alert, handshake, application_data."""

MAX_RECORD_PLAINTEXT: Final = 1 << 14
"""Plaintext of one TLS record: RFC 8446 section 5.1."""

MAX_RECORD_BYTES: Final = MAX_RECORD_PLAINTEXT + 256
"""Ciphertext of one record at most: RFC 8446 section 5.2."""

MAX_HANDSHAKE_BYTES: Final = 64 * 1024
"""Bytes a peer may send before it is authenticated. A flight with an RSA-8192 identity has about 8 KiB;
OpenSSL's own bound on the certificate alone is 100 KiB."""

RECORD_OVERHEAD: Final = 32
"""Bytes a record adds to its plaintext, rounded up: header 5, content type 1, tag 16."""

MAX_BARREN_BYTES: Final = 64 * 1024
"""Bytes of records after the handshake that bring no plaintext, beyond a part in `BARREN_PART` of what does:
a part of a record, tickets, and key updates, which nobody needs often. 27 bytes of those cost 10 us, and
are answered."""

BARREN_PART: Final = 64

PIECE_BYTES: Final = 64 * 1024
"""Given to OpenSSL at once, which does not come back before it has plaintext or no more records."""


def load() -> None:
    """Load OpenSSL now, so that the first handshake need not: that is 30 ms of work."""
    from OpenSSL import SSL

    from p2pfwd.wire.tls import certificate

    assert SSL is not None and certificate is not None


class TlsHandshake(Handshake):
    """One side of one connection, from the handshake to the last record.

    expected_peer: the identity the peer must prove; None takes any (listeners).
    muxers: offered by ALPN in order of preference; `libp2p` is added at the end.
    now: timezone-aware; what the certificates' times are compared with.
    entropy: `ENTROPY_BYTES` random bytes for our certificate; OpenSSL draws its own for the handshake.
    """

    _layer = "tls"

    def __init__(
        self,
        *,
        initiator: bool,
        identity: PrivateKey,
        expected_peer: PeerId | None,
        muxers: Sequence[str],
        now: datetime,
        entropy: bytes,
    ) -> None:
        from OpenSSL import SSL  # see the module's rules

        self._ssl = SSL
        super().__init__(initiator=initiator, expected_peer=expected_peer, muxers=muxers)
        self._now = now
        self._connection: Any = SSL.Connection(self._context(identity, entropy))
        if initiator:
            self._connection.set_connect_state()
        else:
            self._connection.set_accept_state()
        self._done = False
        self._handshake_bytes = 0
        self._barren_bytes = 0
        self._failure: RemoteProtocolError | None = None

    # --- handshake ---------------------------------------------------------------------------------

    def _first(self) -> bytes:
        self._advance()
        return self._outgoing()

    def _consume(self) -> bytes:
        # Record by record, so that what follows the handshake is never swallowed by OpenSSL.
        while not self._done and (record := self._next_record()) is not None:
            self._connection.bio_write(record)
            self._advance()
        return self._outgoing()

    @property
    def done(self) -> bool:
        """The peer's identity is proved and data may be written; see the module on a client's doubt."""
        return self._done

    @property
    def cipher(self) -> str:
        """What seals the records, once `done`: of `TLS_AES_128_GCM_SHA256` the middle, `aes-128-gcm`."""
        self._check_done()
        name: str = self._connection.get_cipher_name()
        return name.removeprefix("TLS_").rpartition("_")[0].replace("_", "-").lower()

    def last_words(self) -> bytes:
        """What is worth sending before the socket is closed: the alert of a failure, or close_notify."""
        if self._done and self._failure is None:
            try:
                self._connection.shutdown()
            except self._ssl.Error:
                return b""  # OpenSSL has given this connection up; there is nothing to say
        return self._outgoing()

    # --- data path ---------------------------------------------------------------------------------

    def write(self, plain: bytes | bytearray | memoryview) -> bytes:
        """The records that carry `plain`, to be sent in the order of the calls."""
        self._check_done()
        size = len(plain)
        view = memoryview(plain)
        offset = 0
        try:
            # pyOpenSSL writes one record per call.
            while offset < size:
                offset += self._connection.send(view[offset : offset + MAX_RECORD_PLAINTEXT])
        except self._ssl.Error as exc:
            # After a failure that `read` has seen or put off, the blame is the peer's.
            raise self._failure or LocalProtocolError(f"tls: {_reason(exc)}") from exc
        records = size // MAX_RECORD_PLAINTEXT + 1
        return self._outgoing(size + records * RECORD_OVERHEAD)

    def read(self, ciphertext: bytes | bytearray | memoryview) -> list[bytes]:
        """The plaintext of all records complete so far, in chunks of at most 16 KiB.

        Part of a record is kept. Raises RemoteProtocolError on an alert (a refusal, close_notify) or
        an altered record, or beyond `MAX_BARREN_BYTES`; what came before it is returned first and the
        error is raised by the next call: `read(b"")`, if nothing else comes.
        """
        self._check_done()
        if self._failure is not None:
            raise self._failure
        chunks: list[bytes] = []
        view = memoryview(ciphertext)
        for start in range(0, max(1, len(view)), PIECE_BYTES):
            self._read_piece(view[start : start + PIECE_BYTES], chunks)
            if self._failure is not None:
                break
        if self._failure is not None and not chunks:
            raise self._failure
        return chunks

    def _read_piece(self, ciphertext: memoryview, chunks: list[bytes]) -> None:
        if ciphertext:
            self._connection.bio_write(ciphertext)
        before = len(chunks)
        receive = self._connection.recv
        ssl = self._ssl
        try:
            while True:
                chunks.append(receive(MAX_RECORD_PLAINTEXT))
        except ssl.WantReadError:
            pass
        except ssl.ZeroReturnError:
            self._failure = RemoteProtocolError("tls: the peer closed the connection")
        except ssl.Error as exc:
            self._failure = RemoteProtocolError(f"tls: {_reason(exc)}")
        plain = sum(map(len, chunks[before:]))
        fruit = plain + plain // BARREN_PART + RECORD_OVERHEAD * (len(chunks) - before)
        self._barren_bytes = max(0, self._barren_bytes + len(ciphertext) - fruit)
        if self._barren_bytes > MAX_BARREN_BYTES and self._failure is None:
            self._failure = RemoteProtocolError("tls: the peer sends records without end that bring nothing")

    # --- inside ------------------------------------------------------------------------------------

    def _context(self, identity: PrivateKey, entropy: bytes) -> Any:
        from cryptography import x509
        from OpenSSL import SSL

        from p2pfwd.wire.tls.certificate import make_certificate

        der, key = make_certificate(identity, entropy)
        # Any: the stubs on PyPI are older than the types pyOpenSSL ships.
        context: Any = SSL.Context(SSL.TLS_METHOD)
        context.set_min_proto_version(SSL.TLS1_3_VERSION)
        context.set_max_proto_version(SSL.TLS1_3_VERSION)
        context.set_options(SSL.OP_NO_TICKET)
        context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        context.use_certificate(x509.load_der_x509_certificate(der))
        context.use_privatekey(key)
        context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, self._on_certificate)
        if self._initiator:
            context.set_alpn_protos([name.encode() for name in (*self._muxers, ALPN_NO_MUXER)])
        else:
            context.set_alpn_select_callback(self._on_alpn)
        return context

    def _on_certificate(
        self, _conn: SSL.Connection, certificate: crypto.X509, _error: int, depth: int, _ok: int
    ) -> bool:
        """Called by OpenSSL, several times for one certificate; an exception becomes an alert."""
        from cryptography.hazmat.primitives.serialization import Encoding

        from p2pfwd.wire.tls.certificate import verify_certificate

        if depth > 0:
            raise HandshakeFailed("tls: the peer sent more than one certificate")
        if self._remote is not None:
            return True
        key = verify_certificate(certificate.to_cryptography().public_bytes(Encoding.DER), self._now)
        self._remote = (key, self._expected(key))
        return True

    def _on_alpn(self, _conn: SSL.Connection, offered: list[bytes]) -> bytes:
        """Called by OpenSSL in a server: the first of the client's list that we speak too, as go."""
        ours = {name.encode() for name in (*self._muxers, ALPN_NO_MUXER)}
        for name in offered:
            if name in ours:
                return name
        raise HandshakeFailed("tls: no application protocol in common with the peer")

    def _next_record(self) -> bytes | None:
        if self._buffer and self._buffer[0] not in CONTENT_TYPES:
            # At the first byte: what looks like a record's length may never be fulfilled.
            raise HandshakeFailed("tls: the peer does not speak TLS")
        if len(self._buffer) < RECORD_HEADER_BYTES:
            return None
        length = int.from_bytes(self._buffer[3:RECORD_HEADER_BYTES], "big")
        end = RECORD_HEADER_BYTES + length
        if length > MAX_RECORD_BYTES:
            raise HandshakeFailed(f"tls: the peer announced a record of {length} bytes")
        if self._handshake_bytes + end > MAX_HANDSHAKE_BYTES:
            raise HandshakeFailed(f"tls: the peer's handshake is longer than {MAX_HANDSHAKE_BYTES} bytes")
        if len(self._buffer) < end:
            return None
        record = bytes(self._buffer[:end])
        del self._buffer[:end]
        self._handshake_bytes += end
        return record

    def _advance(self) -> None:
        ssl = self._ssl
        try:
            self._connection.do_handshake()
        except ssl.WantReadError:
            return
        except ssl.Error as exc:
            raise HandshakeFailed(f"tls: {_reason(exc)}") from exc
        self._finish()

    def _finish(self) -> None:
        chain = self._connection.get_peer_cert_chain() or []
        # A client's view of the chain includes the peer's own certificate, a server's does not.
        if self._remote is None or len(chain) > (1 if self._initiator else 0):
            self._outgoing()  # OpenSSL is content; what it would say now must not be sent
            raise HandshakeFailed("tls: the peer sent no certificate or more than one")
        selected = self._connection.get_alpn_proto_negotiated().decode(errors="replace")
        self._muxer = selected if selected in self._muxers else None
        self._done = True

    def _outgoing(self, expected: int = MAX_HANDSHAKE_BYTES) -> bytes:
        """All that OpenSSL has to send; `expected` bytes or fewer cost no further copy."""
        out = b""
        try:
            while True:
                part: bytes = self._connection.bio_read(expected)
                out = out + part if out else part
        except self._ssl.WantReadError:
            return out


def _reason(exc: SSL.Error) -> str:
    """The reason in the first entry of OpenSSL's error queue, as `sslv3 alert bad certificate`."""
    entries = exc.args[0] if exc.args else ()
    if isinstance(entries, list) and entries:
        return str(entries[0][-1]) or "unknown failure"
    return str(exc.args[-1]) if exc.args else "unknown failure"
