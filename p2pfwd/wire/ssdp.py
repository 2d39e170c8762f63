"""SSDP: a router that speaks UPnP is searched on the local network (UPnP Device Architecture 1.1, section 1).

The search goes to a multicast group, and anybody may answer. An answer counts where it comes from the router,
and its LOCATION is at that very IP, so that nobody can send us to somebody else's door.
"""

from __future__ import annotations

import re
from typing import Final

from p2pfwd.errors import RemoteProtocolError

GROUP: Final = "239.255.255.250"
PORT: Final = 1900
MAX_BYTES: Final = 2048
MAX_LOCATION_BYTES: Final = 256

TARGETS: Final = tuple(f"urn:schemas-upnp-org:device:InternetGatewayDevice:{version}" for version in (1, 2))
"""What is searched, one after the other: some routers choke on both at once."""

_LOCATION: Final = re.compile(rb"^location:[ \t]*(\S+)[ \t]*\r?$", re.IGNORECASE | re.MULTILINE)
_URL: Final = re.compile(r"http://([0-9]{1,3}(?:\.[0-9]{1,3}){3})(?::([0-9]{1,5}))?(/[!#-;=?-~]*)?")
_ALIVE: Final = re.compile(rb"^nts:[ \t]*ssdp:alive[ \t]*\r?$", re.IGNORECASE | re.MULTILINE)
_BOOT: Final = re.compile(
    rb"^(?:bootid\.upnp\.org|01-nls):[ \t]*(\S{1,64})[ \t]*\r?$", re.IGNORECASE | re.MULTILINE
)


def encode_search(target: str) -> bytes:
    """A search; who is found answers within a second."""
    lines = ("M-SEARCH * HTTP/1.1", f"HOST: {GROUP}:{PORT}", 'MAN: "ssdp:discover"', "MX: 1", f"ST: {target}")
    return "".join(f"{line}\r\n" for line in (*lines, "")).encode()


def decode_answer(data: bytes, router: str) -> str:
    """The URL of the router's description. Raises RemoteProtocolError."""
    if not data.startswith((b"HTTP/1.1 200 ", b"HTTP/1.0 200 ")):
        raise RemoteProtocolError("SSDP: not an answer")
    found = _LOCATION.findall(data)
    if len(found) != 1 or len(found[0]) > MAX_LOCATION_BYTES:
        raise RemoteProtocolError("SSDP: an answer without a location")
    location = str(found[0], "ascii", "replace")
    if host_of(location) != router:
        raise RemoteProtocolError("SSDP: an answer that leads to somebody else")
    return location


def boot_of(data: bytes) -> bytes | None:
    """What a device that tells that it is there says with every restart anew; None: it says no such thing."""
    if not data.startswith(b"NOTIFY ") or _ALIVE.search(data) is None:
        return None
    match = _BOOT.search(data)
    return None if match is None else match[1]


def host_of(url: str) -> str | None:
    """The host of a plain URL with an IPv4 address and a possible port; None: it is another kind."""
    match = _URL.fullmatch(url)
    return match[1] if match is not None and 0 < int(match[2] or 80) < 65536 else None
