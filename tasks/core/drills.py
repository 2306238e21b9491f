"""What is kept of each drill, and what follows from several: how the recovery time develops, and how far it carries."""

from datetime import datetime, timedelta
from typing import ClassVar

from pydantic import Field

from tasks.core.records import Record
from tasks.core.values import Count, Duration, Sum


class DrillRecord(Record):
    """One drill: times in seconds, sizes in bytes; without a proven restore there is no recovery time."""

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


def carries_to_bytes(record: DrillRecord) -> int | None:
    """Return the database size at which the recovery time would reach its limit, if it grew in proportion to the size."""
    if not record.proven or not record.database_bytes or record.rto_seconds <= 0:
        return None
    return int(record.database_bytes * record.rto_limit_seconds / record.rto_seconds)


def recovery_point_age(snapshot: datetime, instant: datetime) -> timedelta:
    """Return what would be lost if the disaster came at an instant and this snapshot were all there is; never below zero."""
    return max(instant - snapshot, timedelta(0))
