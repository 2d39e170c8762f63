"""`--proxy-protocol v2` at real services: a reader of our own, haproxy and nginx where they are installed."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from p2pfwd.core.terms import ListenTerms
from tests.net.forwarding_rig import Pair, local
from tests.support.proxy_header import parse
from tests.support.sockets import TcpServer, free_port

V2 = ListenTerms(proxy_protocol="v2")


@pytest.fixture
def pair() -> Iterator[Pair]:
    with Pair("uvloop") as pair:
        yield pair


def observed(pair: Pair) -> tuple[str, int]:
    """Where the far side sees the near one."""
    (conn,) = pair.do(pair.far.host.swarm.conns, pair.near.host.peer_id)
    parts = dict(conn.remote_addr.components())
    return parts["ip4"], int(parts["tcp"])


def test_the_header_comes_first_and_whole_and_nothing_else_changes(pair: Pair) -> None:
    got: list[bytes] = []

    def collect(sock: socket.socket) -> None:
        data = b""
        while piece := sock.recv(65536):
            data += piece
        got.append(data)

    with TcpServer(collect) as server, pair.settled():
        pair.run(pair.far.service.listen("/x/test", local(server.port), V2))
        with socket.create_connection(("127.0.0.1", pair.forward())) as sock:
            sock.sendall(b"hello")
            sock.shutdown(socket.SHUT_WR)
            assert sock.recv(1) == b""
        address, port = observed(pair)
    header, rest = parse(got[0])
    assert header.command == "PROXY" and header.source is not None and header.destination is not None
    assert (str(header.source[0]), header.source[1]) == (address, port)
    assert header.destination[1] == int(dict(pair.far.address.components())["tcp"] or 0)
    assert header.tlvs == {0xE0: str(pair.near.host.peer_id).encode()}
    assert rest == b"hello"


@dataclass(frozen=True, slots=True)
class Server:
    """A program that takes the header, and its configuration: it answers with the source address."""

    program: str
    args: tuple[str, ...]
    config: str


HAPROXY = Server(
    "haproxy",
    ("-f", "{dir}/conf", "-db"),
    """
defaults
  mode http
  timeout client 5s
  timeout connect 5s
  timeout server 5s
frontend f
  bind 127.0.0.1:{port} accept-proxy
  http-request return status 200 content-type text/plain lf-string "%[src]:%[src_port]"
""",
)
NGINX = Server(
    "nginx",
    ("-c", "{dir}/conf", "-p", "{dir}", "-e", "{dir}/error.log"),
    """
daemon off; master_process off; pid {dir}/pid; error_log {dir}/error.log;
events {{ }}
http {{
  access_log off;
  client_body_temp_path {dir}/1; proxy_temp_path {dir}/2; fastcgi_temp_path {dir}/3;
  uwsgi_temp_path {dir}/4; scgi_temp_path {dir}/5;
  server {{
    listen 127.0.0.1:{port} proxy_protocol;
    location / {{ return 200 "$proxy_protocol_addr:$proxy_protocol_port"; }}
  }}
}}
""",
)


@contextmanager
def serving(server: Server, directory: Path) -> Iterator[int]:
    """The program at a free port."""
    program = shutil.which(server.program) or shutil.which(server.program, path="/usr/sbin:/usr/local/sbin")
    if program is None:
        pytest.skip(f"{server.program} is not installed")
    port = free_port()
    (directory / "conf").write_text(server.config.format(port=port, dir=directory))
    args = [word.format(dir=directory) for word in server.args]
    process = subprocess.Popen([program, *args], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except ConnectionRefusedError:
                assert process.poll() is None, f"{server.program} has ended"
                time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait()


def ask(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as sock:
        sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
        answer = b""
        while piece := sock.recv(65536):
            answer += piece
    return answer


@pytest.mark.parametrize("server", [HAPROXY, NGINX], ids=lambda it: it.program)
@pytest.mark.parametrize("path", ["direct", "relayed"])
def test_a_real_server_reads_it(
    pair: Pair, tmp_path: Path, server: Server, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over a relay no address is known: LOCAL, which both take, and answer with what they see themselves."""
    if path == "relayed":
        monkeypatch.setattr("p2pfwd.forwarding.listen._endpoint", lambda _addr: None)
    with serving(server, tmp_path) as service, pair.settled():
        pair.run(pair.far.service.listen("/x/test", local(service), V2))
        answer = ask(pair.forward())
        address, port = observed(pair)
    assert b" 200 " in answer.split(b"\r\n")[0]
    told = answer.rpartition(b"\r\n\r\n")[2].strip()
    assert (told == f"{address}:{port}".encode()) == (path == "direct"), answer
