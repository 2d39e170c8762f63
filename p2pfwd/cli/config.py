"""`config show`: the settings a daemon would run with now, and where each comes from. Needs no daemon."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import typer

from p2pfwd.cli.options import AsJson, new_group
from p2pfwd.cli.render import write, write_json
from p2pfwd.cli.text import printable

if TYPE_CHECKING:
    from p2pfwd.cli.env import Env

config = new_group("Settings of the daemon.")


@config.command("show", help="Show every setting with its value and origin, and the file that sets them.")
def show(ctx: typer.Context, as_json: AsJson = False) -> None:
    """As TOML that config.toml could hold; the origin of each value is its comment."""
    from p2pfwd.daemon.config import load

    env: Env = ctx.obj
    path = env.paths().config_file
    entries = list(load(path, env.environ).entries())
    if as_json:
        settings = [
            {
                "Key": entry.key,
                "Value": entry.value,
                "Default": entry.default,
                "Origin": entry.origin,
                "Doc": entry.doc,
            }
            for entry in entries
        ]
        write_json({"File": str(path), "Exists": path.exists(), "Settings": settings})
        return
    write(f"# {printable(str(path))}{'' if path.exists() else ' (absent)'}")
    for entry in entries:
        write(f"{entry.key} = {_toml(entry.value)}  # {entry.origin}")


def _toml(value: Any) -> str:
    # JSON's forms of strings, numbers, booleans and flat lists are TOML's too.
    return json.dumps(list(value) if isinstance(value, tuple) else value)
