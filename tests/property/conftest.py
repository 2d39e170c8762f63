"""Hypothesis here: the same examples on every run, no deadline (it would only measure the machine)."""

from hypothesis import settings

settings.register_profile("p2pfwd", deadline=None, derandomize=True, database=None)
settings.load_profile("p2pfwd")
