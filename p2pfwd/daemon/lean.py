"""Keeps out of the daemon what libraries import and never use: OpenSSL, most of protobuf's Python, `inspect`;
and code that `dataclass` makes anew for each class.

asyncio and uvloop import `ssl`, and hashlib `_hashlib`, just in case; both load libssl and libcrypto.
`cryptography` brings an OpenSSL of its own, so the daemon uses neither. No import of ours can be made lazy to
the same effect, since none of ours is at fault. asyncio and hashlib have fallbacks for a Python built without
OpenSSL, and these are taken. uvloop has none: it needs the names below to exist, for TLS transports that
nothing here makes; where they are not enough it is imported with all of OpenSSL after all.
Measured on CPython 3.11, x86-64, idle on uvloop, resident: in `lan` 38.9 MB, and 43.4 with OpenSSL; in
`public` 45.1 and 49.6. Of the difference 1.3 MB are this process's alone.

protobuf's messages are made in C, and still it imports the module that makes them in Python: 1.0 MB; and
another, with `calendar`, that has methods for messages nobody here has: 0.2 MB.

`cryptography` asks its backend before it reads an Ed25519 or X25519 key, and the backend loads OpenSSL's
bindings for Python, elliptic curves and RSA: 0.7 MB with the first connection. The keys need none of it.

Of its 160 dataclasses each had a `__repr__` of its own, and 130 a `__setattr__` and a `__delattr__` that
refuse: 0.9 MB.

`inspect` with `ast` and `dis` (0.9 MB), `locale` (0.4 MB) and `tokenize` are imported by asyncio,
dataclasses, subprocess and `linecache` for what is hardly ever done. They come when it is done, so nobody has
to know that they were not there. `dataclass` would load the first for each class without a docstring.

With the first TLS connection pyOpenSSL imports `typing_extensions` for a decorator that says what is out of
date: 0.3 MB, and `inspect`.

There is no public way to any of it: libraries import what they may need as they are imported, `dataclass`
shares no code between classes, and `cryptography` asks its backend in any case. So a private name is only
used where it is as it is known here, and no module is an empty one: whoever reads more of it gets all of it.
Another version of a library costs memory, and nothing else.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec, module_from_spec
from threading import RLock
from types import FunctionType, GeneratorType, MethodType, ModuleType
from typing import Any

_BUILT_IN_HASHES = (
    "_md5",
    "_sha1",
    "_sha3",
    "_blake2",
    "_sha2" if sys.version_info >= (3, 12) else "_sha256",
)
_LEFT_OUT = ("ssl", "_ssl", "_hashlib")
_TLS_IN_PYTHON = "asyncio.sslproto"
"""asyncio's own side of TLS transports; asyncio imports it, and reads nothing of it before one is made."""
_C_PROTOBUF = "google._upb._message"
_PYTHON_PROTOBUF = "google.protobuf.internal.python_message"
_WELL_KNOWN_TYPES = "google.protobuf.internal.well_known_types"
_BACKENDS = "cryptography.hazmat.backends.openssl"
_BACKEND = f"{_BACKENDS}.backend"
_CO_COROUTINE = 0x80
"""The flag of a coroutine function's code: `inspect.CO_COROUTINE`."""

# What uvloop 0.21..0.23 reads of `ssl` when it is imported (its includes/stdlib.pxi).
_CLASSES = ("SSLContext", "MemoryBIO")
_ERRORS = ("SSLError", "SSLWantReadError", "SSLSyscallError", "SSLZeroReturnError", "CertificateError")
_NUMBERS = {"SSL_ERROR_WANT_READ": 2, "SSL_ERROR_WANT_WRITE": 3, "SSL_ERROR_SYSCALL": 5}


def leave_out_openssl() -> bool:
    """Make `import ssl` fail from now on; False, and nothing done, where that breaks or comes too late."""
    if any(name in sys.modules for name in ("ssl", "_hashlib", "asyncio")):
        return False
    if any(find_spec(name) is None for name in _BUILT_IN_HASHES):
        return False
    for name in _LEFT_OUT:
        sys.modules[name] = None  # type: ignore[assignment]  # what the import system documents for this
    _put_off(_TLS_IN_PYTHON, {})
    return True


