"""A name server on loopback that knows a few TXT and address records and nothing else."""

from __future__ import annotations

import socket
import threading
from types import TracebackType

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset


def _quoted(text: str) -> str:
    """A TXT record's text, in strings of at most 255 bytes."""
    return " ".join(f'"{text[at : at + 255]}"' for at in range(0, len(text), 255))


class FakeDns:
    """`texts` maps a full name (`_dnsaddr.example.org.`) to its TXT strings, `hosts` one to its IP addresses.

    Other names do not exist. `asked` lists (name, type) of every question.
    """

    def __init__(self) -> None:
        self.texts: dict[str, list[str]] = {}
        self.hosts: dict[str, list[str]] = {}
        self.asked: list[tuple[str, str]] = []
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sock.bind(("127.0.0.1", 0))
        self.port: int = self._sock.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._serve, name="fake-dns")
        self._thread.start()

    def _serve(self) -> None:
        while True:
            query, client = self._sock.recvfrom(4096)
            if not query:  # from close()
                return
            self._sock.sendto(self._answer(query), client)

    def _answer(self, query: bytes) -> bytes:
        request = dns.message.from_wire(query)
        reply = dns.message.make_response(request)
        reply.flags |= dns.flags.RA
        question = request.question[0]
        name, kind = str(question.name), dns.rdatatype.to_text(question.rdtype)
        self.asked.append((name, kind))
        texts, hosts = self.texts.get(name), self.hosts.get(name)
        if texts is None and hosts is None:
            reply.set_rcode(dns.rcode.NXDOMAIN)
        found: list[str] = []
        if kind == "TXT":
            found = [_quoted(text) for text in texts or ()]
        elif kind in ("A", "AAAA"):
            found = [ip for ip in hosts or () if (":" in ip) == (kind == "AAAA")]
        if found:
            reply.answer.append(dns.rrset.from_text(question.name, 60, "IN", kind, *found))
        return reply.to_wire()

    def __enter__(self) -> FakeDns:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"", ("127.0.0.1", self.port))
        self._thread.join()
        self._sock.close()
