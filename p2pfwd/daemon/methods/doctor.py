"""The RPC's method `doctor`: every check of a node's network, once, in order, and the cure (p2pfwd-rpc(7)).

Rules: a check changes nothing. It waits no longer than it takes others to answer; what is found out in the
first seconds of a daemon's life (who sees us, who dials back, who relays) is waited for, bounded. The words
are made to be pasted into a report: they name no peer of the owner's but the one that was asked about.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from p2pfwd.core.multiaddrs import AddressClass, Multiaddr, address_class
from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import NotFound, P2PForwardError
from p2pfwd.net.link.contract import Link
from p2pfwd.net.resolver import has_name
from p2pfwd.policy.nat_kind import NatKind
from p2pfwd.policy.outlook import Outlook, outlook
from p2pfwd.rpc import schema as s
from p2pfwd.rpc.doctor_values import DoctorResult, Finding, FindingState
from p2pfwd.rpc.time_limit import check_timeout
from p2pfwd.system import clock_sync
from p2pfwd.system.network_watch import reachable_hosts
from p2pfwd.wire.reachability import Reachability

if TYPE_CHECKING:
    from p2pfwd.daemon.methods.process import Node

SETTLE_S: Final = 8.0
"""How long a young daemon's verdicts are waited for."""

LOOK_EVERY_S: Final = 0.1

NAME_S: Final = 5.0
"""For the look-up of one name."""

DIRECT_S: Final = 12.0
"""For a direct connection where one over a relay is there: three tries."""

Check = tuple[FindingState, str, str | None]


async def doctor(node: Node, params: s.DoctorParams) -> s.DoctorResult:
    """What works and what does not; with a peer also the way to it. Raises as `PEER` does elsewhere."""
    timeout_s = check_timeout(params.timeout_s)
    if params.peer is None:
        return await Doctor(node).run(None, (), timeout_s)
    peer_id, addrs = await node.peering.read((params.peer,))
    return await Doctor(node).run(peer_id, addrs, timeout_s)


