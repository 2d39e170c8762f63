"""Whether this machine runs on battery, by what Linux says in sysfs (its ABI/testing/sysfs-class-power).

A battery is asked nothing: its state can take milliseconds to find out. It is enough that there is one, and
that no supply is online.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

SUPPLIES: Final = Path("/sys/class/power_supply")


def on_battery(supplies: Path = SUPPLIES) -> bool | None:
    """None where the system does not tell. A kernel that knows no supplies is a server's."""
    if not supplies.is_dir():
        return False if supplies.parent.is_dir() else None
    has_battery = False
    for supply in supplies.iterdir():
        kind = _read(supply / "type")
        if kind == "Battery":
            has_battery |= _read(supply / "scope") != "Device"  # a mouse's, a pen's
        elif _read(supply / "online") not in ("", "0"):
            return False
    return has_battery


def _read(path: Path) -> str:
    """What one attribute says; nothing where there is none, or where its driver has no answer."""
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
