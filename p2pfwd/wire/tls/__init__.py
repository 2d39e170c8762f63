"""TLS 1.3 as libp2p does it: the handshake without sockets, and the certificate (libp2p spec: tls)."""

TLS = "/tls/1.0.0"

KEY_ENTROPY_BYTES = 48
ENTROPY_BYTES = KEY_ENTROPY_BYTES + 16
"""Random bytes of one handshake: for the certificate's key, and for its serial number."""
