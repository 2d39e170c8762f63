"""The tunnels under measurement: how each is set up between a local port and the bench's server.

Every setup takes a `Lab` and the server's port, and puts what it starts on the lab's stack. What cannot be
had here (no sshd, no Kubo, ...) raises `Missing` with the reason.
"""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from p2pfwd.core.keys import KeyType, PrivateKey
from p2pfwd.core.peer_id import PeerId
from tests.bench.procs import Memory, free_port, spawn, wait_listening
from tests.interop.peers.fetch import PeerMissing, locate
from tests.interop.peers.process import Peer
from tests.support.daemon import Daemon
from tests.support.netns import is_loopback_only

PROTOCOL = "/x/bench"
PACED = "/x/bench-paced"
RATE = 4_000_000
"""Bytes a second of the paced listen."""

LONG_RTT_S = 0.06
"""Round trip of the long line: across an ocean."""

GCM = "aes128-gcm@openssh.com"
"""ssh's cheapest cipher where the processor does AES."""

NO_AES = {"P2PFWD_SWARM_CIPHERS": "chacha20-poly1305"}
"""As of a node whose processor does no AES in hardware: it lists none. To mask the processor's own is no way:
where OpenSSL has been told already what it does (`OPENSSL_ia32cap`), that has no effect."""

NO_BOUND = 1_000_000
RAISED = {name: NO_BOUND for name in ("connections", "connections_per_ip", "high_water")}
"""A daemon's limits where a thousand peers of one address are to be connected with it."""


class Missing(Exception):
    """A tunnel that cannot be set up here; the message is the reason."""


@dataclass(frozen=True, slots=True)
class Tunnel:
    """A running tunnel. `pids` are its daemons (roots of process trees), the forwarding side first."""

    port: int
    pids: tuple[int, ...] = ()
    host_bytes: int = 0
    """Resident memory that is the Python around a library's node, not the node."""
    ls: Callable[[], object] | None = None
    """Runs one `p2pfwd ls`."""
    relay_pids: tuple[int, ...] = ()
    """A relay between the daemons, which is not one of `pids`."""
    circuits: tuple[int, ...] = ()
    """Ports, each over a circuit of its own."""
    paced: Callable[[], int] | None = None
    """Makes a second listen, of `RATE`, beside the first; the port that leads to it."""
    cipher: str | None = None
    """What seals its bytes, where the daemons tell."""
    crowd: Daemon | None = None
    """The daemon that peers can be added to: the forwarding one, its limits raised."""


@dataclass(frozen=True, slots=True)
class Lab:
    """Where a tunnel's processes live: they end with `stack`."""

    stack: ExitStack
    work: Path
    log: Path

    def directory(self, name: str) -> Path:
        return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.work))


Setup = Callable[[Lab, int], Tunnel]


def tcp(port: int) -> str:
    """Loopback and a port as a multiaddr."""
    return f"/ip4/127.0.0.1/tcp/{port}"


# --- the ends of the scale ------------------------------------------------------------------------


def direct(lab: Lab, server: int) -> Tunnel:
    """No tunnel."""
    return Tunnel(server)


def relay(lab: Lab, server: int) -> Tunnel:
    """Two plain relays in a row: the kernel's share of two daemons."""
    far, near = free_port(), free_port()
    pids = []
    for listen, target in ((far, server), (near, far)):
        words = [sys.executable, "-m", "tests.bench.relay", str(listen), str(target)]
        process = spawn(lab.stack, words, lab.log)
        wait_listening(listen, process)
        pids.append(process.pid)
    return Tunnel(near, tuple(reversed(pids)))


def line(lab: Lab, target: int) -> int:
    """A line of `LONG_RTT_S` to `target`; the port it begins at."""
    port = free_port()
    words = [sys.executable, "-m", "tests.bench.delay", str(port), str(target), str(LONG_RTT_S)]
    wait_listening(port, spawn(lab.stack, words, lab.log))
    return port


def over_line(address: str, lab: Lab) -> str:
    """`address` (/ip4/127.0.0.1/tcp/PORT/...) with a long line in front of it."""
    head, port, *rest = address.removeprefix("/ip4/127.0.0.1/").split("/")
    assert head == "tcp", address
    return "/".join([tcp(line(lab, int(port))), *rest])


def long_direct(lab: Lab, server: int) -> Tunnel:
    """The long line and no tunnel: what the line itself carries."""
    return Tunnel(line(lab, server))


def ssh(cipher: str | None = None, *, long: bool = False) -> Setup:
    """`ssh -L` with `cipher`, or its default; `long`: over a long line."""

    def setup(lab: Lab, server: int) -> Tunnel:
        return _ssh(lab, server, cipher, long)

    return setup


