"""Databases that a restore makes: created under a working name, named when proven equal.

Until everything was compared, the database carries a working name and a comment that marks it as ours; a run that dies
leaves nothing under the final name, and the next run removes what carries the mark.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psycopg
from prefect import get_run_logger
from psycopg import pq

from tasks.core import sql
from tasks.core.database.objects import DatabaseProperties
from tasks.core.errors import BadInput
from tasks.core.postgres.connection import Connection, Server, connect
from tasks.core.postgres.messages import message_of
from tasks.core.postgres.source_path import path_setting
from tasks.core.sets.manifest import Manifest
from tasks.database.locks import MAINTENANCE_DATABASE, ContextLock
from tasks.database.properties import database_options
from tasks.restore.roles import create_roles
from tasks.restore.target import Target, mark_of
from tasks.run.run import Run, step

# Settings that have files of the server run in every session: a person says so, not a set.
LOADS_CODE = re.compile(r"\w*(preload_libraries|library_path|control_path)=", re.IGNORECASE)


@step
def sweep_unfinished(lock: ContextLock, context: str, *, scratch: bool = False) -> list[str]:
    """Drop databases that a run which died left behind, and name them; the lock is held, so none is in use."""
    lock.require_held("databases of runs that died were dropped")
    left = lock.connection.execute(sql.databases.MARKED_DATABASES, {"mark": mark_of(context, scratch=scratch)}).fetchall()
    return [_swept(lock, name, comment) for name, comment in left]


def _drop(connection: Connection, lock: ContextLock, name: str) -> None:
    """Drop a database with the sessions in it that this login may end."""
    lock.require_held(f'database "{name}" was dropped', connection)
    connection.execute(sql.databases.END_SESSIONS, {"name": name})
    connection.execute(sql.databases.drop_database(name))


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
    """Create the database under its working name, and the roles that are missing, NOLOGIN."""
    with connect(server, MAINTENANCE_DATABASE, run.title) as connection:
        options = database_options(manifest.database, target.server_major)
        try:
            connection.execute(sql.databases.create_database(target.working_name, options))
        except psycopg.Error as error:
            raise BadInput(
                f"the database cannot be created with encoding and locale of the source ({dict(options)}): {error}; "
                "install that locale on the server"
            ) from error
        note = f"{target.mark} set {manifest.id}, run {run.id}, begun {run.started:%Y-%m-%d %H:%M:%S}Z"
        connection.execute(sql.databases.comment_on_database(target.working_name, note))
        create_roles(server, run, manifest, target)
        # Code of the source expects it from the first row on; sessions of ours have another.
        if path := path_setting(manifest.database.settings):
            connection.execute(sql.databases.set_for_database(target.working_name, "search_path", path))
        _hand_over(connection, manifest.database, target)
    get_run_logger().info('database "%s" created as "%s"', target.name, target.working_name)


def _hand_over(connection: Connection, source: DatabaseProperties, target: Target) -> None:
    """Give the database to its owner in the source, where this login may; its owner may create in schema public."""
    mine = connection.execute(sql.session.CURRENT_USER).fetchall()[0][0]
    if source.owner == mine:
        return
    question = sql.databases.MAY_BECOME_16 if target.server_major >= 16 else sql.databases.MAY_BECOME
    if connection.execute(question, {"names": [source.owner]}).fetchall():
        connection.execute(sql.databases.set_database_owner(target.working_name, source.owner))
    else:
        target.to_do.append(
            f'the database belonged to "{source.owner}", now to "{mine}": ALTER DATABASE "{target.name}" OWNER TO "{source.owner}"'
        )


@contextmanager
def unforced(run: Run, target: Target) -> Iterator[None]:
    """Let the owner see every row of a database that nobody uses yet, whatever the policies of its tables say.

    They are forced again also where the block fails: what is different is kept to be looked at, as it was restored.
    """
    with connect(target.loader, target.working_name, run.title) as connection, unforced_tables(connection):
        yield


@contextmanager
def unforced_tables(connection: Connection, oids: list[int] | None = None) -> Iterator[None]:
    """Let the owner see every row of these tables, or of all of the database, for the block."""
    tables = connection.execute(sql.logins.FORCED, {"oids": oids}).fetchall()
    for table in tables:
        connection.execute(sql.logins.force_row_security(*table, forced=False))
    try:
        yield
    finally:
        # What an error undoes in a transaction, it undoes with the rest.
        if connection.info.transaction_status != pq.TransactionStatus.INERROR:
            for table in tables:
                connection.execute(sql.logins.force_row_security(*table, forced=True))


@step
def drop_database(server: Server, run: Run, lock: ContextLock, target: Target) -> None:
    """Drop the database under its working name.

    Raises:
        LostLock: the lock was lost; whoever has it now drops what was left.
    """
    with suppress(BadInput), connect(target.loader, MAINTENANCE_DATABASE, run.title) as connection:
        # Whoever makes a database may not end the sessions of the login that loads it.
        lock.require_held(f'database "{target.working_name}" was dropped', connection)
        connection.execute(sql.logins.END_OWN_SESSIONS, {"name": target.working_name})
    with connect(server, MAINTENANCE_DATABASE, run.title) as connection:
        _drop(connection, lock, target.working_name)
    get_run_logger().info('database "%s" dropped', target.working_name)


@step
def keep_database(server: Server, run: Run, lock: ContextLock, manifest: Manifest, target: Target, found: str) -> None:
    """Keep a database under its working name, out of reach of the next run's sweep, with what was found as its comment."""
    with connect(server, MAINTENANCE_DATABASE, run.title) as connection:
        lock.require_held(f'database "{target.working_name}" was kept', connection)
        note = f"restored from {manifest.id} and {found}"
        connection.execute(sql.databases.comment_on_database(target.working_name, note))


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
                sql.databases.set_for_database(name, *setting.split("=", 1)),
                f'ALTER DATABASE "{target.name}" SET {setting}',
                target,
            )
        if source.connection_limit >= 0:
            connection.execute(sql.databases.limit_connections(name, source.connection_limit))
        for setting in source.role_settings:
            target.to_do.append(f"setting of a role in this database: {setting}")
        _grant(connection, source, target)
        with connection.transaction():
            connection.execute(sql.databases.comment_on_database(name, source.comment))
            connection.execute(sql.databases.rename_database(name, target.name))
            lock.require_held(f'database "{name}" was renamed to "{target.name}"', connection)


def _grant(connection: Connection, source: DatabaseProperties, target: Target) -> None:
    """Grant on the database what was granted in the source, to the roles that are here."""
    if not source.restricted:
        return
    connection.execute(sql.databases.revoke_public(target.working_name))
    for grant in source.grants:
        statement = sql.databases.grant_on_database(target.working_name, grant.privilege, grant.role, grantable=grant.grantable)
        _try(connection, statement, f'GRANT {grant.privilege} ON DATABASE "{target.name}" TO {grant.role or "PUBLIC"}', target)


def _try(connection: Connection, statement: psycopg.sql.Composed, said: str, target: Target) -> None:
    try:
        connection.execute(statement)
    except psycopg.errors.Error as error:
        target.to_do.append(f"{said} (refused here: {error})")
