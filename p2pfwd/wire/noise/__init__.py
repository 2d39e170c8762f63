"""Noise as libp2p uses it: `Noise_XX_25519_ChaChaPoly_SHA256` with identity payloads (libp2p spec: noise).

`xx` is the pure Noise pattern, `handshake` the libp2p exchange on top of it, `cipher` the transport
phase and the hot path of every Noise connection.
"""

NOISE = "/noise"
