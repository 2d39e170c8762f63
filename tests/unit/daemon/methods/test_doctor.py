"""What `doctor` says of a router, and `doctor PEER` of a peer that only a relay leads to."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from p2pfwd.daemon.methods.doctor import Doctor
from p2pfwd.errors import NoDirectPath
from p2pfwd.forwarding.values import CheckOutcome
from p2pfwd.host.port_mapping import MappedPort, State
from p2pfwd.policy.paths import PathCode
from p2pfwd.wire.circuit import Limit
from tests.net.swarm_rig import stranger
from tests.support.loops import on_loop

PEER = stranger()


def doctor(limit: Limit | None, *services: bool) -> Doctor:
    """Of a node with forwards to the peer; whether each works."""

    async def connect(*_args: Any, **_kwargs: Any) -> Any:
        return SimpleNamespace(is_relayed=True, limit=limit, remote_peer=PEER)

    async def no_direct(*_args: Any) -> None:
        raise NoDirectPath("none")

    async def check(number: int, _timeout_s: float) -> CheckOutcome:
        return CheckOutcome(services[number], "ready" if services[number] else "no-direct-path", None, None)

    to_peer = SimpleNamespace(peer_id=lambda: PEER)
    forwards = [
        SimpleNamespace(id=number, direction="forward", target_address=to_peer, protocol="/x/a")
        for number in range(len(services))
    ]
    paths = SimpleNamespace(code=lambda _conn: PathCode.FAILED, wait_direct=no_direct)
    swarm = SimpleNamespace(connect=connect, paths=paths)
    forwarding = SimpleNamespace(listeners=lambda: forwards, check=check)
    node: Any = SimpleNamespace(host=SimpleNamespace(swarm=swarm), forwarding=forwarding)
    return Doctor(node)


@pytest.mark.parametrize(
    ("limit", "services", "state", "reachable"),
    [
        (None, (), "note", True),
        (None, (False,), "note", False),
        (Limit(120, 1 << 17), (), "bad", False),
        (Limit(120, 1 << 17), (False,), "bad", False),
        (Limit(120, 1 << 17), (True,), "bad", True),  # with --allow-limited-relay
    ],
)
@on_loop
async def test_over_a_relay_with_limits_no_tunnel_is_to_be_had(
    limit: Limit | None, services: tuple[bool, ...], state: str, reachable: bool
) -> None:
    found = await doctor(limit, *services)._with_peer([], PEER, (), 5.0)
    direct = next(finding for finding in found.findings if finding.check == "direct")
    assert (direct.state, found.reachable) == (state, reachable)
    assert ("carries little" in direct.text) is (limit is not None)
    assert ("no tunnel" in found.verdict) is (limit is not None and not reachable)


@pytest.mark.parametrize(
    ("state", "found", "cure"),
    [
        ("searching", "note", None),
        ("refused", "note", "switch UPnP"),
        ("silent", "note", "forward the port there by hand"),
        ("useless", "note", "a relay of your own"),
        ("not-needed", "left out", None),
        ("no-router", "left out", None),
    ],
)
def test_a_port_that_is_not_mapped_has_its_cure(state: State, found: str, cure: str | None) -> None:
    ports = (MappedPort(4011, state, "why"), MappedPort(4012, state, "why"))
    mapping = SimpleNamespace(statuses=lambda: ports)
    node: Any = SimpleNamespace(host=SimpleNamespace(swarm=None), mapping=mapping)
    said = Doctor(node)._mapping()
    assert said[:2] == (found, "why")
    assert said[2] is None if cure is None else cure in (said[2] or "")
