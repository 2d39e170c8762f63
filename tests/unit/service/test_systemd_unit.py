"""service.systemd_unit: units that systemd takes, quoted as it reads them, and confined."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from p2pfwd.service.systemd_unit import SYSUSERS, system_unit, user_unit
from p2pfwd.service.values import Definition, Program, is_ours
from p2pfwd.state.home_lock import SYSTEM_HOME

PROGRAM = Program(("/opt/p2pfwd/bin/python", "-P", "-m", "p2pfwd.daemon"), {"P2PFWD_HOME": str(SYSTEM_HOME)})
MOST_EXPOSED = 2.0
DIRECTORY = Path("/home/alice/.config/systemd/user")


def read(definition: Definition) -> configparser.ConfigParser:
    """The unit's settings; of one given twice, the last."""
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(definition.text)
    return parser


def of_user(home: Path = Path("/home/alice/.local/share/p2pfwd"), *, is_default: bool = True) -> Definition:
    return user_unit(PROGRAM, home, DIRECTORY, is_default=is_default)


@pytest.mark.parametrize("definition", [of_user(), system_unit(PROGRAM)], ids=["user", "system"])
def test_it_is_watched_started_again_within_limits_and_waits_for_no_network(definition: Definition) -> None:
    unit, service = read(definition)["Unit"], read(definition)["Service"]
    assert service["Type"] == "notify" and int(service["WatchdogSec"]) > 0
    assert service["Restart"] == "on-failure" and service["RestartPreventExitStatus"] == "2"
    assert int(unit["StartLimitBurst"]) * int(service["RestartSec"]) < int(unit["StartLimitIntervalSec"])
    assert "network" not in definition.text.replace("RestrictNetwork", "")
    assert service["LimitCORE"] == "0", "a core dump would have the identity's key in it"


def test_the_units_differ_in_who_runs_them_and_when() -> None:
    system, user = read(system_unit(PROGRAM)), read(of_user())
    assert (system["Service"]["User"], "User" in user["Service"]) == ("p2pfwd", False)
    assert system["Install"]["WantedBy"] == "multi-user.target"
    assert user["Install"]["WantedBy"] == "default.target"
    assert f"u p2pfwd - \"p2pfwd daemon\" {SYSTEM_HOME}\n" in SYSUSERS


def test_words_reach_the_daemon_as_they_are() -> None:
    program = Program(('/a b/"py%n$x\\', "-P"), {"P2PFWD_HOME": '/h "%h"\n$y'})
    text = user_unit(program, Path("/h"), DIRECTORY, is_default=False).text
    assert 'ExecStart="/a b/\\"py%%n$$x\\\\" "-P"\n' in text
    assert 'Environment="P2PFWD_HOME=/h \\"%%h\\"\\n$y"\n' in text


def test_each_home_has_its_own_unit_and_no_other_is_taken_for_it(tmp_path: Path) -> None:
    one, other = of_user(Path("/one"), is_default=False), of_user(Path("/other"), is_default=False)
    assert len({one.label, other.label, of_user().label}) == 3
    path = tmp_path / "p2pfwd.service"
    path.write_text(one.text)
    assert is_ours(Definition(one.label, path, Path("/one"), False))
    assert not is_ours(Definition(one.label, path, Path("/on"), False))
    assert not is_ours(Definition(one.label, tmp_path / "none", Path("/one"), False))


def analyze(*words: str) -> subprocess.CompletedProcess[str]:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    return subprocess.run(["systemd-analyze", *words], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("definition", [of_user(), system_unit(PROGRAM)], ids=["user", "system"])
def test_systemd_understands_every_line(tmp_path: Path, definition: Definition) -> None:
    path = tmp_path / definition.label
    path.write_text(definition.text.replace(PROGRAM.arguments[0], str(shutil.which("true"))))
    done = analyze("--man=no", "verify", str(path))
    assert [line for line in done.stderr.splitlines() if "p2pfwd" in line or str(tmp_path) in line] == []


def test_the_systems_service_is_exposed_as_little_as_promised(tmp_path: Path) -> None:
    path = tmp_path / "p2pfwd.service"
    path.write_text(system_unit(PROGRAM).text)
    done = analyze("security", "--offline=true", "--no-pager", str(path))
    found = re.search(r"exposure level for p2pfwd.service: ([0-9.]+)", done.stdout)
    if found is None:
        pytest.skip(f"systemd-analyze does not judge files here: {done.stderr.strip()[:200]}")
    assert float(found[1]) <= MOST_EXPOSED
