"""What a restore needs on its target server, checked before anything is created, with remedies.

Prerequisites that the manifest shows are checked before the download; those that only the schema
archive shows (tablespaces, collations), after it.
"""

import re
from collections.abc import Collection, Iterable, Iterator

import psycopg

from tasks.core import sql
from tasks.core.database.objects import NEEDED_MEMBER
from tasks.core.postgres.archive_script import Chunk, tablespace_of
from tasks.core.postgres.archive_toc import codec_of
from tasks.core.postgres.connection import Connection, major_of
from tasks.core.postgres.messages import message_of
from tasks.core.restore.obstacle import Obstacle
from tasks.core.sets.manifest import Manifest
from tasks.core.sets.owners import owners
from tasks.core.sets.shared_schema import PUBLIC, is_shared, schemas_with_objects
from tasks.core.sql.names import quoted, unquoted
from tasks.database.properties import database_options

# Command tags that stage rows in an existing database, and that create tables in it.
STAGING = frozenset({"CREATE TABLE AS", "DROP TABLE"})
TABLES_MADE = STAGING | {"CREATE TABLE", "ALTER TABLE", "CREATE INDEX"}
MADE_WITH_COLLATION = re.compile(rb"^CREATE (?:UNLOGGED )?(?:TABLE|TYPE|DOMAIN|(?:UNIQUE )?INDEX) ", re.MULTILINE)
COLLATION = re.compile(rb'\bCOLLATE pg_catalog\.("(?:[^"]|"")+"|\w+)')
EXTENSION = re.compile(
    rb'^CREATE EXTENSION IF NOT EXISTS ("(?:[^"]|"")+"|[^\s"]+) WITH SCHEMA ("(?:[^"]|"")+"|[^\s";]+);', re.MULTILINE
)
# No tested server had room for more locks than this multiple of its settings, plus this number.
MOST_LOCKS, MORE_LOCKS = 2.5, 1500


def missing_extensions(
    connection: Connection,
    manifest: Manifest,
    recovered: str | None,
    *,
    creating: bool,
) -> Iterator[Obstacle]:
    """Yield extensions that the server lacks, or that only a superuser may install there.

    If the database is `recovered` under its old name, a superuser may create it in advance.
    """
    barred = list[str]()
    for name, is_available, is_allowed in connection.execute(sql.prerequisites.EXTENSIONS, {"names": manifest.extensions}):
        if not is_available:
            yield Obstacle(
                f"the server lacks extension {name},",
                "which the backup needs",
                "install its package there (postgresql-contrib, or the vendor's)",
            )
        elif creating and not is_allowed:
            barred.append(name)
    if barred:
        yield Obstacle(
            f"extension {', '.join(barred)}",
            f'is not trusted: login "{connection.info.user}" may not install it',
            _by_a_superuser(connection, manifest, barred, recovered),
        )


def _by_a_superuser(connection: Connection, manifest: Manifest, extensions: Iterable[str], recovered: str | None) -> str:
    alone = "restore as a superuser (PGUSER, or the connector block)"
    if recovered is None:
        return alone
    made = sql.databases.create_database(recovered, database_options(manifest.database, major_of(connection))).as_string()
    installed = " ".join(f"CREATE EXTENSION {quoted(name)};" for name in extensions)
    return f"have a superuser run in database postgres: {made}; then in the new one: {installed} and recover again; or {alone}"


def missing_members(manifest: Manifest) -> Iterator[Obstacle]:
    """Yield members of extensions that a new database lacks, and without which the context cannot be created."""
    for item in manifest.by_hand:
        if item.why.startswith(NEEDED_MEMBER):
            yield Obstacle(
                f"{item.name}, which the context needs,",
                f"{item.why.removeprefix(NEEDED_MEMBER)}; a new database lacks it",
                "create database, schemas and extensions by hand, run there the statement that "
                "`by_hand` of manifest.json has for it, and restore into that database",
            )


def uncreatable(connection: Connection, manifest: Manifest, schemas: Collection[str]) -> Iterator[Obstacle]:
    """Yield missing schemas and extensions for which this login lacks CREATE on the database."""
    asked = {"schemas": [*schemas], "extensions": manifest.extensions}
    remedies = {"schema": 'CREATE SCHEMA "{}" AUTHORIZATION …;', "extension": 'CREATE EXTENSION "{}";'}
    for kind, name in connection.execute(sql.logins.CANNOT_BE_MADE, asked).fetchall():
        yield _in_this(connection, f'{kind} "{name}"', "is missing, and cannot be created by", remedies[kind].format(name))


