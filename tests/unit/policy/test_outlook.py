"""The table of outlooks: what counts as a way to a node, and what is only not known."""

from __future__ import annotations

import pytest

from p2pfwd.policy.outlook import Outlook, outlook
from p2pfwd.policy.standing import Place
from p2pfwd.wire.reachability import Reachability

PUBLIC, PRIVATE, UNKNOWN = Reachability.PUBLIC, Reachability.PRIVATE, Reachability.UNKNOWN


@pytest.mark.parametrize(
    ("reachability", "place", "per_destination", "is_public", "was_dialed", "said"),
    [
        (PUBLIC, Place.NONE, True, True, False, Outlook.DIRECTLY),
        (PRIVATE, Place.UNLIMITED, True, True, False, Outlook.RELAYED),
        (PRIVATE, Place.LIMITED, False, True, False, Outlook.PUNCHED),
        (PRIVATE, Place.LIMITED, True, True, False, Outlook.NONE),
        (PRIVATE, Place.NONE, False, True, False, Outlook.NONE),
        (UNKNOWN, Place.NONE, True, True, False, Outlook.NONE),
        (UNKNOWN, Place.NONE, False, True, False, Outlook.UNKNOWN),
        (UNKNOWN, Place.NONE, False, True, True, Outlook.UNKNOWN),
        # Alone in a private network: an address on a card proves nothing.
        (UNKNOWN, Place.NONE, False, False, False, Outlook.UNKNOWN),
        (UNKNOWN, Place.NONE, False, False, True, Outlook.DIALED),
        (PRIVATE, Place.NONE, False, False, True, Outlook.NONE),
        (UNKNOWN, Place.UNLIMITED, False, False, False, Outlook.RELAYED),
    ],
)
def test_outlooks(
    reachability: Reachability,
    place: Place,
    per_destination: bool,
    is_public: bool,
    was_dialed: bool,
    said: Outlook,
) -> None:
    def of(*, listens: bool) -> Outlook:
        return outlook(
            reachability,
            place,
            listens=listens,
            per_destination=per_destination,
            is_public=is_public,
            was_dialed=was_dialed,
        )

    assert of(listens=True) is said
    assert of(listens=False) is Outlook.NONE
