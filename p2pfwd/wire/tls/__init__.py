"""TLS 1.3 as libp2p does it: the handshake without sockets, and the certificate."""
