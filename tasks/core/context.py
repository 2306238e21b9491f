"""What one bounded context is, as its folder says: `context.yaml` and `checks.sql`."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Literal, Self
from zoneinfo import ZoneInfo

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, ValidationError, model_validator

from tasks.core.calendar import PERIOD, name_of_period, starts_between
from tasks.core.errors import BadInput
from tasks.core.kinds import JOB_NAME, RESERVED
from tasks.core.manifest import Scope
from tasks.core.values import Zone

CONTEXT_FILE = "context.yaml"

# More than any context says.
MOST_NODES = 200_000
# What str.format would do besides, such as to fill up to a width, is no name's business.
PARTITION_NAME = re.compile(r"(?:[^{}]|\{\{|\}\}|\{(?:year|month|quarter)(?::0?[1-9]d?)?\})+")

Name = Annotated[str, Field(min_length=1, max_length=63, description="a name in PostgreSQL, spelled as in the catalogue")]


def _hours(text: object) -> object:
    found = PERIOD.fullmatch(text) if isinstance(text, str) else None
    return timedelta(hours=int(found["count"])) if found and found["unit"] == "hour" else text


def _period(text: str) -> str:
    if not PERIOD.fullmatch(text):
        raise ValueError(f'{text!r} is no period; write for example "30 days", "36 months" or "3 years"')
    return text


Hours = Annotated[timedelta, BeforeValidator(_hours)]
Period = Annotated[str, AfterValidator(_period)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PartitionRule(_Part):
    """How one table is partitioned by time, and what becomes of its old partitions."""

    table: Name = Field(description="the partitioned table")
    column: Name = Field(description="the column it is partitioned by")
    period: Literal["month", "quarter", "year"] = Field(description="what one partition covers")
    name: str = Field(description="the name of a partition, with {year} and {month:02} or {quarter}: invoices_{year}")
    keep: Period = Field(description="how long a partition stays after its upper bound")
    hold: str | None = Field(None, description="a condition on rows that keep their partition from being dropped")

    @model_validator(mode="after")
    def _different_names(self) -> Self:
        if not PARTITION_NAME.fullmatch(self.name):
            raise ValueError(f"{self.name[:200]!r} has other places than {{year}}, {{month:02}} and {{quarter}}")
        starts = starts_between(self.period, datetime(2024, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC))
        try:
            names = {name_of_period(self.name, start) for start in starts}
        except (LookupError, ValueError, AttributeError) as error:
            raise ValueError(f"{self.name!r} has other places than {{year}}, {{month:02}} and {{quarter}} ({error})") from error
        if len(names) < len(starts):
            raise ValueError(f"{self.name!r} names several partitions of a {self.period} alike")
        if long := [name for name in names if len(name.encode()) > 63]:
            raise ValueError(f"{long[0]!r} is longer than the 63 bytes that PostgreSQL keeps of a name")
        return self


def _named(said: object) -> object:
    return {"table": said} if isinstance(said, str) else said


class Child(_Part):
    """A table whose rows go with those that they refer to by a foreign key, or belong to by a condition."""

    table: Name
    where: str | None = Field(None, description="the condition that joins both tables, each named as it is called")


class CleanUpRule(_Part):
    """Which rows of a table have had their time, and what goes with them."""

    table: Name = Field(description="the table")
    clock: Name = Field(description="the column, a date or timestamp, that says since when a row is of no use")
    keep: Period = Field(description="how long rows are kept after that")
    condition: str | None = Field(None, description="a condition on rows, without which they stay however old they are")
    hold: str | None = Field(None, description="a condition on old rows that keeps them; they are reported")
    children: list[Annotated[Child, BeforeValidator(_named)]] = Field([], description="whose rows go with those of the table")

    @property
    def tables(self) -> list[str]:
        """The rule's table, and those whose rows go with its."""
        return list(dict.fromkeys([self.table, *(child.table for child in self.children)]))


class LongTerm(_Part):
    """A long-term backup job of some tables."""

    tables: list[Name] = Field(min_length=1)
    keep: Period


def _job_name(name: str) -> str:
    if not JOB_NAME.fullmatch(name) or name in RESERVED:
        raise ValueError(
            f"{name!r} is no name of a long-term job (lowercase letters, digits, dashes; not {', '.join(sorted(RESERVED))})"
        )
    return name


class Objectives(_Part):
    """What is promised about recovery."""

    rto: Hours = Field(description="recovery time objective, for example 4 hours")
    rpo: Hours = Field(description="recovery point objective, for example 4 hours")


class Retention(_Part):
    """How long each kind of backup set is kept."""

    daily: Period = "30 days"
    differential: Period = "7 days"
    safety: Period = "30 days"


class LocalCopy(_Part):
    """A second copy of each set in a folder of this machine, for a fast restore; no backup by itself."""

    folder: str = Field(pattern=r"^/", description="an absolute path; the folder must be there")
    keep: Period = Field("3 days", description="how long the copies are kept")


