"""What is kept of each drill, and what follows from several: how the recovery time develops, and how far it carries."""

from collections.abc import Iterable
from datetime import datetime, timedelta

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

DRILLS_FOLDER = "drills"


class DrillRecord(BaseModel):
    """One drill: times in seconds, sizes in bytes; without a proven restore there is no recovery time."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    instant: AwareDatetime
    run: str
    set: str | None = Field(description="id of the backup set that was restored")
    verdict: str
    passed: bool
    proven: bool = Field(description="whether the restored database was found equal to its backup")
    rto_seconds: float
    rto_limit_seconds: float
    rpo_seconds: float | None
    rpo_limit_seconds: float
    database_bytes: int | None
    rows: int | None
    phases: dict[str, float]


def record_path(context: str, record: DrillRecord) -> str:
    """Return where a record lies below the store's root; names sort by instant."""
    return f"{context}/{DRILLS_FOLDER}/{record.instant:%Y%m%dT%H%M%SZ}_{record.run}.json"


def parse_record(data: bytes) -> DrillRecord | None:
    """Return the record, or None if it cannot be read: one spoilt record must not spoil the next drill."""
    try:
        return DrillRecord.model_validate_json(data)
    except ValidationError:
        return None


def carries_to_bytes(record: DrillRecord) -> int | None:
    """Return the database size at which the recovery time would reach its limit, if it grew in proportion to the size."""
    if not record.proven or not record.database_bytes or record.rto_seconds <= 0:
        return None
    return int(record.database_bytes * record.rto_limit_seconds / record.rto_seconds)


def history(records: Iterable[DrillRecord], count: int) -> list[DrillRecord]:
    """Return the last drills, the newest first."""
    return sorted(records, key=lambda record: record.instant, reverse=True)[:count]


def recovery_point_age(snapshot: datetime, instant: datetime) -> timedelta:
    """Return what would be lost if the disaster came at an instant and this snapshot were all there is; never below zero."""
    return max(instant - snapshot, timedelta(0))
