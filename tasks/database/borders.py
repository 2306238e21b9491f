"""Foreign keys and other objects across a context's border, and warnings about the source."""

from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import timedelta

from tasks.core import sql
from tasks.core.context import Context
from tasks.core.database.dependencies import ObjectId
from tasks.core.database.objects import NEEDED_MEMBER, ForeignKey, LeftOut
from tasks.core.postgres.connection import Connection
from tasks.core.sql.names import quoted
from tasks.database.catalog import Members, dicts, inventory_oids, key_of
from tasks.database.surroundings import left_out, read_forgotten


@dataclass(frozen=True)
class Borders:
    """Keys that cross the context's border, tables that no context lists, and objects left out."""

    outbound: list[ForeignKey]
    inbound: list[ForeignKey]
    forgotten: list[str]
    left_out: list[tuple[ObjectId, str, str]]


def read_borders(connection: Connection, members: Members, context: Context, claimed: frozenset[str]) -> Borders:
    """Return foreign keys to and from other contexts, and tables that no context lists."""
    oids = {"oids": members.oids}
    keys = dicts(connection, sql.catalog.FOREIGN_KEYS, oids)
    outbound = [key for key in keys if key["table_oid"] in set(members.oids)]
    inbound = [key for key in keys if key["table_oid"] not in set(members.oids)]
    forgotten = [
        f"{row['schema']}.{row['name']}" + (" (refers to this context)" if row["refers"] else "")
        for row in read_forgotten(connection, members.oids, context, claimed)
        if row["kind"] in "rp"
    ]
    # Keys to other contexts are listed separately.
    keys_out = frozenset((members.classes["pg_constraint"], key["oid"]) for key in outbound)
    outside = left_out(connection, members.choice, members.around, keys_out)
    return Borders([key_of(k) for k in outbound], [key_of(k) for k in inbound], forgotten, outside)


@dataclass(frozen=True)
class Owned:
    """A context's objects of a superuser, or of a role of which the loader is not a member."""

    role: str
    is_superuser: bool
    objects: list[str]


def read_owned_by_others(connection: Connection, members: Members, loader: str) -> list[Owned]:
    """Return the objects that the named login may not create for their owners in a recovery."""
    asked = {**inventory_oids(members), "loader": loader}
    return [Owned(*row) for row in connection.execute(sql.surroundings.OWNED_BY_OTHERS, asked).fetchall()]


def read_made_by_superusers(connection: Connection, members: Members) -> list[ObjectId]:
    """Return objects of the context that only a superuser can create, whoever owns them."""
    asked = {**_pairs(members), "oids": members.oids, "schemas": []}
    return sorted((row[0], row[1]) for row in connection.execute(sql.surroundings.MADE_BY_SUPERUSERS, asked).fetchall())


def read_parts(connection: Connection, members: Members, objects: Collection[ObjectId]) -> dict[ObjectId, list[ObjectId]]:
    """Return, for each of some objects that is a relation, all that is dropped with it: indexes, triggers, partitions …"""
    oids = [oid for class_id, oid in objects if class_id == members.classes["pg_class"]]
    parts = defaultdict[ObjectId, list[ObjectId]](list)
    for *relation, class_id, oid in connection.execute(sql.surroundings.PARTS, {"oids": oids}):
        parts[relation[0], relation[1]].append((class_id, oid))
    return dict(parts)


def read_refreshes(connection: Connection, members: Members, objects: Iterable[ObjectId]) -> dict[ObjectId, str]:
    """Return, for each of some objects that is a materialized view with rows, the statement that fills it."""
    pg_class = members.classes["pg_class"]
    oids = [oid for class_id, oid in objects if class_id == pg_class]
    return {(pg_class, oid): text for oid, text in connection.execute(sql.surroundings.REFRESHES, {"oids": oids})}


def read_outside_members(connection: Connection, members: Members) -> list[LeftOut]:
    """Return members of extensions that CREATE EXTENSION will not create, and that the context needs or has in its schemas."""
    asked = {**_pairs(members), "oids": members.oids}
    return [_outside_member(*row) for row in connection.execute(sql.surroundings.OUTSIDE_MEMBERS, asked).fetchall()]


def _outside_member(name: str, extension: str, spelled: str, text: str, is_needed: bool) -> LeftOut:
    needed, alter = NEEDED_MEMBER if is_needed else "", f"ALTER EXTENSION {quoted(extension)}"
    why = f"it is a member of extension {extension}, which does not create it there; run {alter} DROP {spelled}"
    statements = f"{text.strip().rstrip(';')};\n{alter} ADD {spelled};" if text else ""
    return LeftOut(name=name, why=f"{needed}{why}, and the next backup has it", statements=statements)


def read_misplaced(connection: Connection, members: Members) -> list[str]:
    """Return warnings about extension members, moved or added, that no CREATE EXTENSION creates."""
    moved = connection.execute(sql.surroundings.MISPLACED_MEMBERS, _pairs(members)).fetchall()
    return [
        f"{name} is a member of extension {extension}, which does not create it in that schema: a "
        "recovery would lack it; move it back (ALTER … SET SCHEMA), or remove it from the "
        f"extension (ALTER EXTENSION {quoted(extension)} DROP …)"
        for name, extension in moved
    ]


def _pairs(members: Members) -> dict[str, list[int]]:
    chosen = sorted(members.objects)
    return {"classes": [object_id[0] for object_id in chosen], "objects": [object_id[1] for object_id in chosen]}


LONG = timedelta(hours=1)


def read_lasting_transactions(connection: Connection) -> list[str]:
    """Return warnings about long-running transactions.

    Rows written since the oldest began look uncommitted to a backup, so that differentials store
    them again.
    """
    transactions = connection.execute(sql.server.LASTING_TRANSACTIONS, [LONG]).fetchall()
    return [
        f"{who} has been open since {since:%Y-%m-%d %H:%M %Z}: differentials store more rows than necessary until it ends"
        for who, since in transactions
    ]


def read_unusable(connection: Connection, members: Members) -> list[str]:
    """Return warnings about disabled triggers and invalid indexes of the source."""
    return [row[0] for row in connection.execute(sql.inventory.UNUSABLE, {"oids": members.oids})]
