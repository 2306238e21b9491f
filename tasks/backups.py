"""Taking a backup set: from the checks before anything is touched to the manifest that commits it."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import zstandard
from prefect import get_run_logger
from psycopg.rows import dict_row

from tasks import catalogue, progress
from tasks.catalogue import Member, Members
from tasks.core import sql
from tasks.core.bases import Base, BasePart, misfit, parse_block_rows, render_block_rows
from tasks.core.blocks import BlockRows
from tasks.core.calendar import parse_instant
from tasks.core.completeness import describe_lack
from tasks.core.errors import BadInput, MovedSnapshot, OperationError, StoreUnavailable
from tasks.core.histories import find_dispute, forked, next_number
from tasks.core.kinds import RULES, Kind, SetName, new_set_name, now, sort_of
from tasks.core.losses import archived_since, cleaned_since, losses_between
from tasks.core.manifest import (
    BLOCK_ROWS,
    MANIFEST_FILE,
    RESTORE_SCRIPT,
    SCHEMA_ARCHIVE,
    SCHEMA_LIST,
    Incarnation,
    Inherited,
    Manifest,
    Relation,
    Role,
    Scope,
    StoredObject,
    Versions,
    parse_manifest,
)
from tasks.core.manifest import Snapshot as SnapshotFacts
from tasks.core.programs import Program, find_program
from tasks.core.progress import Item
from tasks.core.recovery_point import CLOCK_TOLERANCE
from tasks.core.servers import Connection, connect, encoding_of
from tasks.core.session_room import require_sessions
from tasks.core.stored import describe_file, restore_script
from tasks.core.stream import RowKeys, StreamFacts, StreamJob
from tasks.core.toc import Origin
from tasks.databases import database_options
from tasks.runs import Run, jobs, require_space, spread, staging, step, warn_of_unsafe
from tasks.schema import LOCK_WAIT_SECONDS, Wanted, context_list
from tasks.sets import (
    Listing,
    cool,
    departed_sets,
    fetch,
    hold,
    list_sets,
    name_of,
    newest_full,
    newest_trusted,
    publish,
    read_base,
    require_owner,
    require_store,
    unpack_file,
    upload,
)  # fmt: skip
from tasks.signing_keys import SIGNING_KEY, VERIFY_KEY
from tasks.sites import Site
from tasks.snapshots import Snapshot, patient, take_snapshot
from tasks.store import StoreAddress
from tasks.tables import Dumped, dump_table, is_unchanged, runs_code

SNAPSHOT_TRIES = 4


@dataclass(frozen=True)
class Source:
    """What was found out about the source before the backup began."""

    system_identifier: str
    server: str
    major: int
    pg_dump: Program
    pg_restore: Program
    sizes: dict[int, int]
    unreadable: tuple[tuple[str, str], ...] = ()


@step
def check_source(site: Site, run: Run, *, read_others: bool = True) -> Source:
    """Find out, before anything is touched, whether the whole context can be read and stored.

    Without `read_others`, tables of other contexts that the login may not read are left out of the schema's dump.

    Raises:
        BadInput: the database, a table, a privilege, a program, the store or disk space is missing; all that is
            known to be wrong with privileges is named at once.
        MovedSnapshot: a relation is locked for long.
    """
    require_store(site.store, site.context.name)
    with patient(), connect(site.server, site.database, run.title) as connection:
        connection.execute(sql.set_lock_timeout(LOCK_WAIT_SECONDS))
        # One a relation, besides this one.
        require_sessions(connection, jobs(), in_database=True)
        members = catalogue.read_members(connection, site.context)
        unreadable = _require_readable(connection, members, read_others=read_others)
        system_identifier, _, server, number, _ = _server_facts(connection)
        sizes = dict(connection.execute(sql.RELATION_BYTES, {"oids": members.oids}).fetchall())
    pg_dump = find_program("pg_dump", number // 10000)
    pg_restore = find_program("pg_restore", pg_dump.major)
    warn_of_unsafe(run, pg_dump, pg_restore)
    # Two relations at a time are staged, seldom at more than half their size.
    require_space(run, sum(sorted(sizes.values())[-2:]) // 2 + (16 << 20))
    # The last check, because the first backup of all leaves its mark in the store.
    require_owner(site.store, site.context.name, system_identifier)
    return Source(system_identifier, server, number // 10000, pg_dump, pg_restore, sizes, tuple(unreadable))


def _server_facts(connection: Connection) -> tuple[str, int, str, int, bool]:
    try:
        facts: tuple[str, int, str, int, bool] = connection.execute(sql.SERVER_FACTS).fetchall()[0]
    except psycopg.errors.InsufficientPrivilege as error:
        raise BadInput(
            f"the cluster cannot be identified: {error}; run in that database: GRANT EXECUTE ON FUNCTION pg_control_system(), "
            f'pg_control_checkpoint() TO "{connection.info.user}"'
        ) from error
    return facts


def _require_readable(connection: Connection, members: Members, *, read_others: bool) -> list[tuple[str, str]]:
    """Make sure that the login may read what has to be read; return the tables of others that it may not."""
    own, oids = set(members.chosen_by_class["pg_class"]), {"oids": members.oids}
    login = connection.execute(sql.CURRENT_USER).fetchall()[0][0]
    found = connection.execute(sql.UNREADABLE, {"sequences": members.chosen_by_class["pg_class"]}).fetchall()
    spared = [] if read_others else [(schema, name) for *_, oid, schema, name in found if oid not in own]
    if unreadable := [row[:4] for row in found if read_others or row[4] in own]:
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
    return spared


@dataclass(frozen=True)
class Occasion:
    """Why a set is taken: what it is called, until when it must be kept, and whether rows that are gone are meant to be.

    `sort` is the kind, or the name of the long-term job; `only` has the rows to take of each relation, where that is not all.
    """

    label: str | None = None
    keep_until: datetime | None = None
    accept_losses: bool = False
    sort: str = Kind.FULL
    only: Mapping[str, RowKeys] | None = None


def occasion(site: Site, run: Run, label: str | None, keep_until: str | None, *, accept_losses: bool) -> Occasion:
    """Return why a set is taken, as an operator said it.

    Raises:
        BadInput: keep_until is no instant, or is past.
    """
    until = parse_instant(keep_until, site.context.zone) if keep_until else None
    if until and until <= run.started:
        raise BadInput(f'keep_until "{keep_until}" is past; name an instant to come')
    return Occasion(label or None, until, accept_losses)


def long_term_site(site: Site, job: str) -> Site:
    """Return the site of the tables of a long-term job.

    Raises:
        BadInput: the context has no such job.
    """
    known = site.context.long_term
    if job not in known:
        raise BadInput(f'context {site.context.name} has no long-term job "{job}"; it has: {", ".join(known) or "none"}')
    return site.narrowed(Scope(schema=site.context.namespace, tables=known[job].tables))


def long_term_since(site: Site, job: str, since: datetime) -> Manifest | None:
    """Return the newest set of a long-term job that was taken since an instant, not in the future, and looks whole."""
    latest = now() + CLOCK_TOLERANCE
    listed = (one.manifest for one in list_sets(site.store, site.context.name).sets if one.manifest and not one.damage)
    return next((one for one in listed if sort_of(one.id) == job and since <= one.snapshot.instant <= latest), None)


def cool_long_term(site: Site, job: str) -> None:
    """Give every set of a long-term job its cold class: the newest, and any whose run died before it did."""
    for one in list_sets(site.store, site.context.name).sets:
        is_done = one.storage_class == RULES[Kind.LONG_TERM].storage_class
        if one.manifest and sort_of(one.name.id) == job and not one.damage and not is_done:
            cool(site.store, one.name, one.manifest)


def find_base(site: Site, run: Run) -> Base | None:
    """Return the newest full that looks whole, with the rows by block that it recorded; None if there is no full at all."""
    manifest = newest_full(site.store, site.context.name)
    if manifest is None:
        return None
    if manifest.block_rows is None:
        return Base(manifest, {})
    stored = manifest.block_rows
    file = fetch(site.store, name_of(manifest), stored, run.folder / stored.path)
    return Base(manifest, parse_block_rows(unpack_file(file, stored, manifest.id).read_bytes(), f"{stored.path} of {manifest.id}"))


def take_set(site: Site, run: Run, source: Source, why: Occasion, base: Base | None = None) -> Manifest:
    """Take a set of the context under one snapshot, a differential if there is a base that fits, and commit it.

    It starts over when the schema moved meanwhile.

    Raises:
        BadInput: it would be refused where it is to be read.
        MovedSnapshot: it moved at every try; nothing is listed.
    """
    _require_signer(site.store)
    is_full = why.sort == Kind.FULL and not why.accept_losses
    trusted = newest_trusted(site.store, site.context.name) if is_full else None
    with hold(site.store, run, [name_of(base.manifest)] if base else []):
        return _try_to_take(site, run, source, why, base, trusted)


def _require_signer(store: StoreAddress) -> None:
    """Refuse to take a set that every restore with these settings would refuse."""
    if store.trust.refuses_unsigned and store.signer is None:
        raise BadInput(
            f"{VERIFY_KEY} is set and {SIGNING_KEY} is not: the set would not be signed, and be refused by every restore; "
            f"set {SIGNING_KEY}, or neither"
        )


def _try_to_take(
    site: Site, run: Run, source: Source, why: Occasion, base: Base | None, trusted: Manifest | None
) -> Manifest:  # fmt: skip
    for attempt in range(1, SNAPSHOT_TRIES + 1):
        try:
            # Listed before the snapshot is taken: what is there now is older than it.
            known = list_sets(site.store, site.context.name)
            with take_snapshot(site, run, source.pg_dump, source.unreadable) as snapshot:
                unfit = base and _misfit(base, source, snapshot)
                fitting = None if unfit else base
                sort = Kind.DIFFERENTIAL if fitting else why.sort
                name = new_set_name(site.context.name, sort, snapshot.instant, site.context.zone, run.id)
                like = base.manifest if base else trusted
                listing = _context_list(site, run, source, snapshot)
                relations, blocks = store_relations(site, run, name, snapshot, source, fitting, why.only, like)
                manifest = store_schema(site, run, name, snapshot, source, relations, blocks, fitting, listing)
                place = _place(site, run, known, snapshot, manifest, blocks)
                snapshot.require_flushed(site, run)
                snapshot.require_held()
            losses = _losses(site, trusted, relations) if trusted else []
            instead = f"{base.manifest.id} is no base: {unfit}" if base and unfit else None
            said = {"label": why.label, "keep_until": why.keep_until, "losses": losses, "instead": instead, "finished": now()}
            manifest = manifest.model_copy(update=said | place)
            # It may have expired before it was held.
            read_base(site.store, manifest)
            # Last of all, because of a folder that has it everybody believes that its manifest was lost, not never written.
            manifest = store_script(site, run, name, manifest, source, fitting)
            publish(site.store, run, name, manifest)
            return manifest
        except MovedSnapshot as error:
            if attempt == SNAPSHOT_TRIES:
                raise
            get_run_logger().warning("attempt %d: %s; starting over", attempt, error)
    raise AssertionError  # the last try returns or raises


def _place(
    site: Site, run: Run, known: Listing, snapshot: Snapshot, manifest: Manifest, blocks: dict[str, BlockRows]
) -> dict[str, Any]:  # fmt: skip
    """Return the number of a set among the context's, and which sets are found to be of another history."""
    number = next_number(known.manifests, known.adopted)
    aside = find_dispute(known.manifests, known.adopted, manifest.snapshot, number)
    base = next((one.usable for one in known.sets if one.usable and one.name.kind is Kind.FULL), None)
    if aside is None and base and manifest.kind is Kind.FULL:
        aside = forked(_other_rows(site, run, snapshot, base, manifest, blocks), base, number)
    return {"number": number, "aside": aside}


