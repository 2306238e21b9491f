"""What a set does not have although its context needs it, or it needs the context: who restores it makes it by hand."""

import re
from collections.abc import Iterable, Iterator, Set

from tasks.core.database.objects import TABLES, InventoryItem, LeftOut
from tasks.core.postgres.archive_toc import OF_A_TABLE
from tasks.core.report.markdown import several, sql_block
from tasks.core.sets.manifest import Manifest

SAID = 3
OLDER = "the release that took it stored none; take a new backup, or have them from the source (lo_export) while that is there"
DOMAIN_OVER_OID = re.compile(r" \| d \| oid(\[\])?( \||$)")


def chores(manifest: Manifest) -> list[str]:
    """Return, as Markdown, what of the surroundings is not in a set, each with the statements that make it."""
    named = {one.name for one in manifest.by_hand}
    older = [
        LeftOut(name=name, why="it needs another context's table", statements="") for name in manifest.left_out if name not in named
    ]
    forgotten = [
        f"table {one} is in no backup, neither are its rows: no context looks after it" for one in manifest.forgotten_tables
    ]
    older += [LeftOut(name=name, why=OLDER, statements="") for name in _large_objects_of_older(manifest)]
    left_out = [f"{one.name} is not in the backup: {one.why}{_quoted(one.statements)}" for one in (*older, *manifest.by_hand)]
    return [*forgotten, *left_out]


def _quoted(statements: str) -> str:
    if not statements:
        return "; its statements are not in the manifest"
    return f"; make it when what it needs is there:\n\n{sql_block(statements)}"


def _large_objects_of_older(manifest: Manifest) -> list[str]:
    """Return what columns may name that an older set does not have: it says nothing of large objects, but types of columns."""
    if manifest.large_objects is not None:
        return []
    domains = {item.name for item in manifest.inventory if item.kind == "type" and DOMAIN_OVER_OID.search(item.state)}
    brought = ".lo" if "lo" in manifest.extensions else None

    def may_name(kind: str) -> bool:
        # The type of an array of a domain is called like that, with a line before it.
        plain = kind.removesuffix("[]").replace("._", ".")
        return plain == "oid" or plain in domains or bool(brought and plain.endswith(brought))

    found = (
        (one, [name for name, kind in zip(one.columns, one.types, strict=False) if may_name(kind)]) for one in manifest.relations
    )
    return [f"what {one.qualified}({', '.join(names)}) names of large objects" for one, names in found if names]


def in_short(manifest: Manifest) -> str:
    """Return the same for a verdict; nothing if nothing is left out."""
    by_hand, large = [one.name for one in manifest.by_hand], _large_objects_of_older(manifest)
    names = [*dict.fromkeys([*by_hand, *manifest.left_out, *large, *manifest.forgotten_tables])]
    more = [f"and {len(names) - SAID} more"] if len(names) > SAID else []
    return f"{several(len(names), 'object')} not in it ({', '.join([*names[:SAID], *more])})" if names else ""


def absent(items: Iterable[InventoryItem], left_out: Iterable[str]) -> frozenset[tuple[str, str, str]]:
    """Return the identities of the objects of an inventory that are left out, with what partitions have because of them."""
    inventory, names = list(items), frozenset(left_out)
    parents = {one.name: one.parent for one in inventory if one.kind in TABLES}
    found = {one.identity for one in inventory if _is_named(one, names)}
    while more := {one.identity for one in _because_of(found, inventory, parents)} - found:
        found |= more
    return frozenset(found)


def without_absent(items: Iterable[InventoryItem], left_out: Iterable[str]) -> list[InventoryItem]:
    """Return an inventory without what is left out."""
    inventory = list(items)
    gone = absent(inventory, left_out)
    return [one for one in inventory if one.identity not in gone]


def _is_named(item: InventoryItem, names: frozenset[str]) -> bool:
    """Say whether it is named as pg_describe_object does."""
    words = f"{item.kind} {item.name}"
    if item.kind in OF_A_TABLE:
        return any(text.startswith(f"{words} on ") and text.endswith(f" {item.parent}") for text in names)
    return words in names or f"statistics object {item.name}" in names


def _because_of(
    found: Set[tuple[str, str, str]], inventory: Iterable[InventoryItem], parents: dict[str, str]
) -> Iterator[InventoryItem]:  # fmt: skip
    """Yield the indexes and triggers that partitions have because of their table's."""
    indexes = {name for kind, _, name in found if kind == "index"}
    for item in inventory:
        if item.kind == "index" and item.parent in parents:
            attached = (text.removeprefix("attached to ") for text in item.state.split(" | ")[1:])
            if not indexes.isdisjoint(attached):
                yield item
        if item.kind == "trigger" and ("trigger", parents.get(item.parent, ""), item.name) in found:
            yield item
