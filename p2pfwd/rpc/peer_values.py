"""The RPC's values of named peers: what `peer.add`, `peer.rm` and `peer.ls` take and give."""

from __future__ import annotations

from p2pfwd.rpc.values import Message, NamedPeer, Notice, message


@message
class PeerAddParams(Message):
    """Parameters of `peer.add`."""

    name: str
    peers: tuple[str, ...]  # as ForwardParams.peers
    keep: bool = False


@message
class PeerAddResult(Message):
    """Result of `peer.add`."""

    peer: NamedPeer
    replaced: bool
    notices: tuple[Notice, ...] = ()


@message
class PeerRmParams(Message):
    """Parameters of `peer.rm`."""

    name: str  # or the ID of a peer, with a name or without


@message
class PeerRmResult(Message):
    """Result of `peer.rm`."""

    peer: NamedPeer
    still_own: bool = False  # it is the owner's for another reason


@message
class PeerLsParams(Message):
    """Parameters of `peer.ls`."""

    all: bool = False  # kept peers without a name, too


@message
class PeerLsResult(Message):
    """Result of `peer.ls`."""

    peers: tuple[NamedPeer, ...]