def _other_rows(
    site: Site, run: Run, snapshot: Snapshot, base: Manifest, manifest: Manifest, blocks: dict[str, BlockRows]
) -> list[str]:  # fmt: skip
    """Return the relations of which a differential would inherit a full's rows, although they have others now.

    Every row was read anyhow; only those relations are counted that have another digest.
    """
    if misfit(base, manifest.snapshot, snapshot.xmax, manifest.database.oid, manifest.inventory):
        return []
    then = {one.qualified: one for one in base.relations}
    counts = Base(base, {name: BlockRows.of(0, [then[name].rows]) for name in blocks if name in then})
    encoding, found = encoding_of(snapshot.coordinator), list[str]()
    digests = {one.qualified: one.digest for one in manifest.relations}
    for member in snapshot.members.holding_rows:
        part = counts.part_of(member.oid, member.relfilenode, member.qualified, member.columns, member.layout)
        if part and part.relation.digest != digests.get(member.qualified, part.relation.digest):
            job = _job(site, run, member, snapshot, encoding, count_blocks=False, only=None)
            found += [member.qualified] if is_unchanged(site.server, job, part.blocks) else []
    return found


def _losses(site: Site, trusted: Manifest, relations: list[Relation]) -> list[str]:
    share = site.context.max_row_loss
    if not losses_between(trusted, relations, share):
        return []
    archives, cleaned = departed_sets(site.store, site.context.name)
    return losses_between(trusted, relations, share, archived_since(trusted, archives), cleaned_since(trusted, cleaned))


