"""Entry point: the one place where a run of the command line ends.

It imports nothing before it is ready for an interrupt: Ctrl-C is quiet even in the middle of a start.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence

INTERRUPTED = 130
"""ExitStatus.INTERRUPTED, before anything can be imported."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit status."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    try:
        return _run(given)
    except KeyboardInterrupt:
        return INTERRUPTED
    finally:
        if arguments is None:  # the process ends: looking for circles in what it imported takes 10 ms
            gc.freeze()


def _run(arguments: Sequence[str]) -> int:
    from p2pfwd.cli.exits import prepare_streams, report, wants_json

    prepare_streams()
    try:
        from p2pfwd.cli.tree import run

        return run(arguments)
    except Exception as error:  # noqa: BLE001 - the CLI's root
        return report(error, as_json=wants_json(arguments))


if __name__ == "__main__":
    sys.exit(main())
