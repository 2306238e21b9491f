"""Comparing the objects of a source, or a set, with those of another database."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tasks.core.database.facts import DEFINITION, OWNED_BY, PRIVILEGES, changed_facts, facts
from tasks.core.database.objects import InventoryItem

# `status IN ('a', 'b')` on a varchar column is printed with the cast around the array; dumped and
# read again, PostgreSQL prints the cast around each element instead.
CAST_ARRAY = re.compile(r"\(ARRAY\[(?P<elements>'(?:[^']|'')*'::[^\[\]]*?)\]\)::(?P<type>[\w ]+)\[\]")
ELEMENT = re.compile(r"'(?:[^']|'')*'::[\w ]+?(?=, '|$)")


def spelled_stably(item: Mapping[str, str]) -> dict[str, str]:
    """Return an inventory row in the spelling that it has after a dump and restore."""
    return {key: CAST_ARRAY.sub(_cast_each, text) for key, text in item.items()}


def _cast_each(match: re.Match[str]) -> str:
    elements = ELEMENT.sub(lambda element: f"({element[0]})::{match['type']}", match["elements"])
    return f"ARRAY[{elements}]"


@dataclass(frozen=True)
class Difference:
    """An object that is new (`then` is None), is missing (`now` is None), or differs in a fact."""

    then: InventoryItem | None
    now: InventoryItem | None
    fact: str = ""
    was: str = ""
    becomes: str = ""

    @property
    def item(self) -> InventoryItem:
        """The object as it was, or as it is if it is new."""
        known = self.then or self.now
        assert known  # noqa: S101
        return known

    @property
    def line(self) -> str:
        """The difference as a sentence."""
        if self.now is None:
            return f"{named(self.item)} is missing"
        if self.then is None:
            return f"{named(self.item)} was not in the source"
        return f"{named(self.item)}: {self.fact} was [{self.was}], is [{self.becomes}]"


def find_differences(
    source: Iterable[InventoryItem],
    now: Iterable[InventoryItem],
    *,
    same_major: bool,
) -> list[Difference]:
    """Return the differences of objects, fact by fact only within one major version."""
    before, after = ({item.identity: item for item in items} for items in (source, now))
    gone = [Difference(item, None) for identity, item in before.items() if identity not in after]
    added = [Difference(None, item) for identity, item in after.items() if identity not in before]
    both = [(item, after[identity]) for identity, item in before.items() if identity in after] if same_major else []
    return gone + added + [difference for old, new in both if old != new for difference in _changes(old, new)]


def with_moved_sequences(then: Iterable[InventoryItem], now: Iterable[InventoryItem]) -> list[InventoryItem]:
    """Return `now`, where a sequence with another owning column is under its owner in `then`."""
    parents = {item.name: item.parent for item in then if item.kind == "sequence"}
    return [
        _moved(item, parents[item.name]) if item.kind == "sequence" and parents.get(item.name, item.parent) != item.parent else item
        for item in now
    ]


def _moved(sequence: InventoryItem, parent: str) -> InventoryItem:
    before, privileges, after = sequence.state.partition(f" | {PRIVILEGES} ")
    state = f"{before} | {OWNED_BY} {sequence.parent or 'NONE'}{privileges}{after}"
    return sequence.model_copy(update={"parent": parent, "state": state})


def _changes(old: InventoryItem, new: InventoryItem) -> list[Difference]:
    changes = changed_facts(facts(old), facts(new)) or [
        (DEFINITION, f"{old.columns} | {old.state}", f"{new.columns} | {new.state}")
    ]
    return [Difference(old, new, *change) for change in changes]


def compare_inventories(source: Iterable[InventoryItem], restored: Iterable[InventoryItem], *, same_major: bool) -> list[str]:
    """Return how the restored objects differ, as sentences.

    Texts are compared within one major version only: between majors PostgreSQL spells the same
    object differently.
    """
    before, after = ({item.identity: item for item in items} for items in (source, restored))
    missing = [f"{name} is missing" for name in missing_objects(before.values(), after.values())]
    added = [f"{named(item)} was not in the source" for identity, item in after.items() if identity not in before]
    both = [(item, after[identity]) for identity, item in before.items() if identity in after]
    changed = [_change(old, new) for old, new in both if same_major and old != new]
    return missing + added + changed


def missing_objects(before: Iterable[InventoryItem], after: Iterable[InventoryItem]) -> list[str]:
    """Return the names of the objects in `before` that are not in `after`."""
    there = {item.identity for item in after}
    return [named(item) for item in before if item.identity not in there]


def named(item: InventoryItem) -> str:
    """Return an object's name for messages."""
    return f"{item.kind} {item.name}" + (f" of {item.parent}" if item.parent else "")


def _change(old: InventoryItem, new: InventoryItem) -> str:
    before, after = ((item.columns + " | " + item.state).split(" | ") for item in (old, new))
    lost = "; ".join(part for part in before if part not in after)
    gained = "; ".join(part for part in after if part not in before)
    return f"{named(old)} differs: was [{lost}], is [{gained}]"
