"""One HTTP question whose answer's status is all that matters (RFC 9112). Sans-IO: bytes out, bytes in.

Rules: what comes before the final answer (1xx) is skipped; nothing behind a final status line is read; an
answer that has none within `MAX_BYTES` is none.
"""

from __future__ import annotations

import re
from typing import Final

from p2pfwd.errors import RemoteProtocolError

MAX_BYTES: Final = 8192
"""Read of an answer."""

_STATUS: Final = re.compile(rb"HTTP/1\.[0-9] ([1-9][0-9]{2})(?: [^\r\n]*)?\r?\n")
_HEADERS_END: Final = re.compile(rb"\r?\n\r?\n")


def question(host: str, path: str) -> bytes:
    """A GET of `path`; `host` as in a URL, with its port."""
    lines = (
        f"GET {path} HTTP/1.1",
        f"Host: {host}",
        "User-Agent: p2pfwd",
        "Accept: */*",
        "Connection: close",
    )
    return "\r\n".join((*lines, "", "")).encode("ascii")


def is_well(status: int) -> bool:
    """Whether a service that answers so does what it is there for: 2xx and 3xx."""
    return 200 <= status < 400


class Answer:
    """What has come of an answer."""

    def __init__(self) -> None:
        self._left = MAX_BYTES
        self._data = b""

    def receive(self, data: bytes) -> int | None:
        """The final status, once it is there; `data` is empty at the end. Raises RemoteProtocolError."""
        self._data += data[: self._left]
        self._left -= len(data)
        while (match := _STATUS.match(self._data)) is not None:
            status = int(match[1])
            if status >= 200:
                return status
            if (end := _HEADERS_END.search(self._data, match.end() - 2)) is None:
                break
            self._data = self._data[end.end() :]
        if not data:
            raise RemoteProtocolError("its answer ends before a status")
        if match is None and b"\n" in self._data:
            raise RemoteProtocolError("its answer is not one of HTTP/1.1")
        if self._left <= 0:
            raise RemoteProtocolError(f"there is no status in the first {MAX_BYTES} bytes of its answer")
        return None
