"""Databases that a restore makes: what must be there first, created under a working name, named when proven equal.

Until everything was compared, the database carries a working name and a comment that marks it as ours; a run that dies
leaves nothing under the final name, and the next run removes what carries the mark.
"""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace

import psycopg
from prefect import get_run_logger

from tasks.core import login_sql, sql
from tasks.core.complaints import message_of
from tasks.core.errors import BadInput, UnsafeTarget
from tasks.core.manifest import DatabaseProperties, Manifest
from tasks.core.owners import owners
from tasks.core.servers import Connection, Server, connect, major_of
from tasks.core.session_room import require_sessions
from tasks.locks import MAINTENANCE_DATABASE, ContextLock
from tasks.logins import RESTORER, ROLES, find_loader, find_roles_login
from tasks.runs import Run, jobs, step

# Settings that have files of the server run in every session: a person says so, not a set.
LOADS_CODE = re.compile(r"\w*(preload_libraries|library_path|control_path)=", re.IGNORECASE)
LOCALE_PROVIDERS = {"i": "icu", "c": "libc", "b": "builtin"}


@dataclass(frozen=True)
class Target:
    """The database to make: its final name, the name it works under, and what a human still has to do.

    `loader` is the login in whose sessions the source's code runs, `roles` the one that makes roles which are missing.
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
    """Return how the comment of an unfinished database, or of a drill's scratch database, begins."""
    return f"scratch database of a drill of {context}:" if scratch else f"unfinished restore of {context}:"


@step
def check_target(
    server: Server, run: Run, manifest: Manifest, target_database: str | None, *, scratch: bool = False, may_exist: bool = False
) -> Target:
    """Find out, before anything is touched, whether the set can be restored there; a scratch database gets a name of its own.

    A database that is there is taken only with may_exist, and only if it holds no row of ours.

    Raises:
        UnsafeTarget: a database of that name exists and is not to be used.
        BadInput: the server is older than the source, or lacks an extension, a right or a role.
    """
    target = new_target(run, manifest.database.name if target_database is None else target_database, scratch=scratch)
    name = target.name
    with connect(server, MAINTENANCE_DATABASE, run.title) as connection:
        major = major_of(connection)
        if major < manifest.versions.server_major:
            raise BadInput(
                f"the server is PostgreSQL {major}, the backup is of {manifest.versions.server_major}; "
                "restore to the same or a newer major version"
            )
        exists = connection.execute(sql.DATABASE_EXISTS, {"name": name}).fetchall()[0][0]
        if exists:
            _require_empty(server, run, manifest, name, may_exist=may_exist)
        _require_extensions(connection, manifest)
        _require_right_to_create(connection, creating=not exists)
        loader = find_loader(server, run, owners(manifest))
        roles = _require_roles(connection, server, run, manifest, loader)
    with connect(loader, MAINTENANCE_DATABASE, run.title) as connection:
        # pg_restore and the loads open so many, in the new database.
        require_sessions(connection, jobs(), in_database=False)
    if exists:
        _require_fillable(loader, run, manifest, name)
    working_name = target.name if exists else target.working_name
    return replace(target, server_major=major, working_name=working_name, exists=exists, loader=loader, roles=roles)


def new_target(run: Run, name: str, *, scratch: bool = False) -> Target:
    """Return the database to make, with the name that it has until it is done; a scratch database keeps that one.

    Raises:
        BadInput: it is no name of a database.
    """
    shortened = name.encode()[:40].decode(errors="ignore")
    working_name = f"{shortened}_{'drill' if scratch else 'restoring'}_{run.id}"
    name = working_name if scratch else name
    if not 0 < len(name.encode()) <= 63 or "\0" in name:
        raise BadInput(f'target_database "{name}" is no name of 1 to 63 bytes; choose another')
    return Target(name, working_name, 0, mark_of(run.context, scratch=scratch))


