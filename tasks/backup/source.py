"""The source of a backup: checks, before anything is written, that it can be read and stored."""

from dataclasses import dataclass

from tasks.core import sql
from tasks.core.errors import BadInput, OperationError
from tasks.core.postgres.connection import Connection, connect
from tasks.core.postgres.programs import Program, find_program
from tasks.core.postgres.session_limits import require_sessions
from tasks.core.sets.manifest import Snapshot as SnapshotFacts
from tasks.database import catalog
from tasks.database.catalog import Members
from tasks.database.locks import LOCK_WAIT_SECONDS, patient
from tasks.database.snapshot import Snapshot, placed_snapshot, server_facts
from tasks.run.run import Run, jobs, require_space, step, warn_of_unsafe
from tasks.run.site import Site
from tasks.sets.owner import require_owner, require_store


@dataclass(frozen=True)
class Source:
    """Facts about the source, read before the backup; `sizes` are bytes by oid."""

    system_identifier: str
    server: str
    major: int
    pg_dump: Program
    pg_restore: Program
    sizes: dict[int, int]
    unreadable: tuple[tuple[str, str], ...] = ()


@step(repeatable=True)
def check_source(site: Site, run: Run, *, read_others: bool = True) -> Source:
    """Check, before anything is written, that the whole context can be read and stored.

    Without `read_others`, tables of other contexts that the login may not read are left out of the
    schema dump.

    Raises:
        BadInput: the database, a table, a privilege, a program, the store or disk space is missing;
            all missing privileges are named at once.
        MovedSnapshot: a relation is locked for long.
    """
    require_store(site.store, site.context.name)
    with patient(), connect(site.server, site.database, run.title) as connection:
        connection.execute(sql.session.set_lock_timeout(LOCK_WAIT_SECONDS))
        # One for each parallel relation, besides this one.
        require_sessions(connection, jobs(), in_database=True)
        members = catalog.read_members(connection, site.context, claimed=site.claimed_tables if read_others else None)
        unreadable = _require_readable(connection, members, read_others=read_others)
        system_identifier, _, server, number, _ = server_facts(connection)
        sizes = dict(connection.execute(sql.rows.RELATION_BYTES, {"oids": members.oids}).fetchall())
    pg_dump = find_program("pg_dump", number // 10000)
    pg_restore = find_program("pg_restore", pg_dump.major)
    warn_of_unsafe(run, pg_dump, pg_restore)
    # Two relations at a time are staged, seldom at more than half their size.
    require_space(run, sum(sorted(sizes.values())[-2:]) // 2 + (16 << 20))
    # Last, because the very first backup creates the owner's mark in the store.
    require_owner(site.store, site.context.name, system_identifier)
    return Source(system_identifier, server, number // 10000, pg_dump, pg_restore, sizes, tuple(unreadable))


def require_readable(site: Site, run: Run, *, read_others: bool = True) -> None:
    """Check, before a plan that takes a set is published, that this login may read all it needs.

    Raises:
        BadInput: privileges are missing; all of them are named at once.
    """
    with patient(), connect(site.server, site.database, run.title) as connection:
        connection.execute(sql.session.set_lock_timeout(LOCK_WAIT_SECONDS))
        _require_readable(connection, catalog.read_members(connection, site.context), read_others=read_others)


def _require_readable(connection: Connection, members: Members, *, read_others: bool) -> list[tuple[str, str]]:
    """Require SELECT on this context's tables; return others' tables that the login cannot read."""
    own, oids = set(members.chosen_by_class["pg_class"]), {"oids": members.oids}
    login = connection.execute(sql.session.CURRENT_USER).fetchall()[0][0]
    lacking = connection.execute(sql.catalog.UNREADABLE, {"sequences": members.chosen_by_class["pg_class"]}).fetchall()
    spared = [] if read_others else [(schema, name) for *_, oid, schema, name in lacking if oid not in own]
    if unreadable := [row[:4] for row in lacking if read_others or row[4] in own]:
        grants = {f"USAGE ON SCHEMA {schema}" for schema, may_use, _, _ in unreadable if not may_use}
        tables = ", ".join(table for _, _, table, may_select in unreadable if not may_select)
        privileges = [*sorted(grants), *([f"SELECT ON {tables}"] if tables else [])]
        remedy = " ".join(f'GRANT {privilege} TO "{login}";' for privilege in privileges)
        raise BadInput(
            f'role "{login}" may not read {", ".join(row[2] for row in unreadable)} (the whole '
            "schema is dumped, which takes the "
            f"right to read every table); run: {remedy} or, for all tables: GRANT pg_read_all_data "
            f'TO "{login}"'
        )
    if hidden := [row[0] for row in connection.execute(sql.catalog.HIDDEN_BY_ROW_SECURITY, oids)]:
        raise BadInput(
            f'row-level security would hide rows of {", ".join(hidden)} from role "{login}"; run: ALTER ROLE "{login}" BYPASSRLS'
        )
    return spared


def snapshot_facts(source: Source, snapshot: Snapshot) -> SnapshotFacts:
    """Return when and where a snapshot was taken, as its own session reports it.

    Raises:
        OperationError: the address now leads to another cluster than before.
    """
    facts = placed_snapshot(snapshot.coordinator, snapshot.instant, snapshot.xmin, snapshot.lsn)
    if facts.system_identifier != source.system_identifier:
        raise OperationError(
            "connected to a different cluster than before (system identifier "
            f"{facts.system_identifier}, before {source.system_identifier}); find out why the "
            "server's address changed, and run again"
        )
    return facts
