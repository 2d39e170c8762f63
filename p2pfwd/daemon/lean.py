"""Keeps out of the daemon what libraries import and never use: the system's OpenSSL, and half of protobuf.

asyncio and uvloop import `ssl`, and hashlib `_hashlib`, just in case; both load libssl and libcrypto.
`cryptography` brings an OpenSSL of its own, so the daemon uses neither. No import of ours can be made lazy to
the same effect, since none of ours is at fault. asyncio and hashlib have fallbacks for a Python built without
OpenSSL, and these are taken. uvloop has none: it needs the names below to exist, for TLS transports that
nothing here makes; where they are not enough it is imported with all of OpenSSL after all.
Measured on CPython 3.11, x86-64, idle on uvloop, resident: in `lan` 38.9 MB, and 43.4 with OpenSSL; in
`public` 45.1 and 49.6. Of the difference 1.3 MB are this process's alone.

protobuf's messages are made in C, and still it imports the module that makes them in Python: 1.0 MB.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

_BUILT_IN_HASHES = (
    "_md5",
    "_sha1",
    "_sha3",
    "_blake2",
    "_sha2" if sys.version_info >= (3, 12) else "_sha256",
)
_LEFT_OUT = ("ssl", "_ssl", "_hashlib")
_PYTHON_PROTOBUF = "google.protobuf.internal.python_message"

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
    return True


def leave_out_python_protobuf() -> bool:
    """Keep protobuf's Python half from being loaded; False, and nothing done, where it is needed."""
    chosen = "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION" in os.environ
    if chosen or "google.protobuf" in sys.modules or find_spec("google._upb._message") is None:
        return False
    sys.modules[_PYTHON_PROTOBUF] = ModuleType(_PYTHON_PROTOBUF, "Left out; see p2pfwd.daemon.lean.")
    return True


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