def closed_schemas(connection: Connection, roles: Collection[str], schemas: Collection[str]) -> Iterator[Obstacle]:
    """Yield existing schemas in which this login or a future owner may not create objects."""
    for schema in schemas:
        if connection.execute(sql.databases.SCHEMA_EXISTS, {"schema": schema}).fetchall()[0][0]:
            asked = {"owners": sorted({*roles, connection.info.user}), "schema": schema}
            for (role,) in connection.execute(sql.databases.SCHEMA_CREATORS, asked).fetchall():
                grant = f'GRANT CREATE ON SCHEMA "{schema}" TO "{role}";'
                yield _in_this(
                    connection, f'schema "{schema}"', f'grants no CREATE to "{role}", whose objects are to be created by', grant
                )


def displaced_extensions(connection: Connection, chunks: Iterable[Chunk], encoding: str) -> Iterator[Obstacle]:
    """Yield extensions that are in another schema than in the archive."""
    there: dict[str, str] = dict(connection.execute(sql.prerequisites.EXTENSIONS_HERE).fetchall())
    named = (match.groups() for chunk in chunks for match in EXTENSION.finditer(chunk.statements))
    for words in named:
        name, schema = (unquoted(word.decode(codec_of(encoding), "replace")) for word in words)
        if there.get(name, schema) != schema:
            fact = f"is in schema {quoted(there[name])}, but in {quoted(schema)} in the backup: its objects are not found by"
            move = f"ALTER EXTENSION {quoted(name)} SET SCHEMA {quoted(schema)};"
            yield _in_this(connection, f'extension "{name}"', fact, move)


def missing_here(connection: Connection, manifest: Manifest, needed: Collection[str]) -> Iterator[Obstacle]:
    """Yield needed extensions that a live database lacks: restores in place create none."""
    there = {row[0] for row in connection.execute(sql.prerequisites.EXTENSIONS_HERE)}
    for name in manifest.extensions:
        if name in needed and name not in there:
            yield _in_this(
                connection,
                f'extension "{name}"',
                "is missing, and needed for objects to be created by",
                f'CREATE EXTENSION "{name}";',
            )


def _in_this(connection: Connection, subject: str, fact: str, statement: str) -> Obstacle:
    name, login = connection.info.dbname, connection.info.user
    return Obstacle(f'{subject} of database "{name}"', f'{fact} login "{login}"', f"run there: {statement}")


def schemas_of_others(
    connection: Connection,
    manifest: Manifest,
    there_already: Collection[str] = (),
) -> Iterator[Obstacle]:
    """Yield owners of schemas of which this login is not a member: it could not assign them.

    Schemas of other contexts that have only extensions of this context keep the login as owner.
    """
    own = (item for item in manifest.inventory if item.kind == "schema" and not is_shared(manifest, item))
    schemas = [item for item in own if item.name not in (PUBLIC, *there_already)]
    stated = {item.name: item.state.removeprefix("owner ").partition(" | ")[0] for item in schemas}
    wanted = {"names": sorted({*stated.values()})}
    there = {row[0] for row in connection.execute(sql.databases.EXISTING_ROLES, wanted)}
    question = sql.databases.MAY_BECOME_16 if major_of(connection) >= 16 else sql.databases.MAY_BECOME
    for role in sorted(there - {row[0] for row in connection.execute(question, wanted)}):
        login, named = connection.info.user, ", ".join(f'"{name}"' for name, owner in stated.items() if owner == role)
        yield Obstacle(
            f'login "{login}"',
            f'may not give schema {named} to "{role}"',
            f'run as administrator: GRANT "{role}" TO "{login}";',
        )


def barred_schemas(connection: Connection, manifest: Manifest) -> Iterator[Obstacle]:
    """Yield schemas and extensions that cannot be created, and schemas that admit no objects.

    That includes schemas that have only extensions of the context.
    """
    schemas, there = schemas_with_objects(manifest), [row[0] for row in connection.execute(sql.prerequisites.SCHEMAS_HERE)]
    wanted = {*schemas, *(item.name for item in manifest.inventory if item.kind == "schema")}
    yield from uncreatable(connection, manifest, sorted(wanted))
    yield from schemas_of_others(connection, manifest, there)
    yield from closed_schemas(connection, owners(manifest), schemas)


def tablespaces_of(chunks: Iterable[Chunk], encoding: str) -> list[str]:
    """Return the tablespaces of tables, indexes and views in an archive."""
    names = {unquoted(tablespace_of(chunk).decode(codec_of(encoding), "replace")) for chunk in chunks}
    return sorted(names - {"''"})