class Doctor:
    """Of one daemon."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._swarm = node.host.swarm

    async def run(self, peer: PeerId | None, addrs: Sequence[Multiaddr], timeout_s: float) -> DoctorResult:
        """All findings, and the verdict."""
        await self._settle()
        findings = [
            _finding("sockets", self._sockets()),
            _finding("clock", clock(time.time(), clock_sync.is_kept())),
            _finding("DNS", await self._names()),
            _finding("bootstrap", self._bootstrap()),
            _finding("NAT", self._nat()),
            _finding("IPv6", self._ipv6()),
            _finding("dial back", self._dial_back()),
            _finding("port mapping", self._mapping()),
            _finding("relay", self._relays()),
            _finding("access", self._access()),
        ]
        if peer is not None:
            return await self._with_peer(findings, peer, addrs, timeout_s)
        reachable, verdict = self._verdict()
        return DoctorResult(tuple(findings), reachable, verdict)

    async def _settle(self) -> None:
        """Until this node knows how it stands, or has had the time for it."""
        left_s = self._node.started_at + SETTLE_S - time.monotonic()
        # Several rooms tell of this, each in its way: a look now and then is simpler, and is over soon.
        while left_s > 0 and not self._is_settled():
            await asyncio.sleep(LOOK_EVERY_S)
            left_s -= LOOK_EVERY_S

    def _is_settled(self) -> bool:
        places, refusals = self._node.relays.client.places(), self._node.relays.client.refusals()
        if not self._node.network.is_public:
            is_alone = not self._swarm.conns() and not self._node.network.bootstrap
            if is_alone or places or self._who_dialed():
                return True
        verdict = self._node.discovery.autonat.reachability
        if verdict is Reachability.PRIVATE:
            return bool(places or refusals)
        return verdict is Reachability.PUBLIC

    # --- this node --------------------------------------------------------------------------------

    def _sockets(self) -> Check:
        own, taken = self._swarm.own_addresses, self._node.host.taken_ports
        if not own.bound():
            hint = "swarm.listen in config.toml says where it should; its log says why not"
            return "bad", "this node listens nowhere", hint
        if not reachable_hosts(own.interfaces.listing()):
            return "bad", "this machine has no network", "is the cable in, the Wi-Fi on? ip address shows it"
        if all(address_class(addr) is AddressClass.LOOPBACK for addr in own.bound()):
            return "bad", "this node listens on this machine only", "set swarm.listen in config.toml"
        where = ", ".join(str(addr) for addr in own.bound()[:4])
        if taken:
            ports = ", ".join(map(str, taken))
            return "note", f"listening on {where}; port {ports} was taken", "end what has it, then restart"
        return "good", f"listening on {where}", None

    async def _names(self) -> Check:
        listed = self._node.network.bootstrap
        names = list(dict.fromkeys(addr.without_peer_id() for addr in listed if has_name(addr)))
        if not names:
            return "left out", "no bootstrap peer has a name", None
        failures = await asyncio.gather(*map(self._why_no_name, names[:4]))
        if None in failures:
            return "good", "the names of bootstrap peers are found", None
        return "bad", "; ".join(filter(None, failures)), "swarm.dns_servers can name other servers"

    async def _why_no_name(self, name: Multiaddr) -> str | None:
        try:
            async with asyncio.timeout(NAME_S):
                await self._swarm.resolver.resolve(name)
        except TimeoutError:
            return f"{name}: no answer within {NAME_S:g} s"
        except P2PForwardError as exc:
            return exc.message
        return None

    def _bootstrap(self) -> Check:
        discovery = self._node.discovery
        if not discovery.dhts:
            return "left out", "this node takes part in no DHT", None
        report = discovery.bootstrap.report()
        alone: FindingState = "note" if report.is_hub and not report.outcomes else "bad"
        states: dict[str, FindingState] = {"joined": "good", "searching": "note", "alone": alone}
        return states[report.state], report.message, report.hint

    def _nat(self) -> Check:
        own, nat = self._swarm.own_addresses, self._swarm.own_addresses.nat
        seen = ", ".join(map(str, own.counting() or own.seen()[:2]))
        if nat is NatKind.NONE:
            return "good", f"none: others see this node at its own address, {seen}", None
        if nat is NatKind.ENDPOINT_INDEPENDENT:
            return "good", f"every destination sees the same port ({seen}): holes can be punched", None
        if nat is NatKind.SEQUENTIAL:
            return "note", "every destination gets the next port: punched by that, if at all", _FORWARD
        if nat is NatKind.SYMMETRIC:
            return "note", "every destination gets another port: it cannot be punched", _FORWARD
        if not self._node.network.is_public:
            return "left out", "nobody outside of this network sees this node", None
        return "note", "not known: too few peers have said where they see this node", _IS_ANYBODY

    def _ipv6(self) -> Check:
        bound = [addr for addr in self._swarm.own_addresses.bound() if addr.has("ip6")]
        if any(address_class(addr) is AddressClass.PUBLIC for addr in bound):
            return "good", "this machine has a public IPv6 address", None
        return "note", "no public IPv6 address", None

    def _dial_back(self) -> Check:
        reachability, is_public = self._node.discovery.autonat.reachability, self._node.network.is_public
        if reachability is Reachability.PUBLIC:
            return "good", f"{self._others} reach this node directly", None
        if reachability is Reachability.PRIVATE:
            return "note", f"{self._others} cannot dial this node", _FORWARD
        if not is_public and (count := len(self._who_dialed())):
            dialed = f"{count} {'peer is' if count == 1 else 'peers are'} connected that dialed this node"
            return "good", f"{dialed}; whether others can from elsewhere is not known", None
        if is_public:
            return "note", "no peer has tried to dial back yet", _IS_ANYBODY
        return "note", f"not known: none of the {self._others} has dialed this node", self._to_be_dialed

    @property
    def _others(self) -> str:
        return "strangers" if self._node.network.is_public else "peers of this network"

    @property
    def _to_be_dialed(self) -> str:
        """What would tell whether this node can be dialed, in a network that is no public one."""
        said = "p2pfwd ping from another machine of it, at an address that p2pfwd id prints here, tells"
        return said if self._node.network.local_only else f"{said}; p2pfwd network join names a hub"

    def _who_dialed(self) -> set[PeerId]:
        """The peers connected by a dial of theirs from another machine."""
        return {
            conn.remote_peer
            for conn in self._swarm.conns()
            if conn.direction == "inbound"
            and not conn.is_relayed
            and address_class(conn.remote_addr) is not AddressClass.LOOPBACK
        }

    def _mapping(self) -> Check:
        mapping = self._node.mapping
        if mapping is None:
            return "left out", "it is off", None
        found = mapping.statuses()
        mapped = [str(one.addr) for one in found if one.state == "mapped"]
        if mapped:
            return "good", f"the router leads {', '.join(mapped)} here", None
        reasons = [one.reason or "the router is being asked" for one in found]
        needless = all(one.state in ("not-needed", "no-router") for one in found)
        cures = dict.fromkeys(_MAPPING_CURES[one.state] for one in found if one.state in _MAPPING_CURES)
        state: FindingState = "left out" if needless else "note"
        return state, "; ".join(dict.fromkeys(reasons)), "; ".join(cures) or None

    def _relays(self) -> Check:
        client = self._node.relays.client
        places, refusals = client.places(), client.refusals()
        if self._node.discovery.is_public():
            return "left out", "no place at one is needed", None
        if places:
            limits = sum(place.limit is not None for place in places)
            what = f"places held: {len(places)}"
            if limits == len(places):
                return "note", f"{what}, with limits: they serve to make a direct connection", _OWN_RELAY
            return "good", what, None
        if refusals:
            said = "; ".join(dict.fromkeys(refusals.values()))
            return "bad", f"none has a place for this node: {said}", _OWN_RELAY
        if count := len(self._node.relays.missing()):
            return "bad", f"of those named in reach.relays {count} give no place, and none does", _NAMED_RELAY
        return "note", "none is known that could have a place for this node", _OWN_RELAY

    def _access(self) -> Check:
        """Whom the listens let in, without their names."""
        access = self._node.access
        if access.rules.lost is not None:
            hint = f"mend {access.rules.lost} and move it back, or remove it; then restart"
            return "bad", "the access rules were damaged: nobody is let in without a rule", hint
        listens = [it for it in self._node.tunnels.listeners() if it.direction == "listen"]
        is_open = sum(access.of(it.protocol).lets_in == "any" for it in listens)
        default = f"access.default is {access.default}"
        if not listens:
            return "left out", f"{default}; there is no listen", None
        if is_open:
            what = f"{default}; {is_open} of {len(listens)} listens let in any peer that knows the name"
            return "note", what, _WHO
        return "good", f"{default}; none of {len(listens)} listens lets in any peer", None

    def _verdict(self) -> tuple[bool, str]:
        node, own = self._node, self._swarm.own_addresses
        found = outlook(
            node.discovery.autonat.reachability,
            node.relays.best_place(),
            listens=self._is_near(),
            per_destination=own.nat.is_per_destination,
            is_public=node.network.is_public,
            was_dialed=bool(self._who_dialed()),
        )
        one = "stranger" if node.network.is_public else "peer of this network"
        return found not in (Outlook.NONE, Outlook.UNKNOWN), _VERDICTS[found].format(one)

    def _is_near(self) -> bool:
        own = self._swarm.own_addresses
        if not reachable_hosts(own.interfaces.listing()):
            return False
        return any(address_class(addr) is not AddressClass.LOOPBACK for addr in own.bound())

    # --- the way to one peer ----------------------------------------------------------------------

    async def _with_peer(
        self, findings: list[Finding], peer: PeerId, addrs: Sequence[Multiaddr], timeout_s: float
    ) -> DoctorResult:
        def note(check: str, found: Check) -> None:
            findings.append(_finding(check, found))

        begin = time.monotonic()
        try:
            conn = await self._swarm.connect(peer, addrs, timeout_s=timeout_s, force=True)
        except P2PForwardError as exc:
            known = bool(self._swarm.peerstore.addrs(peer))
            note("found", _WAS_FOUND if known else ("bad", "no address of the peer was found", _THERE))
            note("reachable", ("bad", exc.message, exc.hint))
            return DoctorResult(tuple(findings), False, "the peer was not reached")
        note("found", _WAS_FOUND)
        took_ms = (time.monotonic() - begin) * 1000
        note("reachable", ("good", f"{self._path(conn)}, after {took_ms:.0f} ms", None))
        direct = await self._direct(conn)
        note("direct", direct)
        ways = await self._services(peer)
        for check in ways:
            note("service", check)
        states = [state for state, _, _ in ways]
        # A forward may use a relay with limits all the same.
        is_carried = direct[0] != "bad" or "good" in states
        is_served = "bad" not in states
        verdict = "the peer is reached" if is_served else "a service of the peer is not there"
        if not is_carried:
            verdict = "the peer is reached, and no tunnel goes over the relay that leads there"
        return DoctorResult(tuple(findings), is_carried and is_served, verdict)

    def _path(self, conn: Link) -> str:
        return self._swarm.paths.code(conn).words

    async def _direct(self, conn: Link) -> Check:
        peer = conn.remote_peer
        try:
            direct = await self._swarm.paths.wait_direct(peer, DIRECT_S) if conn.is_relayed else conn
        except P2PForwardError:
            if conn.limit is not None:
                return "bad", f"{self._path(conn)}; the relay that leads there carries little", _LIMITED
            return "note", self._path(conn), "p2pfwd doctor there says what its router does"
        return "good", self._path(direct), None

    async def _services(self, peer: PeerId) -> list[Check]:
        forwards = [
            it
            for it in self._node.forwarding.listeners()
            if it.direction == "forward" and it.target_address.peer_id() == peer
        ]
        if not forwards:
            return [("left out", "no forward here leads to the peer", None)]
        found: list[Check] = []
        for forward in forwards[:8]:
            try:
                outcome = await self._node.forwarding.check(forward.id, 10.0)
            except NotFound:
                found.append(("left out", f"{forward.protocol}: it was closed meanwhile", None))
                continue
            state: FindingState = "good" if outcome.ok else "bad"
            found.append((state, f"{forward.protocol}: {outcome.reason or outcome.state}", outcome.hint))
        return found


_VERDICTS: Final = {
    Outlook.DIRECTLY: "a {} gets a tunnel: directly",
    Outlook.RELAYED: "a {} gets a tunnel: over a relay, and directly where both routers let them",
    Outlook.PUNCHED: "a {} gets a tunnel if his router can be punched, too: the relays have limits",
    Outlook.DIALED: "a {} gets a tunnel where it can dial this node, as others did",
    Outlook.NONE: "no {} gets a tunnel",
    Outlook.UNKNOWN: "it is not known whether a {} gets a tunnel: nobody has tried to dial this node",
}

_IS_ANYBODY: Final = "is anybody connected? p2pfwd swarm peers"
_BY_HAND: Final = "switch UPnP, NAT-PMP or PCP on in the router, or forward the port there by hand"
_MAPPING_CURES: Final = {
    "refused": _BY_HAND,
    "silent": _BY_HAND,
    "useless": "the router before it would have to lead the port on; a relay of your own needs no port",
}
"""By the state of a port."""

_WHO: Final = "p2pfwd access ls shows which; p2pfwd deny PROTOCOL any lets in only whom you allow"
_FORWARD: Final = "forward the port in the router, or name a relay of your own in reach.relays"
_OWN_RELAY: Final = "name a relay of your own in reach.relays; any public machine with p2pfwd can be one"
_NAMED_RELAY: Final = "p2pfwd status says of each why, and what to do"
_LIMITED: Final = (
    "a relay of your own, named in reach.relays there, has no limits; p2pfwd forward --allow-limited-relay "
    "uses this one"
)
_THERE: Final = "is the daemon running there? p2pfwd status there shows its addresses"
_WAS_FOUND: Final[Check] = ("good", "addresses of the peer are known", None)


def _finding(check: str, found: Check) -> Finding:
    state, text, hint = found
    return Finding(check, state, text, hint)


def clock(now: float, is_kept: bool | None) -> Check:
    """What can be said of it without asking anybody; `is_kept`: see `clock_sync`."""
    if now < clock_sync.EARLIEST:
        when = time.strftime("%Y-%m-%d", time.gmtime(now))
        return "bad", f"this machine believes that it is {when}", "set its clock: certificates end by it"
    when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(now))
    if is_kept:
        return "good", f"{when}, kept right by a time service", None
    if now >= clock_sync.LATE:
        hint = "compare it with another clock: where it is wrong, what has --expires ends too early, for good"
        return "note", f"this machine believes that it is {when}", hint
    if is_kept is None:
        return "good", f"{when}; checked was only that it is neither before 2026 nor after 2035", None
    hint = "compare it with another clock; timedatectl set-ntp true keeps it right"
    return "note", f"{when}; no time service keeps it right", hint
