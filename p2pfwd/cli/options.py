"""Options and arguments that several commands share, worded once."""

from __future__ import annotations

from typing import Annotated

import typer

AsJson = Annotated[
    bool, typer.Option("--json", help="One JSON document on stdout, errors as JSON on stderr.")
]

Headers = Annotated[
    bool, typer.Option("-v", "--headers", help="A header above the plain lines too; tables always have one.")
]

Custom = Annotated[bool, typer.Option("--allow-custom-protocol", help="Allow a protocol name outside /x/.")]

Foreground = Annotated[
    bool, typer.Option("-f", "--foreground", help="Stay until interrupted, and close when this command ends.")
]

NoStart = Annotated[bool, typer.Option("--no-start", help="Do not start a daemon; as P2PFWD_AUTOSTART=0.")]

Protocol = Annotated[str, typer.Argument(metavar="PROTOCOL", help="Name of the service, such as /x/ssh.")]
