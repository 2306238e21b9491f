"""Which of the long tests are run: one variant in seven, and in a slice one test in seven, as far as a budget of time goes."""

import gc
import hashlib
import os
import shutil
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.variants import EVERY_VARIANT

# It is prime, so that of two parameters each varies.
SHARE = 7
# A test creates and removes a thousand files, and some file systems are slow in that.
MEMORY = Path("/dev/shm")
# The servers of three workers took up to 1.6 GB.
NEEDED_BYTES = 4 << 30


@dataclass
class Slice:
    """One test in seven, by the day; after seven days every test was run, after seven weeks every variant.

    Files come in an order of the commit's, so that of what a budget cuts off another part is run with the next commit.
    """

    day: int
    commit: str
    budget_seconds: float
    began: float = field(default_factory=time.monotonic)

    @property
    def variant(self) -> int:
        """Which variant in seven is run."""
        return self.day // SHARE % SHARE

    def chosen(self, items: list[pytest.Item]) -> list[pytest.Item]:
        """Return the tests of this day, file by file in the order of this commit."""
        names = sorted({_function(item) for item in items})
        mine = {name for number, name in enumerate(names) if number % SHARE == self.day % SHARE}
        return sorted((item for item in items if _function(item) in mine), key=self._place)

    def _place(self, item: pytest.Item) -> str:
        return hashlib.sha256(f"{self.commit}{item.path.name}".encode()).hexdigest()


SLICE = pytest.StashKey[Slice]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Take the day and the commit of a slice, and its budget."""
    parser.addoption("--slice", metavar="DAY:COMMIT", help="run the part of the chosen tests that is due on that day (a number)")
    parser.addoption("--budget", type=float, default=600, help="skip the rest of a slice after so many seconds (default: 600)")


def pytest_configure(config: pytest.Config) -> None:
    """Keep the servers' files in memory where there is room; remember which slice is asked for."""
    has_room = os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > NEEDED_BYTES
    if "TMPDIR" not in os.environ and has_room:
        # Not those of tmp_path, which pytest keeps for three runs, hundreds of megabytes.
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
        os.environ["TMPDIR"], tempfile.tempdir = str(MEMORY), None
    if said := config.getoption("slice"):
        day, _, commit = said.partition(":")
        config.stash[SLICE] = Slice(int(day), commit, config.getoption("budget"))


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Say how to run the same slice again."""
    return [f"slice: day {one.day}, commit {one.commit}"] if (one := config.stash.get(SLICE, None)) else []


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out most variants of the long tests (all run with `EVERY_VARIANT=1 make test-long`), and what another slice has."""
    chosen = config.stash.get(SLICE, None)
    variant, numbers = chosen.variant if chosen else 0, Counter[str]()
    variants = Counter(_function(item) for item in items)
    kept = list[pytest.Item]()
    for item in items:
        name, number = _function(item), numbers[_function(item)]
        numbers[name] += 1
        if not _has_chosen_variants(item) or number % SHARE == variant % min(SHARE, variants[name]):
            kept.append(item)
    if chosen:
        kept = chosen.chosen(kept)
    if left_out := [item for item in items if item not in {*kept}]:
        config.hook.pytest_deselected(items=left_out)
        items[:] = kept


def _has_chosen_variants(item: pytest.Item) -> bool:
    return bool(
        not EVERY_VARIANT and item.get_closest_marker("long") and "[" in item.name and not item.get_closest_marker("every_variant")
    )


def _function(item: pytest.Item) -> str:
    return item.nodeid.partition("[")[0]


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what no time is left for."""
    chosen = item.config.stash.get(SLICE, None)
    if chosen and time.monotonic() - chosen.began > chosen.budget_seconds:
        pytest.skip(f"the {chosen.budget_seconds:.0f} s of this slice are over: {item.nodeid}")


def pytest_collection_finish() -> None:
    """Exempt what collecting made from garbage collection: half a million objects, which stay."""
    gc.collect()
    gc.freeze()
