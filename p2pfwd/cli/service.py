"""`service`: the daemon under the machine's service manager, so that it is there after a reboot."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from p2pfwd.cli.exits import warn
from p2pfwd.cli.options import AsJson, new_group
from p2pfwd.cli.render import talk, write, write_json, write_pairs
from p2pfwd.cli.text import age, counted, printable
from p2pfwd.errors import DaemonNotRunning, ExitStatus, P2PForwardError, ServiceFailed, UsageError
from p2pfwd.rpc.schema import Empty, StatusResult
from p2pfwd.service.values import Definition, Program
from p2pfwd.state.home_lock import SYSTEM_HOME

if TYPE_CHECKING:
    from p2pfwd.cli.env import Env
    from p2pfwd.rpc.paths import Paths
    from p2pfwd.service.install import Outcome, State

LINES = 50

IsSystem = Annotated[
    bool,
    typer.Option("--system", help=f"The machine's own, with a user and a home ({SYSTEM_HOME}) of its own."),
]

_NO_SYSTEM_AGENT = "on macOS a service is a user's: it starts at login"

service = new_group("Have the daemon started at boot, and again when it fails.")


@service.command()
def install(
    ctx: typer.Context,
    is_system: IsSystem = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be written.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write the service, start it, and have it started at every boot.

    For a user it is a unit of his own systemd, on macOS an agent of launchd. Run again, it changes only what
    differs.
    """
    from p2pfwd.service import install as steps

    env: Env = ctx.obj
    paths, program, definition = _service(env, is_system)
    _warn_of_variables(env)
    if dry_run:
        try:
            steps.refuse_at_once(definition, program)
        except P2PForwardError as error:
            warn(f"without --dry-run this would be refused: {error.message}", error.hint)
        _show_dry(definition, as_json)
        return
    outcome = steps.install(definition, program, paths.lock_file, env.environ)
    if as_json:
        write_json({**_named(definition), "Changed": bool(outcome.wrote or outcome.ran), **_done(outcome)})
    else:
        _write_done(outcome)
        write(f"{definition.label} runs, and starts {'at boot' if outcome.at_boot else 'at your login'}.")
    _advise(definition, outcome)


@service.command()
def uninstall(ctx: typer.Context, is_system: IsSystem = False, as_json: AsJson = False) -> None:
    """Stop the service, and remove what `install` wrote. The home, and the saved tunnels in it, stay."""
    from p2pfwd.service import install as steps

    env: Env = ctx.obj
    _, _, definition = _service(env, is_system)
    outcome = steps.uninstall(definition, env.environ)
    if as_json:
        write_json({**_named(definition), **_done(outcome)})
        return
    _write_done(outcome)
    write(f"{definition.label} is no service any more; its home stays: {printable(str(definition.home))}")


@service.command()
def status(ctx: typer.Context, is_system: IsSystem = False, as_json: AsJson = False) -> int:
    """Show whether the service is enabled and runs, since when, and what its daemon says.

    The exit status is 3 while it does not run.
    """
    from p2pfwd.service import install as steps

    env: Env = ctx.obj
    paths, _, definition = _service(env, is_system)
    found = steps.state(definition, env.environ)
    daemon, said = _daemon(paths)
    if as_json:
        write_json({**_named(definition), **_state(found), "Daemon": daemon})
    else:
        write_pairs(_pairs(definition, found, said))
    return int(ExitStatus.OK if found.active else ExitStatus.NOT_RUNNING)


@service.command()
def logs(
    ctx: typer.Context,
    is_system: IsSystem = False,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on with what comes.")] = False,
    journal_since: Annotated[
        str | None,
        typer.Option("--since", metavar="TIME", help="From then on, as journalctl(1) reads it: -2h, today."),
    ] = None,
    lines: Annotated[
        int | None,
        typer.Option("-n", "--lines", metavar="N", help=f"The last N lines; {LINES} without --since.", min=1),
    ] = None,
) -> None:
    """Show the service's log: journalctl(1) where systemd is, the log file elsewhere."""
    from p2pfwd.service.systemd import refuse_unreadable_journal

    env: Env = ctx.obj
    paths, _, definition = _service(env, is_system)
    words = _log_command(definition, paths, follow=follow, since=journal_since, lines=lines)
    if words[0] == "journalctl":
        refuse_unreadable_journal(definition, env.environ)
    sys.stdout.flush()
    try:
        os.execvp(words[0], words)
    except FileNotFoundError:
        raise ServiceFailed(f"{words[0]} is not on the PATH") from None


def _log_command(
    definition: Definition, paths: Paths, *, follow: bool, since: str | None, lines: int | None
) -> list[str]:
    from p2pfwd.service import launchd
    from p2pfwd.service.install import not_installed
    from p2pfwd.service.systemd import journal
    from p2pfwd.service.values import is_ours

    if not is_ours(definition):
        raise not_installed(definition)
    if launchd.is_here():
        if since is not None:
            raise UsageError("--since is for systemd's journal", hint="-n N shows the last N lines")
        return ["tail", "-n", str(lines or LINES), *(["-F"] if follow else []), str(paths.log_file)]
    words = [*journal(definition), "--output=short-iso"]
    words += [f"--since={since}"] if since is not None else []
    words += [f"--lines={lines or LINES}"] if lines is not None or since is None else []
    return [*words, *(["--follow"] if follow else [])]


