"""Objects that a restore into a live database creates: missing objects, foreign keys.

It also sets the positions of sequences.
"""

import re
from collections.abc import Collection, Iterator
from dataclasses import replace

from tasks.core import sql
from tasks.core.database.objects import TABLES, ForeignKey, InventoryItem
from tasks.core.database.objects import Sequence as OwnSequence
from tasks.core.errors import OperationError
from tasks.core.in_place.objects import How
from tasks.core.in_place.remedies import drops
from tasks.core.postgres.archive_script import Chunk, tablespace_of
from tasks.core.postgres.archive_toc import Entry, entries_of, parse_list, table_of
from tasks.core.postgres.connection import Connection
from tasks.core.postgres.source_path import execute_written
from tasks.core.sql.names import plain_name, split_name, table_of_column
from tasks.database import catalog
from tasks.database.schema import read_chunks
from tasks.in_place.session import Merge, Section
from tasks.restore.entries import create_missing
from tasks.restore.foreign_keys import make_keys, own_keys
from tasks.restore.target import find_pg_restore
from tasks.sets.stage import unpack
from tasks.sets.texts import understood_check, understood_partition_key

# How long a writer may have to wait because this session queues for a lock.
LOCK_SECONDS = 5
FOREIGN_KEY = re.compile(rb"\n    ADD CONSTRAINT .*? FOREIGN KEY \(", re.DOTALL)
CREATE_TABLE = re.compile(rb"\nCREATE (UNLOGGED )?TABLE ")
CREATE_ROUTINE = re.compile(rb"\nCREATE (FUNCTION|PROCEDURE|VIEW) ")
KEY = re.compile(r" \| key (.*?) \| bound ", re.DOTALL)
ATTACHED = re.compile(r" \| attached to (?P<parent>.+?)(?= \| |$)")
CHECK = re.compile(r"(?P<definition>CHECK .*?)( \| NOT VALID)?( \| inherited yes(, and its own)?)?( \| comment .*)?", re.DOTALL)


def missing_chunks(merge: Merge) -> tuple[Section, Section]:
    """Return the statements that create missing objects, before and after the data."""
    if not merge.missing:
        return Section(), Section()
    manifest, files = merge.manifest, merge.staged.files
    pg_restore = find_pg_restore(manifest, merge.source.major)
    archive, listing = unpack(merge.staged, manifest.schema_archive), files[manifest.schema_list.path]
    entries = parse_list(listing.read_text(encoding="utf-8", errors="replace"))
    wanted = entries_of(merge.missing, entries)
    path = merge.path
    rebuilt = {dump_id: item for item in _partitions(merge) for dump_id in entries_of([item], entries)}

    replaced = entries_of(
        [finding.item for finding in merge.findings if finding.is_done and finding.remedy.how is How.REPLACE], entries
    )

    joining = entries_of(_indexes_within_detached(merge), entries)

    def section(name: str) -> Section:
        settings, chunks = read_chunks(merge.run, pg_restore, name, archive, listing)
        alike = [_like_its_parent(merge, _replacing(chunk, replaced), rebuilt.get(chunk.dump_id)) for chunk in chunks]
        attachments = {chunk.dump_id for chunk in chunks if b" ATTACH PARTITION " in chunk.statements and chunk.needs & joining}
        return Section(settings, _as_attached(merge, alike, entries), wanted, path, attachments)

    return section("pre-data"), section("post-data")


def _indexes_within_detached(merge: Merge) -> list[InventoryItem]:
    """Return missing indexes, with their constraints, that are attached to one of a detached partition or below it."""
    tables = {item.name: item.parent for item in merge.manifest.inventory if item.kind == "index"}
    within = merge.within_detached
    indexes = [
        item for item in merge.missing
        if item.kind == "index" and item.parent not in merge.moved and (attached := ATTACHED.search(item.state))
        and tables.get(attached["parent"]) in within
    ]  # fmt: skip
    constraints = [item for item in merge.missing if item.kind == "constraint"]
    return [*indexes, *(item for item in constraints if any(_is_constraint_of(item, index) for index in indexes))]


def _replacing(chunk: Chunk, replaced: Collection[int]) -> Chunk:
    """Use CREATE OR REPLACE for an existing function or view that others depend on."""
    if chunk.dump_id not in replaced:
        return chunk
    return replace(chunk, statements=CREATE_ROUTINE.sub(rb"\nCREATE OR REPLACE \1 ", chunk.statements, count=1))


