"""Creating partitions before rows for them arrive."""

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

import psycopg
from prefect import get_run_logger

from tasks.core import sql
from tasks.core.errors import BadInput, LostLock, OperationError
from tasks.core.partitions.timeline import NewPartition, Partition, Timeline, missing_partitions, unfinished_detach
from tasks.core.postgres.connection import Connection
from tasks.core.postgres.messages import message_of
from tasks.core.postgres.source_path import read_source_path, source_path
from tasks.database.locks import ContextLock
from tasks.partitions.attach import attach
from tasks.partitions.tables import MARK, PartitionedTable, concerned, indexes_without, read_table
from tasks.partitions.transaction import at_once, session
from tasks.run.run import Run, step
from tasks.run.site import Site


@step
def create_partitions(
    site: Site, run: Run, lock: ContextLock, instant: datetime, ahead: int, *, move_default_rows: bool
) -> list[Timeline]:
    """Create missing partitions: of the current period, `ahead` future ones, and missed past ones.

    A partition that cannot be created, or a table that does not fit its rule, is reported; the
    others are created.

    Raises:
        LostLock: the context's lock was lost; partitions created before that stay.
    """
    timelines = list[Timeline]()
    with session(site, run) as connection:
        for rule in site.context.partitions:
            timeline = Timeline(f"{site.context.namespace}.{rule.table}", rule)
            timelines.append(timeline)
            try:
                table = read_table(connection, site.context, rule)
            except BadInput as error:
                timeline.problems.append(str(error))
                continue
            _create_all(
                connection,
                lock,
                table,
                timeline,
                missing_partitions(rule, table.partitions, instant, table.zone, ahead),
                move_default_rows,
            )
            timeline.partitions = read_table(connection, site.context, table.rule).partitions
            timeline.problems += _missing_from_parent(connection, table, timeline.partitions)
    return timelines


def _create_all(
    connection: Connection,
    lock: ContextLock,
    table: PartitionedTable,
    timeline: Timeline,
    missing: Iterable[NewPartition],
    move_default_rows: bool,
) -> None:
    """Create the missing partitions in turn; note those created and problems in the timeline."""
    for partition in missing:
        try:
            timeline.moved[partition.name] = _create(connection, lock, table, partition, move_default_rows=move_default_rows)
            timeline.made.append(partition)
        except LostLock:
            raise
        except OperationError as error:
            timeline.problems.append(str(error))
        except psycopg.Error as error:
            timeline.problems.append(f"{table.schema}.{partition.name} could not be created: {message_of(error)}")


def _missing_from_parent(connection: Connection, table: PartitionedTable, partitions: Iterable[Partition]) -> Iterator[str]:
    """Yield indexes of the parent that partitions lack, as the catalog has them afterwards."""
    for partition in partitions:
        if partition.detach_pending:
            yield str(unfinished_detach(table.place, (partition.schema, partition.name)))
        elif columns := [row[0] for row in indexes_without(connection, table, partition.oid)]:
            yield f"{partition.qualified} has no valid index on {', '.join(columns)}; create it and ATTACH it"


def _create(
    connection: Connection, lock: ContextLock, table: PartitionedTable, partition: NewPartition, *, move_default_rows: bool
) -> int:
    """Create one partition; return how many rows moved there from the DEFAULT partition."""
    _require_room(connection, table, partition)
    condition = table.within(partition.lower, partition.upper)
    stray = 0
    if default := table.default:
        stray = connection.execute(sql.partitions.count_rows(default.schema, default.name, condition)).fetchall()[0][1]
        _require_movable(connection, table, default, partition, stray, move_default_rows=move_default_rows)

    def create() -> None:
        connection.execute(sql.partitions.new_tables_in(table.tablespace))
        place = sql.names.quoted_name(table.schema, partition.name)
        connection.execute(sql.staging.create_like(place, sql.names.quoted_name(*table.place), table.owner))
        if stray and default:
            _move_rows(connection, default, (table.schema, partition.name), condition, stray)
        attach(connection, table, (table.schema, partition.name), table.bound(partition.lower, partition.upper))

    failure = f"{table.schema}.{partition.name} could not be attached"
    # Foreign keys of moved rows are checked, which may take long, so there is no time limit then.
    at_once(connection, lock, failure, concerned(connection, table), create, may_last=stray > 0)
    get_run_logger().info(
        "%s.%s created, from %s to %s", table.schema, partition.name, table.end(partition.lower), table.end(partition.upper)
    )
    return stray