def leave_out_python_protobuf() -> bool:
    """Keep protobuf's Python half from being loaded; False, and nothing done, where it is needed."""
    chosen = "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION" in os.environ
    if chosen or "google.protobuf" in sys.modules or _find(_C_PROTOBUF) is None:
        return False
    _put_off(_PYTHON_PROTOBUF, {})
    _put_off(_WELL_KNOWN_TYPES, {"WKTBASES": {}})  # all that is read of it, in C
    return True


def put_off_cryptographys_backend() -> None:
    """Have it loaded when more is asked of it than whether there are Ed25519 and X25519."""
    module = _put_off(_BACKEND, {})
    if module is not None:
        vars(module)["backend"] = _Backend(module.__getattr__)


class _Backend:
    """In place of cryptography's, which has only methods."""

    def __init__(self, load: Callable[[str], Any]) -> None:
        """`load` gives a name of the module, which has the real one after that."""
        self._load = load

    def ed25519_supported(self) -> bool:
        """There is no p2pfwd without it."""
        return True

    def x25519_supported(self) -> bool:
        """There is no p2pfwd without it."""
        return True

    def __getattr__(self, name: str) -> Any:
        real = self._load("backend")
        # Its package has the backend by the same name as the module.
        vars(import_module(_BACKENDS))["backend"] = real
        return getattr(real, name)


def put_off_imports() -> None:
    """Have some modules loaded when something of them is used, not with their import.

    Comes before whatever imports `dataclasses`.
    """
    _put_off("inspect", _OF_INSPECT)
    _put_off("locale", {})
    _put_off("tokenize", {})
    _put_off("typing_extensions", {"deprecated": _silently})


def _silently(*_args: object, **_kwargs: object) -> Callable[[Any], Any]:
    """As `typing_extensions.deprecated`, without its warning."""
    return lambda decorated: decorated


def share_dataclass_code() -> bool:
    """Have all dataclasses shown, and the frozen ones guarded, by the same three functions.

    `dataclass` compiles them anew for each class. And the docstring it makes where there is none gives no
    signature any more: that would load `inspect`. False, and nothing done, where it is not the one known.
    """
    import dataclasses

    if any(_parameters(getattr(dataclasses, name, None)) != known for name, known in _MAKERS.items()):
        return False  # Python 3.13 and later

    def show(self: Any) -> str:
        shown = (f"{f.name}={getattr(self, f.name)!r}" for f in dataclasses.fields(self) if f.repr)
        return f"{type(self).__qualname__}({', '.join(shown)})"

    def __setattr__(self: object, name: str, value: object) -> None:
        raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")

    def __delattr__(self: object, name: str) -> None:
        raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")

    dataclasses._repr_fn = lambda fields, globals: show  # type: ignore[attr-defined]
    dataclasses.inspect = _OfDataclasses("inspect")  # type: ignore[attr-defined]
    dataclasses._frozen_get_del_attr = lambda cls, fields, globals: (__setattr__, __delattr__)  # type: ignore[attr-defined]
    return True


class _OfDataclasses(ModuleType):
    """`inspect` as `dataclasses` has it."""

    @staticmethod
    def signature(_cls: type) -> str:
        """What its docstring says of a class that has none."""
        return "(...)"

    def __getattr__(self, name: str) -> Any:
        return getattr(import_module("inspect"), name)


_MAKERS = {"_repr_fn": ("fields", "globals"), "_frozen_get_del_attr": ("cls", "fields", "globals")}
"""Functions of `dataclasses` in 3.11 and 3.12, and their parameters."""


def _parameters(function: object) -> tuple[str, ...] | None:
    if not isinstance(function, FunctionType):
        return None
    return function.__code__.co_varnames[: function.__code__.co_argcount]


def _is_generator(value: object) -> bool:
    return isinstance(value, GeneratorType)


