"""net.port_mapping.upnp: what a router may do to the process that asks it; tests/netns has a real one."""

from __future__ import annotations

import asyncio
import contextlib
import re
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from p2pfwd.net.port_mapping import upnp, upnp_child
from p2pfwd.net.port_mapping.contract import No, Sign
from p2pfwd.net.port_mapping.upnp import Upnp, question
from p2pfwd.policy.port_mapping import Grant, Protocol
from p2pfwd.system.gateway import Gateway
from tests.support.sockets import TcpServer

needs_library = pytest.mark.skipif(not upnp.is_installed(), reason=upnp.MISSING)
HERE = Gateway("127.0.0.1", "127.0.0.1")
GRANT = Grant(Protocol.UPNP, "11.1.0.1", 4011, 0)

TAKEN = No("it says ConflictInMappingEntry", True)
NOT_THERE = No("it says that it maps the port, and has no such mapping")
NO_HOST = No("it does not say its external address")
SERVICE = "urn:schemas-upnp-org:service:WANIPConnection:1"


def description(control: str) -> bytes:
    kinds = ("InternetGatewayDevice:1", "WANDevice:1", "WANConnectionDevice:1")
    opened = "".join(
        f"<device><deviceType>urn:schemas-upnp-org:device:{kind}</deviceType><deviceList>"
        for kind in kinds[:2]
    )
    inner = (
        f"<device><deviceType>urn:schemas-upnp-org:device:{kinds[2]}</deviceType><serviceList><service>"
        f"<serviceType>{SERVICE}</serviceType><controlURL>{control}</controlURL>"
        "<eventSubURL>/e</eventSubURL><SCPDURL>/s</SCPDURL></service></serviceList></device>"
    )
    body = f'<?xml version="1.0"?><root>{opened}{inner}{"</deviceList></device>" * 2}</root>'
    return f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode()


def ask(serve: Callable[[socket.socket], None]) -> tuple[dict[str, Any] | None, float]:
    """What came of a check with an HTTP server that does `serve`, and the seconds it took."""
    began = time.monotonic()
    with TcpServer(serve) as server:
        location = f"http://127.0.0.1:{server.port}/d.xml"
        said = asyncio.run(question(location, "check", "127.0.0.1", 4011, 4011, 0))
    return said, time.monotonic() - began


@needs_library
def test_a_router_that_answers_without_end_is_cut_off() -> None:
    def endless(conn: socket.socket) -> None:
        with contextlib.suppress(OSError):
            conn.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            while True:
                conn.sendall(bytes(1 << 20))

    said, _ = ask(endless)
    assert said is None or "error" in said


@needs_library
def test_a_router_that_never_ends_its_answer_is_waited_for_a_bounded_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(upnp, "QUESTION_S", 0.5)

    def silent(conn: socket.socket) -> None:
        with contextlib.suppress(OSError):
            conn.recv(4096)
            conn.recv(4096)  # until the child is gone

    said, took_s = ask(silent)
    assert said is None and took_s < 20


