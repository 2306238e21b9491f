"""The keys of a context's file: partitions, clean-up rules, jobs, objectives, and their values."""

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from tasks.core.calendar import PERIOD, name_of_period, starts_between
from tasks.core.sets.name import JOB_NAME, RESERVED, Kind, is_cold

# Placeholders in names; other features of str.format, such as padding, are not allowed.
PARTITION_NAME = re.compile(r"(?:[^{}]|\{\{|\}\}|\{(?:year|month|quarter)(?::0?[1-9]d?)?\})+")

# What a template for the values of a partition column may contain; the text is quoted in bounds.
PERIOD_VALUES = re.compile(r"(?:[A-Za-z0-9_./ -]|\{(?:year|month|quarter)(?::0?[1-9]d?)?\})+")

Name = Annotated[str, Field(min_length=1, max_length=63, description="a name in PostgreSQL, spelled as in the catalogue")]


def _hours(text: object) -> object:
    match = PERIOD.fullmatch(text) if isinstance(text, str) else None
    return timedelta(hours=int(match["count"])) if match and match["unit"] == "hour" else text


def _period(text: str) -> str:
    if not PERIOD.fullmatch(text):
        raise ValueError(f'{text!r} is not a valid period; write for example "30 days", "36 months" or "3 years"')
    return text


Hours = Annotated[timedelta, BeforeValidator(_hours)]
Period = Annotated[str, AfterValidator(_period)]


class Part(BaseModel):
    """A mapping in a context's file; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class PartitionRule(Part):
    """How one table is partitioned by time, and how long its partitions are kept."""

    table: Name = Field(description="the partitioned table")
    column: Name = Field(description="the column it is partitioned by")
    period: Literal["month", "quarter", "year"] = Field(description="the period that one partition covers")
    name: str = Field(description="the name of a partition, with {year} and {month:02} or {quarter}: invoices_{year}")
    keep: Period = Field(description="how long a partition is kept after its upper bound")
    hold: str | None = Field(None, description="a condition on rows; a partition with a row for which it is true is not dropped")
    frozen_after: Period | None = Field(
        None,
        description="how long after its upper bound the rows of a partition may still change; an "
        "integrity check fails if they change later",
    )
    values: str | None = Field(
        None, description="for a column of type text or integer, how its values spell a period: {year}-{month:02}, {year}{month:02}"
    )

    @model_validator(mode="after")
    def _values_in_order(self) -> Self:
        """Make sure that the values sort in the order of time, as the bounds of ranges do."""
        if self.values is None:
            return self
        if not PERIOD_VALUES.fullmatch(self.values):
            raise ValueError(
                f"values: {self.values[:200]!r} has other placeholders than {{year}}, {{month:02}}, {{quarter}}, or other signs"
            )
        starts = starts_between(self.period, datetime(2024, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC))
        spelled = [name_of_period(self.values, start) for start in starts]
        if spelled != sorted(set(spelled)) or "{year" not in self.values:
            raise ValueError(f"values: {self.values!r} does not give each {self.period} a value of its own, in the order of time")
        return self

    @model_validator(mode="after")
    def _different_names(self) -> Self:
        if not PARTITION_NAME.fullmatch(self.name):
            raise ValueError(f"{self.name[:200]!r} has other placeholders than {{year}}, {{month:02}} and {{quarter}}")
        starts = starts_between(self.period, datetime(2024, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC))
        try:
            names = {name_of_period(self.name, start) for start in starts}
        except (LookupError, ValueError, AttributeError) as error:
            raise ValueError(
                f"{self.name!r} has other placeholders than {{year}}, {{month:02}} and {{quarter}} ({error})"
            ) from error
        if len(names) < len(starts):
            raise ValueError(f"{self.name!r} gives partitions of different {self.period}s the same name")
        if long := [name for name in names if len(name.encode()) > 63]:
            raise ValueError(f"{long[0]!r} is longer than PostgreSQL's limit of 63 bytes for a name")
        return self


def _named(value: object) -> object:
    return {"table": value} if isinstance(value, str) else value


class Child(Part):
    """A table whose rows are deleted with rows they reference, by a foreign key or a condition."""

    table: Name
    where: str | None = Field(None, description="the condition that joins both tables, each referred to by its name")


def _clocks(value: object) -> object:
    return {"any": [value]} if isinstance(value, str) else value


class Clocks(Part):
    """Columns that say how old a row is: `any` or `each`; a row is not old by a NULL column."""

    any: list[Name] = Field([], description="columns of which at least one has to be old enough")
    each: list[Name] = Field([], description="columns that all have to be old enough")

    @model_validator(mode="after")
    def _either(self) -> Self:
        if bool(self.any) == bool(self.each):
            raise ValueError("name one column, or several with `any` or `each`: {any: [ended_at, deleted_at]}")
        if len(set(self.columns)) < len(self.columns):
            raise ValueError(f"{self.spelled} names a column twice")
        return self

    @property
    def columns(self) -> list[str]:
        """The columns."""
        return self.any or self.each

    @property
    def spelled(self) -> str:
        """The columns, for people."""
        return (" or " if self.any else " and ").join(self.columns)


class CleanUpRule(Part):
    """Which rows of a table are past retention, and which rows are deleted with them."""

    table: Name = Field(description="the table")
    clock: Annotated[Clocks, BeforeValidator(_clocks)] = Field(
        description="the date or timestamp column from which the retention of a row counts; or {any: […]}, {each: […]}"
    )
    keep: Period = Field(description="how long rows are kept after the time in that column")
    condition: str | None = Field(None, description="a condition; only rows for which it is true are deleted")
    hold: str | None = Field(None, description="a condition; old rows for which it is true are not deleted, and are reported")
    children: list[Annotated[Child, BeforeValidator(_named)]] = Field(
        [], description="tables whose dependent rows are deleted together with rows of the table"
    )

    @property
    def tables(self) -> list[str]:
        """The rule's table, and the tables whose rows are deleted with its rows."""
        return list(dict.fromkeys([self.table, *(child.table for child in self.children)]))