def _as_attached(merge: Merge, chunks: list[Chunk], entries: list[Entry]) -> list[Chunk]:
    """Order indexes of tables before those of partitions: attaching a partition then finds its own.

    For each index of the table, by oid, PostgreSQL attaches the partition's first matching index.
    """
    # Indexes of views keep their place: a view may have to be created after the primary key that it
    # groups by.
    tables = {item.name for item in merge.manifest.inventory if item.kind in TABLES}
    indexes = [(item, ATTACHED.search(item.state)) for item in merge.missing if item.kind == "index" and item.parent in tables]
    asked = {"names": [attached["parent"] for _, attached in indexes if attached]}
    rows = merge.connection.execute(sql.partitions.INDEXES_BY_OID, asked).fetchall()
    places = {name: place for place, (name,) in enumerate(rows)}
    ranks = dict[int, int]()
    for index, attached in indexes:
        # A constraint's index is created with it.
        alike = [item for item in merge.missing if item.kind == "constraint" and _is_constraint_of(item, index)]
        for dump_id in entries_of([index, *alike], entries):
            ranks[dump_id] = places.get(attached["parent"], len(places)) if attached else len(places) + 1
    ordered = sorted((chunk for chunk in chunks if chunk.dump_id in ranks), key=lambda chunk: ranks[chunk.dump_id])
    return [*ordered, *(chunk for chunk in chunks if chunk.dump_id not in ranks)]


def _is_constraint_of(constraint: InventoryItem, index: InventoryItem) -> bool:
    return (constraint.parent, constraint.name) == (index.parent, split_name(index.name)[1])


def _partitions(merge: Merge) -> list[InventoryItem]:
    """Return the missing partitions, at all levels, of partitioned tables that exist."""
    parents = {item.name for item in merge.inventory if item.kind == "partitioned table"}
    partitions = list[InventoryItem]()
    while more := [item for item in merge.missing if item.parent in parents and item.kind in TABLES and item not in partitions]:
        partitions += more
        parents |= {item.name for item in more}
    return partitions


def _like_its_parent(merge: Merge, chunk: Chunk, partition: InventoryItem | None) -> Chunk:
    """Return the statement that creates a partition LIKE its parent, for identical checks."""
    if partition is None or not CREATE_TABLE.search(chunk.statements):
        return chunk
    owner = partition.state.removeprefix("owner ").partition(" | ")[0]
    made = sql.staging.create_like(
        partition.name, partition.parent, owner, _partition_key(merge, partition),
        unlogged=b"\nCREATE UNLOGGED" in chunk.statements,
    )  # fmt: skip
    return replace(chunk, statements=b"SET default_tablespace = %b;\n%b" % (tablespace_of(chunk), made.as_bytes()))


def _partition_key(merge: Merge, partition: InventoryItem) -> str:
    """Return the partition key of a missing sub-partitioned table as SQL; "" if it has none.

    Raises:
        DamagedSet: the set's text is not a partition key.
    """
    key = KEY.search(partition.state) if partition.kind == "partitioned table" else None
    if key is None:
        return ""
    divided = {item.name: item.parent for item in merge.missing if item.kind in TABLES}
    top = partition.parent
    while top in divided:
        # Its parent is missing as well; the columns are the same.
        top = divided.pop(top)
    where = f"{merge.manifest.id}: inventory: {partition.name}: state: key"
    return understood_partition_key(merge.connection, where, split_name(top), key[1])


def _comes_last(chunk: Chunk) -> bool:
    """Return whether an entry attaches a partition or an index, or has to follow an attachment.

    States of inherited triggers have to follow, and foreign keys, because rows may refer to a
    partition.
    """
    statements = chunk.statements
    if b" TRIGGER " in statements and b"CREATE " not in statements:
        return True
    if chunk.has_class:
        return FOREIGN_KEY.search(statements) is not None
    return any(words in statements for words in (b" ATTACH PARTITION ", b"\nCOMMENT ON CONSTRAINT "))


def create(connection: Connection, section: Section, made: set[int], *, attach: bool) -> list[str]:
    """Create missing objects.

    With `attach`, attach partitions instead, which comes last because it locks tables of other
    contexts. Attaching also creates indexes that a partition lacks. Returns notes about grants by
    roles other than the owner.
    """
    last = {chunk.dump_id for chunk in section.chunks if _comes_last(chunk)} - {*section.within_detached}
    chosen = [chunk for chunk in section.chunks if (chunk.dump_id in last) is attach]
    return create_missing(connection, section.settings, chosen, made, section.path, section.wanted) if chosen else []


