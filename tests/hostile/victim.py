"""The victim, the honest daemons around it, and what /proc says of the victim.

A `Rig` is one victim with five listens, a second daemon whose forward carries the bulk stream, and a third
whose forward carries the echoes: the two do not share a connection. Each kind of attack gets a fresh one.
"""

from __future__ import annotations

import json
import os
import re
import select
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.rpc.client import Client
from p2pfwd.rpc.schema import AccessChangeParams, ForwardParams, InviteNewParams, ListenParams
from tests.hostile import ground
from tests.hostile.disk import Disk, VictimsDisk
from tests.support.daemon import Daemon
from tests.support.sockets import free_port

TICK_S: Final = 1 / os.sysconf("SC_CLK_TCK")

BULK: Final = "/x/bulk"
ECHO: Final = "/x/echo"
SINK: Final = "/x/sink"
GUARDED: Final = "/x/guarded"
DEAD: Final = "/x/dead"
"""The listens: `services.py` says what is behind each; GUARDED lets nobody in."""

CONFIG: Final = "[bootstrap]\npeers = []\n"
"""Nobody but who is here: nothing else could be reached anyway."""

ANSWER_S: Final = 20.0
"""For a process of ours to answer, on a machine whose processors are taken."""

Env = Mapping[str, str]


class Helper:
    """A process of ours that answers a line on stdin with a JSON line, and ends with its stdin."""

    def __init__(self, *words: str, log: Path | None = None) -> None:
        err = subprocess.DEVNULL if log is None else log.open("ab")
        self.process = subprocess.Popen(
            [sys.executable, "-m", *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=err
        )
        if not isinstance(err, int):
            err.close()

    @property
    def pid(self) -> int:
        return self.process.pid

    def read(self) -> Any:
        """Its next JSON line. RuntimeError where it has ended, or says nothing for ANSWER_S."""
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], ANSWER_S)
        line = self.process.stdout.readline() if ready else b""
        if not line:
            raise RuntimeError(f"{self.process.args!r} {'has ended' if ready else 'does not answer'}")
        return json.loads(line)

    def tell(self, word: str = "") -> None:
        """One line to it."""
        assert self.process.stdin is not None
        self.process.stdin.write(word.encode() + b"\n")
        self.process.stdin.flush()

    def ask(self) -> Any:
        """A line to it, and its answer."""
        self.tell()
        return self.read()

    def end(self) -> None:
        """Close its stdin; kill it where that does not help."""
        assert self.process.stdin is not None and self.process.stdout is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()


@dataclass(frozen=True, slots=True)
class Usage:
    """A process at one moment."""

    at: float
    cpu_s: float
    rss_mb: float
    peak_mb: float
    log_lines: int

    def cores_since(self, before: Usage) -> float:
        """Processors used on average."""
        return (self.cpu_s - before.cpu_s) / max(1e-3, self.at - before.at)


def cpu_s(pid: int) -> float:
    """CPU seconds of one process so far; 0 where it has ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    fields = stat.rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) * TICK_S


class Queued(NamedTuple):
    """What lies in the TCP queues of this namespace, MB: sent and unacknowledged, or not yet read.

    The kernel needs up to twice as much for it. Its own figure, in sockstat, is the whole machine's.
    """

    own: float
    """In sockets of the victim."""
    others: float
    """In those of the services behind it, of the attacker and of the honest programs."""


def tcp_queued(pid: int) -> Queued:
    """As it is now; `pid` is the victim's."""
    ours, own, others = _sockets(pid), 0, 0
    for name in ("tcp", "tcp6"):
        try:
            lines = Path(f"/proc/net/{name}").read_text(encoding="ascii").splitlines()[1:]
        except FileNotFoundError:  # a kernel without IPv6
            continue
        for line in lines:
            fields = line.split(None, 10)
            sent, _, received = fields[4].partition(":")
            queued = int(sent, 16) + int(received, 16)
            if fields[9] in ours:
                own += queued
            else:
                others += queued
    return Queued(own / 1e6, others / 1e6)


def _sockets(pid: int) -> set[str]:
    """The inodes of a process's sockets; none where it has ended."""
    found = set()
    with suppress(FileNotFoundError, ProcessLookupError):
        for entry in os.scandir(f"/proc/{pid}/fd"):
            with suppress(OSError):  # closed meanwhile
                kind, _, inode = os.readlink(entry.path).partition(":")
                if kind == "socket":
                    found.add(inode.strip("[]"))
    return found


