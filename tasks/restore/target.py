"""Choosing the database that a set is restored to, and reporting beforehand all that it lacks."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import psycopg

from tasks.core import sql
from tasks.core.database.objects import RELATIONS
from tasks.core.errors import BadInput, UnsafeTarget
from tasks.core.postgres.connection import Connection, Server, connect, major_of
from tasks.core.postgres.programs import Program, find_program
from tasks.core.postgres.session_limits import require_sessions
from tasks.core.restore.obstacle import Obstacle, gathered, refuse
from tasks.core.restore.report import Purpose
from tasks.core.sets.manifest import Manifest
from tasks.core.sets.owners import owners
from tasks.database.locks import MAINTENANCE_DATABASE
from tasks.database.logins import RESTORER, ROLES, find_loader, find_roles_login
from tasks.database.schema import read_chunks
from tasks.restore.prerequisites import (
    TABLES_MADE,
    barred_schemas,
    barred_tablespaces,
    displaced_extensions,
    few_locks,
    missing_collations,
    missing_extensions,
    missing_members,
    refusing_event_triggers,
    schemas_of_others,
)
from tasks.run.run import Run, jobs, step
from tasks.sets.stage import StagedSet, unpack

# The template of new databases.
TEMPLATE = "template0"


@dataclass(frozen=True)
class Target:
    """The database to create: its final and working name, and what is still to do.

    `loader` is the login that runs the source's code, `roles` the login that creates missing roles.
    """

    name: str
    working_name: str
    server_major: int
    mark: str
    exists: bool = False
    to_do: list[str] = field(default_factory=list)
    created_roles: list[str] = field(default_factory=list)
    lent: list[tuple[str, str]] = field(default_factory=list)
    loader: Server = field(default_factory=Server)
    roles: Server | None = None


def mark_of(context: str, *, scratch: bool = False) -> str:
    """Return the start of the comment on an unfinished database, or a drill's scratch database."""
    return f"scratch database of a drill of {context}:" if scratch else f"unfinished restore of {context}:"


@step
def check_target(
    server: Server, run: Run, manifest: Manifest, target_database: str | None, *, scratch: bool = False, may_exist: bool = False
) -> Target:
    """Check, before anything is changed, all that could prevent restoring the set to this server.

    A scratch database gets a name of its own. An existing database is accepted only with
    `may_exist`, and only if it has no rows of the context.

    Raises:
        UnsafeTarget: a database of that name exists and must not be used.
        BadInput: the server is older than the source, or lacks an extension, a privilege or a role.
    """
    target = new_target(run, manifest.database.name if target_database is None else target_database, scratch=scratch)
    name, obstacles, loader, roles = target.name, list[str](), None, None
    with connect(server, MAINTENANCE_DATABASE, run.title) as connection:
        major = _require_new_enough(connection, manifest)
        exists = connection.execute(sql.databases.DATABASE_EXISTS, {"name": name}).fetchall()[0][0]
        if exists:
            _require_empty(server, run, manifest, name, may_exist=may_exist)
        obstacles += map(str, missing_extensions(connection, manifest, name if may_exist else None, creating=not exists))
        obstacles += map(str, (*schemas_of_others(connection, manifest), *missing_members(manifest)) if not exists else ())
        with gathered(obstacles):
            _require_large_objects(connection, manifest)
        with gathered(obstacles):
            require_right_to_create(connection, creating=not exists)
        with gathered(obstacles):
            loader = find_loader(server, run, owners(manifest), only_superusers=manifest.only_superusers)
        with gathered(obstacles):
            roles = _require_roles(connection, server, run, manifest, loader or server)
    if loader:
        obstacles += _in_the_way_of(loader, run, manifest, name, exists=exists)
    refuse(obstacles)
    working_name = name if exists else target.working_name
    return replace(target, server_major=major, working_name=working_name, exists=exists, loader=loader or server, roles=roles)


def _in_the_way_of(loader: Server, run: Run, manifest: Manifest, name: str, *, exists: bool) -> list[str]:
    """Return the obstacles that prevent the loading login from filling the database."""
    obstacles = list[str]()
    with gathered(obstacles), connect(loader, MAINTENANCE_DATABASE, run.title) as connection:
        # pg_restore and the loads open this many sessions in the new database.
        require_sessions(connection, jobs(), in_database=False)
    with gathered(obstacles):
        _require_fillable(loader, run, manifest, name, exists=exists)
    return obstacles


def _require_new_enough(connection: Connection, manifest: Manifest) -> int:
    """Return the server's major version."""
    major = major_of(connection)
    if major < manifest.versions.server_major:
        raise BadInput(
            f"the server is PostgreSQL {major}, the backup is from "
            f"{manifest.versions.server_major}; restore to the same or a newer major version"
        )
    return major