class Contact(_Part):
    """Whom to call."""

    role: str
    reach: str


class Context(_Part):
    """One bounded context of a database: what is backed up together and restored together."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,40}$", description="lowercase letters, digits and dashes")
    title: str
    database: Name = Field(description="the database that the context lives in")
    namespace: Name = Field("public", alias="schema", description="the schema its tables are in")
    tables: list[Name] = Field(min_length=1, description="its tables; of a partitioned table only the parent")
    partitions: list[PartitionRule] = []
    views: list[Name] = Field([], description="its materialized views, and the plain views that they read")
    neighbours: dict[str, list[Name]] = Field({}, description="tables that others look after, by whom")
    clean_up: list[CleanUpRule] = Field([], description="which old rows go; rows that refer to others go first")
    long_term: dict[Annotated[str, AfterValidator(_job_name)], LongTerm] = {}
    retention: Retention = Retention()
    local_copy: LocalCopy | None = None
    objectives: Objectives
    max_row_loss: float = Field(0.2, ge=0, le=1, description="the share of its rows whose loss in one table is an alarm")
    time_zone: Zone = Field(description="the zone of names, schedules and retention")
    timestamps: Zone = Field(description="the zone that timestamps without time zone mean")
    drill_database: str | None = Field(None, description="the connector block of the server that drills restore to")
    contacts: list[Contact] = []
    approval: Literal["required"] | None = Field(
        None, description="`required`: a run of a worker asks before it changes live rows, whatever its parameters say"
    )
    _scope: Scope | None = PrivateAttr(None)

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    @model_validator(mode="after")
    def _own_tables(self) -> Self:
        if unknown := sorted({table for rule in self.clean_up for table in rule.tables} - {*self.tables}):
            raise ValueError(f"clean_up names {', '.join(unknown)}, which `tables` does not")
        return self

    @property
    def zone(self) -> ZoneInfo:
        """The zone of names, schedules and retention."""
        return ZoneInfo(self.time_zone)

    def narrowed(self, scope: Scope) -> "Context":
        """Return the context as if it had some of its tables and partitions, and no views."""
        found = self.model_copy(update={"namespace": scope.namespace, "tables": scope.tables, "views": []})
        found._scope = scope
        return found

    @property
    def scope(self) -> Scope | None:
        """What part of the context this is, if it was narrowed."""
        return self._scope


class _Loader(yaml.SafeLoader):
    """The safe loader, which gives up where a few lines that refer to each other stand for far more."""

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node is not None and _weight(node, {}) > MOST_NODES:
            raise yaml.YAMLError(f"its aliases stand for more than {MOST_NODES:,} values")
        return node


def _weight(node: yaml.Node, known: dict[int, int]) -> int:
    """Return for how many values a node stands; one that holds itself stands for too many."""
    if id(node) not in known:
        known[id(node)] = MOST_NODES
        parts = [one for pair in node.value for one in pair] if isinstance(node, yaml.MappingNode) else node.value
        known[id(node)] = 1 if isinstance(node, yaml.ScalarNode) else 1 + sum(_weight(one, known) for one in parts)
    return known[id(node)]


def parse_context(text: str, where: str) -> Context:
    """Return what a context file says.

    Raises:
        BadInput: it is no YAML, or a key is unknown, missing or wrong; the message names file, key and remedy.
    """
    try:
        data = yaml.load(text, _Loader)  # noqa: S506 - it is the safe loader, with a limit
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise BadInput(f"{where}: not YAML: {' '.join(str(error).split())}; mend the line it names") from error
    if not isinstance(data, dict):
        raise BadInput(f"{where}: holds no keys; write name, title, database, tables … as in the bc-004 example")
    try:
        return Context.model_validate(data)
    except ValidationError as error:
        raise BadInput("; ".join(_complaint(where, one["loc"], one["msg"], one["type"]) for one in error.errors())) from error


def _complaint(where: str, place: tuple[int | str, ...], message: str, kind: str) -> str:
    key = ".".join(str(part) for part in place)
    if kind == "extra_forbidden":
        siblings = ", ".join(field.alias or name for name, field in Context.model_fields.items())
        return f"{where}: unknown key {key!r}; remove it or correct its spelling (top-level keys: {siblings})"
    if kind == "missing":
        return f"{where}: key {key!r} is missing; add it"
    about = f"key {key!r}: " if key else ""
    return f"{where}: {about}{message.removeprefix('Value error, ')}; correct the value"


def read_context_folder(folder: Path) -> dict[str, str]:
    """Return the files of a context folder by name.

    Raises:
        BadInput: there is no context.yaml in it.
    """
    if not (folder / CONTEXT_FILE).is_file():
        raise BadInput(f"{folder}: no {CONTEXT_FILE} there; a context is a folder with that file")
    return {path.name: path.read_text(encoding="utf-8") for path in sorted(folder.iterdir()) if path.suffix in (".yaml", ".sql")}
