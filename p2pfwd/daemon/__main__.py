"""`python -m p2pfwd.daemon [--settings JSON]`: the daemon without the command line's modules.

What `p2pfwd daemon` turns into, and what the background start runs; the home comes from P2PFWD_HOME.
"""

from __future__ import annotations

import io
import json
import os
import sys
from typing import Any

from p2pfwd.daemon.lean import put_off_imports, share_dataclass_code

put_off_imports()  # before all that imports `dataclasses`
share_dataclass_code()

from p2pfwd.daemon.run import report, run  # noqa: E402
from p2pfwd.errors import ExitStatus, P2PForwardError, UsageError  # noqa: E402
from p2pfwd.rpc.autostart import allocator  # noqa: E402
from p2pfwd.rpc.paths import Paths  # noqa: E402


def _settings(arguments: list[str]) -> dict[str, Any]:
    if not arguments:
        return {}
    if len(arguments) == 2 and arguments[0] == "--settings":
        try:
            found = json.loads(arguments[1])
        except ValueError:
            found = None
        if isinstance(found, dict):
            return found
    raise UsageError("this module takes --settings JSON and nothing else", hint="use p2pfwd daemon")


def main() -> int:
    """Run the daemon; the exit status. Begins anew, as the same process, where the allocator is another."""
    missing = allocator(os.environ)
    if missing:
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **missing})
    env = dict(os.environ)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        return run(Paths.resolve(None, env), _settings(sys.argv[1:]), env)
    except P2PForwardError as error:
        return report(error, env)
    except KeyboardInterrupt:
        return int(ExitStatus.INTERRUPTED)


if __name__ == "__main__":
    sys.exit(main())
