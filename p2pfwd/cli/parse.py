"""How groups of commands are set up, the same for all of them."""

from __future__ import annotations

from typing import Any

import typer

from p2pfwd.cli.render import talk
from p2pfwd.errors import ExitStatus

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


def help_without_command(ctx: typer.Context) -> None:
    """A group named without a command shows its help on stderr: a usage error."""
    if ctx.invoked_subcommand is None:
        talk(ctx.get_help())
        raise typer.Exit(int(ExitStatus.USAGE))
