"""Whether the -L list of a set restores everything that its manifest names.

Not looked for, because no entry of the list is theirs alone: CHECK and NOT NULL constraints, which are made with their table;
indexes of constraints; triggers, which a partition gets from its table; the rule of a view, which is an entry only where views
and what they need go in a circle; the schema `public`, and what PostgreSQL or an extension brings with it; defaults, privileges
and comments; foreign keys to other contexts, which are made from the manifest; and what the manifest says is left out.
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

# What the oids of relations are of: the one class whose oid the list shows and a manifest has (catalog/pg_class.dat).
PG_CLASS = 1259
# Made with every database, so that pg_dump may have no entry for them.
BUILT_IN = frozenset({"plpgsql", "public"})
# pg_dump never dumps what is in these.
OF_THE_SYSTEM = re.compile(r"|pg_.*|information_schema")
KEYS_WITH_INDEX = ("PRIMARY KEY", "UNIQUE", "EXCLUDE")
WITHOUT_ENTRY = ("CHECK", "NOT NULL")
SAID = 10
KINDS_OF_ENTRIES = [*(kind for kinds in NAMES_OF_KINDS.values() for kind in kinds), "EXTENSION", "TABLE ATTACH", "INDEX ATTACH"]


@dataclass(frozen=True)
class Needed:
    """An object that the list must have an entry of, and how that may begin."""

    name: str
    titles: Sequence[str]


def describe_lack(manifest: Manifest, listing: str) -> str | None:
    """Return what is wrong with the text of a set's list, in a sentence; None if nothing is."""
    lacking = unlisted_objects(manifest, listing)
    more = [f"and {len(lacking) - SAID} more"] if len(lacking) > SAID else []
    return f"{manifest.schema_list.path} does not restore {', '.join([*lacking[:SAID], *more])}" if lacking else None


def unlisted_objects(manifest: Manifest, listing: str) -> list[str]:
    """Return the objects that a manifest names and the text of its list has no entry of."""
    entries, is_readable = parse_list(listing), "\ufffd" not in listing
    there = {entry.object_id for entry in entries}
    relations = [f"table {one.qualified}" for one in manifest.relations if (PG_CLASS, one.oid) not in there]
    needed = [*_extensions(manifest.extensions), *_Inventory(manifest.inventory, manifest.left_out).needed()]
    # Names in another encoding than the list's are known to be there, but not which is whose.
    wanted = [one if is_readable else Needed(one.name, _kinds(one.titles)) for one in needed]
    return [*dict.fromkeys([*relations, *_without_entry(wanted, entries)])]


def _kinds(titles: Iterable[str]) -> list[str]:
    """Return the longest kinds that entries may be of which begin so."""
    return [max((f"{kind} " for kind in KINDS_OF_ENTRIES if text.startswith(f"{kind} ")), key=len) for text in titles]


def _without_entry(needed: Iterable[Needed], entries: Iterable[Entry]) -> Iterator[str]:
    """Yield the objects for which no entry is left; each entry is of one object.

    Owners follow names without a sign, so that of titles which one entry begins with the longest comes first.
    """
    texts = sorted(comparable(entry.rest) for entry in entries)
    taken = set[int]()
    for one in sorted(needed, key=lambda one: max(map(len, one.titles)), reverse=True):
        place = next((place for text in one.titles for place in _beginning(texts, _first_line(text)) if place not in taken), None)
        if place is None:
            yield one.name
        else:
            taken.add(place)


def _beginning(texts: Sequence[str], start: str) -> Iterator[int]:
    """Yield the places of the texts, which are in order, that begin so."""
    place = bisect_left(texts, start)
    while place < len(texts) and texts[place].startswith(start):
        yield place
        place += 1


def _first_line(text: str) -> str:
    """Return what older sets have of a name that holds a separator of lines or paragraphs."""
    return text.splitlines()[0]


def _extensions(names: Iterable[str]) -> Iterator[Needed]:
    return (Needed(f"extension {name}", [title("EXTENSION", "-", name)]) for name in names if name not in BUILT_IN)


@dataclass(frozen=True)
class _Inventory:
    """The objects of a context, with what decides whether one has an entry of its own."""

    items: Sequence[InventoryItem]
    left_out: Collection[str]

    def needed(self) -> Iterator[Needed]:
        """Yield what must be in the list: the objects, and what attaches partitions and their indexes."""
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
        """Table and name of each constraint that has an index, which is called like it."""
        return frozenset((i.parent, i.name) for i in self.items if i.kind == "constraint" and i.state.startswith(KEYS_WITH_INDEX))

    @cached_property
    def row_triggers(self) -> frozenset[tuple[str, str]]:
        """Table and name of each trigger that partitions get too."""
        return frozenset((i.parent, i.name) for i in self.items if i.kind == "trigger" and " FOR EACH ROW " in i.state)

    @cached_property
    def brought(self) -> frozenset[str]:
        """The relations that an extension brings."""
        relations = (item for item in self.items if item.kind in TABLES | VIEWS)
        return frozenset(one.name for one in relations if " | extension " in one.state.partition(" | persistence ")[0])

    @cached_property
    def absent(self) -> frozenset[tuple[str, str, str]]:
        """The objects that are left out, as the manifest says."""
        return absent(self.items, self.left_out)

    def _attached_to(self, indexes: Set[str]) -> Iterator[InventoryItem]:
        """Yield the indexes of partitions that belong to some of their tables."""
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
            or (item.name if item.kind in TABLES | VIEWS else item.parent) in self.brought
            or self._comes_with_another(item)
        )

    def _is_of_the_system(self, item: InventoryItem) -> bool:
        if item.kind == "schema":
            return item.name in BUILT_IN
        return bool(OF_THE_SYSTEM.fullmatch(split_name(item.parent if item.kind in OF_A_TABLE else item.name)[0]))

    def _comes_with_another(self, item: InventoryItem) -> bool:
        """Say whether it is made with a constraint, a table or the table that its own is a partition of."""
        if item.kind == "index":
            return (item.parent, split_name(item.name)[1]) in self.keys
        if item.kind == "constraint":
            return item.state.startswith(WITHOUT_ENTRY)
        return item.kind == "trigger" and (self.partitions.get(item.parent, ""), item.name) in self.row_triggers
