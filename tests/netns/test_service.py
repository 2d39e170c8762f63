"""`p2pfwd service` under a real systemd, in a container: it is there after a crash, a hang and a reboot.

The container has loopback alone, so what comes up here comes up before any network is there.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.netns.systemd_container import PYTHON, SystemdContainer
from tests.netns.two_machines import Unavailable
from tests.support.readme import story

pytestmark = [pytest.mark.netns, pytest.mark.timeout(180)]

HOME = "/var/lib/p2pfwd"
FAR = ("--home", "/tmp/far")
WAIT_S = 30.0
FAST = "[Service]\nRestartSec=100ms\nWatchdogSec=2\nTimeoutAbortSec=1\n"
"""A crash, and a loop that hangs, are noticed within the patience of a test."""

ECHO = """\
import socketserver
class Echo(socketserver.StreamRequestHandler):
    def handle(self):
        self.wfile.write(self.rfile.readline())
socketserver.TCPServer.allow_reuse_address = True
socketserver.TCPServer(("127.0.0.1", 8080), Echo).serve_forever()
"""
ASK = """\
import socket
with socket.create_connection(("127.0.0.1", 18080), 10) as conn:
    conn.sendall(b"hello\\n")
    assert conn.recv(100) == b"hello\\n"
"""


@pytest.fixture(scope="module")
def container(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SystemdContainer]:
    try:
        made = SystemdContainer(tmp_path_factory.mktemp("container"))
    except Unavailable as exc:
        pytest.skip(str(exc))
    with made:
        made.run("mkdir", "-p", "/etc/systemd/system/p2pfwd.service.d")
        made.run("tee", "/etc/systemd/system/p2pfwd.service.d/fast.conf", text=FAST)
        unit = f"[Service]\nExecStart={PYTHON} /etc/echo.py\n"
        made.run("tee", "/etc/systemd/system/echo.service", text=unit)
        made.run("tee", "/etc/echo.py", text=ECHO)
        made.run("useradd", "--create-home", "--shell", "/bin/sh", "alice")
        yield made


@pytest.fixture
def installed(container: SystemdContainer) -> Iterator[SystemdContainer]:
    """A service of the system, which shares the echo server; it is gone afterwards, home and all."""
    told(container, "service", "install", "--system")
    container.run("systemctl", "start", "echo")
    told(container, "--home", HOME, "listen", "/x/echo", "8080")
    yield container
    told(container, "service", "uninstall", "--system")
    container.run("sh", "-c", f"rm -rf {HOME}/*")


@pytest.fixture
def alice(container: SystemdContainer) -> Iterator[str]:
    """A user without a service, a home or a manager; so again afterwards."""
    yield "alice"
    container.p2pfwd("service", "uninstall", user="alice")
    container.p2pfwd("shutdown", user="alice")
    container.finished("loginctl", "disable-linger", "alice")
    container.finished("systemctl", "stop", f"user@{container.run('id', '-u', 'alice')}.service")
    container.run("rm", "-rf", "/home/alice/.local", "/home/alice/.config")


def told(container: SystemdContainer, *words: str, user: str | None = None) -> str:
    """What a command that succeeds prints."""
    done = container.p2pfwd(*words, user=user)
    assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    return done.stdout


def linger(container: SystemdContainer) -> None:
    """Have alice's manager run without a login, and wait for it."""
    container.run("loginctl", "enable-linger", "alice")
    manager = f"user@{container.run('id', '-u', 'alice')}.service"
    until(lambda: container.finished("systemctl", "is-active", manager).returncode == 0)


def status(container: SystemdContainer) -> dict[str, Any]:
    """What `service status --json` says; it need not run."""
    found: dict[str, Any] = json.loads(container.p2pfwd("service", "status", "--system", "--json").stdout)
    return found


