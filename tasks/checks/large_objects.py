"""Large objects that the newest backup has and rows still name: whether they are there, and hold what they held."""

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
# So much one check reads of what they hold, as text, and at least one object; which ones these are, turns with the set.
MOST_BYTES = 256 << 20


def compare_large_objects(
    server: Server, database: str, run: Run, context: Context, store: StoreAddress, manifest: Manifest, timeout_seconds: float
) -> list[Finding]:  # fmt: skip
    """Compare the large objects of a set with the database: each by its being there, as many as the budget allows by content.

    Only what rows still name counts: it is lost if it is gone or holds nothing any more; that it holds something else is a warning.

    Raises:
        DamagedSet: what the set says of them cannot be read.
        psycopg.Error: the database did not answer.
    """
    known = {one.oid: one for one in fetch_index(store, run, manifest)}
    if not known:
        return []
    with seeing(server, database, run.title, None, []) as connection:
        connection.execute(sql.session.limit_statements(timeout_seconds))
        there = {int(one["oid"]) for one in large_objects.read_facts(connection, known)}
        chosen = within_budget([known[oid] for oid in sorted(there)], manifest.id, MOST_BYTES)
        unread = list[Finding]()
        if chosen and not large_objects.may_read(connection):
            grant = sql.large_objects.let_read(connection.info.user).as_string()
            note = f"not compared: this login may not read them ({grant})"
            chosen, unread = [], [Finding(CONTENT, Severity.WARNING, Verdict.NOT_RUN, note=note)]
        now = {one.oid: one for one in large_objects.read_objects(connection, [one.oid for one in chosen])}
        lost = {*known} - there | {one.oid for one in chosen if now[one.oid].is_empty and not one.is_empty}
        changed = {one.oid for one in chosen if (one.pages, one.digest) != (now[one.oid].pages, now[one.oid].digest)} - lost
        if lost or changed:
            named = _named(connection, run, database, without_missing(context, missing_relations(connection, context)))
            lost, changed = lost & named, changed & named
    return [_judge(manifest, [*known.values()], chosen, lost, changed), *unread]


def _named(connection: Connection, run: Run, database: str, context: Context) -> set[int]:
    """Return the oids that rows of the context have in columns that name large objects."""
    members = [one for one in catalog.read_relations(connection, context) if one.kind == "r"]
    columns = large_objects.reference_columns(connection, members).columns
    found, encoding = set[int](), encoding_of(connection)
    for one in members:
        if names := columns.get(one.qualified):
            job = StreamJob(database, run.title, one.schema, one.name, names, encoding)
            found |= large_objects.read_references(connection, job, names)
    return found


def _judge(
    manifest: Manifest, known: Collection[LargeObject], chosen: Iterable[LargeObject], lost: set[int], changed: set[int]
) -> Finding:  # fmt: skip
    """Return what is said of them, always with how many were looked for, and how much was read."""
    read = [one.plain_bytes for one in chosen]
    of_all = size(sum(one.plain_bytes for one in known))
    note = f"{len(known):,} looked for, {len(read):,} of them read ({size(sum(read))} of {of_all})"
    if 0 < len(read) < len(known) - len(lost):
        note += f", at most {size(MOST_BYTES)} a check"
    said = [f"{oid} is gone or empty" for oid in sorted(lost)] + [f"{oid} holds something else" for oid in sorted(changed)]
    if said:
        counts = f"{len(lost):,} lost, {len(changed):,} changed"
        note = f"{counts}; {manifest.id} has them; if that was on purpose, take a backup now; {note}"
    check = Check(LARGE_OBJECTS, Severity.ERROR if lost else Severity.WARNING, "")
    return judge(check, len(said), said[:SAMPLE_ROWS], note=note)
