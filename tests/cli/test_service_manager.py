"""Under a service manager: the manual's units are units, and no daemon dies with one that needed it.

systemd itself is not to be had here: `systemd-run` is a script that does what the real one does with --scope
(it becomes the command, in the same process), and notes how it was called.
"""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from p2pfwd.rpc import autostart
from p2pfwd.rpc.paths import Paths
from p2pfwd.rpc.reach import reach
from p2pfwd.service.systemd_unit import user_unit
from p2pfwd.service.values import Program
from p2pfwd.system import control_group
from p2pfwd.system.control_group import Service
from tests.support.daemon import environment

MANUAL = Path(__file__).parents[2] / "man" / "p2pfwd-daemon.8"
LOOPBACK = {"P2PFWD_SWARM_LISTEN": "/ip4/127.0.0.1/tcp/0"}

SYSTEMD_RUN = """#!/bin/sh
echo "$@" >>"$NOTES"
test "$OUTCOME" = granted || exit 1
while test "$1" != --; do shift; done
shift
exec "$@"
"""


@pytest.fixture
def service_env(home: Path) -> Iterator[dict[str, str]]:
    """The environment of a command in a service; whatever daemon it starts is stopped."""
    (home / "bin").mkdir()
    program = home / "bin" / "systemd-run"
    program.write_text(SYSTEMD_RUN)
    program.chmod(0o755)
    yield environment(
        home,
        {
            **LOOPBACK,
            "PATH": f"{home}/bin:{os.environ['PATH']}",
            "NOTES": str(home / "notes"),
            "P2PFWD_AUTOSTART": "1",
        },
    )
    with reach(Paths.resolve(str(home), {})) as client:
        pid = client.hello.pid
        client.call("daemon.shutdown")
    os.waitpid(pid, 0)


@pytest.mark.parametrize(
    ("service", "outcome", "asked", "remains"),
    [
        (Service("web.service", "user"), "granted", 1, False),
        (Service("web.service", "user"), "refused", 1, True),
        (Service("web.service", "system"), "granted", 0, True),
        (None, "granted", 0, False),
    ],
)
def test_a_daemon_gets_a_group_of_its_own_where_that_can_be_had(
    home: Path,
    service_env: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    service: Service | None,
    outcome: str,
    asked: int,
    remains: bool,
) -> None:
    monkeypatch.setenv("PATH", service_env["PATH"])
    monkeypatch.setattr(autostart, "own_service", lambda env: service)
    monkeypatch.setattr(autostart, "way_out", lambda found, uid: control_group.way_out(found, 1000))
    left = autostart.start(Paths.resolve(str(home), {}), {**service_env, "OUTCOME": outcome}, 20)
    assert left == (service if remains else None)
    notes = (home / "notes").read_text().splitlines() if (home / "notes").exists() else []
    assert len(notes) == asked
    assert all("--user --scope" in line for line in notes)


def test_a_daemon_that_fails_by_the_way_out_is_told_as_without(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from p2pfwd.errors import InvalidConfig

    (home / "config.toml").write_text("zebra = 1\n")
    monkeypatch.setattr(autostart, "own_service", lambda env: Service("web.service", "user"))
    monkeypatch.setattr(autostart, "way_out", lambda service, uid: ["env"])
    with pytest.raises(InvalidConfig, match="unknown key zebra"):
        autostart.start(Paths.resolve(str(home), {}), environment(home), 20)


def test_listen_says_so_where_the_daemon_will_end_with_the_service(
    service_env: dict[str, str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from p2pfwd.cli.app import main

    for name, value in service_env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(autostart, "own_service", lambda env: Service("web.service", "system"))
    monkeypatch.setattr(autostart, "way_out", lambda service, uid: None)
    assert main(["listen", "/x/web", "1"]) == 0
    err = capfd.readouterr().err
    assert "Warning: the daemon is a part of web.service, and ends with it" in err
    assert "P2PFWD_AUTOSTART=0" in err


# --- the units of the manual ----------------------------------------------------------------------


def units() -> dict[str, str]:
    """The unit files in p2pfwd-daemon(8): the literal displays that begin with their name as a comment."""
    text = MANUAL.read_text()
    displays = re.findall(r"^\.Bd -literal[^\n]*\n(.*?)^\.Ed$", text, re.MULTILINE | re.DOTALL)
    found = {}
    for display in displays:
        plain = display.replace("\\e", "\\").replace("\\-", "-")
        first, _, rest = plain.partition("\n")
        if first.startswith("# ") and first.endswith(".service"):
            found[first.rpartition("/")[2].removeprefix("# ")] = rest
    return found


def test_the_manual_has_units_that_need_the_daemons() -> None:
    found = {name: read(text) for name, text in units().items()}
    assert found
    for unit in found.values():
        assert unit["Unit"]["Requires"] == unit["Unit"]["After"] == "p2pfwd.service"
        assert unit["Service"]["Environment"] == "P2PFWD_AUTOSTART=0"
        assert " -f" in unit["Service"]["ExecStart"]


def read(text: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, strict=True)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(text)
    return parser


def test_systemd_takes_the_units(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    (tmp_path / "units").mkdir()
    (tmp_path / "run").mkdir(mode=0o700)
    daemon = user_unit(Program(("/bin/true",), {}), tmp_path, tmp_path, is_default=True)
    for name, text in {**units(), daemon.label: daemon.text}.items():
        program = shutil.which("true")
        (tmp_path / "units" / name).write_text(re.sub(r"(?m)^ExecStart=\S+", f"ExecStart={program}", text))
    done = subprocess.run(
        ["systemd-analyze", "--user", "--man=no", "verify", *map(str, (tmp_path / "units").iterdir())],
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path / "run")},
        capture_output=True,
        text=True,
        check=False,
    )
    mine = [line for line in done.stderr.splitlines() if "p2pfwd" in line or str(tmp_path) in line]
    if done.returncode != 0 and not mine:
        pytest.skip(f"systemd-analyze does not run here: {done.stderr.strip()[:200]}")
    assert mine == []
