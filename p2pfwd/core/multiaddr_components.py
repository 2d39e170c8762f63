"""The components multiaddrs are made of: their names, codes, and how each value reads and prints.

Names and codes come from the `multiaddr` library's table; framing and values follow go-multiaddr, which
the library (0.2.0) does not in these places, so they are handled here:

- text: it skips empty components, refuses values that equal a protocol name, has no `/ipfs` alias;
- bytes: it never checks them, and reads past their end;
- ip4, ip6: `netaddr` costs 2 MB; ports, memory: it takes `+1` and `1_0`;
- dns*, sni: it insists on IDNA, go on non-empty text without `/`;
- p2p: it puts CID bytes on the wire; unix: it loses the leading slash and reads `%` escapes;
- certhash: it knows base64url only and refuses truncated hashes; http-path: it mangles non-UTF-8 escapes;
- onion and garlic values are the library's, re-encoded to notice the characters it skips.

Every function raises ValueError with the reason; `core.multiaddrs` makes it an InvalidMultiaddr.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import quote, unquote_to_bytes

import base58
from multiaddr.codecs import codec_by_name
from multiaddr.exceptions import Error as LibraryError
from multiaddr.protocols import PROTOCOLS, Protocol

from p2pfwd.core import multibase, varint
from p2pfwd.core.peer_id import decode_text, multihash_fault
from p2pfwd.core.quoting import quoted

MAX_BYTES = 2048
"""Longest binary multiaddr: garlic64 needs 400, two peer IDs and three certhashes fewer."""

MAX_TEXT_CHARS = 4096
"""Longest text. Escapes and names can make a text nine times as long as its bytes: both are bounded."""

PEER_ROOM_BYTES = 2 + 1 + 44
PEER_ROOM_CHARS = len("/p2p/") + 61
"""A `/p2p/ID` at its longest: an inlined key of 42 bytes, in base58. Room for it is kept, so that every
address that is accepted can also be given a peer ID."""

MAX_CERTHASH_BYTES = (multibase.MAX_CHARS - 1) * 6 // 8
"""Longest certificate hash: its text is the longest that `multibase` decodes."""

VARIABLE = -1
"""`Component.size` of values that carry their length."""


@dataclass(frozen=True, slots=True)
class Component:
    """One protocol of the table: `size` of its value in bytes, 0 for none, VARIABLE for length-prefixed."""

    name: str
    code: int
    prefix: bytes
    size: int
    to_bytes: Callable[[str], bytes]
    to_text: Callable[[bytes], str]

    @property
    def is_path(self) -> bool:
        """Whether the value is the whole rest of the text."""
        return self.name == "unix"

    def encode(self, value: bytes) -> bytes:
        """Code, length if any, and `value`."""
        if self.size == VARIABLE:
            return self.prefix + varint.encode(len(value)) + value
        return self.prefix + value


Part = tuple[Component, bytes]
"""A component and its binary value."""


# --- values ---------------------------------------------------------------------------------------


def _number(text: str, size: int, what: str) -> bytes:
    top = (1 << 8 * size) - 1
    if not (text.isascii() and text.isdecimal()) or len(text) > 20 or int(text) > top:
        raise ValueError(f"{what} is a number from 0 to {top}")
    return int(text).to_bytes(size, "big")


def _number_text(value: bytes) -> str:
    return str(int.from_bytes(value, "big"))


def _ip4(text: str) -> bytes:
    try:
        return ipaddress.IPv4Address(text).packed
    except ValueError as exc:
        raise ValueError("an IPv4 address has four numbers from 0 to 255") from exc


def _ip4_text(value: bytes) -> str:
    return f"{value[0]}.{value[1]}.{value[2]}.{value[3]}"


def _ip6(text: str) -> bytes:
    try:
        if "%" in text:
            raise ValueError("zone")
        return ipaddress.IPv6Address(text).packed
    except ValueError as exc:
        cure = "its zone goes before it, as /ip6zone/eth0/ip6/fe80::1" if "%" in text else "as ::1"
        raise ValueError(f"not an IPv6 address ({cure})") from exc


def _ip6_text(value: bytes) -> str:
    if value.startswith(b"\0" * 10 + b"\xff\xff"):
        return "::ffff:" + _ip4_text(value[12:])
    return str(ipaddress.IPv6Address(value))


def _name(text: str) -> bytes:
    return _checked_name(text.encode("utf-8"))


def _checked_name(value: bytes) -> bytes:
    text = value.decode("utf-8")
    if not text or "/" in text or " " in text or not text.isprintable():
        # go takes blanks and control characters; they would reach terminals and logs, and no resolver.
        raise ValueError("a name is printable text without a slash or a blank")
    return value


def _name_text(value: bytes) -> str:
    return _checked_name(value).decode("utf-8")


def _path(text: str) -> bytes:
    return _checked_path(text.encode("utf-8"))


def _checked_path(value: bytes) -> bytes:
    text = value.decode("utf-8")
    if len(text) < 2 or not text.startswith("/") or text.endswith("/") or not text.isprintable():
        raise ValueError("a socket path is printable text that begins with a slash and does not end in one")
    return value


def _path_text(value: bytes) -> str:
    return _checked_path(value).decode("utf-8")


def _peer_text(value: bytes) -> str:
    fault = multihash_fault(value)
    if fault is not None:
        raise ValueError(fault)
    return base58.b58encode(value).decode("ascii")


def _certhash(text: str) -> bytes:
    return _checked_multihash(multibase.decode(text))


def _checked_multihash(value: bytes) -> bytes:
    try:
        _, offset = varint.decode(value)
        size, offset = varint.decode(value, offset)
    except (varint.VarintIncomplete, varint.VarintInvalid) as exc:
        raise ValueError("a certificate hash is a multihash") from exc
    if size != len(value) - offset:
        raise ValueError("the certificate hash has another length than it says")
    if len(value) > MAX_CERTHASH_BYTES:
        raise ValueError(f"the certificate hash is longer than {MAX_CERTHASH_BYTES} bytes")
    return value


def _certhash_text(value: bytes) -> str:
    return multibase.base64url(_checked_multihash(value))


def _http_path(text: str) -> bytes:
    pieces = text.split("%")[1:]
    if any(len(piece) < 2 or not _is_hex(piece[:2]) for piece in pieces):
        raise ValueError("% begins an escape of two hexadecimal digits")
    value = unquote_to_bytes(text)
    if not value:
        raise ValueError("the path is empty")
    return value


def _is_hex(text: str) -> bool:
    return all(char in "0123456789abcdefABCDEF" for char in text)


def _http_path_text(value: bytes) -> str:
    if not value:
        raise ValueError("the path is empty")
    return quote(value, safe="")


_Codec = tuple[int, Callable[[str], bytes], Callable[[bytes], str]]

_VALUES: dict[str | None, _Codec] = {
    None: (0, lambda _: b"", lambda _: ""),
    "ip4": (4, _ip4, _ip4_text),
    "ip6": (16, _ip6, _ip6_text),
    "uint16be": (2, lambda text: _number(text, 2, "a port"), _number_text),
    "ipcidr": (1, lambda text: _number(text, 1, "a prefix length"), _number_text),
    "memory": (8, lambda text: _number(text, 8, "a memory address"), _number_text),
    "utf8": (VARIABLE, _name, _name_text),
    "domain": (VARIABLE, _name, _name_text),
    "fspath": (VARIABLE, _path, _path_text),
    "cid": (VARIABLE, decode_text, _peer_text),
    "certhash": (VARIABLE, _certhash, _certhash_text),
    "http_path": (VARIABLE, _http_path, _http_path_text),
}
"""By the library's name of the codec."""

