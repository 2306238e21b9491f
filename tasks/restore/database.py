"""Databases that a restore creates: under a working name until they are proven equal to the backup.

Until then the database has a comment that marks it as unfinished. A run that dies leaves no
database under the final name, and the next run drops databases with that mark.
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

# Settings that load code into every session: they are not applied from a set; an administrator has
# to set them.
LOADS_CODE = re.compile(r"\w*(preload_libraries|library_path|control_path)=", re.IGNORECASE)


@step
def sweep_unfinished(lock: ContextLock, context: str, *, scratch: bool = False) -> list[str]:
    """Drop databases left by dead runs, as the held lock ensures, and return notes on them."""
    lock.require_held("databases of dead runs were dropped")
    left = lock.connection.execute(sql.databases.MARKED_DATABASES, {"mark": mark_of(context, scratch=scratch)}).fetchall()
    return [_swept(lock, name, comment) for name, comment in left]


def _drop(connection: Connection, lock: ContextLock, name: str) -> None:
    """Drop a database, ending those of its sessions that this login may end."""
    lock.require_held(f'database "{name}" was dropped', connection)
    connection.execute(sql.databases.END_SESSIONS, {"name": name})
    connection.execute(sql.databases.drop_database(name))


def _swept(lock: ContextLock, name: str, comment: str) -> str:
    """Drop a dead run's database, if it is this login's, and return a note."""
    try:
        _drop(lock.connection, lock, name)
    except (psycopg.errors.InsufficientPrivilege, psycopg.errors.ObjectInUse) as error:
        swept = (
            f'database "{name}" of a dead run ({comment}) cannot be dropped: {message_of(error)}; '
            f'run as its owner: DROP DATABASE "{name}"'
        )
    else:
        swept = f'database "{name}" of a dead run was dropped ({comment})'
    get_run_logger().warning("%s", swept)
    return swept


@step
def create_database(server: Server, run: Run, manifest: Manifest, target: Target) -> None:
    """Create the database under its working name, and the missing roles, NOLOGIN."""
    with connect(server, MAINTENANCE_DATABASE, run.title) as connection:
        options = database_options(manifest.database, target.server_major)
        try:
            connection.execute(sql.databases.create_database(target.working_name, options))
        except psycopg.Error as error:
            raise BadInput(
                "the database cannot be created with the source's encoding and locale "
                f"({dict(options)}): {error}; install that locale on the server"
            ) from error
        note = f"{target.mark} set {manifest.id}, run {run.id}, begun {run.started:%Y-%m-%d %H:%M:%S}Z"
        connection.execute(sql.databases.comment_on_database(target.working_name, note))
        create_roles(server, run, manifest, target)
        # The source's code needs this setting while rows are loaded; the sessions of this project
        # override it.
        if path := path_setting(manifest.database.settings):
            connection.execute(sql.databases.set_for_database(target.working_name, "search_path", path))
        _hand_over(connection, manifest.database, target)
    get_run_logger().info('database "%s" created as "%s"', target.name, target.working_name)


def _hand_over(connection: Connection, source: DatabaseProperties, target: Target) -> None:
    """Give the database to its owner in the source, if allowed: owners may create in public."""
    mine = connection.execute(sql.session.CURRENT_USER).fetchall()[0][0]
    if source.owner == mine:
        return
    question = sql.databases.MAY_BECOME_16 if target.server_major >= 16 else sql.databases.MAY_BECOME
    if connection.execute(question, {"names": [source.owner]}).fetchall():
        connection.execute(sql.databases.set_database_owner(target.working_name, source.owner))
    else:
        target.to_do.append(
            f'the database belonged to "{source.owner}", and now belongs to "{mine}": run ALTER '
            f'DATABASE "{target.name}" OWNER TO "{source.owner}"'
        )


@contextmanager
def unforced(run: Run, target: Target) -> Iterator[None]:
    """Lift FORCE ROW LEVEL SECURITY in a new database, so that owners see every row.

    FORCE is set again even if the block fails, because a database that differs is kept for
    inspection.
    """
    with connect(target.loader, target.working_name, run.title) as connection, unforced_tables(connection):
        yield


@contextmanager
def unforced_tables(connection: Connection, oids: list[int] | None = None) -> Iterator[None]:
    """Lift FORCE ROW LEVEL SECURITY on these or all tables of the database, for the block."""
    tables = connection.execute(sql.logins.FORCED, {"oids": oids}).fetchall()
    for table in tables:
        connection.execute(sql.logins.force_row_security(*table, forced=False))
    try:
        yield
    finally:
        # After an error, the rollback of the transaction restores it.
        if connection.info.transaction_status != pq.TransactionStatus.INERROR:
            for table in tables:
                connection.execute(sql.logins.force_row_security(*table, forced=True))


@step
def drop_database(server: Server, run: Run, lock: ContextLock, target: Target) -> None:
    """Drop the database under its working name.

    Raises:
        LostLock: the context's lock was lost; the run that holds it now drops the database.
    """
    with suppress(BadInput), connect(target.loader, MAINTENANCE_DATABASE, run.title) as connection:
        # The login that creates databases may not end sessions of the login that loads them.
        lock.require_held(f'database "{target.working_name}" was dropped', connection)
        connection.execute(sql.logins.END_OWN_SESSIONS, {"name": target.working_name})
    with connect(server, MAINTENANCE_DATABASE, run.title) as connection:
        _drop(connection, lock, target.working_name)
    get_run_logger().info('database "%s" dropped', target.working_name)


@step
def keep_database(server: Server, run: Run, lock: ContextLock, manifest: Manifest, target: Target, result: str) -> None:
    """Keep a database under its working name, its result as comment: the next run leaves it."""
    with connect(server, MAINTENANCE_DATABASE, run.title) as connection:
        lock.require_held(f'database "{target.working_name}" was kept', connection)
        note = f"restored from {manifest.id} and {result}"
        connection.execute(sql.databases.comment_on_database(target.working_name, note))


@step
def finish_database(server: Server, run: Run, lock: ContextLock, manifest: Manifest, target: Target) -> None:
    """Apply the source's ALTER DATABASE settings, and rename the database to its final name."""
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
    """Apply the source's grants on the database to roles that exist on this server."""
    if not source.restricted:
        return
    connection.execute(sql.databases.revoke_public(target.working_name))
    for grant in source.grants:
        statement = sql.databases.grant_on_database(target.working_name, grant.privilege, grant.role, grantable=grant.grantable)
        _try(connection, statement, f'GRANT {grant.privilege} ON DATABASE "{target.name}" TO {grant.role or "PUBLIC"}', target)


def _try(connection: Connection, statement: psycopg.sql.Composed, command: str, target: Target) -> None:
    try:
        connection.execute(statement)
    except psycopg.errors.Error as error:
        target.to_do.append(f"{command} (refused on this server: {error})")
