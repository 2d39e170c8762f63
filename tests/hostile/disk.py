"""A victim's disk that is full, or that hangs, once its daemon is up."""

from __future__ import annotations

import subprocess
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Self

from tests.hostile.ground import Unavailable

Disk = Literal["well", "full", "slow"]

SIZE: Final = "16m"
INJECT: Final = Path(__file__).with_name("inject")


class VictimsDisk:
    """Of the home `home`, which is made; `env` is for the daemon there. A context manager.

    full: the home is a file system of its own, and nothing more fits. slow: each write takes seconds, in the
    thread that does it (`inject/sitecustomize`). Raises Unavailable.
    """

    def __init__(self, home: Path, disk: Disk) -> None:
        self._home, self._disk = home, disk
        self._stack = ExitStack()
        self._flag = home.with_name("slow")
        self.env: dict[str, str] = {}
        home.mkdir()
        if disk == "full":
            self._mount()
        elif disk == "slow":
            self.env = {"PYTHONPATH": str(INJECT), "HOSTILE_SLOW": str(self._flag), "HOSTILE_HOME": str(home)}

    def _mount(self) -> None:
        words = ["mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=700", "tmpfs", str(self._home)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Unavailable(f"no file system can be mounted here: {done.stderr.strip()}")
        self._stack.callback(subprocess.run, ["umount", "-l", str(self._home)], check=True)

    def spoil(self) -> None:
        """From now on it is full, or hangs."""
        if self._disk == "slow":
            self._flag.touch()
        elif self._disk == "full":
            try:
                with (self._home / "ballast").open("wb", buffering=0) as file:
                    while True:
                        file.write(bytes(4096))
            except OSError:
                return  # nothing more fits

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._flag.unlink(missing_ok=True)
        self._stack.close()
