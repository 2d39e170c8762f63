"""Yamux `/yamux/1.0.0`, sans-IO: frames, flow control, streams, session (libp2p spec: yamux)."""

YAMUX = "/yamux/1.0.0"
