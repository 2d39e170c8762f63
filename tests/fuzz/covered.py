"""One fuzz target under atheris: `python -m tests.fuzz.covered TARGET [libFuzzer's options] CORPUS`."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import atheris  # type: ignore[import-not-found,import-untyped,unused-ignore]

FOLDER = Path(__file__).parent


def main() -> None:
    """Run until libFuzzer ends the process."""
    target = sys.argv.pop(1)
    sys.path.insert(0, str(FOLDER))
    with atheris.instrument_imports(include=["p2pfwd"]):
        one = runpy.run_path(str(FOLDER / f"fuzz_{target}.py"))["one"]
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
