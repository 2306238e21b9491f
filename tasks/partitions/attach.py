"""Attaching and detaching partitions in short transactions, with the foreign keys needed."""

from collections.abc import Mapping

import psycopg
from prefect import get_run_logger

from tasks.core import sql
from tasks.core.errors import OperationError
from tasks.core.partitions.timeline import Partition
from tasks.core.postgres.connection import Connection
from tasks.core.postgres.messages import message_of
from tasks.database.locks import ContextLock
from tasks.partitions.tables import MARK, PartitionedTable, concerned, indexes_without, oid_of
from tasks.partitions.transaction import at_once, session
from tasks.run.run import Run, step
from tasks.run.site import Site

OTHERS = "rows of other partitions: being attached"


def attach(connection: Connection, table: PartitionedTable, place: tuple[str, str], bound: str) -> None:
    """Attach a table as a partition, in the caller's transaction.

    Tables that its foreign keys reference are locked last.

    Raises:
        OperationError: the table is not attached afterwards, or lacks an index of its parent.
    """
    default = table.default
    if default:
        # With this check ATTACH does not scan the DEFAULT partition while the referenced tables are
        # locked.
        condition = sql.partitions.negated(table.within(*table.parse(bound)))
        connection.execute(sql.partitions.add_check(default.schema, default.name, OTHERS, condition))
    connection.execute(sql.partitions.attach(table.place, place, bound))
    if default:
        connection.execute(sql.partitions.drop_check(default.schema, default.name, OTHERS))
    oid = oid_of(connection, place)
    if not connection.execute(sql.partitions.IS_PARTITION, {"parent": table.oid, "oid": oid}).fetchall():
        raise OperationError(f"{'.'.join(place)} was attached to {table.qualified}, but is not a partition of it; rolled back")
    if columns := [row[0] for row in indexes_without(connection, table, oid)]:
        raise OperationError(f"{'.'.join(place)} would lack indexes on {', '.join(columns)}; rolled back")


@step(name="attach {place[1]}")
def attach_partition(
    site: Site,
    run: Run,
    lock: ContextLock,
    table: PartitionedTable,
    place: tuple[str, str],
    bound: str,
    triggers: Mapping[tuple[str, str], str],
) -> None:
    """Make a table a partition.

    Its rows are validated beforehand, so that other sessions are blocked only briefly. `triggers`
    has the states of the triggers that the partition inherits, by table and name as the catalog
    spells them.

    Raises:
        OperationError: a lock timed out, or rows or columns do not fit; nothing was changed.
    """
    condition = table.within(*table.parse(bound))
    with session(site, run) as connection:
        oids = [*concerned(connection, table), oid_of(connection, place)]
        if not connection.execute(sql.partitions.HAS_CONSTRAINT, {"oid": oids[-1], "name": MARK}).fetchall()[0][0]:
            with connection.transaction():
                connection.execute(sql.partitions.add_check(*place, MARK, condition))
        for key, definition, _, is_proven in connection.execute(sql.partitions.KEYS_OF, {"oid": table.oid}).fetchall():
            _make_key(connection, lock, place, key, definition, oids)
            if is_proven:
                _validate_key(connection, table, place, key)

        def change() -> None:
            attach(connection, table, place, bound)
            connection.execute(sql.partitions.drop_check(*place, MARK))
            for schema, name, trigger, default_state, qualified in connection.execute(
                sql.triggers.TRIGGER_STATES, {"oids": [oids[-1]]}
            ).fetchall():
                if (state := triggers.get((qualified, trigger), default_state)) != default_state:
                    connection.execute(sql.triggers.switch_trigger(schema, name, trigger, state))

        at_once(connection, lock, f"{'.'.join(place)} could not be attached", oids, change)
        connection.execute(sql.rows.analyze_relation(*place))
    get_run_logger().info("%s.%s attached to %s", *place, table.qualified)


def _make_key(
    connection: Connection, lock: ContextLock, place: tuple[str, str], key: str, definition: str, oids: list[int]
) -> None:
    """Add a foreign key of the future parent as NOT VALID, which scans no rows."""
    oid = oid_of(connection, place)
    if not connection.execute(sql.partitions.HAS_CONSTRAINT, {"oid": oid, "name": sql.names.unquoted(key)}).fetchall()[0][0]:
        at_once(
            connection, lock, f"foreign key {key} of {'.'.join(place)} could not be created", oids,
            lambda: connection.execute(sql.partitions.add_key(*place, key, definition)),
        )  # fmt: skip


def _validate_key(connection: Connection, table: PartitionedTable, place: tuple[str, str], key: str) -> None:
    """Validate a foreign key while others read and write, so that ATTACH need not.

    Raises:
        OperationError: rows reference missing rows.
    """
    try:
        connection.execute(sql.partitions.validate_key(*place, key))
    except psycopg.errors.ForeignKeyViolation as error:
        raise OperationError(
            f"{'.'.join(place)} cannot be attached to {table.qualified}: rows reference missing "
            f"rows ({message_of(error)}): restore those first (table_restore, include_parents), or "
            "restore with mode=side-by-side and look at the rows"
        ) from None


@step(name="detach_partition {partition.name}")
def detach_partition(
    site: Site, run: Run, lock: ContextLock, table: PartitionedTable, partition: Partition, *, attach_again: bool = False
) -> None:
    """Detach a partition, or finish an interrupted DETACH … CONCURRENTLY of it.

    With `attach_again` it is attached again in the same transaction, so that its rows are visible.

    Raises:
        OperationError: a lock timed out; nothing was changed.
    """
    place = (partition.schema, partition.name)
    with session(site, run) as connection:

        def change() -> None:
            connection.execute(sql.partitions.detach(table.place, place, finalize=partition.detach_pending))
            if attach_again:
                # Its foreign keys are valid, and a check has the condition of its bound: ATTACH
                # scans no row.
                attach(connection, table, place, partition.bound)
                for (check,) in connection.execute(sql.partitions.CHECKS_OF_BOUND, {"oid": partition.oid}).fetchall():
                    connection.execute(sql.partitions.drop_check(*place, check))
            elif connection.execute(sql.partitions.HAS_PARENT, {"oid": partition.oid}).fetchall()[0][0]:
                raise OperationError(f"{partition.qualified} was detached, but is still a partition; rolled back")

        oids = concerned(connection, table, partition)
        at_once(connection, lock, f"{partition.qualified} could not be detached", oids, change)
    get_run_logger().info("%s detached from %s", partition.qualified, table.qualified)
