"""The daemon's process: from the command to the last line. `main` is what `p2pfwd daemon` calls.

Rules: stdout has the peer ID, the addresses and the socket's path, then "Daemon is ready"; talk and log go to
stderr, or all to the log file in the background. SIGTERM and SIGINT drain, a second one ends at once; SIGHUP
reads config.toml again, unless the terminal is gone: then it drains, too.
This module is light, since the CLI imports it: asyncio and the node are imported when the daemon runs.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from p2pfwd.daemon.lean import (
    import_uvloop,
    leave_out_openssl,
    leave_out_python_protobuf,
    put_off_cryptographys_backend,
)
from p2pfwd.errors import ExitStatus, InvalidConfig, P2PForwardError
from p2pfwd.rpc.autostart import READY_VARIABLE, command, report_failure, report_ready
from p2pfwd.rpc.paths import Paths

if TYPE_CHECKING:
    import asyncio

    from p2pfwd.daemon.config import Loaded
    from p2pfwd.daemon.home import Repo
    from p2pfwd.daemon.logs import LogHandler
    from p2pfwd.daemon.node import Running
    from p2pfwd.daemon.settings import Settings

READY = "Daemon is ready"


def main(paths: Paths, overrides: Mapping[str, Any] | None = None) -> int:
    """Run the daemon in this process until it is stopped; the exit status.

    `overrides` are settings by key, as from the command line. Called by the CLI it replaces the process
    by one that has not loaded what only commands need. Raises what keeps the daemon from starting.
    """
    if "typer" in sys.modules:
        sys.stdout.flush()
        sys.stderr.flush()
        arguments, env = command(paths, os.environ, overrides)
        os.execve(arguments[0], arguments, env)
    return run(paths, overrides or {}, os.environ)


def run(paths: Paths, overrides: Mapping[str, Any], env: Mapping[str, str]) -> int:
    """As `main`, in this very process."""
    leave_out_openssl()
    leave_out_python_protobuf()
    put_off_cryptographys_backend()
    from p2pfwd.daemon import config, logs
    from p2pfwd.daemon.home import Repo

    loaded = config.Loaded(config.load(paths.config_file, env, overrides), env, overrides)
    settings = loaded.config.settings
    repo = Repo.open(paths)
    try:
        handler = _log_handler(paths, settings, env)
        logs.install(handler, settings.log_level)
        try:
            with _runner(settings) as runner:
                return runner.run(_serve(repo, loaded, handler))
        finally:
            logs.uninstall(handler)
    finally:
        repo.close()


def background(env: Mapping[str, str]) -> bool:
    """Whether the daemon was started by a command, detached: its output is the log file."""
    return READY_VARIABLE in env


def report(error: P2PForwardError, env: Mapping[str, str]) -> int:
    """Tell why the daemon does not run: to stderr, and to the command that started it; the exit status."""
    report_failure(error, env)  # first: stderr may be a log on the very disk that is full
    with suppress(OSError):
        sys.stderr.write(f"Error: {error.message}\n" + (f"hint: {error.hint}\n" if error.hint else ""))
        sys.stderr.flush()
    return int(error.exit_status)


def _log_handler(paths: Paths, settings: Settings, env: Mapping[str, str]) -> LogHandler:
    from p2pfwd.daemon.logs import FileSink, LogHandler, StderrSink, journal_lines, stamped_lines
    from p2pfwd.system.private_files import storage_failed
    from p2pfwd.system.sd_notify import is_journal

    if not background(env):
        return LogHandler(StderrSink(), form=journal_lines if is_journal(2, env) else stamped_lines)
    try:
        return LogHandler(FileSink(paths.log_file, settings.log_max_bytes, (1, 2)))
    except OSError as exc:
        raise storage_failed("log file", paths.log_file, exc) from exc


def _runner(settings: Settings) -> asyncio.Runner:
    import asyncio

    if settings.event_loop == "asyncio":
        return asyncio.Runner()
    uvloop = import_uvloop()
    if uvloop is None:
        if settings.event_loop == "uvloop":
            raise InvalidConfig("daemon.event_loop is uvloop, and that cannot be imported", hint="use auto")
        return asyncio.Runner()
    return asyncio.Runner(loop_factory=uvloop.new_event_loop)


async def _serve(repo: Repo, loaded: Loaded, handler: LogHandler) -> int:
    import asyncio

    from p2pfwd.daemon import networks
    from p2pfwd.daemon.allotment import allot
    from p2pfwd.daemon.node import Running
    from p2pfwd.system.descriptors import raise_limit
    from p2pfwd.system.sd_notify import notify, watchdog_interval

    warn_of_the_clock(time.time())
    env = loaded.env
    settings = allot(loaded.config.settings, raise_limit())
    loop = asyncio.get_running_loop()
    log_name = str(repo.paths.log_file) if background(env) else None
    network = networks.load(repo.paths.home, settings, env)
    running = await Running.start(repo.paths, settings, network, repo.identity, log_name, loaded)
    forget_signals = _handle_signals(loop, running)
    handler.publish_to(lambda data: running.server.publish("log", data), loop.call_soon_threadsafe)
    forget_watchdog = _tell_watchdog(loop, watchdog_interval(env), env)
    try:
        repo.ready()
        _announce(repo, running)
        notify(f"READY=1\nMAINPID={os.getpid()}", env)
        report_ready(env)
        await running.wait_for_stop()
        notify("STOPPING=1", env)
    finally:
        await running.stop()
        handler.publish_to(None, None)
        forget_watchdog()
        forget_signals()
    return int(ExitStatus.INTERRUPTED if running.forced else ExitStatus.OK)


def _tell_watchdog(
    loop: asyncio.AbstractEventLoop, interval_s: float | None, env: Mapping[str, str]
) -> Callable[[], None]:
    """Show the service manager by the event loop's own timer that it turns; returns what ends that."""
    if interval_s is None:
        return lambda: None
    import faulthandler

    from p2pfwd.system.sd_notify import notify

    faulthandler.enable()  # the watchdog's SIGABRT leaves in the journal where the loop hangs
    timer: asyncio.TimerHandle

    def tell() -> None:
        nonlocal timer
        notify("WATCHDOG=1", env)
        timer = loop.call_later(interval_s, tell)

    timer = loop.call_later(interval_s, tell)

    def forget() -> None:
        timer.cancel()
        faulthandler.disable()

    return forget


