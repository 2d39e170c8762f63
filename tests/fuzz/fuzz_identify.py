"""Any bytes, as an Identify message: a message within all bounds that survives sending again, or a refusal.

Further: no bytes make `verify` raise, and only a truly signed record is called certified.
"""

from __future__ import annotations

import json
from pathlib import Path

from p2pfwd.core import varint
from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import RemoteProtocolError
from p2pfwd.wire import identify

CAPTURE = json.loads((Path(__file__).parents[1] / "vectors/kubo022_capture.json").read_text())
MESSAGES = [bytes.fromhex(CAPTURE[name]) for name in CAPTURE if name.startswith("identify_")]
SEEDS = [data[varint.decode(data)[1] :] for data in MESSAGES]
PEER = PeerId.parse(CAPTURE["identity_ed25519"]["PeerID"])
SIGNED = identify.verify(identify.decode(SEEDS[0]), PEER)[0]


def one(data: bytes) -> None:
    """Read `data` and check the invariant."""
    try:
        message = identify.decode(data)
    except RemoteProtocolError as exc:
        assert exc.message.isprintable()
        return
    assert len(message.listen_addrs) <= identify.MAX_ADDRESSES
    assert len(message.protocols) <= identify.MAX_PROTOCOLS
    assert len(message.agent_version or "") <= identify.MAX_VERSION_CHARS
    addrs, certified = identify.verify(message, PEER)
    assert addrs == (SIGNED if certified else message.listen_addrs)
    assert identify.decode(data, data) == message
    sent = identify.encode(message)
    if len(data) <= identify.MAX_SENT_BYTES // 4:  # replacing what is not UTF-8 makes texts longer
        assert identify.decode(sent) == message


if __name__ == "__main__":
    from mutator import main

    main(one, SEEDS)
