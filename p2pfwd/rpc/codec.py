"""Bytes of the control socket <-> messages <-> dataclasses of `rpc.schema`. Sans-IO.

JSON-RPC 2.0, one object per `\\n` line, UTF-8, no batches; `p2pfwd-rpc(7)` is the specification.
Rules: parameters carry the Python names of their fields, results the `wire_name`; the receiver of
parameters refuses what it does not know (a typo must not pass), the receiver of results ignores it (a
newer daemon may say more). Nothing but the exceptions of `p2pfwd.errors` leaves this module.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

from p2pfwd import errors
from p2pfwd.errors import InvalidParams, P2PForwardError, RpcProtocolError
from p2pfwd.rpc.schema import MAX_LINE_BYTES, wire_name

VERSION = "2.0"
EVENT_METHOD = "event"
MAX_ID_CHARS = 64
"""Longest string taken as a request's id: it is echoed, so it must not be a second payload."""

MAX_NUMBER = (1 << 63) - 1
"""Largest number taken, either way: what SQLite holds, and what a clock can be moved by."""

# JSON-RPC's own error numbers; programs should read error.data.code instead.
PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
APPLICATION_ERROR = -32000

RequestId = int | str
T = TypeVar("T")


class Request(NamedTuple):
    """A call, as the server sees it."""

    id: RequestId
    method: str
    params: Mapping[str, Any]


class Response(NamedTuple):
    """An answer, as the client sees it; `error` decides. `id` is None when the request had none to echo."""

    id: RequestId | None
    result: Any = None
    error: P2PForwardError | None = None


class Notification(NamedTuple):
    """A message without an answer; the daemon sends `event`."""

    method: str
    params: Mapping[str, Any]


class InvalidRequest(RpcProtocolError):
    """A line that is JSON and no request; `request_id` is its id where one could be read."""

    def __init__(self, message: str, request_id: RequestId | None = None) -> None:
        super().__init__(message)
        self.request_id = request_id


class LineDecoder:
    """Cuts a byte stream into lines of at most `max_bytes`, newline included.

    An overlong line is told once, as a None in its place, and skipped to its end; meanwhile nothing is kept.
    """

    def __init__(self, max_bytes: int = MAX_LINE_BYTES) -> None:
        self._max_bytes = max_bytes
        self._parts: list[bytes] = []
        self._held = 0
        self._skipping = False

    def feed(self, data: bytes) -> list[bytes | None]:
        """The lines that `data` completes, without their newline."""
        lines: list[bytes | None] = []
        *complete, rest = data.split(b"\n")
        for piece in complete:
            if self._take(piece, newline=1):
                lines.append(b"".join(self._parts))
            elif not self._skipping:
                lines.append(None)
            self._clear()
        if rest and not self._take(rest, newline=0) and not self._skipping:
            lines.append(None)
            self._clear()
            self._skipping = True
        return lines

    def _take(self, piece: bytes, newline: int) -> bool:
        if self._skipping or self._held + len(piece) + newline > self._max_bytes:
            return False
        self._parts.append(piece)
        self._held += len(piece)
        return True

    def _clear(self) -> None:
        self._parts = []
        self._held = 0
        self._skipping = False


# --- messages -------------------------------------------------------------------------------------


def encode_request(request_id: RequestId, method: str, params: object) -> bytes:
    """One line calling `method` with the dataclass `params`.

    Raises InvalidParams for text that is not UTF-8 and for a line above MAX_LINE_BYTES.
    """
    message = {"jsonrpc": VERSION, "id": request_id, "method": method, "params": params_to_json(params)}
    try:
        line = _line(message, errors="strict")
    except UnicodeEncodeError:
        raise InvalidParams(f"{method}: an argument is not UTF-8 text") from None
    except ValueError:
        raise InvalidParams(f"{method}: a number that is not finite") from None
    if len(line) > MAX_LINE_BYTES:
        raise InvalidParams(f"{method}: a request of {len(line)} bytes, where {MAX_LINE_BYTES} is the limit")
    return line


def encode_result(request_id: RequestId, result: object) -> bytes:
    """One line answering with the dataclass `result`."""
    return _line({"jsonrpc": VERSION, "id": request_id, "result": result_to_json(result)})


def encode_event(event: object) -> bytes:
    """One notification line carrying the dataclass `schema.Event`."""
    return _line({"jsonrpc": VERSION, "method": EVENT_METHOD, "params": result_to_json(event)})


def encode_error(request_id: RequestId | None, error: P2PForwardError) -> bytes:
    """One line answering with `error`, as its code, message, hint and details."""
    data = {"code": error.code, "hint": error.hint, "details": error.details}
    body = {"code": _number(error), "message": error.message, "data": data}
    return _line({"jsonrpc": VERSION, "id": request_id, "error": body})


