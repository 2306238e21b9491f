"""Runs that begin at another time."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest

from tasks.core.run.clock import now
from tasks.core.sets import retention
from tasks.run import run as runs
from tasks.sets import listing, marks


def at(monkeypatch: pytest.MonkeyPatch, instant: str) -> None:
    """Let flows begin at an instant."""
    monkeypatch.setattr(runs, "now", lambda: datetime.fromisoformat(instant).astimezone(UTC))


@contextmanager
def later(**passed: float) -> Iterator[None]:
    """Let runs begin so much later than now; that no new full came since is what other tests are about."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (runs, listing, marks):
            patch.setattr(module, "now", lambda: now() + timedelta(**passed))
        patch.setattr(retention, "SLACK", retention.SLACK + timedelta(**passed))
        yield
