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
    """Return findings as a frame, worst first: check, severity, offending rows, sample keys, verdict, note, seconds."""
    import pandas as pd

    order = list(Verdict)
    worst_first = sorted(findings, key=lambda one: (not one.fails, -order.index(one.verdict)))
    return pd.DataFrame(
        [
            {
                "check": one.check, "severity": str(one.severity), "offending rows": one.offending,
                "sample keys": "; ".join(one.sample), "verdict": str(one.verdict), "note": one.note,
                "seconds": round(one.seconds, 2),
            }
            for one in worst_first
        ]
    )  # fmt: skip


@step
def publish_checks(site: Site, run: Run, findings: list[Finding], partitions: Rotation) -> str:
    """Publish the report and the table of an integrity check, and keep its record; return its verdict.

    The record says when each of the past partitions was compared.

    Raises:
        OperationError: a check of severity error failed or could not be run.
    """
    verdict, key = checks_verdict(site.database, findings), f"{run.context}-integrity"
    publish(key, verdict, checks_report(verdict, findings), _rows(frame(findings)), "checks")
    record = CheckRecord(
        instant=run.started, run=run.id, verdict=verdict, results=results_of(findings), partitions=partitions
    )  # fmt: skip
    _record(site, run, record)
    if failed := failures(findings):
        named = "; ".join(
            f"{one.check}: {one.note if one.verdict is Verdict.BROKEN else f'{one.offending:,} offending'}" for one in failed
        )
        raise OperationError(f"{verdict}; {named}; the samples are in artifact {key}")
    return verdict


def _record(site: Site, run: Run, record: CheckRecord) -> None:
    """Keep the record of an integrity check; that it fails is told, and costs no verdict: the store has a watch of its own."""
    try:
        keep_record(site.store, run.context, record)
    except OperationError as error:
        get_run_logger().warning("the outcome could not be recorded in the store: %s", error)


def _rows(table: "pd.DataFrame") -> list[dict[str, Any]]:
    """Return a frame as the rows of a table artifact, which takes plain values only."""
    rows: list[dict[str, Any]] = json.loads(table.to_json(orient="records", date_format="iso"))
    return rows
