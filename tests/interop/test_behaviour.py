"""What a tunnel with a foreign node must get right beyond moving bytes, at the library level.

Half-close where the peer has it, and what is made of it where it has not; failures that must look like
failures; the peer-ID line; identities of all key types.
"""

from __future__ import annotations

import asyncio
import queue
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from p2pfwd.core.keys import KeyType
from p2pfwd.core.multiaddrs import Multiaddr, tcp_endpoint
from p2pfwd.core.terms import ListenTerms
from p2pfwd.errors import DialFailed, P2PForwardError, ProtocolNotSupported
from p2pfwd.wire import identify
from p2pfwd.wire.noise import NOISE
from p2pfwd.wire.tls import TLS
from tests.interop.conftest import Start
from tests.interop.node import LOOPBACK, Cell, address, ask, dialed_by, forwarding, host, serve
from tests.interop.peers.process import Peer
from tests.support import sockets
from tests.support.sockets import Payload, Received, TcpServer

SIZES = (10, 1_000_000, 20_000_000)


@asynccontextmanager
async def tunnel(
    peer: Peer, protocol: str, target: str, *, listens: str, report_peer_id: bool = False
) -> AsyncIterator[int]:
    """A local port that leads to `target`, through a connection that p2pfwd dials.

    listens: "peer": p2pfwd forwards to the peer's listener; "p2pfwd": the reverse.
    """
    cell = Cell(peer.kind, NOISE, True, KeyType.ED25519)
    async with host(cell) as node, forwarding(node) as service:
        await (await node.swarm.connect(peer.id, [address(peer)])).identified
        if listens == "peer":
            await serve(peer, protocol, target)
            listener = await service.forward(protocol, LOOPBACK, peer.id)
            yield port_of(listener.listen_address)
        else:
            terms = ListenTerms(report_peer_id=report_peer_id)
            await service.listen(protocol, Multiaddr.parse(target), terms)
            port = sockets.free_port()
            where = f"/ip4/127.0.0.1/tcp/{port}"
            await ask(peer, "forward", proto=protocol, listen=where, peer=str(node.peer_id))
            yield port


def port_of(listen_address: Multiaddr) -> int:
    """The port of a TCP address."""
    endpoint = tcp_endpoint(listen_address)
    assert endpoint is not None
    return endpoint.port


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("listens", ["peer", "p2pfwd"])
def test_half_close_with_js(peer: Start, listens: str, size: int) -> None:
    """js keeps half-close: a FIN right after the last byte, and the reply still comes whole."""
    js, times = peer("js", KeyType.ED25519), 20 if size < 1_000_000 else 3

    async def main() -> None:
        protocol = f"/x/half-close/{listens}/{size}"
        async with tunnel(js, protocol, target.address, listens=listens) as port:
            for turn in range(times):
                payload = Payload(size, seed=turn)
                assert await asyncio.to_thread(sockets.echoes, port, payload, half_close=True)

    with TcpServer(sockets.echo) as target:
        asyncio.run(main())


@pytest.mark.parametrize("kind", ["kubo", "p2pd"])
def test_reply_survives_our_clients_fin(peer: Start, kind: str) -> None:
    """A go peer's pipe dies at the first FIN; ours to a Kubo waits, so the reply is whole all the same.

    p2pd has no agent that tells its pipe from a sound one: its reply is cut, which is seen as a reset or a
    short read, and shows that the switch is what keeps Kubo's whole.
    """
    other, reply = peer(kind, KeyType.ED25519), Payload(1_000_000)

    def answer(conn: socket.socket) -> None:
        try:
            sockets.read_exactly(conn, 4)
        except EOFError:
            return  # p2pd's pipe may lose the question, too: no reply, which is counted below
        sockets.send_payload(reply, wait=True)(conn)

    def request(port: int) -> bytes:
        with sockets.connect(port) as conn:
            conn.sendall(b"send")
            conn.shutdown(socket.SHUT_WR)
            try:
                return sockets.read_exactly(conn, reply.size)
            except (EOFError, ConnectionResetError):
                return b""

    async def main() -> None:
        async with tunnel(other, f"/x/reply/{kind}", target.address, listens="peer") as port:
            whole = 0
            for _ in range(20):
                whole += len(await asyncio.to_thread(request, port)) == reply.size
            assert whole == 20 if kind == "kubo" else whole < 20

    with TcpServer(answer) as target:
        asyncio.run(main())


