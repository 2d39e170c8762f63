"""system.control_group: which groups end with a service, and how a command gets out of one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from p2pfwd.system import control_group
from p2pfwd.system.control_group import Service, own_service, service_of, way_out

GROUPS = [
    ("0::/system.slice/web.service\n", Service("web.service", "system")),
    ("0::/system.slice/system-web.slice/web@1.service\n", Service("web@1.service", "system")),
    ("12:cpu:/a.service\n1:name=systemd:/system.slice/web.service\n0::/\n", Service("web.service", "system")),
    (
        "0::/user.slice/user-1000.slice/user@1000.service/app.slice/sync.service\n",
        Service("sync.service", "user"),
    ),
    ("0::/user.slice/user-1000.slice/user@1000.service\n", Service("user@1000.service", "system")),
    ("0::/user.slice/user-1000.slice/session-2.scope\n", None),
    ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/vte-spawn-7.scope\n", None),
    ("0::/system.slice/docker-abc.scope\n", None),
    ("0::/system.slice/web.service/sub\n", None),  # its own affair, by Delegate=
    ("0::/\n", None),
    ("12:cpu:/web.service\n", None),
    ("", None),
    ("rubbish\n:::\n", None),
]


@pytest.mark.parametrize(("text", "service"), GROUPS)
def test_the_group_tells_the_service(text: str, service: Service | None) -> None:
    assert service_of(text) == service


def test_only_what_systemd_started_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs of cron and shells of sshd are in their unit's group, and outlive it."""
    (tmp_path / "cgroup").write_text("0::/system.slice/cron.service\n")
    monkeypatch.setattr(control_group, "PROC_FILE", tmp_path / "cgroup")
    assert own_service({}) is None
    assert own_service({"INVOCATION_ID": "0" * 32}) == Service("cron.service", "system")
    monkeypatch.setattr(control_group, "PROC_FILE", tmp_path / "none")
    assert own_service({"INVOCATION_ID": "0" * 32}) is None


@pytest.mark.parametrize(
    ("manager", "uid", "words"),
    [("user", 1000, ["--user"]), ("system", 0, []), ("system", 1000, None), ("user", 0, ["--user"])],
)
def test_the_way_out_is_asked_of_the_manager_that_can_grant_it(
    manager: str, uid: int, words: list[str] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}")
    found = way_out(Service("web.service", manager), uid)
    if words is None:
        assert found is None
    else:
        assert found is not None
        assert found[: 2 + len(words)] == ["/bin/systemd-run", *words, "--scope"]
        assert found[-1] == "--"
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert way_out(Service("web.service", manager), uid) is None
