"""Partitions attached and detached, each in short transactions, with the keys that this takes."""

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
    """Attach a table, in the caller's transaction; the tables that its keys lead to are locked last.

    Raises:
        OperationError: it is not attached, or an index of its parent was not made.
    """
    default = table.default
    if default:
        # What ATTACH would look at with the tables locked that its keys lead to, is looked at before that.
        others = sql.partitions.negated(table.within(*table.parse(bound)))
        connection.execute(sql.partitions.add_check(default.schema, default.name, OTHERS, others))
    connection.execute(sql.partitions.attach(table.place, place, bound))
    if default:
        connection.execute(sql.partitions.drop_check(default.schema, default.name, OTHERS))
    oid = oid_of(connection, place)
    if not connection.execute(sql.partitions.IS_PARTITION, {"parent": table.oid, "oid": oid}).fetchall():
        raise OperationError(f"{'.'.join(place)} was attached to {table.qualified} and is no partition of it; nothing was kept")
    if lacking := [row[0] for row in indexes_without(connection, table, oid)]:
        raise OperationError(f"{'.'.join(place)} would lack indexes of {', '.join(lacking)}; nothing was kept")


@step(name="attach {place[1]}")
def attach_partition(
    site: Site, run: Run, lock: ContextLock, table: PartitionedTable, place: tuple[str, str], bound: str,
    triggers: Mapping[tuple[str, str], str],
) -> None:  # fmt: skip
    """Make a table a partition: its rows are looked at before anybody is kept waiting.

    `triggers` says how triggers that it gets from its parent are switched, by table and name, as the catalogue spells them.

    Raises:
        OperationError: the locks were not to be had, rows or columns do not fit; nothing was changed.
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
                _prove_key(connection, table, place, key)

        def change() -> None:
            attach(connection, table, place, bound)
            connection.execute(sql.partitions.drop_check(*place, MARK))
            for schema, name, trigger, words, spelled in connection.execute(
                sql.triggers.TRIGGER_STATES, {"oids": [oids[-1]]}
            ).fetchall():
                if (wanted := triggers.get((spelled, trigger), words)) != words:
                    connection.execute(sql.triggers.switch_trigger(schema, name, trigger, wanted))

        at_once(connection, lock, f"{'.'.join(place)} could not be attached", oids, change)
        connection.execute(sql.rows.analyze_relation(*place))
    get_run_logger().info("%s.%s attached to %s", *place, table.qualified)


def _make_key(
    connection: Connection, lock: ContextLock, place: tuple[str, str], key: str, definition: str, oids: list[int]
) -> None:  # fmt: skip
    """Give a table a foreign key of its parent-to-be that looks at no row yet."""
    oid = oid_of(connection, place)
    if not connection.execute(sql.partitions.HAS_CONSTRAINT, {"oid": oid, "name": sql.names.unquoted(key)}).fetchall()[0][0]:
        at_once(
            connection, lock, f"foreign key {key} of {'.'.join(place)} could not be made", oids,
            lambda: connection.execute(sql.partitions.add_key(*place, key, definition)),
        )  # fmt: skip


def _prove_key(connection: Connection, table: PartitionedTable, place: tuple[str, str], key: str) -> None:
    """Look at the rows, while everybody reads and writes, so that ATTACH finds the key proven.

    Raises:
        OperationError: rows refer to rows that are gone.
    """
    try:
        connection.execute(sql.partitions.validate_key(*place, key))
    except psycopg.errors.ForeignKeyViolation as error:
        raise OperationError(
            f"{'.'.join(place)} cannot be attached to {table.qualified}: rows refer to rows that are gone ({message_of(error)}): "
            "bring those back first (table_restore, include_parents), or look at the rows side by side"
        ) from None


@step(name="detach {partition.name}")
def detach_partition(
    site: Site, run: Run, lock: ContextLock, table: PartitionedTable, partition: Partition, *, attach_again: bool = False
) -> None:  # fmt: skip
    """Make a partition a table by itself, or finish what somebody's DETACH … CONCURRENTLY left unfinished.

    With `attach_again` it is a partition as before, its rows seen again, when that is done.

    Raises:
        OperationError: the locks were not to be had; nothing was changed.
    """
    place = (partition.schema, partition.name)
    with session(site, run) as connection:

        def change() -> None:
            connection.execute(sql.partitions.detach(table.place, place, finalize=partition.detach_pending))
            if attach_again:
                # Its keys were proven, and a check says what its bound says: ATTACH looks at no row.
                attach(connection, table, place, partition.bound)
                for (check,) in connection.execute(sql.partitions.CHECKS_OF_BOUND, {"oid": partition.oid}).fetchall():
                    connection.execute(sql.partitions.drop_check(*place, check))
            elif connection.execute(sql.partitions.HAS_PARENT, {"oid": partition.oid}).fetchall()[0][0]:
                raise OperationError(f"{partition.qualified} was detached and still is a partition; nothing was kept")

        oids = concerned(connection, table, partition)
        at_once(connection, lock, f"{partition.qualified} could not be detached", oids, change)
    get_run_logger().info("%s detached from %s", partition.qualified, table.qualified)
