"""A name server on loopback that knows a few TXT records and nothing else."""

from __future__ import annotations

import socket
import threading
from types import TracebackType

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset


class FakeDns:
    """`texts` maps a full name (`_dnsaddr.example.org.`) to its TXT strings; other names do not exist."""

    def __init__(self) -> None:
        self.texts: dict[str, list[str]] = {}
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
        texts = self.texts.get(str(question.name))
        if texts is None:
            reply.set_rcode(dns.rcode.NXDOMAIN)
        elif question.rdtype == dns.rdatatype.TXT:
            quoted = [f'"{text}"' for text in texts]
            reply.answer.append(dns.rrset.from_text(question.name, 60, "IN", "TXT", *quoted))
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