def _is_coroutine_function(value: object) -> bool:
    function = value.__func__ if isinstance(value, MethodType) else value
    return isinstance(function, FunctionType) and bool(function.__code__.co_flags & _CO_COROUTINE)


def _is_function(value: object) -> bool:
    return isinstance(value, FunctionType)


def _unwrap(value: Any) -> Any:
    while hasattr(value, "__wrapped__"):
        value = value.__wrapped__
    return value


_OF_INSPECT: dict[str, Callable[[Any], Any]] = {
    "isgenerator": _is_generator,
    "iscoroutinefunction": _is_coroutine_function,
    "isfunction": _is_function,
    "unwrap": _unwrap,
}
"""The first two are taken by uvloop as it is imported, to look at the callbacks of signals. With the others
a task is shown: by error reports, when there may be no descriptor left, and by `signal.signal`, for the words
of an error that it makes and drops where `asyncio.Runner` has set a handler before."""


def _find(name: str) -> ModuleSpec | None:
    """As `importlib.util.find_spec`, but runs the code of no package that it is in."""
    package, _, _ = name.rpartition(".")
    if not package:
        return find_spec(name)
    around = _find(package)
    places = None if around is None else around.submodule_search_locations
    if around is None or places is None:
        return None
    if around.origin is None:  # a namespace: it has no code, and knows its places once it is imported
        import_module(package)
    return PathFinder.find_spec(name, places)


def _put_off(name: str, at_once: Mapping[str, object]) -> ModuleType | None:
    """Put a module in place that has only `at_once` until another of its attributes is asked for.

    None, and nothing done, where there is no such module, or it has been loaded.
    `importlib.util.LazyLoader` is not it: the second `import` of such a module loads it, up to Python 3.11.
    """
    spec = None if name in sys.modules else _find(name)
    if spec is None or spec.loader is None:
        return None
    module, loader, lock = module_from_spec(spec), spec.loader, RLock()
    loading = False

    def load(attribute: str) -> Any:
        nonlocal loading
        if attribute == "__path__":  # of packages, which have it: `from` asks each module
            raise AttributeError(f"module {name!r} is no package", name=attribute)
        with lock:  # another thread waits for all of it; the module itself may ask on its way
            if not loading and "__getattr__" in vars(module):
                loading = True
                try:
                    loader.exec_module(module)
                    del module.__getattr__
                finally:  # tried again where it failed: there may be no descriptor left just now
                    loading = False
        try:
            return vars(module)[attribute]
        except KeyError:
            raise AttributeError(f"module {name!r} has no attribute {attribute!r}", name=attribute) from None

    module.__getattr__ = load  # type: ignore[method-assign]
    vars(module).update(at_once)
    sys.modules[name] = module
    return module


def import_uvloop() -> ModuleType | None:
    """The module; None where it is not installed."""
    left_out = "ssl" in sys.modules and sys.modules["ssl"] is None
    if left_out:
        sys.modules["ssl"] = _names_of_ssl()
    try:
        found = import_module("uvloop")
    except ModuleNotFoundError:
        return None
    except (ImportError, AttributeError, TypeError):  # a later uvloop, which reads more of `ssl`
        if not left_out:
            raise
    else:
        return found
    finally:
        if left_out:
            sys.modules["ssl"] = None  # type: ignore[assignment]
    _take_openssl_in()
    return import_module("uvloop")


def _take_openssl_in() -> None:
    for name in list(sys.modules):
        if name in _LEFT_OUT or name.partition(".")[0] == "uvloop":
            del sys.modules[name]


def _names_of_ssl() -> ModuleType:
    module = ModuleType("ssl", "Names only; see p2pfwd.daemon.lean.")
    for name in _CLASSES:
        setattr(module, name, type(name, (), {}))
    for name in _ERRORS:
        setattr(module, name, type(name, (OSError,), {}))
    for name, number in _NUMBERS.items():
        setattr(module, name, number)
    module.create_default_context = None  # type: ignore[attr-defined]
    return module
