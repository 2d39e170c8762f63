"""Protocol names: which ones a person may listen on or forward to.

Kubo's rule (`/x/` and its exact message), mended: a name is data that ends up in a multistream token,
in tables and in logs, so it is short, printable and without line breaks. Pure functions.
"""

from __future__ import annotations

from p2pfwd.errors import InvalidProtocol

PREFIX = "/x/"
"""Kubo's namespace for tunnels; identify advertises it bare, never the single names."""

MAX_PROTOCOL_BYTES = 1000
"""A multistream token is at most 1024 bytes with its newline; this leaves room for the probe's prefix."""

RESERVED = ("/ipfs", "/libp2p", "/p2pfwd", "/multistream", "/noise", "/tls", "/plaintext", "/yamux", "/mplex")
"""Roots of names that the node itself answers, now or when it becomes a server of something: a listener
there would be shadowed, or would shadow the node."""


def belongs_to_the_node(name: str) -> InvalidProtocol:
    """A listen may not have this name."""
    return InvalidProtocol(
        f"protocol name '{name}' belongs to the node itself",
        hint=f"choose another, such as /x{name}",
        protocol=name,
    )


def check_protocol(name: str, *, allow_custom: bool, serving: bool) -> str:
    """Return `name` if it may be used, else raise InvalidProtocol.

    `serving` is True for listen; forwarding to a reserved protocol of the peer is allowed.
    """
    if not allow_custom and not name.startswith(PREFIX):
        raise InvalidProtocol(
            "protocol name must be within '/x/' namespace",
            hint="use a name like /x/ssh, or --allow-custom-protocol for another namespace",
            protocol=name,
        )
    if not name.startswith("/"):
        hint = "use a name like /x/ssh"
        raise InvalidProtocol("protocol name must begin with '/'", hint=hint, protocol=name)
    if name in ("/", PREFIX):
        hint = "use a name like /x/ssh"
        raise InvalidProtocol(f"protocol name has nothing after '{name}'", hint=hint, protocol=name)
    if not (name.isascii() and name.isprintable()):
        _check_characters(name)
    size = len(name.encode())
    if size > MAX_PROTOCOL_BYTES:
        raise InvalidProtocol(
            f"protocol name is {size} bytes long, the limit is {MAX_PROTOCOL_BYTES}",
            hint="choose a shorter one",
        )
    if serving and f"{name}/".startswith(_RESERVED):
        raise belongs_to_the_node(name)
    return name


def _check_characters(name: str) -> None:
    import unicodedata  # a quarter of a megabyte, and most names are ASCII

    for position, char in enumerate(name):
        if unicodedata.category(char) in _UNPRINTABLE:
            raise InvalidProtocol(
                f"protocol name contains the control character U+{ord(char):04X} at position {position}",
                protocol=ascii(name),
            )


_RESERVED = tuple(f"{root}/" for root in RESERVED)

_UNPRINTABLE = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))
"""Controls, direction overrides, lone surrogates (bytes that were no UTF-8), line separators."""
