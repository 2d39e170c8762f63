"""Regenerate `p2pfwd/core/pb/*_pb2.py` and `*_pb2.pyi` from the `.proto` files beside them.

Run by `make proto`; needs `grpcio-tools` (extra `dev`). The sources are compiled from the repository
root, so that generated imports and descriptor names are absolute (`p2pfwd/core/pb/keys.proto`).
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PB = Path("p2pfwd/core/pb")


def main() -> int:
    """Run protoc over every `.proto`; then give the stubs their type arguments; protoc's status is ours."""
    sources = sorted(str(path.relative_to(ROOT)) for path in (ROOT / PB).glob("*.proto"))
    outputs = ["--python_out=.", "--pyi_out=."]
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I.", *outputs, *sources]
    status = subprocess.run(command, cwd=ROOT, check=False).returncode
    if status == 0:
        for stub in (ROOT / PB).glob("*_pb2.pyi"):
            # protoc writes a bare `Mapping`, which mypy --strict refuses.
            text = stub.read_text(encoding="utf-8")
            stub.write_text(text.replace("_Mapping]", "_Mapping[str, object]]"), encoding="utf-8")
    return status


if __name__ == "__main__":
    sys.exit(main())
