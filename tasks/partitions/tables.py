"""Partitioned tables of a live database and their partitions, from the catalog."""

from dataclasses import dataclass, field
from datetime import datetime, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

from psycopg.rows import dict_row
from psycopg.sql import Composed

from tasks.core import sql
from tasks.core.context import Context
from tasks.core.context_keys import PartitionRule
from tasks.core.errors import BadInput
from tasks.core.partitions.periods import parse_spelled_bound, spell_period, spelled_between
from tasks.core.partitions.timeline import Partition, parse_bound, spell_end
from tasks.core.postgres.connection import Connection
from tasks.core.sets.manifest import Scope

# The name of a check on a table that will become a partition: with it ATTACH does not scan rows, and it shows that we created it.
MARK = "not attached yet: being restored"
TIME_TYPES = frozenset({"date", "timestamp without time zone", "timestamp with time zone"})
# Types of columns that spell periods, by the rule's `values`.
VALUE_TYPES = frozenset({"text", "character varying", "smallint", "integer", "bigint"})


@dataclass(frozen=True)
class PartitionedTable:
    """A live table that is partitioned by time, from its rule and the catalog; its bounds are in `zone`.

    A partition has a range of its column or, with `is_list`, the values of its column for some periods.
    """

    rule: PartitionRule
    schema: str
    oid: int
    owner: str
    tablespace: str
    column_type: str
    zone: tzinfo
    is_list: bool = False
    partitions: list[Partition] = field(default_factory=list)

    @property
    def place(self) -> tuple[str, str]:
        """Its schema and name."""
        return self.schema, self.rule.table

    @property
    def qualified(self) -> str:
        """schema.name, for people."""
        return f"{self.schema}.{self.rule.table}"

    @property
    def default(self) -> Partition | None:
        """The DEFAULT partition, if it has one."""
        return next((partition for partition in self.partitions if partition.is_default), None)

    def end(self, instant: datetime | None) -> str | None:
        """Return an end of a range as a value of the partition column."""
        if instant is None:
            return None
        if self.rule.values is not None:
            return spell_period(instant, self.rule.values, self.zone)
        return spell_end(instant, self.column_type, self.zone)

    def parse(self, bound: str) -> tuple[datetime | None, datetime | None]:
        """Return the ends of a partition's bound, given as the catalog spells it.

        Raises:
            ValueError: its bounds are not those of periods.
        """
        return parse_rule_bound(self.rule, bound, self.zone)

    def bound(self, lower: datetime | None, upper: datetime | None) -> str:
        """Return the bound of a partition as ATTACH PARTITION takes it."""
        if self.is_list:
            return sql.partitions.list_bound(self._values(lower, upper))
        return sql.partitions.range_bound(self.end(lower), self.end(upper))

    def within(self, lower: datetime | None, upper: datetime | None) -> Composed:
        """Return the condition on a partition's rows; a check with it saves ATTACH PARTITION the scan."""
        if self.is_list:
            return sql.partitions.among(self.rule.column, self._values(lower, upper))
        return sql.partitions.within(self.rule.column, self.end(lower), self.end(upper))

    def _values(self, lower: datetime | None, upper: datetime | None) -> list[str]:
        assert lower and upper and self.rule.values  # noqa: S101 - a list has both ends, and only spelled periods are lists
        return spelled_between(lower, upper, self.rule.values, self.rule.period, self.zone)

    def scope(self, partition: Partition) -> Scope:
        """Return one partition as a part of the context."""
        return Scope(schema=self.schema, tables=[self.rule.table], partitions=[partition.qualified])


def read_table(connection: Connection, context: Context, rule: PartitionRule) -> PartitionedTable:
    """Return one partitioned table with its partitions.

    Raises:
        BadInput: it does not exist, or is not partitioned as its rule says.
    """
    name = f"{context.namespace}.{rule.table}"
    connection.execute(sql.session.FIXED_SETTINGS)
    row = connection.execute(sql.partitions.PARTITIONED, {"schema": context.namespace, "name": rule.table}).fetchone()
    if row is None or not row[0]:
        raise BadInput(f"{name} {'is not a partitioned table' if row else 'does not exist'}; correct `partitions` of the context")
    _, strategy, columns, column_type, owner, owned, oid, tablespace = row
    _require_by_period(name, rule, strategy, columns, column_type)
    if not owned:
        login = connection.info.user
        raise BadInput(f'{name} belongs to "{owner}", whom login "{login}" cannot act for; run: GRANT "{owner}" TO "{login}"')
    is_naive = column_type in ("date", "timestamp without time zone")
    zone = ZoneInfo(context.timestamps) if is_naive else context.zone
    rows = connection.cursor(row_factory=dict_row).execute(sql.partitions.PARTITIONS, {"oid": oid}).fetchall()
    partitions = [_partition(row, rule, zone) for row in rows]
    return PartitionedTable(rule, context.namespace, oid, owner, tablespace, column_type, zone, strategy == "l", partitions)


def _require_by_period(name: str, rule: PartitionRule, strategy: str, columns: list[str | None], column_type: str | None) -> None:
    if rule.values is None and ((strategy, columns) != ("r", [rule.column]) or column_type not in TIME_TYPES):
        raise BadInput(
            f"{name} is not partitioned by range of {rule.column} alone, a date or timestamp; correct `partitions` of the context"
            + (f", or give `values`: how {rule.column} spells a period" if column_type in VALUE_TYPES else "")
        )
    if rule.values is not None and (strategy not in ("r", "l") or columns != [rule.column] or column_type not in VALUE_TYPES):
        raise BadInput(
            f"{name} is not partitioned by range or list of {rule.column} alone, a text or a whole number; "
            "correct `partitions` of the context, or remove `values`"
        )


def parse_rule_bound(rule: PartitionRule, bound: str, zone: tzinfo) -> tuple[datetime | None, datetime | None]:
    """Return the ends of a bound of a rule's table, given as the catalog spells it.

    Raises:
        ValueError: its bounds are not those of periods.
    """
    return parse_spelled_bound(bound, rule.values, rule.period, zone) if rule.values else parse_bound(bound, zone)


def _partition(row: dict[str, Any], rule: PartitionRule, zone: tzinfo) -> Partition:
    facts = {name: row[name] for name in ("oid", "schema", "name", "bound", "bytes", "rows", "detach_pending", "is_divided")}
    if row["bound"] == "DEFAULT":
        return Partition(**facts, is_default=True)
    try:
        lower, upper = parse_rule_bound(rule, row["bound"], zone)
    except ValueError as error:
        return Partition(**facts, strange=str(error))
    return Partition(**facts, lower=lower, upper=upper)


def concerned(connection: Connection, table: PartitionedTable, *partitions: Partition) -> list[int]:
    """Return the oids of the relations that are locked when a partition is attached, detached or dropped."""
    keys = [row[2] for row in connection.execute(sql.partitions.KEYS_OF, {"oid": table.oid})]
    default = [table.default.oid] if table.default else []
    return [table.oid, *keys, *default, *(partition.oid for partition in partitions)]


def indexes_without(connection: Connection, table: PartitionedTable, oid: int) -> list[tuple[Any, ...]]:
    """Return the indexes of a table that a future partition lacks."""
    return connection.execute(sql.partitions.INDEXES_WITHOUT, {"parent": table.oid, "partition": oid}).fetchall()


def oid_of(connection: Connection, place: tuple[str, str]) -> int:
    """Return the oid of an existing table."""
    return int(connection.execute(sql.partitions.OID_OF, {"name": sql.names.quoted_name(*place)}).fetchall()[0][0])
