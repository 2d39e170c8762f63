"""Pins how errors become a listener's state, and when that counts as a change."""

from __future__ import annotations

import pytest

from p2pfwd.errors import (
    ConnectionLost,
    DialFailed,
    DialTimeout,
    P2PForwardError,
    PeerIdMismatch,
    PeerNotFound,
    ProtocolNotSupported,
    ResourceLimitExceeded,
    StreamReset,
    TargetRefused,
    TargetTimeout,
    TimedOut,
)
from p2pfwd.forwarding.health import Health, state_of


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (DialFailed("x"), "peer-unreachable"),
        (DialTimeout("x"), "peer-unreachable"),
        (PeerNotFound("x"), "peer-unreachable"),
        (ConnectionLost("x"), "peer-unreachable"),
        (TimedOut("x"), "peer-unreachable"),
        (PeerIdMismatch("x"), "peer-unreachable"),
        (ProtocolNotSupported("x"), "protocol-not-supported"),
        (TargetRefused("x"), "target-refused"),
        (TargetTimeout("x"), "target-timeout"),
        (ResourceLimitExceeded("x"), "resource-limit"),
        (StreamReset("x"), "stream-reset"),
    ],
)
def test_each_failure_has_its_state(error: P2PForwardError, state: str) -> None:
    assert state_of(error) == state


def test_a_change_is_a_new_state_or_a_new_reason() -> None:
    health = Health(1.0)
    assert (health.state, health.reason, health.since) == ("unknown", None, 1.0)
    assert health.failed(DialFailed("refused", hint="do this"), 2.0)
    assert (health.state, health.reason, health.hint) == ("peer-unreachable", "refused", "do this")
    assert not health.failed(DialFailed("refused", hint="do this"), 3.0)
    assert health.since == 2.0
    assert health.failed(DialTimeout("too slow"), 4.0)
    assert health.ready(5.0)
    assert (health.state, health.reason, health.hint, health.since) == ("ready", None, None, 5.0)
    assert not health.ready(6.0)
