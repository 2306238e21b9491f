"""What is kept of a run in the store, off-host like the sets: one small JSON object a run, in a folder for each kind of record."""

from collections.abc import Iterable
from datetime import datetime
from typing import ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from tasks.core.values import Instant, Label


class Record(BaseModel):
    """What is kept of one run; what a later release adds to it is passed over."""

    folder: ClassVar[str]
    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)

    instant: Instant
    run: Label


R = TypeVar("R", bound=Record)


def record_path(context: str, record: Record) -> str:
    """Return where a record lies below the store's root; names sort by instant."""
    return f"{context}/{record.folder}/{_stamp(record.instant)}_{record.run}.json"


def _stamp(instant: datetime) -> str:
    return f"{instant:%Y%m%dT%H%M%SZ}"


def parse_record(kind: type[R], data: bytes) -> R | None:
    """Return the record, or None if it cannot be read: one spoilt record must not spoil the next report."""
    try:
        return kind.model_validate_json(data)
    except ValidationError:
        return None


def history(records: Iterable[R], count: int | None = None) -> list[R]:
    """Return the last records, or all, the newest first."""
    return sorted(records, key=lambda record: record.instant, reverse=True)[:count]


def recorded_since(newest_first: list[str], since: datetime) -> list[str]:
    """Return those keys of records that were made since an instant (UTC), and the last one before: what they are compared with."""
    made = [key for key in newest_first if key.rpartition("/")[2] >= _stamp(since)]
    return newest_first[: len(made) + 1]
