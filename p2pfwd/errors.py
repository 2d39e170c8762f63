"""Every public exception, its stable code and its exit status.

Rules: the code is what programs read (`error.data.code` in the RPC, `Code` in `--json`); nobody
reads `str(exc)`. The message is one sentence that names the layer; `hint` is the cure. Local blame
and remote blame are distinct types (`LocalProtocolError`, `RemoteProtocolError`).
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any, ClassVar


class ExitStatus(IntEnum):
    """Exit status of every command."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_RUNNING = 3
    NOT_FOUND = 4
    REFUSED = 5
    TIMED_OUT = 6
    INTERRUPTED = 130


class P2PForwardError(Exception):
    """Base of all errors that cross a public boundary.

    `message` is one sentence; `hint`, if any, says what to do; `details` are JSON-able attributes.
    """

    code: ClassVar[str] = "failed"
    exit_status: ClassVar[ExitStatus] = ExitStatus.FAILED

    def __init__(self, message: str, *, hint: str | None = None, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.details = details


def without_frames(exc: Exception) -> Exception:
    """The same error to keep: a raised one holds on to the frames it came through, and all they have."""
    if exc.__traceback__ is None and exc.__context__ is None and exc.__cause__ is None:
        return exc
    kept = type(exc).__new__(type(exc), *exc.args)  # an `__init__` may want more than its arguments
    kept.__dict__.update(exc.__dict__)
    return kept


# --- usage: what the person typed cannot be meant -------------------------------------------------


class UsageError(P2PForwardError):
    """The request itself is wrong; nothing was tried."""

    code = "usage"
    exit_status = ExitStatus.USAGE


class InvalidMultiaddr(UsageError):
    """Text or bytes that are no multiaddr, or one that does not fit the place."""

    code = "invalid-multiaddr"


class InvalidPeerId(UsageError):
    """Text or bytes that are no peer ID."""

    code = "invalid-peer-id"


class InvalidKey(UsageError):
    """Bytes that are no libp2p key, or a key file that must not be used."""

    code = "invalid-key"


class InvalidProtocol(UsageError):
    """A protocol name outside `/x/`, or one that cannot be a protocol name."""

    code = "invalid-protocol"


class InvalidConfig(UsageError):
    """`config.toml` cannot be used, or a file of the home that a newer p2pfwd made."""

    code = "invalid-config"


class InvalidParams(UsageError):
    """RPC parameters that do not fit the method's schema."""

    code = "invalid-params"


class InvalidInvite(UsageError):
    """A word that is no invite, or not a whole one, or one of another network."""

    code = "invalid-invite"


class SelfDial(UsageError):
    """The peer asked for is this node."""

    code = "self-dial"


# --- state: the request is right, the node's state forbids it -------------------------------------


class ListenerExists(P2PForwardError):
    """The protocol (listen) or the listen address (forward) is already registered."""

    code = "listener-exists"


class ProtocolTaken(P2PForwardError):
    """The node itself serves this protocol already."""

    code = "protocol-taken"


class PeerExists(P2PForwardError):
    """The name has another peer already, or the peer another name."""

    code = "peer-exists"


class PeerBlocked(P2PForwardError):
    """The owner has blocked the peer: nothing is opened to it."""

    code = "peer-blocked"


class AddressInUse(P2PForwardError):
    """A local address cannot be bound: somebody has it."""

    code = "address-in-use"


class BindFailed(P2PForwardError):
    """A local address cannot be bound: no right, no such interface, path too long."""

    code = "bind-failed"


class DaemonRunning(P2PForwardError):
    """Another daemon holds this home."""

    code = "daemon-running"


class ShuttingDown(P2PForwardError):
    """The daemon or the swarm is closing and takes nothing new."""

    code = "shutting-down"


class ServiceFailed(P2PForwardError):
    """The service manager of this machine is not there, or did not do what it was asked."""

    code = "service-failed"


class StorageFailed(P2PForwardError):
    """A file of the home, or one that a command names, cannot be read or written."""

    code = "storage-failed"


class RpcVersionMismatch(P2PForwardError):
    """Client and daemon speak different majors of the RPC."""

    code = "rpc-version-mismatch"


class RpcProtocolError(P2PForwardError):
    """The other end of the control socket broke the RPC's framing or grammar."""

    code = "rpc-protocol-error"


class MethodNotFound(P2PForwardError):
    """The daemon has no such RPC method."""

    code = "method-not-found"


class InternalError(P2PForwardError):
    """A defect in this program; the daemon's log has the trace."""

    code = "internal"


class DaemonNotRunning(P2PForwardError):
    """Nobody answers on the control socket."""

    code = "daemon-not-running"
    exit_status = ExitStatus.NOT_RUNNING


# --- not found ------------------------------------------------------------------------------------


class NotFound(P2PForwardError):
    """A named thing does not exist."""

    code = "not-found"
    exit_status = ExitStatus.NOT_FOUND


class StreamNotFound(NotFound):
    """No live stream has this id."""

    code = "stream-not-found"


class PeerNotFound(NotFound):
    """No address of the peer is known."""

    code = "peer-not-found"


# --- the network ----------------------------------------------------------------------------------


class DialFailed(P2PForwardError):
    """Every address of a peer was tried in vain; `details["attempts"]` lists (address, reason)."""

    code = "dial-failed"


class DialTimeout(DialFailed):
    """The per-peer dial budget ran out."""

    code = "dial-timeout"
    exit_status = ExitStatus.TIMED_OUT


class PeerIdMismatch(DialFailed):
    """The node at the address, or at every address, proved another identity."""

    code = "peer-id-mismatch"
    exit_status = ExitStatus.REFUSED


class ProtocolNotSupported(P2PForwardError):
    """The peer answered, and does not serve the protocol."""

    code = "protocol-not-supported"
    exit_status = ExitStatus.REFUSED


class NotAllowed(P2PForwardError):
    """The peer serves the protocol, says that this node may not use it, and is one that tells."""

    code = "not-allowed"
    exit_status = ExitStatus.REFUSED


class TargetRefused(P2PForwardError):
    """The local service behind a listener cannot be reached."""

    code = "target-refused"
    exit_status = ExitStatus.REFUSED


class TargetTimeout(TargetRefused):
    """The local service behind a listener does not answer at all."""

    code = "target-timeout"
    exit_status = ExitStatus.TIMED_OUT


class TargetUnhealthy(P2PForwardError):
    """The local service behind a listener answers its check, and says that it is not well."""

    code = "target-unhealthy"
    exit_status = ExitStatus.REFUSED


class ResourceLimitExceeded(P2PForwardError):
    """A limit on what a stranger may make us hold was met."""

    code = "resource-limit"
    exit_status = ExitStatus.REFUSED


class TimedOut(P2PForwardError):
    """A bounded wait ended without an answer."""

    code = "timed-out"
    exit_status = ExitStatus.TIMED_OUT


class ConnectionLost(P2PForwardError):
    """The connection under a stream ended."""

    code = "connection-lost"


class RelayRefused(P2PForwardError):
    """A relay does not do what it was asked for; `details["status"]` is its own word for why."""

    code = "relay-refused"
    exit_status = ExitStatus.REFUSED


class NotAtRelay(RelayRefused):
    """The peer that a relay was asked for has no place there: it is gone, or not back yet."""

    code = "not-at-relay"


class InviteRefused(P2PForwardError):
    """Who made an invite does not do what it says; `details["status"]` is its word for why."""

    code = "invite-refused"
    exit_status = ExitStatus.REFUSED


class NoDirectPath(P2PForwardError):
    """Only a relay leads to the peer, and more was asked for; `details["path"]` is the path's code."""

    code = "no-direct-path"


class CircuitLimitReached(P2PForwardError):
    """A relay has ended a circuit that has used up what the relay allows it."""

    code = "circuit-limit"
    exit_status = ExitStatus.REFUSED


class StreamReset(P2PForwardError):
    """The stream was reset, by the peer or here; `details["by"]` is "remote" or "local"."""

    code = "stream-reset"


# --- protocol violations --------------------------------------------------------------------------


class ProtocolError(P2PForwardError):
    """A protocol's rules were broken."""

    code = "protocol-error"


class LocalProtocolError(ProtocolError):
    """We broke the rules: a defect here."""

    code = "local-protocol-error"


class RemoteProtocolError(ProtocolError):
    """The peer broke the rules."""

    code = "remote-protocol-error"


class NegotiationFailed(ProtocolError):
    """No common security protocol or muxer, or multistream-select went wrong."""

    code = "negotiation-failed"


class HandshakeFailed(RemoteProtocolError):
    """The security handshake failed."""

    code = "handshake-failed"
