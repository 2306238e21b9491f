"""The differences between the objects of a live context and those of the set."""

from collections.abc import Iterable, Iterator

from tasks.core import sql
from tasks.core.checks.definition import Severity
from tasks.core.database.comparison import Difference, with_moved_sequences
from tasks.core.database.facts import ATTACHED, BOUND, IDENTITY, NOT_NULL, NOT_VALID, facts, owner_of
from tasks.core.database.objects import TABLES, InventoryItem
from tasks.core.in_place.objects import Finding, How, ObjectChange, Remedy
from tasks.core.in_place.remedies import drops_made, is_lasting, moves, remedy
from tasks.core.in_place.request import Mode, Objects
from tasks.core.postgres.archive_toc import NAMES_OF_KINDS, table_of
from tasks.core.postgres.connection import Connection
from tasks.core.sets.manifest import Manifest
from tasks.core.spelling import foreign_key_of
from tasks.core.sql.names import unquoted
from tasks.database import catalog
from tasks.database.catalog import Members
from tasks.database.neighbours import Neighbours
from tasks.database.views import count_stale
from tasks.in_place import rights
from tasks.in_place.detached import with_tables
from tasks.in_place.session import Merge
from tasks.sets.differences import Comparison


def find(merge: Merge) -> list[Finding]:
    """Return how the context's objects differ from the set, as far as the request concerns them.

    Differences that go away when a partition is attached or detached are left out.
    """
    return [finding for finding in _find(merge, merge.members, merge.inventory) if not _settled(merge, finding.difference)]


def _bounds(merge: Merge, inventory: Iterable[InventoryItem]) -> Iterator[Difference]:
    """Yield partitions attached only in the set or only here, also across major versions."""
    then = {item.identity: item for item in merge.manifest.inventory if item.name in merge.moved}
    for now in inventory:
        if was := then.get(now.identity):
            bounds = [facts(item).get(BOUND, "") for item in (was, now)]
            if "" in bounds and any(bounds):
                yield Difference(was, now, BOUND, *bounds)


def _keys_made(merge: Merge, partition: str) -> list[str]:
    """Return the keys that attaching made: the whole table's that the set's partition lacks."""
    inventory, outbound = merge.manifest.inventory, merge.manifest.outbound_keys
    known = {(item.parent, item.name) for item in inventory if item.kind == "constraint" and foreign_key_of(item.state)}
    known |= {(key.table, unquoted(key.name)) for key in outbound}
    return sorted(name for table, name in known if table == merge.moved[partition].parent and (partition, name) not in known)


def _settled(merge: Merge, difference: Difference) -> bool:
    item, fact = difference.item, difference.fact.rpartition(": ")[2]
    if not fact:
        return merge.comes_with_partition(item)
    return (item.parent in merge.moved and fact == ATTACHED) or (item.name in merge.moved and fact == IDENTITY)


def _find(merge: Merge, members: Members, inventory: Iterable[InventoryItem]) -> list[Finding]:
    names = None if merge.request.table is None else merge.names
    compared = Comparison(
        merge.connection, merge.manifest, members, [*inventory], merge.path, names, Neighbours.of(merge.site, merge.run)
    )
    differing = compared.differences if compared.is_same_major else [*compared.differences, *_bounds(merge, inventory)]
    new = {difference.item.name for difference in differing if difference.then is None and difference.item.kind in TABLES}
    made = {item.identity for item in merge.manifest.made}
    # Objects of a new table are left with it; keys that a restore created are dropped before it.
    chosen = [
        difference
        for difference in differing
        if difference.then is not None or difference.item.parent not in new or difference.item.identity in made
    ]
    own, constraints = compared.own, {(item.parent, item.name) for item in inventory if item.kind == "constraint"}
    hows = [
        drops_made(difference)
        if difference.then is None and difference.item.identity in made
        else moves(difference, merge.moved[difference.item.name], _keys_made(merge, difference.item.name))
        if difference.fact == BOUND and difference.item.name in merge.moved
        else remedy(difference, own, constraints)
        for difference in chosen
    ]
    allowed = [(difference, _as_rights_allow(merge, difference, how)) for difference, how in zip(chosen, hows, strict=True)]
    return [
        Finding(difference, how, done := _is_done(merge, difference, how), done and is_lasting(difference, how, own, constraints))
        for difference, how in allowed
    ]


