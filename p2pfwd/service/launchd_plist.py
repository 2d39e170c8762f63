"""The property list of a launchd agent, as launchd.plist(5) describes it."""

from __future__ import annotations

import plistlib
from pathlib import Path
from typing import Any

from p2pfwd.service.values import Definition, Program, mark, suffix

RESTART_S = 5

IN_BACKGROUND = {"P2PFWD_READY_FD": ""}
"""As a daemon that a command has started: it writes its log file itself, and bounds it."""


def agent(program: Program, home: Path, log_file: Path, directory: Path, *, is_default: bool) -> Definition:
    """An agent of a user, in `directory` (~/Library/LaunchAgents), that starts at login and after a failure.

    What is printed before the log is open, and why it could not be, goes to `log_file` too.
    """
    label = f"p2pfwd{suffix(home, is_default=is_default)}"
    keys: dict[str, Any] = {
        "Label": label,
        "ProgramArguments": list(program.arguments),
        "EnvironmentVariables": {**program.environment, **IN_BACKGROUND},
        "WorkingDirectory": "/",
        "RunAtLoad": True,
        "KeepAlive": {"SuccessfulExit": False},
        "ThrottleInterval": RESTART_S,
        "ProcessType": "Interactive",  # launchd slows the others down
        "Umask": 0o077,
        "SoftResourceLimits": {"NumberOfFiles": 8192},
        "StandardOutPath": str(log_file),
        "StandardErrorPath": str(log_file),
    }
    head, body = plistlib.dumps(keys, sort_keys=False).decode().split("<plist", 1)
    text = f"{head}<!-- {mark(home)} -->\n<plist{body}"
    return Definition(label, directory / f"{label}.plist", home, False, text)