def again(container: SystemdContainer, pid: int) -> dict[str, Any]:
    """The status of the daemon that came after process `pid`, once it answers."""
    found: dict[str, Any] = {}

    def is_back() -> bool:
        found.update(status(container))
        return found["PID"] not in (None, pid) and found["Daemon"] is not None

    until(is_back)
    return found


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def echoes(container: SystemdContainer) -> None:
    """A tunnel from another daemon to the service's carries bytes there and back."""
    found = json.loads(told(container, "--home", HOME, "id", "--json"))["Addresses"]
    (address,) = [one for one in found if "/127.0.0.1/" in one]
    told(container, *FAR, "forward", "--ephemeral", "/x/echo", "18080", address)
    try:
        until(lambda: container.finished(PYTHON, "-c", ASK).returncode == 0)
    finally:
        told(container, *FAR, "shutdown")


def test_a_service_of_the_system_carries_a_tunnel_as_a_user_of_its_own(installed: SystemdContainer) -> None:
    found = status(installed)
    assert (found["Enabled"], found["AtBoot"], found["Active"]) == (True, True, True)
    assert found["Daemon"]["Listeners"] == 1
    modes = installed.run("stat", "-c", "%U %a", HOME, f"{HOME}/identity.key")
    assert modes.splitlines() == ["p2pfwd 700", "p2pfwd 600"]
    confined = installed.run("cat", f"/proc/{found['PID']}/status")
    for line in ("CapEff:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"):
        assert line in confined
    echoes(installed)


def test_installed_again_nothing_changes_and_no_stream_is_cut(installed: SystemdContainer) -> None:
    before = status(installed)["PID"]
    done = json.loads(told(installed, "service", "install", "--system", "--json"))
    assert (done["Changed"], done["Wrote"], done["Ran"]) == (False, [], [])
    assert status(installed)["PID"] == before


def test_killed_it_is_started_again(installed: SystemdContainer) -> None:
    pid = status(installed)["PID"]
    installed.run("kill", "-9", str(pid))
    found = again(installed, pid)
    assert (found["Restarts"], found["Daemon"]["Listeners"]) == (1, 1)
    echoes(installed)


def test_a_loop_that_hangs_is_ended_and_started_again(installed: SystemdContainer) -> None:
    pid = status(installed)["PID"]
    time.sleep(4.5)  # twice the watchdog's time: a loop that turns is left alone
    assert status(installed)["PID"] == pid
    installed.run("kill", "-STOP", str(pid))
    assert again(installed, pid)["Restarts"] == 1
    log = told(installed, "service", "logs", "--system", "-n", "200")
    assert "Watchdog timeout" in log
    assert "Fatal Python error: Aborted" in log and "asyncio/runners.py" in log, "where it hung"
    echoes(installed)


def test_it_is_back_after_a_reboot_before_there_is_a_network(installed: SystemdContainer) -> None:
    installed.shut_down()
    installed.boot()
    installed.run("systemctl", "start", "echo")
    found = status(installed)
    assert (found["Active"], found["Daemon"]["Listeners"], found["Restarts"]) == (True, 1, 0)
    echoes(installed)
    installed.run("ip", "link", "add", "late", "type", "veth", "peer", "name", "other")
    installed.run("ip", "link", "set", "other", "up")
    installed.run("ip", "address", "add", "10.99.0.1/24", "dev", "late")
    installed.run("ip", "link", "set", "late", "up")
    until(lambda: "/ip4/10.99.0.1/tcp/" in told(installed, "--home", HOME, "id", "--json"))


def test_after_a_power_cut_too(installed: SystemdContainer) -> None:
    installed.shut_down(clean=False)
    installed.boot()
    assert status(installed)["Daemon"]["Listeners"] == 1


def test_stopped_by_its_owner_it_stays_stopped_until_a_tunnel_is_wanted(installed: SystemdContainer) -> None:
    told(installed, "--home", HOME, "shutdown")
    until(lambda: not status(installed)["Active"])
    assert installed.p2pfwd("service", "status", "--system").returncode == 3
    done = installed.p2pfwd("--home", HOME, "listen", "/x/other", "9090")
    assert "Started the service p2pfwd.service" in done.stderr
    assert (status(installed)["Active"], status(installed)["Daemon"]["Listeners"]) == (True, 2)


def test_settings_that_cannot_be_meant_are_not_tried_again(installed: SystemdContainer) -> None:
    installed.run("tee", f"{HOME}/config.toml", text="zebra = 1\n")
    done = installed.finished("systemctl", "restart", "p2pfwd")
    assert done.returncode != 0
    found = status(installed)
    assert (found["Active"], found["LastExit"]) == (False, "exit status 2")
    assert "unknown key zebra" in told(installed, "service", "logs", "--system")
    installed.run("rm", f"{HOME}/config.toml")


