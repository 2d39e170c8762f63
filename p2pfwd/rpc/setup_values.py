"""The RPC's values of whole setups: what `p2p.export`, `p2p.apply` and `daemon.reload` take and give."""

from __future__ import annotations

from typing import Final, Literal

from p2pfwd.rpc.values import Message, message

MAX_APPLIED_BYTES: Final = 500_000
"""Longest text that `p2p.apply` takes: as a line of the RPC it may be twice as long."""


@message
class SetupChange(Message):
    """One tunnel, name, rule or block that was changed, or would be."""

    action: Literal["added", "changed", "removed", "skipped"]  # skipped: it names this node itself
    kind: Literal["listen", "forward", "peer", "rule", "block"]
    name: str  # protocol of a listen or rule, local address of a forward, name of a peer, whom a block is for
    text: str  # what it is now; of a changed one, what differs


@message
class ExportResult(Message):
    """Result of `p2p.export`."""

    text: str  # TOML


@message
class ApplyParams(Message):
    """Parameters of `p2p.apply`."""

    text: str  # TOML
    name: str = "the file"  # of where it comes from, as errors name it
    prune: bool = False  # what is not in it goes
    dry_run: bool = False  # tell only


@message
class ApplyResult(Message):
    """Result of `p2p.apply`."""

    changes: tuple[SetupChange, ...]
    unchanged: int
    notes: tuple[str, ...]  # what a person should know of it
    dry_run: bool
    skipped: tuple[SetupChange, ...] = ()  # what names this node itself as the other end


@message
class ReloadResult(Message):
    """Result of `daemon.reload`."""

    changes: tuple[SetupChange, ...]  # of what config.toml declares
    unchanged: int
    settings: tuple[str, ...]  # keys that changed, and hold from now on
    restart: tuple[str, ...]  # keys that changed, and hold after a restart
    notes: tuple[str, ...]
    skipped: tuple[SetupChange, ...] = ()