class LongTerm(Part):
    """A job that takes long-term backups of some tables."""

    tables: list[Name] = Field(min_length=1)
    keep: Period


def _job_name(name: str) -> str:
    if not JOB_NAME.fullmatch(name) or name in RESERVED:
        raise ValueError(
            f"{name!r} is no valid long-term job name (lowercase letters, digits, dashes; not {', '.join(sorted(RESERVED))})"
        )
    return name


JobName = Annotated[str, AfterValidator(_job_name)]


class TableObjectives(Part):
    """The recovery objectives of some tables."""

    tables: list[Name] = Field(min_length=1)
    rto: Hours = Field(description="their recovery time objective")
    rpo: Hours = Field(description="their recovery point objective")


class Objectives(Part):
    """The recovery objectives; a set has all tables, so the strictest one counts."""

    general_rto: Hours = Field(alias="rto", description="recovery time objective, for example 4 hours")
    general_rpo: Hours = Field(alias="rpo", description="recovery point objective, for example 4 hours")
    groups: list[TableObjectives] = Field([], description="other objectives of some tables")

    @property
    def group_promises(self) -> list[tuple[list[str], float, float]]:
        """The objectives of groups of tables, each as tables, RTO and RPO (both in seconds)."""
        return [(group.tables, group.rto.total_seconds(), group.rpo.total_seconds()) for group in self.groups]

    @property
    def rto(self) -> timedelta:
        """The strictest recovery time objective."""
        return min(self.general_rto, *(group.rto for group in self.groups)) if self.groups else self.general_rto

    @property
    def rpo(self) -> timedelta:
        """The strictest recovery point objective."""
        return min(self.general_rpo, *(group.rpo for group in self.groups)) if self.groups else self.general_rpo


class Retention(Part):
    """How long each kind of backup set is kept."""

    daily: Period = "30 days"
    differential: Period = "7 days"
    safety: Period = "30 days"


def _readable_at_once(storage_class: str) -> str:
    if is_cold(storage_class):
        raise ValueError(f"objects in {storage_class!r} have to be thawed first, and sets of this kind must be readable at once")
    return storage_class


StorageClass = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
WarmClass = Annotated[StorageClass, AfterValidator(_readable_at_once)]


class StorageClasses(Part):
    """The S3 storage class of each kind of set's data; manifests and lists are in STANDARD."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    daily: WarmClass = Field(default="STANDARD_IA", validation_alias=AliasChoices("daily", "full"), description="of fulls")
    # STANDARD_IA bills at least 30 days, longer than differentials live.
    differential: WarmClass = Field(default="STANDARD", description="of differentials")
    safety: WarmClass = Field(default="STANDARD_IA", description="of sets that undo a restore into a live database")
    archive: StorageClass = Field(default="GLACIER", description="of archived partitions")
    # Not a cold class: these few rows may be needed again soon.
    clean_up: WarmClass = Field(
        default="STANDARD_IA",
        validation_alias=AliasChoices("clean_up", "clean-up"),
        description="of old rows that a clean-up deleted",
    )
    long_term: StorageClass = Field(
        default="GLACIER", validation_alias=AliasChoices("long_term", "long-term"), description="of the sets of long-term jobs"
    )

    def of(self, kind: Kind) -> str:
        """Return the class of a kind of set."""
        return str(getattr(self, class_key(kind)))


def class_key(kind: Kind) -> str:
    """Return the key of a kind of set in `storage_classes`."""
    return "daily" if kind is Kind.FULL else kind.value.replace("-", "_")


class LocalCopy(Part):
    """A copy of each set in a folder of this machine, for fast restores; no backup by itself."""

    folder: str = Field(pattern=r"^/", description="an absolute path; the folder must exist")
    keep: Period = Field("3 days", description="how long the copies are kept")


class Included(Part):
    """An object other than a table that is backed up, named as by pg_identify_object()."""

    kind: Literal[
        "function", "procedure", "aggregate", "type", "view", "sequence", "cast", "operator", "collation",
        "text search configuration", "text search dictionary", "schema", "extension",
    ]  # fmt: skip
    name: str = Field(min_length=1, description="with its schema; for functions with the argument types: public.fee(integer)")


class Contact(Part):
    """A person to call in an emergency."""

    role: str
    reach: str
