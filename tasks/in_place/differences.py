"""How a live context's objects are not as in the set that is restored, for the plan, for what is done, and for the verdict."""

from collections.abc import Iterable

from tasks.core import sql
from tasks.core.checks.definition import Severity
from tasks.core.database.comparison import Difference, with_moved_sequences
from tasks.core.database.facts import NOT_NULL, NOT_VALID, owner_of
from tasks.core.database.objects import TABLES, InventoryItem
from tasks.core.in_place.objects import Found, How, ObjectChange, Remedy
from tasks.core.in_place.remedies import drops_made, is_lasting, remedy
from tasks.core.in_place.request import Mode, Objects
from tasks.core.postgres.archive_toc import NAMES_OF_KINDS, table_of
from tasks.core.postgres.connection import Connection
from tasks.core.sets.manifest import Manifest
from tasks.core.sql.names import unquoted
from tasks.database import catalog
from tasks.database.catalog import Members
from tasks.database.neighbours import Neighbours
from tasks.database.views import count_stale
from tasks.in_place import rights
from tasks.in_place.session import Merge
from tasks.sets.differences import Comparison


def find(merge: Merge, members: Members, inventory: Iterable[InventoryItem]) -> list[Found]:
    """Return how the context's objects, read just now, are not as in the set, as far as they were asked for."""
    names = None if merge.request.table is None else merge.names
    compared = Comparison(
        merge.connection, merge.manifest, members, [*inventory], merge.path, names, Neighbours.of(merge.site, merge.run)
    )
    new = {one.item.name for one in compared.differences if one.then is None and one.item.kind in TABLES}
    made = {item.identity for item in merge.manifest.made}
    # What belongs to a new table goes with it; keys that a restore made are dropped before it.
    found = [one for one in compared.differences if one.then is not None or one.item.parent not in new or one.item.identity in made]
    own, constraints = compared.own, {(item.parent, item.name) for item in inventory if item.kind == "constraint"}
    hows = [drops_made(one) if one.then is None and one.item.identity in made else remedy(one, own, constraints) for one in found]
    allowed = [(one, _as_rights_allow(merge, one, how)) for one, how in zip(found, hows, strict=True)]
    return [
        Found(one, how, done := _is_done(merge, one, how), done and is_lasting(one, how, own, constraints)) for one, how in allowed
    ]


def find_now(merge: Merge) -> list[Found]:
    """Return the same of the objects as they are by now, those that were made among them."""
    members = catalog.read_members(merge.connection, catalog.present(merge.connection, merge.whole))
    return find(merge, members, inventory_as_told(merge.connection, members, merge.manifest))


def inventory_as_told(connection: Connection, members: Members, manifest: Manifest) -> list[InventoryItem]:
    """Return the context's objects as they are, called as the set calls them."""
    return with_moved_sequences(manifest.inventory, catalog.read_inventory(connection, members, manifest.inventory))


def _asks_rows(merge: Merge, difference: Difference, how: Remedy) -> bool:
    """Say whether rows that the restore leaves may break what it would create or set back.

    Keys to other contexts are tried at last, and stay to be done where rows do.
    """
    item, fact = difference.item, difference.fact
    if table_of(item) in {one.qualified for one in merge.absent} or (item.parent, item.name) in _to_others(merge):
        return False
    if fact.endswith(NOT_NULL):
        return merge.leaves_rows and bool(difference.was)
    return merge.may_break(item) and (how.how in {How.CREATE, How.ANEW} or fact == NOT_VALID)


def _to_others(merge: Merge) -> set[tuple[str, str]]:
    return {(key.table, unquoted(key.name)) for key in merge.manifest.outbound_keys}


def _as_rights_allow(merge: Merge, difference: Difference, how: Remedy) -> Remedy:
    """Return how an object is set back; only listed where that takes the rights of others."""
    key, owner = difference.item, owner_of(difference.now) if difference.now else ""
    if how.how is How.CREATE and key.kind == "constraint" and (grant := rights.references(merge, key)):
        return Remedy(How.NOT, f"{grant} {how.by_hand}", "the tables' owner may not refer to that table; run as its owner")
    if how.how is not How.NOT and _asks_rows(merge, difference, how):
        return Remedy(How.NOT, how.by_hand, "rows that this leaves may break it: restore with mode replace, or run")
    if how.how is How.NOT or not owner:
        return how
    mine = merge.connection.execute(sql.databases.MAY_BECOME, {"names": [owner]}).fetchall()
    return how if mine else Remedy(How.NOT, how.by_hand, f'it belongs to "{owner}": only that role, or a superuser, may')


def stale_views(merge: Merge) -> list[ObjectChange]:
    """Return which views of the set hold other rows than their queries have now; what is restored anyhow computes them."""
    found, site = list[ObjectChange](), merge.site
    here = {(view.namespace, view.name) for view in merge.members.views if view.materialized and view.populated}
    for view in merge.manifest.views if merge.request.table is None else ():
        if not view.populated or (view.namespace, view.name) not in here:
            continue
        stale = count_stale(site.owners_login, site.database, merge.run, view)
        what = f"materialized view {view.qualified}"
        if stale.stale:
            found.append(ObjectChange(f"{what}: {stale.stale:,} rows are stale", Severity.ERROR, Remedy(How.REFRESH), is_done=True))
        if stale.stale is None:
            unknown = Remedy(How.NOT, "", "refresh_views computes it")
            found.append(ObjectChange(f"{what}: stale rows are {stale.why}", Severity.WARNING, unknown, is_done=False))
    return found


def _is_done(merge: Merge, difference: Difference, how: Remedy) -> bool:
    """Say whether this restore sets an object back."""
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
        case How.REFRESH | How.ADVANCE | How.DROP:
            return True
        case How.REBUILD:
            return whole
    return request.objects is Objects.RESTORE
