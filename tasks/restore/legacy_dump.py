"""Restoring a single pg_dump archive, made by older scripts, entry by entry.

Entries that fail are reported; all others are restored.
"""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import takewhile
from pathlib import Path

import psycopg
from prefect import get_run_logger

from tasks.checks.integrity import run_checks
from tasks.core import sql
from tasks.core.checks.definition import failures
from tasks.core.database.comparison import missing_objects
from tasks.core.errors import BadInput, DamagedSet, OperationError, ProgramFailed, UnsafeTarget
from tasks.core.postgres import programs
from tasks.core.postgres.archive_script import Chunk, parse_chunks, without_place
from tasks.core.postgres.connection import Connection, Server, complaint_of, connect, major_of
from tasks.core.postgres.messages import message_of
from tasks.core.postgres.programs import Program, find_program
from tasks.core.restore.legacy_dump import COPY, END_OF_ROWS, OWNER, ArchiveFacts, ArchiveRestore, Loaded, parse_archive_facts
from tasks.core.sets.manifest import Manifest
from tasks.core.sets.owners import owners
from tasks.database import catalog
from tasks.database.locks import MAINTENANCE_DATABASE, ContextLock
from tasks.database.logins import find_loader
from tasks.restore.database import drop_database
from tasks.restore.fill import analyze
from tasks.restore.legacy_file import PUBLIC
from tasks.restore.roles import lend_create
from tasks.restore.target import Target, new_target
from tasks.run.run import Run
from tasks.run.site import Site
from tasks.sets.choose import newest_full

CHECK_SECONDS = 300
FRAME = ("`CREATE SCHEMA ", "`CREATE EXTENSION ", "`COMMENT ON EXTENSION ", "`COMMENT ON SCHEMA ")


def restore_archive(
    site: Site,
    run: Run,
    lock: ContextLock,
    file: Path,
    path: str,
    target_database: str,
) -> ArchiveRestore:
    """Restore an archive into a new database, dropped again if the archive's end is not reached.

    Raises:
        UnsafeTarget: the database exists.
        BadInput: the server is older than the archive's server.
        DamagedSet: the archive cannot be read to its end.
    """
    started = time.monotonic()
    with connect(site.server, MAINTENANCE_DATABASE, run.title) as connection:
        major = major_of(connection)
        exists = connection.execute(sql.databases.DATABASE_EXISTS, {"name": target_database}).fetchall()[0][0]
    if exists:
        raise UnsafeTarget(f'refusing to restore into database "{target_database}": it exists; name another target_database')
    pg_restore, facts = _read_facts(run, file, path, major)
    if facts.server_major > major:
        raise BadInput(f"the server is PostgreSQL {major}, {path} is from {facts.server_major}; name a newer server")
    restore = ArchiveRestore(facts, target_database)
    target = replace(new_target(run, target_database), loader=_find_loader(site, run, file, pg_restore))
    with _new_database(site, run, lock, target, facts):
        _fill(site, run, restore, target, file, pg_restore)
        try:
            restore.lacks += _lacking(site, run, target)
            checked = target.loader, target.working_name, run, site.context, site.files, CHECK_SECONDS, run.started, target.loader
            restore.violations += [
                f"{failure.check}: {failure.offending:,} rows. {failure.note}" for failure in failures(run_checks(*checked))
            ]
        except BadInput as error:
            restore.lacks.append(f"objects that the context's checks need are missing: {error}")
    restore.seconds = time.monotonic() - started
    return restore


def _read_facts(run: Run, file: Path, path: str, major: int) -> tuple[Program, ArchiveFacts]:
    """Return a pg_restore that can read the archive, and the archive's facts."""
    program, complaint = find_program("pg_restore", major), ""
    while True:
        try:
            listing = run.running.run(programs.list_command(program, file), {}).output.decode(errors="replace")
            settings, _ = _chunks(run, program, file, "pre-data")
            break
        except ProgramFailed as error:
            complaint = str(error)
            try:
                program = find_program("pg_restore", program.major + 1)
            except BadInput:
                raise DamagedSet(
                    f"{path} cannot be read: {complaint}; restore another file, or install a newer pg_restore"
                ) from error
    encoding = settings.partition(b"SET client_encoding = '")[2].partition(b"'")[0].decode() or "UTF8"
    return program, parse_archive_facts(path, file.stat().st_size, listing, encoding)


