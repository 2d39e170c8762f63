from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DialStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    UNUSED: _ClassVar[DialStatus]
    E_DIAL_ERROR: _ClassVar[DialStatus]
    E_DIAL_BACK_ERROR: _ClassVar[DialStatus]
    OK: _ClassVar[DialStatus]
UNUSED: DialStatus
E_DIAL_ERROR: DialStatus
E_DIAL_BACK_ERROR: DialStatus
OK: DialStatus

class Message(_message.Message):
    __slots__ = ("type", "dial", "dial_response")
    class Type(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        DIAL: _ClassVar[Message.Type]
        DIAL_RESPONSE: _ClassVar[Message.Type]
    DIAL: Message.Type
    DIAL_RESPONSE: Message.Type
    class ResponseStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        OK: _ClassVar[Message.ResponseStatus]
        E_DIAL_ERROR: _ClassVar[Message.ResponseStatus]
        E_DIAL_REFUSED: _ClassVar[Message.ResponseStatus]
        E_BAD_REQUEST: _ClassVar[Message.ResponseStatus]
        E_INTERNAL_ERROR: _ClassVar[Message.ResponseStatus]
    OK: Message.ResponseStatus
    E_DIAL_ERROR: Message.ResponseStatus
    E_DIAL_REFUSED: Message.ResponseStatus
    E_BAD_REQUEST: Message.ResponseStatus
    E_INTERNAL_ERROR: Message.ResponseStatus
    class PeerInfo(_message.Message):
        __slots__ = ("id", "addrs")
        ID_FIELD_NUMBER: _ClassVar[int]
        ADDRS_FIELD_NUMBER: _ClassVar[int]
        id: bytes
        addrs: _containers.RepeatedScalarFieldContainer[bytes]
        def __init__(self, id: _Optional[bytes] = ..., addrs: _Optional[_Iterable[bytes]] = ...) -> None: ...
    class Dial(_message.Message):
        __slots__ = ("peer",)
        PEER_FIELD_NUMBER: _ClassVar[int]
        peer: Message.PeerInfo
        def __init__(self, peer: _Optional[_Union[Message.PeerInfo, _Mapping[str, object]]] = ...) -> None: ...
    class DialResponse(_message.Message):
        __slots__ = ("status", "status_text", "addr")
        STATUS_FIELD_NUMBER: _ClassVar[int]
        STATUS_TEXT_FIELD_NUMBER: _ClassVar[int]
        ADDR_FIELD_NUMBER: _ClassVar[int]
        status: Message.ResponseStatus
        status_text: str
        addr: bytes
        def __init__(self, status: _Optional[_Union[Message.ResponseStatus, str]] = ..., status_text: _Optional[str] = ..., addr: _Optional[bytes] = ...) -> None: ...
    TYPE_FIELD_NUMBER: _ClassVar[int]
    DIAL_FIELD_NUMBER: _ClassVar[int]
    DIAL_RESPONSE_FIELD_NUMBER: _ClassVar[int]
    type: Message.Type
    dial: Message.Dial
    dial_response: Message.DialResponse
    def __init__(self, type: _Optional[_Union[Message.Type, str]] = ..., dial: _Optional[_Union[Message.Dial, _Mapping[str, object]]] = ..., dial_response: _Optional[_Union[Message.DialResponse, _Mapping[str, object]]] = ...) -> None: ...

class DialRequest(_message.Message):
    __slots__ = ("addrs", "nonce")
    ADDRS_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    addrs: _containers.RepeatedScalarFieldContainer[bytes]
    nonce: int
    def __init__(self, addrs: _Optional[_Iterable[bytes]] = ..., nonce: _Optional[int] = ...) -> None: ...

class DialResponseV2(_message.Message):
    __slots__ = ("status", "addr_idx", "dial_status")
    class ResponseStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        E_INTERNAL_ERROR: _ClassVar[DialResponseV2.ResponseStatus]
        E_REQUEST_REJECTED: _ClassVar[DialResponseV2.ResponseStatus]
        E_DIAL_REFUSED: _ClassVar[DialResponseV2.ResponseStatus]
        OK: _ClassVar[DialResponseV2.ResponseStatus]
    E_INTERNAL_ERROR: DialResponseV2.ResponseStatus
    E_REQUEST_REJECTED: DialResponseV2.ResponseStatus
    E_DIAL_REFUSED: DialResponseV2.ResponseStatus
    OK: DialResponseV2.ResponseStatus
    STATUS_FIELD_NUMBER: _ClassVar[int]
    ADDR_IDX_FIELD_NUMBER: _ClassVar[int]
    DIAL_STATUS_FIELD_NUMBER: _ClassVar[int]
    status: DialResponseV2.ResponseStatus
    addr_idx: int
    dial_status: DialStatus
    def __init__(self, status: _Optional[_Union[DialResponseV2.ResponseStatus, str]] = ..., addr_idx: _Optional[int] = ..., dial_status: _Optional[_Union[DialStatus, str]] = ...) -> None: ...

class DialDataRequest(_message.Message):
    __slots__ = ("addr_idx", "num_bytes")
    ADDR_IDX_FIELD_NUMBER: _ClassVar[int]
    NUM_BYTES_FIELD_NUMBER: _ClassVar[int]
    addr_idx: int
    num_bytes: int
    def __init__(self, addr_idx: _Optional[int] = ..., num_bytes: _Optional[int] = ...) -> None: ...

class DialDataResponse(_message.Message):
    __slots__ = ("data",)
    DATA_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    def __init__(self, data: _Optional[bytes] = ...) -> None: ...

class MessageV2(_message.Message):
    __slots__ = ("dial_request", "dial_response", "dial_data_request", "dial_data_response")
    DIAL_REQUEST_FIELD_NUMBER: _ClassVar[int]
    DIAL_RESPONSE_FIELD_NUMBER: _ClassVar[int]
    DIAL_DATA_REQUEST_FIELD_NUMBER: _ClassVar[int]
    DIAL_DATA_RESPONSE_FIELD_NUMBER: _ClassVar[int]
    dial_request: DialRequest
    dial_response: DialResponseV2
    dial_data_request: DialDataRequest
    dial_data_response: DialDataResponse
    def __init__(self, dial_request: _Optional[_Union[DialRequest, _Mapping[str, object]]] = ..., dial_response: _Optional[_Union[DialResponseV2, _Mapping[str, object]]] = ..., dial_data_request: _Optional[_Union[DialDataRequest, _Mapping[str, object]]] = ..., dial_data_response: _Optional[_Union[DialDataResponse, _Mapping[str, object]]] = ...) -> None: ...

class DialBack(_message.Message):
    __slots__ = ("nonce",)
    NONCE_FIELD_NUMBER: _ClassVar[int]
    nonce: int
    def __init__(self, nonce: _Optional[int] = ...) -> None: ...

class DialBackResponse(_message.Message):
    __slots__ = ("status",)
    class DialBackStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        OK: _ClassVar[DialBackResponse.DialBackStatus]
    OK: DialBackResponse.DialBackStatus
    STATUS_FIELD_NUMBER: _ClassVar[int]
    status: DialBackResponse.DialBackStatus
    def __init__(self, status: _Optional[_Union[DialBackResponse.DialBackStatus, str]] = ...) -> None: ...