@needs_library
def test_nobody_but_the_router_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its description cannot send the question to another machine."""
    came: list[bytes] = []
    with TcpServer(lambda conn: came.append(conn.recv(100))) as victim:

        def describe(conn: socket.socket) -> None:
            conn.recv(4096)
            conn.sendall(description(f"http://localhost:{victim.port}/c"))

        said, _ = ask(describe)
    assert said == {"error": "it leads to somebody else"} and came == []


class Igd:
    """A UPnP router on loopback; `answers`: of each action, one after the other, faults or values."""

    def __init__(self, answers: dict[str, list[int | dict[str, str]]]) -> None:
        self.answers = answers
        self.asked: list[tuple[str, dict[str, str]]] = []

    def __call__(self, conn: socket.socket) -> None:
        request = b""
        while b"\r\n\r\n" not in request or (b"POST" in request and b"</s:Envelope>" not in request):
            request += conn.recv(4096)
        if request.startswith(b"GET"):
            conn.sendall(description("/c"))
            return
        text = request.decode()
        action = text.partition(f"{SERVICE}#")[2].partition('"')[0]
        self.asked.append((action, dict(re.findall(r"<(New\w+)>([^<]*)<", text))))
        said = self.answers[action].pop(0)
        if isinstance(said, int):
            fault = f"<UPnPError><errorCode>{said}</errorCode></UPnPError>"
            body = f"<s:Envelope><s:Body><s:Fault><detail>{fault}</detail></s:Fault></s:Body></s:Envelope>"
        else:
            values = "".join(f"<{name}>{value}</{name}>" for name, value in said.items())
            body = (
                f"<s:Envelope><s:Body><u:{action}Response>{values}</u:{action}Response></s:Body></s:Envelope>"
            )
        status = "500 Internal Server Error" if isinstance(said, int) else "200 OK"
        conn.sendall(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())


ADDRESS: dict[str, str] = {"NewExternalIPAddress": "11.1.0.1"}
OURS = {"NewInternalClient": "127.0.0.1", "NewInternalPort": "4011", "NewLeaseDuration": "600"}
OTHERS = {**OURS, "NewInternalClient": "192.168.1.9"}


@needs_library
@pytest.mark.parametrize(
    ("answers", "there", "wanted", "leases"),
    [
        pytest.param([{}], OURS, Grant(Protocol.UPNP, "11.1.0.1", 4011, 600), ["7200"], id="for less"),
        pytest.param(
            [725, {}], OURS, Grant(Protocol.UPNP, "11.1.0.1", 4011, 0), ["7200", "0"], id="permanent only"
        ),
        pytest.param([{}], OTHERS, TAKEN, ["7200"], id="agreed, and another's as before"),
        pytest.param([{}], 714, NOT_THERE, ["7200"], id="agreed only"),
        pytest.param([718], OURS, TAKEN, ["7200"], id="taken"),
        pytest.param([606], OURS, No("it says Action not authorized"), ["7200"], id="not authorised"),
        pytest.param([725, 606], OURS, No("it says Action not authorized"), ["7200", "0"], id="neither"),
    ],
)
def test_what_a_router_says_by_soap(
    monkeypatch: pytest.MonkeyPatch,
    answers: list[int | dict[str, str]],
    there: int | dict[str, str],
    wanted: Grant | No,
    leases: list[str],
) -> None:
    igd = Igd(
        {
            "AddPortMapping": list(answers),
            "GetSpecificPortMappingEntry": [there],
            "GetExternalIPAddress": [ADDRESS],
        }
    )
    with TcpServer(igd) as server:

        async def found(gateway: Gateway) -> str:
            return f"http://127.0.0.1:{server.port}/d.xml"

        monkeypatch.setattr(upnp, "search", found)
        assert asyncio.run(Upnp().map(HERE, 4011, 4011, 7200)) == wanted
    added = [values for action, values in igd.asked if action == "AddPortMapping"]
    assert [values["NewLeaseDuration"] for values in added] == leases
    assert added[0]["NewInternalClient"] == "127.0.0.1" and added[0]["NewExternalPort"] == "4011"


@needs_library
@pytest.mark.parametrize(("there", "is_undone"), [(OURS, True), (OTHERS, False), (714, False)])
def test_nobody_elses_mapping_is_undone(
    monkeypatch: pytest.MonkeyPatch, there: int | dict[str, str], is_undone: bool
) -> None:
    """After a restart of the router the port may be another machine's."""
    igd = Igd({"GetSpecificPortMappingEntry": [there], "DeletePortMapping": [{}]})
    with TcpServer(igd) as server:

        async def found(gateway: Gateway) -> str:
            return f"http://127.0.0.1:{server.port}/d.xml"

        monkeypatch.setattr(upnp, "search", found)
        asyncio.run(Upnp().unmap(HERE, 4011, Grant(Protocol.UPNP, "11.1.0.1", 4012, 0)))
    asked = [values for action, values in igd.asked if action == "DeletePortMapping"]
    assert [values["NewExternalPort"] for values in asked] == ["4012"] * is_undone


