"""Partitions of a live table: read, made, attached and detached, each change in one short transaction.

Whoever reads or writes waits for it no longer than LOCK_SECONDS: what is not done by then is given up, and asked for again. Only
rows that move out of a DEFAULT partition take as long as they take, for those who read that partition. New partitions are made
as tables by themselves and attached, which keeps nobody from reading or writing the others; CREATE TABLE … PARTITION OF would.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, tzinfo
from threading import Timer
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

import psycopg
from prefect import get_run_logger
from psycopg.rows import dict_row

from tasks.core import merge_sql, partition_sql, sql
from tasks.core.complaints import message_of
from tasks.core.context import Context, PartitionRule
from tasks.core.errors import BadInput, LostLock, OperationError
from tasks.core.manifest import Scope
from tasks.core.partitions import Partition, Timeline, Wanted, parse_bound, spell_end, wanted
from tasks.core.servers import Connection, connect
from tasks.core.source_path import read_source_path, source_path
from tasks.locks import ContextLock
from tasks.runs import Run, step
from tasks.sites import Site

T = TypeVar("T")
# So long, at most, anybody waits because of us: for our waiting for a lock, half of it, and for what is done under it.
LOCK_SECONDS = 5.0
LOCK_TRIES = 4
# Bears a table that is being filled and is to become a partition: it spares ATTACH its look at the rows, and says whose it is.
MARK = "not attached yet: being restored"
OTHERS = "rows of other partitions: being attached"
TIME_TYPES = frozenset({"date", "timestamp without time zone", "timestamp with time zone"})
GIVEN_UP = (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected, psycopg.errors.QueryCanceled)


@dataclass(frozen=True)
class PartitionedTable:
    """A live table that is partitioned by time, as its rule and the catalogue have it; `zone` is what its bounds mean."""

    rule: PartitionRule
    schema: str
    oid: int
    owner: str
    tablespace: str
    column_type: str
    zone: tzinfo
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
        return next((one for one in self.partitions if one.is_default), None)

    def end(self, instant: datetime | None) -> str | None:
        """Return an end of a range as the partition column spells it."""
        return spell_end(instant, self.column_type, self.zone) if instant else None

    def scope(self, partition: Partition) -> Scope:
        """Return the part of the context that one partition is."""
        return Scope(schema=self.schema, tables=[self.rule.table], partitions=[partition.qualified])


def read_tables(connection: Connection, context: Context) -> list[PartitionedTable]:
    """Return the context's partitioned tables.

    Raises:
        BadInput: a table is not there, or is not partitioned as its rule says.
    """
    return [read_table(connection, context, rule) for rule in context.partitions]


def read_table(connection: Connection, context: Context, rule: PartitionRule) -> PartitionedTable:
    """Return one partitioned table with its partitions.

    Raises:
        BadInput: it is not there, or is not partitioned as its rule says.
    """
    name = f"{context.namespace}.{rule.table}"
    connection.execute(sql.FIXED_SETTINGS)
    found = connection.execute(partition_sql.PARTITIONED, {"schema": context.namespace, "name": rule.table}).fetchone()
    if found is None or not found[0]:
        raise BadInput(f"{name} is {'no partitioned table' if found else 'not there'}; correct `partitions` of the context")
    _, strategy, columns, column_type, owner, owned, oid, tablespace = found
    if (strategy, columns) != ("r", [rule.column]) or column_type not in TIME_TYPES:
        raise BadInput(
            f"{name} is not partitioned by range of {rule.column} alone, a date or timestamp; correct `partitions` of the context"
        )
    if not owned:
        login = connection.info.user
        raise BadInput(f'{name} belongs to "{owner}", whom login "{login}" cannot act for; run: GRANT "{owner}" TO "{login}"')
    zone = context.zone if column_type == "timestamp with time zone" else ZoneInfo(context.timestamps)
    rows = connection.cursor(row_factory=dict_row).execute(partition_sql.PARTITIONS, {"oid": oid}).fetchall()
    partitions = [_partition(row, zone) for row in rows]
    return PartitionedTable(rule, context.namespace, oid, owner, tablespace, column_type, zone, partitions)


def _partition(row: dict[str, Any], zone: tzinfo) -> Partition:
    facts = {name: row[name] for name in ("oid", "schema", "name", "bound", "bytes", "rows", "detach_pending", "is_divided")}
    if row["bound"] == "DEFAULT":
        return Partition(**facts, is_default=True)
    try:
        lower, upper = parse_bound(row["bound"], zone)
    except ValueError as error:
        return Partition(**facts, strange=str(error))
    return Partition(**facts, lower=lower, upper=upper)


@contextmanager
def session(site: Site, run: Run) -> Iterator[Connection]:
    """Open a session in the site's database, of the login that acts for the owner, whose text is spelled as everywhere."""
    with connect(site.owners_login, site.database, run.title) as connection:
        connection.execute(sql.FIXED_SETTINGS)
        yield connection


