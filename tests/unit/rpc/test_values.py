"""rpc.values: a message behaves as the frozen dataclass it looks like, without generated code."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, field, replace
from typing import Any

import pytest

from p2pfwd.rpc import schema
from p2pfwd.rpc.values import Message, message, named


@message
class Sample(Message):
    """One of each kind of field."""

    name: str
    size_s: float = named("SizeSeconds")
    tags: tuple[str, ...] = ()
    counts: dict[str, int] = field(default_factory=dict)


def test_fields_are_given_in_order_or_by_name_and_defaults_fill_the_rest() -> None:
    one = Sample("a", 1.5)
    assert (one.name, one.size_s, one.tags, one.counts) == ("a", 1.5, (), {})
    assert one == Sample(size_s=1.5, name="a") == replace(Sample("b", 1.5), name="a")
    assert one != Sample("a", 1.5, ("x",))
    assert one != ("a", 1.5, (), {})
    assert one.counts is not Sample("a", 1.5).counts
    assert repr(one) == "Sample(name='a', size_s=1.5, tags=(), counts={})"
    assert hash(schema.CancelParams(1)) == hash(schema.CancelParams(1)) != hash(schema.CancelParams(2))


@pytest.mark.parametrize(
    ("given", "named_ones", "said"),
    [
        ((), {}, "name is missing"),
        (("a",), {}, "size_s is missing"),
        (("a", 1.0, (), {}, 5), {}, "more values than fields"),
        (("a", 1.0), {"name": "b"}, "name is given twice"),
        (("a", 1.0), {"nope": 1}, "no field nope"),
    ],
)
def test_what_does_not_fit_the_fields_is_refused(given: Any, named_ones: Any, said: str) -> None:
    with pytest.raises(TypeError, match=said):
        Sample(*given, **named_ones)


def test_a_message_stays_as_it_was_made() -> None:
    one = Sample("a", 1.5)
    for name in ("name", "other"):
        with pytest.raises(FrozenInstanceError):
            setattr(one, name, "b")
    with pytest.raises(FrozenInstanceError):
        del one.name
    assert one.name == "a"


def test_every_value_of_the_rpc_is_a_message_without_code_of_its_own() -> None:
    kinds = {kind for pair in schema.METHODS.values() for kind in pair} | {schema.Event}
    kinds |= {kind for kind in vars(schema).values() if isinstance(kind, type) and issubclass(kind, Message)}
    assert [kind.__name__ for kind in kinds if vars(kind).keys() & {"__init__", "__eq__", "__repr__"}] == [
        "Message"
    ]