def new_target(run: Run, name: str, *, scratch: bool = False) -> Target:
    """Return the database to create, with its working name, which is final for a scratch database.

    Raises:
        BadInput: the name is invalid.
    """
    shortened = name.encode()[:40].decode(errors="ignore")
    working_name = f"{shortened}_{'drill' if scratch else 'restoring'}_{run.id}"
    name = working_name if scratch else name
    if not 0 < len(name.encode()) <= 63 or "\0" in name:
        raise BadInput(f'target_database "{name}" is not a name of 1 to 63 bytes; choose another')
    return Target(name, working_name, 0, mark_of(run.context, scratch=scratch))


def _require_empty(server: Server, run: Run, manifest: Manifest, name: str, *, may_exist: bool) -> None:
    """Refuse an existing database, except one with the expected empty tables if it `may_exist`."""
    own = [(relation.namespace, relation.name) for relation in manifest.relations]
    try:
        with connect(server, name, run.title) as connection:
            columns = {(row[0], row[1]): row[2] for row in connection.execute(sql.databases.OWN_COLUMNS, _place(manifest))}
            holding = [relation for relation in columns if _may_hold_rows(connection, *relation)]
    except (psycopg.Error, BadInput) as error:
        problem = f"its content cannot be read ({' '.join(str(error).split())})"
        raise UnsafeTarget(_refusal(name, server, problem)) from error
    has, number = ("holds rows in", len(set(holding) & set(own))) if holding else ("has", len(columns.keys() & set(own)))
    if holding or not may_exist:
        raise UnsafeTarget(_refusal(name, server, f"it {has} {number} of {len(own)} relations"))
    if unlike := list(_unlike(manifest, columns)):
        raise UnsafeTarget(
            _refusal(name, server, f"the definitions of its empty tables differ from those in the backup: {'; '.join(unlike)}")
        )


def _may_hold_rows(connection: Connection, schema: str, name: str) -> bool:
    """Return whether a relation has rows; if reading runs its owner's code, by its size."""
    place = {"name": sql.names.quoted_name(schema, name)}
    if connection.execute(sql.logins.IS_EMPTY_ON_DISK, place).fetchall()[0][0]:
        return False
    runs_code = connection.execute(sql.logins.CODE_WHEN_PLANNED, place).fetchall()[0][0]
    return bool(runs_code or connection.execute(sql.rows.holds_rows(schema, name)).fetchall())


def _place(manifest: Manifest) -> dict[str, list[str]]:
    """Return schemas and names of the set's relations and of their partitioned parents."""
    own = [(relation.namespace, relation.name) for relation in manifest.relations]
    named = [relation.parent.partition(".") for relation in manifest.relations if relation.parent]
    parents = {(schema, table) for schema, _, table in named}
    return {"schemas": [schema for schema, _ in (*own, *parents)], "names": [table for _, table in (*own, *parents)]}


def _require_fillable(loader: Server, run: Run, manifest: Manifest, name: str, *, exists: bool) -> None:
    """Refuse a database whose empty tables the loader may not fill, or where it lacks CREATE."""
    if not exists:
        return
    with connect(loader, name, run.title) as connection:
        barred = [row[0] for row in connection.execute(sql.databases.FOREIGN_OWNED, _place(manifest))]
        login = connection.execute(sql.session.CURRENT_USER).fetchall()[0][0]
        cramped = [*barred_schemas(connection, manifest)]
    if barred:
        remedy = " ".join(f'GRANT "{role}" TO "{login}";' for role in barred)
        raise BadInput(f'login "{login}" may not fill the empty tables of {", ".join(barred)} in database "{name}"; run: {remedy}')
    refuse(cramped)


def _unlike(manifest: Manifest, columns: dict[tuple[str, str], list[str]]) -> Iterator[str]:
    for relation in manifest.relations:
        there = columns.get((relation.namespace, relation.name))
        if there is not None and set(there) != set(relation.columns):
            missing, more = sorted(set(relation.columns) - set(there)), sorted(set(there) - set(relation.columns))
            yield f"{relation.qualified} lacks {', '.join(missing) or 'nothing'}, has more: {', '.join(more) or 'nothing'}"


def _refusal(name: str, server: Server, problem: str) -> str:
    return (
        f'refusing to restore into database "{name}" on the server of {server.name}: it exists and '
        f"{problem}; "
        "name another target_database, or rename or drop that one first"
    )


def _require_large_objects(connection: Connection, manifest: Manifest) -> None:
    """Refuse a login that may not read large objects, if the set has any."""
    large = manifest.large_objects
    if large and large.objects and not connection.execute(sql.large_objects.MAY_READ_ANYWHERE).fetchall()[0][0]:
        login = connection.execute(sql.session.CURRENT_USER).fetchall()[0][0]
        raise BadInput(
            f'login "{login}" may not read large objects, of which the backup has '
            f"{large.objects:,}, to compare them; run: "
            f"{sql.large_objects.let_read(login).as_string()};"
        )