def _chunks(run: Run, program: Program, file: Path, section: str) -> tuple[bytes, list[Chunk]]:
    argv = programs.script_command(program, file, [f"--section={section}", "--no-tablespaces"])
    return parse_chunks(run.running.run(argv, {}).output)


@contextmanager
def _new_database(site: Site, run: Run, lock: ContextLock, target: Target, facts: ArchiveFacts) -> Iterator[None]:
    """Create the database under its working name; rename it after the block, drop it on failure."""
    # The archive states its encoding, from which the server converts; SQL_ASCII cannot be
    # converted.
    ascii_only = [("ENCODING", "SQL_ASCII"), ("LC_COLLATE", "C"), ("LC_CTYPE", "C")]
    options = ascii_only if facts.encoding == "SQL_ASCII" else [("ENCODING", "UTF8")]
    try:
        with connect(site.server, MAINTENANCE_DATABASE, run.title) as connection:
            connection.execute(sql.databases.create_database(target.working_name, options))
            connection.execute(sql.databases.comment_on_database(target.working_name, f"{target.mark} {facts.path}, run {run.id}"))
        yield
        with connect(site.server, MAINTENANCE_DATABASE, run.title) as connection, connection.transaction():
            connection.execute(sql.databases.comment_on_database(target.working_name, f"restored from {facts.path}"))
            connection.execute(sql.databases.rename_database(target.working_name, target.name))
            lock.require_held(f'database "{target.working_name}" was renamed to "{target.name}"', connection)
    except BaseException:
        run.running.stop(final=False)
        drop_database(site.server, run, lock, target)
        raise


def _owners_of(chunks: Iterable[Chunk]) -> set[str]:
    return {sql.names.unquoted(name.decode()) for chunk in chunks for name in OWNER.findall(chunk.statements)}


def _find_loader(site: Site, run: Run, file: Path, pg_restore: Program) -> Server:
    """Return the login that runs the archive's code, by its owners, or else the newest set's."""
    full, (_, chunks) = _newest_full(site), _chunks(run, pg_restore, file, "pre-data")
    return find_loader(site.server, run, _owners_of(chunks) | (owners(full) if full else set()), is_live=True)


def _fill(site: Site, run: Run, restore: ArchiveRestore, target: Target, file: Path, pg_restore: Program) -> None:
    """Restore the archive: schemas and extensions as the creating login, all else as the loader."""
    full = _newest_full(site)
    settings, chunks = _chunks(run, pg_restore, file, "pre-data")
    with connect(site.server, target.working_name, run.title) as connection:
        for extension in full.extensions if full else []:
            # An archive of some tables lacks the extensions that defaults of these tables need.
            with suppress(psycopg.Error):
                connection.execute(sql.databases.create_extension(extension))
        restore.complaints += _make(connection, settings, [chunk for chunk in chunks if _is_frame(chunk)])
        lend_create(connection, target, PUBLIC, {*_owners_of(chunks), target.loader.user})
    with connect(target.loader, target.working_name, run.title) as connection:
        restore.complaints += _make(connection, settings, [chunk for chunk in chunks if not _is_frame(chunk)])
        try:
            with run.running.lines(programs.data_command(pg_restore, file), {}) as lines:
                _load(connection, lines, restore)
        except ProgramFailed as error:
            raise DamagedSet(f"{restore.facts.path} cannot be read to its end: {error}; restore another file") from error
        restore.complaints += _make(connection, *_chunks(run, pg_restore, file, "post-data"))
    restore.complaints += analyze(target.loader, target.working_name, run, site.context.namespace)
    with connect(site.server, target.working_name, run.title) as connection:
        for lent in target.lent:
            connection.execute(sql.databases.revoke_create(*lent))
        # Objects whose owner does not exist here stay with the login that created the database.
        if complaint := complaint_of(connection, sql.logins.take_over(target.loader.user)):
            restore.complaints.append(f'objects of login "{target.loader.user}" could not be given to their owners: {complaint}')


