"""`doctor`: every check of the network once, each a line with its result and the cure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from p2pfwd.cli.options import AsJson
from p2pfwd.cli.render import write, write_json, write_pairs
from p2pfwd.errors import ExitStatus
from p2pfwd.rpc.schema import DoctorParams, DoctorResult

if TYPE_CHECKING:
    from p2pfwd.cli.env import Env

TIMEOUT_S = 30.0
GRACE_S = 120.0
"""What the checks of this node take, and those of the services, beside the time for the peer."""


def doctor(
    ctx: typer.Context,
    peer: Annotated[
        str | None,
        typer.Argument(metavar="PEER", help="Also the way to it: its ID or name.", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check everything that a tunnel needs, once, and say what would help.

    Made to be pasted into a report. Fails unless a stranger could get a tunnel to this node; with PEER,
    unless that peer and the services that are forwarded from it are reached.
    """
    env: Env = ctx.obj
    params = DoctorParams(peer=peer, timeout_s=TIMEOUT_S)
    result = env.ask("doctor", params, DoctorResult, timeout_s=TIMEOUT_S + GRACE_S)
    if as_json:
        write_json(result)
    else:
        lines: list[tuple[str, str]] = []
        for finding in result.findings:
            lines.append((finding.check, f"{finding.state}: {finding.text}"))
            if finding.hint is not None:
                lines.append(("", f"      {finding.hint}"))
        write_pairs(lines)
        write(f"So {result.verdict}.")
    if not result.reachable:
        raise typer.Exit(ExitStatus.FAILED)
