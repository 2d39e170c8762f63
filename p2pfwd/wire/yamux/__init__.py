"""Yamux `/yamux/1.0.0`, sans-IO: frames, flow control, streams, session (WIRE facts: libp2p yamux spec)."""

YAMUX = "/yamux/1.0.0"
