"""Options and arguments that several commands share, worded once."""

from __future__ import annotations

from typing import Annotated

import typer

from p2pfwd.rpc.time_limit import check_timeout


def check_timeout_option(value: float) -> float:
    """Refuse what is no time limit before anything waits for it. Raises UsageError."""
    return check_timeout(value)


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

Limit = Annotated[
    float,
    typer.Option("--timeout", metavar="SECONDS", help="When to give up.", callback=check_timeout_option),
]

Protocol = Annotated[str, typer.Argument(metavar="PROTOCOL", help="Name of the service, such as /x/ssh.")]
