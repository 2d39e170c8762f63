"""Ping: what counts as an answer."""

import pytest

from p2pfwd.errors import RemoteProtocolError
from p2pfwd.wire.ping import PAYLOAD_BYTES, check_echo


def test_only_the_very_bytes_are_an_echo() -> None:
    sent = bytes(range(PAYLOAD_BYTES))
    check_echo(sent, sent)
    for received in (b"", sent[:-1], sent[::-1]):
        with pytest.raises(RemoteProtocolError):
            check_echo(sent, received)
