"""rpc.codec: framing is bounded and chunking-invariant; messages and dataclasses keep to the schema."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfwd import errors
from p2pfwd.rpc import codec, schema


def lines_of(data: bytes, sizes: list[int], limit: int) -> list[bytes | None]:
    decoder = codec.LineDecoder(limit)
    found: list[bytes | None] = []
    for size in sizes:
        found += decoder.feed(data[:size])
        data = data[size:]
    return found + decoder.feed(data)


@given(
    st.lists(st.binary(max_size=12).map(lambda b: b.replace(b"\n", b"-"))),
    st.lists(st.integers(1, 9), max_size=30),
)
def test_lines_do_not_depend_on_how_the_bytes_are_cut(lines: list[bytes], sizes: list[int]) -> None:
    data = b"".join(line + b"\n" for line in lines)
    wanted = [line if len(line) < 8 else None for line in lines]
    assert lines_of(data, sizes, 8) == wanted
    assert lines_of(data, [1] * len(data), 8) == wanted


def test_an_overlong_line_is_told_before_its_end_and_not_kept() -> None:
    decoder = codec.LineDecoder(16)
    assert decoder.feed(b"x" * 17) == [None]
    assert decoder.feed(b"x" * 1000) == []
    assert decoder._held == 0
    assert decoder.feed(b"x\nok\n") == [b"ok"]


@pytest.mark.parametrize(
    ("line", "said", "request_id"),
    [
        (b"\xff\xfe", "not UTF-8", None),
        (b"{", "not JSON", None),
        (b"", "not JSON", None),
        (b"[" * 100_000, "nested too deeply", None),
        (b'{"a":' + b"9" * 5000 + b"}", "not JSON", None),
        (b"[]", "batches are not taken", None),
        (b'{"jsonrpc":"2.0","method":"id"}', "needs an id", None),
        (b'{"jsonrpc":"2.0","id":null,"method":"id"}', "needs an id", None),
        (b'{"jsonrpc":"2.0","id":true,"method":"id"}', "needs an id", None),
        (b'{"jsonrpc":"2.0","id":"' + b"a" * 65 + b'","method":"id"}', "longer than 64", None),
        (b'{"id":7,"method":"id"}', '"jsonrpc": "2.0"', 7),
        (b'{"jsonrpc":"2.0","id":7}', "needs a method", 7),
        (b'{"jsonrpc":"2.0","id":7,"method":"id","params":[1]}', "params must be an object", 7),
        (b'{"jsonrpc":"2.0","id":7,"method":"ping","params":{"timeout_s":NaN}}', "no JSON number", None),
    ],
)
def test_a_bad_request_line_is_an_error_with_the_id_where_it_had_one(
    line: bytes, said: str, request_id: int | None
) -> None:
    with pytest.raises(codec.InvalidRequest, match=said) as caught:
        codec.decode_request(line)
    assert caught.value.request_id == request_id


@given(st.binary(max_size=200))
def test_no_line_makes_the_decoders_raise_anything_but_rpc_errors(line: bytes) -> None:
    for decode in (codec.decode_request, codec.decode_reply):
        with contextlib.suppress(errors.RpcProtocolError):
            decode(line)


def test_a_request_keeps_python_names_and_a_result_has_wire_names() -> None:
    params = schema.CloseParams(listen_address="/ip4/127.0.0.1/tcp/1")
    line = codec.encode_request(3, "p2p.close", params)
    assert json.loads(line) == {
        "jsonrpc": "2.0",
        "id": 3,
        "method": "p2p.close",
        "params": {
            "all": False,
            "protocol": None,
            "listen_address": "/ip4/127.0.0.1/tcp/1",
            "target_address": None,
        },
    }
    request = codec.decode_request(line)
    assert codec.params_from_json(schema.CloseParams, request.params, request.method) == params

    stream = schema.Stream(handler_id="4", protocol="/x/é", age_s=1.5, rtt_ms=None)
    result = schema.StreamLsResult((stream,))
    reply = codec.decode_reply(codec.encode_result(3, result))
    assert isinstance(reply, codec.Response)
    assert reply.result["Streams"][0]["HandlerID"] == "4"
    assert reply.result["Streams"][0]["RTTMilliseconds"] is None
    assert codec.result_from_json(schema.StreamLsResult, reply.result, "p2p.stream.ls") == result


def test_empty_lists_are_lists_not_null() -> None:
    line = b'{"jsonrpc":"2.0","id":1,"result":{"Streams":[]}}\n'
    assert codec.encode_result(1, schema.StreamLsResult(())) == line


@pytest.mark.parametrize("method", sorted(schema.METHODS))
def test_every_method_of_the_schema_has_a_codec(method: str) -> None:
    for cls, wire in zip(schema.METHODS[method], (False, True), strict=True):
        assert codec._readers(cls, wire) is not None


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"protocol": "/x/a"}, "target must be given"),
        ({"protocol": "/x/a", "target": 5}, "target must be a string"),
        ({"protocol": "/x/a", "target": "t", "foreground": 1}, "foreground must be true or false"),
        ({"protocol": "/x/a", "target": "t", "fore": True}, "unknown parameter 'fore'"),
    ],
)
def test_parameters_that_do_not_fit_are_refused_by_name(body: dict[str, Any], said: str) -> None:
    with pytest.raises(errors.InvalidParams, match=said):
        codec.params_from_json(schema.ListenParams, body, "p2p.listen")


@dataclass(frozen=True)
class Everything:
    number: int
    ratio: float
    names: tuple[str, ...]
    table: dict[str, int]
    maybe: int | None = None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"Number": True}, "Number must be a whole number"),
        ({"Number": 1.0}, "Number must be a whole number"),
        ({"Ratio": "1"}, "Ratio must be a number"),
        ({"Names": "ab"}, "Names must be a list"),
        ({"Names": ["a", 1]}, r"Names\[1\] must be a string"),
        ({"Table": {"a": "b"}}, "Table.a must be a whole number"),
        ({"Maybe": "x"}, "Maybe must be a whole number"),
    ],
)
def test_a_result_that_does_not_fit_the_schema_is_told_with_its_place(
    change: dict[str, Any], said: str
) -> None:
    body = {"Number": 1, "Ratio": 2, "Names": ["a"], "Table": {"a": 1}, "Later": "ignored"}
    assert codec.result_from_json(Everything, body, "m") == Everything(1, 2, ("a",), {"a": 1})
    with pytest.raises(errors.RpcProtocolError, match=said):
        codec.result_from_json(Everything, body | change, "m")


def every_error() -> list[type[errors.P2PForwardError]]:
    return sorted(codec._error_classes().values(), key=lambda c: c.code)


@pytest.mark.parametrize("error_class", every_error(), ids=lambda c: c.code)
def test_every_public_error_crosses_the_socket_as_itself(error_class: type[errors.P2PForwardError]) -> None:
    sent = error_class("swarm: it failed", hint="mend it", attempts=[["/ip4/1.2.3.4/tcp/1", "refused"]])
    reply = codec.decode_reply(codec.encode_error(9, sent))
    assert isinstance(reply, codec.Response)
    got = reply.error
    assert type(got) is error_class
    assert (got.message, got.hint, got.details) == (sent.message, sent.hint, sent.details)


def test_error_codes_are_unique() -> None:
    classes = [v for v in vars(errors).values() if isinstance(v, type) and "code" in vars(v)]
    assert len({c.code for c in classes}) == len(classes)


def test_an_error_of_a_newer_daemon_keeps_its_code() -> None:
    body = {"code": -32000, "message": "no", "data": {"code": "moon-phase", "hint": None}}
    error = codec.error_from_json(body)
    assert (error.code, error.message, error.exit_status) == ("moon-phase", "no", errors.ExitStatus.FAILED)


def test_a_subclass_outside_errors_crosses_as_the_public_class_of_its_code() -> None:
    class Detail(errors.RemoteProtocolError):
        pass

    reply = codec.decode_reply(codec.encode_error(1, Detail("yamux: bad")))
    assert isinstance(reply, codec.Response)
    assert type(reply.error) is errors.RemoteProtocolError


def test_an_argument_that_is_not_utf8_is_refused_before_it_is_sent() -> None:
    with pytest.raises(errors.InvalidParams, match="not UTF-8"):
        codec.encode_request(1, "p2p.listen", schema.ListenParams("/x/\udcff", "22"))


def test_a_request_above_the_limit_is_refused_before_it_is_sent() -> None:
    with pytest.raises(errors.InvalidParams, match="1048576 is the limit"):
        codec.encode_request(1, "p2p.listen", schema.ListenParams("/x/" + "a" * 2_000_000, "22"))


def test_a_reply_may_quote_what_is_not_utf8() -> None:
    line = codec.encode_error(1, errors.StorageFailed("no \udcff file"))
    assert json.loads(line)["error"]["message"] == "no ? file"


@pytest.mark.parametrize(
    "line",
    [b"{}", b'{"id":1}', b'{"id":[],"result":1}', b'{"id":1,"error":5}', b'{"method":5}', b'{"method":"e"}'],
)
def test_a_reply_that_is_none_is_an_rpc_error(line: bytes) -> None:
    with pytest.raises(errors.RpcProtocolError):
        codec.decode_reply(line)


def test_a_number_that_json_has_not_is_told_as_that() -> None:
    for number in (float("nan"), float("inf")):
        with pytest.raises(errors.InvalidParams, match="not finite"):
            codec.encode_request(1, "ping", schema.PingParams("p", number))


def test_a_word_that_only_a_newer_daemon_knows_is_passed_on() -> None:
    body = codec.result_to_json(schema.PingResult("p", "/ip4/192.0.2.1/tcp/1", "direct", 0.5))
    found = codec.result_from_json(schema.PingResult, body | {"Path": "holepunched"}, "ping")
    assert str(found.path) == "holepunched"
    with pytest.raises(errors.RpcProtocolError, match="Path must be a string"):
        codec.result_from_json(schema.PingResult, body | {"Path": 1}, "ping")
