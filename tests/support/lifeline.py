"""Whatever ends a run, what it has started ends too, and its temporary files go: `hold()`, before anything is
started.

A signal ends a process without a word to those it has started, and ours are in sessions of their own. So each
bears the run's mark, a variable of its environment, which goes from process to process however deep. A keeper
waits at a pipe for the run's end, SIGKILL included, and kills whoever still bears the mark; then it removes
the directory in which the run has had its temporary ones. That is Linux's /proc; elsewhere nothing is done.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

MARK: Final = "TEST_RUN_MARK"

PAUSE_S: Final = 0.01
"""Between two looks of the keeper: who is killed takes a moment to end, and may have forked just before."""


def hold() -> None:
    """Have all that this process starts from now on end with it. Once is enough, in each process.

    Temporary directories are made in one of the run's own, for the whole run: a part of it makes none.
    """
    if sys.platform != "linux" or is_held():
        return
    words = []
    if MARK not in os.environ:
        directory = os.path.realpath(tempfile.mkdtemp(prefix="p2pf-"))
        os.chmod(directory, 0o711)  # as other users pass through /tmp to what is made for them
        tempfile.tempdir = os.environ["TMPDIR"] = directory
        words.append(directory)
    mark = f"{os.getpid()}-{os.urandom(8).hex()}"
    reader, _ = os.pipe()  # the writer is open until this process ends, and nobody inherits it
    os.posix_spawn(
        sys.executable,
        [sys.executable, "-I", "-S", __file__, mark, *words],
        {name: value for name, value in os.environ.items() if name != MARK},  # it ends by itself
        file_actions=[
            (os.POSIX_SPAWN_DUP2, reader, 0),
            (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
            (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
        ],
        setsid=True,
    )
    os.close(reader)
    os.environ[MARK] = mark


def is_held() -> bool:
    """Whether it was this process that said `hold`, and not one that has started it."""
    return os.environ.get(MARK, "").startswith(f"{os.getpid()}-")


def mark() -> dict[str, str]:
    """The mark, for an environment that is made anew; empty where nothing is held."""
    return {MARK: os.environ[MARK]} if MARK in os.environ else {}


def keep(mark: str, directory: str | None = None) -> None:
    """The keeper's life: until its standard input ends, and then until nobody bears the mark."""
    os.read(0, 1)
    entry = f"{MARK}={mark}".encode()
    while _kill(entry):
        time.sleep(PAUSE_S)
    if directory is not None:
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
        remove(directory, [line.split()[4] for line in mounts])


def remove(directory: str, mounted: Iterable[str]) -> None:
    """With all in it; not where something is mounted below: a lab may show files of this machine there."""
    if not any(f"{where}/".startswith(f"{directory}/") for where in mounted):
        shutil.rmtree(directory, ignore_errors=True)


def _kill(entry: bytes) -> int:
    """Kill all that have this in their environment; how many there were."""
    found = 0
    for name in os.listdir("/proc"):
        if name.isdecimal():
            with suppress(OSError), _process(int(name)) as process:  # ended meanwhile, or another user's
                if entry in Path(f"/proc/{name}/environ").read_bytes().split(b"\0"):
                    signal.pidfd_send_signal(process, signal.SIGKILL)
                    found += 1
    return found


@contextmanager
def _process(pid: int) -> Iterator[int]:
    """A descriptor of it: its number may be another's by the time that it is killed."""
    descriptor = os.pidfd_open(pid)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


if __name__ == "__main__":
    keep(*sys.argv[1:])
