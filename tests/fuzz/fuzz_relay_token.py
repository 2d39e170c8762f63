"""Any bytes, as a relay's token, as the answer to one, and as a hub's line: one that reads the same, or none.

A refusal of a line shows nothing of the secrets in it.
"""

from __future__ import annotations

import re

from p2pfwd.core.join_line import JoinLine
from p2pfwd.core.relay_token import TEXT_CHARS, digest, to_text
from p2pfwd.errors import RemoteProtocolError, UsageError
from p2pfwd.wire import relay_token
from p2pfwd.wire.relay_token import TokenStatus

TOKEN = to_text(bytes(range(16)))
LINE = f"/ip4/192.0.2.1/tcp/4011/p2p/12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA#{TOKEN}"
SEEDS = [
    relay_token.encode_request(TOKEN),
    *(relay_token.encode_answer(status) for status in TokenStatus),
    LINE.encode(),
    f"'{LINE}?{bytes(range(32)).hex()}'".encode(),
]


def one(data: bytes) -> None:
    """Read `data` as each and check the invariant."""
    try:
        token = relay_token.decode_request(data)
    except RemoteProtocolError as exc:
        assert exc.message.isprintable()
    else:
        assert len(token) == TEXT_CHARS and len(digest(token)) == 64
        assert relay_token.decode_request(relay_token.encode_request(token)) == token
    try:
        status = relay_token.decode_answer(data)
    except RemoteProtocolError as exc:
        assert exc.message.isprintable()
    else:
        assert relay_token.encode_answer(status) == data
    try:
        text = data.decode()
        line = JoinLine.parse(text)
    except UnicodeDecodeError:
        return
    except UsageError as exc:
        address = re.split("[?#]", text.strip().strip("'\""))[0]
        assert TOKEN not in exc.message or (address.startswith("/") and TOKEN in address)
        return
    assert JoinLine.parse(str(line)) == line


if __name__ == "__main__":
    from mutator import main

    main(one, SEEDS)
