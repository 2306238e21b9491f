"""Writing the rows of a restore with triggers disabled, and reading them back."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import psycopg
from prefect import get_run_logger

from tasks.core import sql
from tasks.core.errors import RestoreDiffers
from tasks.core.in_place.plan import trigger_states
from tasks.core.postgres.messages import message_of
from tasks.core.postgres.source_path import source_path
from tasks.core.rows.digest import RowDigest
from tasks.core.rows.stream import digest_relation
from tasks.core.sets.hash_partitions import unlike
from tasks.core.sets.manifest import Relation
from tasks.core.sql.names import plain_name, quoted_name
from tasks.database.loading import load_rows
from tasks.database.rows import reading_job
from tasks.in_place.plan import compare
from tasks.in_place.session import Merge, Table, is_unchanged, lineage
from tasks.restore.unproven import without_unproven_checks
from tasks.sets.column_order import comparable_manifest


@contextmanager
def triggers_off(merge: Merge) -> Iterator[None]:
    """Disable user triggers for the block; then set each to its state in the set, or as before."""
    wanted = trigger_states(merge.manifest.inventory) if merge.request.table is None else {}
    triggers = merge.connection.execute(sql.triggers.TRIGGER_STATES, {"oids": merge.members.oids}).fetchall()
    for schema, table, trigger, words, _ in triggers:
        if words != "DISABLE":
            merge.connection.execute(sql.triggers.switch_trigger(schema, table, trigger, "DISABLE"))
    yield
    for schema, table, trigger, words, spelled in triggers:
        merge.connection.execute(sql.triggers.switch_trigger(schema, table, trigger, wanted.get((spelled, trigger)) or words))


def made_tables(merge: Merge) -> list[int]:
    """Return the OIDs of the tables that this restore has made."""
    names = [{"name": quoted_name(relation.namespace, relation.name)} for relation in merge.absent]
    return [merge.connection.execute(sql.partitions.OID_OF, name).fetchall()[0][0] for name in names]


def write_rows(merge: Merge) -> tuple[list[Relation], tuple[int, int, int]]:
    """Load missing relations, and write all differences.

    Returns the relations, and how many rows were deleted, updated and inserted. Rows may predate
    NOT VALID checks of domains.
    """
    oids = [table.member.oid for table in merge.tables if not table.unchanged]
    oids += made_tables(merge)
    # An undo may restore rows that were never validated against NOT VALID checks of a table.
    oids += [oid for table in merge.tables for oid in lineage(merge.members, table.member).values() if merge.is_undo]
    with without_unproven_checks(merge.connection, oids, merge.path, of_tables=merge.is_undo):
        written = load_new_relations(merge), write_differences(merge)
        # Checks are re-created only after deferred keys were checked.
        merge.connection.execute(sql.in_place.END_DEFERRED)
    return written


def write_differences(merge: Merge) -> tuple[int, int, int]:
    """Write all differences of a table in one statement.

    Return the numbers of rows deleted, updated and inserted. If rows swap unique values, their
    unique columns first get unused values, or else the rows are deleted and inserted.
    """
    tables = [table for table in merge.tables if not table.unchanged]
    for prepare in (_leave, _park):
        try:
            return _write_at_once(merge, tables, prepare)
        except (psycopg.errors.UniqueViolation, psycopg.errors.ExclusionViolation) as error:
            get_run_logger().info("%s: rows swap unique values; writing them in several statements", message_of(error))
    return _write_at_once(merge, tables, _replace)


def _write_at_once(merge: Merge, tables: Sequence[Table], prepare: Callable[[Merge, Table], list[str]]) -> tuple[int, int, int]:
    with merge.connection.transaction():
        parts = [_prepared(merge, table, prepare) for table in tables]
        with source_path(merge.connection, merge.path):
            counts: tuple[int, int, int] = merge.connection.execute(sql.in_place.merge_rows(parts)).fetchall()[0]
    return counts


def _prepared(merge: Merge, table: Table, prepare: Callable[[Merge, Table], list[str]]) -> sql.in_place.TableToWrite:
    asked = sql.in_place.rows_to_write(table.number)
    ((updates, _),) = merge.connection.execute(asked).fetchall()
    settable = prepare(merge, table) if updates else []
    # The preparation may have turned updates into deletions.
    ((updates, deletes),) = merge.connection.execute(asked).fetchall()
    columns = settable if updates else []
    return sql.in_place.TableToWrite(table.number, table.member.schema, table.member.name, table.columns, columns, deletes=deletes)


def _leave(_merge: Merge, table: Table) -> list[str]:
    """Return the columns to write without preparation, which suffices for most rows."""
    return table.changed


def _park(merge: Merge, table: Table) -> list[str]:
    """Set unique columns of rows to update to unused values first; return those to write."""
    member, parked = table.member, list[str]()
    for column, kind, length in merge.connection.execute(sql.in_place.PARKING_COLUMNS, {"oid": member.oid}).fetchall():
        if not column:
            return [*parked, *_replace(merge, table)]
        parking = sql.in_place.park_rows(table.number, member.schema, member.name, column, kind, length)
        with source_path(merge.connection, merge.path):
            merge.connection.execute(parking)
        parked += [column] if column not in (*table.changed, *parked) else []
    return [*table.changed, *parked]


def _replace(merge: Merge, table: Table) -> list[str]:
    """Turn updates into DELETE and INSERT if no key acts on that; return the columns to write."""
    if not merge.connection.execute(sql.in_place.KEYS_THAT_ACT, {"oid": table.member.oid}).fetchall():
        merge.connection.execute(sql.in_place.replace_instead_of_update(table.number))
    return table.changed


def load_new_relations(merge: Merge) -> list[Relation]:
    """Load the relations that were created; return them."""
    for relation in merge.absent:
        load_rows(merge.connection, relation, merge.staged.sources(relation), merge.manifest.database.encoding, merge.path)
    return merge.absent


def compare_written(merge: Merge, loaded: Iterable[Relation]) -> None:
    """Read the written rows back, inside the transaction, and compare them with the set.

    Raises:
        RestoreDiffers: the written rows differ from the set.
    """
    read = dict[str, RowDigest]()
    written = [table.relation for table in merge.tables if table.relation and not table.unchanged and table.becomes_whole]
    names = {relation.qualified for relation in (*written, *loaded)}
    manifest = comparable_manifest(merge.staged)
    for relation in manifest.relations:
        if relation.qualified in names:
            job = reading_job(merge.site.database, merge.run, relation, manifest.database.encoding)
            read[relation.qualified] = digest_relation(merge.connection, job)
    problems = unlike(manifest, read)
    acted_on = {row[0] for row in merge.connection.execute(sql.in_place.TABLES_ACTED_ON, {"oids": merge.members.oids})}
    for table in merge.tables:
        # With triggers disabled, only one of the table's own foreign keys can have changed rows.
        acted = table.unchanged and acted_on & set(lineage(merge.members, table.member).values())
        if acted and not is_unchanged(merge, table):
            problems.append(f"{table.name}: the action of one of its foreign keys changed restored rows")
        if not table.unchanged and not table.becomes_whole:
            left = compare(merge, table)
            problems += [f"{table.name}: {left.rows} rows still differ"] if left.rows else []
    if problems:
        raise RestoreDiffers(
            f'database "{merge.site.database}" is unchanged: what was written differs from '
            f"{merge.manifest.id}: "
            f"{'; '.join(problems[:10])}"
        )


def written_relations(merge: Merge) -> list[tuple[str, str]]:
    """Return the relations to analyze, except those that an undo dropped."""
    dropped = {plain_name(drop.item.name) for drop in merge.drops}
    merged = [
        (table.member.schema, table.member.name) for table in merge.tables if not table.unchanged and table.name not in dropped
    ]
    return merged + [(relation.namespace, relation.name) for relation in merge.absent]
