"""The RPC's values of invites: those made here, and what comes of taking one up."""

from __future__ import annotations

from typing import Final, Literal

from p2pfwd.rpc.values import AccessPeer, Listener, Message, Notice, message, named

DEFAULT_EXPIRES_S: Final = 3600.0


@message
class Invite(Message):
    """One invite that was made here."""

    id: str = named("ID")
    protocol: str = ""
    state: Literal["open", "used-up", "expired", "revoked"] = "open"
    made: float = 0.0  # unix seconds
    expires: float = 0.0  # unix seconds
    left_s: float = named("LeftSeconds", default=0.0)  # until it expires; 0 where it has ended
    uses: int = 1  # how many peers it is for
    name: str | None = None  # what to call who takes it
    taken_by: tuple[AccessPeer, ...] = ()  # the first one first


@message
class InviteNewParams(Message):
    """Parameters of `invite.new`."""

    protocol: str
    expires_s: float = DEFAULT_EXPIRES_S
    uses: int = 1
    name: str | None = None


@message
class InviteNewResult(Message):
    """Result of `invite.new`."""

    invite: Invite
    token: str  # shown this once: the daemon keeps what verifies it only
    command: str  # for the other machine
    addresses: tuple[str, ...]  # that are in it, each ending in /p2p/<self>
    notices: tuple[Notice, ...] = ()
    taken_ports: tuple[int, ...] = ()  # configured; the addresses have another, until the daemon restarts


@message
class InviteLsResult(Message):
    """Result of `invite.ls`."""

    invites: tuple[Invite, ...]  # the oldest first


@message
class InviteRevokeParams(Message):
    """Parameters of `invite.revoke`."""

    id: str


@message
class InviteRevokeResult(Message):
    """Result of `invite.revoke`."""

    invite: Invite
    let_in: tuple[AccessPeer, ...] = ()  # of those who have taken it: whom the listen lets in now


@message
class InviteJoinParams(Message):
    """Parameters of `invite.join`."""

    token: str
    listen: str | None = None  # as ForwardParams.listen; None: where it is forwarded already, or a free port
    name: str | None = None  # what to call the inviter
    timeout_s: float = 30.0  # for reaching it


@message
class InviteJoinResult(Message):
    """Result of `invite.join`."""

    listener: Listener
    peer: str  # the inviter
    name: str | None  # of the inviter here
    listening: bool  # whether there is such a listen there now
    notices: tuple[Notice, ...] = ()
    stood: bool = False  # as ListenResult.stood
