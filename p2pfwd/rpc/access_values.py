"""The RPC's values of access: rules of listens, requests that were denied, the block list."""

from __future__ import annotations

from typing import Literal

from p2pfwd.rpc.values import Access, Message, message, named


@message
class AccessRule(Message):
    """Who may use the listen of one protocol name."""

    protocol: str
    access: Access
    saved: bool  # there is a rule for this name; else it is the default
    listening: bool  # there is such a listen now


@message
class AccessRequest(Message):
    """One peer that asked for a listen, and was denied it."""

    protocol: str
    peer: str
    name: str | None  # as `peer add` gave it
    count: int  # how often it asked
    first_s: float = named("FirstSeconds")  # ago
    last_s: float = named("LastSeconds")
    remote_address: str = ""  # from where it asked last
    command: str = ""  # that lets it in, for a POSIX shell


@message
class Block(Message):
    """One entry of the block list."""

    kind: Literal["peer", "network"]
    what: str  # a peer ID, or a network in CIDR
    name: str | None  # of a peer, as `peer add` gave it


@message
class AccessAllowParams(Message):
    """Parameters of `access.allow`."""

    protocol: str
    peers: tuple[str, ...]  # as AccessChangeParams
    keep_live: bool = False
    expires_s: float | None = None  # from now, until the right ends by itself


@message
class AccessChangeParams(Message):
    """Parameters of `access.deny`."""

    protocol: str
    peers: tuple[str, ...]  # peer IDs, names, or addresses that end in /p2p/ID; or "any" alone
    keep_live: bool = False  # let the streams run that this takes the right away from


@message
class AccessChangeResult(Message):
    """Result of `access.allow`, `access.deny` and `access.rm`."""

    rule: AccessRule
    streams: int  # that were reset


@message
class AccessRmParams(Message):
    """Parameters of `access.rm`."""

    protocol: str
    keep_live: bool = False


@message
class AccessLsResult(Message):
    """Result of `access.ls`."""

    default: Literal["any", "named", "none"]
    lost: str | None  # a damaged file of rules that lies aside: nobody is let in without a new rule
    rules: tuple[AccessRule, ...]  # saved ones, and those of the other listens, by protocol name


@message
class AccessRequestsResult(Message):
    """Result of `access.requests`."""

    requests: tuple[AccessRequest, ...]  # the one asked for last first


@message
class BlockParams(Message):
    """Parameters of `block.add` and `block.rm`."""

    whom: tuple[str, ...]  # peers as in AccessChangeParams; IP addresses; networks in CIDR


@message
class BlockResult(Message):
    """Result of `block.add`."""

    blocked: tuple[Block, ...]
    connections: int  # that were ended
    streams: int  # tunnels that were reset with them


@message
class BlockLsResult(Message):
    """Result of `block.ls`; of `block.rm` those that were taken off."""

    blocked: tuple[Block, ...]
