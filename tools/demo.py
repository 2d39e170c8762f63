"""Two daemons on this machine, one shares a web server, the other fetches from it: `make demo`.

Everything is on loopback, in temporary homes, and gone at the end, Ctrl-C included. Exit status 0 when
every step did what it should, 1 when one did not, 130 when interrupted. Under a minute.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

from tests.support import lifeline
from tests.support.daemon import PROGRAM, Daemon, environment

BULK_BYTES = 100_000_000
CHUNK = 1 << 18
PAGE = b"<!doctype html>\n<title>It works</title>\n<p>This page came through a libp2p tunnel.</p>\n"


class DemoFailed(Exception):
    """A step did not do what it should."""


FAILURES = (DemoFailed, AssertionError, OSError, http.client.HTTPException, subprocess.SubprocessError)

console = Console(highlight=False)


class Website(BaseHTTPRequestHandler):
    """A page at `/` and BULK_BYTES bytes at `/bulk`, with their SHA-256 as ETag."""

    block = os.urandom(CHUNK)

    def do_GET(self) -> None:
        """Answer one request."""
        size = len(PAGE) if self.path == "/" else BULK_BYTES
        self.send_response(200)
        self.send_header("Content-Length", str(size))
        if self.path != "/":
            self.send_header("ETag", f'"{bulk_digest(self.block)}"')
        self.end_headers()
        if self.path == "/":
            self.wfile.write(PAGE)
            return
        for at in range(0, BULK_BYTES, CHUNK):
            self.wfile.write(self.block[: BULK_BYTES - at])

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: the demo does the talking."""


class Server(ThreadingHTTPServer):
    """The server; a reader that leaves early is no error of its."""

    def handle_error(self, request: object, client_address: object) -> None:
        """Tell of anything but a broken connection."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


def bulk_digest(block: bytes) -> str:
    """SHA-256 of what `/bulk` sends."""
    digest = hashlib.sha256()
    for at in range(0, BULK_BYTES, CHUNK):
        digest.update(block[: BULK_BYTES - at])
    return digest.hexdigest()


@contextmanager
def website() -> Iterator[int]:
    """The web server, on a free port of 127.0.0.1."""
    with Server(("127.0.0.1", 0), Website) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def machine(name: str, root: Path) -> Iterator[Daemon]:
    """A daemon with a home of its own: one of the two machines."""
    say(f"The daemon of {name} starts:")
    with Daemon(root / name) as daemon:
        for line in daemon.lines:
            console.print(f"  {line}", soft_wrap=True)
        yield daemon
    if daemon.process.returncode != 0:
        raise DemoFailed(f"the daemon of {name} ended with status {daemon.process.returncode}")


def say(text: str) -> None:
    """What is about to happen."""
    console.print(f"\n[bold]{text}[/bold]", soft_wrap=True)


def command(daemon: Daemon, *args: str) -> None:
    """Show and run one p2pfwd command on a machine; what it prints is seen as it is."""
    console.print(f"  [cyan]{daemon.home.name}$[/cyan] p2pfwd {' '.join(args)}", soft_wrap=True)
    sys.stdout.flush()
    env = environment(daemon.home, {name: os.environ.get(name, "") for name in ("NO_COLOR", "TERM")})
    done = subprocess.run([PROGRAM, *args], env=env, check=False)
    if done.returncode != 0:
        raise DemoFailed(f"p2pfwd {args[0]} ended with status {done.returncode}")


def fetch_page(port: int) -> None:
    """The page, through the tunnel."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("GET", "/")
        page = connection.getresponse().read()
    finally:
        connection.close()
    if page != PAGE:
        raise DemoFailed(f"the page is wrong: {page!r}")
    console.print("  " + page.decode().replace("\n", "\n  ").rstrip(), markup=False)


def fetch_bulk(port: int, daemon: Daemon) -> None:
    """100 MB through the tunnel, with a progress bar and, half-way, what the daemon shows of it."""
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("GET", "/bulk")
        response = connection.getresponse()
        digest, shown = hashlib.sha256(), False
        with Progress(*columns, console=console) as progress:
            task = progress.add_task("", total=BULK_BYTES)
            while data := response.read(CHUNK):
                digest.update(data)
                progress.update(task, advance=len(data))
                if not shown and progress.tasks[0].completed >= BULK_BYTES // 2:
                    shown = True
                    progress.stop()
                    say("Half-way, the daemon shows the live stream:")
                    command(daemon, "ls", "--streams")
                    progress.start()
        if f'"{digest.hexdigest()}"' != response.getheader("ETag"):
            raise DemoFailed("the 100 MB are not what was sent")
    finally:
        connection.close()
    console.print(f"  SHA-256 {digest.hexdigest()}: as sent", soft_wrap=True)


def demo(root: Path) -> None:
    """All steps. Raises DemoFailed, or what went wrong in one."""
    with ExitStack() as stack:
        port = stack.enter_context(website())
        alice = stack.enter_context(machine("alice", root))
        bob = stack.enter_context(machine("bob", root))

        say(f"alice shares her web server at 127.0.0.1:{port}:")
        command(alice, "listen", "/x/web", f"127.0.0.1:{port}")
        say("bob opens a port of his that leads to it:")
        command(bob, "forward", "/x/web", "127.0.0.1:0", alice.address)
        (listener,) = bob.json("ls")["Listeners"]
        local = int(listener["ListenAddress"].rpartition("/")[2])

        say(f"The page, fetched from http://127.0.0.1:{local}/:")
        fetch_page(local)
        say("100 MB:")
        fetch_bulk(local, bob)

        say("Both close:")
        command(bob, "close", "--all")
        command(alice, "close", "--all")
        for daemon in (alice, bob):
            if daemon.json("ls")["Listeners"]:
                raise DemoFailed("a closed listener is still there")
        say("The daemons stop, and their homes are removed.")


def interrupted(signum: int, frame: FrameType | None) -> None:
    """Ctrl-C or SIGTERM ends the demo; another one does not disturb the cleaning up, which is bounded."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def main() -> int:
    """Run the demo; its exit status."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupted)
    root = Path(tempfile.mkdtemp(prefix="p2pfwd-demo-"))
    try:
        demo(root)
    except KeyboardInterrupt:
        console.print("\nInterrupted; the daemons are stopped and their homes removed.")
        return 130
    except FAILURES as exc:
        console.print(f"\nThe demo failed: {exc}", markup=False, soft_wrap=True)
        return 1
    finally:
        shutil.rmtree(root, ignore_errors=True)
    console.print("\nDone.")
    return 0


if __name__ == "__main__":
    lifeline.hold()
    sys.exit(main())
