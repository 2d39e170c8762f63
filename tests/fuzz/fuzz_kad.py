"""Any bytes, read as a request and as a response: a bounded value that reads the same when sent on, or blame.

"Sent on" loses only what trimming to MAX_SENT_BYTES takes; nothing else is raised than RemoteProtocolError.
"""

from __future__ import annotations

import json
from pathlib import Path

from p2pfwd.core import varint
from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import RemoteProtocolError
from p2pfwd.wire.kad import codec
from p2pfwd.wire.kad.messages import (
    AddProvider,
    FindNode,
    GetProviders,
    GetValue,
    KadPeer,
    MessageType,
    Ping,
    PutValue,
    Record,
    Request,
    Response,
)

VECTORS = Path(__file__).parents[1] / "vectors"
FRAMES = json.loads((VECTORS / "frames.json").read_text())["frames"]
KEY = b"\x12\x20" + bytes(range(32))
PEERS = tuple(
    KadPeer(PeerId.from_bytes(KEY[:-1] + bytes([n])), (Multiaddr.parse(f"/ip4/192.0.2.{n}/tcp/4001"),))
    for n in range(3)
)
REQUESTS: list[Request] = [
    FindNode(KEY),
    GetProviders(KEY),
    AddProvider(KEY, PEERS),
    GetValue(b"/pk/" + KEY),
    PutValue(Record(b"/pk/" + KEY, b"value")),
    Ping(),
]
SEEDS = [codec.encode_request(request) for request in REQUESTS]
SEEDS += [
    codec.encode_response(Response(kind, KEY, Record(KEY, b"value"), PEERS, PEERS[:1]))
    for kind in MessageType
]
for entry in FRAMES:
    if entry["name"].startswith("kad "):
        framed = bytes.fromhex(entry["hex"])
        SEEDS.append(framed[varint.decode(framed)[1] :])


def one(data: bytes) -> None:
    """Read `data` both ways and check the invariant."""
    try:
        request = codec.decode_request(data)
    except RemoteProtocolError as exc:
        assert exc.message.isprintable()
    else:
        sent = codec.encode_request(request)
        assert len(sent) <= codec.MAX_SENT_BYTES
        assert codec.decode_request(sent) == request
    for asked in REQUESTS:
        try:
            response = codec.decode_response(data, asked)
        except RemoteProtocolError as exc:
            assert exc.message.isprintable()
        else:
            assert len(response.closer_peers) <= codec.MAX_PEERS
            sent = codec.encode_response(response)
            assert len(sent) <= codec.MAX_SENT_BYTES
            again = codec.decode_response(sent, asked)
            assert again == response


if __name__ == "__main__":
    from mutator import main

    main(one, SEEDS)