def test_lines_in_the_journal_have_one_time_and_their_priority(installed: SystemdContainer) -> None:
    lines = installed.run("journalctl", "-u", "p2pfwd", "--output=json", "-n", "200").splitlines()
    own = [it for it in map(json.loads, lines) if it.get("SYSLOG_IDENTIFIER") == "p2pfwd"]
    info = next(it for it in own if it["MESSAGE"].startswith("INFO discovery: taking part"))
    assert info["PRIORITY"] == "6"
    assert not any(it["MESSAGE"][:4].isdecimal() for it in own)


def test_others_are_told_how_to_reach_it(installed: SystemdContainer) -> None:
    done = installed.p2pfwd("--home", HOME, "ls", user="alice")
    assert done.returncode == 1
    assert f"sudo p2pfwd --home {HOME}" in done.stderr
    done = installed.p2pfwd("service", "uninstall", "--system", user="alice")
    assert done.returncode == 2 and "sudo p2pfwd service uninstall --system" in done.stderr
    told(installed, "service", "status", "--system", user="alice")
    assert "/x/echo" in told(installed, "--home", HOME, "ls", user="p2pfwd")


def test_root_writes_no_file_that_the_service_could_not_read(installed: SystemdContainer) -> None:
    done = installed.p2pfwd("--home", HOME, "hub")
    assert done.returncode == 1 and "run it as that user" in done.stderr
    installed.p2pfwd("--home", HOME, "hub", user="p2pfwd")
    assert installed.run("stat", "-c", "%U %a", f"{HOME}/config.toml") == "p2pfwd 600"
    installed.run("systemctl", "restart", "p2pfwd")
    installed.run("rm", f"{HOME}/config.toml")


def masked(text: str) -> str:
    """What differs from run to run is left out."""
    return re.sub(r"\b(for|process|p2pfwd) [0-9][0-9a-z.]*", r"\1 N", text.rstrip("\n"))


def test_a_service_of_a_user_is_his_own_and_the_readme_says_what_is_printed(
    container: SystemdContainer, alice: str
) -> None:
    done = container.p2pfwd("service", "install", user=alice)
    assert done.returncode == 1 and "sudo loginctl enable-linger alice" in done.stderr
    assert container.finished("test", "-e", "/home/alice/.config/systemd").returncode != 0
    linger(container)
    for command, printed in story("Leave it running"):
        words = command.split()
        if words[0] != "p2pfwd":
            assert command in ("sudo loginctl enable-linger alice", "sudo reboot")
            if words[1] == "reboot":
                container.shut_down()
                container.boot()
                until(lambda: container.p2pfwd("service", "status", user=alice).returncode == 0)
            continue
        assert masked(told(container, *words[1:], user=alice)) == masked(printed), command
        if words[1:] == ["service", "install"]:
            told(container, "listen", "/x/mine", "22", user=alice)


def test_a_service_of_a_user_starts_at_boot_with_linger(container: SystemdContainer, alice: str) -> None:
    linger(container)
    told(container, "service", "install", user=alice)
    told(container, "listen", "/x/mine", "22", user=alice)
    container.shut_down()
    container.boot()
    until(lambda: container.p2pfwd("service", "status", user=alice).returncode == 0)
    assert "/x/mine" in told(container, "ls", user=alice)
    assert "Daemon is ready" in told(container, "service", "logs", user=alice)
    told(container, "service", "uninstall", user=alice)
    assert container.p2pfwd("service", "status", user=alice).returncode == 4
    assert container.finished("test", "-e", "/home/alice/.local/share/p2pfwd/state.db").returncode == 0


def test_a_daemon_that_runs_already_is_not_fought_with(container: SystemdContainer, alice: str) -> None:
    linger(container)
    told(container, "listen", "/x/early", "22", user=alice)
    done = container.p2pfwd("service", "install", user=alice)
    assert done.returncode == 1 and "p2pfwd shutdown, then p2pfwd service install again" in done.stderr
    told(container, "shutdown", user=alice)
    told(container, "service", "install", user=alice)
    assert "/x/early" in told(container, "ls", user=alice)
    told(container, "service", "uninstall", user=alice)