@step
def keep_local_copy(site: Site, run: Run, manifest: Manifest) -> str | None:
    """Copy a stored set from the store into the context's local folder, if it has one; return what became of it.

    The set is safe where it is: a copy that cannot be kept is told, and fails nothing.
    """
    local = site.context.local_copy
    if local is None:
        return None
    if manifest.aside and manifest.aside.holds(manifest.number or 0):
        return "none: the set is set aside"
    copy = site.store.copy_in(local.folder)
    try:
        # A differential is nothing without its full.
        for one in filter(None, (read_base(site.store, manifest), manifest)):
            _copy_set(site.store, run, one, copy)
    except OperationError as error:
        get_run_logger().error("no local copy: %s", error)
        return f"none: {error}"
    return copy.path(name_of(manifest).folder)


def _copy_set(store: StoreAddress, run: Run, manifest: Manifest, copy: StoreAddress) -> None:
    name = name_of(manifest)
    if copy.opened.head(f"{name.folder}/{MANIFEST_FILE}"):
        return
    for stored in manifest.objects:
        file = fetch(store, name, stored, run.folder / f"copy-{stored.path.replace('/', '-')}")
        copy.opened.put(f"{name.folder}/{stored.path}", file, "folder", {})
        file.unlink()
    data, where = store.opened.read(f"{name.folder}/{MANIFEST_FILE}"), store.path(name.folder)
    if parse_manifest(data, where, store.trust) != manifest:
        raise StoreUnavailable(f"{where}: its manifest became another while the set was copied; try again")
    copy.opened.create(f"{name.folder}/{MANIFEST_FILE}", data, "folder", {})


