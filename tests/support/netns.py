"""Run a command where nothing but loopback exists: `python -m tests.support.netns [--require] -- COMMAND...`.

A new network namespace, its `lo` brought up, then exec: no helper program is needed. Root gets the
namespace directly; anybody else through a user namespace, where the system permits one. Where neither
works the command runs as it is (a line on stderr says so), or not at all with `--require`.
Interop tests run only inside such a namespace (`is_loopback_only`): a real libp2p node cannot reach the
network from there, whatever it tries.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000
SIOCGIFFLAGS = 0x8913
SIOCSIFFLAGS = 0x8914
IFF_UP = 0x1


def is_loopback_only() -> bool:
    """Whether no interface but `lo` is up here (some kernels give every namespace idle tunnels)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for _, name in socket.if_nameindex():
            reply = fcntl.ioctl(sock, SIOCGIFFLAGS, struct.pack("16sh14x", name.encode(), 0))
            if name != "lo" and struct.unpack("16sh14x", reply)[1] & IFF_UP:
                return False
    return True


def has_default_route() -> bool:
    """Whether packets to anywhere else would find a way here."""
    routes = Path("/proc/self/net/route").read_text(encoding="ascii").splitlines()[1:]
    routes6 = Path("/proc/self/net/ipv6_route").read_text(encoding="ascii").splitlines()
    return any(route.split()[1] == "00000000" for route in routes) or any(
        route.split()[1] == "00" and route.split()[9] != "lo" for route in routes6
    )


def enter() -> None:
    """Move this single-threaded process into a new network namespace with `lo` up.

    OSError where the system does not permit it; the process is then where it was.
    """
    if os.geteuid() == 0:
        _unshare(CLONE_NEWNET)
    else:
        uid, gid = os.geteuid(), os.getegid()
        _unshare(CLONE_NEWUSER | CLONE_NEWNET)
        Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1", encoding="ascii")
        Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1", encoding="ascii")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))


def _unshare(flags: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(flags) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def run(command: Sequence[str], *, required: bool) -> NoReturn:
    """Replace this process by `command`, inside a loopback-only namespace where one can be had."""
    if not is_loopback_only():
        try:
            enter()
        except (OSError, AttributeError) as exc:  # AttributeError: a libc without unshare
            print(f"netns: no loopback-only network namespace here: {exc}", file=sys.stderr)
            if required:
                sys.exit(1)
    os.execvp(command[0], list(command))


def main(argv: Sequence[str]) -> NoReturn:
    """Entry point; exit status 2 on wrong usage, else the command's own."""
    options, separator, command = list(argv), "--", []
    if separator in options:
        at = options.index(separator)
        options, command = options[:at], options[at + 1 :]
    if not command or any(option != "--require" for option in options):
        print("usage: python -m tests.support.netns [--require] -- COMMAND...", file=sys.stderr)
        sys.exit(2)
    run(command, required="--require" in options)


if __name__ == "__main__":
    main(sys.argv[1:])
