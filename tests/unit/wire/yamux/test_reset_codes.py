"""What a peer says of its reset, in words."""

import pytest

from p2pfwd.wire.yamux.reset_codes import RESOURCE_LIMIT_EXCEEDED, reason


@pytest.mark.parametrize("code", range(0x1001, 0x1009))
def test_every_code_of_the_specification_has_words(code: int) -> None:
    said = reason(code)
    assert said is not None and f"{code:#x}" in said


@pytest.mark.parametrize("code", [0, 1, 0x1000, 0x1009, 0x2000, 0xFFFF_FFFF])
def test_what_nobody_defined_says_nothing(code: int) -> None:
    assert reason(code) is None


def test_a_limit_of_the_peers_is_not_a_dead_service() -> None:
    assert reason(RESOURCE_LIMIT_EXCEEDED) == "it is at a limit of its own (code 0x1002)"
