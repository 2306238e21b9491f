"""What a merge makes besides rows: objects that the set has and the database does not, keys, and positions of sequences."""

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

# As long a writer may have to wait because we queue.
LOCK_SECONDS = 5
FOREIGN_KEY = re.compile(rb"\n    ADD CONSTRAINT .*? FOREIGN KEY \(", re.DOTALL)
CREATE_TABLE = re.compile(rb"\nCREATE (UNLOGGED )?TABLE ")
CREATE_ROUTINE = re.compile(rb"\nCREATE (FUNCTION|PROCEDURE|VIEW) ")
KEY = re.compile(r" \| key (.*?) \| bound ", re.DOTALL)
ATTACHED = re.compile(r" \| attached to (?P<parent>.+?)(?= \| |$)")
CHECK = re.compile(r"(?P<definition>CHECK .*?)( \| NOT VALID)?( \| comment .*)?", re.DOTALL)


def missing_chunks(merge: Merge) -> tuple[Section, Section]:
    """Return the statements that make what is missing, before and after the data."""
    if not merge.missing:
        return Section(), Section()
    manifest, files = merge.manifest, merge.staged.files
    pg_restore = find_pg_restore(manifest, merge.source.major)
    archive, listing = unpack(merge.staged, manifest.schema_archive), files[manifest.schema_list.path]
    entries = parse_list(listing.read_text(encoding="utf-8", errors="replace"))
    wanted = entries_of(merge.missing, entries)
    path = merge.path
    rebuilt = {one: item for item in _partitions(merge) for one in entries_of([item], entries)}

    replaced = entries_of([one.item for one in merge.found if one.is_done and one.remedy.how is How.REPLACE], entries)

    def section(name: str) -> Section:
        settings, chunks = read_chunks(merge.run, pg_restore, name, archive, listing)
        alike = [_like_its_parent(merge, _replacing(chunk, replaced), rebuilt.get(chunk.dump_id)) for chunk in chunks]
        return Section(settings, _as_attached(merge, alike, entries), wanted, path)

    return section("pre-data"), section("post-data")


def _replacing(chunk: Chunk, replaced: Collection[int]) -> Chunk:
    """Let a function or view that is there, and that others use, be replaced."""
    if chunk.dump_id not in replaced:
        return chunk
    return replace(chunk, statements=CREATE_ROUTINE.sub(rb"\nCREATE OR REPLACE \1 ", chunk.statements, count=1))


def _as_attached(merge: Merge, chunks: list[Chunk], entries: list[Entry]) -> list[Chunk]:
    """Make indexes of tables first, and such that attaching a partition finds those that were attached.

    For each index of the table, in the order of their oids, it takes the first one of the partition that is alike.
    """
    # Those of a view stay where they are: it may be made after the keys that it groups by.
    tables = {item.name for item in merge.manifest.inventory if item.kind in TABLES}
    indexes = [(item, ATTACHED.search(item.state)) for item in merge.missing if item.kind == "index" and item.parent in tables]
    asked = {"names": [attached["parent"] for _, attached in indexes if attached]}
    found = merge.connection.execute(sql.partitions.INDEXES_BY_OID, asked).fetchall()
    places = {name: place for place, (name,) in enumerate(found)}
    ranks = dict[int, int]()
    for index, attached in indexes:
        # It comes with its constraint, if it has one.
        alike = [one for one in merge.missing if one.kind == "constraint" and _is_constraint_of(one, index)]
        for dump_id in entries_of([index, *alike], entries):
            ranks[dump_id] = places.get(attached["parent"], len(places)) if attached else len(places) + 1
    ordered = sorted((one for one in chunks if one.dump_id in ranks), key=lambda one: ranks[one.dump_id])
    return [*ordered, *(one for one in chunks if one.dump_id not in ranks)]


def _is_constraint_of(constraint: InventoryItem, index: InventoryItem) -> bool:
    return (constraint.parent, constraint.name) == (index.parent, split_name(index.name)[1])


def _partitions(merge: Merge) -> list[InventoryItem]:
    """Return what is missing of tables that are there, divided: partitions, and partitions of these."""
    parents = {item.name for item in merge.inventory if item.kind == "partitioned table"}
    found = list[InventoryItem]()
    while more := [item for item in merge.missing if item.parent in parents and item.kind in TABLES and item not in found]:
        found += more
        parents |= {item.name for item in more}
    return found


def _like_its_parent(merge: Merge, chunk: Chunk, partition: InventoryItem | None) -> Chunk:
    """Make a partition like its parent: the checks of both have to be spelled the same, which a dump does not keep."""
    if partition is None or not CREATE_TABLE.search(chunk.statements):
        return chunk
    owner = partition.state.removeprefix("owner ").partition(" | ")[0]
    made = sql.staging.create_like(
        partition.name, partition.parent, owner, _partition_key(merge, partition),
        unlogged=b"\nCREATE UNLOGGED" in chunk.statements,
    )  # fmt: skip
    return replace(chunk, statements=b"SET default_tablespace = %b;\n%b" % (tablespace_of(chunk), made.as_bytes()))


def _partition_key(merge: Merge, partition: InventoryItem) -> str:
    """Return by what a missing partition is divided itself, as PostgreSQL spells it; nothing if it is not.

    Raises:
        DamagedSet: what the set says is no such key.
    """
    key = KEY.search(partition.state) if partition.kind == "partitioned table" else None
    if key is None:
        return ""
    divided = {item.name: item.parent for item in merge.missing if item.kind in TABLES}
    top = partition.parent
    while top in divided:
        # What it is a partition of is missing as well; the columns are the same.
        top = divided.pop(top)
    where = f"{merge.manifest.id}: inventory: {partition.name}: state: key"
    return understood_partition_key(merge.connection, where, split_name(top), key[1])