def decode_request(line: bytes) -> Request:
    """The request on one line; raises InvalidRequest."""
    message = _object(line)
    request_id = message.get("id")
    if isinstance(request_id, bool) or not isinstance(request_id, (int, str)):
        raise InvalidRequest("RPC request: it needs an id, a whole number or a string")
    if isinstance(request_id, str) and len(request_id) > MAX_ID_CHARS:
        raise InvalidRequest(f"RPC request: an id longer than {MAX_ID_CHARS} characters")
    if message.get("jsonrpc") != VERSION:
        raise InvalidRequest('RPC request: it must say "jsonrpc": "2.0"', request_id)
    method, params = message.get("method"), message.get("params", {})
    if not isinstance(method, str):
        raise InvalidRequest("RPC request: it needs a method, a string", request_id)
    if not isinstance(params, dict):
        raise InvalidRequest("RPC request: params must be an object", request_id)
    return Request(request_id, method, params)


def decode_reply(line: bytes) -> Response | Notification:
    """What a daemon sent on one line; raises RpcProtocolError."""
    message = _object(line)
    if "method" in message:
        method, params = message["method"], message.get("params")
        if not isinstance(method, str) or not isinstance(params, dict):
            raise RpcProtocolError("RPC reply: a notification without a method or params")
        return Notification(method, params)
    reply_id = message.get("id")
    if isinstance(reply_id, bool) or not isinstance(reply_id, (int, str, NoneType)):
        raise RpcProtocolError("RPC reply: an id that is neither a number nor a string")
    if "error" in message:
        return Response(reply_id, error=error_from_json(message["error"]))
    if "result" not in message:
        raise RpcProtocolError("RPC reply: neither a result nor an error")
    return Response(reply_id, result=message["result"])


def _line(message: dict[str, Any], errors: str = "replace") -> bytes:
    # Replies may quote file names and peers' words that are no UTF-8: told with "?" for such bytes.
    text = json.dumps(message, ensure_ascii=False, separators=(",", ":"), allow_nan=False, default=str)
    return text.encode("utf-8", errors) + b"\n"


def _object(line: bytes) -> dict[str, Any]:
    try:
        message = json.loads(line.decode("utf-8"), parse_constant=_no_constant)
    except UnicodeDecodeError:
        raise InvalidRequest("RPC line: it is not UTF-8 text") from None
    except RecursionError:
        raise InvalidRequest("RPC line: it is nested too deeply") from None
    except ValueError as exc:
        raise InvalidRequest(f"RPC line: it is not JSON ({exc})") from None
    if not isinstance(message, dict):
        raise InvalidRequest("RPC line: it is not one JSON object (batches are not taken)")
    return message


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


# --- errors ---------------------------------------------------------------------------------------


def _number(error: P2PForwardError) -> int:
    if isinstance(error, InvalidRequest):
        return INVALID_REQUEST if error.request_id is not None else PARSE_ERROR
    if isinstance(error, RpcProtocolError):
        return INVALID_REQUEST
    if isinstance(error, errors.MethodNotFound):
        return METHOD_NOT_FOUND
    if isinstance(error, InvalidParams):
        return INVALID_PARAMS
    return INTERNAL_ERROR if isinstance(error, errors.InternalError) else APPLICATION_ERROR


@cache
def _error_classes() -> dict[str, type[P2PForwardError]]:
    found = [value for value in vars(errors).values() if isinstance(value, type)]
    return {c.code: c for c in found if issubclass(c, P2PForwardError) and "code" in vars(c)}


def error_from_json(body: object) -> P2PForwardError:
    """The exception an error object stands for: the class of its code, made up for an unknown code."""
    if not isinstance(body, dict) or not isinstance(body.get("message"), str):
        raise RpcProtocolError("RPC reply: an error without a message")
    data = body.get("data")
    data = data if isinstance(data, dict) else {}
    code, hint, details = data.get("code"), data.get("hint"), data.get("details")
    code = code if isinstance(code, str) else P2PForwardError.code
    error_class: type[P2PForwardError] = _error_classes().get(code) or type(
        "RemoteError", (P2PForwardError,), {"code": code}
    )
    error = error_class(body["message"], hint=hint if isinstance(hint, str) else None)
    error.details = details if isinstance(details, dict) else {}
    return error


# --- dataclasses ----------------------------------------------------------------------------------


def params_to_json(params: object) -> dict[str, Any]:
    """The JSON object of a dataclass of parameters: Python names."""
    return {f.name: _plain(getattr(params, f.name)) for f in fields(params)}  # type: ignore[arg-type]


def result_to_json(result: object) -> dict[str, Any]:
    """The JSON object of a dataclass of results: wire names, all the way down."""
    cls: Any = type(result)
    return {name: _plain(getattr(result, attribute)) for attribute, name in _names(cls)}


