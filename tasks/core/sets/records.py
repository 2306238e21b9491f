"""Records of runs, beside the sets in the store: a small JSON object per run, a folder per kind."""

from collections.abc import Iterable
from datetime import datetime
from typing import ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict

from tasks.core.values import Instant, Label


class Record(BaseModel):
    """The record of one run; fields of later releases are ignored."""

    folder: ClassVar[str]
    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)

    instant: Instant
    run: Label


R = TypeVar("R", bound=Record)


def record_path(context: str, record: Record) -> str:
    """Return the key of a record; keys sort by instant."""
    return f"{context}/{record.folder}/{_stamp(record.instant)}_{record.run}.json"


def _stamp(instant: datetime) -> str:
    return f"{instant:%Y%m%dT%H%M%SZ}"


def history(records: Iterable[R]) -> list[R]:
    """Return the records, the newest first."""
    return sorted(records, key=lambda record: record.instant, reverse=True)


def recorded_since(newest_first: list[str], since: datetime) -> list[str]:
    """Return keys of records since an instant (UTC), and of the one before for comparison."""
    recent = [key for key in newest_first if key.rpartition("/")[2] >= _stamp(since)]
    return newest_first[: len(recent) + 1]
