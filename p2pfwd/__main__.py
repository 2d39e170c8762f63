"""`python -m p2pfwd`: the command line."""

from __future__ import annotations

import sys

from p2pfwd.cli.app import main

if __name__ == "__main__":
    sys.exit(main())