def _require_empty(server: Server, run: Run, manifest: Manifest, name: str, *, may_exist: bool) -> None:
    """Refuse a database that is there, unless it may be and what it has of ours is empty and as expected."""
    own = [(relation.namespace, relation.name) for relation in manifest.relations]
    try:
        with connect(server, name, run.title) as connection:
            columns = {(row[0], row[1]): row[2] for row in connection.execute(sql.OWN_COLUMNS, _place(manifest))}
            holding = [one for one in columns if _may_hold_rows(connection, *one)]
    except (psycopg.Error, BadInput) as error:
        said = f"what it holds cannot be seen ({' '.join(str(error).split())})"
        raise UnsafeTarget(_refusal(name, server, said)) from error
    has, number = ("holds rows in", len(set(holding) & set(own))) if holding else ("has", len(columns.keys() & set(own)))
    if holding or not may_exist:
        raise UnsafeTarget(_refusal(name, server, f"it {has} {number} of {len(own)} relations"))
    if unlike := list(_unlike(manifest, columns)):
        raise UnsafeTarget(_refusal(name, server, f"its empty tables differ from the backup's: {'; '.join(unlike)}"))


def _may_hold_rows(connection: Connection, schema: str, name: str) -> bool:
    """Say whether a relation holds rows; where only its owner's code could tell, one that is not empty on disk counts."""
    place = {"name": sql.quoted_name(schema, name)}
    if connection.execute(login_sql.IS_EMPTY_ON_DISK, place).fetchall()[0][0]:
        return False
    runs_code = connection.execute(login_sql.CODE_WHEN_PLANNED, place).fetchall()[0][0]
    return bool(runs_code or connection.execute(sql.holds_rows(schema, name)).fetchall())


def _place(manifest: Manifest) -> dict[str, list[str]]:
    """Return schemas and names of the set's relations and of the tables that they are partitions of."""
    own = [(relation.namespace, relation.name) for relation in manifest.relations]
    parents = {(schema, table) for schema, _, table in (one.parent.partition(".") for one in manifest.relations if one.parent)}
    return {"schemas": [schema for schema, _ in (*own, *parents)], "names": [table for _, table in (*own, *parents)]}


def _require_fillable(loader: Server, run: Run, manifest: Manifest, name: str) -> None:
    """Refuse a database whose empty tables the loading login may not fill, or in which it may not make what is missing."""
    with connect(loader, name, run.title) as connection:
        barred = [row[0] for row in connection.execute(sql.FOREIGN_OWNED, _place(manifest))]
        login = connection.execute(sql.CURRENT_USER).fetchall()[0][0]
        cramped = [*_schemas_without_create(connection, manifest, login), *_missing_without_create(connection, manifest, login)]
    if barred:
        remedy = " ".join(f'GRANT "{role}" TO "{login}";' for role in barred)
        raise BadInput(f'login "{login}" may not fill the empty tables of {", ".join(barred)} in database "{name}"; run: {remedy}')
    if cramped:
        raise BadInput(f'in database "{name}" objects of the backup cannot be created; run there: {" ".join(cramped)}')


def _missing_without_create(connection: Connection, manifest: Manifest, login: str) -> list[str]:
    """Return what to run so that schemas and extensions that are missing can be made: it takes CREATE on the database."""
    schemas = sorted({relation.namespace for relation in manifest.relations})
    asked = {"schemas": schemas, "extensions": manifest.extensions}
    missing = connection.execute(login_sql.CANNOT_BE_MADE, asked).fetchall()
    remedies = {"schema": 'CREATE SCHEMA "{}" AUTHORIZATION …;', "extension": 'CREATE EXTENSION "{}";'}
    return [remedies[kind].format(name) for kind, name in missing]


def _schemas_without_create(connection: Connection, manifest: Manifest, login: str) -> list[str]:
    """Return the grants that this login, and owners of objects, lack to create in the schemas that are there."""
    granted = list[str]()
    for schema in sorted({relation.namespace for relation in manifest.relations}):
        if connection.execute(sql.SCHEMA_EXISTS, {"schema": schema}).fetchall()[0][0]:
            asked = {"owners": sorted({*owners(manifest), login}), "schema": schema}
            granted += [
                f'GRANT CREATE ON SCHEMA "{schema}" TO "{row[0]}";' for row in connection.execute(sql.SCHEMA_CREATORS, asked)
            ]
    return granted


def _unlike(manifest: Manifest, columns: dict[tuple[str, str], list[str]]) -> Iterator[str]:
    for relation in manifest.relations:
        there = columns.get((relation.namespace, relation.name))
        if there is not None and set(there) != set(relation.columns):
            missing, more = sorted(set(relation.columns) - set(there)), sorted(set(there) - set(relation.columns))
            yield f"{relation.qualified} lacks {', '.join(missing) or 'nothing'}, has more: {', '.join(more) or 'nothing'}"


