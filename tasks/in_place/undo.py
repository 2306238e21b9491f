"""The commands that undo a restore from its safety set, and the changes that they do not revert."""

import shlex
from collections.abc import Iterator
from dataclasses import replace

from tasks.core import sql
from tasks.core.database.objects import TABLES, VIEWS
from tasks.core.in_place.remedies import drops
from tasks.core.in_place.request import Drift, KeyValue, Mode, Request
from tasks.core.sql.staging import Link
from tasks.database.catalog import dicts
from tasks.in_place.objects import keys_to_make
from tasks.in_place.session import Merge, Table, lineage


def undo_of(merge: Merge) -> str:
    """Return the commands that bring back the state before, rows that refer to others first."""
    context, database = merge.site.context.name, merge.site.database
    if merge.safety is None:
        dropped = shlex.quote(" ".join(_drops(merge)))
        return f"psql -v ON_ERROR_STOP=1 -d {shlex.quote(database)} -c {dropped}"
    back = replace(merge.request, backup=merge.safety.id, mode=Mode.REPLACE, include_parents=False, on_drift=Drift.REFUSE)
    # The restore also inserted referenced rows, in other tables or in the same one.
    included = [table for table in merge.tables if table.name not in merge.names or len(table.chosen) > 1]
    keys = [(table.name, _inserted_keys(merge, table)) for table in included]
    requests = [back, *(replace(back, table=table, keys=some) for table, some in keys if some)]
    return "\n".join(request.command(context, database) for request in requests)


def undo_all(merge: Merge) -> str:
    """Return the command that restores every table of the safety set."""
    assert merge.safety  # noqa: S101
    request = Request(merge.safety.id, accept_effects=merge.request.accept_effects, objects=merge.request.objects)
    return request.command(merge.site.context.name, merge.site.database)


def without_keys(merge: Merge, undo: str) -> str:
    """Return the command to undo everything in place of one with key values, never to be logged."""
    return undo_all(merge) if "--keys" in undo else undo


def _drops(merge: Merge) -> Iterator[str]:
    """Yield statements that drop re-created tables: first others' keys to them, and views."""
    made = {item.name: item.parent for item in merge.missing if item.kind in TABLES}
    yield from (sql.staging.drop_constraint(key.table, key.name) for key in keys_to_make(merge) if key.table not in made)
    yield from reversed([drops(item) for item in merge.missing if item.kind in VIEWS])
    # In one statement, as the tables may refer to each other.
    yield f"DROP TABLE {', '.join(name for name, parent in made.items() if parent not in made)};"
    yield from (drops(item, if_exists=True) for item in merge.missing if item.kind in {"function", "sequence", "type"})


def not_undone(merge: Merge) -> list[str]:
    """Return the changes that an undo does not revert, or reverts only after further steps."""
    lasting = [
        f"{finding.difference.line}; an undo does not revert this: it stays {finding.remedy.how}"
        for finding in merge.findings
        if finding.is_lasting
    ]
    return [*lasting, *_orphans(merge)]


def _orphans(merge: Merge) -> Iterator[str]:
    """Yield how many rows to delete or change refer to missing rows: no undo could insert them."""
    for table in merge.tables:
        oids = [*lineage(merge.members, table.member).values()]
        for key in () if table.unchanged else dicts(merge.connection, sql.key_values.OUTBOUND_KEYS_OF, {"oids": oids}):
            place, parent = (table.member.schema, table.member.name), (key["parent_schema"], key["parent_name"])
            if count := merge.ask(sql.key_values.orphans_to_go(table.number, place, Link.of(key), parent))[0][0]:
                yield (
                    f"{count:,} rows of {table.name} refer to missing rows of {'.'.join(parent)}: "
                    f"before an undo can restore them, drop the key: ALTER TABLE {key['table']} "
                    f"DROP CONSTRAINT {key['name']};"
                )


def _inserted_keys(merge: Merge, table: Table) -> list[dict[str, KeyValue]]:
    if table.unchanged or not table.primary:
        return []
    asked_for = table.chosen[:1] if table.name in merge.names else []
    asked = sql.key_values.inserted_keys(table.number, table.primary, asked_for)
    return [dict(zip(table.primary, row, strict=True)) for row in merge.connection.execute(asked).fetchall()]
