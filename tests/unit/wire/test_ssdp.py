"""wire.ssdp: a search, and which answers and announcements count."""

from __future__ import annotations

import pytest

from p2pfwd.errors import RemoteProtocolError
from p2pfwd.wire import ssdp

ROUTER = "10.1.0.1"
URL = "http://10.1.0.1:5000/rootDesc.xml"


def answer(*lines: str) -> bytes:
    return "\r\n".join(("HTTP/1.1 200 OK", *lines, "", "")).encode()


def notify(*lines: str) -> bytes:
    return "\r\n".join(("NOTIFY * HTTP/1.1", *lines, "", "")).encode()


def test_a_search_is_what_the_architecture_says() -> None:
    assert ssdp.encode_search(ssdp.TARGETS[0]) == (
        b'M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\nMAN: "ssdp:discover"\r\nMX: 1\r\n'
        b"ST: urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\n\r\n"
    )


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(answer(f"LOCATION: {URL}"), id="usual"),
        pytest.param(answer("Cache-Control: x", f"location:{URL} ", "ST: y"), id="other spelling"),
        pytest.param(f"HTTP/1.0 200 OK\nLocation: {URL}\n\n".encode(), id="bare newlines"),
    ],
)
def test_an_answer_of_the_router(data: bytes) -> None:
    assert ssdp.decode_answer(data, ROUTER) == URL


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(notify(f"LOCATION: {URL}"), id="no answer"),
        pytest.param(answer("ST: x"), id="no location"),
        pytest.param(answer(f"LOCATION: {URL}", f"LOCATION: {URL}"), id="two"),
        pytest.param(answer("LOCATION: http://10.1.0.9:5000/x"), id="another machine"),
        pytest.param(answer("LOCATION: http://127.0.0.1:4011/x"), id="this machine"),
        pytest.param(answer("LOCATION: http://10.1.0.1@127.0.0.1/x"), id="another in disguise"),
        pytest.param(answer("LOCATION: http://10.1.0.1.example/x"), id="a name"),
        pytest.param(answer("LOCATION: https://10.1.0.1/x"), id="another scheme"),
        pytest.param(answer("LOCATION: file:///etc/passwd"), id="a file"),
        pytest.param(answer("LOCATION: http://10.1.0.1:0/x"), id="port 0"),
        pytest.param(answer("LOCATION: http://10.1.0.1:99999/x"), id="no port"),
        pytest.param(answer("LOCATION: http://10.1.0.1/é"), id="not ASCII"),
        pytest.param(answer(f"LOCATION: {URL}{'x' * 256}"), id="too long"),
    ],
)
def test_what_does_not_lead_to_the_router_does_not_count(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        ssdp.decode_answer(data, ROUTER)


@pytest.mark.parametrize(
    ("data", "boot"),
    [
        pytest.param(notify("NTS: ssdp:alive", "BOOTID.UPNP.ORG: 17"), b"17", id="UPnP 1.1"),
        pytest.param(notify("nts:ssdp:alive", "01-nls: 9ab"), b"9ab", id="UPnP 1.0"),
        pytest.param(notify("NTS: ssdp:alive"), None, id="says nothing of it"),
        pytest.param(notify("NTS: ssdp:byebye", "BOOTID.UPNP.ORG: 17"), None, id="goes"),
        pytest.param(answer("NTS: ssdp:alive", "BOOTID.UPNP.ORG: 17"), None, id="an answer"),
        pytest.param(notify("NTS: ssdp:alive", f"01-NLS: {'1' * 65}"), None, id="too long"),
        pytest.param(b"", None, id="nothing"),
    ],
)
def test_a_restart_is_known_by_what_a_device_says_of_it(data: bytes, boot: bytes | None) -> None:
    assert ssdp.boot_of(data) == boot
