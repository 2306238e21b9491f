"""The one comparison of a live context's objects with a set's, for the plan, for what is done, and for the verdict.

Objects are compared by what they are, as recoveries do (tasks/restore/compare.py), with what no dump has: keys whose triggers are
off, indexes that are INVALID, keys to and from tables of other contexts.
"""

from collections.abc import Collection, Iterable, Mapping

from tasks.core import sql
from tasks.core.checks.definition import Severity
from tasks.core.database import facts
from tasks.core.database.comparison import Difference, find_differences
from tasks.core.database.objects import TABLES, VIEWS, ForeignKey, InventoryItem
from tasks.core.in_place.objects import Found, How, ObjectChange, Remedy
from tasks.core.in_place.remedies import remedy
from tasks.core.in_place.request import Mode, Objects
from tasks.core.postgres.archive_toc import NAMES_OF_KINDS, table_of
from tasks.core.sets.left_out import without_absent
from tasks.core.sets.shared_schema import comparable
from tasks.core.spelling import foreign_key_of
from tasks.core.sql.names import plain_name, unquoted
from tasks.database import catalog
from tasks.database.catalog import Members, key_of
from tasks.database.spelling import spelled_here
from tasks.database.views import count_stale
from tasks.in_place.session import Merge


def find(merge: Merge, members: Members, inventory: Iterable[InventoryItem]) -> list[Found]:
    """Return how the context's objects, read just now, are not as in the set, as far as they were asked for."""
    manifest, oids = merge.manifest, {"oids": members.oids}
    off = {f"{table}.{name}": what for table, name, what in merge.connection.execute(sql.in_place.KEYS_SWITCHED_OFF, oids)}
    were_off = {name: off.get(name, "off") for name in manifest.disabled_keys}
    then = comparable(manifest, without_absent(manifest.inventory, manifest.left_out))
    then += [*_keys(merge, manifest.outbound_keys), *_inbound(merge, manifest.inbound_keys)]
    # What is left out of the set is there on purpose.
    there = _with_what_no_dump_has(merge, members, without_absent(inventory, manifest.left_out))
    now = _known(merge, then, comparable(manifest, there))
    own = {item.name for item in [*then, *now] if item.kind in TABLES | VIEWS}
    then, now = (
        [_switched_off(item, keys) for item in items if _is_told(merge, item, own)]
        for items, keys in ((then, were_off), (now, off))
    )
    if same_major := manifest.versions.server_major == merge.source.major:
        then = spelled_here(merge.connection, then, now, merge.path)
    constraints = {(item.parent, item.name) for item in now if item.kind == "constraint"}
    found = [(one, remedy(one, own, constraints)) for one in find_differences(then, now, same_major=same_major)]
    return [Found(one, how, _is_done(merge, one, how)) for one, how in found]


def find_now(merge: Merge) -> list[Found]:
    """Return the same of the objects as they are by now, those that were made among them."""
    members = catalog.read_members(merge.connection, catalog.present(merge.connection, merge.whole))
    return find(merge, members, catalog.read_inventory(merge.connection, members, merge.manifest.inventory))


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


def _with_what_no_dump_has(merge: Merge, members: Members, inventory: Iterable[InventoryItem]) -> list[InventoryItem]:
    connection, oids = merge.connection, {"oids": members.oids}
    own = [one.oid for one in members.relations]
    keys = catalog.dicts(connection, sql.catalog.FOREIGN_KEYS, oids)
    outbound = _keys(merge, (key_of(key) for key in keys if key["table_oid"] in own))
    known = {(key.table, key.name) for key in merge.manifest.inbound_keys}
    # Others come and go with their keys: of those the set says nothing.
    inbound = [key_of(key) for key in keys if key["table_oid"] not in own and (key["table"], key["name"]) in known]
    broken = [
        _with_fact(InventoryItem(kind="index", name=name, parent=parent, columns="", state=definition), facts.INVALID)
        for name, parent, definition in connection.execute(
            sql.in_place.BROKEN_INDEXES, {"oids": members.chosen_by_class["pg_class"]}
        )
    ]
    return [*inventory, *outbound, *_inbound(merge, inbound), *broken]


def _switched_off(item: InventoryItem, keys: Mapping[str, str]) -> InventoryItem:
    """Return a key, if its triggers are off, as one of which that is said."""
    what = keys.get(f"{item.parent}.{item.name}") if item.kind == "constraint" else None
    return _with_fact(item, facts.NOT_ENFORCED, what) if what else item


def _with_fact(item: InventoryItem, fact: str, value: str = "") -> InventoryItem:
    """Return an object of which one more fact is said, before its comment."""
    definition, comment, text = item.state.partition(f" | {facts.COMMENT} ")
    return item.model_copy(update={"state": f"{definition} | {f'{fact} {value}'.rstrip()}{comment}{text}"})


def _keys(merge: Merge, keys: Iterable[ForeignKey]) -> list[InventoryItem]:
    """Return keys to other contexts of the tables that are asked for, as an inventory tells constraints."""
    return [_constraint(key) for key in keys if plain_name(key.table) in merge.names]


def _inbound(merge: Merge, keys: Iterable[ForeignKey]) -> list[InventoryItem]:
    """Return keys of other contexts' tables, that are there, to those that are asked for."""
    chosen = [key for key in keys if plain_name(key.references) in merge.names]
    asked = {"names": [key.table for key in chosen]}
    there = {row[0] for row in merge.connection.execute(sql.in_place.TABLES_THERE, asked)}
    return [_constraint(key) for key in chosen if key.table in there]


def _constraint(key: ForeignKey) -> InventoryItem:
    definition = key.definition.removesuffix(" NOT VALID")
    state = f"{key.definition}{' | NOT VALID' if definition != key.definition else ''}"
    comment = f" | {facts.COMMENT} {key.comment}" if key.comment else ""
    return InventoryItem(kind="constraint", name=unquoted(key.name), parent=key.table, columns="", state=f"{state}{comment}")


def _known(merge: Merge, then: Iterable[InventoryItem], now: list[InventoryItem]) -> list[InventoryItem]:
    """Return the live objects of which the set says something: one of some tables says nothing of others, nor of keys to them."""
    if merge.manifest.only is None:
        return now
    tables = {plain_name(item.name) for item in merge.manifest.inventory if item.kind in TABLES}
    known = {item.identity for item in then}
    return [item for item in now if item.identity in known or (table_of(item) in tables and not foreign_key_of(item.state))]


def _is_told(merge: Merge, item: InventoryItem, own: Collection[str]) -> bool:
    is_inbound = item.kind == "constraint" and item.parent not in own
    return merge.request.table is None or merge.is_about(item) or is_inbound


def _is_done(merge: Merge, difference: Difference, how: Remedy) -> bool:
    """Say whether this restore sets an object back."""
    item, request = difference.item, merge.request
    whole = request.table is None or (request.mode is Mode.REPLACE and request.keys is None)
    to_others = {(key.table, unquoted(key.name)) for key in merge.manifest.outbound_keys}
    match how.how:
        case How.NOT:
            return False
        case How.CREATE:
            is_key = item.kind == "constraint" and (item.parent, item.name) in to_others
            return is_key or (item.kind in NAMES_OF_KINDS and item in merge.missing)
        case How.SWITCH:
            return request.table is None
        case How.REFRESH:
            return True
        case How.REBUILD:
            return whole
    return request.objects is Objects.RESTORE
