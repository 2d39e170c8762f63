"""Any bytes as the answer to a check of a target: in every chunking the same status, or the same refusal."""

from __future__ import annotations

from p2pfwd.errors import RemoteProtocolError
from p2pfwd.wire.http_check import MAX_BYTES, Answer

SEEDS = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.0 503\n\n",
    b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n" * (MAX_BYTES // 25 + 2),
    b"HTTP/1.1 100 Continue\r\n\r\n" * (MAX_BYTES // 25) + b"HTTP/1.1 200 OK\r\n\r\n" * 2,
    b"SSH-2.0-OpenSSH_9.2\r\n",
]


def outcome(data: bytes, step: int) -> int | None:
    """The status, or None for an answer that is none; each answer ends."""
    answer = Answer()
    try:
        for start in range(0, len(data), step):
            status = answer.receive(data[start : start + step])
            if status is not None:
                assert 200 <= status <= 999
                return status
        answer.receive(b"")
    except RemoteProtocolError as exc:
        assert exc.message.isprintable()
        return None
    raise AssertionError("it ends without an end")


def one(data: bytes) -> None:
    """Feed `data`, whole and in pieces, and check the invariant."""
    assert outcome(data, len(data) + 1) == outcome(data, 1) == outcome(data, 7)


if __name__ == "__main__":
    from mutator import main

    main(one, SEEDS)