def barred_tablespaces(
    connection: Connection,
    chunks: Iterable[Chunk],
    manifest: Manifest,
    database: str,
) -> Iterator[Obstacle]:
    """Yield tablespaces, but the default one, that are missing or that this login may not use."""
    asked = {"names": tablespaces_of(chunks, manifest.database.encoding), "database": database}
    allowed = ", ".join(map(quoted, sorted(owners(manifest))))
    for name, is_there, is_allowed in connection.execute(sql.prerequisites.TABLESPACES, asked):
        grant = f"GRANT CREATE ON TABLESPACE {quoted(name)} TO {allowed};"
        if not is_there:
            made = f"CREATE TABLESPACE {quoted(name)} LOCATION '<an empty folder of the server>';"
            yield Obstacle(f'tablespace "{name}"', "does not exist on the server", f"run as a superuser: {made} {grant}")
        elif not is_allowed:
            fact = f'may not be used by login "{connection.info.user}"'
            yield Obstacle(f'tablespace "{name}"', fact, f"run as a superuser: {grant}")


def missing_collations(connection: Connection, chunks: Iterable[Chunk], encoding: str) -> Iterator[Obstacle]:
    """Yield collations of the operating system that the archive needs and the server lacks."""
    used = (collation for chunk in chunks if chunk.has_class and MADE_WITH_COLLATION.search(chunk.statements)
            for collation in COLLATION.findall(chunk.statements))  # fmt: skip
    names = sorted({unquoted(collation.decode(codec_of(encoding), "replace")) for collation in used})
    asked = {"names": names, "encoding": encoding}
    for (name,) in connection.execute(sql.prerequisites.MISSING_COLLATIONS, asked).fetchall():
        yield Obstacle(
            f'collation pg_catalog."{name}"',
            f"does not exist on the server for {encoding}, and the backup needs it",
            "install that locale there and run as a superuser, in databases postgres and template0 "
            "(ALTER DATABASE template0 ALLOW_CONNECTIONS true;): SELECT "
            "pg_import_system_collations('pg_catalog');",
        )


def few_locks(connection: Connection, needed: int) -> Iterator[Obstacle]:
    """Yield an obstacle if the server's lock table is too small for one transaction of the restore.

    A server has room for more locks than its settings promise
    (https://www.postgresql.org/docs/current/runtime-config-locks.html): 2.0 times as many and a
    thousand were measured on 16, 2.2 times and a thousand on 18.
    """
    each, promised = connection.execute(sql.prerequisites.LOCK_SLOTS).fetchall()[0]
    if needed > MOST_LOCKS * promised + MORE_LOCKS:
        yield Obstacle(
            "the server",
            f"has room for {promised:,} locks (max_locks_per_transaction {each}), and one transaction takes {needed:,}",
            f"run: ALTER SYSTEM SET max_locks_per_transaction = {-(-each * needed // promised)}; and restart the server",
        )


def refusing_event_triggers(
    connection: Connection, tried: Iterable[psycopg.sql.SQL | psycopg.sql.Composed], tags: Collection[str]
) -> Iterator[Obstacle]:
    """Yield event triggers that refuse this login's commands, tried in a transaction undone."""
    there = event_triggers(connection, tags)
    if not there:
        return
    try:
        with connection.transaction(force_rollback=True):
            for statement in tried:
                connection.execute(statement)
    except psycopg.errors.LockNotAvailable:
        # Another session is changing the table.
        raise
    except psycopg.Error as error:
        if connection.broken:
            raise
        names = [quoted(name) for name, _ in there]
        disable, enable = (" ".join(f"ALTER EVENT TRIGGER {name} {word};" for name in names) for word in ("DISABLE", "ENABLE"))
        login, named = connection.info.user, ", ".join(f"{name} ({function})" for name, function in there)
        yield Obstacle(
            f'database "{connection.info.dbname}"',
            f'refuses to create or alter tables for login "{login}": {message_of(error)}, by event triggers {named}',
            f'let their functions allow "{login}", or run as a superuser: {disable} (and afterwards: {enable})',
        )


def event_triggers(connection: Connection, tags: Collection[str]) -> list[tuple[str, str]]:
    """Return the event triggers that fire on some command tags, each with its function."""
    triggers = connection.execute(sql.prerequisites.EVENT_TRIGGERS, {"tags": sorted(tags)}).fetchall()
    return [(name, function) for name, _, function, _ in triggers]
