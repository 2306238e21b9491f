"""The report, the table and the record of integrity checks."""

import json
from collections.abc import Iterable
from typing import Any

import pandas as pd
from prefect import get_run_logger

from tasks.core.checks.definition import Finding, Verdict, failures
from tasks.core.checks.record import CheckRecord, results_of
from tasks.core.checks.report import checks_report, checks_verdict
from tasks.core.checks.rotation import Rotation
from tasks.core.errors import OperationError
from tasks.run.artifacts import publish
from tasks.run.run import Run, step
from tasks.run.site import Site
from tasks.sets.records import keep_record


def frame(findings: Iterable[Finding]) -> "pd.DataFrame":
    """Return findings, worst first: check, severity, rows, sample keys, verdict, note, seconds."""
    import pandas as pd

    order = list(Verdict)
    worst_first = sorted(findings, key=lambda finding: (not finding.fails, -order.index(finding.verdict)))
    return pd.DataFrame(
        [
            {
                "check": finding.check,
                "severity": str(finding.severity),
                "offending rows": finding.offending,
                "sample keys": "; ".join(finding.sample),
                "verdict": str(finding.verdict),
                "note": finding.note,
                "seconds": round(finding.seconds, 2),
            }
            for finding in worst_first
        ]
    )


@step
def publish_checks(site: Site, run: Run, findings: list[Finding], partitions: Rotation) -> str:
    """Publish the report and the table of a run of integrity checks, and store its record.

    Return the verdict. The record also has when each partition whose period is over was compared.

    Raises:
        OperationError: a check of severity error failed or could not be run.
    """
    verdict, key = checks_verdict(site.database, findings), f"{run.context}-integrity"
    publish(key, verdict, checks_report(verdict, findings), _rows(frame(findings)), "checks")
    results = results_of(findings)
    record = CheckRecord(instant=run.started, run=run.id, verdict=verdict, results=results, partitions=partitions)
    _record(site, run, record)
    if failed := failures(findings):
        raise OperationError(f"{verdict}; {'; '.join(map(_in_short, failed))}; the samples are in artifact {key}")
    return verdict


def _in_short(finding: Finding) -> str:
    reason = finding.note if finding.verdict is Verdict.BROKEN else f"{finding.offending:,} offending"
    return f"{finding.check}: {reason}"


def _record(site: Site, run: Run, record: CheckRecord) -> None:
    """Store the record of checks; a failure is only logged, as the watch reports the store's."""
    try:
        keep_record(site.store, run.context, record)
    except OperationError as error:
        get_run_logger().warning("the result could not be recorded in the store: %s", error)


def _rows(table: "pd.DataFrame") -> list[dict[str, Any]]:
    """Return a frame as the rows of a table artifact, which takes plain values only."""
    rows: list[dict[str, Any]] = json.loads(table.to_json(orient="records", date_format="iso"))
    return rows
