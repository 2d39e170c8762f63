"""Pins the twelve bytes of a yamux header: layout, limits, and what no header may be."""

from __future__ import annotations

import pytest

from p2pfwd.errors import RemoteProtocolError
from p2pfwd.wire.yamux import frame as f


@pytest.mark.parametrize(
    ("fields", "wire"),
    [
        # As a real Kubo 0.22 sends them : stream opened, ping, half-close, reset.
        ((f.WINDOW_UPDATE, f.SYN, 2, 0), "000100010000000200000000"),
        ((f.PING, f.SYN, 0, 7), "000200010000000000000007"),
        ((f.WINDOW_UPDATE, f.FIN, 2, 0), "000100040000000200000000"),
        ((f.WINDOW_UPDATE, f.RST, 9, 0x1002), "000100080000000900001002"),
        ((f.DATA, 0, 0xFFFFFFFF, 65524), "00000000ffffffff0000fff4"),
        ((f.GO_AWAY, 0, 0, 1), "000300000000000000000001"),
    ],
)
def test_headers_are_big_endian_and_read_back(fields: tuple[int, int, int, int], wire: str) -> None:
    assert f.encode_header(*fields).hex() == wire
    assert f.decode_header(bytes.fromhex(wire)) == fields
    assert f.decode_header(memoryview(b"xyz" + bytes.fromhex(wire)), 3) == fields


@pytest.mark.parametrize("version", [1, 2, 255])
def test_another_version_is_the_peers_fault(version: int) -> None:
    with pytest.raises(RemoteProtocolError, match=f"version {version}"):
        f.decode_header(bytes([version]) + bytes(11))


@pytest.mark.parametrize("frame_type", [4, 5, 255])
def test_an_unknown_type_is_the_peers_fault(frame_type: int) -> None:
    with pytest.raises(RemoteProtocolError, match=f"type {frame_type}"):
        f.decode_header(bytes([0, frame_type]) + bytes(10))


def test_unknown_flags_are_tolerated() -> None:
    assert f.decode_header(bytes.fromhex("0001fff00000000100000000")) == (f.WINDOW_UPDATE, 0xFFF0, 1, 0)
