"""`log level` and `log tail`: the daemon's log, while it runs."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from p2pfwd.cli.options import AsJson, new_group
from p2pfwd.cli.render import talk, write, write_json, write_lines
from p2pfwd.cli.text import printable
from p2pfwd.errors import ConnectionLost, DaemonNotRunning
from p2pfwd.rpc.schema import Event, LogLevelParams, LogLevelResult

if TYPE_CHECKING:
    from p2pfwd.cli.env import Env

log = new_group("The daemon's log.")


@log.command("level", help="Set how much a subsystem logs.")
def level(
    ctx: typer.Context,
    subsystem: Annotated[str, typer.Argument(metavar="SUBSYSTEM", help="As the log names it; or all.")],
    new_level: Annotated[str, typer.Argument(metavar="LEVEL", help="debug, info, warning or error.")],
    as_json: AsJson = False,
) -> None:
    """Until the daemon stops; prints the levels that hold now."""
    env: Env = ctx.obj
    params = LogLevelParams(subsystem=subsystem, level=new_level)
    result = env.ask("log.level", params, LogLevelResult)
    if as_json:
        write_json(result)
    else:
        write_lines([(name, value) for name, value in sorted(result.levels.items())])


@log.command("tail", help="Follow the log from now on.")
def tail(
    ctx: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document per line.")] = False,
) -> None:
    """Until interrupted, or until the daemon stops."""
    env: Env = ctx.obj
    with env.connect() as client:
        events = client.subscribe(("log",))
        if env.talkative:
            talk("Following the log; Ctrl-C ends this.")
        try:
            for event in events:
                if as_json:
                    write_json(event, line=True)
                else:
                    write(log_line(event))
        except ConnectionLost:
            raise DaemonNotRunning("the daemon stopped") from None


def log_line(event: Event) -> str:
    """One event of the log as text: time, level, subsystem, message; below it the trace, if it has one."""
    when = datetime.fromtimestamp(event.time).isoformat(" ", "milliseconds")
    if "message" not in event.data:
        return f"{when} ({event.data.get('count', 'some')} lines dropped)"
    level, logger, message = (str(event.data.get(name, "-")) for name in ("level", "logger", "message"))
    line = f"{when} {level.upper()} {printable(logger)}: {printable(message)}"
    trace = event.data.get("trace")
    return "\n".join([line, *map(printable, trace.splitlines())]) if isinstance(trace, str) else line
