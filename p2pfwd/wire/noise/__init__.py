"""Noise as libp2p uses it: `Noise_XX_25519_ChaChaPoly_SHA256` with identity payloads (libp2p spec: noise).

Between two p2pfwd that both say so AES-256-GCM keys the transport phase instead: p2pfwd-protocols(7).
`xx` is the pure Noise pattern, `handshake` the libp2p exchange on top of it, `cipher` the transport
phase and the hot path of every Noise connection.
"""

NOISE = "/noise"
