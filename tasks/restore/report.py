"""Reports of recoveries and drills, and of foreign keys created after one."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from operator import itemgetter
from typing import Any

import psycopg

from tasks.core import sql
from tasks.core.backup.report import relation_rows
from tasks.core.errors import OperationError, RestoreDiffers, StoreUnavailable
from tasks.core.postgres.messages import message_of
from tasks.core.report import markdown
from tasks.core.restore.drill import DrillRecord
from tasks.core.restore.report import Purpose, RecoveryFacts, record_of, recovery_report, recovery_verdict
from tasks.core.restore.trigger_result import writes_to_do
from tasks.core.sets.kit import kit_notice
from tasks.core.sets.left_out import chores
from tasks.core.sets.manifest import Manifest
from tasks.restore.foreign_keys import KeyOutcome
from tasks.restore.new_database import Recovery
from tasks.run.artifacts import publish
from tasks.run.run import Run, step
from tasks.sets.kit import read_kit
from tasks.sets.marks import mark
from tasks.sets.records import keep_record, read_records
from tasks.sets.report import facts_of_set

DRILLS_IN_A_REPORT = 12


@step
def publish_recovery(recovery: Recovery, run: Run, failure: Exception | None = None) -> str:
    """Publish the report of a recovery or a drill, and record a drill; return its verdict.

    Raises:
        OperationError: the drill did not pass; or the database is restored, but some writes fail.
    """
    unlike = failure.differences if isinstance(failure, RestoreDiffers) else ()
    facts = facts_of(recovery, " ".join(str(failure).split()) if failure else None, unlike)
    verdict = recovery_verdict(facts)
    if not isinstance(failure, StoreUnavailable):
        facts = replace(facts, **_remembered(recovery, run, facts, verdict))
    rows = relation_rows(facts.manifest.relations, facts.load_seconds) if facts.manifest else []
    key = "drill" if recovery.purpose is Purpose.DRILL else "recovery"
    publish(f"{run.context}-{key}", verdict, recovery_report(facts, verdict), rows)
    if facts.problems and not failure:
        raise OperationError(verdict)
    return verdict


def _remembered(recovery: Recovery, run: Run, facts: RecoveryFacts, verdict: str) -> dict[str, Any]:
    """Record a drill, and read the last drills' records; a failure is noted in the report."""
    if recovery.purpose is Purpose.COPY:
        return {}
    to_do, known = [*facts.to_do], dict[str, Any]()
    try:
        if recovery.purpose is Purpose.DRILL:
            _record(recovery, run, facts, verdict)
    except OperationError as error:
        to_do.append(f"the drill could not be recorded in the store: {error}")
    try:
        if recovery.purpose is Purpose.DRILL:
            known["kit"] = kit_notice(read_kit(recovery.store, run.context), run.started)
        known["records"] = read_records(recovery.store, run.context, DrillRecord, itemgetter(slice(DRILLS_IN_A_REPORT)))
    except OperationError as error:
        to_do.append(f"the drills' records in the store could not be read: {error}")
    return {"to_do": to_do, **known}


def _record(recovery: Recovery, run: Run, facts: RecoveryFacts, verdict: str) -> None:
    keep_record(recovery.store, run.context, record_of(facts, run.id, verdict))
    if recovery.staged and recovery.proven:
        drilled = {"instant": run.started, "run": run.id, "verdict": verdict}
        mark(recovery.store, recovery.staged.set.name, "drilled", drilled)


@step
def publish_keys(run: Run, outcomes: list[KeyOutcome]) -> str:
    """Publish which foreign keys exist now, and which cannot be created; return the verdict.

    Raises:
        OperationError: some foreign keys cannot be created.
    """
    unmade = [outcome for outcome in outcomes if not outcome.made]
    missing = [f"{outcome.key.name} of {outcome.key.table}: {outcome.note}" for outcome in unmade]
    to_do = [f"{outcome.key.name} of {outcome.key.table}: {outcome.with_rows}" for outcome in unmade]
    made = sum(outcome.note == "created" for outcome in outcomes)
    there = f"{len(outcomes) - len(missing)} of {len(outcomes)} foreign keys exist, {made} created now"
    verdict = f"{'FAIL' if missing else 'PASS'}: {there}"
    rows = [
        {"foreign key": outcome.key.name, "table": outcome.key.table, "made": outcome.made, "note": outcome.with_rows}
        for outcome in outcomes
    ]
    text = markdown.headline(verdict) + markdown.section("Still to do", to_do, "Nothing.\n")
    publish(f"{run.context}-foreign-keys", verdict, text, rows, "outcomes")
    if missing:
        raise OperationError(f"{verdict}; {'; '.join(missing)}")
    return verdict


@contextmanager
def reported(recovery: Recovery, run: Run) -> Iterator[None]:
    """If the recovery in the block fails, report the facts so far and raise the error again."""
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


def facts_of(recovery: Recovery, failure: str | None, differences: Sequence[str]) -> RecoveryFacts:
    """Return the facts of a recovery for its report."""
    known: dict[str, Any] = {}
    if staged := recovery.staged:
        known = facts_of_set(recovery.store, staged)
        if target := recovery.target:
            known |= {
                "database": target.name, "schema_was_there": target.exists,
                "to_do": [
                    *writes_to_do(recovery.exercises, staged.set.manifest), *target.to_do, *recovery.filled.to_do,
                    *keys_to_do(staged.set.manifest, recovery.filled.keys), *chores(staged.set.manifest),
                ],
            }  # fmt: skip
    return RecoveryFacts(
        **{"path": recovery.store.url, **known}, purpose=recovery.purpose, started=recovery.started, phases=recovery.phases.seconds,
        failure=failure, differences=differences, removed=recovery.removed, load_seconds=recovery.filled.load_seconds,
        findings=recovery.checked.findings, exercises=recovery.exercises,
        database_bytes=recovery.checked.database_bytes, newest=recovery.newest, off_host=recovery.store.off_host,
        proven=recovery.proven,
    )  # fmt: skip


def keys_to_do(manifest: Manifest, outcomes: Sequence[KeyOutcome]) -> list[str]:
    """Return what is still to do about foreign keys after a restore."""
    made = {outcome.key: outcome for outcome in outcomes}
    unmade = [key for key in manifest.outbound_keys if key not in made] + [outcome.key for outcome in outcomes if not outcome.made]
    keys = [
        f"foreign key {key.name} of {key.table}"
        + (f" to {key.references} (another context)" if key.references else "")
        + (f": {made[key].with_rows}" if key in made else "")
        + "; once its rows are correct, run this recovery again with `resume=constraints`, or "
        f"`{sql.foreign_keys.add_key(key.table, key.name, key.definition).as_string()};`"
        for key in unmade
    ]
    inbound = [
        f"foreign key {key.name} of {key.table} refers to {key.references}: it is restored with its own context"
        for key in manifest.inbound_keys
    ]
    return [*keys, *inbound]
