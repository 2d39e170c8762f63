"""Any bytes on the control socket, in any pieces: lines within their bound, requests, replies, or refusals.

The first byte says how the rest is cut. Whatever is read as parameters or results fits its schema.
"""

from __future__ import annotations

import json

from p2pfwd.errors import P2PForwardError, RpcProtocolError
from p2pfwd.rpc import codec
from p2pfwd.rpc.schema import METHODS, CloseParams, Event, ForwardParams, HelloParams, ListenParams

MOST = 512
"""Bytes of a line here; the real bound would hide the decoder's skipping from short inputs."""

SEEDS = [
    b"\x07" + codec.encode_request(1, "daemon.hello", HelloParams(1, "x")),
    b"\x40" + codec.encode_request("a", "p2p.listen", ListenParams("/x/web", "8080")) * 2,
    b"\x02" + codec.encode_request(3, "p2p.forward", ForwardParams("/x/web", "18080", "12D3")),
    b"\x10" + codec.encode_request(4, "p2p.close", CloseParams(all=True)),
    b"\x20" + codec.encode_event(Event(1, "log", 1.5, {"level": "info"})),
    b"\x20" + codec.encode_error(5, RpcProtocolError("no", hint="why")),
    b"\x20" + b'{"jsonrpc":"2.0","id":6,"result":{"ID":"12D3","Addresses":[]}}\n',
    b"\x00" + b"[" * 300 + b"\n" + b'{"a":1e999,"b":NaN,"c":"\\ud800"}\n',
]


def one(data: bytes) -> None:
    """Cut `data` into lines two ways, and read each as everything."""
    how, wire = (data[0], data[1:]) if data else (0, b"")
    lines = pieces(wire, how + 1)
    assert lines == pieces(wire, len(wire) + 1)
    for line in lines:
        if line is not None:
            assert len(line) < MOST
            read(line)


def pieces(wire: bytes, step: int) -> list[bytes | None]:
    decoder = codec.LineDecoder(MOST)
    return [line for at in range(0, len(wire), step) for line in decoder.feed(wire[at : at + step])]


def read(line: bytes) -> None:
    try:
        request = codec.decode_request(line)
    except codec.InvalidRequest as exc:
        assert json.loads(codec.encode_error(exc.request_id, exc))["error"]["message"]
    else:
        params, _ = METHODS.get(request.method, METHODS["p2p.forward"])[:2]
        try:
            codec.params_from_json(params, request.params, request.method)
        except P2PForwardError as exc:
            assert codec.encode_error(request.id, exc).endswith(b"\n")
    try:
        reply = codec.decode_reply(line)
    except RpcProtocolError:
        return
    if isinstance(reply, codec.Response) and reply.error is None:
        try:
            codec.result_from_json(METHODS["id"][1], reply.result, "id")
        except RpcProtocolError:
            return


if __name__ == "__main__":
    from mutator import main

    main(one, SEEDS)