def test_what_the_manual_says_of_ports_and_sockets_holds(installed: SystemdContainer) -> None:
    """A Unix socket in /run/p2pfwd is forwarded, and, by what `systemctl edit` writes, a port below 1024."""
    told(installed, *FAR, "listen", "/x/far", "22")
    try:
        found = json.loads(told(installed, *FAR, "id", "--json"))["Addresses"]
        (address,) = [one for one in found if "/127.0.0.1/" in one]
        forward = ("--home", HOME, "forward", "--no-check", "/x/far")
        told(installed, *forward, "/run/p2pfwd/far.sock", address)
        assert installed.run("stat", "-c", "%F", "/run/p2pfwd/far.sock") == "socket"
        low = (*forward, "81", address)
        assert installed.p2pfwd(*low).returncode != 0
        more = "AmbientCapabilities=CAP_NET_BIND_SERVICE\nCapabilityBoundingSet=CAP_NET_BIND_SERVICE\n"
        edited = f"[Service]\n{more}PrivateUsers=no\n"
        place = "/etc/systemd/system/p2pfwd.service.d/low.conf"
        installed.run("tee", place, text=edited)
        installed.run("systemctl", "daemon-reload")
        installed.run("systemctl", "restart", "p2pfwd")
        told(installed, *low)
        installed.run("rm", place)
        installed.run("systemctl", "daemon-reload")
    finally:
        told(installed, *FAR, "shutdown")


PARTS = """\
import asyncio, subprocess, sys
from p2pfwd.wire.pnet import KeyStream
assert KeyStream(bytes(32), bytes(24)).xor(b"x") != b"x"
from p2pfwd.core.keys import KeyType, PrivateKey
for kind in KeyType:
    key = PrivateKey.generate(kind)
    assert key.public_key.verify(b"x", key.sign(b"x"))
import datetime, uvloop, p2pfwd.net.port_mapping.upnp_child as child
from p2pfwd.wire.tls.certificate import ENTROPY_BYTES
from p2pfwd.wire.tls.engine import TlsHandshake
now, entropy = datetime.datetime.now(datetime.UTC), bytes(ENTROPY_BYTES)
known = {"identity": key, "expected_peer": None, "muxers": ["/yamux/1.0.0"], "now": now, "entropy": entropy}
near, far = (TlsHandshake(initiator=it, **known) for it in (True, False))
said, answer = near.start(), far.start()
while said or answer:
    answer = far.receive(said)
    said = near.receive(answer)
assert near.done and far.done
code = "import upnp_child, miniupnpc; upnp_child.bound(); print('bound')"
async def ask():
    words = (sys.executable, "-c", code)
    made = await asyncio.create_subprocess_exec(*words, stdout=subprocess.PIPE, cwd=PLACE)
    return (await made.communicate())[0]
PLACE = child.__file__.rpartition("/")[0]
assert asyncio.run(ask()) == b"bound\\n"
print("all parts work")
"""


def test_every_library_works_where_the_unit_confines_it(installed: SystemdContainer) -> None:
    """Ciphers, keys, TLS, the event loop, and the process that speaks to a router, which bounds itself."""
    pytest.importorskip("miniupnpc")
    unit = installed.run("cat", "/etc/systemd/system/p2pfwd.service")
    unit = re.sub(r"(?m)^ExecStart=.*$", f"ExecStart={PYTHON} -P /etc/parts.py", unit)
    unit = unit.replace("Type=notify", "Type=oneshot").replace("Restart=on-failure", "Restart=no")
    unit = re.sub(r"(?m)^(WatchdogSec|StateDirectory|RuntimeDirectory)\w*=.*\n", "", unit)
    installed.run("tee", "/etc/parts.py", text=PARTS)
    installed.run("tee", "/etc/systemd/system/parts.service", text=unit)
    installed.finished("systemctl", "start", "parts")
    said = installed.run("journalctl", "-u", "parts", "--output=cat")
    assert "all parts work" in said, said
