"""daemon.lean: without OpenSSL where that goes, and with it rather than without uvloop; part of protobuf;
`inspect` and others when they are used."""

from __future__ import annotations

import functools
import inspect
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path

import pytest

from p2pfwd.daemon import lean

SCRIPT = """
import sys
from p2pfwd.daemon import lean
assert lean.leave_out_openssl()
for name in {lacking}:
    setattr(lean, name, ())
uvloop = lean.import_uvloop()
import asyncio
print(asyncio.Runner(loop_factory=uvloop.new_event_loop).run(asyncio.sleep(0, "works")))
print("_ssl" in sys.modules and sys.modules["_ssl"] is not None)
"""


@pytest.mark.parametrize(("lacking", "openssl"), [([], False), (["_CLASSES"], True)])
def test_uvloop_serves_whatever_it_reads_of_ssl(lacking: list[str], openssl: bool) -> None:
    pytest.importorskip("uvloop")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(lacking=lacking)], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == (f"works\n{openssl}\n", "")


def test_where_uvloop_is_not_installed_there_is_none() -> None:
    script = (
        "import sys; sys.modules['uvloop'] = None\n"
        "from p2pfwd.daemon import lean\n"
        "lean.leave_out_openssl(); print(lean.import_uvloop())"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("None\n", "")


@pytest.mark.parametrize(
    ("chosen", "left_out"), [({}, True), ({"PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "python"}, False)]
)
def test_messages_are_made_and_read_without_the_python_half_of_protobuf(
    chosen: dict[str, str], left_out: bool
) -> None:
    script = (
        "import sys\n"
        "from p2pfwd.daemon import lean\n"
        "print(lean.leave_out_python_protobuf())\n"
        "from p2pfwd.core.pb.keys_pb2 import PublicKey\n"
        "message = PublicKey(type=1, data=b'x')\n"
        "assert PublicKey.FromString(message.SerializeToString()) == message and 'data' in repr(message)\n"
        "print('google.protobuf.internal.decoder' in sys.modules, 'calendar' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **chosen},
    )
    assert (done.stdout, done.stderr) == (f"{left_out}\n{not left_out} {not left_out}\n", "")


KEYS = """
import sys
from p2pfwd.daemon import lean
lean.put_off_cryptographys_backend()
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from p2pfwd.core.keys import PrivateKey, PublicKey
key = PrivateKey.generate()
public = PublicKey.from_protobuf(key.public_key.to_protobuf())
assert public.verify(b"said", key.sign(b"said"))
pair = X25519PrivateKey.generate()
pair.exchange(X25519PublicKey.from_public_bytes(bytes([9]) + bytes(31)))
bindings = "cryptography.hazmat.bindings.openssl.binding"
print(bindings in sys.modules)
from cryptography.hazmat.backends import default_backend
print(default_backend().name, default_backend().openssl_version_text().split()[0], bindings in sys.modules)
from cryptography.hazmat.backends.openssl import backend
from cryptography.hazmat.backends.openssl.backend import Backend
print(isinstance(backend, Backend))
"""


def test_keys_need_no_backend_of_cryptographys_and_who_asks_it_more_has_all_of_it() -> None:
    done = subprocess.run([sys.executable, "-c", KEYS], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("False\nopenssl OpenSSL True\nTrue\n", "")


LOADED = """
import sys
from p2pfwd.daemon import lean
lean.put_off_imports(); lean.leave_out_openssl(); lean.leave_out_python_protobuf()
import asyncio, functools, signal
lean.import_uvloop()
import p2pfwd.daemon.node
async def main():
    task = functools.partial(print, asyncio.current_task())
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task)
    return "main()" in repr(asyncio.current_task())
print(asyncio.run(main()))
heavy = {"ast", "dis", "calendar", "unicodedata", "encodings.idna", "ctypes", "typer", "ssl", "OpenSSL"}
print(sorted(name for name in heavy if sys.modules.get(name)))
put_off = ["inspect", "locale", "tokenize", lean._TLS_IN_PYTHON]
put_off += [lean._PYTHON_PROTOBUF, lean._WELL_KNOWN_TYPES]
print([name for name in put_off if "__getattr__" not in vars(sys.modules[name])])
"""


def test_the_daemons_modules_load_nothing_that_is_put_off_nor_does_a_task_that_is_shown() -> None:
    done = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("True\n[]\n[]\n", "")


def test_the_first_tls_connection_loads_none_of_it_either() -> None:
    script = (
        "import sys\n"
        "from p2pfwd.daemon import lean\n"
        "lean.put_off_imports(); lean.share_dataclass_code(); lean.leave_out_openssl()\n"
        "from p2pfwd.wire.tls import engine\n"
        "engine.load()\n"
        "put_off = ['inspect', 'locale', 'tokenize', 'typing_extensions']\n"
        "print([name for name in put_off if '__getattr__' not in vars(sys.modules[name])])\n"
        "from OpenSSL import SSL\n"
        "print(SSL.Connection.__name__, 'ast' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[]\nConnection False\n", "")


SHARED = """
from p2pfwd.daemon.lean import put_off_imports, share_dataclass_code
put_off_imports()
shares = share_dataclass_code()
from dataclasses import FrozenInstanceError, dataclass, field, replace
@dataclass(frozen=True, slots=True)
class One:
    "One."
    a: int
    b: str = field(default="b", repr=False)
@dataclass(frozen=True)
class Two:
    "Two."
    c: int
one = One(1)
for change in (lambda: setattr(one, "a", 2), lambda: delattr(one, "a"), lambda: setattr(one, "z", 2)):
    try:
        change()
    except FrozenInstanceError as exc:
        print(exc)
print(one, Two(3), replace(one, a=2), one == One(1), hash(one) == hash(One(1)))
@dataclass
class Three:
    d: int
print(Three.__doc__, Three(4))
print(One.__repr__ is Two.__repr__ and One.__setattr__ is Two.__setattr__, shares)
"""


def test_dataclasses_that_share_their_code_are_shown_and_guarded_as_others() -> None:
    done = subprocess.run([sys.executable, "-c", SHARED], capture_output=True, text=True, check=False)
    shares = sys.version_info < (3, 13)
    assert (done.stdout, done.stderr) == (
        "cannot assign to field 'a'\ncannot delete field 'a'\ncannot assign to field 'z'\n"
        f"One(a=1) Two(c=3) One(a=2) True True\nThree{'(...)' if shares else '(d: int)'} Three(d=4)\n"
        f"{shares} {shares}\n",
        "",
    )


# --- other versions of the libraries ----------------------------------------------------------------

MESSAGE = """
from p2pfwd.core.pb.keys_pb2 import PublicKey
assert PublicKey.FromString(PublicKey(type=1, data=b"x").SerializeToString()).data == b"x"
"""
LOOP = """
import asyncio
assert asyncio.run(asyncio.sleep(0, True))
"""
KEY = """
from p2pfwd.core.keys import PrivateKey
key = PrivateKey.generate()
assert key.public_key.verify(b"said", key.sign(b"said"))
"""
TLS = """
from p2pfwd.wire.tls import engine
engine.load()
"""

WITHOUT = [
    ("_TLS_IN_PYTHON", "asyncio.other", "leave_out_openssl", True, LOOP),
    ("_C_PROTOBUF", "google._upb.other", "leave_out_python_protobuf", False, MESSAGE),
    ("_C_PROTOBUF", "google._other._message", "leave_out_python_protobuf", False, MESSAGE),
    ("_PYTHON_PROTOBUF", "google.protobuf.internal.other", "leave_out_python_protobuf", True, MESSAGE),
    ("_WELL_KNOWN_TYPES", "google.protobuf.other.well_known", "leave_out_python_protobuf", True, MESSAGE),
    ("_BACKEND", "cryptography.hazmat.other", "put_off_cryptographys_backend", None, KEY),
]
"""Names that are known in `lean`, in whose place another version has none."""


@pytest.mark.parametrize(("name", "other", "function", "result", "work"), WITHOUT)
def test_a_version_without_a_module_that_is_known_here_works(
    name: str, other: str, function: str, result: bool | None, work: str
) -> None:
    script = f"""
from p2pfwd.daemon import lean
lean.{name} = {other!r}
print(lean.{function}())
{work}
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == (f"{result}\n", "")


READS_MORE = [
    ("leave_out_openssl", LOOP, lean._TLS_IN_PYTHON, "SSLProtocol"),
    ("leave_out_python_protobuf", MESSAGE, lean._PYTHON_PROTOBUF, "GeneratedProtocolMessageType"),
    ("leave_out_python_protobuf", MESSAGE, lean._WELL_KNOWN_TYPES, "Timestamp"),
    ("put_off_cryptographys_backend", KEY, lean._BACKEND, "Backend"),
    ("put_off_imports", TLS, "typing_extensions", "evaluate_forward_ref"),
]


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize(("function", "work", "module", "name"), READS_MORE)
def test_a_version_that_reads_more_of_a_module_has_all_of_it(
    function: str, work: str, module: str, name: str, late: bool
) -> None:
    steps = [f"from {module} import {name}", work][:: -1 if late else 1]
    lines = ["from p2pfwd.daemon import lean", f"lean.{function}()", *steps, f"print({name}.__module__)"]
    script = "\n".join(lines)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == (f"{module}\n", "")


MADE = """
from dataclasses import FrozenInstanceError, dataclass
@dataclass(frozen=True)
class One:
    "One."
    a: int
try:
    One(1).a = 2
except FrozenInstanceError as exc:
    print(One(1), exc)
"""


@pytest.mark.parametrize(
    ("known", "other"),
    [
        ("_repr_fn", "_shown_fn"),
        ("_frozen_get_del_attr", "_guards"),
        ("def _repr_fn(fields, globals", "def _repr_fn(fields, globals, more=None"),
        ("_get_del_attr(cls, fields, globals)", "_get_del_attr(cls, fields, globals, more=None)"),
    ],
)
def test_dataclasses_of_a_version_that_makes_its_functions_otherwise_are_left_alone(
    known: str, other: str
) -> None:
    script = f"""
import sys
from importlib.util import find_spec, module_from_spec
spec = find_spec("dataclasses")
module = sys.modules["dataclasses"] = module_from_spec(spec)
exec(spec.loader.get_source("dataclasses").replace({known!r}, {other!r}), vars(module))
from p2pfwd.daemon.lean import share_dataclass_code
print(share_dataclass_code())
{MADE}
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("False\nOne(a=1) cannot assign to field 'a'\n", "")


def test_what_is_put_off_is_whole_when_it_is_used_and_for_those_that_imported_it_before() -> None:
    script = (
        "import sys\n"
        "from p2pfwd.daemon.lean import put_off_imports\n"
        "put_off_imports()\n"
        "import inspect, locale\n"
        "print('ast' in sys.modules, hasattr(inspect, 'nothing'), 'ast' in sys.modules)\n"
        "from inspect import signature\n"
        "def twice(a, b=1): ...\n"
        "print(signature(twice), inspect.isfunction(twice), inspect.unwrap.__module__)\n"
        "print(inspect.iscoroutinefunction(twice), locale.getpreferredencoding() != '')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == (
        "False False True\n(a, b=1) True inspect\nFalse True\n",
        "",
    )


def test_a_module_whose_loading_fails_is_loaded_the_next_time_and_by_one_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where no descriptor is left for its file."""
    source = tmp_path / "put_off_here.py"
    source.write_text("early = 1\nimport time, count\ntime.sleep(0.01)\ncount.up()\nlate = 2\n")
    (tmp_path / "count.py").write_text("n = 0\ndef up():\n    global n\n    n += 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    lean._put_off("put_off_here", {})
    count, put_off_here = import_module("count"), import_module("put_off_here")
    hidden = source.rename(tmp_path / "elsewhere")
    with pytest.raises(OSError):
        _ = put_off_here.late
    hidden.rename(source)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda name: getattr(put_off_here, name), ["late", "early"] * 4)) == [2, 1] * 4
    assert count.n == 1
    for name in ("put_off_here", "count"):
        del sys.modules[name]


@pytest.mark.parametrize("name", lean._OF_INSPECT)
def test_what_stands_in_for_inspect_answers_as_it_does(name: str) -> None:
    async def coroutine() -> None: ...

    @functools.wraps(coroutine)
    def wrapped() -> None: ...

    def generator() -> Iterator[int]:
        yield 1

    class Kind:
        async def method(self) -> None: ...

        def plain(self) -> None: ...

    shown = [coroutine, wrapped, generator, generator(), Kind, Kind().method, Kind().plain, print, len, 1]
    ours = lean._OF_INSPECT[name]
    assert [ours(one) for one in shown] == [getattr(inspect, name)(one) for one in shown]
