"""Ping: 32 random bytes, sent and echoed on one stream, again and again (libp2p spec: ping)."""

from __future__ import annotations

from typing import Final

from p2pfwd.errors import RemoteProtocolError

ID: Final = "/ipfs/ping/1.0.0"

PAYLOAD_BYTES: Final = 32
"""Bytes of one round; both sides count on exactly that many."""


def check_echo(sent: bytes, received: bytes) -> None:
    """Raises RemoteProtocolError unless the peer echoed what was sent."""
    if received != sent:
        raise RemoteProtocolError("ping: the peer echoed other bytes than were sent")
