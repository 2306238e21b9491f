"""What undoes a merge: the commands that restore its safety set, told in its report; and what they do not bring back."""

import shlex
from collections.abc import Iterator
from dataclasses import replace

from tasks.core import sql
from tasks.core.database.objects import TABLES, VIEWS
from tasks.core.in_place.remedies import drops
from tasks.core.in_place.request import Drift, KeyValue, Mode, Request
from tasks.core.sql.staging import Link
from tasks.in_place.objects import keys_to_make
from tasks.in_place.session import Merge, Table, dicts, lineage


def undo_of(merge: Merge) -> str:
    """Return what an operator types to have back what was there before, rows that refer to others first."""
    context, database = merge.site.context.name, merge.site.database
    if merge.safety is None:
        dropped = shlex.quote(" ".join(_drops(merge)))
        return f"psql -v ON_ERROR_STOP=1 -d {shlex.quote(database)} -c {dropped}"
    back = replace(merge.request, backup=merge.safety.id, mode=Mode.REPLACE, include_parents=False, on_drift=Drift.REFUSE)
    # Rows that others refer to were inserted as well, in other tables or in the same one.
    included = [one for one in merge.tables if one.name not in merge.names or len(one.chosen) > 1]
    keys = [(one.name, _inserted_keys(merge, one)) for one in included]
    requests = [back, *(replace(back, table=table, keys=some) for table, some in keys if some)]
    return "\n".join(one.command(context, database) for one in requests)


def undo_all(merge: Merge) -> str:
    """Return what an operator types to have back every table that the safety set has."""
    assert merge.safety  # noqa: S101
    request = Request(merge.safety.id, accept_effects=merge.request.accept_effects, objects=merge.request.objects)
    return request.command(merge.site.context.name, merge.site.database)


def without_keys(merge: Merge, undo: str) -> str:
    """Return what undoes it whole, where the commands name rows by their keys."""
    return undo_all(merge) if "--keys" in undo else undo


def _drops(merge: Merge) -> Iterator[str]:
    """Yield what drops tables that are made as a whole: first the keys of other tables to them, and their views."""
    made = {item.name: item.parent for item in merge.missing if item.kind in TABLES}
    yield from (sql.staging.drop_constraint(key.table, key.name) for key in keys_to_make(merge) if key.table not in made)
    yield from reversed([drops(item) for item in merge.missing if item.kind in VIEWS])
    # Together, as they may refer to each other.
    yield f"DROP TABLE {', '.join(name for name, parent in made.items() if parent not in made)};"
    yield from (drops(item, if_exists=True) for item in merge.missing if item.kind in {"function", "sequence", "type"})


def not_undone(merge: Merge) -> list[str]:
    """Return what the merge changes for good, and which rows that it deletes or changes come back only after something else."""
    lasting = [f"{one.difference.line}; it stays {one.remedy.how}" for one in merge.found if one.is_lasting]
    return [*lasting, *_orphans(merge)]


def _orphans(merge: Merge) -> Iterator[str]:
    """Yield which rows to delete or to change refer to nothing, so that their keys would refuse them."""
    for table in merge.tables:
        oids = [*lineage(merge.members, table.member).values()]
        for key in () if table.unchanged else dicts(merge.connection, sql.key_values.OUTBOUND_KEYS_OF, {"oids": oids}):
            place, parent = (table.member.schema, table.member.name), (key["parent_schema"], key["parent_name"])
            if count := merge.ask(sql.key_values.orphans_to_go(table.number, place, Link.of(key), parent))[0][0]:
                yield (
                    f"{count:,} rows of {table.name} refer to rows of {'.'.join(parent)} that are not there: they come back only "
                    f"without the key: ALTER TABLE {key['table']} DROP CONSTRAINT {key['name']};"
                )


def _inserted_keys(merge: Merge, table: Table) -> list[dict[str, KeyValue]]:
    if table.unchanged or not table.primary:
        return []
    asked_for = table.chosen[:1] if table.name in merge.names else []
    asked = sql.key_values.inserted_keys(table.number, table.primary, asked_for)
    return [dict(zip(table.primary, row, strict=True)) for row in merge.connection.execute(asked).fetchall()]
