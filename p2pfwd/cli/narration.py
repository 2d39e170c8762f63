"""What the daemon does while a command waits for it: looking up a peer, in words on stderr."""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2pfwd.cli.render import talk
from p2pfwd.cli.text import printable, short_peer, shorten_peers

if TYPE_CHECKING:
    from p2pfwd.rpc.client import Client
    from p2pfwd.rpc.schema import Event


def narrate_lookups(client: Client) -> None:
    """Tell of every look-up while calls on this connection wait."""
    client.narrate(("lookups",), _tell)


def _tell(event: Event) -> None:
    step = event.data
    text = printable(shorten_peers(str(step.get("text", ""))))
    if step.get("action") == "searching":
        talk(f"Looking up {short_peer(str(step.get('peer', '')))}: {text} ...")
    elif step.get("action") == "found":
        talk(f"{text[:1].upper()}{text[1:]}, {float(step.get('elapsed_s', 0)):.1f} s.")
