"""`export`, `apply` and `reload`: all tunnels, names and rules in one file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Final

import typer

from p2pfwd.cli import named_file
from p2pfwd.cli.exits import warn
from p2pfwd.cli.options import AsJson, NoStart
from p2pfwd.cli.render import write, write_json
from p2pfwd.cli.text import printable, shorten_peers
from p2pfwd.errors import UsageError
from p2pfwd.rpc.schema import (
    ApplyParams,
    ApplyResult,
    Empty,
    ExportResult,
    ReloadResult,
    SetupChange,
)
from p2pfwd.rpc.setup_values import MAX_APPLIED_BYTES

if TYPE_CHECKING:
    from p2pfwd.cli.env import Env

TIMEOUT_S: Final = 120.0
"""For hundreds of tunnels on a slow disk."""

_SIGNS: Final = {"added": "+", "changed": "~", "removed": "-", "skipped": "="}


def export(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Print every tunnel, name, access rule and block as TOML.

    For `p2pfwd apply`, here or on another machine, or for config.toml. Ephemeral and foreground tunnels are
    left out. No secret is in it.
    """
    env: Env = ctx.obj
    result = env.ask("p2p.export", Empty(), ExportResult)
    if as_json:
        write_json(result)
    else:
        write(result.text.removesuffix("\n"))


def apply(
    ctx: typer.Context,
    file: Annotated[str, typer.Argument(metavar="FILE", help="As `p2pfwd export` prints it; - is stdin.")],
    prune: Annotated[
        bool, typer.Option("--prune", help="Also close and remove what is not in FILE.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Change nothing; print what would be.")] = False,
    no_start: NoStart = False,
    as_json: AsJson = False,
) -> None:
    """Make tunnels, names and access rules as a file says, and print the difference.

    It is saved, as if the commands had been typed. What does not change is not touched, and streams go on. A
    file with an error anywhere changes nothing.
    """
    env: Env = ctx.obj
    params = ApplyParams(text=_read(file), name=named_file.shown(file), prune=prune, dry_run=dry_run)
    result = env.save("p2p.apply", params, ApplyResult, no_start=no_start, timeout_s=TIMEOUT_S)
    if as_json:
        write_json(result)
        return
    _print((*result.changes, *result.skipped), result.unchanged)
    if dry_run and result.changes:
        write("Nothing was changed: --dry-run.")
    _print_notes(result.notes)


def reload(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Have the daemon read config.toml again.

    Prints what changed: what config.toml declares, the settings that hold from now on, and those that take a
    restart. A file with an error anywhere changes nothing.
    """
    env: Env = ctx.obj
    result = env.ask("daemon.reload", Empty(), ReloadResult, timeout_s=TIMEOUT_S)
    if as_json:
        write_json(result)
        return
    _print((*result.changes, *result.skipped), result.unchanged)
    for key in result.settings:
        write(f"~ {key}")
    for key in result.restart:
        write(f"{key} changed: it takes a restart: p2pfwd shutdown")
    _print_notes(result.notes)


def _read(file: str) -> str:
    """Raises UsageError for what is no text, or too long, StorageFailed."""
    name = named_file.shown(file)
    data = named_file.read(file, "file to apply", MAX_APPLIED_BYTES)
    if len(data) > MAX_APPLIED_BYTES:
        raise UsageError(f"{name}: longer than {MAX_APPLIED_BYTES} bytes", hint="apply it in several files")
    try:
        return data.decode()
    except UnicodeDecodeError as exc:
        line = data.count(b"\n", 0, exc.start) + 1
        raise UsageError(f"{name}, line {line}: it is not UTF-8 text") from None


def _print(changes: Sequence[SetupChange], unchanged: int) -> None:
    for change in changes:
        text = f": {shorten_peers(printable(change.text))}" if change.text else ""
        write(f"{_SIGNS[change.action]} {change.kind} {printable(change.name)}{text}")
    write(f"unchanged: {unchanged}")


def _print_notes(notes: Sequence[str]) -> None:
    for note in notes:
        warn(note)
