"""Prerequisites of a merge in the live database, checked by the plan before anything is done."""

from collections.abc import Iterator, Mapping

import psycopg

from tasks.core import sql
from tasks.core.database.facts import BOUND, facts, owner_of
from tasks.core.database.objects import TABLES, VIEWS, InventoryItem
from tasks.core.in_place.plan import Change, drift
from tasks.core.in_place.request import Drift, Mode
from tasks.core.postgres.archive_script import Chunk
from tasks.core.postgres.archive_toc import parse_list, table_of
from tasks.core.postgres.connection import complaint_of
from tasks.core.postgres.grants import grants_by_others
from tasks.core.postgres.messages import message_of
from tasks.core.restore.obstacle import Obstacle
from tasks.core.sets.shared_schema import MADE
from tasks.core.sql.names import plain_name, quoted, quoted_name, split_name
from tasks.database import catalog
from tasks.database.catalog import Member, dicts
from tasks.in_place.detached import attached_too_late, overlapping
from tasks.in_place.objects import missing_chunks
from tasks.in_place.session import Merge, Section, Table, lineage
from tasks.restore.grants import may_grant_as
from tasks.restore.prerequisites import (
    STAGING,
    TABLES_MADE,
    barred_tablespaces,
    event_triggers,
    few_locks,
    missing_here,
    refusing_event_triggers,
    uncreatable,
)
from tasks.restore.unproven import without_unproven_checks

# Differing rows are stored in a TEMP table with two more columns: kind of difference and ctid.
MOST_COLUMNS = 1600 - 2


def refusals(merge: Merge) -> Iterator[str]:
    """Yield why the set cannot be merged into the live database."""
    rows = dicts(merge.connection, sql.staging.MERGE_FACTS, {"oids": merge.members.oids})
    facts_of = {row["oid"]: row for row in rows}
    login = merge.connection.execute(sql.session.CURRENT_USER).fetchall()[0][0]
    for member in merge.members.relations:
        if not facts_of[member.oid]["owned"]:
            yield f'login "{login}" is not a member of the owner of {member.qualified}; {_owner_remedy(merge, member, login)}'
        if facts_of[member.oid]["rules"]:
            yield f"{member.qualified} has rules, which would redirect writes; run ALTER TABLE … DISABLE RULE first"
        if member.unfinished_detach:
            yield str(member.unfinished_detach)
    for table in merge.tables:
        yield from drifts(merge, table)
        if not table.key and table.mode is not Mode.REPLACE:
            yield (
                f"{table.name} has no primary key, so that mode {table.mode} would add the old "
                "version of a changed row beside the new one; restore it with mode replace, or "
                "side by side"
            )
    for item in merge.missing:
        if item.kind in TABLES | VIEWS and catalog.is_there(merge.connection, item.name):
            place = f" of {item.parent}" if item.parent else ""
            yield f"{item.name} exists, but not as {item.kind}{place}; rename it{_attaching(item)}"
    yield from overlapping(merge)
    yield from _taken_names(merge)


def _owner_remedy(merge: Merge, member: Member, login: str) -> str:
    """Return the statement that makes this login the table's owner, or a member of the owner."""
    then = {plain_name(item.name): owner_of(item) for item in merge.manifest.inventory if item.kind in TABLES}.get(member.qualified)
    now = {plain_name(item.name): owner_of(item) for item in merge.inventory if item.kind in TABLES}.get(member.qualified)
    if then and then != now:
        return f'run as a superuser: ALTER TABLE {quoted_name(member.schema, member.name)} OWNER TO "{then}"'
    return f'GRANT its owner TO "{login}"'


def _attaching(item: InventoryItem) -> str:
    """Return the statement that attaches a table which may be the detached partition itself."""
    if not item.parent:
        return ""
    if bound := facts(item).get(BOUND):
        return f", or, if it is the detached partition, run: ALTER TABLE {item.parent} ATTACH PARTITION {item.name} {bound};"
    return f", or, if it is the same table, run: ALTER TABLE {item.name} INHERIT {item.parent};"