def make_checks(merge: Merge) -> None:
    """Create missing check constraints; the archive has them only as parts of their tables.

    Raises:
        DamagedSet: the set's text is not a check, or calls functions with side effects.
    """
    path = merge.path
    for item, definition in _missing_checks(merge):
        asked = {"table": item.parent, "name": sql.names.quoted(item.name)}
        if merge.connection.execute(sql.foreign_keys.IS_VALIDATED, asked).fetchall():
            continue
        where = f"{merge.manifest.id}: inventory: constraint {item.name} of {item.parent}: state"
        check = understood_check(merge.connection, where, split_name(item.parent), definition)
        made = sql.staging.add_constraint(item.parent, sql.names.quoted(item.name), check)
        # Its functions are called for existing rows.
        execute_written(merge.connection, made, path)


def _missing_checks(merge: Merge) -> Iterator[tuple[InventoryItem, str]]:
    """Yield missing check constraints of this context's tables, existing or about to be created."""
    own = {relation.qualified for relation in merge.members.relations} | {
        plain_name(item.name) for item in merge.missing if item.kind in TABLES
    }
    for item in merge.missing:
        if item.kind == "constraint" and table_of(item) in own and (check := CHECK.fullmatch(item.state)):
            yield item, check["definition"]


def definitions_taken(merge: Merge) -> Iterator[str]:
    """Yield, for the plan, missing checks and keys whose definitions come from the inventory."""
    for item, definition in _missing_checks(merge):
        yield f"check {item.name} of {item.parent}: {definition}"
    there = {(key.table, key.name) for key in catalog.read_outbound_keys(merge.connection, merge.members)}
    for key in keys_to_make(merge):
        if (key.table, key.name) not in there:
            yield f"foreign key {key.name} of {key.table}: {key.definition}"


def finish(merge: Merge) -> list[str]:
    """Create foreign keys to other contexts, last as that locks their tables; return which failed.

    Raises:
        OperationError: a key was dropped to be re-created, and cannot be created.
    """
    keys = keys_to_make(merge)
    again = {item.identity: item for item in dropped_last(merge)}
    for item in again.values():
        merge.connection.execute(sql.staging.as_written(drops(item)))
    outcomes = make_keys(merge.connection, keys, LOCK_SECONDS)
    unmade = [outcome for outcome in outcomes if not outcome.made]
    if lost := [outcome for outcome in unmade if ("constraint", outcome.key.table, sql.names.unquoted(outcome.key.name)) in again]:
        raise OperationError(
            f'database "{merge.site.database}" is unchanged: foreign key {lost[0].key.name} of '
            f"{lost[0].key.table} cannot be "
            f"re-created: {lost[0].note}; fix that, or pass objects=plan"
        )
    return [f"foreign key {outcome.key.name} of {outcome.key.table}: {outcome.with_rows}" for outcome in unmade]


def dropped_last(merge: Merge) -> list[InventoryItem]:
    """Return the keys to other contexts that are dropped and re-created.

    Both is done at the end, because it blocks readers of the other tables.
    """
    outbound = {(key.table, sql.names.unquoted(key.name)) for key in merge.manifest.outbound_keys}
    return [
        finding.item for finding in merge.findings
        if finding.is_done and finding.remedy.how is How.ANEW and finding.item.kind == "constraint"
        and (finding.item.parent, finding.item.name) in outbound
    ]  # fmt: skip


def keys_to_make(merge: Merge) -> list[ForeignKey]:
    """Return the keys to other contexts that have to be created.

    For a dropped table, also return the context's own keys that were dropped with it.
    """
    keys = [key for key in merge.manifest.outbound_keys if plain_name(key.table) in merge.names]
    if merge.request.table is None or not merge.absent:
        return keys
    return [*keys, *(key for key in own_keys(merge.manifest) if plain_name(_referenced(key)) in merge.names)]


def _referenced(key: ForeignKey) -> str:
    return key.definition.partition(" REFERENCES ")[2].partition("(")[0]


def own_sequences(merge: Merge) -> list[OwnSequence]:
    """Return the set's sequences that the tables use; for one table, those that it owns."""
    if merge.request.table is None:
        members = merge.members
        if merge.missing:
            members = catalog.read_members(merge.connection, catalog.present(merge.connection, merge.context))
        used = {*merge.connection.execute(sql.sequences.SEQUENCES, {"oids": members.chosen_by_class["pg_class"]}).fetchall()}
        return [sequence for sequence in merge.manifest.sequences if (sequence.namespace, sequence.name) in used]
    owned = [item for item in merge.manifest.inventory if item.kind == "sequence"]
    own = {plain_name(item.name) for item in owned if plain_name(table_of_column(item.parent)) in merge.names}
    return [sequence for sequence in merge.manifest.sequences if f"{sequence.namespace}.{sequence.name}" in own]
