"""Where the service of a home is written, and whether it is: `listen` asks before it starts a daemon."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from p2pfwd.service import launchd, systemd
from p2pfwd.service.launchd_plist import agent
from p2pfwd.service.systemd_unit import system_unit, user_unit
from p2pfwd.service.values import Definition, Program, is_ours
from p2pfwd.state.home_lock import SYSTEM_HOME


def definition(
    program: Program, home: Path, log_file: Path, environ: Mapping[str, str], *, is_default: bool
) -> Definition:
    """The service of `home` on this machine: the system's for its own home, else this user's."""
    if launchd.is_here():
        directory = Path(os.path.expanduser("~/Library/LaunchAgents"))
        return agent(program, home, log_file, directory, is_default=is_default)
    if home == SYSTEM_HOME:
        return system_unit(program)
    return user_unit(program, home, user_units(environ), is_default=is_default)


def user_units(environ: Mapping[str, str]) -> Path:
    """The directory of the units that a user has written."""
    config = environ.get("XDG_CONFIG_HOME")
    base = Path(config) if config and os.path.isabs(config) else Path(os.path.expanduser("~/.config"))
    return base / "systemd" / "user"


def start_installed(found: Definition, environ: Mapping[str, str]) -> bool:
    """Start the service where it is installed and its manager is here; False where it is not."""
    if not is_ours(found):
        return False
    if launchd.is_here():
        launchd.start(found)
        return True
    if not systemd.is_booted():
        return False  # a container that shares the home
    systemd.start(found, environ)
    return True
