"""Whatever a program writes into any field of any method is answered, and never a defect of the daemon."""

from __future__ import annotations

import json
import socket
from dataclasses import fields
from pathlib import Path
from typing import get_type_hints

import pytest

from p2pfwd.errors import InternalError, InvalidParams, UsageError
from p2pfwd.rpc import schema as s
from p2pfwd.rpc.client import Client
from tests.rpc.test_saved_tunnels import PEER, Lives, lives  # noqa: F401 - a fixture

BIG = "1" + "0" * 400
NUMBERS = (BIG, f"-{BIG}", "1e400", "-1e400", "1e308", "1e18", "9223372036854775807", "-9223372036854775808")
NUMBERS += ("9223372036854775808", "4294967296", "-1", "0", "NaN", "Infinity")
TEXTS = (r'"\ud800"', r'"\udfff\ud800"', r'"/x/\ud800"', r'"\u0000"', '""', '"/x/\\u0000"', f'"{"a" * 5000}"')
OTHERS = ("null", "true", "{}", "[]", "[[[[]]]]", "[" * 500 + "]" * 500, r'{"\ud800":1}')
VALUES = NUMBERS + TEXTS + OTHERS

FITTING = {
    **{"protocol": "/x/a", "target": "127.0.0.1:9", "listen": "127.0.0.1:0", "peer": PEER, "peers": [PEER]},
    **{"whom": [PEER], "name": "laptop", "timeout_s": 0.01, "rpc": s.RPC_MAJOR, "addresses": [PEER]},
    **{"topics": ["log"], "text": "", "subsystem": "all", "level": "info", "subscription": 1, "listener": 1},
}
"""What the other fields have meanwhile."""

WAITS = ("swarm.connect", "timeout_s", "null")
"""Nothing is wrong with it, and it takes its time."""


def calls() -> list[tuple[str, str]]:
    """Method and parameters of every call."""
    found = []
    for method, (params, _) in s.METHODS.items():
        hints = get_type_hints(params)
        rest = {f.name: FITTING[f.name] for f in fields(params) if f.name in FITTING}
        for name in hints:
            others = json.dumps({other: value for other, value in rest.items() if other != name})[1:-1]
            values = [value for value in VALUES if (method, name, value) != WAITS]
            forms = [form for value in values for form in (value, f"[{value}]")]
            forms = forms if "tuple" in str(hints[name]) else values
            found += [(method, f'{{"{name}":{form}{", " if others else ""}{others}}}') for form in forms]
        found.append((method, r'{"\ud800":1}'))
    return [call for call in found if call[0] != "daemon.shutdown"]


def test_no_number_no_text_and_no_depth_is_a_defect(
    lives: Lives,  # noqa: F811
    home: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Each field of each method is given numbers without measure, halves of characters and nested lists."""

    def work(client: Client) -> dict[str, str]:
        ended: dict[str, str] = {}
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(home / "rpc.sock"))
            with sock.makefile("rwb") as file:
                for method, params in [("daemon.hello", f'{{"rpc":{s.RPC_MAJOR}}}'), *calls()]:
                    file.write(f'{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{params}}}\n'.encode())
                    file.flush()
                    while "method" in (reply := json.loads(file.readline())):
                        pass  # an event
                    code = reply["error"]["data"]["code"] if "error" in reply else "done"
                    ended.setdefault(code, f"{method} {params[:200]}")
        return ended

    ended = lives(work)
    assert InternalError.code not in ended, ended[InternalError.code]
    assert {"done", InvalidParams.code, UsageError.code} <= ended.keys()
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == []
