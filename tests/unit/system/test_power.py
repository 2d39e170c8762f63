"""Pins what counts as running on battery, by sysfs as Linux has it."""

from __future__ import annotations

from pathlib import Path

import pytest

from p2pfwd.system.power import on_battery

MAINS = {"type": "Mains", "online": "1"}
UNPLUGGED = {"type": "Mains", "online": "0"}
USB = {"type": "USB", "online": "1"}
BATTERY = {"type": "Battery", "status": "Discharging"}
MOUSE = {"type": "Battery", "scope": "Device", "status": "Discharging"}


@pytest.mark.parametrize(
    ("supplies", "expected"),
    [
        ([], False),  # a server, a virtual machine
        ([MAINS], False),
        ([MAINS, BATTERY], False),
        ([BATTERY, MAINS], False),
        ([BATTERY, UNPLUGGED], True),
        ([BATTERY], True),
        ([BATTERY, UNPLUGGED, USB], False),  # charged by its USB port
        ([MOUSE], False),
        ([MOUSE, BATTERY], True),
        ([{"type": "Battery", "scope": "System"}], True),
        ([UNPLUGGED], False),
        ([BATTERY, {"type": "Mains"}], True),  # one that does not say
        ([{}], False),
    ],
)
def test_a_battery_of_the_machine_and_no_supply_that_is_online(
    tmp_path: Path, supplies: list[dict[str, str]], expected: bool
) -> None:
    for number, attributes in enumerate(supplies):
        supply = tmp_path / f"supply{number}"
        supply.mkdir()
        for name, value in attributes.items():
            (supply / name).write_text(value + "\n")
    assert on_battery(tmp_path) is expected


def test_a_kernel_without_supplies_has_no_battery_and_without_sysfs_nobody_knows(tmp_path: Path) -> None:
    assert on_battery(tmp_path / "power_supply") is False
    assert on_battery(tmp_path / "class" / "power_supply") is None
