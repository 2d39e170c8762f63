"""What a relay's status means: a place refused is not a circuit refused, and each has its cure."""

from __future__ import annotations

import pytest

from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import NotAtRelay
from p2pfwd.net.transport.relay_transport import no_circuit, refusal
from p2pfwd.wire.circuit import Status

RELAY = PeerId.parse("12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA")


@pytest.mark.parametrize("status", [status for status in Status if status is not Status.OK])
def test_each_status_has_words_and_a_cure(status: Status) -> None:
    place, circuit = refusal(RELAY, status), no_circuit(RELAY, status)
    assert place.message.partition("; ")[2] and circuit.hint
    assert place.details["status"] == circuit.details["status"] == status.name
    assert isinstance(circuit, NotAtRelay) is (status is Status.NO_RESERVATION)


def test_who_is_not_let_in_is_told_what_that_means_for_what_he_asked() -> None:
    place, circuit = (make(RELAY, Status.PERMISSION_DENIED) for make in (refusal, no_circuit))
    assert "between these two" not in place.message and "p2pfwd relay token new there" in place.message
    assert "between these two" in circuit.message and "relay.serve" in (circuit.hint or "")