def _is_frame(chunk: Chunk) -> bool:
    """Return whether an entry is of a schema or extension, which needs CREATE on the database."""
    return _title(chunk).startswith(FRAME)


def _make(connection: Connection, settings: bytes, chunks: Iterable[Chunk]) -> list[str]:
    """Create a section's objects one by one, with owners if possible; return the failures."""
    connection.execute(settings)
    complaints = list[str]()
    for chunk in chunks:
        complaint = complaint_of(connection, chunk.statements, but=(psycopg.errors.DuplicateSchema,))
        without_owner = OWNER.sub(b"", chunk.statements)
        if complaint and without_owner != chunk.statements and not complaint_of(connection, without_owner):
            complaint = f"created, but could not be given to its owner: {complaint}"
        complaints += [f"{_title(chunk)}: {complaint}"] if complaint else []
    return list(dict.fromkeys(complaints))


def _title(chunk: Chunk) -> str:
    """Return the first line of an entry's statement."""
    lines = [
        line for line in without_place(chunk).decode(errors="replace").splitlines() if line.strip() and not line.startswith("--")
    ]
    return f"`{lines[0][:120]}`" if lines else f"entry {chunk.dump_id}"


def _load(connection: Connection, lines: Iterator[bytes], restore: ArchiveRestore) -> None:
    """Load the rows; count lines of large objects and INSERT statements, which are not loaded."""
    for line in lines:
        if match := COPY.fullmatch(line):
            rows = takewhile(lambda row: row != END_OF_ROWS, lines)
            restore.loaded.append(_copy(connection, match["table"].decode(errors="replace"), line, rows))
        elif line.startswith((b"SET ", b"SELECT pg_catalog.set")):
            complaint = complaint_of(connection, line)
            # Servers before 17 lack this setting.
            if complaint and not line.startswith(b"SET transaction_timeout"):
                restore.complaints.append(f"`{line.decode(errors='replace').strip()[:120]}`: {complaint}")
        elif line.strip() and not line.startswith((b"--", b"\\")):
            restore.unread += 1


def _copy(connection: Connection, table: str, statement: bytes, rows: Iterator[bytes]) -> Loaded:
    count = 0
    try:
        with connection.cursor() as cursor:
            with cursor.copy(statement) as copy:
                for row in rows:
                    count += 1
                    copy.write(row)
            loaded = cursor.rowcount
    except psycopg.DatabaseError as error:
        if connection.broken:
            raise
        return Loaded(table, count + sum(1 for _ in rows), 0, message_of(error))
    get_run_logger().info("%s: %d rows loaded", table, loaded)
    return Loaded(table, count, loaded)


def _newest_full(site: Site) -> Manifest | None:
    """Return the newest full; None if the store does not answer."""
    with suppress(OperationError):
        return newest_full(site.store, site.context.name)
    return None


def _lacking(site: Site, run: Run, target: Target) -> list[str]:
    """Return which objects of the context, and of the newest set, the database lacks."""
    full, context = _newest_full(site), site.context
    with connect(site.server, target.working_name, run.title) as connection:
        there = catalog.present(connection, context)
        gone = [f"table {name} of the context" for name in context.tables if name not in there.tables]
        gone += [f"view {name} of the context" for name in context.views if name not in there.views]
        empty = connection.execute(sql.databases.WITHOUT_PARTITIONS).fetchall()
        gone += [f"all partitions of {row[0]}: the file has none of its rows" for row in empty]
        if full:
            inventory = catalog.read_inventory(connection, catalog.read_members(connection, there), full.inventory)
            missing = [name for name in missing_objects(full.inventory, inventory) if name not in gone]
            gone += [f"{name} ({full.id} has it)" for name in missing]
    return gone