_LIBRARY_SIZES = {"onion": 12, "onion3": 37, "garlic64": VARIABLE, "garlic32": VARIABLE}


def _library_codec(protocol: Protocol) -> _Codec:
    """The library's own codec for a value met once in a blue moon: its module is loaded at the first."""

    def to_text(value: bytes) -> str:
        try:
            return str(codec_by_name(protocol.codec).to_string(protocol, value))
        except (LibraryError, ValueError) as exc:  # its sentences quote the input raw
            raise ValueError(f"no {protocol.name} address") from exc

    def to_bytes(text: str) -> bytes:
        try:
            value = bytes(codec_by_name(protocol.codec).to_bytes(protocol, text))
        except (LibraryError, ValueError) as exc:  # its sentences quote the input raw
            raise ValueError(f"no {protocol.name} address") from exc
        if len(to_text(value)) != len(text):
            raise ValueError(f"no {protocol.name} address")
        return value

    return _LIBRARY_SIZES[protocol.codec], to_bytes, to_text


def _component(protocol: Protocol) -> Component:
    size, to_bytes, to_text = _VALUES.get(protocol.codec) or _library_codec(protocol)
    prefix = varint.encode(protocol.code)
    return Component(protocol.name, protocol.code, prefix, size, to_bytes, to_text)