def find_now(merge: Merge) -> list[Finding]:
    """Return how the current objects, including those just created, differ from the set."""
    context = with_tables(catalog.present(merge.connection, merge.whole), {*merge.detached, *merge.moved})
    members = catalog.read_members(merge.connection, context)
    return _find(merge, members, inventory_named_as_in_set(merge.connection, members, merge.manifest))


def inventory_named_as_in_set(connection: Connection, members: Members, manifest: Manifest) -> list[InventoryItem]:
    """Return the context's current objects, under the names that they have in the set."""
    return with_moved_sequences(manifest.inventory, catalog.read_inventory(connection, members, manifest.inventory))


def _asks_rows(merge: Merge, difference: Difference, how: Remedy) -> bool:
    """Return whether rows that the restore keeps may violate an object to create or change.

    Keys to other contexts do not count: they are created last, and reported if rows violate them.
    """
    item, fact = difference.item, difference.fact
    if table_of(item) in {relation.qualified for relation in merge.absent} or (item.parent, item.name) in _to_others(merge):
        return False
    if fact.endswith(NOT_NULL):
        return merge.leaves_rows and bool(difference.was)
    return merge.may_break(item) and (how.how in {How.CREATE, How.ANEW} or fact == NOT_VALID)


def _to_others(merge: Merge) -> set[tuple[str, str]]:
    return {(key.table, unquoted(key.name)) for key in merge.manifest.outbound_keys}


def _as_rights_allow(merge: Merge, difference: Difference, how: Remedy) -> Remedy:
    """Return how an object is changed back; without the rights, only the statement to run."""
    key, owner = difference.item, owner_of(difference.now) if difference.now else ""
    if how.how is How.CREATE and merge.needs_lost_column(key):
        return Remedy(How.NOT, how.by_hand, f"{key.parent} lacks columns that it names; then run")
    if how.how is How.CREATE and key.kind == "constraint" and (grant := rights.references(merge, key)):
        return Remedy(How.NOT, f"{grant} {how.by_hand}", "the tables' owner lacks REFERENCES on that table; run as its owner")
    if how.how is not How.NOT and _asks_rows(merge, difference, how):
        return Remedy(How.NOT, how.by_hand, "rows that the restore keeps may violate it: restore with mode replace, or run")
    if how.how is How.NOT or not owner:
        return how
    mine = merge.connection.execute(sql.databases.MAY_BECOME, {"names": [owner]}).fetchall()
    return how if mine else Remedy(How.NOT, how.by_hand, f'only its owner "{owner}", or a superuser, may change it; run')


def stale_views(merge: Merge) -> list[ObjectChange]:
    """Return the set's stale materialized views; a restore of rows refreshes views in any case."""
    changes, site = list[ObjectChange](), merge.site
    here = {(view.namespace, view.name) for view in merge.members.views if view.materialized and view.populated}
    for view in merge.manifest.views if merge.request.table is None else ():
        if not view.populated or (view.namespace, view.name) not in here:
            continue
        stale = count_stale(site.owners_login, site.database, merge.run, view)
        what = f"materialized view {view.qualified}"
        if stale.stale:
            changes.append(
                ObjectChange(f"{what}: {stale.stale:,} rows are stale", Severity.ERROR, Remedy(How.REFRESH), is_done=True)
            )
        if stale.stale is None:
            unknown = Remedy(How.NOT, "", "run refresh_views")
            changes.append(ObjectChange(f"{what}: stale rows are {stale.why}", Severity.WARNING, unknown, is_done=False))
    return changes


def _is_done(merge: Merge, difference: Difference, how: Remedy) -> bool:
    """Return whether this restore changes an object back."""
    item, request = difference.item, merge.request
    whole = request.table is None or (request.mode is Mode.REPLACE and request.keys is None)
    match how.how:
        case How.NOT:
            return False
        case How.CREATE:
            is_key = item.kind == "constraint" and (item.parent, item.name) in _to_others(merge)
            return is_key or (item.kind in NAMES_OF_KINDS and item in merge.missing)
        case How.SWITCH:
            return request.table is None
        case How.REFRESH | How.ADVANCE | How.DROP | How.ATTACH | How.DETACH:
            return True
        case How.REBUILD:
            return whole
    return request.objects is Objects.RESTORE