def _taken_names(merge: Merge) -> Iterator[str]:
    """Yield missing indexes whose names other tables' indexes have, say after a renaming."""
    names = {item.name: item.parent for item in merge.missing if item.kind == "index"}
    for name, table in merge.connection.execute(sql.prerequisites.TABLES_OF_INDEXES, {"names": [*names]}):
        if table != names[name]:
            yield (
                f"index {name} exists, but on {table}; if that is the renamed table {names[name]}, "
                f"run: ALTER TABLE {table} RENAME TO {quoted(split_name(names[name])[1])}; else "
                "rename the index"
            )


def drifts(merge: Merge, table: Table) -> Iterator[str]:
    """Yield how a live relation's columns differ from the set's, if the request refuses that."""
    if table.relation and merge.request.on_drift is Drift.REFUSE:
        for difference in drift(table.relation, table.member.columns, table.member.types):
            yield f'{difference}; migrate the table, or pass on_schema_drift="common-columns"'


def obstacles(merge: Merge) -> Iterator[object]:
    """Yield obstacles that are known before anything is staged."""
    yield from refusing_event_triggers(merge.connection, _tried(merge), _commands(merge))
    # Reading a table locks its indexes too.
    indexes = merge.connection.execute(sql.prerequisites.INDEXES_OF, {"oids": merge.members.oids}).fetchall()[0][0]
    yield from few_locks(merge.connection, len(merge.members.relations) + indexes)
    for table in merge.tables:
        if len(table.columns) > MOST_COLUMNS:
            yield Obstacle(
                table.name, f"has {len(table.columns)} columns, and only rows with at most "
                            f"{MOST_COLUMNS} columns can be compared",
                "restore the table beside the live one (mode side-by-side)",
            )  # fmt: skip
    if merge.missing:
        merge.sections = missing_chunks(merge)
        yield from _of_objects(merge)


def _of_objects(merge: Merge) -> Iterator[Obstacle]:
    """Yield prerequisites of missing objects that the database lacks or this login may not use."""
    connection, manifest = merge.connection, merge.manifest
    wanted = [chunk for section in merge.sections for chunk in section.chunks if chunk.dump_id in section.wanted]
    entries = parse_list(merge.staged.files[manifest.schema_list.path].read_text(encoding="utf-8", errors="replace"))
    needs = {dump_id for chunk in wanted for dump_id in chunk.needs}
    extensions = {entry.rest.split(" ")[2] for entry in entries if entry.rest.startswith("EXTENSION - ") and entry.dump_id in needs}
    schemas = {split_name(item.name if item.kind in MADE | {"index"} else item.parent)[0] for item in merge.missing}
    yield from barred_tablespaces(connection, wanted, manifest, merge.site.database)
    yield from missing_here(connection, manifest, extensions)
    yield from uncreatable(connection, manifest.model_copy(update={"extensions": []}), schemas - {""})


def _tried(merge: Merge) -> list[psycopg.sql.SQL | psycopg.sql.Composed]:
    """Return harmless commands of the kinds that the merge runs, on the tables that it alters."""
    made = sql.prerequisites.TRY_TO_MAKE if merge.missing else sql.prerequisites.TRY_TO_STAGE
    return [*made, *(sql.prerequisites.try_to_alter(member.schema, member.name) for member in _switched(merge))]


def _switched(merge: Merge) -> list[Member]:
    """Return the relations whose triggers the restore disables."""
    states = merge.connection.execute(sql.triggers.TRIGGER_STATES, {"oids": merge.members.oids}).fetchall()
    enabled = {(schema, name) for schema, name, _, words, _ in states if words != "DISABLE"}
    return [member for member in merge.members.holding_rows if (member.schema, member.name) in enabled]


def _commands(merge: Merge) -> set[str]:
    """Return the command tags of the merge, as event triggers name them."""
    made = {f"CREATE {item.kind.removeprefix('partitioned ').upper()}" for item in merge.missing}
    commands = {*STAGING, *made, *(TABLES_MADE | {"COMMENT", "GRANT", "REVOKE"} if made else ())}
    commands |= {"ALTER TABLE"} if merge.moved or _switched(merge) else set()
    return commands | ({"REFRESH MATERIALIZED VIEW"} if any(view.materialized for view in merge.manifest.views) else set())


