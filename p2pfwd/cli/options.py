"""How commands are set up: groups, and the options and arguments that several share, worded once."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from p2pfwd.cli.render import talk
from p2pfwd.errors import ExitStatus, UsageError
from p2pfwd.rpc.time_limit import MAX_DISCOVER_S, check_timeout

SETTINGS: dict[Any, Any] = {"help_option_names": ["-h", "--help"]}


def new_group(help_text: str) -> typer.Typer:
    """An empty group of commands, set up as all of them are."""
    group = typer.Typer(
        help=help_text,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        invoke_without_command=True,
        context_settings=SETTINGS,
    )
    group.callback()(help_without_command)
    return group


class _ActingGroup(TyperGroup):
    """A group that is a command, too: a first word that names one of its commands is that command."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """The words of that command, left for it; else the group's own. Raises UsageError."""
        if not args or args[0] not in self.commands:
            self._refuse_late_command(ctx, args)
            ctx.allow_extra_args = not any(it.param_type_name == "argument" for it in self.params)
            return super().parse_args(ctx, args)
        ctx.allow_interspersed_args = False  # what follows is that command's
        params, self.params = self.params, []
        try:
            return super().parse_args(ctx, args)
        finally:
            self.params = params

    def get_params(self, ctx: Any) -> list[Any]:
        """Its own; in usage lines of its commands its arguments do not stand before them."""
        found = super().get_params(ctx)
        return found if ctx.command is self else [it for it in found if it.param_type_name != "argument"]

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Its own words, or a command."""
        *own, commands = super().collect_usage_pieces(ctx)
        return [*own, "|", commands]

    def _refuse_late_command(self, ctx: Any, args: list[str]) -> None:
        """A command behind other words: it would drop them, or be taken for one of them."""
        given, others, _ = self.make_parser(ctx).parse_args(list(args))
        own = {it.name for it in self.params if it.param_type_name == "argument"}
        values = [value for name, value in given.items() if name in own]
        words = [word for value in values for word in ([value] if isinstance(value, str) else value or ())]
        for word in (*words, *others):
            if word in self.commands:
                raise UsageError(
                    f"'{word}' is a command of '{ctx.command_path}', and stands behind other words",
                    hint=f"write: {ctx.command_path} {word}",
                )


def leads_on(group: Any, words: Sequence[str]) -> bool:
    """Whether the words behind a group lead to its commands; those of an acting group may be its own."""
    return not isinstance(group, _ActingGroup) or not words or words[0] in group.commands


def new_acting_group() -> typer.Typer:
    """A group that is a command, too, maybe with arguments; its callback is what it does."""
    return typer.Typer(
        cls=_ActingGroup,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        invoke_without_command=True,
        context_settings={**SETTINGS, "allow_interspersed_args": True},
    )


def help_without_command(ctx: typer.Context) -> None:
    """A group named without a command shows its help on stderr: a usage error."""
    if ctx.invoked_subcommand is None:
        talk(ctx.get_help())
        raise typer.Exit(int(ExitStatus.USAGE))


def check_timeout_option(value: float) -> float:
    """Refuse what is no time limit before anything waits for it. Raises UsageError."""
    return check_timeout(value)


def check_discover_timeout_option(value: float) -> float:
    """The same for looking around, which is shorter. Raises UsageError."""
    return check_timeout(value, MAX_DISCOVER_S)


AsJson = Annotated[
    bool, typer.Option("--json", help="One JSON document on stdout, errors as JSON on stderr.")
]

Headers = Annotated[
    bool, typer.Option("-v", "--headers", help="A header above the plain lines too; tables always have one.")
]

Custom = Annotated[bool, typer.Option("--allow-custom-protocol", help="Allow a protocol name outside /x/.")]

Foreground = Annotated[
    bool, typer.Option("-f", "--foreground", help="Stay until interrupted, and close when this command ends.")
]

Ephemeral = Annotated[
    bool, typer.Option("--ephemeral", help="Do not save it: it is gone when the daemon stops.")
]


class PathChoice(StrEnum):
    """What `--path` takes."""

    ANY = "any"
    DIRECT = "direct"
    RELAY = "relay"


PathOption = Annotated[
    PathChoice,
    typer.Option("--path", metavar="PATH", help="Go over any (direct where it can be), direct, or relay."),
]

LimitedRelay = Annotated[
    bool,
    typer.Option("--allow-limited-relay", help="Go over a relay that carries little, and not for long."),
]

NoStart = Annotated[bool, typer.Option("--no-start", help="Do not start a daemon; as P2PFWD_AUTOSTART=0.")]

Limit = Annotated[
    float,
    typer.Option("--timeout", metavar="SECONDS", help="When to give up.", callback=check_timeout_option),
]

DiscoverLimit = Annotated[
    float,
    typer.Option(
        "--timeout", metavar="SECONDS", help="When to give up.", callback=check_discover_timeout_option
    ),
]

Protocol = Annotated[str, typer.Argument(metavar="PROTOCOL", help="Name of the service, such as /x/ssh.")]
