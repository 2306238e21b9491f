"""Hypothesis: the same examples each time, and no clock in the verdict."""

from hypothesis import HealthCheck, settings

settings.register_profile(
    "unit", deadline=None, database=None, derandomize=True, max_examples=30, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("unit")