def held_by_others(merge: Merge) -> Iterator[Obstacle]:
    """Yield objects the undone restore did not create that depend on what the undo would drop."""
    names = [drop.item.name for drop in merge.drops if drop.item.kind in TABLES | VIEWS]
    keys = [f"{drop.item.parent}.{drop.item.name}" for drop in merge.drops if drop.item.kind == "constraint"]
    asked = {"names": names, "keys": keys}
    for name, holder in merge.connection.execute(sql.in_place.HELD_BY, asked).fetchall() if names else ():
        yield Obstacle(
            name,
            f"was created by the restore to be undone, and would be dropped, but {holder} depends on it",
            "drop that object first",
        )


def row_obstacles(merge: Merge, changes: Mapping[str, Change]) -> Iterator[object]:
    """Yield why differing rows could not be written."""
    yield from attached_too_late(merge)
    for table in merge.tables:
        change = changes.get(table.name)
        if change and not table.unchanged:
            yield from _unidentified(merge, table, change)
            if (change.insert or change.update) and not _is_proven(merge, table):
                yield from _refused_rows(merge, table)


def _unidentified(merge: Merge, table: Table, change: Change) -> Iterator[Obstacle]:
    """Yield published tables without replica identity: PostgreSQL refuses UPDATE and DELETE."""
    place = table.member.schema, table.member.name
    asked = [
        *([sql.prerequisites.explain_update(*place, table.columns[0])] if change.update else []),
        *([sql.prerequisites.explain_delete(*place)] if change.delete else []),
    ]
    for statement in asked:
        try:
            with merge.connection.transaction(force_rollback=True):
                merge.ask(statement)
        except (psycopg.errors.ObjectNotInPrerequisiteState, psycopg.errors.InvalidColumnReference) as error:
            identity = f"ALTER TABLE {quoted_name(*place)} REPLICA IDENTITY"
            yield Obstacle(
                table.name, f"is published: {message_of(error)}", f"run: {identity} FULL; "
                                                                  "(afterwards, to revert it: "
                                                                  f"{identity} DEFAULT;), or "
                                                                  "remove the table from the "
                                                                  "publication",
            )  # fmt: skip
            return


def _is_proven(merge: Merge, table: Table) -> bool:
    """Return whether the set's rows satisfy the live table's checks, as the set has the same."""

    def asked_for(inventory: list[InventoryItem]) -> list[str]:
        rules = [item for item in inventory if item.kind == "constraint" and item.state.startswith(("CHECK", "NOT NULL"))]
        return sorted(f"{item.name} {item.state}" for item in rules if table_of(item) == table.name)

    now = asked_for(merge.inventory)
    columns = [
        [item.columns for item in inventory if item.kind == "table" and table_of(item) == table.name]
        for inventory in (merge.inventory, merge.manifest.inventory)
    ]
    has_domains = merge.connection.execute(sql.staging.DOMAIN_COLUMNS, {"oids": [table.member.oid]}).fetchall()
    same = columns[0] == columns[1] and now == asked_for(merge.manifest.inventory)
    return same and not has_domains and not any("NOT VALID" in rule for rule in now)


def _refused_rows(merge: Merge, table: Table) -> Iterator[Obstacle]:
    """Yield checks that refuse rows of the set, as tried in a TEMP table with the same checks."""
    connection, member = merge.connection, table.member
    defaults = connection.execute(sql.prerequisites.WITH_DEFAULT, {"oid": member.oid}).fetchall()
    with (
        connection.transaction(force_rollback=True),
        without_unproven_checks(connection, [member.oid], merge.path, of_tables=False),
    ):
        if complaint := complaint_of(connection, sql.prerequisites.create_like_checked(member.schema, member.name)):
            yield Obstacle(
                table.name,
                f"has checks that cannot be tried on the rows: {complaint}",
                "let event triggers allow this login to create TEMP tables",
            )
            return
        for (column,) in defaults:
            if column not in table.columns:
                connection.execute(sql.prerequisites.allow_null(column))
        for name in _lifted_checks(merge, table):
            connection.execute(sql.prerequisites.forget_check(name))
        yield from _breaches(merge, table)


