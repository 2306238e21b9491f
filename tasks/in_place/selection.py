"""Which table and which of its rows an operator means: names, and conditions on key columns."""

from collections.abc import Iterable, Iterator, Mapping

import psycopg
from psycopg.sql import Composed, Identifier

from tasks.core import sql
from tasks.core.context import CONTEXT_FILE, Context
from tasks.core.database.objects import TABLES
from tasks.core.errors import BadInput
from tasks.core.in_place.request import Keys, Mode, Request, parse_keys, tables_named
from tasks.core.postgres.connection import Connection
from tasks.core.postgres.messages import message_of
from tasks.core.postgres.source_path import execute_written, read_source_path
from tasks.core.sets.manifest import Manifest
from tasks.core.sql.names import plain_name
from tasks.database.catalog import Members
from tasks.in_place.session import Merge, Table, dicts, lineage
from tasks.sets.texts import require_condition

CHILD_AND_PARENT = "c", "p"


def names(request: Request, context: Context, members: Members, manifest: Manifest) -> tuple[frozenset[str], frozenset[str]]:
    """Return schema.name of all that is asked for, and of what keys are of, in the set and in the database.

    That is everything, or a table with its partitions; of a clean-up set also the tables whose rows hung on its rows.

    Raises:
        BadInput: neither has such a table; or the set has only rows that were cleaned up, and all others would go.
    """
    parents = {plain_name(one.name): plain_name(one.parent) for one in manifest.inventory if one.kind in TABLES}
    parents |= {one.qualified: one.parent or "" for one in members.relations}
    if manifest.cleaned_table and request.mode is Mode.REPLACE:
        raise BadInput(
            f"{manifest.id} has only the rows that were cleaned up: all others would be deleted; bring them back with "
            f"restore_cleaned_up, or with table_restore and mode {Mode.MISSING}"
        )
    if request.table is None:
        return frozenset(parents), frozenset(parents)
    where = f"in {manifest.id}, nor of context {context.name} now"
    keyed = tables_named(request.table, context.namespace, parents, where)
    children = manifest.only.tables if request.with_children and manifest.only else []
    return keyed.union(*(tables_named(one, context.namespace, parents, where) for one in children)), keyed


def chosen_rows(merge: Merge) -> list[Composed]:
    """Return the condition on key columns that was asked for.

    Raises:
        BadInput: it is none, or there are no such columns.
    """
    if merge.request.keys is None:
        return []
    wanted = [one for one in merge.members.holding_rows if one.qualified in merge.keyed]
    if not wanted:
        raise BadInput(f"keys: {merge.request.table} is not there; restore all of it, without keys")
    key = dicts(merge.connection, sql.staging.MERGE_FACTS, {"oids": [wanted[0].oid]})[0]["key"]
    return [read_condition(merge.connection, merge.request.keys, (wanted[0].schema, wanted[0].name), key)]


def read_condition(connection: Connection, keys: Keys, table: tuple[str, str], key: list[str]) -> Composed:
    """Return the condition on a table's key columns that an operator gave, as PostgreSQL understands it.

    Raises:
        BadInput: it is none, or the values are none of those columns.
    """
    said = parse_keys(keys, key)
    try:
        with connection.transaction():
            path = read_source_path(connection, table[0])
            execute_written(connection, sql.key_values.create_key_table(*table, key), path)
            if isinstance(said, str):
                # Prepared, because PostgreSQL then takes one statement only.
                execute_written(connection, sql.key_values.add_condition(said), path, prepare=True)
                found = connection.execute(sql.key_values.CONDITION).fetchall()
                if len(found) != 1 or found[0][1]:
                    raise BadInput(f"keys: a condition on {', '.join(key)} may only call functions that always give the same")
                condition = sql.staging.as_written(found[0][0])
            else:
                equal: dict[str, str] = dict(connection.execute(sql.key_values.EQUAL_IN_KEY_TABLE).fetchall())
                condition = sql.key_values.has_values({name: equal[name] for name in said[0]}, [list(row.values()) for row in said])
            connection.execute(sql.key_values.try_condition(condition))
            connection.execute(sql.key_values.DROP_KEY_TABLE)
            return condition
    except psycopg.Error as error:
        if connection.broken:
            raise
        columns = ", ".join(key)
        raise BadInput(
            f"keys: {message_of(error)}; write a condition on the key columns {columns} alone, or list their values"
        ) from None


