"""`hub`: this machine makes a network, as relay, bootstrap peer and DHT server; `hub ls`: who is here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from p2pfwd.cli.advice import passing_addresses
from p2pfwd.cli.env import answer
from p2pfwd.cli.exits import warn
from p2pfwd.cli.network import (
    OTHER_HOME,
    is_running,
    refuse_if_overruled,
    refuse_undialable,
    say_what_was_written,
)
from p2pfwd.cli.options import AsJson, Headers, new_acting_group
from p2pfwd.cli.render import Column, talk, write, write_json, write_lines, write_table
from p2pfwd.cli.text import age, counted, short_address, short_peer, size
from p2pfwd.errors import DaemonRunning, InvalidConfig, UsageError
from p2pfwd.rpc.schema import (
    AddrsResult,
    Empty,
    RelayCircuit,
    RelayLsResult,
    RelayPeer,
    RelayPlace,
    RelayTokenNewParams,
    RelayTokenNewResult,
)
from p2pfwd.state import config_file, swarm_key_file

if TYPE_CHECKING:
    from p2pfwd.cli.env import Env
    from p2pfwd.core.multiaddrs import Multiaddr
    from p2pfwd.core.swarm_key import SwarmKey
    from p2pfwd.daemon.config import Config

AUTO = "auto"
"""As `daemon.settings`."""

_PLACES = (
    Column("PEER", keep=11),
    Column("NAME", keep=12),
    Column("LIMITS"),
    Column("ADDRESS", keep=21),
    Column("AGE", right=True),
    Column("LEFT", right=True),
)
_OTHERS = (
    Column("PEER", keep=11),
    Column("NAME", keep=12),
    Column("PLACE"),
    Column("ADDRESS", keep=21),
    Column("AGE", right=True),
)
_CIRCUITS = (
    Column("FROM", keep=11),
    Column("TO", keep=11),
    Column("LIMITS"),
    Column("IN", right=True),
    Column("OUT", right=True),
    Column("AGE", right=True),
)

_REFUSED = {
    "off": "This node relays no more.",
    "peers": "p2pfwd peer add lets one in, as a token does.",
    "anyone": "There is no room for more strangers; p2pfwd peer add lets one in.",
}

hub = new_acting_group()


@hub.callback()
def start(
    ctx: typer.Context,
    private: Annotated[
        bool, typer.Option("--private", help="With a swarm key: nobody else can speak to this network.")
    ] = False,
    at: Annotated[
        str | None,
        typer.Option(
            "--address",
            metavar="MULTIADDR",
            help="Where others reach this machine, where it does not know that itself.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make this machine the hub of a network: relay, bootstrap peer and DHT server together.

    Sets config.toml for it, starts the daemon, and prints the line that other machines paste.
    """
    if ctx.invoked_subcommand is not None:
        return
    from p2pfwd.core.join_line import JoinLine
    from p2pfwd.core.peer_id import PeerId

    env: Env = ctx.obj
    where = None if at is None else _given(at)
    private, key, changes, others = _prepare(env, private=private, quiet=as_json)
    with env.connect_or_start(start=True) as client:
        addrs = answer(client, "swarm.addrs", Empty(), AddrsResult)
        if where is not None:
            _refuse_of_another(where, addrs.id)  # before an invitation is made for nothing
        state = answer(client, "relay.ls", Empty(), RelayLsResult)
        params = RelayTokenNewParams(many=True)
        made = None if private else answer(client, "relay.token.new", params, RelayTokenNewResult)
    best = where or _best(addrs)
    line = JoinLine(best.with_peer_id(PeerId.parse(addrs.id)), None if made is None else made.token, key)
    if as_json:
        write_json(
            {
                "Line": str(line),
                "Address": str(line.hub),
                "Token": None if made is None else made.name,
                "Private": private,
                "Serves": state.serves,
                "Wrote": changes,
                "OtherHubs": others,
                "TakenPorts": addrs.taken_ports,
            }
        )
    else:
        write("This machine is a hub: relay, bootstrap peer and DHT server for whoever joins.")
        write("On each other machine, run:")
        write(f"  p2pfwd network join '{line}'")
        if others:
            write("The other hub, too: run it there, then p2pfwd reload, and either finds the other.")
        talk(_secret(None if made is None else made.name))
    if state.reason is not None:
        warn(f"it is no relay yet: {state.reason}", "p2pfwd shutdown, then p2pfwd hub again")
    _warn_of_the_address(best, addrs, is_given=where is not None)


