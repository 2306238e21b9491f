"""Dumping the whole schema, and listing the context's part of it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from prefect import get_run_logger

from tasks.core import sql
from tasks.core.database.dependencies import ObjectId
from tasks.core.errors import MovedSnapshot, OperationError, ProgramFailed
from tasks.core.postgres import programs
from tasks.core.postgres.archive_script import Chunk, parse_chunks
from tasks.core.postgres.archive_toc import (
    Origin,
    choose_entries,
    parse_dependencies,
    parse_list,
    parse_origin,
    render_list,
    statements_of,
)
from tasks.core.postgres.programs import Program
from tasks.core.postgres.schema_text import digest_of
from tasks.database.locks import LOCK_WAIT_SECONDS
from tasks.run.run import Run, step, warn_of_unsafe
from tasks.run.site import Site


@step
def dump_schema(
    site: Site, run: Run, pg_dump: Program, archive: Path, encoding: str, unreadable: Sequence[tuple[str, str]]
) -> None:
    """Dump the whole database's schema, except unreadable tables of others; custom format, 0600.

    Raises:
        MovedSnapshot: pg_dump failed, as when a table is dropped meanwhile; a retry may succeed.
    """
    archive.touch(mode=0o600)
    spared = [sql.names.quoted_name(*name) for name in unreadable]
    argv = programs.dump_schema_command(pg_dump, archive, site.database, encoding, LOCK_WAIT_SECONDS, spared)
    try:
        run.running.run(argv, site.server.environment(site.database))
    except ProgramFailed as error:
        raise MovedSnapshot(f"the schema could not be dumped: {error}") from error
    get_run_logger().info("schema dumped by pg_dump %s: %d bytes", pg_dump.version, archive.stat().st_size)


@dataclass(frozen=True)
class Wanted:
    """The part of an archive to restore, by (classid, oid) and schemas, and its expected origin.

    For objects `outside` that part, with the parts of each, only their statements are returned, in the archive's encoding.
    """

    origin: Origin
    schemas: frozenset[str]
    objects: frozenset[ObjectId]
    outside: Mapping[ObjectId, Collection[ObjectId]]
    encoding: str


@dataclass(frozen=True)
class ContextPart:
    """The context's -L list, a digest of its objects, and the statements of other objects."""

    listing: str
    digest: str
    statements: Mapping[ObjectId, str]


def context_part(run: Run, pg_restore: Program, archive: Path, wanted: Wanted) -> ContextPart:
    """Return the context's part of the archive.

    Raises:
        OperationError: the archive was dumped from another database, or has nothing of the context.
    """
    listed = run.running.run(programs.list_command(pg_restore, archive), {}).output.decode(errors="replace")
    _require_origin(parse_origin(listed), wanted.origin)
    script = run.running.run(programs.script_command(pg_restore, archive), {}).output
    entries, dependencies = parse_list(listed), parse_dependencies(script.decode(errors="replace"))
    chosen = choose_entries(entries, dependencies, wanted.objects, wanted.schemas)
    digest = digest_of(parse_chunks(script)[1], {entry.dump_id for entry in chosen})
    return ContextPart(render_list(chosen), digest, statements_of(script, wanted.encoding, entries, wanted.outside))


def _require_origin(actual: Origin | None, expected: Origin) -> None:
    if actual != expected.listed:
        source = f'database "{actual.database}" of a server {actual.server}' if actual else "a database without name"
        raise OperationError(
            f'pg_dump dumped {source} instead of database "{expected.database}" of a server '
            f"{expected.server}: the set is not "
            "published; make sure that no service file (PGSERVICE, PGSERVICEFILE) and no other "
            "setting redirects programs, and "
            "run again"
        )


def read_chunks(
    run: Run,
    pg_restore: Program,
    section: str | None,
    archive: Path,
    listing: Path,
) -> tuple[bytes, list[Chunk]]:
    """Return the statements of the context's part or a section, by entry, and their settings."""
    warn_of_unsafe(run, pg_restore)
    argv = programs.script_command(pg_restore, archive, programs.restore_options(section, listing))
    return parse_chunks(run.running.run(argv, {}).output)