@cache
def _names(cls: Any) -> tuple[tuple[str, str], ...]:
    return tuple((f.name, wire_name(f)) for f in fields(cls))


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (str, int, float)):
        return value
    if is_dataclass(value):
        return result_to_json(value)
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    raise TypeError(f"{type(value).__name__} has no place in an RPC message")


def params_from_json(cls: type[T], body: Mapping[str, Any], method: str) -> T:
    """The parameters of `method`; raises InvalidParams naming the parameter at fault."""
    known = {f.name for f in fields(cls)}  # type: ignore[arg-type]
    for name in body:
        if name not in known:
            raise InvalidParams(f"{method}: unknown parameter {name!r}", parameter=name)
    try:
        return _build(cls, body, False)
    except _Misfit as exc:
        raise InvalidParams(f"{method}: {exc.args[0]}", parameter=exc.name) from None


def result_from_json(cls: type[T], body: object, method: str) -> T:
    """The result of `method`; raises RpcProtocolError when it does not fit the schema."""
    try:
        if not isinstance(body, dict):
            raise _Misfit("the result", "an object")
        return _build(cls, body, True)
    except _Misfit as exc:
        raise RpcProtocolError(f"RPC reply to {method}: {exc.args[0]}") from None


class _Misfit(Exception):
    """A value that does not fit its field; never leaves this module."""

    def __init__(self, name: str, wanted: str) -> None:
        super().__init__(f"{name} must be {wanted}")
        self.name = name


_Reader = Callable[[Any, str], Any]


def _build(cls: type[T], body: Mapping[str, Any], wire: bool) -> T:
    values: dict[str, Any] = {}
    key: Any = cls
    for attribute, name, read, required in _readers(key, wire):
        if name in body:
            values[attribute] = read(body[name], name)
        elif required:
            raise _Misfit(name, "given")
    return cls(**values)


@cache
def _readers(cls: Any, wire: bool) -> tuple[tuple[str, str, _Reader, bool], ...]:
    hints = get_type_hints(cls)
    return tuple(
        (f.name, wire_name(f) if wire else f.name, _reader(hints[f.name]), _is_required(f))
        for f in fields(cls)
    )


def _is_required(f: Any) -> bool:
    return f.default is MISSING and f.default_factory is MISSING


_SCALARS: dict[Any, tuple[type | tuple[type, ...], str]] = {
    str: (str, "a string"),
    int: (int, "a whole number"),
    float: ((int, float), "a number"),
    bool: (bool, "true or false"),
}


def _reader(hint: Any) -> _Reader:
    if hint is Any:
        return lambda value, name: value
    if hint in _SCALARS:
        return _scalar_reader(hint)
    origin, args = get_origin(hint), get_args(hint)
    if origin is Literal:  # results alone have them: a newer daemon may have more words, ours is type-checked
        return _scalar_reader(str)
    if origin in (UnionType, Union) and NoneType in args and len(args) == 2:
        inner = _reader(args[0] if args[1] is NoneType else args[1])
        return lambda value, name: None if value is None else inner(value, name)
    if origin is tuple and len(args) == 2 and args[1] is Ellipsis:
        return _tuple_reader(_reader(args[0]))
    if origin is dict and args[0] is str:
        return _dict_reader(_reader(args[1]))
    if is_dataclass(hint):
        return _object_reader(hint)
    raise TypeError(f"the RPC schema has no codec for {hint}")


def _scalar_reader(hint: type) -> _Reader:
    accepted, wanted = _SCALARS[hint]

    def read(value: Any, name: str) -> Any:
        if not isinstance(value, accepted) or (hint is not bool and isinstance(value, bool)):
            raise _Misfit(name, wanted)
        if isinstance(value, (int, float)) and not -MAX_NUMBER <= value <= MAX_NUMBER:  # 1e999 is infinity
            raise _Misfit(name, f"{wanted} of at most 2^63 - 1 either way")
        if isinstance(value, str) and not _is_text(value):
            raise _Misfit(name, f"{wanted} of whole characters: it has half of a surrogate pair")
        return value

    return read


def _is_text(value: str) -> bool:
    """Whether UTF-8 can hold it: escapes of JSON can name halves of a surrogate pair."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _tuple_reader(item: _Reader) -> _Reader:
    def read(value: Any, name: str) -> Any:
        if not isinstance(value, list):
            raise _Misfit(name, "a list")
        return tuple(item(each, f"{name}[{index}]") for index, each in enumerate(value))

    return read


def _dict_reader(item: _Reader) -> _Reader:
    def read(value: Any, name: str) -> Any:
        if not isinstance(value, dict):
            raise _Misfit(name, "an object")
        return {key: item(each, f"{name}.{key}") for key, each in value.items()}

    return read


def _object_reader(cls: Any) -> _Reader:
    def read(value: Any, name: str) -> Any:
        if not isinstance(value, dict):
            raise _Misfit(name, "an object")
        return _build(cls, value, True)

    return read
