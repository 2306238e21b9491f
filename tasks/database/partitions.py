"""How a live table is partitioned by time, read from the catalog as far as any login may."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

from psycopg.rows import dict_row

from tasks.core import sql
from tasks.core.context import Context
from tasks.core.context_keys import PartitionRule
from tasks.core.errors import BadInput
from tasks.core.partitions.periods import parse_spelled_bound
from tasks.core.partitions.timeline import Partition, parse_bound
from tasks.core.postgres.connection import Connection
from tasks.database.catalog import Member

TIME_TYPES = frozenset({"date", "timestamp without time zone", "timestamp with time zone"})
# Types of columns that spell periods, by the rule's `values`.
VALUE_TYPES = frozenset({"text", "character varying", "smallint", "integer", "bigint"})


@dataclass(frozen=True)
class Division:
    """A table that is partitioned as its rule requires.

    `owned` is whether the login is a member of the table's owner. Bounds are in `zone`.
    """

    oid: int
    owner: str
    owned: bool
    tablespace: str
    column_type: str
    zone: tzinfo
    is_list: bool
    partitions: list[Partition]


def read_division(connection: Connection, context: Context, rule: PartitionRule) -> Division:
    """Return how the table of a rule is partitioned; this gives the session the fixed settings.

    Raises:
        BadInput: the table does not exist, or is not partitioned as its rule requires.
    """
    name = f"{context.namespace}.{rule.table}"
    connection.execute(sql.session.FIXED_SETTINGS)
    row = connection.execute(sql.partitions.PARTITIONED, {"schema": context.namespace, "name": rule.table}).fetchone()
    if row is None or not row[0]:
        raise BadInput(f"{name} {'is not a partitioned table' if row else 'does not exist'}; correct `partitions` of the context")
    _, strategy, columns, column_type, owner, owned, oid, tablespace = row
    _require_by_period(name, rule, strategy, columns, column_type)
    is_naive = column_type in ("date", "timestamp without time zone")
    zone = ZoneInfo(context.timestamps) if is_naive else context.zone
    rows = connection.cursor(row_factory=dict_row).execute(sql.partitions.PARTITIONS, {"oid": oid}).fetchall()
    partitions = [_partition(row, rule, zone) for row in rows]
    return Division(oid, owner, owned, tablespace, column_type, zone, strategy == "l", partitions)


def _require_by_period(name: str, rule: PartitionRule, strategy: str, columns: list[str | None], column_type: str | None) -> None:
    if rule.values is None and ((strategy, columns) != ("r", [rule.column]) or column_type not in TIME_TYPES):
        raise BadInput(
            f"{name} is not partitioned by range of {rule.column} alone, a date or timestamp; "
            "correct `partitions` of the context"
            + (f", or add `values`, the template for the periods that {rule.column} spells" if column_type in VALUE_TYPES else "")
        )
    if rule.values is not None and (strategy not in ("r", "l") or columns != [rule.column] or column_type not in VALUE_TYPES):
        raise BadInput(
            f"{name} is not partitioned by range or list of {rule.column} alone, a text or a whole "
            "number; correct `partitions` of the context, or remove `values`"
        )


def parse_rule_bound(rule: PartitionRule, bound: str, zone: tzinfo) -> tuple[datetime | None, datetime | None]:
    """Return the start and end of a partition's bound, given as the catalog spells it.

    Raises:
        ValueError: the bound is not one of periods.
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


def below_each(relations: Sequence[Member], oids: Iterable[int]) -> Iterator[list[Member]]:
    """Yield each relation with all its partitions."""
    by_oid, children = {relation.oid: relation for relation in relations}, defaultdict[str | None, list[Member]](list)
    for relation in relations:
        children[relation.parent].append(relation)
    for oid in oids:
        members = [by_oid[oid]] if oid in by_oid else []
        for parent in members:
            members += children[parent.qualified]
        yield members