def _service(env: Env, is_system: bool) -> tuple[Paths, Program, Definition]:
    """The files, the command and the service that a command means."""
    from p2pfwd.rpc.paths import Paths
    from p2pfwd.service import launchd

    paths = env.paths()
    if is_system:
        if launchd.is_here():
            raise UsageError("there is no service of the whole machine here", hint=_NO_SYSTEM_AGENT)
        if paths.single and paths.home != SYSTEM_HOME:
            raise UsageError(
                f"the system's service has its home in {SYSTEM_HOME}, not in {paths.home}",
                hint="leave --home and P2PFWD_HOME out, or --system",
            )
        paths = Paths.resolve(str(SYSTEM_HOME), {})
    program, definition = env.service(paths)
    return paths, program, definition


def _warn_of_variables(env: Env) -> None:
    ours = ("P2PFWD_HOME", "P2PFWD_AUTOSTART")
    left = sorted(name for name in env.environ if name.startswith("P2PFWD_") and name not in ours)
    if left:
        warn(
            f"the service does not have this shell's {', '.join(left)}",
            "what it is to have goes into config.toml, which p2pfwd config show names",
        )


def _show_dry(definition: Definition, as_json: bool) -> None:
    if as_json:
        write_json({**_named(definition), "Text": definition.text})
        return
    talk(f"Would be written to {printable(str(definition.path))}:")
    write(definition.text.rstrip("\n"))


def _named(definition: Definition) -> dict[str, Any]:
    return {
        "Service": definition.label,
        "System": definition.is_system,
        "File": str(definition.path),
        "Home": str(definition.home),
    }


def _done(outcome: Outcome) -> dict[str, Any]:
    return {
        "Wrote": [str(path) for path in outcome.wrote],
        "Removed": [str(path) for path in outcome.removed],
        "Ran": outcome.ran,
    }


def _write_done(outcome: Outcome) -> None:
    for verb, what in (("Wrote", outcome.wrote), ("Ran", outcome.ran), ("Removed", outcome.removed)):
        for one in what:
            write(f"{verb}: {printable(str(one))}")
    if not (outcome.wrote or outcome.ran or outcome.removed):
        write("Nothing to change.")


def _advise(definition: Definition, outcome: Outcome) -> None:
    from p2pfwd.service import launchd
    from p2pfwd.service.systemd import user_name

    if definition.is_system:
        talk(f"Its tunnels: sudo p2pfwd --home {SYSTEM_HOME} listen ..., forward ..., ls")
    elif launchd.is_here():
        talk("It starts at your login: launchd knows no other services of users.")
    elif not outcome.at_boot:
        talk(f"To have it started at boot, before you log in: sudo loginctl enable-linger {user_name()}")


def _daemon(paths: Paths) -> tuple[dict[str, Any] | None, str]:
    """What the daemon says of itself: its status, and one line."""
    from p2pfwd.cli.env import CONNECT_TIMEOUT_S, answer
    from p2pfwd.cli.render import document
    from p2pfwd.rpc.reach import reach

    try:
        with reach(paths, CONNECT_TIMEOUT_S) as client:
            found = answer(client, "daemon.status", Empty(), StatusResult)
    except DaemonNotRunning:
        return None, "does not answer"
    except P2PForwardError as error:
        return None, error.message
    tunnels = f"{counted(found.listeners, 'listener')}, {counted(found.streams, 'live stream')}"
    line = f"p2pfwd {found.version}, up for {age(found.uptime_s)}, {tunnels}, {counted(found.peers, 'peer')}"
    return document(found), line


def _state(found: State) -> dict[str, Any]:
    return {
        "Enabled": found.enabled,
        "AtBoot": found.at_boot,
        "Active": found.active,
        "State": found.state,
        "Since": found.since,
        "PID": found.pid,
        "Restarts": found.restarts,
        "LastExit": found.last_exit,
    }


def _pairs(definition: Definition, found: State, said: str) -> list[tuple[str, str]]:
    when = "at boot" if found.at_boot else "at login"
    state = found.state
    if found.since is not None:
        state += f" for {age(max(0.0, time.time() - found.since))}"
    if found.pid is not None:
        state += f", process {found.pid}"
    if found.restarts:
        state += f", restarted {counted(found.restarts, 'time')}"
    return [
        ("service", f"{definition.label}, {'of the system' if definition.is_system else 'yours'}"),
        ("file", str(definition.path)),
        ("starts", when if found.enabled else "not by itself: p2pfwd service install"),
        ("state", state),
        *([("", "its file has changed: p2pfwd service install takes it over")] if found.stale else []),
        *([("last exit", found.last_exit)] if found.last_exit is not None else []),
        ("daemon", said),
        ("home", str(definition.home)),
    ]