def at_once(
    connection: Connection, lock: ContextLock, what: str, oids: Iterable[int], change: Callable[[], T], *, may_last: bool = False
) -> T:  # fmt: skip
    """Make a change in one transaction that waits for no lock longer than half of LOCK_SECONDS, and is over in LOCK_SECONDS.

    What could not be had is asked for again, so that those who queued behind had their turn. A change that `may_last` has no
    limit but that of its locks.

    Raises:
        OperationError: it was not to be had; nothing changed; who is in the way is named.
        LostLock: the context's lock was lost; nothing changed.
    """
    named = list(oids)
    for attempt in range(1, LOCK_TRIES + 1):
        try:
            with _ended_after(connection, None if may_last else LOCK_SECONDS), connection.transaction():
                connection.execute(partition_sql.limit_waiting(LOCK_SECONDS / 2))
                done = change()
                lock.require_held(f"the commit: {what}", connection)
                return done
        except GIVEN_UP as error:
            took_long = isinstance(error, psycopg.errors.QueryCanceled)
            reason = f"it was not done in {LOCK_SECONDS:g} s" if took_long else f"{message_of(error)}, after {LOCK_SECONDS / 2:g} s"
            said = f"{what}: {reason}"
            holders = "; ".join(row[0] for row in connection.execute(partition_sql.BLOCKERS, {"oids": named}))
            in_the_way = f" ({holders})" if holders else ""
            if attempt == LOCK_TRIES:
                when = "when they are done" if holders else "in a quieter hour"
                raise OperationError(f"{said}; nothing was changed{in_the_way}; run again {when}") from None
            get_run_logger().warning("attempt %d: %s%s; once more", attempt, said, in_the_way)
            time.sleep(attempt)
    raise AssertionError  # the last try returns or raises


@contextmanager
def _ended_after(connection: Connection, seconds: float | None) -> Iterator[None]:
    """Cancel what a session does when so many seconds are over: no server before 17 limits a transaction."""
    timer = Timer(seconds or 0, connection.cancel)
    if seconds is not None:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()
        if timer.is_alive():
            timer.join()


def concerned(connection: Connection, table: PartitionedTable, *partitions: Partition) -> list[int]:
    """Return the oids of what is locked when a partition comes or goes."""
    keys = [row[2] for row in connection.execute(partition_sql.KEYS_OF, {"oid": table.oid})]
    default = [table.default.oid] if table.default else []
    return [table.oid, *keys, *default, *(one.oid for one in partitions)]


@step
def create_partitions(
    site: Site, run: Run, lock: ContextLock, instant: datetime, ahead: int, *, move_default_rows: bool
) -> list[Timeline]:  # fmt: skip
    """Make the partitions that are missing: of now, of `ahead` periods to come, and of any that was missed.

    What stands in the way of one is told, and keeps no other from being made.

    Raises:
        BadInput: no table is partitioned as its rule says.
        LostLock: the lock was lost; what was made before stays.
    """
    timelines = list[Timeline]()
    with session(site, run) as connection:
        for table in read_tables(connection, site.context):
            timeline = Timeline(table.qualified, table.rule)
            for one in wanted(table.rule, table.partitions, instant, table.zone, ahead):
                try:
                    timeline.moved[one.name] = _create(connection, lock, table, one, move_default_rows=move_default_rows)
                    timeline.made.append(one)
                except LostLock:
                    raise
                except OperationError as error:
                    timeline.problems.append(str(error))
                except psycopg.Error as error:
                    timeline.problems.append(f"{table.schema}.{one.name} could not be made: {message_of(error)}")
            timeline.partitions = read_table(connection, site.context, table.rule).partitions
            timeline.problems += _unlike_their_parent(connection, table, timeline.partitions)
            timelines.append(timeline)
    return timelines