def _comes_last(chunk: Chunk) -> bool:
    """Say whether an entry attaches something, or needs what is attached.

    That is what switches a trigger that a partition gets from its parent; and a foreign key: rows may refer to a partition's.
    """
    said = chunk.statements
    if b" TRIGGER " in said and b"CREATE " not in said:
        return True
    if chunk.has_class:
        return FOREIGN_KEY.search(said) is not None
    return any(words in said for words in (b" ATTACH PARTITION ", b"\nCOMMENT ON CONSTRAINT "))


def create(connection: Connection, section: Section, made: set[int], *, attach: bool) -> list[str]:
    """Make what is missing, but attach partitions by itself and last: it proves their keys, which locks the tables of others.

    The live parent has its indexes, and attaching makes a partition's that are not there yet. Returns what is still to do about
    grants that others than the owner made.
    """
    chosen = [one for one in section.chunks if _comes_last(one) is attach]
    return create_missing(connection, section.settings, chosen, made, section.path, section.wanted) if chosen else []


def make_checks(merge: Merge) -> None:
    """Make the checks that are missing: one is made with its table, so the archive has no entry for it.

    Raises:
        DamagedSet: what the set says is no check, or calls what may act.
    """
    path = merge.path
    for item, definition in _missing_checks(merge):
        asked = {"table": item.parent, "name": sql.names.quoted(item.name)}
        if merge.connection.execute(sql.foreign_keys.IS_VALIDATED, asked).fetchall():
            continue
        where = f"{merge.manifest.id}: inventory: constraint {item.name} of {item.parent}: state"
        check = understood_check(merge.connection, where, split_name(item.parent), definition)
        made = sql.staging.add_constraint(item.parent, sql.names.quoted(item.name), check)
        # Rows are there, for which it calls its functions.
        execute_written(merge.connection, made, path)


def _missing_checks(merge: Merge) -> Iterator[tuple[InventoryItem, str]]:
    """Yield the checks that are missing of this context's tables, those that are made now among them: others' get none."""
    own = {one.qualified for one in merge.members.relations} | {plain_name(one.name) for one in merge.missing if one.kind in TABLES}
    for item in merge.missing:
        if item.kind == "constraint" and table_of(item) in own and (check := CHECK.fullmatch(item.state)):
            yield item, check["definition"]


def said_by_the_set(merge: Merge) -> Iterator[str]:
    """Yield the checks and keys that the database lacks, and that are made as the set says."""
    for item, definition in _missing_checks(merge):
        yield f"check {item.name} of {item.parent}: {definition}"
    there = {(key.table, key.name) for key in catalog.read_outbound_keys(merge.connection, merge.members)}
    for key in keys_to_make(merge):
        if (key.table, key.name) not in there:
            yield f"foreign key {key.name} of {key.table}: {key.definition}"


def finish(merge: Merge) -> list[str]:
    """Make last the keys to other contexts, whose tables are locked by that; return what could not be done.

    Raises:
        OperationError: a key was dropped to be made again, and cannot be.
    """
    keys = keys_to_make(merge)
    again = {item.identity: item for item in dropped_last(merge)}
    for item in again.values():
        merge.connection.execute(sql.staging.as_written(drops(item)))
    outcomes = make_keys(merge.connection, keys, LOCK_SECONDS)
    unmade = [one for one in outcomes if not one.made]
    if lost := [one for one in unmade if ("constraint", one.key.table, sql.names.unquoted(one.key.name)) in again]:
        raise OperationError(
            f'database "{merge.site.database}" is as it was: foreign key {lost[0].key.name} of {lost[0].key.table} cannot be made '
            f"again: {lost[0].note}; mend that, or say objects=plan"
        )
    return [f"foreign key {one.key.name} of {one.key.table}: {one.with_rows}" for one in unmade]


def dropped_last(merge: Merge) -> list[InventoryItem]:
    """Return the keys to other contexts that are made again: to drop one locks the other context's table even for readers."""
    outbound = {(key.table, sql.names.unquoted(key.name)) for key in merge.manifest.outbound_keys}
    return [
        one.item for one in merge.found
        if one.is_done and one.remedy.how is How.ANEW and one.item.kind == "constraint"
        and (one.item.parent, one.item.name) in outbound
    ]  # fmt: skip


def keys_to_make(merge: Merge) -> list[ForeignKey]:
    """Return the keys to other contexts, and of one table that was dropped those of our other tables that went with it."""
    keys = [key for key in merge.manifest.outbound_keys if plain_name(key.table) in merge.names]
    if merge.request.table is None or not merge.absent:
        return keys
    return [*keys, *(key for key in own_keys(merge.manifest) if plain_name(_referenced(key)) in merge.names)]


def _referenced(key: ForeignKey) -> str:
    return key.definition.partition(" REFERENCES ")[2].partition("(")[0]


def own_sequences(merge: Merge) -> list[OwnSequence]:
    """Return the sequences of the set that this context's tables use; of one table only those that are its own."""
    if merge.request.table is None:
        members = merge.members
        if merge.missing:
            members = catalog.read_members(merge.connection, catalog.present(merge.connection, merge.context))
        used = {*merge.connection.execute(sql.sequences.SEQUENCES, {"oids": members.chosen_by_class["pg_class"]}).fetchall()}
        return [one for one in merge.manifest.sequences if (one.namespace, one.name) in used]
    owned = [item for item in merge.manifest.inventory if item.kind == "sequence"]
    own = {plain_name(item.name) for item in owned if plain_name(table_of_column(item.parent)) in merge.names}
    return [one for one in merge.manifest.sequences if f"{one.namespace}.{one.name}" in own]
