"""Staging a set's rows in TEMP tables of the live database."""

from collections.abc import Iterable
from typing import Any

from tasks.core import sql
from tasks.core.backup.differential import incompatibility
from tasks.core.run.progress import Moved, unmeasured
from tasks.database.loading import load_rows
from tasks.database.rows import bases_of_domains
from tasks.database.snapshot import position
from tasks.in_place.session import Merge, Table, is_unchanged, lineage
from tasks.run import progress


def stage(merge: Merge) -> None:
    """Stage the rows of every relation, except those unchanged since the set was taken."""
    same_file = _same_line(merge)
    expected = {table.name: table.relation.plain_bytes if table.relation else 0 for table in merge.tables}
    with progress.of(merge.run, "staging", expected, merge.manifest.zone) as items:
        for table in merge.tables:
            table.unchanged = not table.chosen and table.member.qualified in same_file and is_unchanged(merge, table)
            if not table.unchanged and not table.staged:
                stage_table(merge, table, items[table.name].at)
            items[table.name].at(expected[table.name])
    merge.refusals += _move_misplaced(merge)


def _move_misplaced(merge: Merge) -> list[str]:
    """Move staged rows to the hash partitions of this database; return why that fails."""
    problems = list[str]()
    for divided in {*merge.divided.values()}:
        partitions = [table for table in merge.tables if table.staged and merge.divided.get(table.name) == divided]
        belongs = {
            oid: sql.staging.belonging(bound, domains)
            for oid, bound, domains in merge.connection.execute(sql.staging.BOUNDS, _lineages(merge, partitions))
        }
        for partition in partitions:
            merge.connection.execute(sql.staging.take_misplaced(partition.number, belongs[partition.member.oid]))
            left = merge.connection.execute(sql.staging.COUNT_MISPLACED).fetchall()[0][0]
            columns = partition.relation.columns if partition.relation else list(partition.member.columns)
            for other in partitions if left else []:
                give = sql.staging.give_misplaced(other.number, columns, belongs[other.member.oid])
                left -= merge.connection.execute(give).rowcount
            merge.connection.execute(sql.staging.DROP_MISPLACED)
            if left:
                problems.append(
                    f"{left:,} rows of {partition.name} belong in this database to other "
                    f"partitions of {'.'.join(divided)}, which are not restored too; restore the "
                    "whole table"
                )
    return problems


def _lineages(merge: Merge, partitions: Iterable[Table]) -> dict[str, list[Any]]:
    """Return the oids of partitions, those of all tables above each, and the bounds of those among them that are detached."""
    lineages = [(partition.member.oid, lineage(merge.members, partition.member)) for partition in partitions]
    return {
        "oids": [oid for oid, _ in lineages],
        "above": [" ".join(map(str, names.values())) for _, names in lineages],
        "bounds": [" AND ".join(merge.bounds[name] for name in names if name in merge.bounds) for _, names in lineages],
    }


def _same_line(merge: Merge) -> set[str]:
    """Return the relations whose changes since the set can be found by transaction ids."""
    with merge.connection.transaction():
        here, xmax, database = position(merge.connection)
    # A clean-up set never has all rows of a relation, so that unchanged rows would tell nothing.
    if merge.manifest.cleaned_table or incompatibility(merge.manifest, here, xmax, database, merge.inventory):
        return set()
    return {
        table.name
        for table in merge.tables
        if (kept := table.relation)
        and kept.layout
        and (kept.oid, kept.relfilenode, kept.layout, kept.columns)
        == (table.member.oid, table.member.relfilenode, table.member.layout, list(table.member.columns))
    }


def stage_table(merge: Merge, table: Table, moved: Moved = unmeasured) -> None:
    """Load the set's rows of a table into a TEMP table, which is compared with the live table."""
    member, own = table.member, list(table.member.columns)
    columns = table.relation.columns if table.relation else own
    bases = bases_of_domains(merge.connection, member.oid)
    merge.ask(sql.staging.create_staging(table.number, member.schema, member.name, columns, own, bases))
    if table.relation:
        sources, encoding = merge.staged.sources(table.relation), merge.manifest.database.encoding
        place = sql.staging.staging_place(table.number)
        load_rows(merge.connection, table.relation, sources, encoding, merge.path, into=place, moved=moved)
        merge.connection.execute(sql.staging.analyze_temp(sql.staging.STAGED.format(table.number)))
    table.staged = True
