"""Records of drills: how the recovery time develops, and for which database size it suffices."""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta, tzinfo
from typing import ClassVar

from pydantic import Field

from tasks.core.report.markdown import local_time
from tasks.core.sets.records import Record
from tasks.core.values import Count, Digest, Duration, Sum

# The event that requests a drill of a set.
SCHEMA_CHANGED = "schema.changed"


class DrillRecord(Record):
    """The record of a drill, in seconds and bytes; without a proven restore no recovery time."""

    folder: ClassVar[str] = "drills"

    set: str | None = Field(description="id of the backup set that was restored")
    verdict: str
    passed: bool
    proven: bool = Field(description="whether the restored database was found equal to its backup")
    rto_seconds: Duration
    rto_limit_seconds: Duration
    rpo_seconds: Duration | None
    rpo_limit_seconds: Duration
    database_bytes: Count | None
    rows: Sum | None
    phases: dict[str, Duration]
    number: Count | None = Field(default=None, description="the set's number in its context; older records: none")
    schema_fingerprint: Digest | None = Field(default=None, description="the fingerprint of the set's schema; older records: none")


def automation_of_drills(context: str) -> str:
    """Return the name of the automation that starts a drill when the schema changed."""
    return f"{context}: schema changed"


def last_proven(records: Iterable[DrillRecord]) -> DrillRecord | None:
    """Return the last drill that passed, of the newest set with a recorded schema fingerprint."""
    passed = [record for record in records if record.passed and record.schema_fingerprint]
    return max(passed, key=lambda record: (record.number or 0, record.instant), default=None)


def why_unproven(newest_first: Sequence[DrillRecord], proven: DrillRecord | None, zone: tzinfo) -> str:
    """Return why no drill proves the schema; `proven` is the last one passed with a fingerprint."""
    if proven:
        return f"schema changed since the last drill ({proven.set}, {local_time(proven.instant, zone)})"
    if not newest_first:
        return "schema not proven: no drill has run yet"
    passed = any(record.passed for record in newest_first)
    reason = (
        "the drills that passed did not record which schema they restored"
        if passed
        else f"none of {len(newest_first)} drills passed"
    )
    return f"schema not proven: {reason}"


def carries_to_bytes(record: DrillRecord) -> int | None:
    """Return the size at which the recovery time, in proportion to it, would reach its limit."""
    if not record.proven or not record.database_bytes or record.rto_seconds <= 0:
        return None
    return int(record.database_bytes * record.rto_limit_seconds / record.rto_seconds)


def recovery_point_age(snapshot: datetime, instant: datetime) -> timedelta:
    """Return the data loss, at least 0, of a disaster at an instant that leaves this snapshot."""
    return max(instant - snapshot, timedelta(0))
