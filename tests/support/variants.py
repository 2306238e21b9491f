"""Which variants of the long tests are run."""

import os
from collections.abc import Iterable

import pytest

# Of a long test with many variants some are run, all of them where this is set; cheap ones say that all are.
EVERY_VARIANT = "EVERY_VARIANT" in os.environ


def first_quick(number: int, values: Iterable[object]) -> list[object]:
    """Return the values of a parameter, all but the first few of them for the long suite."""
    return [value if place < number else _long(value) for place, value in enumerate(values)]


def _long(value: object) -> object:
    return pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=pytest.mark.long)
