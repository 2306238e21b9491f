"""Single steps for use in notebooks or flows of your own (docs/notebook.md).

They take names, and find server, login and store of a context themselves. The flows run the same
code with their own run, snapshot and lock.
"""

import shutil
from pathlib import Path

from tasks.checks import single
from tasks.core import sql
from tasks.core.backup.restore_script import describe_file
from tasks.core.checks.definition import Finding
from tasks.core.database.views import Refreshed
from tasks.core.errors import AlreadyExists, BadInput, OperationError
from tasks.core.postgres.connection import connect, encoding_of
from tasks.core.rows.compressed_file import CompressedFile
from tasks.core.rows.job import StreamFacts, StreamJob
from tasks.core.run.progress import unmeasured
from tasks.database import catalog, logins, rows, views
from tasks.database.locks import context_lock
from tasks.partitions import attach
from tasks.partitions.tables import read_table
from tasks.partitions.transaction import session
from tasks.run.run import begin, step
from tasks.run.site import find_site, find_store, require_confirmed
from tasks.sets.marks import WARM_CLASS
from tasks.sets.upload import read_back, stored_sha256

BLOCK_BYTES = 1 << 20
VIEW_SECONDS, VIEW_LOCK_SECONDS = 1800, 30


@step(name="dump_table {table}", repeatable=True)
def dump_table(context: str, table: str, file: str | Path) -> StreamFacts:
    """Dump the rows of a table or partition as COPY text, compressed by zstd; replace the file.

    Returns the numbers of rows and bytes, and the digest, which equals that in a set with the same
    rows.

    Raises:
        BadInput: the context has no such table, or it is partitioned: its partitions have the rows.
    """
    with begin("dump_table", context) as run:
        site, staged = find_site(context, "reader"), run.folder / "rows.copy.zst"
        with connect(site.server, site.database, run.title) as connection:
            holding = catalog.read_members(connection, site.context).holding_rows
            member = next((member for member in holding if table in (member.name, member.qualified)), None)
            if member is None:
                known = ", ".join(member.name for member in holding)
                raise BadInput(f'context {context} has no table "{table}" that stores rows; name one of {known}')
            size = connection.execute(sql.rows.RELATION_BYTES, {"oids": [member.oid]}).fetchall()[0][1]
            encoding = encoding_of(connection)
        place = member.schema, member.name, list(member.columns)
        job = StreamJob(site.database, run.title, *place, encoding, file=str(staged))
        dumped = rows.dump_table(site.server, run, job, size)
        # Written beside the target first, which may be on another file system, so that an
        # incomplete dump never has the target's name.
        Path(shutil.move(staged, f"{file}.part")).replace(file)
    return dumped.facts


@step(name="compress {file}")
def compress(file: str | Path) -> Path:
    """Compress a file as dumps are, into a new one beside it (`.zst`, 0600); return its path."""
    source, packed = Path(file), Path(f"{file}.zst")
    try:
        with source.open("rb") as plain, CompressedFile(str(packed)) as target:
            while block := plain.read(BLOCK_BYTES):
                target.write(block)
            target.finish()
    except FileExistsError as error:
        raise BadInput(f"{packed} already exists; move that file away") from error
    return packed


@step(name="upload {file}", repeatable=True)
def upload(context: str, file: str | Path) -> str:
    """Store a file in the context's store, outside of sets, and read it back; return its path.

    Raises:
        AlreadyExists: another file is stored under that name.
        StoreUnavailable: the store did not accept it, or returns other bytes.
    """
    address, source = find_store(context), Path(file)
    store, key = address.opened, f"{context}/files/{source.name}"
    stored = describe_file(source.name, source)
    if store.head(key) is None:
        store.put(key, source, WARM_CLASS, {"sha256": stored.sha256})
    elif stored_sha256(store, key) != stored.sha256:
        raise AlreadyExists(f"{address.path(key)} exists with other content; rename the file to upload")
    # Read back even if the object existed: an earlier attempt may have stored it without reading it
    # back.
    read_back(store, key, stored, unmeasured)
    return address.path(key)


@step(name="detach_partition {partition}")
def detach_partition(context: str, partition: str, confirm_database: str | None = None) -> str:
    """Detach a partition in one short transaction, under the context's lock; return schema.name.

    Raises:
        BadInput: no table in the context's `partitions` has such a partition.
        UnsafeTarget: confirm_database is not the name of the live database.
        OperationError: lock timeout; nothing was changed.
    """
    with begin("detach_partition", context) as run:
        site = logins.with_loader(find_site(context), run)
        require_confirmed(site, confirm_database, "detach a partition")
        with context_lock(site.server, context, run.title, exclusive=True) as lock:
            with session(site, run) as connection:
                tables = [read_table(connection, site.context, rule) for rule in site.context.partitions]
            known = {leaf.name: (table, leaf) for table in tables for leaf in table.partitions}
            if partition not in known:
                raise BadInput(f'context {context} has no partition "{partition}"; it has: {", ".join(known) or "none"}')
            table, leaf = known[partition]
            attach.detach_partition.fn(site, run, lock, table, leaf)
    return leaf.qualified


@step(name="refresh_view {view}")
def refresh_view(context: str, view: str) -> Refreshed:
    """Refresh a materialized view of the context.

    Return how long that took, and how many rows were stale.

    Raises:
        OperationError: the view does not exist, or could not be refreshed.
    """
    with begin("refresh_view", context) as run:
        site = logins.with_loader(find_site(context), run)
        chosen, allowed = views.chosen_views(site.context, [view]), views.Limits(VIEW_SECONDS, VIEW_LOCK_SECONDS)
        with context_lock(site.server, context, run.title):
            with connect(site.server, site.database, run.title) as connection:
                existing = [known for known, _ in catalog.read_views(connection, chosen).values()]
            if not existing:
                raise OperationError(f"view {view} does not exist; create it, or restore it with: full_restore --in-place true")
            refreshed = views.refresh_view.fn(site.owners_login, site.database, run, existing[0], allowed)
    if refreshed.problem:
        raise OperationError(f"{refreshed.view} could not be refreshed: {refreshed.problem}")
    return refreshed


@step(name="run_check {check}", repeatable=True)
def run_check(context: str, check: str, timeout_seconds: float = 600) -> Finding:
    """Run one check of the context's `checks.sql`; return the violation count and the first keys.

    Raises:
        BadInput: the context has no check of that name.
    """
    with begin("run_check", context) as run:
        return single.run_check(find_site(context, "reader"), run, check, timeout_seconds)
