"""Filling a database from a staged set: schema, rows, sequences, indexes, statistics, views."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import psycopg

from tasks.core import sql
from tasks.core.errors import OperationError
from tasks.core.postgres.connection import Server, complaint_of, connect
from tasks.core.postgres.messages import message_of
from tasks.core.postgres.source_path import execute_written, read_source_path
from tasks.core.run.phases import Phases
from tasks.core.sets.hash_partitions import families
from tasks.core.sets.manifest import Manifest
from tasks.database.loading import load_family, load_table
from tasks.database.views import refresh_view
from tasks.restore.database import unforced
from tasks.restore.foreign_keys import KeyOutcome, try_keys
from tasks.restore.large_objects import make_large_objects
from tasks.restore.roles import allow_owners, take_back_rights
from tasks.restore.schema import restore_delegated_grants, restore_frame, restore_section, split_listing
from tasks.restore.target import Target, find_pg_restore
from tasks.run import progress
from tasks.run.run import Run, jobs, step
from tasks.run.spread import spread
from tasks.sets.stage import StagedSet, staged_context, unpack


@dataclass(frozen=True)
class Filled:
    """A filled database: load seconds by relation, keys tried again, failures, and notes."""

    load_seconds: Mapping[str, float] = field(default_factory=dict)
    keys: Sequence[KeyOutcome] = ()
    not_made: Sequence[str] = ()
    to_do: Sequence[str] = ()


def fill_database(staged: StagedSet, target: Target, server: Server, run: Run, phases: Phases) -> Filled:
    """Restore schema before data, rows, sequences, schema after data, statistics, views.

    Objects with the source's code are created by the loading login; `server` creates schemas and
    extensions.
    """
    manifest, loader, schema = staged.manifest, target.loader, staged_context(staged).namespace
    pg_restore, keys, not_made = find_pg_restore(manifest, target.server_major), list[KeyOutcome](), list[str]()
    archive, listing = unpack(staged, manifest.schema_archive), staged.files[manifest.schema_list.path]
    with phases.phase("schema before data"):
        parts = split_listing(run, pg_restore, archive, listing, manifest.database.encoding)
        to_do = restore_frame(server, target, run, pg_restore, archive, parts.frame)
        allow_owners(server, run, manifest, target)
        restore_section(target, run, pg_restore, "pre-data", archive, parts.objects, schema, 1)
    with phases.phase("data"):
        load_seconds = load_tables(loader, run, staged, target, schema)
        set_sequences(loader, target.working_name, run, manifest)
        large = make_large_objects(server, target.working_name, run, staged)
    with (
        phases.phase("indexes, keys, triggers"),
        # A key is validated by a query, from which forced policies would hide rows.
        unforced(run, target),
        progress.of(run, "making indexes and keys", {}, manifest.zone),
    ):
        complaints = restore_section(target, run, pg_restore, "post-data", archive, parts.objects, schema, jobs())
        if complaints:
            keys += try_keys(loader, run, manifest, target.working_name)
        not_made += [*large.differing, *ignore_violated_foreign_keys(complaints, keys)]
        to_do += [*large.to_do, *restore_delegated_grants(server, target, run, parts.delegated, manifest.database.encoding)]
        take_back_rights(server, run, manifest, target)
    with phases.phase("statistics and views"):
        to_do += analyze(loader, target.working_name, run, schema)
        views = [view for view in manifest.views if view.materialized and view.populated]
        refreshed = [refresh_view(loader, target.working_name, run, view) for view in views]
        not_made += [f"view {view.view} cannot be refreshed: {view.problem}" for view in refreshed if view.problem]
    return Filled(load_seconds, keys, not_made, to_do)


def ignore_violated_foreign_keys(complaints: Iterable[str], outcomes: Iterable[KeyOutcome]) -> list[str]:
    """Return the error messages, in any language, but those about keys that rows violate.

    Rows are compared with the backup: keys that they violate here were violated in the source too.
    """
    broken = [f'"{sql.names.unquoted(outcome.key.name)}"' for outcome in outcomes if outcome.orphans]
    return [complaint for complaint in complaints if not any(name in complaint for name in broken)]


def load_tables(server: Server, run: Run, staged: StagedSet, target: Target, schema: str) -> dict[str, float]:
    """Load every relation, the largest first, in parallel; return seconds by relation.

    Generated columns, checks and domains may need the search_path of the `schema`'s code.
    """
    manifest = staged.manifest
    encoding, place = manifest.database.encoding, target.working_name
    relations = sorted(manifest.relations, key=lambda relation: relation.plain_bytes, reverse=True)
    sizes = [relation.plain_bytes for relation in relations]
    with progress.of(run, "loading", manifest.plain_bytes, manifest.zone) as items:
        calls = [
            (server, place, run.title, schema, relation, staged.sources(relation), encoding, items[relation.qualified].at)
            for relation in relations
        ]
        loaded = dict(zip((relation.qualified for relation in relations), spread(run, load_table, calls, sizes), strict=True))
    for family in families(manifest):
        if any(loaded[relation.qualified] is None for relation in family.relations):
            loaded |= load_family(server, place, run.title, schema, family, staged.sources_of(family.relations), encoding)
    if refused := [name for name, seconds in loaded.items() if seconds is None]:
        raise OperationError(f"{', '.join(refused)}: rows are outside the bounds of their partition; restore another set")
    return {name: seconds for name, seconds in loaded.items() if seconds is not None}


@step
def set_sequences(server: Server, database: str, run: Run, manifest: Manifest) -> None:
    """Set every sequence to its position in the manifest, at or above the values in all rows."""
    with connect(server, database, run.title) as connection:
        for sequence in manifest.sequences:
            place = {
                "schema": sequence.namespace,
                "name": sequence.name,
                "value": sequence.last_value,
                "called": sequence.is_called,
            }
            connection.execute(sql.sequences.SET_SEQUENCE, place)


@step
def analyze(server: Server, database: str, run: Run, schema: str) -> list[str]:
    """Analyze the new database; return which tables failed.

    Expressions of indexes and statistics may need the search_path of code of the context, whose
    schema is `schema`.
    """
    with connect(server, database, run.title) as connection:
        if not complaint_of(connection, sql.rows.ANALYZE):
            return []
        path, failed = read_source_path(connection, schema), list[str]()
        for table in connection.execute(sql.rows.ANALYZABLE).fetchall():
            try:
                execute_written(connection, sql.rows.analyze_relation(*table), path)
            except psycopg.Error as error:
                if connection.broken:
                    raise
                failed.append(f"ANALYZE {sql.names.quoted_name(*table)}, which fails: {message_of(error)}")
    return failed
