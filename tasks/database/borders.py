"""What crosses a context's border, and what of it and around it a person should know: told in the manifest of a set."""

from dataclasses import dataclass
from datetime import timedelta

from tasks.core import sql
from tasks.core.context import Context
from tasks.core.database.dependencies import ObjectId
from tasks.core.database.objects import ForeignKey
from tasks.core.postgres.connection import Connection
from tasks.core.sql.names import quoted
from tasks.database.catalog import Members, dicts, inventory_oids, key_of
from tasks.database.surroundings import left_out


@dataclass(frozen=True)
class Borders:
    """What crosses the context's border, and what nobody claims."""

    outbound: list[ForeignKey]
    inbound: list[ForeignKey]
    forgotten: list[str]
    left_out: list[tuple[ObjectId, str, str]]


def read_borders(connection: Connection, members: Members, context: Context, claimed: frozenset[str]) -> Borders:
    """Return keys in and out, and tables that no context looks after."""
    oids = {"oids": members.oids}
    keys = dicts(connection, sql.catalog.FOREIGN_KEYS, oids)
    outbound = [key for key in keys if key["table_oid"] in set(members.oids)]
    inbound = [key for key in keys if key["table_oid"] not in set(members.oids)]
    neighbours = dicts(connection, sql.catalog.NEIGHBOURS, oids | {"schema": context.namespace})
    forgotten = [
        f"{row['schema']}.{row['name']}" + (" (refers to this context)" if row["refers"] else "")
        for row in neighbours
        if f"{row['schema']}.{row['name']}" not in claimed
    ]
    # Keys to other contexts are named as such.
    keys_out = frozenset((members.classes["pg_constraint"], key["oid"]) for key in outbound)
    told = left_out(connection, members.choice, members.around, keys_out)
    return Borders([key_of(k) for k in outbound], [key_of(k) for k in inbound], forgotten, told)


@dataclass(frozen=True)
class Owned:
    """What a role owns of a context, who is a superuser, or for whom no login that loads may act."""

    role: str
    is_superuser: bool
    objects: list[str]


def read_owned_by_others(connection: Connection, members: Members, loader: str) -> list[Owned]:
    """Return what of the context a login that loads, of this name, may not make for its owner; what extensions bring is theirs."""
    asked = {**inventory_oids(members), "loader": loader}
    return [Owned(*row) for row in connection.execute(sql.surroundings.OWNED_BY_OTHERS, asked).fetchall()]


def read_made_by_superusers(connection: Connection, members: Members) -> list[ObjectId]:
    """Return what of the context only a superuser can make, whosever it is."""
    asked = {**_pairs(members), "oids": members.oids, "schemas": []}
    return sorted((row[0], row[1]) for row in connection.execute(sql.surroundings.MADE_BY_SUPERUSERS, asked).fetchall())


def read_misplaced(connection: Connection, members: Members) -> list[str]:
    """Return, as warnings, what the context needs of extensions that these do not bring, as somebody moved or added it."""
    found = connection.execute(sql.surroundings.MISPLACED_MEMBERS, _pairs(members)).fetchall()
    return [
        f"{name} counts as part of extension {extension}, which makes nothing in that schema: a recovery will not find it; put it "
        f"back (ALTER … SET SCHEMA), or let it be the context's own (ALTER EXTENSION {quoted(extension)} DROP …)"
        for name, extension in found
    ]


def _pairs(members: Members) -> dict[str, list[int]]:
    chosen = sorted(members.objects)
    return {"classes": [one[0] for one in chosen], "objects": [one[1] for one in chosen]}


LONG = timedelta(hours=1)


def read_lasting_transactions(connection: Connection) -> list[str]:
    """Return, as warnings, the transactions that are open for long.

    Every row that was written since the oldest began looks unfinished to a backup, and differentials store it again.
    """
    found = connection.execute(sql.server.LASTING_TRANSACTIONS, [LONG]).fetchall()
    return [f"{who} is open since {since:%Y-%m-%d %H:%M %Z}: differentials grow until it ends" for who, since in found]


def read_unusable(connection: Connection, members: Members) -> list[str]:
    """Return what is switched off or broken in the source, as warnings: triggers not enabled, invalid indexes."""
    return [row[0] for row in connection.execute(sql.inventory.UNUSABLE, {"oids": members.oids})]
