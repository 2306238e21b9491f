"""The rest of a set: its schema, list, context, script, and the manifest that describes them."""

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

from tasks.backup.objects import store_packed, store_text
from tasks.backup.source import Source, snapshot_facts
from tasks.core.backup.differential import Base, render_block_rows
from tasks.core.backup.restore_script import restore_script
from tasks.core.database.objects import LeftOut
from tasks.core.errors import OperationError
from tasks.core.postgres.archive_toc import Origin
from tasks.core.postgres.connection import Connection, encoding_of
from tasks.core.postgres.source_path import source_path_of
from tasks.core.report.markdown import sql_block
from tasks.core.rows.file_blocks import BlockRows
from tasks.core.run.clock import now
from tasks.core.sets.completeness import describe_lack
from tasks.core.sets.fingerprint import fingerprint_of
from tasks.core.sets.manifest import BLOCK_ROWS, RESTORE_SCRIPT, SCHEMA_ARCHIVE, SCHEMA_LIST, Manifest, Relation, Versions
from tasks.core.sets.name import SetName
from tasks.core.sql.names import quoted
from tasks.database import borders, catalog
from tasks.database.bare_names import read_bare_names
from tasks.database.catalog import Members
from tasks.database.logins import LOADER, candidates_of
from tasks.database.neighbours import Neighbours
from tasks.database.properties import database_options
from tasks.database.schema import ContextPart, Wanted, context_part
from tasks.database.snapshot import Snapshot
from tasks.database.surroundings import describe
from tasks.run.run import Run
from tasks.run.site import Site


def store_schema(
    site: Site, run: Run, name: SetName, snapshot: Snapshot, source: Source, relations: list[Relation],
    blocks: dict[str, BlockRows], base: Base | None, part: ContextPart,
) -> Manifest:  # fmt: skip
    """Store schema, list and context folder, and return the manifest that will commit the set.

    Raises:
        OperationError: the list does not restore everything that the manifest names.
    """
    connection, members = snapshot.coordinator, snapshot.members
    crossing = borders.read_borders(connection, members, site.context, site.claimed_tables)
    roles, extensions = catalog.read_roles(connection, members), catalog.read_extensions(connection, members)
    only_superusers = _only_superusers(connection, members, part)
    archive = store_packed(site, run, name, SCHEMA_ARCHIVE, snapshot.archive.read_bytes())
    schema_list = store_text(site, run, name, SCHEMA_LIST, part.listing.encode())
    files = [store_text(site, run, name, f"context/{file}", text.encode()) for file, text in site.files.items()]
    manifest = Manifest(
        context=name.context, kind=name.kind, id=name.id, run=run.id, finished=now(), time_zone=site.context.time_zone,
        only=site.context.scope, base=base.manifest.id if base else None, snapshot=snapshot_facts(source, snapshot),
        versions=_versions(source),
        database=catalog.read_database(connection), fingerprint=catalog.fingerprint(snapshot.inventory),
        relations=relations, views=list(members.views), sequences=catalog.read_sequences(connection, members),
        roles=roles, extensions=[*extensions],
        outbound_keys=crossing.outbound, inbound_keys=crossing.inbound,
        referring_tables=_with_rows(site, run, crossing), disabled_keys=catalog.read_disabled_keys(connection, members),
        left_out=[name for one, name, _ in crossing.left_out if one not in members.around.named], by_hand=_by_hand(crossing, part),
        only_superusers=only_superusers, forgotten_tables=crossing.forgotten, inventory=snapshot.inventory,
        inventory_version=2, extension_versions=extensions,
        schema_archive=archive, schema_list=schema_list, context_files=files,
        warnings=_read_warnings(connection, members, crossing, site) + _told_of(only_superusers),
    )  # fmt: skip
    _require_complete(manifest, part.listing)
    manifest = manifest.model_copy(update={"schema_fingerprint": fingerprint_of(manifest, part.digest, extensions)})
    if blocks:
        manifest = manifest.model_copy(update={"block_rows": store_packed(site, run, name, BLOCK_ROWS, render_block_rows(blocks))})
    return manifest


def _with_rows(site: Site, run: Run, crossing: borders.Borders) -> list[str]:
    """Return which tables of other contexts that refer here have rows, as far as this login may look."""
    looking = Neighbours.of(site, run)
    return [table for table in sorted({key.table for key in crossing.inbound}) if looking.is_empty(table) is False]


