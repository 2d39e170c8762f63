"""Pins what an end of a circuit does once it is finished; its bytes are in `tests/net/test_relay_service`."""

from __future__ import annotations

from typing import Any, cast

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.net.transport.circuit import CircuitConduit
from p2pfwd.system.buffers import BufferPool

ADDR = Multiaddr.parse("/ip4/192.0.2.1/tcp/1")


class Stream:
    """Takes nothing more after its FIN."""

    def __init__(self) -> None:
        self.log: list[str] = []

    def begin_frame(self) -> memoryview | None:
        return None if "fin" in self.log else memoryview(bytearray(100))

    def end_frame(self, n: int) -> None:
        self.log.append(f"{n} bytes")

    def want_to_send(self) -> None:
        self.log.append("want")

    def close_write(self) -> None:
        self.log.append("fin")


def test_what_is_sent_after_the_end_asks_for_no_turn() -> None:
    stream = Stream()
    conduit = CircuitConduit(cast("Any", stream), BufferPool(), ADDR, ADDR, None)
    conduit.send(memoryview(b"before"))
    conduit.finish()
    conduit.send(memoryview(b"after"))  # it would have a turn of the loop again and again, in vain
    assert stream.log == ["6 bytes", "fin"] and not conduit.congested
