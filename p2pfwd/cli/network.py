"""`network join`: into somebody's network, by the one line that his hub printed."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from p2pfwd.cli.options import AsJson, new_group
from p2pfwd.cli.render import talk, write, write_json
from p2pfwd.cli.text import printable
from p2pfwd.errors import DaemonNotRunning, InvalidConfig, NotFound, P2PForwardError, UsageError
from p2pfwd.state import config_file, swarm_key_file

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from p2pfwd.cli.env import Env
    from p2pfwd.core.join_line import JoinLine
    from p2pfwd.core.multiaddrs import Multiaddr
    from p2pfwd.daemon.config import Config

AUTO = "auto"
"""As `daemon.settings`."""

_LIVE = {"reach.relays", "bootstrap.peers"}
"""What a running daemon takes from config.toml by `reload`; the network and its key it does not."""

_OTHER_LINE = "p2pfwd hub --address /ip4/<its public address>/tcp/4011 there prints one that can be dialed"

OTHER_HOME = "p2pfwd --home DIR has room for a node in each network"

network = new_group("Networks with a hub.")


@network.command("join", help="Join the network of a hub.")
def join(
    ctx: typer.Context,
    line: Annotated[
        str,
        typer.Argument(metavar="LINE", help="What `p2pfwd hub` printed there, in quotes; - reads it."),
    ],
    as_json: AsJson = False,
) -> None:
    """Writes the hub into config.toml, as relay and as bootstrap peer, and says what it wrote.

    A second hub is added beside the first. Other lines of config.toml stay as they are.
    """
    from p2pfwd.core.join_line import JoinLine
    from p2pfwd.daemon.config import load

    env: Env = ctx.obj
    found = JoinLine.parse(sys.stdin.readline() if line == "-" else line)
    paths = env.paths()
    refuse_undialable(found.hub, _OTHER_LINE)
    _refuse_oneself(found, paths.key_file)
    config = load(paths.config_file, env.environ)
    key_file = swarm_key_file.location(paths.home, config.settings.swarm_key)
    changes = changes_for(found, config, key_file)
    running = is_running(env)  # what fails here has changed nothing
    if found.key is not None:
        swarm_key_file.keep(key_file, found.key)
    if changes:
        config_file.change(paths.config_file, changes)
    needs_restart = not set(changes) <= _LIVE
    told = {key: _without_secrets(value) for key, value in changes.items()}
    if as_json:
        write_json(
            {
                "Hub": str(found.hub),
                "Private": found.key is not None,
                "File": str(paths.config_file),
                "Wrote": told,
                "Restart": running and needs_restart,
                "Reload": running and bool(changes) and not needs_restart,
            }
        )
        return
    say_what_was_written(paths.config_file, told)
    if found.key is not None:
        write(f"The key of the network is in {printable(str(key_file))}: {found.key.fingerprint()}.")
    if running and changes:
        cure = "p2pfwd shutdown, then start it again" if needs_restart else "p2pfwd reload"
        talk(f"The daemon still runs with the settings from before: {cure}.")


def refuse_undialable(hub: Multiaddr, hint: str) -> None:
    """Raise UsageError where nobody could dial a hub at this address; it may end in a peer ID."""
    from p2pfwd.policy.undialable import why_no_relay

    why = why_no_relay(hub.without_peer_id())
    if why is not None:
        raise UsageError(f"nobody can dial a hub at {hub}: {why}", hint=hint)


def _refuse_oneself(line: JoinLine, key_file: Path) -> None:
    from p2pfwd.core.peer_id import PeerId
    from p2pfwd.state import identity_file

    try:
        key = identity_file.load(key_file)
    except NotFound:  # the daemon makes one when it first starts: nobody's line has its ID yet
        return
    if line.hub.peer_id() == PeerId.from_public_key(key.public_key):
        raise UsageError(
            "that is the line of this node itself", hint="run p2pfwd network join on the other machines"
        )


def changes_for(line: JoinLine, config: Config, key_file: Path) -> dict[str, config_file.Value]:
    """What to write. Raises InvalidConfig where the settings name another network."""
    settings, origins = config.settings, config.origins
    changes: dict[str, config_file.Value] = {}
    if line.key is None and settings.network != "public":
        raise _elsewhere(config, "and that hub's is the public one")
    if line.key is not None and settings.network != "private":
        if "network" in origins:
            raise _elsewhere(config, "and that hub's is a private one")
        changes["network"] = "private"
    peer_id = line.hub.peer_id()
    relays = [text for text in settings.relays if _peer(text) != peer_id]
    changes["reach.relays"] = [*relays, line.relay]
    own = [text for text in settings.bootstrap if not (text == AUTO and line.key is not None)]
    changes["bootstrap.peers"] = list(dict.fromkeys((*own, str(line.hub))))
    for key in changes:
        refuse_if_overruled(config, key)
    current = {"reach.relays": list(settings.relays), "bootstrap.peers": list(settings.bootstrap)}
    return {key: value for key, value in changes.items() if current.get(key) != value}


def _peer(text: str) -> Any:
    from p2pfwd.core.typed import parse_peer

    try:
        return parse_peer(text.partition("#")[0])[0]
    except P2PForwardError:  # a name
        return None


def _elsewhere(config: Config, why: str) -> InvalidConfig:
    origin = config.origins.get("network", "config.toml")
    return InvalidConfig(
        f"{origin}: this node's network is {config.settings.network}, {why}", hint=OTHER_HOME, key="network"
    )


def refuse_if_overruled(config: Config, key: str) -> None:
    """Raise InvalidConfig where the environment sets the key: what the file says would not count."""
    if config.origins.get(key) == "environment":
        from p2pfwd.daemon.config import variable_of

        raise InvalidConfig(
            f"environment: {variable_of(key)} goes before config.toml, where this would be written",
            hint=f"unset {variable_of(key)}, or set {key} there by hand",
            key=key,
        )


def is_running(env: Env) -> bool:
    """Whether the daemon of this home runs. Raises as `Env.connect` where it does and does not answer."""
    try:
        env.connect().close()
    except DaemonNotRunning:
        return False
    return True


def say_what_was_written(path: Path, changes: dict[str, Any]) -> None:
    """On stdout."""
    if not changes:
        write(f"{printable(str(path))} has all of it already.")
        return
    write(f"Wrote to {printable(str(path))}:")
    for text in config_file.shown(changes):
        write(f"  {printable(text)}")


def _without_secrets(value: config_file.Value) -> config_file.Value:
    if isinstance(value, str):
        return value
    return [f"{address}#…" if mark else address for address, mark, _ in _split(value)]


def _split(texts: Sequence[str]) -> list[tuple[str, str, str]]:
    return [text.partition("#") for text in texts]
