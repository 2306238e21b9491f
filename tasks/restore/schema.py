"""Restoring the context's part of a dumped schema, section by section."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psycopg
from prefect import get_run_logger

from tasks.core import sql
from tasks.core.errors import ProgramFailed
from tasks.core.postgres import programs
from tasks.core.postgres.archive_script import Chunk
from tasks.core.postgres.archive_toc import failed_entries, parse_list, some_of_list, split_list
from tasks.core.postgres.connection import Connection, Server, connect
from tasks.core.postgres.grants import grants_by_others, takes_from_owner, without_grants_by_others
from tasks.core.postgres.messages import message_of, without_rows
from tasks.core.postgres.programs import Ended, Program
from tasks.core.postgres.source_path import read_source_path
from tasks.database.schema import read_chunks
from tasks.restore.entries import create_all, create_each, create_frame_entry
from tasks.restore.grants import make_grants
from tasks.restore.target import Target
from tasks.run.run import Run, step, warn_of_unsafe

RESTORE_OPTIONS = {"maintenance_work_mem": sql.session.SORT_MEMORY, "synchronous_commit": "off", "client_min_messages": "warning"}


@step(name="restore schemas and extensions")
def restore_frame(server: Server, target: Target, run: Run, pg_restore: Program, archive: Path, listing: Path) -> list[str]:
    """Create schemas and extensions, which contain no code of owners; all of them or none.

    Returns notes about grants on schemas by roles other than their owners.

    Raises:
        ProgramFailed: a schema or extension could not be created.
    """
    # The section that has privileges on `public` depends on the archive: pre-data or post-data.
    settings, chunks = read_chunks(run, pg_restore, None, archive, listing)
    with connect(server, target.working_name, run.title) as connection:
        try:
            with connection.transaction():
                connection.execute(settings)
                for chunk in chunks:
                    create_frame_entry(connection, without_grants_by_others(chunk))
                by_others = [grant for chunk in chunks for grant in grants_by_others(chunk, connection.info.encoding)]
                return make_grants(connection, by_others)
        except psycopg.Error as error:
            if connection.broken:
                raise
            raise ProgramFailed(f"schemas and extensions cannot be created: {message_of(error)}") from None


@step(name="restore {section}")
def restore_section(
    target: Target, run: Run, pg_restore: Program, section: str, archive: Path, listing: Path, schema: str, jobs: int
) -> list[str]:
    """Restore pre-data or post-data of the context's part, as the loading login.

    Return the failures. pre-data is all or nothing; in post-data an object that fails (a key that
    rows violate, say) is reported and the rest continues. Entries that pg_restore fails to execute
    are executed one by one with the search_path that code of `schema` had in the source.

    Raises:
        ProgramFailed: pg_restore was killed or failed, or an entry of pre-data failed.
    """
    warn_of_unsafe(run, pg_restore)
    whole = section == "pre-data"
    # A newer pg_restore sets parameters that older servers lack (transaction_timeout, since 17).
    ended = None if pg_restore.major >= 17 > target.server_major else _run(target, run, pg_restore, section, archive, listing, jobs)
    if ended and not ended.code:
        return []
    if ended and ended.code > 1:
        raise _failure(ended, section)
    settings, chunks = read_chunks(run, pg_restore, section, archive, listing)
    failed = failed_entries(ended.errors, chunks) if ended and not whole else {chunk.dump_id for chunk in chunks}
    if ended and not failed:
        raise _failure(ended, section)
    # Parallel jobs may also have blocked each other in a deadlock, so the entries are tried again.
    again = [chunk for chunk in chunks if chunk.dump_id in failed]
    with connect(target.loader, target.working_name, run.title) as connection:
        path = read_source_path(connection, schema)
        if not whole:
            return create_each(connection, settings, again, path)
        _create_whole(connection, settings, again, path)
    return []


def _create_whole(connection: Connection, settings: bytes, entries: Sequence[Chunk], path: str) -> None:
    """Execute each entry of pre-data; raise `ProgramFailed` if one fails."""
    try:
        create_all(connection, settings, entries, path)
    except psycopg.Error as error:
        if connection.broken:
            raise
        raise ProgramFailed(f"pre-data cannot be restored: {message_of(error)}") from None


def _failure(ended: Ended, section: str) -> ProgramFailed:
    errors = without_rows(ended.errors) or "the program was killed; run again"
    return ProgramFailed(f"{ended.program} ended with exit code {ended.code} in {section}: {errors}")


def _run(target: Target, run: Run, pg_restore: Program, section: str, archive: Path, listing: Path, jobs: int) -> Ended:
    options, stop = programs.restore_options(section, listing), section == "pre-data"
    argv = programs.restore_command(pg_restore, archive, target.working_name, options, jobs, stop=stop)
    ended = run.running.run(argv, target.loader.environment(target.working_name, **RESTORE_OPTIONS), check=False)
    get_run_logger().info("%s restored by pg_restore %s", section, pg_restore.version)
    return ended


@dataclass(frozen=True)
class Listing:
    """Three parts of a -L list: the frame (schemas and extensions), objects, and delegated entries.

    Delegated entries are executed last: they have grants by roles other than the owner, which
    pg_restore can repeat only as a superuser, or revoke privileges of the owner.
    """

    frame: Path
    objects: Path
    delegated: Sequence[Chunk]


def split_listing(run: Run, pg_restore: Program, archive: Path, listing: Path, encoding: str) -> Listing:
    """Return the parts of a -L list."""
    files = run.folder / "frame.list", run.folder / "objects.list"
    _, chunks = read_chunks(run, pg_restore, None, archive, listing)
    frame, objects = split_list(listing.read_text("utf-8"))
    within = {entry.dump_id for entry in parse_list(objects)}
    delegated = [
        chunk for chunk in chunks if chunk.dump_id in within and (takes_from_owner(chunk) or grants_by_others(chunk, encoding))
    ]
    kept = within - {chunk.dump_id for chunk in delegated}
    for file, text in zip(files, (frame, some_of_list(objects, kept)), strict=True):
        file.touch(mode=0o600)
        file.write_text(text, "utf-8")
    return Listing(*files, delegated)


@step
def restore_delegated_grants(server: Server, target: Target, run: Run, delegated: Sequence[Chunk], encoding: str) -> list[str]:
    """Execute entries with others' grants, the owner's first; return notes on those by others."""
    with connect(target.loader, target.working_name, run.title) as connection, connection.transaction():
        connection.execute(sql.session.encode_as(encoding))
        for chunk in delegated:
            connection.execute(without_grants_by_others(chunk).statements)
    # The creating login may become more roles than the loading one; a grant runs no code.
    with connect(server, target.working_name, run.title) as connection:
        return make_grants(connection, [grant for chunk in delegated for grant in grants_by_others(chunk, encoding)])