def _require_room(connection: Connection, table: PartitionedTable, partition: NewPartition) -> None:
    """Refuse a partition whose name is taken or whose period overlaps an existing one.

    Raises:
        OperationError: names the existing relation and the remedy.
    """
    name, bound = f"{table.schema}.{partition.name}", table.bound(partition.lower, partition.upper)
    if existing := next((existing for existing in table.partitions if existing.overlaps(partition.lower, partition.upper)), None):
        raise OperationError(
            f"{name} cannot be created: {existing.qualified} covers part of that period "
            f"({existing.bound}); split or rename that partition"
        )
    parameters = {"schema": table.schema, "name": partition.name, "mark": MARK}
    occupant = connection.execute(sql.partitions.OCCUPANT, parameters).fetchone()
    if occupant is None:
        return
    if occupant[1]:
        raise OperationError(f"{name} was left by an unfinished reattach_partition; run that again, or drop the table")
    if any(existing.detach_pending and existing.qualified == name for existing in table.partitions):
        raise OperationError(str(unfinished_detach(table.place, (table.schema, partition.name))))
    remedy = sql.partitions.attach(table.place, (table.schema, partition.name), bound).as_string()
    raise OperationError(
        f"{name} is {occupant[0]}, not the partition of {table.qualified} {bound}: rename it, or, "
        f"if its rows belong there, run: {remedy};"
    )


def _require_movable(
    connection: Connection,
    table: PartitionedTable,
    default: Partition,
    partition: NewPartition,
    stray: int,
    *,
    move_default_rows: bool,
) -> None:
    """Refuse a partition for which the DEFAULT partition has rows that must not or cannot move.

    Raises:
        OperationError: names the number of such rows and the remedy.
    """
    if not stray:
        return
    problem = f"{table.schema}.{partition.name} cannot be created: {default.qualified} has {stray:,} rows of that period"
    if not move_default_rows:
        raise OperationError(
            f"{problem}; pass move_default_rows=true to move these rows in one transaction, which blocks readers of that partition"
        )
    if default.is_divided:
        raise OperationError(f"{problem}, and is partitioned itself; move them by hand")
    if keys := [row[0] for row in connection.execute(sql.partitions.KEYS_TO, {"oid": table.oid})]:
        raise OperationError(
            f"{problem}, which cannot be moved: rows would violate {', '.join(keys)} meanwhile; move the rows by hand"
        )


def _move_rows(connection: Connection, default: Partition, place: tuple[str, str], condition: Any, expected: int) -> None:
    """Move rows out of the DEFAULT partition without firing triggers: the rows do not change."""
    connection.execute(sql.partitions.lock_alone([(default.schema, default.name)]))
    triggers = connection.execute(sql.triggers.TRIGGER_STATES, {"oids": [default.oid]}).fetchall()
    switched = [state for state in triggers if state[3] != "DISABLE"]
    for schema, name, trigger, _, _ in switched:
        connection.execute(sql.triggers.switch_trigger(schema, name, trigger, "DISABLE"))
    parameters = {"name": sql.names.quoted_name(default.schema, default.name)}
    columns = [row[0] for row in connection.execute(sql.partitions.COLUMNS_OF, parameters)]
    moving = sql.partitions.move_rows((default.schema, default.name), place, columns, condition)
    with source_path(connection, read_source_path(connection, place[0])):
        moved = connection.execute(moving).rowcount
    for schema, name, trigger, words, _ in switched:
        connection.execute(sql.triggers.switch_trigger(schema, name, trigger, words))
    if moved < expected:
        get_run_logger().info(
            "%s: %d rows were counted, and %d moved: the others were deleted meanwhile", default.qualified, expected, moved
        )
