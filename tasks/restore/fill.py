"""Filling a database from a staged set: schema, rows, sequences, indexes, statistics, views."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import psycopg

from tasks.core import sql
from tasks.core.errors import OperationError
from tasks.core.postgres.connection import Server, complaint_of, connect
from tasks.core.postgres.messages import message_of
from tasks.core.postgres.source_path import execute_written, read_source_path
from tasks.core.rows import pages
from tasks.core.rows.sources import RowSource
from tasks.core.run.phases import Phases
from tasks.core.sets.hash_partitions import families
from tasks.core.sets.manifest import Manifest, Relation
from tasks.database.loading import Loaded, load_family, load_table, require_rows
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
    """Load every relation, the largest first, in parallel, of large ones the parts too; return seconds by relation.

    Generated columns, checks and domains may need the search_path of the `schema`'s code.
    """
    manifest = staged.manifest
    encoding, place = manifest.database.encoding, target.working_name
    loaded = _load_parts(server, run, staged, place, schema)
    for family in families(manifest):
        if any(loaded[relation.qualified] is None for relation in family.relations):
            loaded |= load_family(server, place, run.title, schema, family, staged.sources_of(family.relations), encoding)
    if refused := [name for name, seconds in loaded.items() if seconds is None]:
        raise OperationError(f"{', '.join(refused)}: rows are outside the bounds of their partition; restore another set")
    return {name: seconds for name, seconds in loaded.items() if seconds is not None}


@dataclass(frozen=True)
class _Load:
    """The load of a relation, or of a part that others are loaded beside."""

    relation: Relation
    sources: list[RowSource]
    size_bytes: int
    whole: bool


def _loads(staged: StagedSet, relation: Relation) -> list[_Load]:
    """Return the loads of a relation: of a large one each part that can be read alone."""
    sources, size = staged.sources(relation), relation.plain_bytes
    parts = [part for source in sources for part in source.parts()] if size > pages.PART_BYTES else []
    if len(parts) < 2:
        return [_Load(relation, sources, size, whole=True)]
    return [_Load(relation, [part], size // len(parts), whole=False) for part in parts]


def _load_parts(server: Server, run: Run, staged: StagedSet, place: str, schema: str) -> dict[str, float | None]:
    """Load every relation into its own table; return seconds by relation, None where a row belongs to another partition.

    Raises:
        RestoreDiffers: the number of loaded rows differs from the manifest.
    """
    manifest = staged.manifest
    relations = sorted(manifest.relations, key=lambda relation: relation.plain_bytes, reverse=True)
    loads = [load for relation in relations for load in _loads(staged, relation)]
    expected = {f"{load.relation.qualified} {number}": load.size_bytes for number, load in enumerate(loads)}
    with progress.of(run, "loading", expected, manifest.zone) as items:
        calls = [
            (server, place, run.title, schema, load.relation, load.sources, manifest.database.encoding, item.at, load.whole)
            for load, item in zip(loads, items.values(), strict=True)
        ]
        results = spread(run, load_table, calls, [load.size_bytes for load in loads])
    by_relation = groupby(zip(loads, results, strict=True), key=lambda pair: pair[0].relation)
    return {relation.qualified: _seconds(relation, [loaded for _, loaded in pairs]) for relation, pairs in by_relation}


def _seconds(relation: Relation, parts: Sequence[Loaded | None]) -> float | None:
    """Return the seconds that the loads of a relation took; None if one met a row of another partition."""
    loaded = [part for part in parts if part]
    if len(loaded) < len(parts):
        return None
    require_rows(relation, sum(part.rows for part in loaded))
    return sum(part.seconds for part in loaded)


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
