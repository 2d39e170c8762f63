"""Forwarding on a fake host: no sockets."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from p2pfwd.forwarding import forward as listeners_local
from p2pfwd.forwarding import service
from p2pfwd.forwarding.service import Forwarding
from p2pfwd.forwarding.values import ForwardingLimits
from tests.unit.forwarding.fakes import FakeAcceptor, FakeHost, FakeSplice, fake_bind

MakeForwarding = Callable[..., Forwarding]


@pytest.fixture
def splices() -> list[FakeSplice]:
    """The splices made in this test, in order."""
    return []


@pytest.fixture
def host() -> FakeHost:
    return FakeHost()


@pytest.fixture
def forwarding(monkeypatch: pytest.MonkeyPatch, splices: list[FakeSplice], host: FakeHost) -> MakeForwarding:
    """Makes the Forwarding of `host`, inside a running loop."""
    FakeAcceptor.made = []
    monkeypatch.setattr(listeners_local, "Acceptor", FakeAcceptor)
    monkeypatch.setattr(service, "bind", fake_bind)
    monkeypatch.setattr(listeners_local, "bind", fake_bind)

    def splice(*args: object, **options: bool) -> FakeSplice:
        made = FakeSplice(*args, **options)  # type: ignore[arg-type]
        splices.append(made)
        return made

    def make(**limits: object) -> Forwarding:
        limits = {"wait_s": 0.0, **limits}
        return Forwarding(host, limits=ForwardingLimits(**limits), make_splice=splice)  # type: ignore[arg-type]

    return make