def unknown_keys(merge: Merge) -> Iterator[str]:
    """Yield which of the keys that were listed neither the set nor the database has."""
    wanted = [table for table in merge.tables if table.name in merge.keyed]
    if merge.request.keys is None or not wanted or isinstance(said := parse_keys(merge.request.keys, wanted[0].primary), str):
        return
    for number, row in enumerate(said, 1):
        asked = [
            sql.key_values.absent_values(
                one.member.schema, one.member.name, one.number, {name: one.equal[name] for name in row}, list(row.values())
            )
            for one in wanted
        ]  # fmt: skip
        if all(merge.ask(one)[0][0] for one in asked):
            place = f"number {number} of the {len(said):,} keys"
            yield f"{merge.request.table} has no row with {place}, neither in {merge.manifest.id} nor now; correct keys"


def choose_children(merge: Merge) -> None:
    """Choose of the other tables of a clean-up set the staged rows that hung, directly or not, on those that keys name."""
    if merge.request.keys is None:
        return
    children = [one for one in merge.tables if one.name not in merge.keyed]
    with merge.connection.transaction():
        merge.connection.execute(sql.session.set_zone(merge.site.context.timestamps))
        path = read_source_path(merge.connection, merge.site.context.namespace)
        conditions = _conditions(merge)
        links = [(child, *link) for child in children for link in _links(merge, child, conditions)]
        found = {one.number: set[tuple[str, ...]]() for one in children}
        while True:
            before = sum(map(len, found.values()))
            for child, parent, names, on in links:
                rows = _condition(parent, found)
                asked = sql.key_values.hanging_keys((child.number, parent.number), names, child.primary, rows, on)
                found[child.number] |= set(execute_written(merge.connection, asked, path).fetchall())
            if sum(map(len, found.values())) == before:
                break
    for child in children:
        child.chosen = [_condition(child, found)]


def _condition(table: Table, found: Mapping[int, set[tuple[str, ...]]]) -> Composed:
    """Return which rows of a table are chosen."""
    if table.number not in found:
        return table.chosen_rows
    keys = sorted(found[table.number])
    return sql.key_values.has_values(table.primary_key, keys) if keys else sql.staging.as_written("false")


def _links(merge: Merge, child: Table, conditions: Iterable[tuple[str, str]]) -> Iterator[tuple[Table, tuple[str, str], Composed]]:
    """Yield on which tables the rows of one hung, and by what condition, which calls both by names.

    These are foreign keys, and the conditions by which rows of other tables belong to those of the rule's.
    """
    own = lineage(merge.members, child.member)
    for key in dicts(merge.connection, sql.key_values.OUTBOUND_KEYS_OF, {"oids": [*own.values()]}):
        for parent in merge.tables:
            if key["parent"] in lineage(merge.members, parent.member).values():
                yield parent, CHILD_AND_PARENT, sql.staging.Link.of(key).refers(*map(Identifier, CHILD_AND_PARENT))
    for table, where in conditions:
        if f"{merge.site.context.namespace}.{table}" in own:
            names = table, str(merge.manifest.cleaned_table)
            condition = sql.staging.in_brackets(where)
            yield from ((root, names, condition) for root in merge.tables if root.name in merge.keyed)


def _wheres(context: Context, table: str | None) -> list[tuple[str, str, str]]:
    """Return which tables' rows belong to those of a rule's table by a condition, by which, and where that is written."""
    return [
        (child.table, child.where, f"clean_up.{number}.children.{place}.where")
        for number, rule in enumerate(context.clean_up) if rule.table == table
        for place, child in enumerate(rule.children) if child.where
    ]  # fmt: skip


def _conditions(merge: Merge) -> list[tuple[str, str]]:
    """Return the conditions by which rows of other tables belong to those of the rule's, as this context says them.

    Where it says none of a table, the set's is taken, once PostgreSQL has read it; it is told.

    Raises:
        DamagedSet: what the set says is no condition.
    """
    root, namespace = str(merge.manifest.cleaned_table), merge.site.context.namespace
    here = [(table, where) for table, where, _ in _wheres(merge.site.context, root)]
    there = {name for one in merge.tables for name in lineage(merge.members, one.member)}
    more = list[tuple[str, str]]()
    for table, where, place in _wheres(merge.whole, root):
        if (table, where) in here or f"{namespace}.{table}" not in there:
            continue
        said = f"{merge.manifest.id}/context/{CONTEXT_FILE}: {place}"
        require_condition(merge.connection, said, where, (namespace, table), (namespace, root))
        if table in {name for name, _ in here}:
            merge.said.append(f"{said} is {where}; what this context says is taken instead")
        else:
            merge.said.append(f"rows of {table} hung on those of {root} where {where} ({said}); this context has no such rule")
            more.append((table, where))
    return [*here, *more]
