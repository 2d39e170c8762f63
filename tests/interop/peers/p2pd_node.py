"""A real go-libp2p daemon behind JSON lines: `python -m tests.interop.peers.p2pd_node --p2pd FILE ...`.

The daemon's control protocol is length-prefixed protobuf on Unix sockets: one request per connection; after
STREAM_OPEN that connection is the stream; for a handled protocol the daemon dials a socket of ours, with one
StreamInfo message first. It starts only in a loopback-only namespace, with `--segment ADDRESS` only where no
route leads out of its network, and listens there. Commands (see jsonl):

    connect addr                    dial /ip4/127.0.0.1/tcp/N/p2p/ID
    handle  proto [target]          serve PROTO: echo, or copy to TCP /ip4/127.0.0.1/tcp/N
    forward proto listen peer       TCP LISTEN -> a new stream of PROTO to PEER each time
    open    proto peer data         open a stream, send DATA (text), read as many bytes -> reply
    peers                           ids of connected peers
    findpeer peer                   addresses of PEER, out of the DHT -> addrs

Its pipe knows no half-close: the first FIN ends both directions.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
from collections import defaultdict
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from p2pfwd.core import varint
from p2pfwd.core.multiaddrs import Multiaddr, tcp_endpoint
from p2pfwd.core.peer_id import PeerId
from tests.interop.peers.jsonl import (
    Message,
    claim_stdout,
    failure,
    read_command,
    refuse_a_way_out,
    refuse_routes,
    write_line,
)

IDENTIFY, CONNECT, STREAM_OPEN, STREAM_HANDLER, DHT, LIST_PEERS = 0, 1, 2, 3, 4, 5  # Request.type
FIND_PEER = 0  # DHTRequest.type
TIMEOUT_S = 20
CHUNK = 1 << 18

Fields = dict[int, list[Any]]


def encode(*fields: tuple[int, int | bytes]) -> bytes:
    """A protobuf message of varints and byte strings, the only kinds in this protocol."""
    out = bytearray()
    for number, value in fields:
        if isinstance(value, int):
            out += varint.encode(number << 3) + varint.encode(value)
        else:
            out += varint.encode(number << 3 | 2) + varint.encode(len(value)) + value
    return bytes(out)


def decode(data: bytes) -> Fields:
    """The same back: field number -> its values."""
    fields: Fields = defaultdict(list)
    at = 0
    while at < len(data):
        key, at = varint.decode(data, at)
        value, at = varint.decode(data, at)
        if key & 7 == 2:
            fields[key >> 3].append(data[at : at + value])
            at += value
        else:
            fields[key >> 3].append(value)
    return fields


class Pipe(NamedTuple):
    """Both directions of a socket."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def read_message(self) -> Fields:
        """One length-prefixed message."""
        prefix = b""
        while not prefix or prefix[-1] & 0x80:
            prefix += await self.reader.readexactly(1)
        return decode(await self.reader.readexactly(varint.decode(prefix)[0]))

    def write_message(self, *fields: tuple[int, int | bytes]) -> None:
        """One length-prefixed message."""
        message = encode(*fields)
        self.writer.write(varint.encode(len(message)) + message)

    async def copy_to(self, other: Pipe) -> None:
        """Everything read here is written there, the end included."""
        try:
            while data := await self.reader.read(CHUNK):
                other.writer.write(data)
                await other.writer.drain()
            other.writer.write_eof()
        except OSError:
            other.writer.close()


async def splice(one: Pipe, two: Pipe) -> None:
    """Copy both ways until both ends, then close both."""
    await asyncio.gather(one.copy_to(two), two.copy_to(one))
    one.writer.close()
    two.writer.close()


