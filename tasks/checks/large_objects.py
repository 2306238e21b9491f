"""Large objects that rows of the newest backup reference: whether they exist, unchanged."""

from collections.abc import Collection, Iterable

from tasks.checks.integrity import SAMPLE_ROWS, missing_relations, without_missing
from tasks.core import sql
from tasks.core.checks.definition import Check, Finding, Severity, Verdict, judge
from tasks.core.context import Context
from tasks.core.postgres.connection import Connection, Server, encoding_of
from tasks.core.report.markdown import size
from tasks.core.rows.job import StreamJob
from tasks.core.rows.stream import seeing
from tasks.core.sets.large_objects import LargeObject, within_budget
from tasks.core.sets.manifest import Manifest
from tasks.database import catalog, large_objects
from tasks.run.run import Run
from tasks.sets.large_objects import fetch_index
from tasks.store.address import StoreAddress

LARGE_OBJECTS = "large objects of the newest backup"
CONTENT = "content of large objects"
# A check reads this many bytes of content as text, and at least one object; which objects depends
# on the set.
MOST_BYTES = 256 << 20


def compare_large_objects(
    server: Server, database: str, run: Run, context: Context, store: StoreAddress, manifest: Manifest, timeout_seconds: float
) -> list[Finding]:  # fmt: skip
    """Compare a set's large objects with the database: whether they exist, and some contents.

    Only objects that rows still reference count. A missing or empty object is lost; changed content
    is a warning.

    Raises:
        DamagedSet: the set's index of them cannot be read.
        psycopg.Error: the database did not answer.
    """
    known = {large_object.oid: large_object for large_object in fetch_index(store, run, manifest)}
    if not known:
        return []
    with seeing(server, database, run.title, None, []) as connection:
        connection.execute(sql.session.limit_statements(timeout_seconds))
        present = {int(row["oid"]) for row in large_objects.read_facts(connection, known)}
        chosen = within_budget([known[oid] for oid in sorted(present)], manifest.id, MOST_BYTES)
        unread = list[Finding]()
        if chosen and not large_objects.may_read(connection):
            grant = sql.large_objects.let_read(connection.info.user).as_string()
            note = f"not compared: this login may not read them ({grant})"
            chosen, unread = [], [Finding(CONTENT, Severity.WARNING, Verdict.NOT_RUN, note=note)]
        oids = [then.oid for then in chosen]
        now = {large_object.oid: large_object for large_object in large_objects.read_objects(connection, oids)}
        lost = {*known} - present | {then.oid for then in chosen if now[then.oid].is_empty and not then.is_empty}
        changed = {then.oid for then in chosen if _content(then) != _content(now[then.oid])} - lost
        if lost or changed:
            present_context = without_missing(context, missing_relations(connection, context))
            referenced = _referenced(connection, run, database, present_context)
            lost, changed = lost & referenced, changed & referenced
    return [_judge(manifest, [*known.values()], chosen, lost, changed), *unread]


def _content(large_object: LargeObject) -> tuple[int, str]:
    return large_object.pages, large_object.digest


def _referenced(connection: Connection, run: Run, database: str, context: Context) -> set[int]:
    """Return the oids of large objects that rows of the context reference."""
    tables = [relation for relation in catalog.read_relations(connection, context) if relation.kind == "r"]
    columns = large_objects.reference_columns(connection, tables).columns
    oids, encoding = set[int](), encoding_of(connection)
    for table in tables:
        if names := columns.get(table.qualified):
            job = StreamJob(database, run.title, table.schema, table.name, names, encoding)
            oids |= large_objects.read_references(connection, job, names)
    return oids


def _judge(
    manifest: Manifest, known: Collection[LargeObject], chosen: Iterable[LargeObject], lost: set[int], changed: set[int]
) -> Finding:  # fmt: skip
    """Return the finding, with a note of how many objects were checked, how much was read."""
    read = [large_object.plain_bytes for large_object in chosen]
    of_all = size(sum(large_object.plain_bytes for large_object in known))
    note = f"{len(known):,} checked, {len(read):,} of them read ({size(sum(read))} of {of_all})"
    if 0 < len(read) < len(known) - len(lost):
        note += f", at most {size(MOST_BYTES)} a check"
    samples = [f"{oid} is missing or empty" for oid in sorted(lost)]
    samples += [f"{oid} has changed content" for oid in sorted(changed)]
    if samples:
        counts = f"{len(lost):,} lost, {len(changed):,} changed"
        note = f"{counts}; the originals are in {manifest.id}; if the change was on purpose, take a backup now; {note}"
    check = Check(LARGE_OBJECTS, Severity.ERROR if lost else Severity.WARNING, "")
    return judge(check, len(samples), samples[:SAMPLE_ROWS], note=note)