def _lifted_checks(merge: Merge, table: Table) -> set[str]:
    """Return the checks of a table that an undo drops, or lifts while it writes."""
    tables = lineage(merge.members, table.member)
    asked = {"oids": [*tables.values()] if merge.is_undo else []}
    unproven = merge.connection.execute(sql.prerequisites.UNPROVEN_OF_TABLES, asked).fetchall()
    dropped = [
        drop.item.name for drop in merge.drops
        if drop.item.kind == "constraint" and table_of(drop.item) in tables and drop.item.state.startswith("CHECK")
    ]  # fmt: skip
    return {*dropped, *(name for *_, name, definition, _ in unproven if definition.startswith("CHECK"))}


def _breaches(merge: Merge, table: Table) -> Iterator[Obstacle]:
    """Yield the checks of the TEMP table that rows violate, one after the other."""
    # If only some columns are updated, the row's other columns are unknown.
    whole = set(table.member.columns) == set(table.columns)
    tried = sql.prerequisites.try_rows(table.number, table.columns, "IU" if whole else "I")
    while True:
        try:
            merge.ask(tried)
        except (psycopg.errors.CheckViolation, psycopg.errors.NotNullViolation) as error:
            if error.diag.datatype_name:
                yield _of_domain(table, error)
                return
            yield _forget(merge, table, error)
        except psycopg.Error as error:
            if merge.connection.broken:
                raise
            yield Obstacle(table.name, f"accepts no row of the set: {message_of(error)}", "restore the table beside the live one")
            return
        else:
            return


def _forget(merge: Merge, table: Table, error: psycopg.Error) -> Obstacle:
    """Drop a violated check of the TEMP table; return how to drop that check of the live table."""
    name, column = error.diag.constraint_name or "", error.diag.column_name or ""
    if isinstance(error, psycopg.errors.NotNullViolation):
        what, change, forget = f'NOT NULL of column "{column}"', "ALTER COLUMN {} DROP NOT NULL", sql.prerequisites.allow_null
    else:
        what, change, forget, column = f'check constraint "{name}"', "DROP CONSTRAINT {}", sql.prerequisites.forget_check, name
    merge.connection.execute(forget(column))
    return Obstacle(
        table.name, f"would refuse rows of the set, one of which violates {what}",
        f"run: ALTER TABLE {quoted_name(table.member.schema, table.member.name)} "
        f"{change.format(quoted(column))}; (afterwards the constraint can be created again, a "
        "CHECK as NOT VALID)",
    )  # fmt: skip


def _of_domain(table: Table, error: psycopg.Error) -> Obstacle:
    domain, name = quoted_name(error.diag.schema_name or "", error.diag.datatype_name or ""), error.diag.constraint_name
    what, change = (f'check constraint "{name}"', f"DROP CONSTRAINT {quoted(name)}") if name else ("NOT NULL", "DROP NOT NULL")
    return Obstacle(
        table.name, f"would refuse rows of the set, one of which violates {what} of domain "
                    f"{domain}",
        f"run: ALTER DOMAIN {domain} {change}; (afterwards the constraint can be created again, a "
        "CHECK as NOT VALID)",
    )  # fmt: skip


def notes(merge: Merge) -> Iterator[str]:
    """Yield notes for the operator, to be read before the restore."""
    login, limit = merge.connection.info.user, merge.connection.execute(sql.session.TEMPORARY_LIMIT).fetchall()[0][0]
    if limit != "-1":
        yield (
            f'login "{login}" may have {limit} of temporary files (temp_file_limit), and how much this restore needs is not known: '
            f'if more, it fails with nothing changed; to rule that out: ALTER ROLE "{login}" SET temp_file_limit = -1;'
        )
    for name, function in event_triggers(merge.connection, _commands(merge)):
        yield f'event trigger "{name}" will run {function} on commands of this restore'
    for section in merge.sections or ():
        for chunk in section.chunks:
            for grant in grants_by_others(chunk, merge.manifest.database.encoding) if _is_wanted(section, chunk) else ():
                if not may_grant_as(merge.connection, grant.grantor):
                    yield (f'a grant by "{grant.grantor}" would be made by the owner instead; as a superuser, run: {grant.by_hand}')


def _is_wanted(section: Section, chunk: Chunk) -> bool:
    return bool(chunk.needs & set(section.wanted))