def warn_of_the_clock(now: float) -> None:
    """Log what does not work, or is lost, while the clock, which says `now`, is far behind or ahead."""
    import logging

    from p2pfwd.system.clock_sync import EARLIEST, LATE

    log = logging.getLogger("p2pfwd.daemon")
    day = time.strftime("%Y-%m-%d", time.gmtime(now))
    if now < EARLIEST:
        log.warning(
            "the clock of this machine says %s, which cannot be: until it is set, peers that speak TLS alone "
            "are refused, and the ages in the address book are wrong",
            day,
        )
    elif now >= LATE:
        log.warning(
            "the clock of this machine says %s, which can hardly be: what --expires has ended by it is gone, "
            "and does not come back when it is set",
            day,
        )


def _handle_signals(loop: asyncio.AbstractEventLoop, running: Running) -> Callable[[], None]:
    has_terminal = _terminal_is_there()

    def hang_up() -> None:
        if has_terminal and not _terminal_is_there():
            running.request_stop()
        else:
            running.host.swarm.spawn(running.reloading.reload_by_signal(), "reload")

    wanted: dict[int, Callable[[], object]] = {
        signal.SIGTERM: running.request_stop,
        signal.SIGINT: running.request_stop,
    }
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup
        wanted[signal.SIGHUP] = hang_up
    for number, handler in wanted.items():
        loop.add_signal_handler(number, handler)

    def forget() -> None:
        for number in wanted:
            loop.remove_signal_handler(number)

    return forget


def _terminal_is_there() -> bool:
    """Whether this process has a terminal that can be opened: one that was closed cannot."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def _announce(repo: Repo, running: Running) -> None:
    lines = [f"Peer ID: {running.host.peer_id}"]
    if running.network.fingerprint is not None:
        lines.append(f"Private network, swarm key {running.network.fingerprint}")
    if repo.identity_is_new:
        lines.insert(0, f"Made a new identity: {repo.paths.key_file}")
    for addr in running.host.swarm.listen_addrs():
        lines.append(f"Listening on {addr.with_peer_id(running.host.peer_id)}")
    lines += [f"Control socket: {repo.paths.socket}", READY]
    try:
        sys.stdout.write("\n".join(lines) + "\n")
        sys.stdout.flush()
    except OSError:
        # Nobody reads stdout any more: the daemon serves on. Python must not try again at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), sys.stdout.fileno())