def store_script(site: Site, run: Run, name: SetName, manifest: Manifest, source: Source, base: Base | None) -> Manifest:
    """Store the script that restores a set without this project; return the manifest that names it."""
    path = source_path_of(manifest.database, site.context.namespace)
    script = restore_script(manifest, database_options(manifest.database, source.major), path, base.manifest if base else None)
    return manifest.model_copy(update={"restore_script": store_text(site, run, name, RESTORE_SCRIPT, script.encode())})


def part_of_context(site: Site, run: Run, source: Source, snapshot: Snapshot) -> ContextPart:
    """Return the list that restores the context's part of the dump of a snapshot, and the statements of what is left out."""
    members = snapshot.members
    schemas = frozenset(relation.schema for relation in members.relations)
    named = [*members.choice.left_out, *members.choice.with_them, *members.around.named]
    # What makes a subscription has a password.
    told = frozenset(one for one in named if one[0] != members.classes.get("pg_subscription"))
    told |= {*borders.read_made_by_superusers(snapshot.coordinator, members)}
    wanted = Wanted(Origin(site.database, source.server), schemas, members.objects, told, encoding_of(snapshot.coordinator))
    return context_part(run, source.pg_restore, snapshot.archive, wanted)


def _by_hand(crossing: borders.Borders, part: ContextPart) -> list[LeftOut]:
    """Return what is left out with the statements that make it, in an order in which these can be run."""
    order = {one: number for number, one in enumerate(part.statements)}
    left_out = sorted(crossing.left_out, key=lambda one: order.get(one[0], len(order)))
    return [LeftOut(name=name, why=why, statements=part.statements.get(one, "")) for one, name, why in left_out]


def _require_complete(manifest: Manifest, listing: str) -> None:
    if lack := describe_lack(manifest, listing):
        raise OperationError(
            f"{manifest.id} is not published, because nobody could recover from it: its {lack}; the schema may have moved "
            "while it was being dumped: run again, and if that does not help, see what `pg_dump --schema-only` says of them"
        )


SAID = 5


def _versions(source: Source) -> Versions:
    return Versions(
        server=source.server, server_major=source.major, pg_dump=source.pg_dump.version, pg_dump_major=source.pg_dump.major,
        project=project_version(),
    )  # fmt: skip


def _only_superusers(connection: Connection, members: Members, part: ContextPart) -> dict[str, str]:
    """Return what of the set only a superuser can make, in the order in which it is made, with the statements."""
    found = {*borders.read_made_by_superusers(connection, members)}
    names = describe(connection, found)
    return {names[one]: text for one, text in part.statements.items() if one in names}


def _told_of(only_superusers: Mapping[str, str]) -> list[str]:
    return [
        f"{name} can be made by a superuser alone, and the context needs it: a recovery refuses that unless it is run by one and "
        f"told so (BACKUP_LOAD_AS_SUPERUSER); it makes it by\n\n{sql_block(text)}"
        for name, text in only_superusers.items()
    ]


def _read_warnings(connection: Connection, members: Members, crossing: borders.Borders, site: Site) -> list[str]:
    """Return what a reader of the backup's report has to know of the database."""
    loader = candidates_of(site.server, "loader", LOADER)[0][0].user
    forgotten = [
        f"table {table} is looked after by no context and is not in any backup; add it to a context, or to `neighbours`"
        for table in crossing.forgotten
    ]
    return [
        *borders.read_unusable(connection, members), *borders.read_misplaced(connection, members),
        *(_owned(one, loader) for one in borders.read_owned_by_others(connection, members, loader)), *forgotten,
        *borders.read_lasting_transactions(connection), *read_bare_names(connection, members, site.context.namespace),
    ]  # fmt: skip


def _owned(owned: borders.Owned, loader: str) -> str:
    """Say what a recovery will ask for because of whose objects are."""
    what = ", ".join(owned.objects[:SAID]) + (f" and {len(owned.objects) - SAID} more" if len(owned.objects) > SAID else "")
    if owned.is_superuser:
        return (
            f"superuser {owned.role} owns {what}: a recovery refuses that unless it is told otherwise (BACKUP_LOAD_AS_SUPERUSER); "
            "better give it to the tables' owner (ALTER … OWNER TO)"
        )
    return (
        f'{owned.role} owns {what}, and login "{loader}" may not act for {owned.role}: a recovery asks for that where it goes; run '
        f"there, as administrator: GRANT {quoted(owned.role)} TO {quoted(loader)}; or give it to the tables' owner"
    )


def project_version() -> str:
    """Return the installed version of this project."""
    try:
        return version("consulting-tool-backup")
    except PackageNotFoundError:
        return "not installed"
