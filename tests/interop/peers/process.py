"""Start a real libp2p node and talk to it: `start("kubo", directory)` and so on.

A peer runs as a process of its own and dies with its stdin, so with the test process. Identities are made
here with p2pfwd's own keys, which is a test of their encoding as well: each peer loads them, or refuses.
"""

from __future__ import annotations

import base64
import json
import selectors
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from p2pfwd.core.keys import KeyType, PrivateKey
from p2pfwd.core.peer_id import PeerId
from tests.interop.peers.fetch import JS, PeerMissing, locate
from tests.support.netns import is_loopback_only

ROOT = Path(__file__).resolve().parents[3]
START_S = 90.0
"""js-libp2p takes a second of a processor; where 20 processes wait for two, that is 15 s and more."""

ANSWER_S = 40.0
STOP_S = 5.0


class PeerFailed(AssertionError):
    """A peer answered a command with an error, or died."""


class Peer:
    """One running node. `peer("listen", proto=..., target=...)` is a command; its answer a dict."""

    def __init__(
        self, kind: str, command: Sequence[str | Path], directory: Path, within: Sequence[str] = ()
    ) -> None:
        """Start it; `within` are words in front of the command that put it on a network of its own."""
        if not within and not is_loopback_only():
            raise PeerMissing(f"{kind}: needs a network namespace with nothing but loopback: `make interop`")
        self.kind = kind
        self._log = directory / f"{kind}-stderr.txt"
        with self._log.open("ab") as stderr:
            self._process = subprocess.Popen(
                [*within, *(str(word) for word in command)],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
            )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._stdin: IO[bytes] = self._process.stdin
        self._stdout: IO[bytes] = self._process.stdout
        self._pending = b""
        try:
            ready = self._answer(START_S)
        except BaseException:
            self.close()
            raise
        self.id = PeerId.parse(ready["id"])
        self.addrs: list[str] = ready["addrs"]
        self.pid: int = ready.get("pid", self._process.pid)

    @property
    def descriptors(self) -> tuple[int, int]:
        """What it keeps open in this process."""
        return self._stdin.fileno(), self._stdout.fileno()

    def __call__(self, cmd: str, /, **arguments: object) -> dict[str, Any]:
        """Send one command and return its answer. Raises PeerFailed with the peer's own words."""
        self._stdin.write(json.dumps({"cmd": cmd, **arguments}).encode() + b"\n")
        self._stdin.flush()
        answer = self._answer(ANSWER_S)
        if not answer.get("ok"):
            raise PeerFailed(f"{self.kind} {cmd} {arguments}: {answer.get('error')}")
        return answer

    def _answer(self, timeout_s: float) -> dict[str, Any]:
        deadline = time.monotonic() + timeout_s
        with selectors.DefaultSelector() as selector:
            selector.register(self._stdout, selectors.EVENT_READ)
            while b"\n" not in self._pending:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise PeerFailed(f"{self.kind} did not answer within {timeout_s} s; {self.log_tail()}")
                data = self._stdout.read1()  # type: ignore[attr-defined]
                if not data:
                    raise PeerFailed(
                        f"{self.kind} died with status {self._process.wait()}; {self.log_tail()}"
                    )
                self._pending += data
        line, self._pending = self._pending.split(b"\n", 1)
        answer: dict[str, Any] = json.loads(line)
        return answer

    @property
    def log(self) -> str:
        """What it has written to stderr so far."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def log_tail(self) -> str:
        """The last lines it wrote to stderr, for messages."""
        return self.log[-1000:]

    def close(self) -> None:
        """End it: close its stdin, kill it if that is not enough."""
        self._stdin.close()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def kubo(
    directory: Path,
    key_type: KeyType,
    port: int = 0,
    segment: str | None = None,
    within: Sequence[str] = (),
    options: Sequence[str] = (),
) -> Peer:
    """Kubo with an RSA identity of its own making, or another of ours. Raises PeerMissing.

    In a directory it was in before, it is the node it was. `segment` is its address where `within` leads:
    it has mDNS there. `options` are more words for its runner, as for the other kinds.
    """
    command: list[str | Path] = [sys.executable, "-m", "tests.interop.peers.kubo_node"]
    command += ["--lib", locate("kubo"), "--repo", directory / "repo", "--port", str(port)]
    if key_type is not KeyType.RSA:
        key = PrivateKey.generate(key_type)
        encoded = base64.b64encode(key.to_protobuf()).decode()
        command += ["--peer-id", str(PeerId.from_public_key(key.public_key)), "--key", encoded]
    if segment is not None:
        command += ["--segment", segment]
    return Peer("kubo", [*command, *options], directory, within)


def p2pd(
    directory: Path, key_type: KeyType, within: Sequence[str] = (), options: Sequence[str] = ()
) -> Peer:
    """The go-libp2p daemon; `within` as for `kubo`. Raises PeerMissing."""
    key = directory / "p2pd.key"
    key.write_bytes(PrivateKey.generate(key_type).to_protobuf())
    command: list[str | Path] = [sys.executable, "-m", "tests.interop.peers.p2pd_node"]
    command += ["--p2pd", locate("p2pd"), "--directory", directory, "--key", key]
    return Peer("p2pd", [*command, *options], directory, within)


def js(
    directory: Path,
    key_type: KeyType,
    segment: str | None = None,
    within: Sequence[str] = (),
    options: Sequence[str] = (),
) -> Peer:
    """js-libp2p; `segment` and `within` as for `kubo`. Raises PeerMissing."""
    modules = locate("js") / "node_modules"
    if shutil.which("node") is None:
        raise PeerMissing("js: node is not installed")
    # Node looks for packages beside the script's own path: put both into one directory.
    for script in JS.glob("*.mjs"):
        shutil.copy(script, directory)
    (directory / "node_modules").symlink_to(modules)
    key = directory / "js.key"
    key.write_bytes(PrivateKey.generate(key_type).to_protobuf())
    command: list[str | Path] = ["node", directory / "peer.mjs", "--key", key]
    if segment is not None:
        command += ["--segment", segment]
    return Peer("js", [*command, *options], directory, within)


START: dict[str, Callable[..., Peer]] = {"kubo": kubo, "p2pd": p2pd, "js": js}
