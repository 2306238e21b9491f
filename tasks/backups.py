"""Taking a backup set: from the checks before anything is touched to the manifest that commits it."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from urllib.parse import quote

import psycopg
import zstandard
from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from tasks import catalogue
from tasks.catalogue import Member, Members
from tasks.core import sql
from tasks.core.calendar import parse_instant
from tasks.core.errors import BadInput, MovedSnapshot
from tasks.core.kinds import RULES, Kind, SetName, new_set_id, now
from tasks.core.losses import losses_between
from tasks.core.manifest import Manifest, Relation, Role, StoredObject, Versions
from tasks.core.manifest import Snapshot as SnapshotFacts
from tasks.core.programs import Program, find_program
from tasks.core.servers import Connection, connect, encoding_of
from tasks.core.stored import RESTORE_SCRIPT, describe_file, restore_script
from tasks.core.stream import StreamJob
from tasks.databases import database_options
from tasks.runs import Run, require_space, spread, staging
from tasks.schema import LOCK_WAIT_SECONDS, context_list
from tasks.sets import newest_trusted, publish, require_owner, require_store, upload
from tasks.sites import Site
from tasks.snapshots import Snapshot, patient, take_snapshot
from tasks.tables import Dumped, dump_table

SNAPSHOT_TRIES = 4


@dataclass(frozen=True)
class Source:
    """What was found out about the source before the backup began."""

    system_identifier: str
    timeline: int
    standby: bool
    server: str
    major: int
    pg_dump: Program
    pg_restore: Program
    sizes: dict[int, int]


@task(cache_policy=NO_CACHE)
def check_source(site: Site, run: Run) -> Source:
    """Find out, before anything is touched, whether the whole context can be read and stored.

    Raises:
        BadInput: the database, a table, a privilege, a program, the store or disk space is missing; all that is
            known to be wrong with privileges is named at once.
        MovedSnapshot: a relation is locked for long.
    """
    require_store(site.store, site.context.name)
    with patient(), connect(site.server, site.database, run.title) as connection:
        connection.execute(sql.set_lock_timeout(LOCK_WAIT_SECONDS))
        members = catalogue.read_members(connection, site.context)
        _require_readable(connection, members)
        system_identifier, timeline, server, number, standby = _server_facts(connection)
        sizes = dict(connection.execute(sql.RELATION_BYTES, {"oids": members.oids}).fetchall())
    pg_dump = find_program("pg_dump", number // 10000)
    pg_restore = find_program("pg_restore", pg_dump.major)
    # Two relations at a time are staged, seldom at more than half their size.
    require_space(run, sum(sorted(sizes.values())[-2:]) // 2 + (16 << 20))
    # The last check, because the first backup of all leaves its mark in the store.
    require_owner(site.store, site.context.name, system_identifier)
    return Source(system_identifier, timeline, standby, server, number // 10000, pg_dump, pg_restore, sizes)


def _server_facts(connection: Connection) -> tuple[str, int, str, int, bool]:
    try:
        facts: tuple[str, int, str, int, bool] = connection.execute(sql.SERVER_FACTS).fetchall()[0]
    except psycopg.errors.InsufficientPrivilege as error:
        raise BadInput(
            f"the cluster cannot be identified: {error}; run in that database: GRANT EXECUTE ON FUNCTION pg_control_system(), "
            f'pg_control_checkpoint() TO "{connection.info.user}"'
        ) from error
    return facts


def _require_readable(connection: Connection, members: Members) -> None:
    oids = {"oids": members.oids}
    login = connection.execute(sql.CURRENT_USER).fetchall()[0][0]
    if unreadable := connection.execute(sql.UNREADABLE, {"sequences": members.chosen_by_class["pg_class"]}).fetchall():
        grants = {f"USAGE ON SCHEMA {schema}" for schema, may_use, _, _ in unreadable if not may_use}
        tables = ", ".join(table for _, _, table, may_select in unreadable if not may_select)
        remedy = " ".join(f'GRANT {one} TO "{login}";' for one in [*sorted(grants), *([f"SELECT ON {tables}"] if tables else [])])
        raise BadInput(
            f'role "{login}" may not read {", ".join(row[2] for row in unreadable)} (the schema is dumped whole, which takes the '
            f'right to read every table); run: {remedy} or, for all tables: GRANT pg_read_all_data TO "{login}"'
        )
    if hidden := [row[0] for row in connection.execute(sql.HIDDEN_BY_ROW_SECURITY, oids)]:
        raise BadInput(
            f'row-level security would hide rows of {", ".join(hidden)} from role "{login}"; run: ALTER ROLE "{login}" BYPASSRLS'
        )


@dataclass(frozen=True)
class Occasion:
    """Why a set is taken: what it is called, until when it must be kept, and whether rows that are gone are meant to be."""

    label: str | None = None
    keep_until: datetime | None = None
    accept_losses: bool = False


def occasion(site: Site, run: Run, label: str | None, keep_until: str | None, *, accept_losses: bool) -> Occasion:
    """Return why a set is taken, as an operator said it.

    Raises:
        BadInput: keep_until is no instant, or is past.
    """
    until = parse_instant(keep_until, site.context.zone) if keep_until else None
    if until and until <= run.started:
        raise BadInput(f'keep_until "{keep_until}" is past; name an instant to come')
    return Occasion(label or None, until, accept_losses)


def take_set(site: Site, run: Run, kind: Kind, source: Source, why: Occasion) -> Manifest:
    """Take a set of the whole context under one snapshot and commit it; start over when the schema moved meanwhile.

    Raises:
        MovedSnapshot: it moved at every try; nothing is listed.
    """
    trusted = None if why.accept_losses else newest_trusted(site.store, site.context.name)
    for attempt in range(1, SNAPSHOT_TRIES + 1):
        try:
            with take_snapshot(site, run, source.pg_dump) as snapshot:
                name = SetName(
                    site.context.name, kind, new_set_id(site.context.name, kind, snapshot.instant, site.context.zone, run.id)
                )
                relations = store_relations(site, run, name, snapshot, source)
                manifest = store_schema(site, run, name, snapshot, source, relations)
                snapshot.require_held()
            losses = losses_between(trusted, relations, site.context.max_row_loss) if trusted else []
            said = {"label": why.label, "keep_until": why.keep_until, "losses": losses}
            manifest = manifest.model_copy(update=said)
            publish(site.store, run, name, manifest)
            return manifest
        except MovedSnapshot as error:
            if attempt == SNAPSHOT_TRIES:
                raise
            get_run_logger().warning("attempt %d: %s; starting over", attempt, error)
    raise AssertionError  # the last try returns or raises


def store_relations(site: Site, run: Run, name: SetName, snapshot: Snapshot, source: Source) -> list[Relation]:
    """Dump and store every relation that holds rows, the largest first, several at a time."""
    members = sorted(snapshot.members.holding_rows, key=lambda one: source.sizes.get(one.oid, 0), reverse=True)
    encoding = encoding_of(snapshot.coordinator)
    calls = [
        (site, run, name, member, snapshot.name, encoding, source.sizes.get(member.oid, 1 << 40)) for member in members
    ]  # fmt: skip
    return sorted(spread(run, store_relation, calls), key=lambda relation: relation.oid)


@task(cache_policy=NO_CACHE, task_run_name="back up {member.name}")
def store_relation(
    site: Site, run: Run, name: SetName, member: Member, snapshot: str, encoding: str, size_bytes: int
) -> Relation:  # fmt: skip
    """Dump one relation and store it; nothing but database, store and this machine's staging folder is needed."""
    path = f"data/{_file_name(site, member)}.copy.zst"
    file = run.folder / path.rpartition("/")[2]
    file.unlink(missing_ok=True)
    job = StreamJob(
        site.database, run.title, member.schema, member.name, list(member.columns), encoding, snapshot, str(file)
    )  # fmt: skip
    dumped = dump_table(site.server, run, job, size_bytes)
    stored = StoredObject(path=path, bytes=dumped.facts.bytes, sha256=dumped.facts.sha256)
    upload(site.store, run, name, stored, file, RULES[name.kind].storage_class)
    return _relation(member, dumped, stored)