@needs_library
def test_the_process_has_bounds_before_it_reads_anything() -> None:
    code = (
        "import resource, signal; from p2pfwd.net.port_mapping import upnp_child as child; child.bound();"
        "print(resource.getrlimit(resource.RLIMIT_AS)[1], resource.getrlimit(resource.RLIMIT_CPU)[1],"
        " signal.alarm(0))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    wanted = (upnp_child.MEMORY_BYTES, upnp_child.CPU_S, upnp_child.TIME_S)
    assert done.stdout.split() == [str(each) for each in wanted]
    assert resource.getrlimit(resource.RLIMIT_AS)[1] != upnp_child.MEMORY_BYTES


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        pytest.param(None, None, id="no answer"),
        pytest.param({"error": "No UPnP device discovered"}, None, id="nobody there"),
        pytest.param({"error": "ConflictInMappingEntry"}, TAKEN, id="718"),
        pytest.param({"error": "Action\n" + "x" * 200}, No("it says Action?" + "x" * 93), id="its own words"),
        pytest.param(
            {"host": "11.1.0.1", "lease_s": 0, "has_mapping": True},
            Grant(Protocol.UPNP, "11.1.0.1", 4011, 0),
            id="permanent leases only",
        ),
        pytest.param(
            {"host": "11.1.0.1", "lease_s": 7200, "has_mapping": False},
            NOT_THERE,
            id="not there",
        ),
        pytest.param({"host": "x", "lease_s": 5}, NO_HOST, id="no IP"),
        pytest.param({"host": "11.1.0.1", "lease_s": "5"}, NO_HOST, id="no lease"),
    ],
)
def test_what_the_process_may_answer(
    monkeypatch: pytest.MonkeyPatch, said: dict[str, Any] | None, wanted: Grant | No | None
) -> None:
    async def answer(*words: object) -> dict[str, Any] | None:
        return said

    async def found(gateway: Gateway) -> str:
        return "http://127.0.0.1/"

    monkeypatch.setattr(upnp, "question", answer)
    monkeypatch.setattr(upnp, "search", found)
    assert asyncio.run(Upnp().map(HERE, 4011, 4011, 7200)) == wanted


def test_a_check_tells_of_the_address_and_the_mapping(monkeypatch: pytest.MonkeyPatch) -> None:
    searched: list[Gateway] = []

    async def found(gateway: Gateway) -> str:
        searched.append(gateway)
        return "http://127.0.0.1/"

    answers = [{"host": "11.1.0.1", "has_mapping": True}, {"host": 5, "has_mapping": 1}, None, {}]

    async def answer(*words: object) -> dict[str, Any] | None:
        return answers.pop(0)

    monkeypatch.setattr(upnp, "search", found)
    monkeypatch.setattr(upnp, "question", answer)

    async def checks() -> list[Sign | None]:
        way = Upnp()
        return [await way.check(HERE, 4011, GRANT) for _ in range(4)]

    signs = asyncio.run(checks())
    assert signs == [Sign(None, "11.1.0.1"), Sign(has_mapping=False), None, Sign(has_mapping=False)]
    assert searched == [HERE, HERE], "once, and again where it was silent"


def test_more_than_an_answer_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    child = tmp_path / "child.py"
    monkeypatch.setattr(upnp, "_CHILD", str(child))
    for body, wanted in (
        ("print('x' * 100_000)", None),
        ("print('[' * 4000)", None),
        ("print('[1]')", None),
        ("print('{}')", {}),
        ("raise SystemExit(3)", None),
    ):
        child.write_text(body)
        assert asyncio.run(question()) == wanted, body