def _misfit(base: Base, source: Source, snapshot: Snapshot) -> str | None:
    if not base.blocks:
        return "it did not count rows by block"
    database = catalogue.read_database(snapshot.coordinator)
    return misfit(base.manifest, _snapshot_facts(source, snapshot), snapshot.xmax, database.oid, snapshot.inventory)


def store_relations(
    site: Site, run: Run, name: SetName, snapshot: Snapshot, source: Source, base: Base | None, only: Mapping[str, RowKeys] | None,
    like: Manifest | None,
) -> tuple[list[Relation], dict[str, BlockRows]]:  # fmt: skip
    """Dump and store every relation that holds rows, the largest first, several at a time; of a full return rows by block.

    How much there is to do is guessed from an earlier set that this one will be `like`.
    """
    holding = [one for one in snapshot.members.holding_rows if only is None or one.qualified in only]
    members = sorted(holding, key=lambda one: source.sizes.get(one.oid, 0), reverse=True)
    encoding = encoding_of(snapshot.coordinator)
    sizes = [source.sizes.get(member.oid, 1 << 40) for member in members]
    with progress.of(run, "dumping and storing", _expected_bytes(members, source, like), site.context.zone, about=True) as items:
        calls = [
            (
                site, run, name, member,
                _job(
                    site, run, member, snapshot, encoding, count_blocks=name.kind is Kind.FULL,
                    only=only[member.qualified] if only else None,
                ),
                size,
                base and base.part_of(member.oid, member.relfilenode, member.qualified, member.columns, member.layout),
                items[member.qualified],
            )
            for member, size in zip(members, sizes, strict=True)
        ]  # fmt: skip
        stored = spread(run, store_relation, calls, sizes)
    blocks = {relation.qualified: blocks for relation, blocks in stored if blocks}
    return sorted((relation for relation, _ in stored), key=lambda relation: relation.oid), blocks


def _expected_bytes(members: Iterable[Member], source: Source, like: Manifest | None) -> dict[str, int]:
    """Return how many bytes of rows each relation may have: what an earlier set had of it, or else its size on disk."""
    known = like.plain_bytes if like else {}
    return {one.qualified: known.get(one.qualified, source.sizes.get(one.oid, 0)) for one in members}


def _job(
    site: Site, run: Run, member: Member, snapshot: Snapshot, encoding: str, *, count_blocks: bool, only: RowKeys | None
) -> StreamJob:  # fmt: skip
    file, place = str(_staged_file(site, run, member)), (member.schema, member.name, list(member.columns))
    return StreamJob(site.database, run.title, *place, encoding, snapshot.name, file, count_blocks, only=only)


