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

    Other names do not exist. `asked` lists (name, type) of every question. Port 0 takes a free one.
    """

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        self.texts: dict[str, list[str]] = {}
        self.hosts: dict[str, list[str]] = {}
        self.asked: list[tuple[str, str]] = []
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sock.bind((host, port))
        self.port: int = self._sock.getsockname()[1]
        self.address = f"{host}:{self.port}"
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
        self._sock.sendto(b"", self._sock.getsockname())  # to itself, in whatever namespace it is
        self._thread.join()
        self._sock.close()
