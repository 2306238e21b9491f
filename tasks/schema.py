"""The schema: dumped whole, restored in the context's part, before and after the data."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from prefect import get_run_logger

from tasks.core import programs, sql
from tasks.core.complaints import without_rows
from tasks.core.errors import MovedSnapshot, OperationError, ProgramFailed
from tasks.core.programs import Program
from tasks.core.servers import Server
from tasks.core.toc import (
    Chunk,
    Origin,
    choose_entries,
    failed_entries,
    parse_chunks,
    parse_dependencies,
    parse_list,
    parse_origin,
    render_list,
    some_of_list,
    split_list,
)
from tasks.databases import Target
from tasks.runs import Run, step, warn_of_unsafe
from tasks.sites import Site

# Whoever waits for a lock that the snapshot holds, and all who queue behind him, may wait as long.
LOCK_WAIT_SECONDS = 20


@step
def dump_schema(
    site: Site, run: Run, pg_dump: Program, archive: Path, encoding: str, unreadable: Sequence[tuple[str, str]]
) -> None:  # fmt: skip
    """Dump the schema of the whole database but for unreadable tables of others, 0600, in pg_dump's custom format.

    Raises:
        MovedSnapshot: pg_dump failed, as it does when a table is dropped while it looks; another try may do.
    """
    archive.touch(mode=0o600)
    spared = [sql.quoted_name(*name) for name in unreadable]
    argv = programs.dump_schema_command(pg_dump, archive, site.database, encoding, LOCK_WAIT_SECONDS, spared)
    try:
        run.running.run(argv, site.server.environment(site.database))
    except ProgramFailed as error:
        raise MovedSnapshot(f"the schema could not be dumped: {error}") from error
    get_run_logger().info("schema dumped by pg_dump %s: %d bytes", pg_dump.version, archive.stat().st_size)


@dataclass(frozen=True)
class Wanted:
    """What of an archive is restored: objects by (classid, oid), and what is said about schemas; and where it has to be from."""

    origin: Origin
    schemas: frozenset[str]
    objects: frozenset[tuple[int, int]]


def context_list(run: Run, pg_restore: Program, archive: Path, wanted: Wanted) -> str:
    """Return the -L list of the context's part of the archive.

    Raises:
        OperationError: the archive is of another database, or has nothing of the context.
    """
    listed = run.running.run(programs.list_command(pg_restore, archive), {}).output.decode(errors="replace")
    _require_origin(parse_origin(listed), wanted.origin)
    script = run.running.run(programs.script_command(pg_restore, archive, verbose=True), {}).output
    dependencies = parse_dependencies(script.decode(errors="replace"))
    return render_list(choose_entries(parse_list(listed), dependencies, wanted.objects, wanted.schemas))


def _require_origin(found: Origin | None, expected: Origin) -> None:
    if found != expected.listed:
        said = f'database "{found.database}" of a server {found.server}' if found else "a database that it does not name"
        raise OperationError(
            f'pg_dump was to dump database "{expected.database}" of a server {expected.server}, and dumped {said}: nothing is '
            "published; see that no service file (PGSERVICE, PGSERVICEFILE) and no other setting leads programs elsewhere, and "
            "run again"
        )


@step(name="restore {section}")
def restore_section(
    server: Server, target: Target, run: Run, pg_restore: Program, section: str, archive: Path, listing: Path, jobs: int
) -> list[str]:
    """Restore one section (pre-data or post-data) of the context's part; return what could not be made.

    pre-data is all or nothing; in post-data an object that cannot be made (a key that the rows violate, say) is
    reported and the rest goes on.

    Raises:
        ProgramFailed: the program did not come to its end.
    """
    warn_of_unsafe(run, pg_restore)
    environment, stop = server.environment(target.working_name, **RESTORE_OPTIONS), section == "pre-data"
    options = programs.restore_options(section, listing)
    if pg_restore.major >= 17 > target.server_major:
        script = _older_script(run, pg_restore, section, archive, options)
        psql = replace(pg_restore, path=pg_restore.path.with_name("psql"))
        argv = programs.script_run_command(psql, script, target.working_name, stop=stop)
    else:
        argv = programs.restore_command(pg_restore, archive, target.working_name, options, jobs, stop=stop)
    ended = run.running.run(argv, environment, check=False)
    quoted = read_chunks(run, pg_restore, section, archive, listing)[1] if jobs > 1 and ended.code == 1 else []
    if failed := failed_entries(ended.errors, quoted):
        # Those that work side by side may be in each other's way, as in a deadlock: what failed is tried again, one by one.
        again = run.folder / f"{section}-again.list"
        again.touch(mode=0o600)
        again.write_text(some_of_list(listing.read_text("utf-8", errors="replace"), failed), "utf-8")
        options = programs.restore_options(section, again)
        argv = programs.restore_command(pg_restore, archive, target.working_name, options, 1, stop=False)
        ended = run.running.run(argv, environment, check=False)
    complaints = _complaints(ended.errors)
    if ended.code > 1 or (ended.code and (stop or not complaints)):
        said = without_rows(ended.errors) or "it was killed; run again"
        raise ProgramFailed(f"{ended.program} ended with exit code {ended.code} in {section}: {said}")
    get_run_logger().info("%s restored by pg_restore %s", section, pg_restore.version)
    return complaints


def split_listing(run: Run, listing: Path) -> tuple[Path, Path]:
    """Return two -L lists: of schemas and extensions, which the login makes that makes the database; and of all else."""
    files = run.folder / "frame.list", run.folder / "objects.list"
    for file, text in zip(files, split_list(listing.read_text("utf-8")), strict=True):
        file.touch(mode=0o600)
        file.write_text(text, "utf-8")
    return files


def read_chunks(run: Run, pg_restore: Program, section: str, archive: Path, listing: Path) -> tuple[bytes, list[Chunk]]:
    """Return the statements of one section of the context's part, entry by entry, and the settings that go before them."""
    warn_of_unsafe(run, pg_restore)
    argv = programs.script_command(pg_restore, archive, verbose=True, options=programs.restore_options(section, listing))
    return parse_chunks(run.running.run(argv, {}).output)


def _older_script(run: Run, pg_restore: Program, section: str, archive: Path, options: list[str]) -> Path:
    """Write the section as a script for a server that does not know transaction_timeout, which came with 17."""
    argv = programs.script_command(pg_restore, archive, options=options)
    lines = run.running.run(argv, {}).output.splitlines(keepends=True)
    script = run.folder / f"{section}.sql"
    script.touch(mode=0o600)
    script.write_bytes(b"".join(line for line in lines if not line.startswith(b"SET transaction_timeout")))
    return script


RESTORE_OPTIONS = {"maintenance_work_mem": sql.SORT_MEMORY, "synchronous_commit": "off", "client_min_messages": "warning"}


def _complaints(errors: str) -> list[str]:
    lines = [line.removeprefix("pg_restore: ") for line in without_rows(errors).splitlines()]
    return [line for line in lines if "error:" in line or "ERROR:" in line]
