"""Objects that refer to the context and are not in a set: to be created by hand after a restore."""

import re
from collections.abc import Iterable, Iterator, Set

from tasks.core.database.objects import FORGOTTEN, TABLES, InventoryItem, LeftOut
from tasks.core.postgres.archive_toc import OF_A_TABLE
from tasks.core.report.markdown import several, sql_block
from tasks.core.sets.manifest import Manifest

SHOWN = 3
OLDER = (
    "the release that took the set stored no large objects; take a new backup, or export them from "
    "the source (lo_export) while it exists"
)
DOMAIN_OVER_OID = re.compile(r" \| d \| oid(\[\])?( \||$)")


def chores(manifest: Manifest) -> list[str]:
    """Return, as Markdown, the objects that a set lacks, with the statements that create them."""
    named = {left_out.name for left_out in manifest.by_hand}
    older = [
        LeftOut(name=name, why="it needs another context's table", statements="") for name in manifest.left_out if name not in named
    ]
    forgotten = [
        f"table {table} and its rows are in no backup, because no context lists the table" for table in _forgotten(manifest)
    ]
    older += [LeftOut(name=name, why=OLDER, statements="") for name in _large_objects_of_older(manifest)]
    left_out = [f"{item.name} is not in the backup: {item.why}{_quoted(item.statements)}" for item in (*older, *manifest.by_hand)]
    return [*forgotten, *left_out]


def _forgotten(manifest: Manifest) -> list[str]:
    """Return the tables that no context lists, of an older set or a part of a context; other sets have their statements."""
    return [] if any(is_forgotten(item) for item in manifest.by_hand) else manifest.forgotten_tables


def is_forgotten(item: LeftOut) -> bool:
    """Return whether an object is a table that no context lists."""
    return item.why.startswith(FORGOTTEN)


def _quoted(statements: str) -> str:
    if not statements:
        return "; its statements are not in the manifest"
    return f"; create it when the objects that it needs exist:\n\n{sql_block(statements)}"


def _large_objects_of_older(manifest: Manifest) -> list[str]:
    """Return the columns that may reference large objects, which an older set does not have."""
    if manifest.large_objects is not None:
        return []
    domains = {item.name for item in manifest.inventory if item.kind == "type" and DOMAIN_OVER_OID.search(item.state)}
    brought = ".lo" if "lo" in manifest.extensions else None

    def may_name(kind: str) -> bool:
        # The array type of a domain has its name with an underscore before it.
        plain = kind.removesuffix("[]").replace("._", ".")
        return plain == "oid" or plain in domains or bool(brought and plain.endswith(brought))

    candidates = (
        (relation, [name for name, kind in zip(relation.columns, relation.types, strict=False) if may_name(kind)])
        for relation in manifest.relations
    )
    return [
        f"the large objects that {relation.qualified}({', '.join(names)}) references" for relation, names in candidates if names
    ]


def in_short(manifest: Manifest) -> str:
    """Return the objects that are not in a set in short, for a verdict; "" if there are none."""
    by_hand, large_objects = [item.name for item in manifest.by_hand], _large_objects_of_older(manifest)
    names = [*dict.fromkeys([*by_hand, *manifest.left_out, *large_objects, *_forgotten(manifest)])]
    and_more = [f"and {len(names) - SHOWN} more"] if len(names) > SHOWN else []
    return f"{several(len(names), 'object')} not in the set ({', '.join([*names[:SHOWN], *and_more])})" if names else ""


def absent(items: Iterable[InventoryItem], left_out: Iterable[str]) -> frozenset[tuple[str, str, str]]:
    """Return the identities of left-out objects, and of what partitions inherit from them."""
    inventory, names = list(items), frozenset(left_out)
    parents = {item.name: item.parent for item in inventory if item.kind in TABLES}
    identities = {item.identity for item in inventory if _is_named(item, names)}
    while added := {item.identity for item in _because_of(identities, inventory, parents)} - identities:
        identities |= added
    return frozenset(identities)


def without_absent(items: Iterable[InventoryItem], left_out: Iterable[str]) -> list[InventoryItem]:
    """Return an inventory without the objects that are left out."""
    inventory = list(items)
    absent_items = absent(inventory, left_out)
    return [item for item in inventory if item.identity not in absent_items]


def _is_named(item: InventoryItem, names: frozenset[str]) -> bool:
    """Return whether an object is among names, which are spelled as by pg_describe_object."""
    words = f"{item.kind} {item.name}"
    if item.kind in OF_A_TABLE:
        return any(text.startswith(f"{words} on ") and text.endswith(f" {item.parent}") for text in names)
    return words in names or f"statistics object {item.name}" in names


def _because_of(
    identities: Set[tuple[str, str, str]], inventory: Iterable[InventoryItem], parents: dict[str, str]
) -> Iterator[InventoryItem]:
    """Yield the indexes and triggers that partitions have because their parent has them."""
    indexes = {name for kind, _, name in identities if kind == "index"}
    for item in inventory:
        if item.kind == "index" and item.parent in parents:
            attached = (text.removeprefix("attached to ") for text in item.state.split(" | ")[1:])
            if not indexes.isdisjoint(attached):
                yield item
        if item.kind == "trigger" and ("trigger", parents.get(item.parent, ""), item.name) in identities:
            yield item
