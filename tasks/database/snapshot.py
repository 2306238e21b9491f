"""The snapshot of a context: a point in time at which schema, members and rows are consistent.

The order prevents silent loss of rows: lock, dump the schema, take the snapshot, then check that
the locked relations are still those of the snapshot. LOCK takes no snapshot, so everything after it
is current (https://www.postgresql.org/docs/current/sql-lock.html).
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg
from prefect import get_run_logger
from psycopg.rows import dict_row

from tasks.core import sql
from tasks.core.database.objects import InventoryItem
from tasks.core.errors import BadInput, MovedSnapshot, OperationError
from tasks.core.postgres.connection import Connection, connect, encoding_of
from tasks.core.postgres.programs import Program
from tasks.core.sets.manifest import Incarnation
from tasks.core.sets.manifest import Snapshot as SnapshotFacts
from tasks.database import catalog
from tasks.database.catalog import Member, Members, read_inventory, read_members, read_relations
from tasks.database.locks import LOCK_WAIT_SECONDS, patient
from tasks.database.schema import dump_schema
from tasks.run.run import Run
from tasks.run.site import Site

# The WAL writer sleeps up to 10 s between rounds, and may take three.
FLUSH_SECONDS = 120.0
FLUSH_LOOK_SECONDS = 1.0


@dataclass(frozen=True)
class Snapshot:
    """An exported snapshot, held open by its coordinator, with its facts."""

    name: str
    coordinator: Connection
    members: Members
    inventory: list[InventoryItem]
    archive: Path
    instant: datetime
    xmin: int
    xmax: int
    lsn: str
    written: str

    def require_held(self) -> None:
        """Make sure that the session that holds locks and snapshot is still alive.

        Raises:
            OperationError: the coordinator's session is gone.
        """
        try:
            self.coordinator.execute(sql.snapshot.STILL_THERE)
        except psycopg.Error as error:
            raise OperationError(f"the session that held the snapshot was lost: {error}; run again") from error

    def require_flushed(self, site: Site, run: Run, wait_seconds: float = FLUSH_SECONDS) -> None:
        """Wait until a server crash cannot lose anything that the snapshot sees.

        With asynchronous commit a snapshot sees transactions that are not flushed: after a crash
        other transactions would reuse their numbers and row positions
        (https://www.postgresql.org/docs/current/wal-async-commit.html).

        Raises:
            OperationError: the server did not flush in time.
        """
        if self._is_flushed():
            return
        deadline = time.monotonic() + wait_seconds
        with connect(site.server, site.database, run.title) as nudge:
            nudge.execute(sql.server.END_A_TRANSACTION)
        while not self._is_flushed():
            if time.monotonic() > deadline:
                raise OperationError(
                    f"the server did not flush WAL up to {self.written}, the snapshot's position, "
                    f"within {wait_seconds:.0f} s (asynchronous commit, a slow disk): after a "
                    "crash the set would have rows that the server lacks; check wal_writer_delay "
                    "and the server's disk, and run again"
                )
            time.sleep(FLUSH_LOOK_SECONDS)

    def _is_flushed(self) -> bool:
        return bool(self.coordinator.execute(sql.server.LOG_IS_FLUSHED, [self.written]).fetchall()[0][0])


@contextmanager
def take_snapshot(
    site: Site,
    run: Run,
    pg_dump: Program,
    unreadable: Sequence[tuple[str, str]] = (),
) -> Iterator[Snapshot]:
    """For the block: lock the context's relations, dump the schema and export a snapshot.

    `unreadable` tables (schema, name) of other contexts are not dumped.

    Raises:
        MovedSnapshot: something changed in between; a retry may succeed.
    """
    archive = run.folder / "schema.dump"
    archive.unlink(missing_ok=True)
    with patient(), connect(site.server, site.database, run.title) as coordinator:
        coordinator.execute(sql.session.set_lock_timeout(LOCK_WAIT_SECONDS))
        planned = read_relations(coordinator, site.context)
        coordinator.execute(sql.snapshot.START_SNAPSHOT)
        if planned:
            _lock(coordinator, planned)
        with connect(site.server, site.database, run.title) as looker:
            # pg_dump may queue behind a session that waits for the coordinator; deadlock detection
            # does not see that.
            looker.execute(sql.session.set_lock_timeout(LOCK_WAIT_SECONDS))
            before = read_inventory(looker, read_members(looker, site.context, claimed=site.claimed_tables))
        dump_schema(site, run, pg_dump, archive, encoding_of(coordinator), unreadable)
        # The transaction's first query takes its snapshot, which stays the same from then on.
        name = coordinator.execute(sql.snapshot.EXPORT_SNAPSHOT).fetchall()[0][0]
        facts = _facts(coordinator)
        written = coordinator.execute(sql.server.WRITTEN_LOG).fetchall()[0][0]
        members = read_members(coordinator, site.context, claimed=site.claimed_tables)
        inventory = read_inventory(coordinator, members)
        _require_unmoved(planned, members.relations, before, inventory)
        get_run_logger().info("snapshot %s of %d relations at LSN %s", name, len(members.relations), facts["lsn"])
        yield Snapshot(
            name, coordinator, members, inventory, archive,
            facts["instant"], int(facts["xmin"]), int(facts["xmax"]), facts["lsn"], written,
        )  # fmt: skip


def _lock(coordinator: Connection, relations: Iterable[Member]) -> None:
    names = [(relation.schema, relation.name) for relation in relations]
    try:
        coordinator.execute(sql.snapshot.lock_tables(names))
    except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName) as error:
        raise MovedSnapshot(f"a relation was dropped before it was locked: {error}") from error


def _facts(coordinator: Connection) -> dict[str, Any]:
    return coordinator.cursor(row_factory=dict_row).execute(sql.snapshot.SNAPSHOT_FACTS).fetchall()[0]


def _require_unmoved(
    planned: tuple[Member, ...],
    actual: tuple[Member, ...],
    before: list[InventoryItem],
    after: list[InventoryItem],
) -> None:
    if unfinished := [str(relation.unfinished_detach) for relation in actual if relation.unfinished_detach]:
        raise MovedSnapshot("; ".join(unfinished))
    if _identities(planned) != _identities(actual):
        changed = sorted({relation.qualified for relation in {*planned} ^ {*actual}})
        raise MovedSnapshot(f"tables or partitions changed while the snapshot was being taken: {', '.join(changed)}")
    if before != after:
        changed = sorted({f"{item.kind} {item.name}" for item in {*before} ^ {*after}})
        raise MovedSnapshot(f"the schema changed while it was being dumped: {', '.join(changed[:5])}")


def _identities(relations: Iterable[Member]) -> set[tuple[int, int, str | None]]:
    """Return what must not change between lock and snapshot: relations, files, parents."""
    return {(relation.oid, relation.relfilenode, relation.parent) for relation in relations}


def server_facts(connection: Connection) -> tuple[str, int, str, int, bool]:
    """Return system identifier, timeline, version, version number, and whether it is a standby.

    Raises:
        BadInput: the login lacks the privilege to read these facts.
    """
    try:
        facts: tuple[str, int, str, int, bool] = connection.execute(sql.server.SERVER_FACTS).fetchall()[0]
    except psycopg.errors.InsufficientPrivilege as error:
        raise BadInput(
            f"the cluster cannot be identified: {error}; run in that database: GRANT EXECUTE ON "
            "FUNCTION pg_control_system(), "
            f'pg_control_checkpoint() TO "{connection.info.user}"'
        ) from error
    return facts


def position(connection: Connection) -> tuple[SnapshotFacts, int, int]:
    """Return a session's time and LSN, the next transaction id, and its database's oid."""
    facts = connection.cursor(row_factory=dict_row).execute(sql.snapshot.SNAPSHOT_FACTS).fetchall()[0]
    here = placed_snapshot(connection, facts["instant"], int(facts["xmin"]), facts["lsn"])
    return here, int(facts["xmax"]), catalog.read_database(connection).oid


def placed_snapshot(connection: Connection, instant: datetime, xmin: int, lsn: str) -> SnapshotFacts:
    """Return a snapshot with the server, timeline and incarnation of the session."""
    system_identifier, timeline, _, _, standby = server_facts(connection)
    started, address = connection.execute(sql.server.INCARNATION).fetchall()[0]
    return SnapshotFacts(
        instant=instant, xmin=xmin, lsn=lsn, timeline=timeline, system_identifier=system_identifier, standby=standby,
        incarnation=Incarnation(started=started, address=address),
    )  # fmt: skip
