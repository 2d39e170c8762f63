"""Every line of the RPC, as programs in any language see it: `golden.jsonl` is the interface.

A change of this file is a change of the interface: a new field is a minor one, anything else needs a new
RPC_MAJOR. `python -m tests.rpc.test_golden` writes the file anew.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest

from p2pfwd import errors
from p2pfwd.rpc import codec, schema

GOLDEN = Path(__file__).with_name("golden.jsonl")

_SCALARS: dict[Any, Any] = {str: "text", int: 7, float: 0.5, bool: True, Any: "any"}


def sample(hint: Any) -> Any:
    """A value of the type, every optional part present."""
    if hint in _SCALARS:
        return _SCALARS[hint]
    if is_dataclass(hint):
        assert isinstance(hint, type)
        hints = get_type_hints(hint)
        return hint(**{f.name: sample(hints[f.name]) for f in fields(hint)})
    origin, args = get_origin(hint), get_args(hint)
    if origin in (UnionType, Union):
        return sample(next(a for a in args if a is not NoneType))
    if origin is Literal:
        return args[0]
    return {"key": sample(args[1])} if origin is dict else (sample(args[0]),)


def emptiest(hint: Any) -> Any:
    """A value of the type with everything absent that may be."""
    if not is_dataclass(hint):
        origin, args = get_origin(hint), get_args(hint)
        if origin in (UnionType, Union) and NoneType in args:
            return None
        return origin() if origin in (tuple, dict) else sample(hint)
    assert isinstance(hint, type)
    hints = get_type_hints(hint)
    absent = {f.name: f.default for f in fields(hint) if f.default is not MISSING}
    return hint(**{f.name: absent.get(f.name, emptiest(hints[f.name])) for f in fields(hint)})


def golden_lines() -> Iterator[bytes]:
    """What is in the file: for each method a full and an empty call, and their results; events; an error."""
    for method, (params, result) in sorted(schema.METHODS.items()):
        for make in (sample, emptiest):
            yield codec.encode_request(1, method, make(params))
            yield codec.encode_result(1, make(result))
    yield codec.encode_event(sample(schema.Event))
    error = errors.DialFailed("cannot reach it", hint="try", attempts=[{"Address": "/ip4/…", "Reason": "no"}])
    yield codec.encode_error(1, error)
    yield codec.encode_error(None, errors.RpcProtocolError("RPC line: longer than 1048576 bytes"))


def test_the_lines_are_the_golden_ones() -> None:
    assert b"".join(golden_lines()).decode().splitlines() == GOLDEN.read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("method", sorted(schema.METHODS))
def test_every_line_is_read_back_as_it_was(method: str) -> None:
    params, result = schema.METHODS[method]
    for make in (sample, emptiest):
        request = codec.decode_request(codec.encode_request("a", method, make(params)).rstrip())
        assert codec.params_from_json(params, request.params, method) == make(params)
        reply = codec.decode_reply(codec.encode_result("a", make(result)).rstrip())
        assert isinstance(reply, codec.Response)
        assert codec.result_from_json(result, reply.result, method) == make(result)


def test_kubos_names_are_kept() -> None:
    text = GOLDEN.read_text(encoding="utf-8")
    for name in ("Listeners", "Protocol", "ListenAddress", "TargetAddress", "Streams", "HandlerID"):
        assert f'"{name}":' in text
    for name in ("OriginAddress", "ID", "Addresses", "AgentVersion", "Protocols", "PublicKey"):
        assert f'"{name}":' in text
    assert all(json.loads(line)["jsonrpc"] == "2.0" for line in text.splitlines())


if __name__ == "__main__":
    GOLDEN.write_bytes(b"".join(golden_lines()))