def test_upload_and_close_ends_behind_kubo(peer: Start) -> None:
    """A client that sends and closes: the server behind Kubo gets every byte and soon sees the end."""
    kubo, payload = peer("kubo", KeyType.ED25519), Payload(1_000_000)
    ended: queue.SimpleQueue[int] = queue.SimpleQueue()

    def sink(conn: socket.socket) -> None:
        ended.put(len(sockets.read_to_end(conn)))

    def send(port: int) -> int:
        with sockets.connect(port) as conn:
            for part in payload.chunks():
                conn.sendall(part)
        return ended.get(timeout=5)

    async def main() -> None:
        async with tunnel(kubo, "/x/upload", target.address, listens="peer") as port:
            for _ in range(20):
                assert await asyncio.to_thread(send, port) == payload.size

    with TcpServer(sink) as target:
        asyncio.run(main())


def test_download_that_ends_behind_kubo_is_whole(peer: Start) -> None:
    """A server that sends and closes: the client behind our forward gets every byte, each time.

    The end is mostly FIN; now and then a Kubo resets the stream behind the last byte.
    """
    kubo, payload = peer("kubo", KeyType.ED25519), Payload(5_000_000)

    async def main() -> None:
        async with tunnel(kubo, "/x/download", target.address, listens="peer") as port:
            received = [await asyncio.to_thread(sockets.download, port) for _ in range(40)]
        assert {(each.size, each.digest) for each in received} == {(payload.size, payload.digest())}
        assert sum(each.clean for each in received) > 20

    with TcpServer(sockets.send_payload(payload)) as target:
        asyncio.run(main())


def test_upload_that_ends_behind_a_kubo_forward_is_whole(peer: Start) -> None:
    """A client behind Kubo that sends and closes: our target gets every byte, each time."""
    kubo, payload = peer("kubo", KeyType.ED25519), Payload(5_000_000)
    ended: queue.SimpleQueue[Received] = queue.SimpleQueue()

    def send(port: int) -> Received:
        with sockets.connect(port) as conn:
            for part in payload.chunks():
                conn.sendall(part)
        return ended.get(timeout=10)

    async def main() -> None:
        async with tunnel(kubo, "/x/uploaded", target.address, listens="p2pfwd") as port:
            received = [await asyncio.to_thread(send, port) for _ in range(40)]
        assert {(each.size, each.digest) for each in received} == {(payload.size, payload.digest())}

    with TcpServer(lambda conn: ended.put(sockets.receive_all(conn))) as target:
        asyncio.run(main())


@pytest.mark.parametrize("key_type", [KeyType.ED25519, KeyType.RSA])
@pytest.mark.parametrize("kind", ["kubo", "p2pd", "js"])
def test_report_peer_id(peer: Start, kind: str, key_type: KeyType) -> None:
    """With -r our target reads `<base58 peer id>` and a newline first, then the peer's bytes."""
    other = peer(kind, key_type)
    expected = f"{other.id}\n".encode() + b"hello"
    seen: list[bytes] = []

    def note(conn: socket.socket) -> None:
        seen.append(sockets.read_exactly(conn, len(expected)))
        conn.sendall(b"!")
        conn.recv(1)

    def greet(port: int) -> None:
        with sockets.connect(port) as conn:
            conn.sendall(b"hello")
            assert sockets.read_exactly(conn, 1) == b"!"

    async def main() -> None:
        protocol = f"/x/report/{key_type.name}"
        async with tunnel(other, protocol, target.address, listens="p2pfwd", report_peer_id=True) as port:
            await asyncio.to_thread(greet, port)
        assert seen == [expected]

    with TcpServer(note) as target:
        asyncio.run(main())


