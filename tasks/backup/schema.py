"""A set's other files: schema dump, -L list for pg_restore, context files, restore.sh, manifest."""

from collections.abc import Mapping
from dataclasses import replace
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
    site: Site,
    run: Run,
    name: SetName,
    snapshot: Snapshot,
    source: Source,
    relations: list[Relation],
    blocks: dict[str, BlockRows],
    base: Base | None,
    part: ContextPart,
) -> Manifest:
    """Store schema, list and context files; return the manifest that will commit the set.

    Raises:
        OperationError: the list does not restore everything in the manifest.
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
        left_out=[name for identity, name, _ in crossing.left_out if identity not in members.around.named],
        by_hand=[*_by_hand(crossing, part), *borders.read_outside_members(connection, members)],
        only_superusers=only_superusers, forgotten_tables=crossing.forgotten, inventory=snapshot.inventory,
        inventory_version=3, extension_versions=extensions,
        schema_archive=archive, schema_list=schema_list, context_files=files,
        warnings=_read_warnings(connection, members, crossing, site) + _superuser_warnings(only_superusers),
    )  # fmt: skip
    _require_complete(manifest, part.listing)
    manifest = manifest.model_copy(update={"schema_fingerprint": fingerprint_of(manifest, part.digest, extensions)})
    if blocks:
        manifest = manifest.model_copy(update={"block_rows": store_packed(site, run, name, BLOCK_ROWS, render_block_rows(blocks))})
    return manifest


def _with_rows(site: Site, run: Run, crossing: borders.Borders) -> list[str]:
    """Return the referencing tables of other contexts with rows, as far as this login may read."""
    looking = Neighbours.of(site, run)
    return [table for table in sorted({key.table for key in crossing.inbound}) if looking.is_empty(table) is False]


def store_script(site: Site, run: Run, name: SetName, manifest: Manifest, source: Source, base: Base | None) -> Manifest:
    """Store the script that restores a set without this project; return the manifest with it."""
    path = source_path_of(manifest.database, site.context.namespace)
    script = restore_script(manifest, database_options(manifest.database, source.major), path, base.manifest if base else None)
    return manifest.model_copy(update={"restore_script": store_text(site, run, name, RESTORE_SCRIPT, script.encode())})


def part_of_context(site: Site, run: Run, source: Source, snapshot: Snapshot) -> ContextPart:
    """Return the context's part of the schema dump's list, and statements of objects left out."""
    members = snapshot.members
    schemas = frozenset(relation.schema for relation in members.relations)
    named = [*members.choice.left_out, *members.choice.with_them, *members.around.named]
    # CREATE SUBSCRIPTION has a password.
    subscription = members.classes.get("pg_subscription")
    described = frozenset(identity for identity in named if identity[0] != subscription)
    described |= {*borders.read_made_by_superusers(snapshot.coordinator, members)}
    origin, encoding = Origin(site.database, source.server), encoding_of(snapshot.coordinator)
    parts = borders.read_parts(snapshot.coordinator, members, described)
    outside = {object_id: {*parts.get(object_id, ())} - described for object_id in described}
    wanted = Wanted(origin, schemas, members.objects, outside, encoding)
    part = context_part(run, source.pg_restore, snapshot.archive, wanted)
    refreshes = borders.read_refreshes(snapshot.coordinator, members, described)
    filled = {identity: f"{text}\n{refreshes[identity]}" for identity, text in part.statements.items() if identity in refreshes}
    return replace(part, statements={**part.statements, **filled})


def _by_hand(crossing: borders.Borders, part: ContextPart) -> list[LeftOut]:
    """Return the objects left out with the statements that create them, in an executable order."""
    order = {identity: number for number, identity in enumerate(part.statements)}
    left_out = sorted(crossing.left_out, key=lambda item: order.get(item[0], len(order)))
    return [LeftOut(name=name, why=why, statements=part.statements.get(identity, "")) for identity, name, why in left_out]


def _require_complete(manifest: Manifest, listing: str) -> None:
    if lack := describe_lack(manifest, listing):
        raise OperationError(
            f"{manifest.id} is not published, because it could not be restored: its {lack}; the "
            "schema may have changed while it was dumped: run again; if that does not help, check "
            "whether `pg_dump --schema-only` prints these objects"
        )


NAMES_SHOWN = 5


def _versions(source: Source) -> Versions:
    return Versions(
        server=source.server,
        server_major=source.major,
        pg_dump=source.pg_dump.version,
        pg_dump_major=source.pg_dump.major,
        project=project_version(),
    )


def _only_superusers(connection: Connection, members: Members, part: ContextPart) -> dict[str, str]:
    """Return statements for objects that only a superuser can create, by name, in restore order."""
    names = describe(connection, {*borders.read_made_by_superusers(connection, members)})
    return {names[identity]: text for identity, text in part.statements.items() if identity in names}


def _superuser_warnings(only_superusers: Mapping[str, str]) -> list[str]:
    return [
        f"{name} can be created by a superuser only, and the context needs it: a recovery fails "
        "unless a superuser runs it with BACKUP_LOAD_AS_SUPERUSER set; the recovery then "
        f"executes\n\n{sql_block(text)}"
        for name, text in only_superusers.items()
    ]


def _read_warnings(connection: Connection, members: Members, crossing: borders.Borders, site: Site) -> list[str]:
    """Return the warnings about the database for the backup's report."""
    loader = candidates_of(site.server, "loader", LOADER)[0][0].user
    forgotten = [
        f"table {table} belongs to no context and is in no backup; add it to a context, or to `neighbours`"
        for table in crossing.forgotten
    ]
    return [
        *borders.read_unusable(connection, members),
        *borders.read_misplaced(connection, members),
        *(_owned(owned, loader) for owned in borders.read_owned_by_others(connection, members, loader)),
        *forgotten,
        *borders.read_lasting_transactions(connection),
        *read_bare_names(connection, members, site.context.namespace),
    ]


def _owned(owned: borders.Owned, loader: str) -> str:
    """Return the warning about an owner whose objects the loading login may not create."""
    hidden = len(owned.objects) - NAMES_SHOWN
    what = ", ".join(owned.objects[:NAMES_SHOWN]) + (f" and {hidden} more" if hidden > 0 else "")
    if owned.is_superuser:
        return (
            f"superuser {owned.role} owns {what}: a recovery fails unless BACKUP_LOAD_AS_SUPERUSER "
            "is set; better change the owner to the tables' owner (ALTER … OWNER TO)"
        )
    return (
        f'{owned.role} owns {what}, and login "{loader}", which loads recoveries, is not a member '
        f"of {owned.role}; run on the "
        f"server to recover to, as administrator: GRANT {quoted(owned.role)} TO {quoted(loader)}; "
        "or change the owner here"
    )


def project_version() -> str:
    """Return the installed version of this project."""
    try:
        return version("consulting-tool-backup")
    except PackageNotFoundError:
        return "not installed"
