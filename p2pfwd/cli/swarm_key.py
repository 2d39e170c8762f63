"""`swarm key new` and `swarm key show`: the key of a private network. They need no daemon."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from p2pfwd.cli.options import AsJson, new_group
from p2pfwd.cli.render import talk, write_json, write_pairs
from p2pfwd.cli.text import printable

if TYPE_CHECKING:
    from p2pfwd.cli.env import Env
    from p2pfwd.core.swarm_key import SwarmKey

key = new_group("The key of a private network.")


@key.command("new", help="Make the key of a new private network.")
def new(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Kubo's swarm.key, readable by you alone; one that is there is not touched."""
    from p2pfwd.state.swarm_key_file import create

    path = _path(ctx.obj)
    _show(path, create(path), as_json=as_json)
    if not as_json:
        talk("Copy the file to every machine of the network, by a safe way: whoever has it is in.")
        talk("Then, on each: p2pfwd daemon --network private")


@key.command("show", help="Show where the key is, and its fingerprint.")
def show(ctx: typer.Context, as_json: AsJson = False) -> None:
    """The fingerprint is the one Kubo shows, and gives nothing away."""
    from p2pfwd.state.swarm_key_file import load

    path = _path(ctx.obj)
    _show(path, load(path), as_json=as_json)


def _path(env: Env) -> Path:
    from p2pfwd.daemon.config import load
    from p2pfwd.state.swarm_key_file import location

    paths = env.paths()
    return location(paths.home, load(paths.config_file, env.environ).settings.swarm_key)


def _show(path: Path, found: SwarmKey, *, as_json: bool) -> None:
    if as_json:
        write_json({"File": str(path), "Fingerprint": found.fingerprint()})
    else:
        write_pairs([("swarm key", printable(str(path))), ("fingerprint", found.fingerprint())])
