"""service.launchd_plist: a property list of launchd.plist(5)'s keys, each of its type. No Mac has read it."""

from __future__ import annotations

import plistlib
from pathlib import Path

import pytest

from p2pfwd.rpc.autostart import READY_VARIABLE
from p2pfwd.service.launchd_plist import agent
from p2pfwd.service.values import Program, is_ours

KEYS = {
    "Label": str,
    "ProgramArguments": list,
    "EnvironmentVariables": dict,
    "WorkingDirectory": str,
    "RunAtLoad": bool,
    "KeepAlive": dict,
    "ThrottleInterval": int,
    "ProcessType": str,
    "Umask": int,
    "SoftResourceLimits": dict,
    "StandardOutPath": str,
    "StandardErrorPath": str,
}
HOMES = [Path("/Users/alice/Library/Application Support/p2pfwd"), Path("/a --> b & <c>")]


@pytest.mark.parametrize("home", HOMES, ids=["usual", "awkward"])
def test_launchd_is_told_what_it_knows(tmp_path: Path, home: Path) -> None:
    program = Program(("/opt/p2pfwd/bin/python", "-P", "-m", "p2pfwd.daemon"), {"P2PFWD_HOME": str(home)})
    made = agent(program, home, home / "daemon.log", tmp_path, is_default=False)
    keys = plistlib.loads(made.text.encode(), fmt=plistlib.FMT_XML)
    assert {name: type(value) for name, value in keys.items()} == KEYS
    assert keys["Label"] == made.label and made.path.name == f"{made.label}.plist"
    assert keys["ProgramArguments"] == list(program.arguments)
    assert keys["EnvironmentVariables"] == {"P2PFWD_HOME": str(home), READY_VARIABLE: ""}
    assert keys["KeepAlive"] == {"SuccessfulExit": False}
    assert keys["ProcessType"] in ("Background", "Standard", "Adaptive", "Interactive")
    assert keys["Umask"] == 0o077 and keys["RunAtLoad"] is True
    made.path.write_text(made.text)
    assert is_ours(made)


def test_the_usual_home_needs_no_variable(tmp_path: Path) -> None:
    made = agent(Program(("p2pfwd",), {}), HOMES[0], HOMES[0] / "daemon.log", tmp_path, is_default=True)
    assert made.label == "p2pfwd"
    assert plistlib.loads(made.text.encode())["EnvironmentVariables"] == {READY_VARIABLE: ""}
