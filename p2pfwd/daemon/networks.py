"""Networks by profile: whom a node of the public network, of the local one, or of a private one meets.

`profile` is a table in code, and pure. Rules: only `public` knows peers that are not its owner's; in `lan`
nothing leaves the local network but for what its owner types (SwarmSettings.local_only); `private` does not
start without its key, so that a node never turns public by a missing file. LIBP2P_FORCE_PNET=1, go-libp2p's
switch, refuses the rest.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.daemon.settings import AUTO
from p2pfwd.errors import InvalidConfig
from p2pfwd.state import swarm_key_file
from p2pfwd.wire.kad.address_filter import Scope
from p2pfwd.wire.pnet import require_cipher

if TYPE_CHECKING:
    from p2pfwd.core.swarm_key import SwarmKey
    from p2pfwd.daemon.settings import Settings

log = logging.getLogger("p2pfwd.daemon")

FORCE_VARIABLE: Final = "LIBP2P_FORCE_PNET"

PUBLIC_BOOTSTRAP: Final = (
    "/dnsaddr/bootstrap.libp2p.io/p2p/QmNnooDu7bfjPFoTZYxMNLWUQJyrVwtbZg5gBMjTezGAJN",
    "/dnsaddr/bootstrap.libp2p.io/p2p/QmQCU2EcMqAqQPR2i9bChDtGNJchTbq5TbXJJ16u19uLTa",
    "/dnsaddr/bootstrap.libp2p.io/p2p/QmbLHAnMoJPWSCR5Zhtx6BHJX9KiKNN6tpvbUcqanj75Nb",
    "/dnsaddr/bootstrap.libp2p.io/p2p/QmcZf59bWwK5XFi76CZX8cbJ4BhTzzA3gU1ZjYZcYW3dwt",
    "/ip4/104.131.131.82/tcp/4001/p2p/QmaCpDMGvV2BGHeYERUEnRQAwe3N8SzbUtfsmvsqQLuvuJ",
)
"""Kubo's default list, less what is not TCP."""

IPFS: Final = "/ipfs"
OWN: Final = "/p2pfwd"
_WAN_NAME: Final = "/kad/1.0.0"
_LAN_NAME: Final = "/lan/kad/1.0.0"


@dataclass(frozen=True, slots=True)
class DhtProfile:
    """One DHT of a network: its protocol, and which addresses it is about."""

    protocol: str
    scope: Scope


@dataclass(frozen=True, slots=True)
class NetworkProfile:
    """What follows from the network that a node is in."""

    name: Literal["public", "lan", "private"]
    bootstrap: tuple[Multiaddr, ...]
    dhts: tuple[DhtProfile, ...]
    mdns: bool
    """Whether to be found on, and to look at, the local segment unless a setting says otherwise."""
    local_only: bool
    """No peer beyond the local network is met, and none's name looked up there."""
    swarm_key: SwarmKey | None = None

    @property
    def is_public(self) -> bool:
        """Whether strangers are met, who can tell whether they reach us."""
        return self.name == "public"

    @property
    def psk(self) -> bytes | None:
        """Its secret, for SwarmSettings."""
        return None if self.swarm_key is None else self.swarm_key.psk

    @property
    def fingerprint(self) -> str | None:
        """Of its key, for people to compare."""
        return None if self.swarm_key is None else self.swarm_key.fingerprint()


def profile(settings: Settings, swarm_key: SwarmKey | None = None) -> NetworkProfile:
    """The profile of `settings.network`; `swarm_key` is the private network's, and ignored in others.

    Raises InvalidConfig for a private network without a key.
    """
    name = settings.network
    if name == "private" and swarm_key is None:
        raise InvalidConfig("the network is private, and there is no swarm key")
    return NetworkProfile(
        name=name,
        bootstrap=bootstrap_peers(settings),
        dhts=_dhts(settings),
        # A private node tells nobody that it is there: strangers on the segment could not speak to it.
        mdns=name != "private",
        local_only=name == "lan",
        swarm_key=swarm_key if name == "private" else None,
    )


def bootstrap_peers(settings: Settings) -> tuple[Multiaddr, ...]:
    """Whom `bootstrap.peers` means in the network of the settings."""
    own_list = PUBLIC_BOOTSTRAP if settings.network == "public" else ()
    found: dict[Multiaddr, None] = {}
    for text in settings.bootstrap:
        for address in own_list if text == AUTO else (text,):
            found[Multiaddr.parse(address)] = None
    return tuple(found)


def is_shipped(address: Multiaddr) -> bool:
    """Whether a bootstrap peer's address came with the program: its owner may not even know of it."""
    return str(address) in PUBLIC_BOOTSTRAP


def _dhts(settings: Settings) -> tuple[DhtProfile, ...]:
    prefix = settings.dht_prefix
    if prefix == AUTO:
        prefix = OWN if settings.network == "private" else IPFS
    wan, lan = prefix + _WAN_NAME, prefix + _LAN_NAME
    if settings.network == "public":
        return DhtProfile(wan, Scope.WAN), DhtProfile(lan, Scope.LAN)
    if settings.network == "lan":
        return (DhtProfile(lan, Scope.LAN),)
    ours = DhtProfile(wan, Scope.PRIVATE)
    # A Kubo serves the first only where it is publicly reachable, and its twin always.
    return (ours, DhtProfile(lan, Scope.PRIVATE)) if prefix == IPFS else (ours,)


def load(home: Path, settings: Settings, env: Mapping[str, str]) -> NetworkProfile:
    """The profile, with the key file read.

    Raises InvalidConfig (a private network is forced, or its package is missing), and NotFound, InvalidKey
    and StorageFailed for the key of a private network.
    """
    path = swarm_key_file.location(home, settings.swarm_key)
    if settings.network == "private":
        require_cipher()
        return profile(settings, swarm_key_file.load(path))
    if env.get(FORCE_VARIABLE) == "1":
        raise InvalidConfig(
            f"{FORCE_VARIABLE} is set, and the network is {settings.network}, not private",
            hint="p2pfwd daemon --network private, or P2PFWD_NETWORK=private",
        )
    if settings.swarm_key or os.path.exists(path):
        log.warning("the swarm key %s is not used: the network is %s", path, settings.network)
    return profile(settings)
