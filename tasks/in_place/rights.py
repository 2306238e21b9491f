"""Privileges that a restore needs and lacks in the live database, each with its GRANT."""

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
# The privileges that LOCK TABLE … IN SHARE ROW EXCLUSIVE MODE requires.
TO_LOCK = "UPDATE, DELETE, TRUNCATE", "UPDATE"
REFERENCED = re.compile(r" REFERENCES (?:ONLY )?(?P<table>[^(]+)\((?P<columns>[^)]+)\)")
EXECUTED = re.compile(r" EXECUTE (?:FUNCTION|PROCEDURE) (?P<function>[^(]+)\(")


def to_read(merge: Merge) -> Iterator[Obstacle]:
    """Yield the privileges that the login lacks to read and stage rows."""
    yield from _lacking(merge, sql.rights.READING, {"oids": merge.members.oids})
    yield from _lacking(merge, sql.rights.READING_SEQUENCES, {"oids": merge.members.chosen_by_class["pg_class"]})


def to_write(merge: Merge) -> Iterator[Obstacle]:
    """Yield privileges that the login lacks to write rows, and to create and alter objects.

    All privileges are required on every table, as other rows may differ when the restore runs.
    """
    wanted = {(table.member.oid, name, name) for table in merge.tables for name in ("INSERT", "UPDATE", "DELETE")}
    wanted |= {(relation.oid, *TO_LOCK) for relation in merge.members.relations if not relation.parent}
    wanted |= {(oid, "TRIGGER", "TRIGGER") for oid in _oids_with_new_triggers(merge)}
    oids, asked, granted = ([right[place] for right in sorted(wanted)] for place in range(3))
    yield from _lacking(merge, sql.rights.ON_TABLES, {"oids": oids, "asked": asked, "granted": granted})
    written = [oid for table in merge.tables for oid in lineage(merge.members, table.member).values()]
    yield from _lacking(merge, sql.rights.CALLED_BY_ROWS, {"oids": written})
    moved = [(sequence.namespace, sequence.name) for sequence in own_sequences(merge)]
    yield from _lacking(merge, sql.rights.ON_SEQUENCES, {"schemas": [s for s, _ in moved], "names": [n for _, n in moved]})
    yield from _to_make(merge)
    computed = {view.qualified for view in merge.members.views if view.materialized and view.populated}
    views = [item.name for item in merge.inventory if item.kind in VIEWS and plain_name(item.name) in computed]
    yield from _lacking(merge, sql.rights.OWNED_BY_OTHERS, {"names": sorted({*_altered(merge), *views})})
    yield from _lacking(merge, sql.rights.READ_BY_VIEWS, {"names": views})


def _lacking(merge: Merge, question: SQL, asked: Mapping[str, Any]) -> Iterator[Obstacle]:
    login = merge.connection.info.user
    for name, privilege, remedy in merge.connection.execute(question, asked).fetchall():
        yield Obstacle(name, f'does not grant {privilege} to login "{login}", which the restore needs', f"run: {remedy}")


def _oids_with_new_triggers(merge: Merge) -> Iterator[int]:
    oids = {relation.qualified: relation.oid for relation in merge.members.relations}
    names = {plain_name(item.parent) for item in _made(merge) if item.kind == "trigger"}
    return (oid for name, oid in oids.items() if name in names)


def _made(merge: Merge) -> list[InventoryItem]:
    return [*merge.missing, *(finding.item for finding in merge.findings if finding.is_done and finding.remedy.how is How.ANEW)]


def _to_make(merge: Merge) -> Iterator[Obstacle]:
    """Yield schemas where login or owner lack CREATE, and trigger functions without EXECUTE."""
    login, made = merge.connection.info.user, _made(merge)
    owners = {item.name: owner_of(item) for item in (*merge.manifest.inventory, *merge.inventory)}
    made_there = [item for item in made if item.kind in MADE_IN_SCHEMA or _has_index(item)]
    places = {(_schema_of(item), owner_of(item) or owners.get(item.parent) or login) for item in made_there}
    # The login has the privileges of the owners.
    for asked in (places, {(schema, login) for schema, _ in places}):
        schemas, roles = ([pair[place] for pair in sorted(asked)] for place in (0, 1))
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
    """Yield the names of objects to alter or replace that do not belong to a table."""
    parts = {"index", "constraint", "trigger", "policy", "rule", "statistics"} | TABLES
    return (
        finding.item.name
        for finding in merge.findings
        if finding.is_done and finding.difference.now and finding.item.kind not in parts
    )


def references(merge: Merge, key: InventoryItem) -> str:
    """Return the GRANT REFERENCES that an existing table lacks for a new key, or ""."""
    if not (match := REFERENCED.search(key.state)):
        return ""
    columns = [unquoted(name) for name in match["columns"].split(", ")]
    role = next((owner_of(item) for item in merge.inventory if item.name == key.parent), "") or merge.connection.info.user
    asked = {"table": match["table"].strip(), "columns": columns, "role": role}
    return " ".join(row[1] for row in merge.connection.execute(sql.rights.NO_REFERENCES, asked).fetchall())
