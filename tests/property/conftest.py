"""Hypothesis for this tier: the same examples on every run, and no deadline, which only measures the machine."""

from hypothesis import settings

settings.register_profile("p2pfwd", deadline=None, derandomize=True, database=None)
settings.load_profile("p2pfwd")
