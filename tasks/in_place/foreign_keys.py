"""Foreign keys of a restore into a live database: to missing rows, and to rows that it deletes."""

from collections.abc import Iterable
from typing import Any

from tasks.core import sql
from tasks.core.in_place.plan import Change, Effect, Need
from tasks.core.sql.names import unquoted
from tasks.core.sql.staging import Link
from tasks.database.catalog import dicts
from tasks.database.neighbours import Neighbours
from tasks.in_place.session import Merge, Table, lineage


def find_needs(merge: Merge) -> list[Need]:
    """Return the missing rows to which rows that will be written refer."""
    oids = sorted({oid for table in merge.tables for oid in lineage(merge.members, table.member).values()})
    needs = list[Need]()
    for key in dicts(merge.connection, sql.key_values.OUTBOUND_KEYS_OF, {"oids": oids}):
        if merge.is_dropped("constraint", key["table"], unquoted(key["name"])):
            continue
        merged = [table for table in merge.tables if key["parent"] in lineage(merge.members, table.member).values()]
        if merge.request.table is None and merged and not merge.is_undo:
            # All rows of the set are restored, and they refer to each other.
            continue
        also = [table.number for table in merged if table.staged and not table.unchanged]
        place, values = (key["parent_schema"], key["parent_name"]), set[tuple[str, ...]]()
        for table in merge.tables:
            if table.staged and not table.unchanged and key["child"] in lineage(merge.members, table.member).values():
                own = table.member.schema, table.member.name
                asked = sql.key_values.needed_values(table.number, own, Link.of(key), place, also)
                values |= set(merge.ask(asked))
        if values:
            columns, operators = tuple(key["referenced"]), tuple(key["operators"])
            needs.append(Need(key["name"], key["table"], ".".join(place), columns, operators, tuple(sorted(values))))
    return needs


def find_effects(merge: Merge) -> list[Effect]:
    """Return keys of tables not restored as a whole, with how many rows refer to affected rows."""
    oids = {oid for table in merge.tables for oid in lineage(merge.members, table.member).values()}
    effects = list[Effect]()
    whole = _oids_that_become_whole(merge)
    for key in dicts(merge.connection, sql.in_place.INBOUND_KEYS, {"oids": sorted(oids)}):
        # Rows of a table that is written equal the set afterwards, or the database refuses them,
        # unless the key has an action.
        is_dropped = merge.is_dropped("constraint", key["table"], unquoted(key["name"]))
        if (
            is_dropped
            or key["child"] in whole
            or (key["child"] in oids and not key["acts_on_delete"] and not key["acts_on_update"])
        ):
            continue
        hit = [
            table
            for table in merge.tables
            if not table.unchanged and key["parent"] in lineage(merge.members, table.member).values()
        ]
        counts = [_count_referring(merge, key, table) for table in hit]
        known = None if None in counts else sum(filter(None, counts))
        effects.append(Effect(key["name"], key["table"], key["on_delete"], known))
    return effects


def empty_neighbours(merge: Merge, changes: Iterable[Change]) -> list[str]:
    """Return empty tables of other contexts that refer to restored rows: perhaps they lost rows."""
    filled = {change.relation for change in changes if change.insert}
    oids = {
        oid
        for member in merge.members.holding_rows
        if member.qualified in filled
        for oid in lineage(merge.members, member).values()
    }
    asked = {"filled": sorted(oids), "own": merge.members.oids}
    looking = Neighbours.of(merge.site, merge.run)
    referring = [
        (*row, looking.is_empty(row[0])) for row in merge.connection.execute(sql.in_place.REFERRING_TABLES, asked).fetchall()
    ]
    return [
        f"{table}, which refers to {referred}, "
        + ("has no rows: if they were lost (TRUNCATE … CASCADE empties referring tables too), "
           "restore them from the backups of its own context"
           if is_empty else "may have lost its rows: this login may not read it to check that")
        for table, referred, is_empty in referring if is_empty is not False
    ]  # fmt: skip


def refused(effects: Iterable[Effect], *, accept_effects: bool) -> list[str]:
    """Return the foreign keys of other contexts that forbid the restore, each with the remedy."""
    remedy = {False: "move or delete those rows first", True: "pass accept_effects_on_others=true if that is intended"}
    return [f"{effect.line}; {remedy[effect.acts]}" for effect in effects if effect.is_refused(accepted=accept_effects)]


def _oids_that_become_whole(merge: Merge) -> set[int]:
    """Return the oids of tables that will have exactly the set's rows in all their partitions."""
    partly = {
        oid
        for member in merge.members.holding_rows
        if not any(table.member.oid == member.oid and table.is_replaced for table in merge.tables)
        for oid in lineage(merge.members, member).values()
    }
    return set(merge.members.oids) - partly


def _count_referring(merge: Merge, key: dict[str, Any], table: Table) -> int | None:
    """Count the rows that refer to affected rows; None if this login may not read them."""
    if not set(key["referenced"]) <= set(table.columns):
        return None
    place = table.number, table.member.schema, table.member.name
    # A key with an action fires even if the same statement inserts the value again; a key without
    # one is checked at the statement's end.
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
