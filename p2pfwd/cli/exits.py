"""How a run ends: errors to stderr, exceptions to exit status.

This is the CLI's root, one of the three places where every exception is caught (the others are a task's
root and an RPC call's root). An error is `Error: <sentence>`, then `hint: <cure>` if there is one; with
`--json` it is one JSON object `{"Code", "Message", "Hint"}` on stderr, so that stdout holds data or
nothing.
"""

from __future__ import annotations

import io
import os
import sys
import traceback
from collections.abc import Sequence

from p2pfwd.cli.render import talk
from p2pfwd.cli.text import printable
from p2pfwd.errors import ExitStatus, P2PForwardError, UsageError
from p2pfwd.system.descriptors import cure, reason


def prepare_streams() -> None:
    """Have stdin, stdout and stderr give and take any text: closed ones nothing, narrow ones escape."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 - for the process's life
        elif isinstance(stream := getattr(sys, name), io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def checked_arguments(arguments: Sequence[str]) -> list[str]:
    """The arguments, all of them text; raises UsageError for bytes that are not UTF-8."""
    for index, argument in enumerate(arguments, start=1):
        try:
            argument.encode()
        except UnicodeEncodeError:
            shown = argument.encode(errors="surrogateescape").decode(errors="backslashreplace")
            raise UsageError(
                f"argument {index} is not valid UTF-8: {shown}",
                hint="protocol names and paths are UTF-8 text",
            ) from None
    return list(arguments)


def wants_json(arguments: Sequence[str]) -> bool:
    """Whether `--json` was asked, before any parsing: usage errors are reported in the same form."""
    options = arguments[: list(arguments).index("--")] if "--" in arguments else arguments
    return "--json" in options


def report(error: BaseException, *, as_json: bool) -> int:
    """Tell stderr what went wrong; returns the exit status."""
    if isinstance(error, P2PForwardError):
        _say(error.code, error.message, error.hint, as_json=as_json)
        return int(error.exit_status)
    if isinstance(error, OSError) and error.strerror:
        where = f": {error.filename}" if error.filename is not None else ""
        told = reason(error.errno) if error.errno else error.strerror
        _say("failed", f"{told}{where}", cure(error.errno), as_json=as_json)
        return int(ExitStatus.FAILED)
    _say(
        "failed",
        f"{type(error).__name__}: {error}",
        "this is a defect in p2pfwd; its trace follows",
        as_json=as_json,
    )
    if not as_json:
        traceback.print_exception(error, file=sys.stderr)
    return int(ExitStatus.FAILED)


def report_usage(message: str, command: str | None, *, as_json: bool) -> int:
    """Tell stderr what is wrong with the command line; returns the exit status."""
    hint = f"see '{command} --help'" if command else None
    sentence = " ".join(message.split()).rstrip(".")  # some lists have a line for each choice
    _say(UsageError.code, sentence, hint, as_json=as_json)
    return int(ExitStatus.USAGE)


def warn(message: str, hint: str | None = None) -> None:
    """A failure that does not end the command: `Warning: <sentence>` on stderr, and its hint."""
    talk(f"Warning: {printable(message)}")
    if hint:
        talk(f"hint: {printable(hint)}")


def _say(code: str, message: str, hint: str | None, *, as_json: bool) -> None:
    if as_json:
        import json

        talk(json.dumps({"Code": code, "Message": message, "Hint": hint}))
        return
    talk(f"Error: {printable(message)}")
    if hint:
        talk(f"hint: {printable(hint)}")
