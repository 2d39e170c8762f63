"""The ground everything happens on: a network namespace with nothing but loopback, and many addresses there.

The victim has one address of each family, strangers come from a /24 and a /48 of their own, newcomers from
elsewhere. All of them are local routes on `lo`: not a packet can leave. p2pfwd counts no limit for
127.0.0.0/8, which is why nobody but the honest programs uses it.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
from typing import Final

from tests.support.netns import enter, has_default_route, is_loopback_only

VICTIM: Final = "10.66.0.1"
VICTIM6: Final = "fd66::1"
PUBLIC_VICTIM: Final = "66.66.0.1"
"""Where the victim listens when it plays a node of the public network; as local as the rest."""

NEWCOMERS: Final = "10.80.0.0/16"
STRANGERS: Final = "10.99.7.0/24"
STRANGERS6: Final = "fd99:7::/48"
PUBLIC_STRANGERS: Final = "99.7.0.0/24"

SEGMENT: Final = "10.55.0.1"
"""Address of a wire with both ends here, for what needs multicast."""


class Unavailable(Exception):
    """The ground cannot be made here; the message is one sentence with the reason."""


def prepare() -> None:
    """Move this process to a namespace of its own and give it the addresses. Raises Unavailable."""
    if shutil.which("ip") is None:
        raise Unavailable("addresses need the tool ip (package iproute2)")
    try:
        enter()
    except (OSError, AttributeError) as exc:  # AttributeError: a libc without unshare
        raise Unavailable(f"no network namespace of its own can be had here: {exc}") from None
    if not is_loopback_only() or has_default_route():
        raise Unavailable("the new network namespace has more than loopback")
    for network in (f"{VICTIM}/32", f"{PUBLIC_VICTIM}/32"):
        _ip("addr", "add", network, "dev", "lo")
    for network in (NEWCOMERS, STRANGERS, PUBLIC_STRANGERS):
        _ip("route", "add", "local", network, "dev", "lo")
    try:
        _ip("-6", "addr", "add", f"{VICTIM6}/128", "dev", "lo")
        _ip("-6", "route", "add", "local", STRANGERS6, "dev", "lo")
    except Unavailable:
        return  # a kernel without IPv6: kinds that need it are skipped


def is_here() -> bool:
    """Whether this process is on such a ground: the victim's address is here, and no way out."""
    with socket.socket() as sock:
        try:
            sock.bind((VICTIM, 0))
        except OSError:
            return False
    return not has_default_route()


def has_ipv6() -> bool:
    """Whether the /48 is there."""
    done = subprocess.run(["ip", "-6", "route", "show", "table", "local"], capture_output=True, check=False)
    return STRANGERS6.encode() in done.stdout


def add_segment() -> None:
    """A wire with both ends here, which takes multicast as loopback does not. Raises Unavailable."""
    _ip("link", "add", "wire0", "type", "veth", "peer", "name", "wire1")
    _ip("addr", "add", f"{SEGMENT}/24", "dev", "wire0")
    for end in ("wire0", "wire1"):
        _ip("link", "set", end, "up")


def remove_segment() -> None:
    """Take the wire away."""
    _ip("link", "del", "wire0")


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Unavailable(f"ip {' '.join(words)}: {done.stderr.strip()}")
