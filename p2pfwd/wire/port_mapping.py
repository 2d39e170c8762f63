"""NAT-PMP and PCP: a router is asked to lead one of its ports here (RFC 6886, RFC 6887), at UDP port 5351.

`encode_*` make requests, `decode_*` read the router's answers to them. The router is a stranger: an answer of
another length, version or opcode, for another port or with another nonce, is a RemoteProtocolError, and who
asked waits for the right one. A router that knows only the other protocol answers a `Refusal` that
`is_version`: PCP is asked first, and such an answer to it means NAT-PMP. Lifetimes and epochs are seconds.
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass
from typing import Final

from p2pfwd.errors import RemoteProtocolError

PORT: Final = 5351
ANNOUNCE_PORT: Final = 5350
ANNOUNCE_GROUP: Final = "224.0.0.1"
"""Where a router says that it began anew: the answer to a question nobody asked."""

MAX_PCP_BYTES: Final = 1100
"""Longest PCP message (RFC 6887 7)."""

NONCE_BYTES: Final = 12

_TCP: Final = 6  # IANA protocol number, for PCP
_PMP_ADDRESS, _PMP_MAP_TCP = 0, 2
_PCP_ANNOUNCE, _PCP_MAP = 0, 1
_ANSWER: Final = 0x80
_WRONG_VERSION: Final = 1  # the result code in both
_UNSUPPORTED_OPCODE: Final = 4  # PCP's

_PMP_HEADER: Final = struct.Struct(">BBHI")  # version, opcode, result, epoch
_PMP_REQUEST: Final = struct.Struct(">BBxxHHI")  # version, opcode, internal port, external port, lifetime
_PMP_MAPPED: Final = struct.Struct(">HHI")  # internal port, external port, lifetime
_PCP_REQUEST: Final = struct.Struct(">BBxxI16s")  # version, opcode, lifetime, own address
_PCP_HEADER: Final = struct.Struct(">BBxBII12x")  # version, opcode, result, lifetime, epoch
_PCP_MAP_PART: Final = struct.Struct(">12sB3xHH16s")  # nonce, protocol, internal, external, external address

PMP_REFUSALS: Final = {
    1: "it speaks another version",
    2: "port mapping is switched off",
    3: "it has no public address itself, so it is offline or behind another NAT",
    4: "it has no room for another mapping",
    5: "it does not know the request",
}
"""RFC 6886 3.5."""

PCP_REFUSALS: Final = {
    1: "it speaks another version",
    2: "it is not allowed",
    3: "it could not read the request",
    4: "it does not know the request",
    5: "it does not know an option",
    6: "it could not read an option",
    7: "it has lost its line",
    8: "it has no room, or no public address itself",
    9: "it does not map TCP",
    10: "this machine has too many mappings",
    11: "it has not the external address that was asked for",
    12: "it sees this machine at another address",
    13: "there are too many peers in the request",
}
"""RFC 6887 7.4."""


@dataclass(frozen=True, slots=True)
class Mapped:
    """The router leads `external_port` here; 0 s: the mapping is gone, as was asked."""

    internal_port: int
    external_port: int
    lifetime_s: int
    epoch_s: int
    host: str | None = None  # external IPv4 address; NAT-PMP says it apart


@dataclass(frozen=True, slots=True)
class ExternalAddress:
    """NAT-PMP: the router's address on its other side."""

    host: str
    epoch_s: int


@dataclass(frozen=True, slots=True)
class Announced:
    """PCP: the router is there, and has been for so long."""

    epoch_s: int


@dataclass(frozen=True, slots=True)
class Refusal:
    """The router says no. `code` is the RFC's."""

    code: int
    words: str

    @property
    def is_version(self) -> bool:
        """Whether it knows only the other of the two protocols."""
        return self.code == _WRONG_VERSION

    @property
    def is_opcode(self) -> bool:
        """PCP: whether it does not know the question."""
        return self.code == _UNSUPPORTED_OPCODE


# --- NAT-PMP ----------------------------------------------------------------------------------------


def encode_pmp_address() -> bytes:
    """Which external address have you?"""
    return bytes((0, _PMP_ADDRESS))


def encode_pmp_map(internal_port: int, external_port: int, lifetime_s: int) -> bytes:
    """Map a TCP port, or with 0 s unmap it; external port 0: any."""
    return _PMP_REQUEST.pack(0, _PMP_MAP_TCP, internal_port, external_port, lifetime_s)


def decode_pmp_address(data: bytes) -> ExternalAddress | Refusal:
    """The answer to `encode_pmp_address`, or an announcement. Raises RemoteProtocolError."""
    epoch_s, refusal = _pmp_header(data, _PMP_ADDRESS)
    if refusal is not None:
        return refusal
    _length(data, _PMP_HEADER.size + 4)
    return ExternalAddress(str(ipaddress.IPv4Address(data[_PMP_HEADER.size :])), epoch_s)


def decode_pmp_map(data: bytes, internal_port: int) -> Mapped | Refusal:
    """The answer to `encode_pmp_map`. Raises RemoteProtocolError."""
    epoch_s, refusal = _pmp_header(data, _PMP_MAP_TCP)
    if refusal is not None:
        return refusal
    _length(data, _PMP_HEADER.size + _PMP_MAPPED.size)
    internal, external, lifetime_s = _PMP_MAPPED.unpack_from(data, _PMP_HEADER.size)
    return _mapped(internal, internal_port, external, lifetime_s, epoch_s, None)


