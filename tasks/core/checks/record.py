"""What is kept of each integrity check, and what changed from one to the next: no samples, which are keys of rows."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import ClassVar

from pydantic import BaseModel, ConfigDict

from tasks.core.checks.definition import Finding, Severity, Verdict
from tasks.core.checks.rotation import Rotation
from tasks.core.sets.records import Record
from tasks.core.values import Count


class CheckResult(BaseModel):
    """What one check found, as a number."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    check: str
    severity: Severity
    verdict: Verdict
    offending: Count

    @property
    def said(self) -> str:
        """The verdict, and how many rows offend."""
        return f"{self.verdict}, {self.offending:,} offending" if self.offending else str(self.verdict)

    @property
    def decisive(self) -> tuple[Verdict, int]:
        """What is a change if it changes: rows that only warn (a view that is hours old) come and go."""
        return self.verdict, self.offending if self.severity is Severity.ERROR else 0


class CheckRecord(Record):
    """One run of the integrity checks."""

    folder: ClassVar[str] = "checks"

    verdict: str
    results: list[CheckResult]
    partitions: Rotation = Rotation()


@dataclass(frozen=True)
class Change:
    """A check that came out otherwise than in the run before; without a result it was not among the checks."""

    instant: datetime
    check: str
    before: CheckResult | None
    after: CheckResult | None

    @property
    def said(self) -> str:
        """What it was and what it is."""
        return " → ".join(one.said if one else "no such check" for one in (self.before, self.after))


def results_of(findings: Iterable[Finding]) -> list[CheckResult]:
    """Return what is kept of findings."""
    return [CheckResult(check=one.check, severity=one.severity, verdict=one.verdict, offending=one.offending) for one in findings]


def changes(newest_first: Sequence[CheckRecord]) -> list[Change]:
    """Return what changed from each run to the next, the newest first."""
    return [change for later, earlier in pairwise(newest_first) for change in _between(earlier, later)]


def _between(earlier: CheckRecord, later: CheckRecord) -> Iterator[Change]:
    before, after = ({one.check: one for one in record.results} for record in (earlier, later))
    for check in sorted(before.keys() | after.keys()):
        pair = before.get(check), after.get(check)
        if len({one.decisive if one else None for one in pair}) > 1:
            yield Change(later.instant, check, *pair)
