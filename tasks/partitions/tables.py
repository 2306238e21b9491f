"""Partitioned tables of a live database and their partitions, from the catalog."""

from dataclasses import dataclass, field
from datetime import datetime, tzinfo
from typing import Any

from psycopg.sql import Composed

from tasks.core import sql
from tasks.core.context import Context
from tasks.core.context_keys import PartitionRule
from tasks.core.errors import BadInput
from tasks.core.partitions.periods import spell_period, spelled_between
from tasks.core.partitions.timeline import Partition, spell_end
from tasks.core.postgres.connection import Connection
from tasks.core.sets.manifest import Scope
from tasks.database.partitions import parse_rule_bound, read_division

# The name of a check on a table that will become a partition. The check saves ATTACH the scan of
# rows; its name marks the table as created by this project.
MARK = "not attached yet: being restored"


@dataclass(frozen=True)
class PartitionedTable:
    """A live table that is partitioned by time, as its rule and the catalog describe it.

    Bounds are in `zone`. A partition has a range of values of the partition column or, with
    `is_list`, the column's values for some periods.
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
            ValueError: the bound is not one of periods.
        """
        return parse_rule_bound(self.rule, bound, self.zone)

    def bound(self, lower: datetime | None, upper: datetime | None) -> str:
        """Return the bound of a partition as ATTACH PARTITION takes it."""
        if self.is_list:
            return sql.partitions.list_bound(self._values(lower, upper))
        return sql.partitions.range_bound(self.end(lower), self.end(upper))

    def within(self, lower: datetime | None, upper: datetime | None) -> Composed:
        """Return the condition on a partition's rows; a check with it saves ATTACH the scan."""
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
        BadInput: the table does not exist, is not partitioned as its rule requires, or the login is
            not a member of its owner.
    """
    facts = read_division(connection, context, rule)
    if not facts.owned:
        name, login = f"{context.namespace}.{rule.table}", connection.info.user
        raise BadInput(
            f'{name} belongs to "{facts.owner}", of which login "{login}" is not a member; run: GRANT "{facts.owner}" TO "{login}"'
        )
    return PartitionedTable(
        rule, context.namespace, facts.oid, facts.owner, facts.tablespace, facts.column_type, facts.zone, facts.is_list,
        facts.partitions,
    )  # fmt: skip


def concerned(connection: Connection, table: PartitionedTable, *partitions: Partition) -> list[int]:
    """Return the oids of relations that attaching, detaching or dropping a partition locks."""
    keys = [row[2] for row in connection.execute(sql.partitions.KEYS_OF, {"oid": table.oid})]
    default = [table.default.oid] if table.default else []
    return [table.oid, *keys, *default, *(partition.oid for partition in partitions)]


def indexes_without(connection: Connection, table: PartitionedTable, oid: int) -> list[tuple[Any, ...]]:
    """Return the indexes of a table that a future partition lacks."""
    return connection.execute(sql.partitions.INDEXES_WITHOUT, {"parent": table.oid, "partition": oid}).fetchall()


def oid_of(connection: Connection, place: tuple[str, str]) -> int:
    """Return the oid of an existing table."""
    return int(connection.execute(sql.partitions.OID_OF, {"name": sql.names.quoted_name(*place)}).fetchall()[0][0])