def _unlike_their_parent(connection: Connection, table: PartitionedTable, partitions: Iterable[Partition]) -> Iterator[str]:
    """Yield what the partitions lack that their parent has: found by looking, after all was made."""
    for one in partitions:
        if one.detach_pending:
            yield f"{one.qualified}: {_finalize_it(table, one)}"
        elif lacking := [row[0] for row in _indexes_without(connection, table, one.oid)]:
            yield f"{one.qualified} has no valid index for {', '.join(lacking)}; make it, and ALTER INDEX … ATTACH PARTITION"


def _indexes_without(connection: Connection, table: PartitionedTable, oid: int) -> list[tuple[Any, ...]]:
    return connection.execute(partition_sql.INDEXES_WITHOUT, {"parent": table.oid, "partition": oid}).fetchall()


def _finalize_it(table: PartitionedTable, one: Partition) -> str:
    statement = partition_sql.detach(table.place, (one.schema, one.name), finalize=True).as_string()
    return f"a DETACH … CONCURRENTLY of it was not finished, so that its rows are invisible; run: {statement};"


def _create(
    connection: Connection, lock: ContextLock, table: PartitionedTable, one: Wanted, *, move_default_rows: bool
) -> int:  # fmt: skip
    """Make one partition; return how many rows moved there from the DEFAULT partition."""
    _require_room(connection, table, one)
    condition = partition_sql.within(table.rule.column, table.end(one.lower), table.end(one.upper))
    stray = 0
    if default := table.default:
        stray = connection.execute(partition_sql.count_rows(default.schema, default.name, condition)).fetchall()[0][1]
        _require_movable(connection, table, default, one, stray, move_default_rows=move_default_rows)

    def make() -> None:
        connection.execute(partition_sql.new_tables_in(table.tablespace))
        place = sql.quoted_name(table.schema, one.name)
        connection.execute(merge_sql.create_like(place, sql.quoted_name(*table.place), table.owner))
        if stray and default:
            _move_rows(connection, default, (table.schema, one.name), condition, stray)
        attach(connection, table, (table.schema, one.name), partition_sql.range_bound(table.end(one.lower), table.end(one.upper)))

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
    name, bound = f"{table.schema}.{one.name}", partition_sql.range_bound(table.end(one.lower), table.end(one.upper))
    if other := next((other for other in table.partitions if other.overlaps(one.lower, one.upper)), None):
        raise OperationError(
            f"{name} cannot be made: {other.qualified} takes a part of that period ({other.bound}); divide or rename that one"
        )
    asked = {"schema": table.schema, "name": one.name, "mark": MARK}
    occupant = connection.execute(partition_sql.OCCUPANT, asked).fetchone()
    if occupant is None:
        return
    if occupant[1]:
        raise OperationError(
            f"{name} is being restored by reattach_partition, which did not end; run that again, or drop the table"
        )
    if pending := next((other for other in table.partitions if other.detach_pending and other.qualified == name), None):
        raise OperationError(f"{name}: {_finalize_it(table, pending)}")
    remedy = partition_sql.attach(table.place, (table.schema, one.name), bound).as_string()
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
    if keys := [row[0] for row in connection.execute(partition_sql.KEYS_TO, {"oid": table.oid})]:
        raise OperationError(f"{said}, which cannot be moved, because they would be gone for a moment for {', '.join(keys)}")


def _move_rows(connection: Connection, default: Partition, place: tuple[str, str], condition: Any, expected: int) -> None:
    """Move rows out of the DEFAULT partition with no trigger fired: nothing happens to them."""
    connection.execute(partition_sql.lock_alone([(default.schema, default.name)]))
    triggers = connection.execute(sql.TRIGGER_STATES, {"oids": [default.oid]}).fetchall()
    switched = [one for one in triggers if one[3] != "DISABLE"]
    for schema, name, trigger, _, _ in switched:
        connection.execute(sql.switch_trigger(schema, name, trigger, "DISABLE"))
    asked = {"name": sql.quoted_name(default.schema, default.name)}
    columns = [row[0] for row in connection.execute(partition_sql.COLUMNS_OF, asked)]
    moving = partition_sql.move_rows((default.schema, default.name), place, columns, condition)
    with source_path(connection, read_source_path(connection, default.schema)):
        moved = connection.execute(moving).rowcount
    for schema, name, trigger, words, _ in switched:
        connection.execute(sql.switch_trigger(schema, name, trigger, words))
    if moved < expected:
        get_run_logger().info("%s: %d rows counted, %d moved: others went meanwhile", default.qualified, expected, moved)


