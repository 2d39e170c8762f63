"""A disk that is really full: each file of the state says so, nothing changes, the daemon serves on."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from p2pfwd.errors import StorageFailed
from p2pfwd.rpc import schema as s
from p2pfwd.rpc.client import Client
from tests.rpc.durable_things import PEERS
from tests.support import sockets
from tests.support.daemon import Daemon, run_cli
from tests.support.fake_daemon import until
from tests.support.sockets import Payload, TcpServer

pytestmark = [pytest.mark.netns, pytest.mark.timeout(120)]

SAVED: Final = "/x/saved"
NEW: Final = f'[[listen]]\nprotocol = "/x/new"\ntarget = "9"\n[[peer]]\nname = "new"\npeer = "{PEERS[1]}"\n'
AGAIN: Final = f'[[rule]]\nprotocol = "{SAVED}"\nallow = ["{PEERS[1]}"]\n'
"""Changes rules alone: access.json is written before any other file."""

COMMANDS: Final[dict[str, tuple[str, str, object]]] = {
    "listen": ("state.db", "p2p.listen", s.ListenParams("/x/more", "9")),
    "forward": ("state.db", "p2p.forward", s.ForwardParams("/x/more", "127.0.0.1:0", PEERS[:1])),
    "close": ("state.db", "p2p.close", s.CloseParams(protocol=SAVED)),
    "limit": ("state.db", "p2p.limit", s.LimitParams(SAVED, rate=1000)),
    "allow": ("access.json", "access.allow", s.AccessAllowParams(SAVED, PEERS[1:])),
    "deny": ("access.json", "access.deny", s.AccessChangeParams(SAVED, PEERS[:1])),
    "rule removed": ("access.json", "access.rm", s.AccessRmParams(SAVED)),
    "block": ("access.json", "block.add", s.BlockParams(("10.9.0.0/16",))),
    "name": ("peers.json", "peer.add", s.PeerAddParams("new", PEERS[1:])),
    "name removed": ("peers.json", "peer.rm", s.PeerRmParams("friend")),
    "invite": ("invites.json", "invite.new", s.InviteNewParams(SAVED)),
    "apply": ("state.db", "p2p.apply", s.ApplyParams(NEW)),
    "apply a rule": ("access.json", "p2p.apply", s.ApplyParams(AGAIN)),
}


@contextmanager
def small_disk(place: Path) -> Iterator[Callable[[], Path]]:
    """A file system of 2 MB at `place`; the function fills it, and says with which file."""
    place.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=2m,mode=700", "tmpfs", str(place)]
    mounted = subprocess.run(words, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")

    def fill() -> Path:
        ballast = place / "ballast"
        with ballast.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
            while True:
                file.write(bytes(1024))
        return ballast

    try:
        yield fill
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def everything(client: Client) -> object:
    """What must not change: all that is saved."""
    invites = [(it.id, it.state) for it in client.call("invite.ls").invites]
    listeners = [(it.protocol, it.limits, it.access) for it in client.call("p2p.ls").listeners]
    return client.call("p2p.export").text, invites, listeners


def test_each_file_says_that_it_is_full_and_nothing_changes(home: Path) -> None:
    place = home / "disk" / "d"
    with small_disk(home / "disk") as fill, TcpServer(sockets.echo) as echo:
        with Daemon(place) as daemon, Daemon(home / "near") as near:
            _set_up(daemon, near, echo)
            port = int(near.json("ls")["Listeners"][0]["ListenAddress"].rpartition("/")[2])
            ballast = fill()
            with Client.connect(place / "rpc.sock") as client:
                before = everything(client)
                for name, (file, method, params) in COMMANDS.items():
                    with pytest.raises(StorageFailed) as failed:
                        client.call(method, params)
                    assert f"{place / file}: " in failed.value.message, name
                    assert failed.value.hint == "free some space on that file system", name
                    assert everything(client) == before, name
            assert sockets.echoes(port, Payload(100_000))
            daemon.process.kill()
            daemon.wait()
        with Daemon(place) as daemon, Client.connect(place / "rpc.sock") as client:
            assert everything(client) == before
            warning = f"Warning: history {place / 'events.db'}: "  # once the first write has failed
            assert until(lambda: warning in run_cli(place, "events").stderr)
            ballast.unlink()
            for name, (_, method, params) in COMMANDS.items():
                if name in ("listen", "allow", "name", "invite", "block", "limit"):
                    client.call(method, params)
            after = everything(client)
        with Daemon(place), Client.connect(place / "rpc.sock") as client:
            assert everything(client) == after


def _set_up(daemon: Daemon, near: Daemon, echo: TcpServer) -> None:
    """Something in each file."""
    with Client.connect(daemon.home / "rpc.sock") as client:
        client.call("p2p.listen", s.ListenParams(SAVED, echo.address))
        client.call("access.allow", s.AccessAllowParams(SAVED, (PEERS[0], near.peer_id)))
        client.call("peer.add", s.PeerAddParams("friend", PEERS[:1]))
        client.call("invite.new", s.InviteNewParams(SAVED))
    near.ok("forward", SAVED, "0", daemon.address)
