"""The requested table and rows: names of relations, and conditions on key columns."""

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
from tasks.database.catalog import Members, dicts
from tasks.in_place.session import Merge, Table, lineage
from tasks.sets.texts import require_condition

CHILD_AND_PARENT = "c", "p"


def names(request: Request, context: Context, members: Members, manifest: Manifest) -> tuple[frozenset[str], frozenset[str]]:
    """Return schema.name of all requested relations, and of those from which `keys` selects rows.

    These are all relations, or a table with its partitions; for a clean-up set also its dependent
    tables.

    Raises:
        BadInput: the table does not exist, or a clean-up set would delete all other rows (mode
            replace).
    """
    # A partition that a restore attached belongs to its table also when that is undone.
    known = (*manifest.inventory, *manifest.made)
    parents = {plain_name(item.name): plain_name(item.parent) for item in known if item.kind in TABLES}
    parents |= {relation.qualified: relation.parent or "" for relation in members.relations}
    if manifest.cleaned_table and request.mode is Mode.REPLACE:
        raise BadInput(
            f"{manifest.id} has only rows that a clean-up deleted: mode replace would delete all "
            "others; restore them with restore_cleaned_up, or with table_restore and mode "
            f"{Mode.MISSING}"
        )
    if request.table is None:
        return frozenset(parents), frozenset(parents)
    where = f"in {manifest.id}, nor of context {context.name} now"
    keyed = tables_named(request.table, context.namespace, parents, where)
    children = manifest.only.tables if request.with_children and manifest.only else []
    return keyed.union(*(tables_named(child, context.namespace, parents, where) for child in children)), keyed


def chosen_rows(merge: Merge) -> list[Composed]:
    """Return the requested condition on key columns; empty if there is none.

    Raises:
        BadInput: `keys` is not a condition, or names columns that do not exist.
    """
    if merge.request.keys is None:
        return []
    wanted = [member for member in merge.members.holding_rows if member.qualified in merge.keyed]
    if not wanted:
        raise BadInput(f"keys: {merge.request.table} does not exist; restore all of it, without keys")
    key = dicts(merge.connection, sql.staging.MERGE_FACTS, {"oids": [wanted[0].oid]})[0]["key"]
    return [read_condition(merge.connection, merge.request.keys, (wanted[0].schema, wanted[0].name), key, merge.path)]


def read_condition(connection: Connection, keys: Keys, table: tuple[str, str], key: list[str], path: str) -> Composed:
    """Return an operator's condition on key columns, as PostgreSQL parsed it with this search_path.

    Raises:
        BadInput: `keys` is not a condition, or its values do not fit the types of the columns.
    """
    parsed = parse_keys(keys, key)
    try:
        with connection.transaction():
            execute_written(connection, sql.key_values.create_key_table(*table, key), path)
            if isinstance(parsed, str):
                # Prepared, because PostgreSQL then takes one statement only.
                execute_written(connection, sql.key_values.add_condition(parsed), path, prepare=True)
                conditions = connection.execute(sql.key_values.CONDITION).fetchall()
                if len(conditions) != 1 or conditions[0][1]:
                    raise BadInput(f"keys: a condition on {', '.join(key)} may only call IMMUTABLE functions")
                condition = sql.staging.as_written(conditions[0][0])
            else:
                condition = _listed(connection, parsed)
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


def _listed(connection: Connection, keys: list[dict[str, str]]) -> Composed:
    """Return the condition that the key columns have listed values."""
    equal: dict[str, str] = dict(connection.execute(sql.key_values.EQUAL_IN_KEY_TABLE).fetchall())
    types = connection.execute(sql.key_values.STRUCTURED_IN_KEY_TABLE).fetchall()[0][0]
    return sql.key_values.has_values({name: equal[name] for name in keys[0]}, [list(row.values()) for row in keys], types)