@pytest.mark.parametrize("kind", ["kubo", "p2pd", "js"])
def test_unknown_protocol_is_refused(peer: Start, kind: str) -> None:
    """A name the peer does not serve is its refusal, by name, and a reset for the local client."""
    other = peer(kind, KeyType.ED25519)

    async def main() -> None:
        async with host(Cell(kind, NOISE, True, KeyType.ED25519)) as node, forwarding(node) as service:
            await node.swarm.connect(other.id, [address(other)])
            with pytest.raises(ProtocolNotSupported):
                await node.swarm.open_stream(other.id, ["/x/nobody"], timeout_s=10)
            listener = await service.forward("/x/nobody", LOOPBACK, other.id)
            assert await asyncio.to_thread(is_reset, port_of(listener.listen_address))
            assert [info.state for info in service.listeners()] == ["protocol-not-supported"]

    asyncio.run(main())


def is_reset(port: int) -> bool:
    """Whether a client of this port sees RST, and nothing before it."""
    try:
        with sockets.connect(port) as conn:
            conn.sendall(b"anybody?")
            conn.recv(1)
    except (ConnectionResetError, BrokenPipeError):  # connect() itself finds out, where the RST is quick
        return True
    return False


@pytest.mark.parametrize("kind", ["kubo", "js"])
def test_refused_target_behind_the_peer_is_a_reset(peer: Start, kind: str) -> None:
    """The peer's target is down: its reset of the stream reaches our client as RST, never as an empty end."""
    other = peer(kind, KeyType.ED25519)

    async def main() -> None:
        target = f"/ip4/127.0.0.1/tcp/{dead}"
        async with tunnel(other, f"/x/dead/{kind}", target, listens="peer") as port:
            assert await asyncio.to_thread(is_reset, port)

    with sockets.refusing_port() as dead:
        asyncio.run(main())


@pytest.mark.parametrize("security", [NOISE, TLS])
@pytest.mark.parametrize("kind", ["kubo", "p2pd", "js"])
def test_another_identity_at_the_address_is_refused(peer: Start, kind: str, security: str) -> None:
    """Dialing a right address for a wrong peer ID ends in the security handshake, and says so."""
    other, wrong = peer(kind, KeyType.ED25519), peer(kind, KeyType.RSA)

    async def main() -> None:
        async with host(Cell(kind, security, True, KeyType.ED25519)) as node:
            with pytest.raises(P2PForwardError) as caught:
                await node.swarm.connect(wrong.id, [address(other)])
            assert isinstance(caught.value, DialFailed)
            assert str(other.id) in str(caught.value.details["attempts"])
            assert node.swarm.conns() == []

    asyncio.run(main())


@pytest.mark.parametrize("security", [NOISE, TLS])
@pytest.mark.parametrize(
    ("kind", "key_type"),
    [
        ("kubo", KeyType.SECP256K1),
        ("kubo", KeyType.ECDSA),
        ("p2pd", KeyType.SECP256K1),
        ("p2pd", KeyType.ECDSA),
        ("js", KeyType.SECP256K1),  # js-libp2p knows no ECDSA peer IDs
    ],
)
def test_our_other_key_types(peer: Start, kind: str, key_type: KeyType, security: str) -> None:
    """A p2pfwd identity of the two rarer key types is verified by every peer, dialing and dialed."""
    other = peer(kind, KeyType.ED25519)

    async def main() -> None:
        async with host(Cell(kind, security, True, key_type)) as node:
            await node.ping(other.id, [address(other)], timeout_s=10)
        async with host(Cell(kind, security, True, key_type)) as node:
            await dialed_by(other, node)
            await node.ping(other.id, timeout_s=10)

    asyncio.run(main())


@pytest.mark.parametrize("kind", ["kubo", "p2pd", "js"])
def test_a_push_is_taken_and_its_stream_ended(peer: Start, kind: str) -> None:
    """That end is waited for before the next push: a peer without it would be told everything twice."""
    other = peer(kind, KeyType.ED25519)

    async def main() -> None:
        async with host(Cell(kind, NOISE, True, KeyType.ED25519)) as node:
            conn = await node.swarm.connect(other.id, [address(other)])
            await conn.identified
            assert identify.PUSH in node.swarm.peerstore.protocols(other.id)
            await node.identify._push(conn)  # raises where it is reset, or takes too long

    asyncio.run(main())
