"""Partitions made before rows for them come."""

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

import psycopg
from prefect import get_run_logger

from tasks.core import sql
from tasks.core.errors import BadInput, LostLock, OperationError
from tasks.core.partitions.timeline import Partition, Timeline, Wanted, wanted
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
) -> list[Timeline]:  # fmt: skip
    """Make the partitions that are missing: of now, of `ahead` periods to come, and of any that was missed.

    What stands in the way of one is told, and keeps no other from being made: also that a table is not as its rule says.

    Raises:
        LostLock: the lock was lost; what was made before stays.
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
                connection, lock, table, timeline, wanted(rule, table.partitions, instant, table.zone, ahead), move_default_rows
            )
            timeline.partitions = read_table(connection, site.context, table.rule).partitions
            timeline.problems += _unlike_their_parent(connection, table, timeline.partitions)
    return timelines


def _create_all(
    connection: Connection, lock: ContextLock, table: PartitionedTable, timeline: Timeline, missing: Iterable[Wanted],
    move_default_rows: bool,
) -> None:  # fmt: skip
    """Make what is missing, one after the other; what was made, and what could not be, the timeline tells."""
    for one in missing:
        try:
            timeline.moved[one.name] = _create(connection, lock, table, one, move_default_rows=move_default_rows)
            timeline.made.append(one)
        except LostLock:
            raise
        except OperationError as error:
            timeline.problems.append(str(error))
        except psycopg.Error as error:
            timeline.problems.append(f"{table.schema}.{one.name} could not be made: {message_of(error)}")


def _unlike_their_parent(connection: Connection, table: PartitionedTable, partitions: Iterable[Partition]) -> Iterator[str]:
    """Yield what the partitions lack that their parent has: found by looking, after all was made."""
    for one in partitions:
        if one.detach_pending:
            yield f"{one.qualified}: {_finalize_it(table, one)}"
        elif lacking := [row[0] for row in indexes_without(connection, table, one.oid)]:
            yield f"{one.qualified} has no valid index for {', '.join(lacking)}; make it, and ALTER INDEX … ATTACH PARTITION"


def _finalize_it(table: PartitionedTable, one: Partition) -> str:
    statement = sql.partitions.detach(table.place, (one.schema, one.name), finalize=True).as_string()
    return f"a DETACH … CONCURRENTLY of it was not finished, so that its rows are invisible; run: {statement};"


def _create(
    connection: Connection, lock: ContextLock, table: PartitionedTable, one: Wanted, *, move_default_rows: bool
) -> int:  # fmt: skip
    """Make one partition; return how many rows moved there from the DEFAULT partition."""
    _require_room(connection, table, one)
    condition = table.within(one.lower, one.upper)
    stray = 0
    if default := table.default:
        stray = connection.execute(sql.partitions.count_rows(default.schema, default.name, condition)).fetchall()[0][1]
        _require_movable(connection, table, default, one, stray, move_default_rows=move_default_rows)

    def make() -> None:
        connection.execute(sql.partitions.new_tables_in(table.tablespace))
        place = sql.names.quoted_name(table.schema, one.name)
        connection.execute(sql.staging.create_like(place, sql.names.quoted_name(*table.place), table.owner))
        if stray and default:
            _move_rows(connection, default, (table.schema, one.name), condition, stray)
        attach(connection, table, (table.schema, one.name), table.bound(one.lower, one.upper))

    what = f"{table.schema}.{one.name} could not be attached"
    # Rows that move have their keys looked at, which takes as long as it takes.
    at_once(connection, lock, what, concerned(connection, table), make, may_last=stray > 0)
    get_run_logger().info("%s.%s made, from %s to %s", table.schema, one.name, table.end(one.lower), table.end(one.upper))
    return stray


def _require_room(connection: Connection, table: PartitionedTable, one: Wanted) -> None:
    """Refuse what the name or the bounds of something that is there forbid.

    Raises:
        OperationError: what is there, and what is to be done about it.
    """
    name, bound = f"{table.schema}.{one.name}", table.bound(one.lower, one.upper)
    if other := next((other for other in table.partitions if other.overlaps(one.lower, one.upper)), None):
        raise OperationError(
            f"{name} cannot be made: {other.qualified} takes a part of that period ({other.bound}); divide or rename that one"
        )
    asked = {"schema": table.schema, "name": one.name, "mark": MARK}
    occupant = connection.execute(sql.partitions.OCCUPANT, asked).fetchone()
    if occupant is None:
        return
    if occupant[1]:
        raise OperationError(
            f"{name} is being restored by reattach_partition, which did not end; run that again, or drop the table"
        )
    if pending := next((other for other in table.partitions if other.detach_pending and other.qualified == name), None):
        raise OperationError(f"{name}: {_finalize_it(table, pending)}")
    remedy = sql.partitions.attach(table.place, (table.schema, one.name), bound).as_string()
    raise OperationError(
        f"{name} is {occupant[0]}, not the partition of {table.qualified} {bound}: rename it, "
        f"or, if its rows belong there, run: {remedy};"
    )


def _require_movable(
    connection: Connection, table: PartitionedTable, default: Partition, one: Wanted, stray: int, *, move_default_rows: bool
) -> None:  # fmt: skip
    """Refuse what rows in the DEFAULT partition forbid.

    Raises:
        OperationError: how many there are, and what is to be done about it.
    """
    if not stray:
        return
    said = f"{table.schema}.{one.name} cannot be made: {default.qualified} holds {stray:,} rows of that period"
    if not move_default_rows:
        raise OperationError(
            f"{said}; say move_default_rows=true to have them moved in one transaction: who reads that partition waits for it"
        )
    if default.is_divided:
        raise OperationError(f"{said}, and is divided itself; move them by hand")
    if keys := [row[0] for row in connection.execute(sql.partitions.KEYS_TO, {"oid": table.oid})]:
        raise OperationError(f"{said}, which cannot be moved, because they would be gone for a moment for {', '.join(keys)}")


def _move_rows(connection: Connection, default: Partition, place: tuple[str, str], condition: Any, expected: int) -> None:
    """Move rows out of the DEFAULT partition with no trigger fired: nothing happens to them."""
    connection.execute(sql.partitions.lock_alone([(default.schema, default.name)]))
    triggers = connection.execute(sql.triggers.TRIGGER_STATES, {"oids": [default.oid]}).fetchall()
    switched = [one for one in triggers if one[3] != "DISABLE"]
    for schema, name, trigger, _, _ in switched:
        connection.execute(sql.triggers.switch_trigger(schema, name, trigger, "DISABLE"))
    asked = {"name": sql.names.quoted_name(default.schema, default.name)}
    columns = [row[0] for row in connection.execute(sql.partitions.COLUMNS_OF, asked)]
    moving = sql.partitions.move_rows((default.schema, default.name), place, columns, condition)
    with source_path(connection, read_source_path(connection, default.schema)):
        moved = connection.execute(moving).rowcount
    for schema, name, trigger, words, _ in switched:
        connection.execute(sql.triggers.switch_trigger(schema, name, trigger, words))
    if moved < expected:
        get_run_logger().info("%s: %d rows counted, %d moved: others went meanwhile", default.qualified, expected, moved)
