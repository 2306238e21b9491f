"""Whether the -L list of a set restores everything that its manifest names.

Not checked, because they have no entry of their own: CHECK and NOT NULL constraints, which are
created with their table; indexes of constraints; triggers, which a partition gets from its table;
the rule of a view, which is an entry only where views depend on each other; the schema `public`,
and what PostgreSQL or an extension creates; defaults, privileges and comments; foreign keys to
other contexts, which are created from the manifest; and what the manifest lists as left out.
"""

import re
from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property

from tasks.core.database.comparison import named
from tasks.core.database.objects import TABLES, VIEWS, InventoryItem
from tasks.core.postgres.archive_toc import NAMES_OF_KINDS, OF_A_TABLE, Entry, comparable, parse_list, title, titles_of
from tasks.core.sets.left_out import absent
from tasks.core.sets.manifest import Manifest
from tasks.core.sql.names import split_name

# The class of relations: the only one whose oids both the list and the manifest have
# (catalog/pg_class.dat).
PG_CLASS = 1259
# Part of every database, so that pg_dump may have no entry for them.
BUILT_IN = frozenset({"plpgsql", "public"})
# pg_dump never dumps these schemas.
OF_THE_SYSTEM = re.compile(r"|pg_.*|information_schema")
KEYS_WITH_INDEX = ("PRIMARY KEY", "UNIQUE", "EXCLUDE")
WITHOUT_ENTRY = ("CHECK", "NOT NULL")
SHOWN = 10
KINDS_OF_ENTRIES = [*(kind for kinds in NAMES_OF_KINDS.values() for kind in kinds), "EXTENSION", "TABLE ATTACH", "INDEX ATTACH"]


@dataclass(frozen=True)
class Needed:
    """An object that must have an entry in the list, and how the entry may begin."""

    name: str
    titles: Sequence[str]


def describe_lack(manifest: Manifest, listing: str) -> str | None:
    """Return in a sentence what is wrong with the text of a set's list; None if nothing is."""
    missing = unlisted_objects(manifest, listing)
    and_more = [f"and {len(missing) - SHOWN} more"] if len(missing) > SHOWN else []
    return f"{manifest.schema_list.path} does not restore {', '.join([*missing[:SHOWN], *and_more])}" if missing else None


def unlisted_objects(manifest: Manifest, listing: str) -> list[str]:
    """Return the objects in a manifest that have no entry in the text of its list."""
    entries, is_readable = parse_list(listing), "\ufffd" not in listing
    listed = {entry.object_id for entry in entries}
    relations = [f"table {relation.qualified}" for relation in manifest.relations if (PG_CLASS, relation.oid) not in listed]
    needed = [*_extensions(manifest.extensions), *_Inventory(manifest.inventory, manifest.left_out).needed()]
    # If the list is in an unknown encoding, entries are compared by kind: names cannot be.
    expected = [relation if is_readable else Needed(relation.name, _kinds(relation.titles)) for relation in needed]
    return [*dict.fromkeys([*relations, *_without_entry(expected, entries)])]


def _kinds(titles: Iterable[str]) -> list[str]:
    """Return the longest kind of entry that each title begins with."""
    return [max((f"{kind} " for kind in KINDS_OF_ENTRIES if text.startswith(f"{kind} ")), key=len) for text in titles]


def _without_entry(needed: Iterable[Needed], entries: Iterable[Entry]) -> Iterator[str]:
    """Yield the objects for which no entry is left; each entry is for one object.

    The owner follows the name without a separator, so an entry may begin with several titles: the
    longest comes first.
    """
    texts = sorted(comparable(entry.rest) for entry in entries)
    used = set[int]()
    for item in sorted(needed, key=lambda item: max(map(len, item.titles)), reverse=True):
        place = next((place for text in item.titles for place in _beginning(texts, _first_line(text)) if place not in used), None)
        if place is None:
            yield item.name
        else:
            used.add(place)


def _beginning(texts: Sequence[str], start: str) -> Iterator[int]:
    """Yield the positions of the sorted texts that begin with `start`."""
    place = bisect_left(texts, start)
    while place < len(texts) and texts[place].startswith(start):
        yield place
        place += 1