def _pmp_header(data: bytes, opcode: int) -> tuple[int, Refusal | None]:
    if len(data) < _PMP_HEADER.size:
        raise RemoteProtocolError("NAT-PMP: an answer that is too short")
    version, answered, code, epoch_s = _PMP_HEADER.unpack_from(data)
    if version != 0:
        raise RemoteProtocolError("NAT-PMP: an answer of another version")
    if code == _WRONG_VERSION and answered & _ANSWER:  # it may not have read the opcode
        return epoch_s, _refusal(code, PMP_REFUSALS)
    if answered != _ANSWER | opcode:
        raise RemoteProtocolError("NAT-PMP: an answer to another question")
    return epoch_s, _refusal(code, PMP_REFUSALS) if code else None


# --- PCP --------------------------------------------------------------------------------------------


def encode_pcp_announce(own_host: str) -> bytes:
    """Are you there, and since when? `own_host` is the IPv4 address that this goes out from."""
    return _PCP_REQUEST.pack(2, _PCP_ANNOUNCE, 0, _as_ipv6(own_host))


def encode_pcp_map(
    own_host: str, nonce: bytes, internal_port: int, external_port: int, lifetime_s: int
) -> bytes:
    """Map a TCP port, or with 0 s unmap it; external port 0: any. The same nonce renews and unmaps."""
    part = _PCP_MAP_PART.pack(nonce, _TCP, internal_port, external_port, _as_ipv6("0.0.0.0"))
    return _PCP_REQUEST.pack(2, _PCP_MAP, lifetime_s, _as_ipv6(own_host)) + part


def decode_pcp_announce(data: bytes) -> Announced | Refusal:
    """The answer to `encode_pcp_announce`, or an announcement. Raises RemoteProtocolError."""
    header = _pcp_header(data, _PCP_ANNOUNCE)
    return header if isinstance(header, Refusal) else Announced(header[1])


def decode_pcp_map(data: bytes, nonce: bytes, internal_port: int) -> Mapped | Refusal:
    """The answer to `encode_pcp_map`. Raises RemoteProtocolError."""
    header = _pcp_header(data, _PCP_MAP)
    if isinstance(header, Refusal) and header.is_version:
        return header
    if len(data) < _PCP_HEADER.size + _PCP_MAP_PART.size:
        raise RemoteProtocolError("PCP: an answer that is too short")
    said, protocol, internal, external, address = _PCP_MAP_PART.unpack_from(data, _PCP_HEADER.size)
    if said != nonce or protocol != _TCP:
        raise RemoteProtocolError("PCP: an answer to somebody else")
    if isinstance(header, Refusal):
        return header
    host = ipaddress.IPv6Address(address).ipv4_mapped
    if host is None:
        raise RemoteProtocolError("PCP: an external address that is not IPv4")
    lifetime_s, epoch_s = header
    return _mapped(internal, internal_port, external, lifetime_s, epoch_s, str(host))


def _pcp_header(data: bytes, opcode: int) -> tuple[int, int] | Refusal:
    """Lifetime and epoch."""
    if len(data) == _PMP_HEADER.size and data[0] == 0:  # RFC 6887 9: what a NAT-PMP router answers
        _, refusal = _pmp_header(data, opcode)
        if refusal is not None and refusal.is_version:
            return refusal
    if not _PCP_HEADER.size <= len(data) <= MAX_PCP_BYTES or len(data) % 4:
        raise RemoteProtocolError("PCP: an answer of an impossible length")
    version, answered, code, lifetime_s, epoch_s = _PCP_HEADER.unpack_from(data)
    if code == _WRONG_VERSION and answered & _ANSWER and version != 2:
        return _refusal(code, PCP_REFUSALS)
    if version != 2:
        raise RemoteProtocolError("PCP: an answer of another version")
    if answered != _ANSWER | opcode:
        raise RemoteProtocolError("PCP: an answer to another question")
    return _refusal(code, PCP_REFUSALS) if code else (lifetime_s, epoch_s)


# --- both -------------------------------------------------------------------------------------------


def heard_epoch(data: bytes) -> int | None:
    """How long a router that announces itself has been there; None: that is no announcement."""
    try:
        said = decode_pmp_address(data) if data[:1] == b"\0" else decode_pcp_announce(data)
    except RemoteProtocolError:
        return None
    return None if isinstance(said, Refusal) else said.epoch_s


def _mapped(
    internal: int, wanted: int, external: int, lifetime_s: int, epoch_s: int, host: str | None
) -> Mapped:
    if internal != wanted:
        raise RemoteProtocolError("port mapping: an answer for another port")
    if lifetime_s and not external:
        raise RemoteProtocolError("port mapping: a mapping without a port")
    return Mapped(internal, external, lifetime_s, epoch_s, host)


def _length(data: bytes, wanted: int) -> None:
    if len(data) != wanted:
        raise RemoteProtocolError("NAT-PMP: an answer of an impossible length")


def _refusal(code: int, words: dict[int, str]) -> Refusal:
    return Refusal(code, words.get(code, f"its error is {code}"))


def _as_ipv6(host: str) -> bytes:
    return bytes(10) + b"\xff\xff" + ipaddress.IPv4Address(host).packed
