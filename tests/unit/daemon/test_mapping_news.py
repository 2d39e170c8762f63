"""daemon.mapping_news: what becomes of a mapped port, told once each."""

from __future__ import annotations

from typing import Any

import pytest

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.daemon.mapping_news import GONE, MappingNews
from p2pfwd.host.port_mapping import NO_ROUTER, MappedPort, State
from p2pfwd.policy.port_mapping import Protocol

ONE, OTHER = "/ip4/11.1.0.1/tcp/4011", "/ip4/11.2.0.1/tcp/4011"


def mapped(address: str, why: str | None = None, port: int = 4011) -> MappedPort:
    state: State = "mapped" if why is None else "useless"
    return MappedPort(port, state, why, Protocol.PCP, "10.0.0.1", Multiaddr.parse(address))


SEARCHING = MappedPort(4011, "searching")
REFUSED = MappedPort(4011, "refused", "it has no room")
NAT = "the router is behind another NAT"

GOT = ("mapping-got", {"port": 4011, "address": ONE, "way": "PCP"})
USELESS = ("mapping-useless", {"port": 4011, "address": ONE, "reason": NAT})


@pytest.mark.parametrize(
    ("seen", "told"),
    [
        ((SEARCHING, REFUSED, SEARCHING), []),
        ((SEARCHING, mapped(ONE), mapped(ONE)), [GOT]),
        (
            (mapped(ONE), SEARCHING, mapped(OTHER)),
            [GOT, ("mapping-moved", {"port": 4011, "address": OTHER, "before": ONE})],
        ),
        ((mapped(ONE), SEARCHING, mapped(ONE)), [GOT]),
        ((mapped(ONE, NAT), mapped(ONE, NAT + " (seen elsewhere)"), mapped(ONE)), [USELESS, GOT]),
        (
            (mapped(ONE), mapped(ONE, NAT), SEARCHING, REFUSED, REFUSED),
            [
                GOT,
                USELESS,
                ("mapping-lost", {"port": 4011, "address": ONE, "reason": "it has no room"}),
            ],
        ),
        (
            (mapped(ONE), MappedPort(None, "no-router", NO_ROUTER)),
            [GOT, ("mapping-lost", {"port": 4011, "address": ONE, "reason": NO_ROUTER})],
        ),
    ],
)
def test_what_is_told(seen: tuple[MappedPort, ...], told: list[tuple[str, dict[str, Any]]]) -> None:
    events: list[tuple[str, dict[str, Any]]] = []
    news = MappingNews(lambda code, **fields: events.append((code, fields)))
    for status in seen:
        news.look((status,))
    assert events == told


def test_each_port_is_told_by_itself() -> None:
    events: list[tuple[str, int, str]] = []
    news = MappingNews(lambda code, **fields: events.append((code, fields["port"], fields.get("reason", ""))))
    news.look((mapped(ONE), mapped(OTHER, port=4012)))
    news.look((mapped(ONE),))
    assert events == [
        ("mapping-got", 4011, ""),
        ("mapping-got", 4012, ""),
        ("mapping-lost", 4012, GONE),
    ]