def _refusal(name: str, server: Server, said: str) -> str:
    return (
        f'refusing to restore into database "{name}" on the server of {server.name}: it exists and {said}; '
        "name another target_database, or rename or drop that one first"
    )


def _require_extensions(connection: Connection, manifest: Manifest) -> None:
    available = {row[0] for row in connection.execute(sql.AVAILABLE_EXTENSIONS)}
    if missing := [name for name in manifest.extensions if name not in available]:
        raise BadInput(
            f"the server lacks extension {', '.join(missing)}, which the backup needs; "
            "install its package there (postgresql-contrib)"
        )


def _require_right_to_create(connection: Connection, *, creating: bool) -> None:
    superuser, createdb, *_ = connection.execute(sql.MY_RIGHTS).fetchall()[0]
    if not creating or superuser or createdb:
        return
    login = connection.execute(sql.CURRENT_USER).fetchall()[0][0]
    fit = connection.execute(login_sql.MAY_CREATE_DATABASES, {"name": RESTORER}).fetchall()[0][0]
    remedy = (
        f'restores are the work of login "{RESTORER}": use that one (PGUSER, or its connector block)' if fit
        else f'run as administrator: ALTER ROLE "{login}" CREATEDB'
    )  # fmt: skip
    raise BadInput(f'login "{login}" may not create databases; {remedy}')


def _require_roles(connection: Connection, server: Server, run: Run, manifest: Manifest, loader: Server) -> Server | None:
    """Return the login that makes the roles which are missing, None where none are.

    Raises:
        BadInput: there is no such login; what has to be run is named.
    """
    needed = sorted(role.name for role in manifest.roles)
    existing = {row[0] for row in connection.execute(sql.EXISTING_ROLES, {"names": needed})}
    missing = [role for role in needed if role not in existing]
    roles = find_roles_login(server, run) if missing else None
    if missing and roles is None:
        remedy = " ".join(
            f'CREATE ROLE "{role}" NOLOGIN;'
            + "".join(f' GRANT "{role}" TO "{login}";' for login in dict.fromkeys(members_of(manifest, role, server, loader)))
            for role in missing
        )
        raise BadInput(
            f'roles {", ".join(missing)} are missing, login "{server.user}" may not create them, and there is no login '
            f'"{ROLES}" that does (BACKUP_ROLES_USER, BACKUP_ROLES_PASSWORD); run as administrator: {remedy}'
        )
    return roles


def members_of(manifest: Manifest, role: str, server: Server, loader: Server) -> list[str]:
    """Return the logins that are to be members of a role: those that load only of what owns something."""
    return [server.user, *([loader.user] if role in owners(manifest) else [])]


@step
def sweep_unfinished(lock: ContextLock, context: str, *, scratch: bool = False) -> list[str]:
    """Drop databases that a run which died left behind, and name them; the lock is held, so none is in use."""
    lock.require_held("databases of runs that died were dropped")
    left = lock.connection.execute(sql.MARKED_DATABASES, {"mark": mark_of(context, scratch=scratch)}).fetchall()
    return [_swept(lock, name, comment) for name, comment in left]


def _drop(connection: Connection, lock: ContextLock, name: str) -> None:
    """Drop a database with the sessions in it that this login may end."""
    lock.require_held(f'database "{name}" was dropped', connection)
    connection.execute(sql.END_SESSIONS, {"name": name})
    connection.execute(sql.drop_database(name))


def _swept(lock: ContextLock, name: str, comment: str) -> str:
    """Drop what a run which died left, and say so; what another login left is only named."""
    try:
        _drop(lock.connection, lock, name)
    except (psycopg.errors.InsufficientPrivilege, psycopg.errors.ObjectInUse) as error:
        swept = (
            f'database "{name}" of a run that died ({comment}) cannot be dropped: {message_of(error)}; '
            f'run as its owner: DROP DATABASE "{name}"'
        )
    else:
        swept = f'database "{name}" of a run that died was dropped ({comment})'
    get_run_logger().warning("%s", swept)
    return swept


@step
def create_database(server: Server, run: Run, manifest: Manifest, target: Target) -> None:
    """Create the roles that are missing, NOLOGIN, and the database under its working name."""
    create_roles(server, run, manifest, target)
    with connect(server, MAINTENANCE_DATABASE, run.title) as connection:
        options = database_options(manifest.database, target.server_major)
        try:
            connection.execute(sql.create_database(target.working_name, options))
        except psycopg.Error as error:
            raise BadInput(
                f"the database cannot be created with encoding and locale of the source ({dict(options)}): {error}; "
                "install that locale on the server"
            ) from error
        note = f"{target.mark} set {manifest.id}, run {run.id}, begun {run.started:%Y-%m-%d %H:%M:%S}Z"
        connection.execute(sql.comment_on_database(target.working_name, note))
        _hand_over(connection, manifest.database, target)
    get_run_logger().info('database "%s" created as "%s"', target.name, target.working_name)