def _prepare(
    env: Env, *, private: bool, quiet: bool
) -> tuple[bool, SwarmKey | None, dict[str, config_file.Value], list[str]]:
    """Have the settings say that this is a hub: whether its network is private, its key, what was written.

    And the hubs that it has joined itself.
    """
    from p2pfwd.daemon.config import load

    path = env.paths().config_file
    config = load(path, env.environ)
    private = private or config.settings.network == "private"
    changes = changes_for(config, private=private)
    running = bool(changes) and is_running(env)  # what fails here has changed nothing
    key = _key(env, config) if private else None
    if changes:
        config_file.change(path, changes)
        if not quiet:
            say_what_was_written(path, changes)
        if running:
            raise DaemonRunning(
                "the daemon runs with the settings from before", hint="p2pfwd shutdown, then p2pfwd hub again"
            )
    return private, key, changes, other_hubs(config)


def other_hubs(config: Config) -> list[str]:
    """Addresses of those that `network join` has made both relay and bootstrap peer of this node."""
    relays = {text.partition("#")[0] for text in config.settings.relays}
    return [text for text in config.settings.bootstrap if text in relays]


def changes_for(config: Config, *, private: bool) -> dict[str, config_file.Value]:
    """What to write so that this node is a hub. Raises InvalidConfig where the settings forbid it."""
    settings = config.settings
    changes: dict[str, config_file.Value] = {}
    if private and settings.network != "private":
        if "network" in config.origins:
            raise InvalidConfig(
                f"{config.origins['network']}: this node's network is {settings.network}, not a private one",
                hint=OTHER_HOME,
                key="network",
            )
        changes["network"] = "private"
    elif settings.network == "lan":
        raise InvalidConfig(
            "the network is lan, which nothing leaves: it needs no hub", hint=OTHER_HOME, key="network"
        )
    if settings.relay_serve == "off":
        changes["relay.serve"] = "peers"
    if settings.dht_mode != "server":
        changes["dht.mode"] = "server"
    if AUTO in settings.bootstrap and not private:
        changes["bootstrap.peers"] = [text for text in settings.bootstrap if text != AUTO]
    for key in changes:
        refuse_if_overruled(config, key)
    return changes


def _key(env: Env, config: Config) -> SwarmKey:
    path = swarm_key_file.location(env.paths().home, config.settings.swarm_key)
    return swarm_key_file.load(path) if path.exists() else swarm_key_file.create(path)


def _is_public(addr: Multiaddr) -> bool:
    from p2pfwd.core.multiaddrs import AddressClass, address_class

    return address_class(addr) is AddressClass.PUBLIC


def _given(address: str) -> Multiaddr:
    from p2pfwd.core.multiaddrs import Multiaddr

    found = Multiaddr.parse(address)
    refuse_undialable(found, "as /ip4/203.0.113.5/tcp/4011, with that port open or forwarded to this machine")
    return found


def _refuse_of_another(where: Multiaddr, own_id: str) -> None:
    peer_id = where.peer_id()
    if peer_id is not None and str(peer_id) != own_id:
        raise UsageError(
            f"{where} is the address of another peer: this node is {own_id}",
            hint="leave out /p2p/ and what follows it, or run p2pfwd hub there",
        )


def _best(addrs: AddrsResult) -> Multiaddr:
    """The daemon tells its best first."""
    from p2pfwd.core.multiaddrs import Multiaddr, is_relayed

    for text in addrs.listen:
        found = Multiaddr.parse(text)
        if not is_relayed(found):
            return found
    raise InvalidConfig("this node has no address at which others could reach it", hint="see swarm.listen")


