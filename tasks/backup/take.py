"""Taking a backup set: one snapshot, everything stored, and the manifest that commits it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from prefect import get_run_logger

from tasks.backup.large_objects import add_large_objects
from tasks.backup.relations import store_relations, stream_job
from tasks.backup.schema import part_of_context, store_schema, store_script
from tasks.backup.source import Source, check_source, snapshot_facts
from tasks.core.backup.differential import Base, incompatibility, parse_block_rows
from tasks.core.backup.row_loss import archived_since, cleaned_since, losses_between
from tasks.core.calendar import parse_instant
from tasks.core.database.objects import InventoryItem
from tasks.core.errors import BadInput, MovedSnapshot
from tasks.core.postgres.connection import encoding_of
from tasks.core.rows.file_blocks import BlockRows
from tasks.core.rows.job import RowKeys
from tasks.core.run.clock import now
from tasks.core.sets.histories import find_dispute, forked, next_number
from tasks.core.sets.manifest import Manifest, Relation
from tasks.core.sets.name import Kind, new_set_name, upload_class
from tasks.database import catalog
from tasks.database.locks import context_lock
from tasks.database.rows import is_unchanged
from tasks.database.snapshot import Snapshot, take_snapshot
from tasks.run.retries import again_on, persistent
from tasks.run.run import Run
from tasks.run.site import Site
from tasks.sets.choose import departed_sets, newest_full, newest_trusted
from tasks.sets.large_objects import fetch_index
from tasks.sets.listing import Listing, list_sets
from tasks.sets.manifest import name_of, read_base
from tasks.sets.marks import hold
from tasks.sets.stage import fetch, unpack_file
from tasks.sets.upload import missing_class, publish
from tasks.store.address import StoreAddress
from tasks.store.signing_keys import SIGNING_KEY, VERIFY_KEY

SNAPSHOT_TRIES = 4


@dataclass(frozen=True)
class Occasion:
    """The reason for a set: its label, until when it is kept, and whether lost rows are accepted.

    `sort` is the kind, or the name of the long-term job. `only` limits the set to some rows of each
    relation. `made` are the objects that the restore creates for which this safety set is taken.
    """

    label: str | None = None
    keep_until: datetime | None = None
    accept_losses: bool = False
    sort: str = Kind.FULL
    only: Mapping[str, RowKeys] | None = None
    made: Sequence[InventoryItem] = ()


def occasion(site: Site, run: Run, label: str | None, keep_until: str | None, *, accept_losses: bool) -> Occasion:
    """Return why a set is taken, by the flow's parameters.

    Raises:
        BadInput: keep_until is not a valid timestamp, or is in the past.
    """
    until = parse_instant(keep_until, site.context.zone) if keep_until else None
    if until and until <= run.started:
        raise BadInput(f'keep_until "{keep_until}" is in the past; pass a later one')
    return Occasion(label or None, until, accept_losses)


def find_base(site: Site, run: Run) -> Base | None:
    """Return the newest undamaged full, if any, with its rows by block and large objects."""
    manifest = newest_full(site.store, site.context.name)
    if manifest is None:
        return None
    if manifest.block_rows is None:
        return Base(manifest, {})
    stored = manifest.block_rows
    file = fetch(site.store, name_of(manifest), stored, run.folder / stored.path)
    blocks = parse_block_rows(unpack_file(file, stored, manifest.id).read_bytes(), f"{stored.path} of {manifest.id}")
    index = {large_object.oid: large_object for large_object in fetch_index(site.store, run, manifest)}
    return Base(manifest, blocks, index)


def take_set(site: Site, run: Run, source: Source, why: Occasion, base: Base | None = None) -> Manifest:
    """Take and commit a set of the context under one snapshot, a differential if a base allows it.

    If the schema changes meanwhile, it starts over.

    Raises:
        BadInput: the set would be unsigned, and every restore with these settings would refuse it.
        MovedSnapshot: the schema changed at every attempt; no set is listed.
    """
    _require_signer(site.store)
    require_writable(site, run, Kind.DIFFERENTIAL if base else why.sort)
    is_full = why.sort == Kind.FULL and not why.accept_losses
    trusted = newest_trusted(site.store, site.context.name) if is_full else None
    with hold(site.store, run, [name_of(base.manifest)] if base else []):
        return again_on(MovedSnapshot, tries=SNAPSHOT_TRIES)(_take)(site, run, source, why, base, trusted)


def take_part(part: Site, run: Run, why: Occasion, *, read_others: bool = True) -> Manifest:
    """Take a set of some tables of a context, under the context's lock and a run id of its own.

    Raises:
        BadInput, MovedSnapshot: as check_source and take_set.
    """
    source = check_source(part, run, read_others=read_others)
    with context_lock(part.server, part.context.name, run.title):
        manifest = take_set(part, run.another(), source, why)
    for warning in missing_class(part.store, part.context.storage_classes, manifest.kind):
        get_run_logger().warning("%s: %s", manifest.id, warning)
    return manifest


@persistent
def require_writable(site: Site, run: Run, sort: str) -> None:
    """Check, before anything is dumped, that the store accepts a set of a kind.

    Raises:
        BadInput: the store refuses sets of this kind.
    """
    name = new_set_name(site.context.name, sort, run.started, site.context.zone, run.id)
    site.store.opened.require_writable(f"{name.folder}/probe", upload_class(site.context.storage_classes.of(name.kind)))


def _require_signer(store: StoreAddress) -> None:
    """Refuse to take an unsigned set that every restore with these settings would refuse."""
    if store.trust.refuses_unsigned and store.signer is None:
        raise BadInput(
            f"{VERIFY_KEY} is set and {SIGNING_KEY} is not: the set would not be signed, and every "
            f"restore would refuse it; set {SIGNING_KEY} too, or unset both"
        )


def _take(
    site: Site,
    run: Run,
    source: Source,
    why: Occasion,
    base: Base | None,
    trusted: Manifest | None,
) -> Manifest:
    # Listed before the snapshot is taken: all of these sets are older than the snapshot.
    known = list_sets(site.store, site.context.name)
    with take_snapshot(site, run, source.pg_dump, source.unreadable) as snapshot:
        unfit = base and _incompatibility(base, source, snapshot)
        fitting = None if unfit else base
        sort = Kind.DIFFERENTIAL if fitting else why.sort
        name = new_set_name(site.context.name, sort, snapshot.instant, site.context.zone, run.id)
        like = base.manifest if base else trusted
        part = part_of_context(site, run, source, snapshot)
        relations, blocks = store_relations(site, run, name, snapshot, source, fitting, why.only, like)
        manifest = store_schema(site, run, name, snapshot, source, relations, blocks, fitting, part)
        manifest = add_large_objects(site, run, name, snapshot, manifest, fitting, why.only)
        place = _place(site, run, known, snapshot, manifest, blocks)
        snapshot.require_flushed(site, run)
        snapshot.require_held()
    losses = _losses(site, trusted, relations) if trusted else []
    instead = f"{base.manifest.id} cannot be the base: {unfit}" if base and unfit else None
    fields: dict[str, Any] = {"label": why.label, "keep_until": why.keep_until, "losses": losses, "instead": instead}
    fields |= {"finished": now(), "made": list(why.made)}
    manifest = manifest.model_copy(update=fields | place)
    # The base may have expired before its protection from pruning began.
    read_base(site.store, manifest)
    # Last, because a folder with a script but no manifest counts as one that lost its manifest.
    manifest = store_script(site, run, name, manifest, source, fitting)
    publish(site.store, run, name, manifest)
    return manifest


def _place(
    site: Site,
    run: Run,
    known: Listing,
    snapshot: Snapshot,
    manifest: Manifest,
    blocks: dict[str, BlockRows],
) -> dict[str, Any]:
    """Return the number of a set in its context, and whether it conflicts with another history."""
    number = next_number(known.manifests, known.adopted)
    aside = find_dispute(known.manifests, known.adopted, manifest.snapshot, number)
    base = next((listed.usable for listed in known.sets if listed.usable and listed.name.kind is Kind.FULL), None)
    if aside is None and base and manifest.kind is Kind.FULL:
        aside = forked(_other_rows(site, run, snapshot, base, manifest, blocks), base, number)
    return {"number": number, "aside": aside}


def _other_rows(
    site: Site,
    run: Run,
    snapshot: Snapshot,
    base: Manifest,
    manifest: Manifest,
    blocks: dict[str, BlockRows],
) -> list[str]:
    """Return the relations whose rows a differential would wrongly inherit from a full backup.

    Only relations whose digest changed are queried.
    """
    if incompatibility(base, manifest.snapshot, snapshot.xmax, manifest.database.oid, manifest.inventory):
        return []
    then = {relation.qualified: relation for relation in base.relations}
    counts = Base(base, {name: BlockRows.of(0, [then[name].rows]) for name in blocks if name in then})
    encoding, differing = encoding_of(snapshot.coordinator), list[str]()
    digests = {relation.qualified: relation.digest for relation in manifest.relations}
    for member in snapshot.members.holding_rows:
        part = counts.part_of(member.oid, member.relfilenode, member.qualified, member.columns, member.layout)
        if part and part.relation.digest != digests.get(member.qualified, part.relation.digest):
            job = stream_job(site, run, member, snapshot, encoding, count_blocks=False, only=None)
            differing += [member.qualified] if is_unchanged(site.server, job, part.blocks) else []
    return differing


def _losses(site: Site, trusted: Manifest, relations: list[Relation]) -> list[str]:
    share = site.context.max_row_loss
    if not losses_between(trusted, relations, share):
        return []
    archives, cleaned = departed_sets(site.store, site.context.name)
    return losses_between(trusted, relations, share, archived_since(trusted, archives), cleaned_since(trusted, cleaned))


def _incompatibility(base: Base, source: Source, snapshot: Snapshot) -> str | None:
    if not base.blocks:
        return "it has no row counts by block"
    database = catalog.read_database(snapshot.coordinator)
    return incompatibility(base.manifest, snapshot_facts(source, snapshot), snapshot.xmax, database.oid, snapshot.inventory)