def unknown_keys(merge: Merge) -> Iterator[str]:
    """Yield the listed keys that neither the set nor the database has."""
    wanted = [table for table in merge.tables if table.name in merge.keyed]
    if merge.request.keys is None or not wanted or isinstance(parsed := parse_keys(merge.request.keys, wanted[0].primary), str):
        return
    for number, row in enumerate(parsed, 1):
        asked = list[Composed]()
        for table in wanted:
            equal = {name: table.equal[name] for name in row}
            values = sql.key_values.has_values(equal, [list(row.values())], table.structured)
            asked.append(sql.key_values.absent_values(table.member.schema, table.member.name, table.number, values))
        if all(merge.ask(statement)[0][0] for statement in asked):
            place = f"key number {number} of {len(parsed):,}"
            yield f"neither {merge.manifest.id} nor the database has a row of {merge.request.table} with {place}; correct keys"


def choose_children(merge: Merge) -> None:
    """Select, in other tables of a clean-up set, the rows that depended on the selected rows."""
    if merge.request.keys is None:
        return
    children = [table for table in merge.tables if table.name not in merge.keyed]
    with merge.connection.transaction():
        merge.connection.execute(sql.session.set_zone(merge.site.context.timestamps))
        path = read_source_path(merge.connection, merge.site.context.namespace)
        conditions = _conditions(merge)
        links = [(child, *link) for child in children for link in _links(merge, child, conditions)]
        hanging = {child.number: set[tuple[str, ...]]() for child in children}
        while True:
            before = sum(map(len, hanging.values()))
            for child, parent, names, on in links:
                rows = _condition(parent, hanging)
                asked = sql.key_values.hanging_keys((child.number, parent.number), names, child.primary, rows, on)
                hanging[child.number] |= set(execute_written(merge.connection, asked, path).fetchall())
            if sum(map(len, hanging.values())) == before:
                break
    for child in children:
        child.chosen = [_condition(child, hanging)]


def _condition(table: Table, hanging: Mapping[int, set[tuple[str, ...]]]) -> Composed:
    """Return the condition that selects rows of a table."""
    if table.number not in hanging:
        return table.chosen_rows
    keys = sorted(hanging[table.number])
    return table.has_keys(keys) if keys else sql.staging.as_written("false")


def _links(merge: Merge, child: Table, conditions: Iterable[tuple[str, str]]) -> Iterator[tuple[Table, tuple[str, str], Composed]]:
    """Yield the parent tables of a child's rows, the two names, and the condition that joins them.

    Parents are found by foreign keys, and by the `where` of the rule's children.
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
    """Return a rule's child tables with a `where`: table, condition, place in the file."""
    return [
        (child.table, child.where, f"clean_up.{number}.children.{place}.where")
        for number, rule in enumerate(context.clean_up)
        if rule.table == table
        for place, child in enumerate(rule.children)
        if child.where
    ]


def _conditions(merge: Merge) -> list[tuple[str, str]]:
    """Return the conditions that join child tables to the rule's table, as in this context's file.

    For tables without one, the set's is used once PostgreSQL has parsed it, and listed in the plan.

    Raises:
        DamagedSet: the set's text is not a condition.
    """
    root, namespace = str(merge.manifest.cleaned_table), merge.site.context.namespace
    here = [(table, where) for table, where, _ in _wheres(merge.site.context, root)]
    there = {name for table in merge.tables for name in lineage(merge.members, table.member)}
    more = list[tuple[str, str]]()
    for table, where, place in _wheres(merge.whole, root):
        if (table, where) in here or f"{namespace}.{table}" not in there:
            continue
        source = f"{merge.manifest.id}/context/{CONTEXT_FILE}: {place}"
        require_condition(merge.connection, source, where, (namespace, table), (namespace, root))
        if table in {name for name, _ in here}:
            merge.taken_from_set.append(f"{source} is {where}; the condition of this context is used instead")
        else:
            merge.taken_from_set.append(
                f"rows of {table} depend on those of {root} where {where} ({source}); this context has no such rule"
            )
            more.append((table, where))
    return [*here, *more]