def _first_line(text: str) -> str:
    """Return the part of a name with a line or paragraph separator that older sets store."""
    return text.splitlines()[0]


def _extensions(names: Iterable[str]) -> Iterator[Needed]:
    return (Needed(f"extension {name}", [title("EXTENSION", "-", name)]) for name in names if name not in BUILT_IN)


@dataclass(frozen=True)
class _Inventory:
    """The objects of a context, with what decides whether each has an entry of its own."""

    items: Sequence[InventoryItem]
    left_out: Collection[str]

    def needed(self) -> Iterator[Needed]:
        """Yield what must be in the list: objects, and attachments of partitions and indexes."""
        for item in self.items:
            if self._has_entry(item):
                yield Needed(named(item), titles_of(item))
            if item.name in self.partitions and item.kind in TABLES:
                yield Needed(f"partition {item.name} of {item.parent}", [title("TABLE ATTACH", *split_name(item.name))])
        for item in self._attached():
            place = f"index {item.name} in that of {self.partitions[item.parent]}"
            yield Needed(place, [title("INDEX ATTACH", *split_name(item.name))])

    @cached_property
    def partitions(self) -> Mapping[str, str]:
        """The table that each partition is of."""
        divided = {item.name for item in self.items if item.kind == "partitioned table"}
        return {item.name: item.parent for item in self.items if item.kind in TABLES and item.parent in divided}

    @cached_property
    def keys(self) -> frozenset[tuple[str, str]]:
        """Table and name of each constraint with an index, which has the same name."""
        return frozenset((i.parent, i.name) for i in self.items if i.kind == "constraint" and i.state.startswith(KEYS_WITH_INDEX))

    @cached_property
    def row_triggers(self) -> frozenset[tuple[str, str]]:
        """Table and name of each row trigger, which partitions inherit."""
        return frozenset((i.parent, i.name) for i in self.items if i.kind == "trigger" and " FOR EACH ROW " in i.state)

    @cached_property
    def of_extensions(self) -> frozenset[str]:
        """The relations that belong to an extension."""
        relations = (item for item in self.items if item.kind in TABLES | VIEWS)
        return frozenset(
            relation.name for relation in relations if " | extension " in relation.state.partition(" | persistence ")[0]
        )

    @cached_property
    def absent(self) -> frozenset[tuple[str, str, str]]:
        """The objects that the manifest lists as left out."""
        return absent(self.items, self.left_out)

    def _attached_to(self, indexes: Set[str]) -> Iterator[InventoryItem]:
        """Yield the indexes of partitions that are attached to some indexes."""
        of_partitions = (item for item in self.items if item.kind == "index" and item.parent in self.partitions)
        for item in of_partitions:
            if not indexes.isdisjoint(text.removeprefix("attached to ") for text in item.state.split(" | ")[1:]):
                yield item

    def _attached(self) -> Iterator[InventoryItem]:
        indexes = {item.name for item in self.items if item.kind == "index"}
        return (item for item in self._attached_to(indexes) if item.identity not in self.absent)

    def _has_entry(self, item: InventoryItem) -> bool:
        return item.kind in NAMES_OF_KINDS and not (
            self._is_of_the_system(item)
            or item.identity in self.absent
            or (item.name if item.kind in TABLES | VIEWS else item.parent) in self.of_extensions
            or self._comes_with_another(item)
        )

    def _is_of_the_system(self, item: InventoryItem) -> bool:
        if item.kind == "schema":
            return item.name in BUILT_IN
        return bool(OF_THE_SYSTEM.fullmatch(split_name(item.parent if item.kind in OF_A_TABLE else item.name)[0]))

    def _comes_with_another(self, item: InventoryItem) -> bool:
        """Return whether an object comes with a constraint, its table, or its table's parent."""
        if item.kind == "index":
            return (item.parent, split_name(item.name)[1]) in self.keys
        if item.kind == "constraint":
            return item.state.startswith(WITHOUT_ENTRY)
        return item.kind == "trigger" and (self.partitions.get(item.parent, ""), item.name) in self.row_triggers