def attach(connection: Connection, table: PartitionedTable, place: tuple[str, str], bound: str) -> None:
    """Attach a table, in the caller's transaction; the tables that its keys lead to are locked last.

    Raises:
        OperationError: it is not attached, or an index of its parent was not made.
    """
    default = table.default
    if default:
        # What ATTACH would look at with the tables locked that its keys lead to, is looked at before that.
        lower, upper = parse_bound(bound, table.zone)
        others = partition_sql.outside(table.rule.column, table.end(lower), table.end(upper))
        connection.execute(partition_sql.add_check(default.schema, default.name, OTHERS, others))
    connection.execute(partition_sql.attach(table.place, place, bound))
    if default:
        connection.execute(partition_sql.drop_check(default.schema, default.name, OTHERS))
    oid = oid_of(connection, place)
    if not connection.execute(partition_sql.IS_PARTITION, {"parent": table.oid, "oid": oid}).fetchall():
        raise OperationError(f"{'.'.join(place)} was attached to {table.qualified} and is no partition of it; nothing was kept")
    if lacking := [row[0] for row in _indexes_without(connection, table, oid)]:
        raise OperationError(f"{'.'.join(place)} would lack indexes of {', '.join(lacking)}; nothing was kept")


def oid_of(connection: Connection, place: tuple[str, str]) -> int:
    """Return the oid of a table that is there."""
    return int(connection.execute(partition_sql.OID_OF, {"name": sql.quoted_name(*place)}).fetchall()[0][0])


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
    lower, upper = parse_bound(bound, table.zone)
    condition = partition_sql.within(table.rule.column, table.end(lower), table.end(upper))
    with session(site, run) as connection:
        oids = [*concerned(connection, table), oid_of(connection, place)]
        if not connection.execute(partition_sql.HAS_CONSTRAINT, {"oid": oids[-1], "name": MARK}).fetchall()[0][0]:
            with connection.transaction():
                connection.execute(partition_sql.add_check(*place, MARK, condition))
        for key, definition, _, is_proven in connection.execute(partition_sql.KEYS_OF, {"oid": table.oid}).fetchall():
            _make_key(connection, lock, place, key, definition, oids)
            if is_proven:
                _prove_key(connection, table, place, key)

        def change() -> None:
            attach(connection, table, place, bound)
            connection.execute(partition_sql.drop_check(*place, MARK))
            for schema, name, trigger, words, spelled in connection.execute(sql.TRIGGER_STATES, {"oids": [oids[-1]]}).fetchall():
                if (wanted := triggers.get((spelled, trigger), words)) != words:
                    connection.execute(sql.switch_trigger(schema, name, trigger, wanted))

        at_once(connection, lock, f"{'.'.join(place)} could not be attached", oids, change)
        connection.execute(partition_sql.analyze(*place))
    get_run_logger().info("%s.%s attached to %s", *place, table.qualified)


def _make_key(
    connection: Connection, lock: ContextLock, place: tuple[str, str], key: str, definition: str, oids: list[int]
) -> None:  # fmt: skip
    """Give a table a foreign key of its parent-to-be that looks at no row yet."""
    oid = oid_of(connection, place)
    if not connection.execute(partition_sql.HAS_CONSTRAINT, {"oid": oid, "name": sql.unquoted(key)}).fetchall()[0][0]:
        at_once(
            connection, lock, f"foreign key {key} of {'.'.join(place)} could not be made", oids,
            lambda: connection.execute(partition_sql.add_key(*place, key, definition)),
        )  # fmt: skip


def _prove_key(connection: Connection, table: PartitionedTable, place: tuple[str, str], key: str) -> None:
    """Look at the rows, while everybody reads and writes, so that ATTACH finds the key proven.

    Raises:
        OperationError: rows refer to rows that are gone.
    """
    try:
        connection.execute(partition_sql.validate_key(*place, key))
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
            connection.execute(partition_sql.detach(table.place, place, finalize=partition.detach_pending))
            if attach_again:
                # Its keys were proven, and a check says what its bound says: ATTACH looks at no row.
                attach(connection, table, place, partition.bound)
                for (check,) in connection.execute(partition_sql.CHECKS_OF_BOUND, {"oid": partition.oid}).fetchall():
                    connection.execute(partition_sql.drop_check(*place, check))
            elif connection.execute(partition_sql.HAS_PARENT, {"oid": partition.oid}).fetchall()[0][0]:
                raise OperationError(f"{partition.qualified} was detached and still is a partition; nothing was kept")

        oids = concerned(connection, table, partition)
        at_once(connection, lock, f"{partition.qualified} could not be detached", oids, change)
    get_run_logger().info("%s detached from %s", partition.qualified, table.qualified)
