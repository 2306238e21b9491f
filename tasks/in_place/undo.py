"""What undoes a merge: the commands that restore its safety set, told in its report."""

import shlex
from dataclasses import replace

from tasks.core import sql
from tasks.core.database.objects import TABLES
from tasks.core.in_place.request import Drift, KeyValue, Mode, Request
from tasks.in_place.session import Merge, Table


def undo_of(merge: Merge) -> str:
    """Return what an operator types to have back what was there before, rows that refer to others first."""
    context, database = merge.site.context.name, merge.site.database
    made = [f"psql -d {shlex.quote(database)} -c {shlex.quote(f'DROP TABLE {name}')}" for name in _made(merge)]
    if merge.safety is None:
        return "\n".join(made)
    back = replace(merge.request, backup=merge.safety.id, mode=Mode.REPLACE, include_parents=False, on_drift=Drift.REFUSE)
    # Rows that others refer to were inserted as well, in other tables or in the same one.
    included = [one for one in merge.tables if one.name not in merge.names or len(one.chosen) > 1]
    keys = [(one.name, _inserted_keys(merge, one)) for one in included]
    requests = [back, *(replace(back, table=table, keys=some) for table, some in keys if some)]
    return "\n".join([*made, *(one.command(context, database) for one in requests)])


def undo_all(merge: Merge) -> str:
    """Return what an operator types to have back every table that the safety set has."""
    assert merge.safety  # noqa: S101
    request = Request(merge.safety.id, accept_effects=merge.request.accept_effects, objects=merge.request.objects)
    return request.command(merge.site.context.name, merge.site.database)


def without_keys(merge: Merge, undo: str) -> str:
    """Return what undoes it whole, where the commands name rows by their keys."""
    if "--keys" not in undo:
        return undo
    return "\n".join([*(line for line in undo.splitlines() if line.startswith("psql ")), undo_all(merge)])


def _made(merge: Merge) -> list[str]:
    """Return the names of the tables that are made, but for those that go with a table that is made."""
    if merge.request.table is None:
        return []
    made = {item.name: item.parent for item in merge.missing if item.kind in TABLES}
    return [name for name, parent in made.items() if parent not in made]


def _inserted_keys(merge: Merge, table: Table) -> list[dict[str, KeyValue]]:
    if table.unchanged or not table.primary:
        return []
    asked_for = table.chosen[:1] if table.name in merge.names else []
    asked = sql.key_values.inserted_keys(table.number, table.primary, asked_for)
    return [dict(zip(table.primary, row, strict=True)) for row in merge.connection.execute(asked).fetchall()]