def _staged_file(site: Site, run: Run, member: Member) -> Path:
    return run.folder / f"{_file_name(site, member)}.copy.zst"


@step(name="back up {member.name}")
def store_relation(
    site: Site, run: Run, name: SetName, member: Member, job: StreamJob, size_bytes: int, base: BasePart | None, item: Item
) -> tuple[Relation, BlockRows | None]:
    """Dump one relation and store it; nothing but database, store and this machine's staging folder is needed.

    Of a relation that is in the base only the blocks that changed are stored, or nothing if none did.
    """
    place, file = f"data/{_file_name(site, member)}", _staged_file(site, run, member)
    file.unlink(missing_ok=True)
    if base and runs_code(site.server, job):
        # What changed cannot be asked by a login that reads more than the owner may: it is stored whole.
        base = None
    if base:
        started = time.monotonic()
        if is_unchanged(site.server, job, base.blocks):
            item.known(base.relation.plain_bytes)
            item.at(base.relation.plain_bytes)
            return _unchanged(member, base.relation, time.monotonic() - started), None
        job = replace(job, base=base.blocks)
    # Rows are chosen by a query, which may run code of the tables' owner.
    server = site.owners_login if job.only else site.server
    dumped = dump_table(server, run, job, size_bytes, item.read)
    facts, parts = dumped.facts, list[StoredObject]()
    item.known(facts.plain_bytes)
    inherited = _inherited(site, run, name, place, facts) if base else None
    if inherited is None or facts.taken:
        part = StoredObject(path=f"{place}.copy.zst", bytes=facts.bytes, sha256=facts.sha256)
        sent = partial(item.sent, 2 * facts.bytes)
        parts.append(upload(site.store, run, name, part, file, RULES[name.kind].upload_class, sent))
    item.at(facts.plain_bytes)
    return _relation(member, dumped, parts, inherited), facts.blocks


def _unchanged(member: Member, known: Relation, seconds: float) -> Relation:
    """Return a relation that has the rows that the base has."""
    same: dict[str, Any] = {
        "parent": member.parent,
        "seconds": round(seconds, 3),
        "parts": [],
        "inherited": Inherited(rows=known.rows),
    }
    return known.model_copy(update=same)


def _inherited(site: Site, run: Run, name: SetName, place: str, facts: StreamFacts) -> Inherited | None:
    """Store which lines of the base are not among the relation's rows; None if none are left."""
    rows = facts.rows - facts.taken
    if not rows:
        return None
    path, text = f"{place}.left-out.zst", facts.left_out.encode()
    return Inherited(rows=rows, left_out=_store_packed(site, run, name, path, text) if facts.left_out else None)


def _file_name(site: Site, member: Member) -> str:
    names = [member.name] if member.schema == site.context.namespace else [member.schema, member.name]
    return ".".join(quote(name, safe="").replace(".", "%2E") for name in names)


def _relation(member: Member, dumped: Dumped, parts: list[StoredObject], inherited: Inherited | None) -> Relation:
    facts = dumped.facts
    return Relation(
        schema=member.schema, name=member.name, parent=member.parent, oid=member.oid, relfilenode=member.relfilenode,
        columns=list(member.columns), types=list(member.types), layout=member.layout,
        rows=facts.rows, digest=facts.digest,
        plain_bytes=facts.plain_bytes, seconds=round(dumped.seconds, 3), parts=parts, inherited=inherited,
    )  # fmt: skip


def store_schema(
    site: Site, run: Run, name: SetName, snapshot: Snapshot, source: Source, relations: list[Relation],
    blocks: dict[str, BlockRows], base: Base | None, listing: str,
) -> Manifest:  # fmt: skip
    """Store schema, list and context folder, and return the manifest that will commit the set.

    Raises:
        OperationError: the list does not restore everything that the manifest names.
    """
    connection, members = snapshot.coordinator, snapshot.members
    borders = catalogue.read_borders(connection, members, site.context, site.claimed_tables)
    roles = catalogue.read_roles(connection, members)
    archive = _store_packed(site, run, name, SCHEMA_ARCHIVE, snapshot.archive.read_bytes())
    schema_list = _store_text(site, run, name, SCHEMA_LIST, listing.encode())
    files = [_store_text(site, run, name, f"context/{file}", text.encode()) for file, text in site.files.items()]
    manifest = Manifest(
        context=name.context, kind=name.kind, id=name.id, run=run.id, finished=now(), time_zone=site.context.time_zone,
        only=site.context.scope, base=base.manifest.id if base else None, snapshot=_snapshot_facts(source, snapshot),
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
        warnings=[
            *_warnings(borders, catalogue.read_unusable(connection, members), roles),
            *catalogue.read_lasting_transactions(connection),
        ],
    )  # fmt: skip
    _require_complete(manifest, listing)
    if blocks:
        manifest = manifest.model_copy(update={"block_rows": _store_packed(site, run, name, BLOCK_ROWS, render_block_rows(blocks))})
    return manifest


