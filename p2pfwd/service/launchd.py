"""Speaks to launchd by launchctl(1). Blocking; for the CLI alone, on macOS."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

from p2pfwd.errors import ServiceFailed
from p2pfwd.service.values import Definition

TIMEOUT_S = 60.0


def is_here() -> bool:
    """Whether launchd manages this machine."""
    return sys.platform == "darwin"


@dataclass(slots=True)
class Launchd:
    """The agents of this user's session; `ran` has the commands that changed something."""

    ran: list[str] = field(default_factory=list)

    @property
    def domain(self) -> str:
        """Where the agents live."""
        return f"gui/{os.geteuid()}"

    def change(self, *words: str) -> None:
        """Run `launchctl WORDS`, and note it. Raises ServiceFailed."""
        done = self._call(words)
        shown = shlex.join(("launchctl", *words))
        if done.returncode != 0:
            said = (done.stderr or done.stdout).strip().splitlines()
            raise ServiceFailed(
                f"{shown} failed: {said[0] if said else f'exit status {done.returncode}'}", command=shown
            )
        self.ran.append(shown)

    def show(self, label: str) -> dict[str, str] | None:
        """What `launchctl print` says of a loaded agent, by its names; None for one that is not loaded."""
        done = self._call(("print", f"{self.domain}/{label}"))
        if done.returncode != 0:
            return None
        pairs = [line.strip().partition(" = ") for line in done.stdout.splitlines()]
        return {name: value for name, equals, value in reversed(pairs) if equals}

    def _call(self, words: Sequence[str]) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(
                ["launchctl", *words],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=TIMEOUT_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as exc:
            raise ServiceFailed(f"launchctl {words[0]} cannot be run: {exc}") from exc


def start(definition: Definition) -> None:
    """Start an installed agent. Raises ServiceFailed."""
    launchd = Launchd()
    if launchd.show(definition.label) is None:
        launchd.change("bootstrap", launchd.domain, str(definition.path))
    launchd.change("kickstart", f"{launchd.domain}/{definition.label}")
