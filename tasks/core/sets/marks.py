"""Marks: small files beside a manifest that say what was found out, or done, since. Each is what it says, or it says nothing."""

from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tasks.core.sets.thaw import Tier
from tasks.core.values import Count, Instant, Label


class Mark(BaseModel):
    """A mark; what a later release adds to it is passed over."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class CleanedMark(Mark):
    """That the rows of a clean-up set were deleted: how many, by relation."""

    deleted: dict[str, Count]


class DamagedMark(Mark):
    """What a look at the data of a set found to be wrong."""

    found: str = Field(max_length=10_000)


class ThawMark(Mark):
    """When a cold set was asked for, how fast, and by which flow run."""

    asked: Instant
    tier: Tier
    flow_run: Label


M = TypeVar("M", bound=Mark)


def parse_mark(kind: type[M], data: bytes) -> M | None:
    """Return what a mark says, or None if it cannot be read."""
    try:
        return kind.model_validate_json(data)
    except ValidationError:
        return None
