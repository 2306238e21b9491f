"""What a merge makes besides rows: objects that the set has and the database does not, keys, and positions of sequences."""

import re
from collections.abc import Iterator
from dataclasses import replace

from tasks import catalogue
from tasks.core import merge_sql, sql
from tasks.core.compare import compare_inventories, missing_objects
from tasks.core.errors import RestoreDiffers
from tasks.core.manifest import TABLES, ForeignKey, InventoryItem, Sequence
from tasks.core.servers import Connection
from tasks.core.toc import Chunk, entries_of, parse_list, plain_name, split_name, table_of, table_of_column
from tasks.existing import create_missing
from tasks.keys import make_keys, own_keys
from tasks.merge_session import Merge
from tasks.recoveries import find_pg_restore
from tasks.schema import read_chunks
from tasks.set_texts import understood_check, understood_partition_key
from tasks.sets import unpack

# As long a writer may have to wait because we queue.
LOCK_SECONDS = 5
CREATE_TABLE = re.compile(rb"\nCREATE (UNLOGGED )?TABLE ")
KEY = re.compile(r" \| key (.*?) \| bound ", re.DOTALL)
CHECK = re.compile(r"(?P<definition>CHECK .*?)( \| NOT VALID)?( \| comment .*)?", re.DOTALL)


Section = tuple[bytes, list[Chunk], set[int]]


def missing_chunks(merge: Merge) -> tuple[Section, Section]:
    """Return the statements that make what is missing, before and after the data."""
    if not merge.missing:
        return (b"", [], set()), (b"", [], set())
    manifest, files = merge.manifest, merge.staged.files
    pg_restore = find_pg_restore(manifest, merge.source.major)
    archive, listing = unpack(merge.staged, manifest.schema_archive), files[manifest.schema_list.path]
    entries = parse_list(listing.read_text(encoding="utf-8", errors="replace"))
    wanted = entries_of(merge.missing, entries)
    rebuilt = {one: item for item in _partitions(merge) for one in entries_of([item], entries)}

    def section(name: str) -> Section:
        settings, chunks = read_chunks(merge.run, pg_restore, name, archive, listing)
        return settings, [_like_its_parent(merge, chunk, rebuilt.get(chunk.dump_id)) for chunk in chunks], wanted

    return section("pre-data"), section("post-data")


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
    made = merge_sql.create_like(
        partition.name, partition.parent, owner, _partition_key(merge, partition),
        unlogged=b"\nCREATE UNLOGGED" in chunk.statements,
    )  # fmt: skip
    return replace(chunk, statements=made.as_bytes())


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
    """Say whether an entry attaches something, or switches a trigger that a partition gets from its parent when it is attached."""
    switches = b" TRIGGER " in chunk.statements and b"CREATE " not in chunk.statements
    return switches or (not chunk.has_class and b" ATTACH PARTITION " in chunk.statements)


def create(connection: Connection, section: Section, made: set[int], *, attach: bool) -> None:
    """Make what is missing, but attach partitions by itself and last: it proves their keys, which locks the tables of others.

    The live parent has its indexes, and attaching makes a partition's that are not there yet.
    """
    settings, chunks, wanted = section
    chosen = [one for one in chunks if _comes_last(one) is attach]
    if chosen:
        create_missing(connection, settings, chosen, made, wanted)


def make_checks(merge: Merge) -> None:
    """Make the checks that are missing: one is made with its table, so the archive has no entry for it.

    Raises:
        DamagedSet: what the set says is no check, or calls what may act.
    """
    for item, definition in _missing_checks(merge):
        asked = {"table": item.parent, "name": sql.quoted(item.name)}
        if merge.connection.execute(sql.IS_VALIDATED, asked).fetchall():
            continue
        where = f"{merge.manifest.id}: inventory: constraint {item.name} of {item.parent}: state"
        check = understood_check(merge.connection, where, split_name(item.parent), definition)
        merge.connection.execute(merge_sql.add_constraint(item.parent, sql.quoted(item.name), check))


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
    there = {(key.table, key.name) for key in catalogue.read_outbound_keys(merge.connection, merge.members)}
    for key in _keys_to_make(merge):
        if (key.table, key.name) not in there:
            yield f"foreign key {key.name} of {key.table}: {key.definition}"


def finish(merge: Merge) -> list[str]:
    """Do last what locks readers or tables of others: checks and keys to other contexts; return what could not be done."""
    connection, manifest = merge.connection, merge.manifest
    make_checks(merge)
    outcomes = make_keys(connection, _keys_to_make(merge), LOCK_SECONDS)
    inbound = [key for key in manifest.inbound_keys if plain_name(key.references) in merge.names]
    return [
        *(f"foreign key {one.key.name} of {one.key.table}: {one.with_rows}" for one in outcomes if not one.made),
        *(f"foreign key {key.name} of {key.table} to {key.references} is gone; it comes back with its own context, or "
          f"`{sql.add_key(key.table, key.name, key.definition).as_string()};`"
          for key in inbound if _is_gone(merge, key)),
    ]  # fmt: skip


def _keys_to_make(merge: Merge) -> list[ForeignKey]:
    """Return the keys to other contexts, and of one table that was dropped those of our other tables that went with it."""
    keys = [key for key in merge.manifest.outbound_keys if plain_name(key.table) in merge.names]
    if merge.request.table is None or not merge.absent:
        return keys
    return [*keys, *(key for key in own_keys(merge.manifest) if plain_name(_referenced(key)) in merge.names)]


def _referenced(key: ForeignKey) -> str:
    return key.definition.partition(" REFERENCES ")[2].partition("(")[0]


def _is_gone(merge: Merge, key: ForeignKey) -> bool:
    """Say whether a key of another context, whose table is there, is not."""
    asked = {"table": key.table, "name": sql.unquoted(key.name)}
    return bool(merge.connection.execute(merge_sql.KEY_IS_GONE, asked).fetchall()[0][0])


def require_objects(merge: Merge) -> list[str]:
    """Make sure that every object of the set is there; return how those that were made differ from what they were.

    Raises:
        RestoreDiffers: some are not there.
    """
    if not merge.missing:
        return []
    there = catalogue.present(merge.connection, merge.whole)
    now = catalogue.read_inventory(merge.connection, catalogue.read_members(merge.connection, there))
    if gone := missing_objects(merge.missing, now):
        raise RestoreDiffers(f'database "{merge.site.database}" is as it was: {"; ".join(gone[:10])} could not be made')
    made = {item.identity for item in merge.missing}
    same_major = merge.manifest.versions.server_major == merge.source.major
    unlike = compare_inventories(merge.missing, [item for item in now if item.identity in made], same_major=same_major)
    return [f"made anew, but {one}" for one in unlike]


def own_sequences(merge: Merge) -> list[Sequence]:
    """Return the sequences of the set that this context's tables use; of one table only those that are its own."""
    if merge.request.table is None:
        members = merge.members
        if merge.missing:
            members = catalogue.read_members(merge.connection, catalogue.present(merge.connection, merge.context))
        used = {*merge.connection.execute(sql.SEQUENCES, {"oids": members.chosen_by_class["pg_class"]}).fetchall()}
        return [one for one in merge.manifest.sequences if (one.namespace, one.name) in used]
    owned = [item for item in merge.manifest.inventory if item.kind == "sequence"]
    own = {plain_name(item.name) for item in owned if plain_name(table_of_column(item.parent)) in merge.names}
    return [one for one in merge.manifest.sequences if f"{one.namespace}.{one.name}" in own]
