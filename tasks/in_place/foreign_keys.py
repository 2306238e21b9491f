"""The foreign keys that a merge meets: rows that are gone and that restored rows refer to, and rows that refer to what goes."""

from collections.abc import Iterable
from typing import Any

from tasks.core import sql
from tasks.core.in_place.plan import Change, Effect, Need
from tasks.core.sql.names import unquoted
from tasks.core.sql.staging import Link
from tasks.database.neighbours import Neighbours
from tasks.in_place.session import Merge, Table, dicts, lineage


def find_needs(merge: Merge) -> list[Need]:
    """Return the rows that are gone and that rows to write refer to."""
    oids = sorted({oid for one in merge.tables for oid in lineage(merge.members, one.member).values()})
    found = list[Need]()
    for key in dicts(merge.connection, sql.key_values.OUTBOUND_KEYS_OF, {"oids": oids}):
        if merge.is_dropped("constraint", key["table"], unquoted(key["name"])):
            continue
        merged = [one for one in merge.tables if key["parent"] in lineage(merge.members, one.member).values()]
        if merge.request.table is None and merged and not merge.is_undo:
            # All rows of the set come, and they refer to each other.
            continue
        also = [one.number for one in merged if one.staged and not one.unchanged]
        place, values = (key["parent_schema"], key["parent_name"]), set[tuple[str, ...]]()
        for one in merge.tables:
            if one.staged and not one.unchanged and key["child"] in lineage(merge.members, one.member).values():
                own = one.member.schema, one.member.name
                asked = sql.key_values.needed_values(one.number, own, Link.of(key), place, also)
                values |= set(merge.ask(asked))
        if values:
            columns, operators = tuple(key["referenced"]), tuple(key["operators"])
            found.append(Need(key["name"], key["table"], ".".join(place), columns, operators, tuple(sorted(values))))
    return found


def find_effects(merge: Merge) -> list[Effect]:
    """Return the keys of tables that do not become as in the set, with how many of their rows refer to what would go or change."""
    oids = {oid for one in merge.tables for oid in lineage(merge.members, one.member).values()}
    found = list[Effect]()
    whole = _oids_that_become_whole(merge)
    for key in dicts(merge.connection, sql.in_place.INBOUND_KEYS, {"oids": sorted(oids)}):
        # What refers from a table that is written too, is as in the set afterwards, or else the database refuses it, unless the
        # key acts.
        is_dropped = merge.is_dropped("constraint", key["table"], unquoted(key["name"]))
        if (
            is_dropped
            or key["child"] in whole
            or (key["child"] in oids and not key["acts_on_delete"] and not key["acts_on_update"])
        ):
            continue
        hit = [one for one in merge.tables if not one.unchanged and key["parent"] in lineage(merge.members, one.member).values()]
        counts = [_count_referring(merge, key, one) for one in hit]
        known = None if None in counts else sum(filter(None, counts))
        found.append(Effect(key["name"], key["table"], key["on_delete"], known))
    return found


def empty_neighbours(merge: Merge, changes: Iterable[Change]) -> list[str]:
    """Return which tables of others that refer to rows which come back have no rows: an accident may have emptied them as well."""
    filled = {one.relation for one in changes if one.insert}
    oids = {oid for one in merge.members.holding_rows if one.qualified in filled for oid in lineage(merge.members, one).values()}
    asked = {"filled": sorted(oids), "own": merge.members.oids}
    looking = Neighbours.of(merge.site, merge.run)
    found = [(*row, looking.is_empty(row[0])) for row in merge.connection.execute(sql.in_place.REFERRING_TABLES, asked).fetchall()]
    return [
        f"{table}, which refers to {referred}, "
        + ("has no rows: if it had some (TRUNCATE … CASCADE empties it too), they come back from the backups of its own context"
           if is_empty else "may have no rows: nobody here may look")
        for table, referred, is_empty in found if is_empty is not False
    ]  # fmt: skip


def refused(effects: Iterable[Effect], *, accept_effects: bool) -> list[str]:
    """Return which keys of other contexts forbid the merge, and what to do about each."""
    remedy = {False: "move or delete those first", True: "say accept_effects_on_others=true if that is meant"}
    return [f"{one.line}; {remedy[one.acts]}" for one in effects if one.is_refused(accepted=accept_effects)]


def _oids_that_become_whole(merge: Merge) -> set[int]:
    """Return the tables that have the set's rows and no other afterwards, each with all its partitions."""
    partly = {
        oid for member in merge.members.holding_rows
        if not any(one.member.oid == member.oid and one.is_replaced for one in merge.tables)
        for oid in lineage(merge.members, member).values()
    }  # fmt: skip
    return set(merge.members.oids) - partly


def _count_referring(merge: Merge, key: dict[str, Any], table: Table) -> int | None:
    """Count the rows that refer to what a key would notice; None if there may be some and nobody here may look."""
    if not set(key["referenced"]) <= set(table.columns):
        return None
    place = table.number, table.member.schema, table.member.name
    # A key that acts does so though the value comes back in the same statement; one that only looks, looks when it ends.
    referenced = dict(zip(key["referenced"], key["operators"], strict=True))
    noticed = sql.in_place.noticed_rows(
        *place, referenced, acts_on_delete=key["acts_on_delete"], acts_on_update=key["acts_on_update"]
    )
    if key["readable"]:
        asked = sql.in_place.referring_rows(key["table"], Link.of(key), noticed)
        return int(merge.ask(asked)[0][0])
    values = merge.ask(sql.neighbours.noticed_values(key["referenced"], noticed))
    counts = Neighbours.of(merge.site, merge.run).count_referring(key, values)
    return None if counts is None else sum(counts.values())