def _file_name(site: Site, member: Member) -> str:
    names = [member.name] if member.schema == site.context.namespace else [member.schema, member.name]
    return ".".join(quote(name, safe="").replace(".", "%2E") for name in names)


def _relation(member: Member, dumped: Dumped, stored: StoredObject) -> Relation:
    facts = dumped.facts
    return Relation(
        schema=member.schema, name=member.name, parent=member.parent, oid=member.oid, relfilenode=member.relfilenode,
        columns=list(member.columns), rows=facts.rows, digest=facts.digest, plain_bytes=facts.plain_bytes,
        seconds=round(dumped.seconds, 3), parts=[stored],
    )  # fmt: skip


def store_schema(site: Site, run: Run, name: SetName, snapshot: Snapshot, source: Source, relations: list[Relation]) -> Manifest:
    """Store schema, list and context folder, and return the manifest that will commit the set."""
    connection, members = snapshot.coordinator, snapshot.members
    borders = catalogue.read_borders(connection, members, site.context, site.claimed_tables)
    roles = catalogue.read_roles(connection, members)
    listing = context_list(run, source.pg_restore, snapshot.archive, _schema_names(members), members.choice.objects)
    archive = _store_text(site, run, name, "schema.dump.zst", zstandard.compress(snapshot.archive.read_bytes()))
    schema_list = _store_text(site, run, name, "schema.list", listing.encode())
    files = [_store_text(site, run, name, f"context/{file}", text.encode()) for file, text in site.files.items()]
    manifest = Manifest(
        context=name.context, kind=name.kind, id=name.id, run=run.id, finished=now(), time_zone=site.context.time_zone,
        snapshot=SnapshotFacts(
            instant=snapshot.instant, xmin=snapshot.xmin, lsn=snapshot.lsn, timeline=source.timeline,
            system_identifier=source.system_identifier, standby=source.standby,
        ),
        versions=Versions(
            server=source.server, server_major=source.major, pg_dump=source.pg_dump.version,
            pg_dump_major=source.pg_dump.major, project=project_version(),
        ),
        database=catalogue.read_database(connection), fingerprint=catalogue.fingerprint(snapshot.inventory),
        relations=relations, views=list(members.views), sequences=catalogue.read_sequences(connection, members),
        roles=roles, extensions=catalogue.read_extensions(connection, members),
        outbound_keys=borders.outbound, inbound_keys=borders.inbound, left_out=borders.left_out,
        forgotten_tables=borders.forgotten, inventory=snapshot.inventory,
        schema_archive=archive, schema_list=schema_list, context_files=files,
        warnings=_warnings(borders, catalogue.read_unusable(connection, members), roles),
    )  # fmt: skip
    script = restore_script(manifest, database_options(manifest.database, source.major))
    return manifest.model_copy(update={"restore_script": _store_text(site, run, name, RESTORE_SCRIPT, script.encode())})


def _schema_names(members: Members) -> set[str]:
    return {relation.schema for relation in members.relations}


def _store_text(site: Site, run: Run, name: SetName, path: str, data: bytes) -> StoredObject:
    file = run.folder / path.replace("/", "-")
    file.unlink(missing_ok=True)
    with staging(file):
        file.touch(mode=0o600)
        file.write_bytes(data)
    return upload(site.store, run, name, describe_file(path, file), file, "STANDARD")


def _warnings(borders: catalogue.Borders, unusable: Iterable[str], roles: Iterable[Role]) -> list[str]:
    above = [
        f"superuser {role.name} owns, or is granted, something of the context: a recovery may need a superuser; "
        "better give what it owns to the tables' owner (ALTER … OWNER TO)"
        for role in roles
        if role.superuser
    ]
    forgotten = [
        f"table {table} is looked after by no context and is not in any backup; add it to a context, or to `neighbours`"
        for table in borders.forgotten
    ]
    left_out = [f"{one} needs another context's table and is not in the backup" for one in borders.left_out]
    return [*unusable, *above, *forgotten, *left_out]


def project_version() -> str:
    """Return the installed version of this project."""
    try:
        return version("consulting-tool-backup")
    except PackageNotFoundError:
        return "not installed"
