"""Any bytes, as an answer to a search for the router: an URL at the router itself, or none."""

from __future__ import annotations

from urllib.parse import urlsplit

from p2pfwd.errors import RemoteProtocolError
from p2pfwd.wire import ssdp

ROUTER = "10.1.0.1"
SEEDS = [
    b"HTTP/1.1 200 OK\r\nST: x\r\nLOCATION: http://10.1.0.1:5000/rootDesc.xml\r\n\r\n",
    b"HTTP/1.0 200 OK\nlocation:http://10.1.0.1/\n\n",
    b"HTTP/1.1 200 OK\r\nLOCATION: http://10.1.0.1:80@10.1.0.2/x\r\n\r\n",
    b"NOTIFY * HTTP/1.1\r\nNTS: ssdp:alive\r\nBOOTID.UPNP.ORG: 1795715642\r\n\r\n",
]


def one(data: bytes) -> None:
    """Read `data` both ways and check the invariant."""
    boot = ssdp.boot_of(data)
    assert boot is None or 0 < len(boot) <= 64
    try:
        location = ssdp.decode_answer(data, ROUTER)
    except RemoteProtocolError as exc:
        assert exc.message.isprintable()
        return
    url = urlsplit(location)
    assert (url.scheme, url.hostname, url.username) == ("http", ROUTER, None) and location.isascii()
    assert url.port is None or 0 < url.port < 65536
    assert location.isprintable() and len(location) <= ssdp.MAX_LOCATION_BYTES


if __name__ == "__main__":
    from mutator import main

    main(one, SEEDS)
