"""Records of integrity checks, and the changes between them.

Records have no samples, because samples are keys of rows.
"""

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
    """The result of a check, in numbers."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    check: str
    severity: Severity
    verdict: Verdict
    offending: Count

    @property
    def outcome(self) -> str:
        """The verdict, and the number of offending rows."""
        return f"{self.verdict}, {self.offending:,} offending" if self.offending else str(self.verdict)

    @property
    def decisive(self) -> tuple[Verdict, int]:
        """The part of a result whose change is reported.

        For warnings the number of rows does not count, because it varies, for example of stale rows
        of a view.
        """
        return self.verdict, self.offending if self.severity is Severity.ERROR else 0


class CheckRecord(Record):
    """A run of the integrity checks."""

    folder: ClassVar[str] = "checks"

    verdict: str
    results: list[CheckResult]
    partitions: Rotation = Rotation()


@dataclass(frozen=True)
class Change:
    """A check with another result than in the run before; None where there was no such check."""

    instant: datetime
    check: str
    before: CheckResult | None
    after: CheckResult | None

    @property
    def line(self) -> str:
        """The result before and now."""
        return " → ".join(result.outcome if result else "no such check" for result in (self.before, self.after))


def results_of(findings: Iterable[Finding]) -> list[CheckResult]:
    """Return the results of findings, by check."""
    return [
        CheckResult(check=finding.check, severity=finding.severity, verdict=finding.verdict, offending=finding.offending)
        for finding in findings
    ]


def changes(newest_first: Sequence[CheckRecord]) -> list[Change]:
    """Return how results changed from each run to the next, the newest change first."""
    return [change for later, earlier in pairwise(newest_first) for change in _between(earlier, later)]


def _between(earlier: CheckRecord, later: CheckRecord) -> Iterator[Change]:
    before, after = ({result.check: result for result in record.results} for record in (earlier, later))
    for check in sorted(before.keys() | after.keys()):
        pair = before.get(check), after.get(check)
        if len({result.decisive if result else None for result in pair}) > 1:
            yield Change(later.instant, check, *pair)