def create_roles(server: Server, run: Run, manifest: Manifest, target: Target) -> None:
    """Create the roles that the objects need and that are missing, NOLOGIN; they are told as to do."""
    if target.roles is None:
        return
    with connect(target.roles, MAINTENANCE_DATABASE, run.title) as connection:
        _create_roles(connection, server, manifest, target)


def _create_roles(connection: Connection, server: Server, manifest: Manifest, target: Target) -> None:
    names = [role.name for role in manifest.roles]
    existing = {row[0] for row in connection.execute(sql.EXISTING_ROLES, {"names": names})}
    for role in manifest.roles:
        if role.name in existing:
            continue
        connection.execute(sql.create_role(role.name))
        target.created_roles.append(role.name)
        for login in dict.fromkeys(members_of(manifest, role.name, server, target.loader)):
            connection.execute(login_sql.grant_role(role.name, login, target.server_major))
        was = [word for word, had in (("LOGIN", role.login), ("SUPERUSER", role.superuser), ("CREATEDB", role.createdb),
                                      ("CREATEROLE", role.createrole), ("BYPASSRLS", role.bypassrls)) if had]  # fmt: skip
        member = f", member of {', '.join(role.member_of)}" if role.member_of else ""
        target.to_do.append(
            f'role "{role.name}" was created NOLOGIN without password; in the source it was {" ".join(was) or "NOLOGIN"}{member}'
        )


def database_options(source: DatabaseProperties, major: int) -> list[tuple[str, str]]:
    """Return what CREATE DATABASE has to say so that text sorts and compares as in the source."""
    options = [("ENCODING", source.encoding), ("LC_COLLATE", source.collate), ("LC_CTYPE", source.ctype)]
    provider = LOCALE_PROVIDERS.get(source.locale_provider or "c", "libc")
    if major >= 15:
        options.append(("LOCALE_PROVIDER", provider))
    if source.locale and provider != "libc":
        options.append(("ICU_LOCALE" if provider == "icu" else "BUILTIN_LOCALE", source.locale))
    if source.icu_rules and major >= 16:
        options.append(("ICU_RULES", source.icu_rules))
    return options


def _hand_over(connection: Connection, source: DatabaseProperties, target: Target) -> None:
    """Give the database to its owner in the source, where this login may; its owner may create in schema public."""
    mine = connection.execute(sql.CURRENT_USER).fetchall()[0][0]
    if source.owner == mine:
        return
    question = sql.MAY_BECOME_16 if target.server_major >= 16 else sql.MAY_BECOME
    if connection.execute(question, {"names": [source.owner]}).fetchall():
        connection.execute(sql.set_database_owner(target.working_name, source.owner))
    else:
        target.to_do.append(
            f'the database belonged to "{source.owner}", now to "{mine}": ALTER DATABASE "{target.name}" OWNER TO "{source.owner}"'
        )


def allow_owners(server: Server, run: Run, manifest: Manifest, target: Target) -> None:
    """Let owners of objects create in the schemas that are there, as ALTER … OWNER TO demands of them."""
    with connect(server, target.working_name, run.title) as connection:
        for schema in sorted({relation.namespace for relation in manifest.relations}):
            lend_create(connection, target, schema, owners(manifest))


def lend_create(connection: Connection, target: Target, schema: str, roles: Iterable[str]) -> None:
    """Let roles create in a schema, if it is there, and remember which could not before."""
    if connection.execute(sql.SCHEMA_EXISTS, {"schema": schema}).fetchall()[0][0]:
        asked = {"owners": sorted(roles), "schema": schema}
        lent = [(schema, row[0]) for row in connection.execute(sql.SCHEMA_CREATORS, asked)]
        for one in lent:
            connection.execute(sql.grant_create(*one))
        target.lent.extend(lent)


