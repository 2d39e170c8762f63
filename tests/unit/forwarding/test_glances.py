"""Glances: strangers' probes set neither how often nor how long the event loop looks at listening sockets."""

from __future__ import annotations

from p2pfwd.forwarding.glances import INTERVAL_S, SHARE, Glances

NEVER = float("-inf")


class Look:
    def __init__(self, cost_s: float) -> None:
        self.now, self.cost_s, self.looks = 100.0, cost_s, 0
        self.glances = Glances(lambda: self.now)

    def look(self) -> bool:
        self.looks += 1
        self.now += self.cost_s
        return True


def test_one_target_is_looked_at_once_a_second() -> None:
    it = Look(0.0)
    seen, at = it.glances.at(it.look, NEVER)
    assert seen and at == 100.0
    for _ in range(1000):
        assert it.glances.at(it.look, at) == (False, at)
    it.now += INTERVAL_S
    assert it.glances.at(it.look, at)[0] and it.looks == 2


def test_where_a_look_is_dear_all_targets_together_take_a_hundredth_of_the_time() -> None:
    # HOUSE L18: 4 MiB of /proc/net/tcp, once a second for each listen.
    it = Look(0.05)
    for _ in range(1000):
        for _ in range(50):  # as many listens
            it.glances.at(it.look, NEVER)
        it.now += 0.1
    elapsed_s = it.now - 100.0
    assert it.looks * it.cost_s <= SHARE * elapsed_s + it.cost_s
    assert it.looks > 10