class Rig:
    """A context manager: everything in it ends with it.

    `public`: the victim is in the public network (without bootstrap peers). `files`: its RLIMIT_NOFILE.
    """

    def __init__(
        self,
        work: Path,
        *,
        public: bool = False,
        segment: bool = False,
        files: int = 0,
        disk: Disk = "well",
    ) -> None:
        self._stack = ExitStack()
        self.work = work
        work.mkdir(parents=True)
        try:
            self._disk = self._stack.enter_context(VictimsDisk(work / "victim", disk))
            self._start(public, segment, files)
            self._disk.spoil()
        except BaseException:
            self._stack.close()
            raise

    def _start(self, public: bool, segment: bool, files: int) -> None:
        services = Helper("tests.hostile.services")
        self._stack.callback(services.end)
        ports = services.read()
        host = ground.PUBLIC_VICTIM if public else ground.SEGMENT if segment else ground.VICTIM
        port = free_port()
        swarm = [f"/ip4/{host}/tcp/{port}"]
        if not public and ground.has_ipv6():
            swarm.append(f"/ip6/{ground.VICTIM6}/tcp/{port}")
        env = {"P2PFWD_NETWORK": "public" if public else "lan", "P2PFWD_RELAY_SERVE": "anyone"}
        env_victim = {**env, **self._disk.env}
        within = ["prlimit", f"--nofile={files}:{files}"] if files else []
        self.victim = self._daemon("victim", *swarm, env=env_victim, within=within)
        self.addr = Multiaddr.parse(f"{swarm[0]}")
        self.addr6 = Multiaddr.parse(swarm[1]) if len(swarm) > 1 else None
        self._call(self.victim, "p2p.listen", *(
            ListenParams(protocol=name, target=f"127.0.0.1:{ports[key]}")
            for name, key in (
                (BULK, "bulk"), (ECHO, "echo"), (SINK, "sink"), (DEAD, "dead"), (GUARDED, "echo")
            )
        ))  # fmt: skip
        self._call(self.victim, "access.deny", AccessChangeParams(GUARDED, ("any",)))
        self._call(self.victim, "invite.new", InviteNewParams(ECHO))
        self.bulk = self._honest("bulk", BULK, env)
        self.echo = self._honest("echo", ECHO, env)

    def _daemon(self, name: str, *swarm: str, env: Env, within: list[str]) -> Daemon:
        home = self.work / name
        home.mkdir(exist_ok=True)
        (home / "config.toml").write_text(CONFIG, encoding="utf-8")
        return self._stack.enter_context(Daemon(home, swarm=swarm, env=env, within=within))

    def _honest(self, name: str, protocol: str, env: Env) -> Helper:
        """A daemon with a forward to the victim, and the program that uses it."""
        daemon = self._daemon(name, "/ip4/127.0.0.1/tcp/0", env=env, within=[])
        port = free_port()
        address = f"{self.addr}/p2p/{self.victim.peer_id}"
        self._call(daemon, "p2p.forward", ForwardParams(protocol, f"127.0.0.1:{port}", (address,)))
        helper = Helper("tests.hostile.honest", name, str(port))
        self._stack.callback(helper.end)
        return helper

    @staticmethod
    def _call(daemon: Daemon, method: str, *calls: Any) -> None:
        client = Client.connect(daemon.home / "rpc.sock")
        try:
            for params in calls:
                client.call(method, params)
        finally:
            client.close()

    # --- looking at the victim --------------------------------------------------------------------

    def usage(self) -> Usage:
        """The victim now."""
        pid = self.victim.process.pid
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
        sizes = dict(re.findall(r"^(Vm\w+):\s+(\d+) kB$", status, re.MULTILINE))
        return Usage(
            time.monotonic(),
            cpu_s(pid),
            int(sizes.get("VmRSS", 0)) / 1e3,
            int(sizes.get("VmHWM", 0)) / 1e3,
            self.victim.stderr.count("\n"),
        )

    def refused(self) -> dict[str, int]:
        """What the victim has refused to strangers so far, by cause."""
        return dict(self.victim.json("status")["Refused"])

    def forget_peak(self) -> None:
        """Count the peak of its memory from now on."""
        Path(f"/proc/{self.victim.process.pid}/clear_refs").write_text("5", encoding="ascii")

    def owner_s(self) -> float | None:
        """How long the owner's `p2pfwd ls` takes; None where it fails."""
        started = time.monotonic()
        try:
            done = self.victim.cli("ls", timeout_s=15.0)
        except subprocess.TimeoutExpired:
            return None
        return time.monotonic() - started if done.returncode == 0 else None

    def end_honest(self) -> None:
        """Stop the honest programs, so that the victim is left alone."""
        for helper in (self.bulk, self.echo):
            helper.end()

    def close(self) -> None:
        """End everything."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
