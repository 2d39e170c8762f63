"""Pins how the kernel's lists of sockets are read: who listens, without connecting."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.system.proc_net import somebody_listens

HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
REST = "00000000:00000000 00:00000000 00000000     0        0 1583 1 0000 100 0 0 10 0\n"
UNIX = "Num       RefCount Protocol Flags    Type St Inode Path\n"

pytestmark = pytest.mark.skipif(sys.byteorder != "little", reason="the samples are a little-endian machine's")


def proc(directory: Path, tcp: str = "", tcp6: str = "", unix: str = "") -> Path:
    (directory / "tcp").write_text(HEAD + tcp)
    (directory / "tcp6").write_text(HEAD + tcp6)
    (directory / "unix").write_text(UNIX + unix)
    return directory


def tcp_line(local: str, state: str = "0A") -> str:
    return f"   0: {local} 00000000:0000 {state} {REST}"


ANY6 = "0" * 32
ONE6 = "0" * 24 + "01000000"
MAPPED = "0000000000000000FFFF00000100007F"


@pytest.mark.parametrize(
    ("target", "tcp", "tcp6", "seen"),
    [
        ("/ip4/127.0.0.1/tcp/2016", tcp_line("0100007F:07E0"), "", True),
        ("/ip4/127.0.0.1/tcp/2016", tcp_line("00000000:07E0"), "", True),
        ("/ip4/127.0.0.1/tcp/2016", "", tcp_line(f"{ANY6}:07E0"), True),
        ("/ip4/127.0.0.1/tcp/2016", "", tcp_line(f"{MAPPED}:07E0"), True),
        ("/ip4/127.0.0.1/tcp/2016", tcp_line("0100007F:07E1"), "", False),  # another port
        ("/ip4/127.0.0.1/tcp/2016", tcp_line("0200007F:07E0"), "", False),  # another address
        ("/ip4/127.0.0.1/tcp/2016", tcp_line("0100007F:07E0", "01"), "", False),  # a connection
        ("/ip6/::1/tcp/2016", "", tcp_line(f"{ONE6}:07E0"), True),
        ("/ip6/::1/tcp/2016", "", tcp_line(f"{ANY6}:07E0"), True),
        ("/ip6/::1/tcp/2016", tcp_line("00000000:07E0"), "", False),
        ("/ip4/192.0.2.1/tcp/2016", tcp_line("00000000:07E0"), "", False),  # another machine
        ("/dns/localhost/tcp/2016", tcp_line("00000000:07E0"), "", False),  # not known without asking
    ],
)
def test_tcp(tmp_path: Path, target: str, tcp: str, tcp6: str, seen: bool) -> None:
    assert somebody_listens(Multiaddr.parse(target), proc(tmp_path, tcp, tcp6)) is seen


@pytest.mark.parametrize(
    ("line", "seen"),
    [
        ("0000: 00000002 00000000 00010000 0001 01 1501 /run/a b.sock\n", True),
        ("0000: 00000003 00000000 00000000 0001 03 1501 /run/a b.sock\n", False),  # a connection
        ("0000: 00000002 00000000 00010000 0001 01 1501 /run/a\n", False),
        ("0000: 00000002 00000000 00010000 0001 01 1501\n", False),  # no name
    ],
)
def test_unix(tmp_path: Path, line: str, seen: bool) -> None:
    assert somebody_listens(Multiaddr.parse("/unix/run/a b.sock"), proc(tmp_path, unix=line)) is seen


def test_without_a_list_nothing_is_known(tmp_path: Path) -> None:
    assert not somebody_listens(Multiaddr.parse("/ip4/127.0.0.1/tcp/1"), tmp_path)
    assert not somebody_listens(Multiaddr.parse("/unix/run/a"), tmp_path)