@contextmanager
def unforced(run: Run, target: Target) -> Iterator[None]:
    """Let the owner see every row of a database that nobody uses yet, whatever the policies of its tables say."""
    with connect(target.loader, target.working_name, run.title) as connection:
        tables = connection.execute(login_sql.FORCED).fetchall()
        for table in tables:
            connection.execute(login_sql.force_row_security(*table, forced=False))
        yield
        for table in tables:
            connection.execute(login_sql.force_row_security(*table, forced=True))


@step
def take_back_rights(server: Server, run: Run, manifest: Manifest, target: Target) -> None:
    """Take back what owners were lent for the restore and did not have in the source."""
    privileges = {item.name: item.state for item in manifest.inventory if item.kind == "schema"}
    with connect(server, target.working_name, run.title) as connection:
        for schema, role in target.lent:
            if f" {role}=CREATE" not in privileges.get(schema, ""):
                connection.execute(sql.revoke_create(schema, role))


@step
def drop_database(server: Server, run: Run, lock: ContextLock, target: Target) -> None:
    """Drop the database under its working name.

    Raises:
        LostLock: the lock was lost; whoever has it now drops what was left.
    """
    with suppress(BadInput), connect(target.loader, MAINTENANCE_DATABASE, run.title) as connection:
        # Whoever makes a database may not end the sessions of the login that loads it.
        lock.require_held(f'database "{target.working_name}" was dropped', connection)
        connection.execute(login_sql.END_OWN_SESSIONS, {"name": target.working_name})
    with connect(server, MAINTENANCE_DATABASE, run.title) as connection:
        _drop(connection, lock, target.working_name)
    get_run_logger().info('database "%s" dropped', target.working_name)


@step
def drop_roles(server: Server, run: Run, target: Target) -> None:
    """Drop the roles that were created for a database which is gone again; one that is used meanwhile stays."""
    with connect(target.roles or server, MAINTENANCE_DATABASE, run.title) as connection:
        for role in target.created_roles:
            try:
                connection.execute(sql.drop_role(role))
            except psycopg.Error as error:
                if connection.broken:
                    raise
                get_run_logger().warning('role "%s", created for this run, stays: %s', role, message_of(error))


@step
def keep_database(server: Server, run: Run, lock: ContextLock, manifest: Manifest, target: Target, found: str) -> None:
    """Keep a database under its working name, out of reach of the next run's sweep, with what was found as its comment."""
    with connect(server, MAINTENANCE_DATABASE, run.title) as connection:
        lock.require_held(f'database "{target.working_name}" was kept', connection)
        note = f"restored from {manifest.id} and {found}"
        connection.execute(sql.comment_on_database(target.working_name, note))


@step
def finish_database(server: Server, run: Run, lock: ContextLock, manifest: Manifest, target: Target) -> None:
    """Set what ALTER DATABASE had set in the source and give the database its final name."""
    source, name = manifest.database, target.working_name
    with connect(server, MAINTENANCE_DATABASE, run.title) as connection:
        lock.require_held(f'database "{name}" got its settings', connection)
        for setting in source.settings:
            if LOADS_CODE.match(setting):
                target.to_do.append(f'ALTER DATABASE "{target.name}" SET {setting} (it loads code into every session)')
                continue
            _try(
                connection,
                sql.set_for_database(name, *setting.split("=", 1)),
                f'ALTER DATABASE "{target.name}" SET {setting}',
                target,
            )
        if source.connection_limit >= 0:
            connection.execute(sql.limit_connections(name, source.connection_limit))
        for setting in source.role_settings:
            target.to_do.append(f"setting of a role in this database: {setting}")
        _grant(connection, source, target)
        with connection.transaction():
            connection.execute(sql.comment_on_database(name, source.comment))
            connection.execute(sql.rename_database(name, target.name))
            lock.require_held(f'database "{name}" was renamed to "{target.name}"', connection)


def _grant(connection: Connection, source: DatabaseProperties, target: Target) -> None:
    """Grant on the database what was granted in the source, to the roles that are here."""
    if not source.restricted:
        return
    connection.execute(sql.revoke_public(target.working_name))
    for grant in source.grants:
        statement = sql.grant_on_database(target.working_name, grant.privilege, grant.role, grantable=grant.grantable)
        _try(connection, statement, f'GRANT {grant.privilege} ON DATABASE "{target.name}" TO {grant.role or "PUBLIC"}', target)


def _try(connection: Connection, statement: psycopg.sql.Composed, said: str, target: Target) -> None:
    try:
        connection.execute(statement)
    except psycopg.errors.Error as error:
        target.to_do.append(f"{said} (refused here: {error})")