def _ssh(lab: Lab, server: int, cipher: str | None, long: bool) -> Tunnel:
    """To an sshd of its own."""
    sshd = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if sshd is None or shutil.which("ssh") is None:
        raise Missing("no sshd or no ssh here")
    if os.geteuid() != 0:
        raise Missing("sshd needs root")
    home = lab.directory("ssh")
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", home / name], check=True)
    Path("/run/sshd").mkdir(exist_ok=True)
    far, near = free_port(), free_port()
    settings = {
        "Port": far, "ListenAddress": "127.0.0.1", "HostKey": home / "host", "PidFile": "none",
        "AuthorizedKeysFile": home / "user.pub", "StrictModes": "no", "UsePAM": "no",
        "PasswordAuthentication": "no", "PermitRootLogin": "prohibit-password",
    }  # fmt: skip
    (home / "sshd_config").write_text("".join(f"{key} {value}\n" for key, value in settings.items()))
    listener = spawn(lab.stack, [sshd, "-D", "-e", "-f", str(home / "sshd_config")], lab.log)
    wait_listening(far, listener)
    options = {"StrictHostKeyChecking": "no", "UserKnownHostsFile": home / "known", "IdentitiesOnly": "yes"}
    entry = line(lab, far) if long else far
    words: list[str | Path] = ["ssh", "-F", "none", "-N", "-i", home / "user", "-p", str(entry)]
    if cipher is not None:
        offered = subprocess.run(["ssh", "-Q", "cipher"], capture_output=True, text=True, check=True).stdout
        if cipher not in offered.split():
            raise Missing(f"this ssh has no {cipher}")
        words += ["-c", cipher]
    words += [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
    forward = f"127.0.0.1:{near}:127.0.0.1:{server}"
    client = spawn(lab.stack, [*words, "-L", forward, "root@127.0.0.1"], lab.log)
    wait_listening(near, client)
    return Tunnel(near, (client.pid, listener.pid), cipher=cipher)


# --- nodes ----------------------------------------------------------------------------------------


def kubo_node(lab: Lab, security: str) -> Peer:
    """A Kubo with an Ed25519 identity that speaks only `security`."""
    if not is_loopback_only():
        raise Missing("Kubo runs only in a loopback-only network namespace, which is not to be had here")
    try:
        library = locate("kubo")
    except PeerMissing as exc:
        raise Missing(str(exc)) from exc
    key = PrivateKey.generate(KeyType.ED25519)
    directory = lab.directory("kubo")
    words: list[str | Path] = [sys.executable, "-m", "tests.interop.peers.kubo_node", "--lib", library]
    words += ["--repo", directory / "repo", "--security", security]
    words += ["--peer-id", str(PeerId.from_public_key(key.public_key))]
    words += ["--key", base64.b64encode(key.to_protobuf()).decode()]
    return lab.stack.enter_context(Peer("kubo", words, directory))


def kubo_host_bytes() -> int:
    """Resident memory of the Python around a Kubo before it loads the library."""
    script = "import tests.interop.peers.kubo_node; print(flush=True); input()"
    words = [sys.executable, "-c", script]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdout.readline()
        size = Memory.of(process.pid).rss
        process.stdin.write(b"\n")
        process.stdin.close()
    return size


def p2pfwd_node(
    lab: Lab, security: str, env: Mapping[str, str] | None = None, limits: Mapping[str, int] | None = None
) -> Daemon:
    """A p2pfwd daemon that speaks only `security`; `env` is added to its environment."""
    home = lab.directory("p2pfwd")
    lines = ["[swarm]", f'security = ["{security}"]']
    if limits:
        lines += ["[limits]", *(f"{name} = {value}" for name, value in limits.items())]
    (home / "config.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    daemon = Daemon(home, env=env)
    lab.stack.callback(daemon.stop)
    return daemon


# --- pairs ----------------------------------------------------------------------------------------


def kubo_pair(security: str, *, long: bool = False) -> Setup:
    def setup(lab: Lab, server: int) -> Tunnel:
        far, near = kubo_node(lab, security), kubo_node(lab, security)
        port = free_port()
        far("listen", proto=PROTOCOL, target=tcp(server))
        near("connect", addr=over_line(far.addrs[0], lab) if long else far.addrs[0])
        near("forward", proto=PROTOCOL, listen=tcp(port), peer=str(far.id))
        return Tunnel(port, (near.pid, far.pid), host_bytes=2 * kubo_host_bytes())

    return setup


def p2pfwd_pair(
    security: str, *, long: bool = False, env: Mapping[str, str] | None = None, crowd: bool = False
) -> Setup:
    """`env` is added to the forwarding side's environment; `crowd`: it takes a thousand peers more."""

    def setup(lab: Lab, server: int) -> Tunnel:
        far = p2pfwd_node(lab, security)
        near = p2pfwd_node(lab, security, env, RAISED if crowd else None)
        far.ok("listen", PROTOCOL, tcp(server))
        port = free_port()
        near.ok("forward", PROTOCOL, tcp(port), over_line(far.address, lab) if long else far.address)
        pids = near.process.pid, far.process.pid

        def paced() -> int:
            far.ok("listen", PACED, tcp(server), "--rate", str(RATE))
            port = free_port()
            near.ok("forward", PACED, tcp(port), far.address)
            return port

        return Tunnel(
            port, pids, ls=lambda: near.ok("ls"), paced=paced, cipher=cipher_of(near, far.peer_id),
            crowd=near if crowd else None,
        )  # fmt: skip

    return setup


def cipher_of(daemon: Daemon, peer: str) -> str | None:
    """What seals the daemon's connection with `peer`; None where it does not tell."""
    found = daemon.json("swarm", "peers")["Peers"]
    return next((conn.get("Cipher") for conn in found if conn["Peer"] == peer), None)


CIRCUITS = 8


def p2pfwd_relayed(lab: Lab, server: int) -> Tunnel:
    """One daemon forwards, eight listen, another is the relay between them: eight circuits.

    None of them serves the DHT: they would find each other's own addresses by it.
    """
    quiet = {"P2PFWD_DHT_MODE": "client", "P2PFWD_DISCOVERY_MDNS": "off"}
    hub = p2pfwd_node(lab, "noise", quiet)
    near = p2pfwd_node(lab, "noise", quiet)
    hub.ok("peer", "add", "near", near.peer_id)
    ports: list[int] = []
    pids: list[int] = [near.process.pid]
    for number in range(CIRCUITS):
        # With a token it has a place at once; refused first, it may find out meanwhile that it needs none.
        token = hub.ok("relay", "token", "new", f"far{number}").strip()
        far = p2pfwd_node(lab, "noise", {**quiet, "P2PFWD_REACH_RELAYS": f"{hub.address}#{token}"})
        far.ok("listen", PROTOCOL, tcp(server))
        _wait_for_place(hub, far.peer_id)
        port = free_port()
        over = f"{hub.address}/p2p-circuit/p2p/{far.peer_id}"
        made = near.json("forward", PROTOCOL, tcp(port), over, "--path", "relay")
        if made["Check"]["Path"] != "relayed":
            raise RuntimeError(f"the way to the other end is {made['Check']['Path']}")
        ports.append(port)
        pids.append(far.process.pid)
    return Tunnel(ports[0], tuple(pids), relay_pids=(hub.process.pid,), circuits=tuple(ports))


def _wait_for_place(hub: Daemon, peer: str) -> None:
    deadline = time.monotonic() + 30
    while not any(place["Peer"] == peer for place in hub.json("hub", "ls")["Places"]):
        if time.monotonic() > deadline:
            raise RuntimeError("no place at the relay")
        time.sleep(0.1)


def p2pfwd_to_kubo(lab: Lab, server: int) -> Tunnel:
    """p2pfwd forwards, Kubo listens."""
    far, near = kubo_node(lab, "noise"), p2pfwd_node(lab, "noise")
    port = free_port()
    far("listen", proto=PROTOCOL, target=tcp(server))
    near.ok("forward", PROTOCOL, tcp(port), far.addrs[0])
    return Tunnel(port, (near.process.pid, far.pid), cipher=cipher_of(near, str(far.id)))


def kubo_to_p2pfwd(lab: Lab, server: int) -> Tunnel:
    """Kubo forwards, p2pfwd listens."""
    far, near = p2pfwd_node(lab, "noise"), kubo_node(lab, "noise")
    port = free_port()
    far.ok("listen", PROTOCOL, tcp(server))
    near("connect", addr=far.address)
    near("forward", proto=PROTOCOL, listen=tcp(port), peer=far.peer_id)
    return Tunnel(port, (near.pid, far.process.pid), cipher=cipher_of(far, str(near.id)))


SETUPS: Mapping[str, Setup] = {
    "direct": direct,
    "relay": relay,
    "ssh": ssh(),
    "ssh-gcm": ssh(GCM),
    "kubo-noise": kubo_pair("noise"),
    "p2pfwd-noise": p2pfwd_pair("noise"),
    "kubo-tls": kubo_pair("tls"),
    "p2pfwd-tls": p2pfwd_pair("tls"),
    "p2pfwd-relayed": p2pfwd_relayed,
    "p2pfwd-kubo": p2pfwd_to_kubo,
    "kubo-p2pfwd": kubo_to_p2pfwd,
    "p2pfwd-no-aes": p2pfwd_pair("noise", env=NO_AES),
    "long-direct": long_direct,
    "long-ssh": ssh(GCM, long=True),
    "long-kubo": kubo_pair("noise", long=True),
    "long-p2pfwd": p2pfwd_pair("noise", long=True),
    "p2pfwd-crowd": p2pfwd_pair("noise", crowd=True),
}
