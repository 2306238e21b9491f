"""Materialized views that were computed anew: how, how stale they were, and what stood in the way."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tasks.core.report import markdown


@dataclass(frozen=True)
class Staleness:
    """What a view holds, and how many rows a refresh would take away or add; None where it could not be counted in time."""

    rows: int | None = None
    stale: int | None = None
    why: str = ""

    @property
    def said(self) -> str:
        """The number of stale rows, or why it is not known."""
        return self.why if self.stale is None else f"{self.stale:,}"

    @property
    def shown(self) -> int | str:
        """The same, for a table of values."""
        return self.why if self.stale is None else self.stale


@dataclass(frozen=True)
class Refreshed:
    """One view after the attempt to compute it; `plainly` is why its readers had to wait meanwhile, `after` is of a success."""

    view: str
    plainly: str = ""
    seconds: float = 0.0
    before: Staleness = Staleness()
    after: Staleness = Staleness()
    problem: str = ""
    note: str = ""

    @property
    def how(self) -> str:
        """What became of it."""
        if self.problem:
            return f"FAILED: {self.problem}"
        said = f"readers waited: {self.plainly}" if self.plainly else "concurrently"
        return f"{said}; {self.note}" if self.note else said


def verdict(found: Sequence[Refreshed]) -> str:
    """Return in one line what was done."""
    done = [one for one in found if not one.problem]
    names = ", ".join(one.view for one in done)
    said = f"{names}; {_stale_rows(done)}; {markdown.duration(sum(one.seconds for one in done))}" if done else ""
    if failed := [one for one in found if one.problem]:
        problems = "; ".join(f"{one.view}: {one.problem}" for one in failed)
        return f"FAIL: {len(failed)} of {len(found)} views not refreshed: {problems}" + (f"; refreshed: {said}" if said else "")
    return f"REFRESHED: {said}" if said else "REFRESHED: nothing, the context has no materialized views"


def _stale_rows(done: Sequence[Refreshed]) -> str:
    """Say how many rows were stale, and of which views nobody knows: what was not counted is not none."""
    counted = [one.before.stale for one in done if one.before.stale is not None]
    unknown = [f"{one.view} ({one.before.why})" for one in done if one.before.stale is None]
    said = [f"{sum(counted):,} rows were stale"] if counted else []
    return ", ".join([*said, *([f"stale rows not known of {', '.join(unknown)}"] if unknown else [])])


def refresh_report(said: str, found: Iterable[Refreshed]) -> str:
    """Return the report as markdown."""
    rows = [
        (f"`{one.view}`", markdown.duration(one.seconds), _count(one.before.rows), _count(one.after.rows), one.before.said,
         one.after.said, one.how)
        for one in found
    ]  # fmt: skip
    heads = ["view", "time", "rows before", "rows after", "stale before", "stale after", "how"]
    note = "Stale rows are those that the view has too much or too little, compared with its own query.\n"
    return "\n".join([markdown.headline(said), markdown.table(heads, rows, right=(1, 2, 3, 4, 5)), "", note])


def _count(rows: int | None) -> str:
    return "" if rows is None else f"{rows:,}"


def refresh_rows(found: Iterable[Refreshed]) -> list[dict[str, object]]:
    """Return one row a view, for the table artifact."""
    return [
        {
            "view": one.view, "seconds": round(one.seconds, 2), "rows before": one.before.rows, "rows after": one.after.rows,
            "stale before": one.before.shown, "stale after": one.after.shown, "how": one.how,
        }
        for one in found
    ]  # fmt: skip
