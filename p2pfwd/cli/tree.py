"""The table of commands, the global options, and running one command line.

A command's module is imported when it is named, or listed by --help: `ls` pays for nothing but itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer
from typer.core import TyperGroup

from p2pfwd.cli.env import Env
from p2pfwd.cli.exits import checked_arguments, report_usage, wants_json
from p2pfwd.cli.options import SETTINGS, help_without_command
from p2pfwd.cli.render import write
from p2pfwd.errors import ExitStatus

if TYPE_CHECKING:
    from collections.abc import Callable

PROGRAM = "p2pfwd"

COMPLETE = "__complete"
"""What the completion scripts call; not a command, so that it is neither listed nor parsed as one."""


class Entry(NamedTuple):
    """Where a command lives: a function, or a typer.Typer for a group."""

    module: str
    attribute: str


COMMANDS = {
    "daemon": Entry("p2pfwd.cli.daemon", "daemon"),
    "listen": Entry("p2pfwd.cli.listen", "listen"),
    "forward": Entry("p2pfwd.cli.forward", "forward"),
    "close": Entry("p2pfwd.cli.p2p", "close"),
    "limit": Entry("p2pfwd.cli.limits", "limit"),
    "ls": Entry("p2pfwd.cli.p2p", "ls"),
    "stream": Entry("p2pfwd.cli.p2p", "stream"),
    "export": Entry("p2pfwd.cli.setup", "export"),
    "apply": Entry("p2pfwd.cli.setup", "apply"),
    "id": Entry("p2pfwd.cli.daemon", "show_id"),
    "status": Entry("p2pfwd.cli.daemon", "status"),
    "events": Entry("p2pfwd.cli.events", "events"),
    "doctor": Entry("p2pfwd.cli.doctor", "doctor"),
    "ping": Entry("p2pfwd.cli.swarm", "ping"),
    "swarm": Entry("p2pfwd.cli.swarm", "swarm"),
    "allow": Entry("p2pfwd.cli.access", "allow"),
    "deny": Entry("p2pfwd.cli.access", "deny"),
    "access": Entry("p2pfwd.cli.access", "access"),
    "invite": Entry("p2pfwd.cli.invite", "invite"),
    "join": Entry("p2pfwd.cli.join", "join"),
    "block": Entry("p2pfwd.cli.block", "block"),
    "unblock": Entry("p2pfwd.cli.block", "unblock"),
    "peer": Entry("p2pfwd.cli.peer", "peer"),
    "dht": Entry("p2pfwd.cli.dht", "dht"),
    "hub": Entry("p2pfwd.cli.hub", "hub"),
    "network": Entry("p2pfwd.cli.network", "network"),
    "relay": Entry("p2pfwd.cli.relay", "relay"),
    "log": Entry("p2pfwd.cli.log", "log"),
    "key": Entry("p2pfwd.cli.key", "key"),
    "service": Entry("p2pfwd.cli.service", "service"),
    "config": Entry("p2pfwd.cli.config", "config"),
    "completion": Entry("p2pfwd.cli.completion", "completion"),
    "reload": Entry("p2pfwd.cli.setup", "reload"),
    "shutdown": Entry("p2pfwd.cli.daemon", "shutdown"),
}


class CommandTable(TyperGroup):
    """The root group: imports a command when it is asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command, or None; after None all are known, for "did you mean"."""
        if cmd_name not in COMMANDS:
            for name in COMMANDS:
                self._load(name)
            return None
        return self._load(cmd_name)

    def _load(self, name: str) -> Any:
        if name not in self.commands:
            entry = COMMANDS[name]
            found = getattr(import_module(entry.module), entry.attribute)
            self.add_command(_command(name, found), name)
        return self.commands[name]


def _command(name: str, found: Callable[..., Any] | typer.Typer) -> Any:
    if isinstance(found, typer.Typer):
        group = typer.main.get_command(found)
        group.name = name
        return group
    single = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    single.command(name, context_settings=SETTINGS)(found)
    return typer.main.get_command(single)


def _version(value: bool) -> None:
    if value:
        from p2pfwd import __version__

        write(f"{PROGRAM} {__version__}")
        raise typer.Exit


def _root(
    ctx: typer.Context,
    home: Annotated[
        str | None,
        typer.Option(
            "--home", metavar="DIR", help="Before the command: keep everything under DIR; as P2PFWD_HOME."
        ),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Port forwarding over libp2p: reach a TCP service by peer ID.

    `listen` offers a local service under a protocol name; `forward`, on another machine, opens a local port
    whose connections reach it. A daemon holds the tunnels; commands that give it something to keep start it
    when none runs.
    """
    ctx.obj = Env(home=home)
    help_without_command(ctx)


def root_command() -> Any:
    """The whole command tree, its modules unloaded until they are asked for."""
    root = typer.Typer(
        cls=CommandTable,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        invoke_without_command=True,
        context_settings=SETTINGS,
    )
    root.callback()(_root)
    return typer.main.get_command(root)


def run(arguments: Sequence[str]) -> int:
    """Run one command line; returns the exit status. Raises what the command raises."""
    if arguments[:1] == [COMPLETE]:
        return _complete(arguments[1:])
    try:
        status = root_command().main(checked_arguments(arguments), prog_name=PROGRAM, standalone_mode=False)
    except typer.TyperException as error:
        context = getattr(error, "ctx", None)
        command = _named_in(arguments) if context is None else context.command_path
        return report_usage(error.format_message(), command, as_json=wants_json(arguments))
    return status if isinstance(status, int) else int(ExitStatus.OK)


def _named_in(arguments: Sequence[str]) -> str:
    """The program and the command that the arguments are for: not every error says for which it is."""
    from p2pfwd.cli.completion import command_path

    return f"{PROGRAM} {command_path(root_command(), arguments)}".rstrip()


def _complete(words: Sequence[str]) -> int:
    from p2pfwd.cli.completion import home_option, print_candidates

    print_candidates(root_command(), Env(home=home_option(words)), words)
    return int(ExitStatus.OK)