class P2pd:
    """One running daemon; methods named `cmd_*` are the commands."""

    def __init__(self, directory: Path) -> None:
        self.control = directory / "control.sock"
        self.inbound = directory / "inbound.sock"
        self._targets: dict[str, str | None] = {}  # protocol -> target, None: echo
        self._tasks: set[asyncio.Task[None]] = set()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _request(self, kind: int, *fields: tuple[int, int | bytes]) -> tuple[Fields, Pipe]:
        pipe = Pipe(*await asyncio.open_unix_connection(self.control, limit=CHUNK))
        pipe.write_message((1, kind), *fields)
        answer = await pipe.read_message()
        if answer[1][0] != 0:
            pipe.writer.close()
            raise RuntimeError(decode(answer[2][0])[1][0].decode())
        return answer, pipe

    async def _call(self, kind: int, *fields: tuple[int, int | bytes]) -> Fields:
        answer, pipe = await self._request(kind, *fields)
        pipe.writer.close()
        return answer

    async def ready(self) -> Message:
        """Listen for the daemon's streams; who it is and where."""
        await asyncio.start_unix_server(
            lambda reader, writer: self._spawn(self._inbound(Pipe(reader, writer))), self.inbound, limit=CHUNK
        )
        identify = decode((await self._call(IDENTIFY))[4][0])
        peer = PeerId.from_bytes(identify[1][0])
        return {
            "id": str(peer),
            "addrs": [f"{Multiaddr.from_bytes(data)}/p2p/{peer}" for data in identify[2]],
        }

    async def _inbound(self, stream: Pipe) -> None:
        info = await stream.read_message()
        target = self._targets[info[3][0].decode()]
        if target is None:
            await stream.copy_to(stream)
            stream.writer.close()
            return
        try:
            await splice(stream, await _dial(target))
        except OSError:
            stream.writer.close()

    async def _open(self, proto: str, peer: str) -> Pipe:
        request = encode((1, PeerId.parse(peer).to_bytes()), (2, proto.encode()), (3, TIMEOUT_S))
        return (await self._request(STREAM_OPEN, (3, request)))[1]

    async def cmd_connect(self, addr: str) -> None:
        full = Multiaddr.parse(addr)
        peer = full.peer_id()
        assert peer is not None
        address = full.without_peer_id().to_bytes()
        await self._call(CONNECT, (2, encode((1, peer.to_bytes()), (2, address), (3, TIMEOUT_S))))

    async def cmd_handle(self, proto: str, target: str | None = None) -> None:
        self._targets[proto] = target
        socket = Multiaddr.parse(f"/unix{self.inbound}").to_bytes()
        # `balanced` (3) is a required field in this fork of the daemon.
        await self._call(STREAM_HANDLER, (4, encode((1, socket), (2, proto.encode()), (3, 0))))

    async def cmd_forward(self, proto: str, listen: str, peer: str) -> None:
        async def serve(local: Pipe) -> None:
            try:
                await splice(local, await self._open(proto, peer))
            except (OSError, RuntimeError) as exc:
                print("forward:", exc, file=sys.stderr)
                local.writer.close()

        endpoint = tcp_endpoint(Multiaddr.parse(listen))
        assert endpoint is not None
        await asyncio.start_server(
            lambda reader, writer: self._spawn(serve(Pipe(reader, writer))),
            endpoint.host,
            endpoint.port,
            limit=CHUNK,
        )

    async def cmd_open(self, proto: str, peer: str, data: str) -> Message:
        stream = await self._open(proto, peer)
        sent = data.encode()
        stream.writer.write(sent)  # no FIN before the reply: it would end both directions
        reply = await asyncio.wait_for(stream.reader.readexactly(len(sent)), TIMEOUT_S)
        stream.writer.close()
        return {"reply": reply.decode()}

    async def cmd_peers(self) -> Message:
        listed = (await self._call(LIST_PEERS))[6]
        return {"peers": [str(PeerId.from_bytes(decode(info)[1][0])) for info in listed]}

    async def cmd_findpeer(self, peer: str) -> Message:
        request = encode((1, FIND_PEER), (2, PeerId.parse(peer).to_bytes()), (7, TIMEOUT_S))
        found = decode(decode((await self._call(DHT, (5, request)))[5][0])[2][0])
        return {"addrs": [str(Multiaddr.from_bytes(data)) for data in found[2]]}


async def _dial(target: str) -> Pipe:
    endpoint = tcp_endpoint(Multiaddr.parse(target))
    assert endpoint is not None
    return Pipe(*await asyncio.open_connection(endpoint.host, endpoint.port, limit=CHUNK))


async def _connect_stdin() -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    return reader


async def serve(node: P2pd, out: TextIO, daemon_pid: int) -> None:
    """Answer commands until stdin closes."""
    write_line(out, {**await node.ready(), "pid": daemon_pid})
    stdin = await _connect_stdin()
    while line := await stdin.readline():
        try:
            name, arguments = read_command(line.decode())
            answer = {"ok": True, **(await getattr(node, f"cmd_{name}")(**arguments) or {})}
        except Exception as exc:  # the root of a command: the test is told, the node goes on
            answer = failure(exc)
        write_line(out, answer)


def main(argv: Sequence[str] | None = None) -> None:
    """Run a daemon until stdin closes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--p2pd", type=Path, required=True)
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--key", type=Path, required=True)
    parser.add_argument("--dht", choices=("client", "server"))
    parser.add_argument("--relay", action="store_true")
    parser.add_argument("--via", metavar="RELAY", help="have a place there")
    parser.add_argument("--segment", metavar="ADDRESS")
    parser.add_argument("--port", type=int, default=0)
    options = parser.parse_args(argv)
    refuse_routes() if options.segment is None else refuse_a_way_out()
    out = claim_stdout()
    node = P2pd(options.directory)
    command = [options.p2pd, "-id", options.key, "-listen", f"/unix{node.control}"]
    if options.via is not None:
        command += ["-autoRelay", "-relayDiscovery=false", "-forceReachabilityPrivate", "-dhtServer"]
        command += ["-trustedRelays", options.via]
    else:
        command += ["-relayService=true", "-forceReachabilityPublic"] if options.relay else ["-relay=false"]
    if options.dht is not None:
        command += ["-dhtServer" if options.dht == "server" else "-dhtClient"]
    command += ["-hostAddrs", f"/ip4/{options.segment or '127.0.0.1'}/tcp/{options.port}"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as daemon:
        try:
            assert daemon.stdout is not None
            daemon.stdout.readline()  # "Control socket: ...", printed when it listens
            asyncio.run(serve(node, out, daemon.pid))
        finally:
            daemon.terminate()


if __name__ == "__main__":
    main()
