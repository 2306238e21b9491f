"""What a merge may not do in the live database: rights are asked for when it is planned, each with what grants it."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from psycopg.sql import SQL

from tasks.core import sql
from tasks.core.database.facts import owner_of
from tasks.core.database.objects import RELATIONS, TABLES, VIEWS, InventoryItem
from tasks.core.in_place.objects import How
from tasks.core.restore.obstacle import Obstacle
from tasks.core.sql.names import plain_name, split_name, unquoted
from tasks.in_place.objects import own_sequences
from tasks.in_place.session import Merge, lineage

MADE_IN_SCHEMA = RELATIONS | {"function", "type", "statistics", "index"}
INDEXED = "PRIMARY KEY", "UNIQUE", "EXCLUDE"
# What LOCK TABLE … IN SHARE ROW EXCLUSIVE MODE takes.
TO_LOCK = "UPDATE, DELETE, TRUNCATE", "UPDATE"
REFERENCED = re.compile(r" REFERENCES (?:ONLY )?(?P<table>[^(]+)\((?P<columns>[^)]+)\)")
EXECUTED = re.compile(r" EXECUTE (?:FUNCTION|PROCEDURE) (?P<function>[^(]+)\(")


def to_read(merge: Merge) -> Iterator[Obstacle]:
    """Yield what the login lacks to read and to stage rows."""
    yield from _lacking(merge, sql.rights.READING, {"oids": merge.members.oids})


def to_write(merge: Merge) -> Iterator[Obstacle]:
    """Yield what the login lacks to write rows, and to make and to alter what is planned.

    Which rows are written may be others by then, so every table takes it all.
    """
    wanted = {(one.member.oid, name, name) for one in merge.tables for name in ("INSERT", "UPDATE", "DELETE")}
    wanted |= {(one.oid, *TO_LOCK) for one in merge.members.relations if not one.parent}
    wanted |= {(oid, "TRIGGER", "TRIGGER") for oid in _oids_with_new_triggers(merge)}
    oids, asked, granted = ([one[place] for one in sorted(wanted)] for place in range(3))
    yield from _lacking(merge, sql.rights.ON_TABLES, {"oids": oids, "asked": asked, "granted": granted})
    written = [oid for one in merge.tables for oid in lineage(merge.members, one.member).values()]
    yield from _lacking(merge, sql.rights.CALLED_BY_ROWS, {"oids": written})
    moved = [(one.namespace, one.name) for one in own_sequences(merge)]
    yield from _lacking(merge, sql.rights.ON_SEQUENCES, {"schemas": [s for s, _ in moved], "names": [n for _, n in moved]})
    yield from _to_make(merge)
    computed = {one.qualified for one in merge.members.views if one.materialized and one.populated}
    views = [item.name for item in merge.inventory if item.kind in VIEWS and plain_name(item.name) in computed]
    yield from _lacking(merge, sql.rights.OWNED_BY_OTHERS, {"names": sorted({*_altered(merge), *views})})
    yield from _lacking(merge, sql.rights.READ_BY_VIEWS, {"names": views})


def _lacking(merge: Merge, question: SQL, asked: Mapping[str, Any]) -> Iterator[Obstacle]:
    login = merge.connection.info.user
    for name, privilege, remedy in merge.connection.execute(question, asked).fetchall():
        yield Obstacle(name, f'gives login "{login}" no {privilege}, which the restore needs', f"run: {remedy}")


def _oids_with_new_triggers(merge: Merge) -> Iterator[int]:
    oids = {one.qualified: one.oid for one in merge.members.relations}
    names = {plain_name(item.parent) for item in _made(merge) if item.kind == "trigger"}
    return (oid for name, oid in oids.items() if name in names)


def _made(merge: Merge) -> list[InventoryItem]:
    return [*merge.missing, *(one.item for one in merge.found if one.is_done and one.remedy.how is How.ANEW)]


def _to_make(merge: Merge) -> Iterator[Obstacle]:
    """Yield the schemas in which objects may not be made, by the login or by who owns them then, and functions of triggers."""
    login, made = merge.connection.info.user, _made(merge)
    owners = {item.name: owner_of(item) for item in (*merge.manifest.inventory, *merge.inventory)}
    made_there = [item for item in made if item.kind in MADE_IN_SCHEMA or _has_index(item)]
    places = {(_schema_of(item), owner_of(item) or owners.get(item.parent) or login) for item in made_there}
    # The login has what the owners have.
    for asked in (places, {(schema, login) for schema, _ in places}):
        schemas, roles = ([one[place] for one in sorted(asked)] for place in (0, 1))
        lacking = list(_lacking(merge, sql.rights.CREATING, {"schemas": schemas, "roles": roles}))
        yield from lacking
        if lacking:
            break
    calls = [(match["function"], item.parent) for item in made if item.kind == "trigger" and (match := EXECUTED.search(item.state))]
    called = {"functions": [f"{function}()" for function, _ in calls], "tables": [table for _, table in calls]}
    yield from _lacking(merge, sql.rights.CALLED_BY_TRIGGERS, called)


def _has_index(item: InventoryItem) -> bool:
    return item.kind == "constraint" and item.state.startswith(INDEXED)


def _schema_of(item: InventoryItem) -> str:
    return split_name(item.parent if _has_index(item) else item.name)[0]


def _altered(merge: Merge) -> Iterator[str]:
    """Yield the names of what is altered or replaced and is no table's."""
    parts = {"index", "constraint", "trigger", "policy", "rule", "statistics"} | TABLES
    return (one.item.name for one in merge.found if one.is_done and one.difference.now and one.item.kind not in parts)


def references(merge: Merge, key: InventoryItem) -> str:
    """Return what grants the right to refer to a table that is there, where it lacks for a key to be made; else nothing."""
    if not (match := REFERENCED.search(key.state)):
        return ""
    columns = [unquoted(one) for one in match["columns"].split(", ")]
    role = next((owner_of(one) for one in merge.inventory if one.name == key.parent), "") or merge.connection.info.user
    asked = {"table": match["table"].strip(), "columns": columns, "role": role}
    return " ".join(row[1] for row in merge.connection.execute(sql.rights.NO_REFERENCES, asked).fetchall())
