"""wire.http_check: one question, and the status of what comes, in whatever pieces."""

from __future__ import annotations

import pytest

from p2pfwd.errors import RemoteProtocolError
from p2pfwd.wire.http_check import MAX_BYTES, Answer, is_well, question


def test_the_question() -> None:
    assert question("127.0.0.1:8080", "/health?a=1") == (
        b"GET /health?a=1 HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nUser-Agent: p2pfwd\r\nAccept: */*\r\n"
        b"Connection: close\r\n\r\n"
    )


@pytest.mark.parametrize("size", [1, 2, 7, 10_000])
@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200),
        (b"HTTP/1.0 301 Moved Permanently\r\n", 301),
        (b"HTTP/1.1 503 \r\n\r\n", 503),
        (b"HTTP/1.1 404\n\n", 404),
        (b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n", 204),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 500 No\r\n", 500),
    ],
)
def test_the_status(answer: bytes, status: int, size: int) -> None:
    found = Answer()
    pieces = [answer[at : at + size] for at in range(0, len(answer), size)]
    told = [found.receive(piece) for piece in pieces]
    assert next(it for it in told if it is not None) == status


@pytest.mark.parametrize(
    ("pieces", "words"),
    [
        ([b""], "ends before a status"),
        ([b"HTTP/1.1 2", b""], "ends before a status"),
        ([b"HTTP/1.1 100 Continue\r\n\r\n", b""], "ends before a status"),
        ([b"SSH-2.0-OpenSSH_9.2\r\n"], "not one of HTTP/1.1"),
        ([b"HTTP/2 200\r\n"], "not one of HTTP/1.1"),
        ([b"HTTP/1.1 20 OK\r\n"], "not one of HTTP/1.1"),
        ([b"HTTP/1.1 2000 OK\r\n"], "not one of HTTP/1.1"),
        ([b"a" * 1000] * 9, f"no status in the first {MAX_BYTES} bytes"),
        ([b"HTTP/1.1 100 Continue\r\n\r\n"] * 1000, f"no status in the first {MAX_BYTES} bytes"),
        ([b"HTTP/1.1 100 Continue\r\nA: " + b"a" * 9000], f"no status in the first {MAX_BYTES} bytes"),
    ],
)
def test_what_is_no_answer(pieces: list[bytes], words: str) -> None:
    found = Answer()
    with pytest.raises(RemoteProtocolError, match=words):
        for piece in pieces:
            assert found.receive(piece) is None


def test_what_is_well() -> None:
    assert [is_well(status) for status in (200, 399, 400, 503, 600)] == [True, True, False, False, False]