def require_right_to_create(connection: Connection, *, creating: bool = True) -> None:
    """Refuse a login without CREATEDB, if a database is to be created.

    Raises:
        BadInput: the login lacks CREATEDB.
    """
    superuser, createdb, *_ = connection.execute(sql.databases.MY_RIGHTS).fetchall()[0]
    if not creating or superuser or createdb:
        return
    login = connection.execute(sql.session.CURRENT_USER).fetchall()[0][0]
    fit = connection.execute(sql.logins.MAY_CREATE_DATABASES, {"name": RESTORER}).fetchall()[0][0]
    remedy = (
        f'use login "{RESTORER}", which may (PGUSER, or its connector block)' if fit
        else f'run as administrator: ALTER ROLE "{login}" CREATEDB'
    )  # fmt: skip
    raise BadInput(f'login "{login}" may not create databases; {remedy}')


def _require_roles(connection: Connection, server: Server, run: Run, manifest: Manifest, loader: Server) -> Server | None:
    """Return the login that creates the missing roles; None if no role is missing."""
    needed = sorted(role.name for role in manifest.roles)
    existing = {row[0] for row in connection.execute(sql.databases.EXISTING_ROLES, {"names": needed})}
    missing = [role for role in needed if role not in existing]
    roles = find_roles_login(server, run) if missing else None
    if missing and roles is None:
        remedy = " ".join(
            f'CREATE ROLE "{role}" NOLOGIN;'
            + "".join(f' GRANT "{role}" TO "{login}";' for login in dict.fromkeys(members_of(manifest, role, server, loader)))
            for role in missing
        )
        raise BadInput(
            f'roles {", ".join(missing)} are missing, login "{server.user}" may not create them, '
            "and there is no login "
            f'"{ROLES}" that may (BACKUP_ROLES_USER, BACKUP_ROLES_PASSWORD); run as administrator: '
            f"{remedy}"
        )
    return roles


def members_of(manifest: Manifest, role: str, server: Server, loader: Server) -> list[str]:
    """Return the logins that have to be members of a role; the loader only of objects' owners."""
    return [server.user, *([loader.user] if role in owners(manifest) else [])]


def choose_target(purpose: Purpose, server: Server, run: Run, manifest: Manifest, name: str | None) -> Target:
    """Return the database on a server to which a set can be restored.

    Raises:
        BadInput, UnsafeTarget: the set cannot be restored to this server.
    """
    if manifest.only and purpose is Purpose.RECOVERY:
        raise BadInput(
            f"{manifest.id} has only some tables of the context "
            f"({', '.join(manifest.only.tables)}), so it cannot be used for a disaster recovery; "
            "restore it into a separate database with full_restore and target_database"
        )
    target = check_target(server, run, manifest, name, scratch=purpose is Purpose.DRILL, may_exist=purpose is Purpose.RECOVERY)
    find_pg_restore(manifest, target.server_major)
    return target


@step
def require_what_the_archive_needs(staged: StagedSet, target: Target, run: Run) -> None:
    """Check, before anything is created, the prerequisites that only the schema archive shows.

    Raises:
        BadInput: the target lacks a prerequisite, or the loading login may not use it.
    """
    manifest, obstacles = staged.manifest, list[Obstacle]()
    pg_restore = find_pg_restore(manifest, target.server_major)
    archive, listing = unpack(staged, manifest.schema_archive), staged.files[manifest.schema_list.path]
    _, chunks = read_chunks(run, pg_restore, None, archive, listing)
    with connect(target.loader, target.name if target.exists else MAINTENANCE_DATABASE, run.title) as connection:
        obstacles += barred_tablespaces(connection, chunks, manifest, target.name if target.exists else TEMPLATE)
        obstacles += missing_collations(connection, chunks, manifest.database.encoding)
        # All are created, and locked, in one transaction.
        made = RELATIONS if target.exists else RELATIONS - {"index"}
        obstacles += few_locks(connection, sum(item.kind in made for item in manifest.inventory))
        if target.exists:
            obstacles += displaced_extensions(connection, chunks, manifest.database.encoding)
            obstacles += refusing_event_triggers(connection, sql.prerequisites.TRY_TO_MAKE, TABLES_MADE)
    refuse(obstacles)


def find_pg_restore(manifest: Manifest, server_major: int) -> Program:
    """Return a pg_restore that can read the archive and knows the server's version.

    Raises:
        BadInput: no such pg_restore is installed.
    """
    return find_program("pg_restore", max(manifest.versions.pg_dump_major, server_major))
