"""Refreshes of materialized views: how each was refreshed, how stale it was, and which failed."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tasks.core.report import markdown


@dataclass(frozen=True)
class Staleness:
    """How many rows a view has, and how many a refresh would remove or add; None if not counted."""

    rows: int | None = None
    stale: int | None = None
    why: str = ""

    @property
    def text(self) -> str:
        """The number of stale rows, or why it is unknown."""
        return self.why if self.stale is None else f"{self.stale:,}"

    @property
    def shown(self) -> int | str:
        """The number of stale rows, or why it is unknown, for a table artifact."""
        return self.why if self.stale is None else self.stale


@dataclass(frozen=True)
class Refreshed:
    """The outcome of a refresh; `plainly` is why not CONCURRENTLY; `after` if it succeeded."""

    view: str
    plainly: str = ""
    seconds: float = 0.0
    before: Staleness = Staleness()
    after: Staleness = Staleness()
    problem: str = ""
    note: str = ""

    @property
    def how(self) -> str:
        """The outcome in words."""
        if self.problem:
            return f"FAILED: {self.problem}"
        way = f"readers waited: {self.plainly}" if self.plainly else "concurrently"
        return f"{way}; {self.note}" if self.note else way


def verdict(outcomes: Sequence[Refreshed]) -> str:
    """Return the verdict on the refreshes in one line."""
    done = [outcome for outcome in outcomes if not outcome.problem]
    names = ", ".join(outcome.view for outcome in done)
    summary = f"{names}; {_stale_rows(done)}; {markdown.duration(sum(outcome.seconds for outcome in done))}" if done else ""
    if failed := [outcome for outcome in outcomes if outcome.problem]:
        problems = "; ".join(f"{outcome.view}: {outcome.problem}" for outcome in failed)
        return f"FAIL: {len(failed)} of {len(outcomes)} views not refreshed: {problems}" + (
            f"; refreshed: {summary}" if summary else ""
        )
    return f"REFRESHED: {summary}" if summary else "REFRESHED: nothing, the context has no materialized views"


def _stale_rows(done: Sequence[Refreshed]) -> str:
    """Return how many rows were stale, and which views were not counted."""
    counted = [outcome.before.stale for outcome in done if outcome.before.stale is not None]
    unknown = [f"{outcome.view} ({outcome.before.why})" for outcome in done if outcome.before.stale is None]
    parts = [f"{sum(counted):,} rows were stale"] if counted else []
    return ", ".join([*parts, *([f"the number of stale rows is unknown of {', '.join(unknown)}"] if unknown else [])])


def refresh_report(verdict: str, outcomes: Iterable[Refreshed]) -> str:
    """Return the report of the refreshes as Markdown."""
    rows = [
        (
            f"`{outcome.view}`",
            markdown.duration(outcome.seconds),
            _count(outcome.before.rows),
            _count(outcome.after.rows),
            outcome.before.text,
            outcome.after.text,
            outcome.how,
        )
        for outcome in outcomes
    ]
    heads = ["view", "time", "rows before", "rows after", "stale before", "stale after", "how"]
    note = "Stale rows are rows that the view has and its query no longer returns, or the reverse.\n"
    return "\n".join([markdown.headline(verdict), markdown.table(heads, rows, right=(1, 2, 3, 4, 5)), "", note])


def _count(rows: int | None) -> str:
    return "" if rows is None else f"{rows:,}"


def refresh_rows(outcomes: Iterable[Refreshed]) -> list[dict[str, object]]:
    """Return one row per view, for the table artifact."""
    return [
        {
            "view": outcome.view,
            "seconds": round(outcome.seconds, 2),
            "rows before": outcome.before.rows,
            "rows after": outcome.after.rows,
            "stale before": outcome.before.shown,
            "stale after": outcome.after.shown,
            "how": outcome.how,
        }
        for outcome in outcomes
    ]