def _warn_of_the_address(best: Multiaddr, addrs: AddrsResult, *, is_given: bool) -> None:
    from p2pfwd.core.multiaddrs import Multiaddr

    if addrs.taken_ports:
        until = f"{best} has to lead to that one" if is_given else "the line above holds as long"
        warn(*passing_addresses(addrs.taken_ports, until, "hub"))
    if is_given or _is_public(best):
        return
    hint = "p2pfwd hub --address /ip4/<public address>/tcp/<port>, with that port forwarded to this machine"
    for text in addrs.observed:
        seen = Multiaddr.parse(text)
        if _is_public(seen):
            hint += f"; peers see this machine at {seen}"
    warn(f"{best} is no public address: only machines of the same network reach it", hint)


def _secret(name: str | None) -> str:
    if name is None:
        return "Whoever has that line is in: it has the key of the network. Hand it on by a safe way."
    return (
        f"Whoever has that line may use this relay: it is the invitation {name}. "
        f"p2pfwd relay token revoke {name} ends it; p2pfwd hub makes another."
    )


@hub.command("ls", help="List who is at this hub, and what flows through it.")
def ls(ctx: typer.Context, headers: Headers = False, as_json: AsJson = False) -> None:
    """On a terminal tables; elsewhere plain lines, those of places first."""
    env: Env = ctx.obj
    result = env.ask("relay.ls", Empty(), RelayLsResult)
    if as_json:
        write_json(result)
        return
    if not env.terminal:
        rows = [
            ("place", it.peer, it.name or "-", _limits(not it.own), it.remote_address) for it in result.places
        ]
        rows += [
            ("peer", it.peer, it.name or "-", "refused" if it.refused else "-", it.remote_address)
            for it in result.others
        ]
        rows += [
            ("circuit", it.dialer, it.target, _limits(it.limited), f"{it.bytes_in}/{it.bytes_out}")
            for it in result.circuits
        ]
        write_lines(rows, ("Kind", "Peer", "NameOrTarget", "Limits", "AddressOrBytes") if headers else None)
        return
    tables = (
        (_PLACES, list(map(_place, result.places))),
        (_OTHERS, list(map(_other, result.others))),
        (_CIRCUITS, list(map(_circuit, result.circuits))),
    )
    for index, (columns, lines) in enumerate((columns, lines) for columns, lines in tables if lines):
        if index:
            write("")
        write_table(columns, lines, limit=env.columns, colour=env.colour)
    ever = f"{counted(result.circuits_ever, 'circuit')} so far, {size(result.bytes)}"
    whom = {"off": "nobody", "peers": "own peers", "anyone": "anyone"}[result.serves]
    because = f" ({result.reason})" if result.reason else ""
    write(f"Relaying for {whom}{because}: {counted(len(result.places), 'place')}, {ever}.")
    refused = sum(it.refused for it in result.others)
    if able := len(result.others) - refused:
        write(f"Connected without a place, as others can dial them: {counted(able, 'peer')}.")
    if refused:
        write(f"Asked for a place, and got none: {counted(refused, 'peer')}. {_REFUSED[result.serves]}")


def _limits(limited: bool) -> str:
    return "limited" if limited else "none"


def _place(it: RelayPlace) -> tuple[str, ...]:
    address = short_address(it.remote_address)
    return short_peer(it.peer), it.name or "-", _limits(not it.own), address, age(it.age_s), age(it.left_s)


def _other(it: RelayPeer) -> tuple[str, ...]:
    place = "refused" if it.refused else "none"
    return short_peer(it.peer), it.name or "-", place, short_address(it.remote_address), age(it.age_s)


def _circuit(it: RelayCircuit) -> tuple[str, ...]:
    ends = short_peer(it.dialer), short_peer(it.target)
    return *ends, _limits(it.limited), size(it.bytes_in), size(it.bytes_out), age(it.age_s)