_TABLE = [_component(protocol) for protocol in (*PROTOCOLS, Protocol(277, "p2p-stardust", None))]
BY_CODE = {component.code: component for component in _TABLE}
BY_NAME = {component.name: component for component in _TABLE}
BY_NAME["ipfs"] = BY_NAME["p2p"]


# --- sequences ------------------------------------------------------------------------------------


def parse_text(text: str) -> list[Part]:
    """The components of a text multiaddr, values checked; at least one."""
    if len(text) > MAX_TEXT_CHARS:
        raise ValueError(f"longer than {MAX_TEXT_CHARS} characters")
    first, *pieces = text.rstrip("/").split("/")
    if first:
        raise ValueError("must begin with /")
    if not pieces:
        raise ValueError("empty multiaddr")
    parts: list[Part] = []
    index = 0
    while index < len(pieces):
        component = BY_NAME.get(pieces[index])
        if component is None:
            raise ValueError(_unknown(pieces[index], parts))
        index += 1
        if component.size == 0:
            parts.append((component, b""))
            continue
        if index == len(pieces):
            raise ValueError(f"unexpected end of multiaddr: {component.name} needs a value")
        value = "/" + "/".join(pieces[index:]) if component.is_path else pieces[index]
        index = len(pieces) if component.is_path else index + 1
        parts.append((component, _value(component, value)))
    return parts


def _unknown(name: str, before: list[Part]) -> str:
    reason = f"unknown protocol {name if name.isalnum() and len(name) < 40 else quoted(name)}"
    if before and before[-1][0].size == 0:
        return f"{reason} ({before[-1][0].name} takes no value)"
    return reason


def _value(component: Component, text: str) -> bytes:
    try:
        return component.to_bytes(text)
    except UnicodeError as exc:
        raise ValueError(f"invalid value {quoted(text)} for protocol {component.name}: not UTF-8") from exc
    except ValueError as exc:
        raise ValueError(f"invalid value {quoted(text)} for protocol {component.name}: {exc}") from exc


def split(data: bytes) -> list[Part]:
    """The components of a binary multiaddr; framing is checked, values are not."""
    parts: list[Part] = []
    offset = 0
    end = len(data)
    while offset < end:
        code, offset = varint.decode(data, offset)
        component = BY_CODE.get(code)
        if component is None:
            raise ValueError(f"unknown protocol code {code}")
        size = component.size
        if size == VARIABLE:
            size, offset = varint.decode(data, offset)
        if offset + size > end:
            raise ValueError(f"unexpected end of multiaddr inside {component.name}")
        parts.append((component, data[offset : offset + size]))
        offset += size
    return parts


def parse_bytes(data: bytes) -> list[Part]:
    """The components of a binary multiaddr, values checked; at least one."""
    if len(data) > MAX_BYTES:
        raise ValueError(f"longer than {MAX_BYTES} bytes")
    if not data:
        raise ValueError("empty multiaddr")
    try:
        return split(data)
    except (varint.VarintIncomplete, varint.VarintInvalid) as exc:
        raise ValueError(exc.message) from exc


def check_length(parts: list[Part], data: bytes, text: str) -> None:
    """ValueError where an address, its peer ID left out, is too long in either form.

    The one place that decides: what is accepted as bytes is accepted as text, and the reverse.
    """
    size, chars = len(data), len(text)
    if parts and parts[-1][0] is BY_NAME["p2p"]:
        component, value = parts[-1]
        size -= len(component.encode(value))
        chars -= len(f"/{component.name}/{component.to_text(value)}")
    if size > MAX_BYTES - PEER_ROOM_BYTES:
        raise ValueError(f"longer than {MAX_BYTES - PEER_ROOM_BYTES} bytes without a peer ID")
    if chars > MAX_TEXT_CHARS - PEER_ROOM_CHARS:
        raise ValueError(f"longer than {MAX_TEXT_CHARS - PEER_ROOM_CHARS} characters without a peer ID")


def to_text(parts: list[Part]) -> str:
    """The canonical text of `parts`; ValueError if a value is none of its protocol's."""
    if any(component.is_path for component, _ in parts[:-1]):
        raise ValueError("nothing can follow a /unix path")  # its text would swallow what does
    pieces: list[str] = []
    for component, value in parts:
        if component.size == 0:
            pieces.append(f"/{component.name}")
            continue
        try:
            text = component.to_text(value)
        except UnicodeError as exc:
            raise ValueError(f"invalid value for protocol {component.name}: not UTF-8") from exc
        except ValueError as exc:
            raise ValueError(f"invalid value for protocol {component.name}: {exc}") from exc
        pieces.append(f"/{component.name}{text}" if component.is_path else f"/{component.name}/{text}")
    return "".join(pieces)
