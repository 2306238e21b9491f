"""Marks: small files beside a manifest that record later findings and actions.

A mark that cannot be parsed is ignored.
"""

from pydantic import BaseModel, ConfigDict, Field

from tasks.core.sets.thaw import Tier
from tasks.core.values import Count, Instant, Label


class Mark(BaseModel):
    """A mark; fields of later releases are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class CleanedMark(Mark):
    """The number of deleted rows of a clean-up set, by relation."""

    deleted: dict[str, Count]


class DamagedMark(Mark):
    """The damage that a verification found."""

    problem: str = Field(max_length=10_000, alias="found")


class ThawMark(Mark):
    """When the thaw of a cold set was requested, with which tier, and by which flow run."""

    asked: Instant
    tier: Tier
    flow_run: Label
