"""A bounded context as its folder defines it: `context.yaml` and `checks.sql`."""

from functools import lru_cache
from pathlib import Path
from typing import Literal, Self
from zoneinfo import ZoneInfo

import yaml
from pydantic import ConfigDict, Field, PrivateAttr, ValidationError, model_validator

from tasks.core.context_keys import (
    CleanUpRule,
    Contact,
    Included,
    JobName,
    LocalCopy,
    LongTerm,
    Name,
    Objectives,
    Part,
    PartitionRule,
    Retention,
    StorageClasses,
)
from tasks.core.errors import BadInput
from tasks.core.sets.manifest import Scope
from tasks.core.values import Zone

CONTEXT_FILE = "context.yaml"

# More than any context needs.
MOST_NODES = 200_000


class Context(Part):
    """One bounded context of a database: what is backed up together and restored together."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,40}$", description="lowercase letters, digits and dashes")
    title: str
    database: Name = Field(description="the name of the database")
    namespace: Name = Field("public", alias="schema", description="the schema of its tables")
    tables: list[Name] = Field(min_length=1, description="its tables; of a partitioned table only the parent")
    partitions: list[PartitionRule] = Field([], description="the tables that are partitioned by time")
    views: list[Name] = Field([], description="its materialized views, and the plain views that they read")
    include: list[Included] = Field([], description="further objects to back up, by kind and name")
    neighbours: dict[str, list[Name]] = Field({}, description="tables of other contexts, by context")
    clean_up: list[CleanUpRule] = Field([], description="rules for deleting old rows; rows that reference others are deleted first")
    long_term: dict[JobName, LongTerm] = Field({}, description="jobs that back up some tables and keep the sets for years")
    retention: Retention = Retention()
    storage_classes: StorageClasses = StorageClasses()
    local_copy: LocalCopy | None = None
    objectives: Objectives
    max_row_loss: float = Field(0.2, ge=0, le=1, description="the share of rows; if a table loses more, an alarm is raised")
    comparison_seconds: int = Field(
        120,
        ge=0,
        le=86_400,
        description="the time limit for comparing partitions of past periods with the newest good set, in seconds",
    )
    time_zone: Zone = Field(description="the time zone of set names, schedules and retention")
    timestamps: Zone = Field(description="the time zone of columns of type timestamp without time zone")
    drill_database: str | None = Field(None, description="the connector block of the server on which drills run")
    contacts: list[Contact] = Field([], description="the persons to call in an emergency")
    approval: Literal["required"] | None = Field(
        None,
        description="`required`: a run by a worker always waits for approval before it changes live rows, whatever its parameters",
    )
    _scope: Scope | None = PrivateAttr(None)

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    @model_validator(mode="after")
    def _own_tables(self) -> Self:
        if unknown := sorted({table for rule in self.clean_up for table in rule.tables} - {*self.tables}):
            raise ValueError(f"clean_up names {', '.join(unknown)}, which are not in `tables`")
        grouped = [table for group in self.objectives.groups for table in group.tables]
        if unknown := sorted({*grouped} - {*self.tables}):
            raise ValueError(f"objectives.groups names {', '.join(unknown)}, which are not in `tables`")
        if twice := sorted({table for table in grouped if grouped.count(table) > 1}):
            raise ValueError(f"objectives.groups names {', '.join(twice)} twice")
        frozen = {rule.table for rule in self.partitions if rule.frozen_after}
        if cleaned := sorted(frozen.intersection(table for rule in self.clean_up for table in rule.tables)):
            raise ValueError(
                f"clean_up deletes rows of {', '.join(cleaned)}, whose partitions must not change "
                "by frozen_after; remove either key"
            )
        return self

    @property
    def zone(self) -> ZoneInfo:
        """The time zone of set names, schedules and retention."""
        return ZoneInfo(self.time_zone)

    def narrowed(self, scope: Scope) -> "Context":
        """Return the context with only some of its tables and partitions, and no views."""
        narrowed = self.model_copy(update={"namespace": scope.namespace, "tables": scope.tables, "views": []})
        narrowed._scope = scope
        return narrowed

    @property
    def scope(self) -> Scope | None:
        """The tables and partitions that the context was narrowed to; None if it is whole."""
        return self._scope


class _Loader(yaml.SafeLoader):
    """A safe YAML loader that limits how many values aliases expand to."""

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node is not None and _weight(node, {}) > MOST_NODES:
            raise yaml.YAMLError(f"its aliases expand to more than {MOST_NODES:,} values")
        return node


def _weight(node: yaml.Node, known: dict[int, int]) -> int:
    """Return how many values a node expands to: too many if it contains itself."""
    if id(node) not in known:
        known[id(node)] = MOST_NODES
        parts = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
        known[id(node)] = 1 if isinstance(node, yaml.ScalarNode) else 1 + sum(_weight(part, known) for part in parts)
    return known[id(node)]


@lru_cache(maxsize=64)
def parse_context(text: str, where: str) -> Context:
    """Parse a context file.

    Raises:
        BadInput: the file is not YAML, or a key is unknown, missing or wrong; the message names
            file, key and remedy.
    """
    try:
        data = yaml.load(text, _Loader)  # noqa: S506 - it is the safe loader, with a limit
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise BadInput(f"{where}: not valid YAML: {' '.join(str(error).split())}; correct the line named there") from error
    if not isinstance(data, dict):
        raise BadInput(f"{where}: the file has no keys; write name, title, database, tables … as in the bc-004 example")
    try:
        return Context.model_validate(data)
    except ValidationError as error:
        raise BadInput(
            "; ".join(_complaint(where, problem["loc"], problem["msg"], problem["type"]) for problem in error.errors())
        ) from error


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
        BadInput: the folder has no context.yaml.
    """
    if not (folder / CONTEXT_FILE).is_file():
        raise BadInput(f"{folder} has no {CONTEXT_FILE}; a context is a folder with that file")
    return {path.name: path.read_text(encoding="utf-8") for path in sorted(folder.iterdir()) if path.suffix in (".yaml", ".sql")}
