"""Which table and which of its rows an operator means: names, and conditions on key columns."""

from collections.abc import Iterator

import psycopg
from psycopg.sql import Composed

from tasks.catalogue import Members
from tasks.core import merge_sql
from tasks.core.complaints import message_of
from tasks.core.context import Context
from tasks.core.errors import BadInput
from tasks.core.manifest import TABLES, Manifest
from tasks.core.merge import Keys, Request, parse_keys, tables_named
from tasks.core.servers import Connection
from tasks.core.toc import plain_name
from tasks.merge_session import Merge, dicts


def names(request: Request, context: Context, members: Members, manifest: Manifest) -> frozenset[str]:
    """Return schema.name of all that is asked for: everything, or a table with its partitions, of the set and of the database.

    Raises:
        BadInput: neither has such a table.
    """
    parents = {plain_name(one.name): plain_name(one.parent) for one in manifest.inventory if one.kind in TABLES}
    parents |= {one.qualified: one.parent or "" for one in members.relations}
    if request.table is None:
        return frozenset(parents)
    return tables_named(request.table, context.namespace, parents, f"in {manifest.id}, nor of context {context.name} now")


def chosen_rows(merge: Merge) -> list[Composed]:
    """Return the condition on key columns that was asked for.

    Raises:
        BadInput: it is none, or there are no such columns.
    """
    if merge.request.keys is None:
        return []
    wanted = [one for one in merge.members.holding_rows if one.qualified in merge.names]
    if not wanted:
        raise BadInput(f"keys: {merge.request.table} is not there; restore all of it, without keys")
    key = dicts(merge.connection, merge_sql.MERGE_FACTS, {"oids": [wanted[0].oid]})[0]["key"]
    return [read_condition(merge.connection, merge.request.keys, (wanted[0].schema, wanted[0].name), key)]


def read_condition(connection: Connection, keys: Keys, table: tuple[str, str], key: list[str]) -> Composed:
    """Return the condition on a table's key columns that an operator gave, as PostgreSQL understands it.

    Raises:
        BadInput: it is none, or the values are none of those columns.
    """
    said = parse_keys(keys, key)
    try:
        with connection.transaction():
            connection.execute(merge_sql.create_key_table(*table, key))
            if isinstance(said, str):
                # Prepared, because PostgreSQL then takes one statement only.
                connection.execute(merge_sql.add_condition(said), prepare=True)
                found = connection.execute(merge_sql.CONDITION).fetchall()
                if len(found) != 1 or found[0][1]:
                    raise BadInput(
                        f"keys={said}: a condition on {', '.join(key)} may only call functions that always give the same"
                    )
                condition = merge_sql.as_written(found[0][0])
            else:
                condition = merge_sql.has_values(list(said[0]), [list(row.values()) for row in said])
            connection.execute(merge_sql.try_condition(condition))
            connection.execute(merge_sql.DROP_KEY_TABLE)
            return condition
    except psycopg.Error as error:
        if connection.broken:
            raise
        # Not a row's value: what the operator wrote himself.
        said, columns = error.diag.message_primary or message_of(error), ", ".join(key)
        raise BadInput(f"keys={keys}: {said}; write a condition on the key columns {columns} alone, or list their values") from None


def unknown_keys(merge: Merge) -> Iterator[str]:
    """Yield which of the keys that were listed neither the set nor the database has."""
    wanted = [table for table in merge.tables if table.name in merge.names]
    if merge.request.keys is None or not wanted or isinstance(said := parse_keys(merge.request.keys, wanted[0].primary), str):
        return
    for row in said:
        asked = [
            merge_sql.absent_values(one.member.schema, one.member.name, one.number, list(row), list(row.values()))
            for one in wanted
        ]  # fmt: skip
        if all(merge.connection.execute(one).fetchall()[0][0] for one in asked):
            shown = ", ".join(f"{name}={value}" for name, value in row.items())
            yield f"{merge.request.table} has no row with {shown}, neither in {merge.manifest.id} nor now; correct keys"