def store_script(site: Site, run: Run, name: SetName, manifest: Manifest, source: Source, base: Base | None) -> Manifest:
    """Store the script that restores a set without this project; return the manifest that names it."""
    script = restore_script(manifest, database_options(manifest.database, source.major), base.manifest if base else None)
    return manifest.model_copy(update={"restore_script": _store_text(site, run, name, RESTORE_SCRIPT, script.encode())})


def _snapshot_facts(source: Source, snapshot: Snapshot) -> SnapshotFacts:
    """Return when and where a snapshot was taken, as the session says that took it: another server may answer by now.

    Raises:
        OperationError: another cluster does.
    """
    found = _placed(snapshot.coordinator, snapshot.instant, snapshot.xmin, snapshot.lsn)
    if found.system_identifier != source.system_identifier:
        raise OperationError(
            f"another cluster answers now (system identifier {found.system_identifier}, before it was {source.system_identifier}); "
            "find out why its address moved, and run again"
        )
    return found


def position(connection: Connection) -> tuple[SnapshotFacts, int, int]:
    """Return when and where a session is now, the next transaction's id, and the oid of its database."""
    facts = connection.cursor(row_factory=dict_row).execute(sql.SNAPSHOT_FACTS).fetchall()[0]
    here = _placed(connection, facts["instant"], int(facts["xmin"]), facts["lsn"])
    return here, int(facts["xmax"]), catalogue.read_database(connection).oid


def _placed(connection: Connection, instant: datetime, xmin: int, lsn: str) -> SnapshotFacts:
    system_identifier, timeline, _, _, standby = _server_facts(connection)
    started, address = connection.execute(sql.INCARNATION).fetchall()[0]
    return SnapshotFacts(
        instant=instant, xmin=xmin, lsn=lsn, timeline=timeline, system_identifier=system_identifier, standby=standby,
        incarnation=Incarnation(started=started, address=address),
    )  # fmt: skip


def _context_list(site: Site, run: Run, source: Source, snapshot: Snapshot) -> str:
    members = snapshot.members
    schemas = frozenset(relation.schema for relation in members.relations)
    wanted = Wanted(Origin(site.database, source.server), schemas, members.choice.objects)
    return context_list(run, source.pg_restore, snapshot.archive, wanted)


def _require_complete(manifest: Manifest, listing: str) -> None:
    if lack := describe_lack(manifest, listing):
        raise OperationError(
            f"{manifest.id} is not published, because nobody could recover from it: its {lack}; the schema may have moved "
            "while it was being dumped: run again, and if that does not help, see what `pg_dump --schema-only` says of them"
        )


def _store_text(site: Site, run: Run, name: SetName, path: str, data: bytes) -> StoredObject:
    file = run.folder / path.replace("/", "-")
    file.unlink(missing_ok=True)
    with staging(file):
        file.touch(mode=0o600)
        file.write_bytes(data)
    return upload(site.store, run, name, describe_file(path, file), file, "STANDARD")


def _store_packed(site: Site, run: Run, name: SetName, path: str, text: bytes) -> StoredObject:
    """Store a text packed; how long it is, the manifest says, so that nobody unpacks more."""
    return _store_text(site, run, name, path, zstandard.compress(text)).model_copy(update={"plain_bytes": len(text)})


def _warnings(borders: catalogue.Borders, unusable: Iterable[str], roles: Iterable[Role]) -> list[str]:
    above = [
        f"superuser {role.name} owns, or is granted, something of the context: a recovery refuses what it owns unless it is told "
        "otherwise (BACKUP_LOAD_AS_SUPERUSER); better give that to the tables' owner (ALTER … OWNER TO)"
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
