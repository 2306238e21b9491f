"""Hypothesis: the same examples each time, and no clock in the verdict."""

from hypothesis import settings

settings.register_profile("unit", deadline=None, database=None, derandomize=True, max_examples=30)
settings.load_profile("unit")
