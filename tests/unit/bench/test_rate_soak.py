"""The soak with a least rate: its tail, and which transfers it lists."""

from __future__ import annotations

from tests.bench.rate_soak import Tail, Transfer, render, variants


def transfers(variant: str, *rates: float) -> list[Transfer]:
    about = {"load": 1.0, "ours": 0.2, "idle": 1.5, "per_cpu_s": 400.0}
    return [Transfer(float(i), variant, rate, nth=i + 1, **about) for i, rate in enumerate(rates)]


def test_the_tail_of_rates() -> None:
    """200 rates: p1 is the third least, and one of them is below half of it."""
    tail = Tail.of([*[500.0] * 197, 100.0, 120.0, 40.0])
    assert tail == Tail(200, 40.0, 120.0, 500.0, slow=1)


def test_a_slow_transfer_is_listed_with_its_circumstances() -> None:
    """Against its own variant; what is usual for a slow variant is not listed."""
    text = render([*transfers("noise up", *[500.0] * 199, 50.0), *transfers("tls up", *[60.0] * 200)], [])
    slow = [line for line in text.splitlines() if line.startswith("  ")]
    assert slow == [
        "     199 s    50.0 MB/s  noise up; transfer 200 of its daemons, load 1.0; "
        "processors: daemons 0.20, idle 1.50; 400 MB a CPU-s"
    ]
    assert "all" in text and "Faults: none." in text


def test_a_tail_that_p1_lies_in_is_listed_too() -> None:
    """Of few transfers p1 is the least; one far below the median is told all the same."""
    text = render(transfers("noise up", *[500.0] * 9, 20.0), [])
    assert "20.0 MB/s  noise up; transfer 10 " in text


def test_faults_are_told_even_where_nothing_was_done() -> None:
    text = render([], ["3 s, noise up: EOFError('...')"])
    assert text.splitlines() == ["Faults: 1.", "  3 s, noise up: EOFError('...')"]


def test_the_variants_are_all_of_them() -> None:
    """Each kind of tunnel, both ways, with 0, 1 and 20 idle streams beside, and two at once."""
    made = list(variants())
    assert len(made) == len(set(made)) == 5 * 2 * 4
    assert {each.kind for each in made} == {"noise", "tls", "no-aes", "relayed", "long"}
    assert {each.kind for each in variants(["noise"])} == {"noise"}
    assert str(made[-1]) == "long down, two at once"
