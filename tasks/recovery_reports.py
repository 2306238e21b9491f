"""Reports of recoveries, drills, verifications and integrity checks; those of recoveries draw."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import psycopg
from prefect import get_run_logger

from tasks.checks import frame
from tasks.core import report
from tasks.core.check_records import CheckRecord, results_of
from tasks.core.checks import Finding, Verdict, failures
from tasks.core.complaints import message_of
from tasks.core.drills import DrillRecord
from tasks.core.errors import DamagedSet, OperationError, StoreUnavailable
from tasks.core.kits import kit_notice
from tasks.core.recovery_report import Purpose, RecoveryFacts, record_of, recovery_report, recovery_verdict
from tasks.keys import KeyOutcome
from tasks.kits import read_kit
from tasks.records import keep_record, read_records
from tasks.recoveries import Recovery, facts_of
from tasks.reports import publish
from tasks.runs import Run, step
from tasks.sets import mark
from tasks.sites import Site

if TYPE_CHECKING:
    import pandas as pd

DRILLS_IN_A_REPORT = 12


@step
def publish_recovery(recovery: Recovery, run: Run, failure: Exception | None = None) -> str:
    """Publish the report of a recovery or a drill, and keep the record of a drill; return its verdict.

    Raises:
        OperationError: the drill ran to its end, but did not pass.
    """
    facts = facts_of(recovery, " ".join(str(failure).split()) if failure else None)
    verdict = recovery_verdict(facts)
    if not isinstance(failure, StoreUnavailable):
        facts = replace(facts, **_remembered(recovery, run, facts, verdict))
    rows = report.relation_rows(facts.manifest.relations, recovery.load_seconds) if facts.manifest else []
    key = "drill" if recovery.purpose is Purpose.DRILL else "recovery"
    publish(f"{run.context}-{key}", verdict, recovery_report(facts, verdict), rows)
    if facts.problems and not failure:
        raise OperationError(verdict)
    return verdict


def _remembered(recovery: Recovery, run: Run, facts: RecoveryFacts, verdict: str) -> dict[str, Any]:
    """Record a drill in the store, and read what was recorded of the last ones; that it fails is told, and costs no report."""
    if recovery.purpose is Purpose.COPY:
        return {}
    try:
        if recovery.purpose is Purpose.DRILL:
            keep_record(recovery.store, run.context, record_of(facts, run.id, verdict))
            if recovery.proven:
                mark(
                    recovery.store, recovery.staged_set.name, "drilled", {"instant": run.started, "run": run.id, "verdict": verdict}
                )
        kit = kit_notice(read_kit(recovery.store, run.context), run.started) if recovery.purpose is Purpose.DRILL else ""
        return {
            "kit": kit,
            "records": read_records(recovery.store, run.context, DrillRecord, itemgetter(slice(DRILLS_IN_A_REPORT))),
        }
    except OperationError as error:
        return {"to_do": [*facts.to_do, f"the drills' records in the store could not be read or written: {error}"]}


@step
def publish_keys(run: Run, outcomes: list[KeyOutcome]) -> str:
    """Publish which foreign keys are there and which cannot be made; return the verdict.

    Raises:
        OperationError: some cannot be made.
    """
    unmade = [one for one in outcomes if not one.made]
    missing = [f"{one.key.name} of {one.key.table}: {one.note}" for one in unmade]
    to_do = [f"{one.key.name} of {one.key.table}: {one.with_rows}" for one in unmade]
    made = sum(one.note == "made" for one in outcomes)
    there = f"{len(outcomes) - len(missing)} of {len(outcomes)} foreign keys are there, {made} made now"
    verdict = f"{'FAIL' if missing else 'PASS'}: {there}"
    rows = [{"foreign key": one.key.name, "table": one.key.table, "made": one.made, "note": one.with_rows} for one in outcomes]
    text = report.headline(verdict) + report.section("What a human still has to do", to_do, "Nothing.\n")
    publish(f"{run.context}-foreign-keys", verdict, text, rows, "outcomes")
    if missing:
        raise OperationError(f"{verdict}; {'; '.join(missing)}")
    return verdict


@contextmanager
def reported(recovery: Recovery, run: Run) -> Iterator[None]:
    """Publish the report also of a recovery that failed, with as much as there was of it; the run fails after that."""
    try:
        yield
    except psycopg.Error as error:
        # Not the error itself, whose details may quote rows.
        failure = OperationError(message_of(error))
        _publish_failure(recovery, run, failure)
        raise failure from None
    except (OperationError, OSError) as error:
        _publish_failure(recovery, run, error)
        raise


def _publish_failure(recovery: Recovery, run: Run, failure: Exception) -> None:
    try:
        publish_recovery(recovery, run, failure)
    except OperationError as unpublished:
        failure.add_note(f"and its report could not be published: {unpublished}")


@step
def publish_verification(recovery: Recovery, run: Run) -> str:
    """Publish what the verification of a set found; return its verdict.

    Raises:
        DamagedSet: rows or digests are not those of the manifest.
    """
    facts = facts_of(recovery)
    verdict = report.verification_verdict(recovery.manifest, recovery.phases.total, recovery.differences)
    publish(f"{run.context}-verification", verdict, recovery_report(facts, verdict), [])
    if recovery.differences:
        raise DamagedSet(f"{verdict}: {'; '.join(recovery.differences)}")
    return verdict


@step
def publish_checks(site: Site, run: Run, findings: list[Finding]) -> str:
    """Publish the report and the table of an integrity check, and keep its record; return its verdict.

    Raises:
        OperationError: a check of severity error failed or could not be run.
    """
    verdict, key = report.checks_verdict(site.database, findings), f"{run.context}-integrity"
    publish(key, verdict, report.checks_report(verdict, findings), _rows(frame(findings)), "checks")
    _record(site, run, CheckRecord(instant=run.started, run=run.id, verdict=verdict, results=results_of(findings)))
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
