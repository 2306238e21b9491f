"""The rows of a set: every relation is dumped and stored, for a differential only its changes."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tasks.backup.objects import store_packed
from tasks.backup.source import Source
from tasks.core.backup.differential import Base, BasePart
from tasks.core.postgres.connection import encoding_of
from tasks.core.rows.digest import RowDigest
from tasks.core.rows.file_blocks import BlockRows
from tasks.core.rows.job import RowKeys, StreamFacts, StreamJob
from tasks.core.run.progress import Item
from tasks.core.sets.manifest import Inherited, Manifest, Relation, StoredObject
from tasks.core.sets.name import Kind, SetName, upload_class
from tasks.database.catalog import Member
from tasks.database.rows import Dumped, dump_table, is_unchanged, runs_code, split
from tasks.database.snapshot import Snapshot
from tasks.run import progress
from tasks.run.run import Run, step
from tasks.run.site import Site
from tasks.run.spread import spread
from tasks.sets.upload import upload


def store_relations(
    site: Site,
    run: Run,
    name: SetName,
    snapshot: Snapshot,
    source: Source,
    base: Base | None,
    only: Mapping[str, RowKeys] | None,
    like: Manifest | None,
) -> tuple[list[Relation], dict[str, BlockRows]]:
    """Dump and store every relation with rows, the largest first, in parallel, large ones in parts.

    Returns the relations and, for a full, their rows by block. The bytes to dump are estimated from
    `like`, an earlier set.
    """
    holding = [member for member in snapshot.members.holding_rows if only is None or member.qualified in only]
    members = sorted(holding, key=lambda member: source.sizes.get(member.oid, 0), reverse=True)
    encoding, dumps = encoding_of(snapshot.coordinator), list[_Dump]()
    for member in members:
        keys, count_blocks = only[member.qualified] if only else None, name.kind is Kind.FULL
        job = stream_job(site, run, member, snapshot, encoding, count_blocks=count_blocks, only=keys)
        facts = (member.oid, member.relfilenode, member.qualified, member.columns, member.layout)
        part = base.part_of(*facts) if base else None
        jobs = [job] if part or keys else _split(site, run, member, job, source.sizes.get(member.oid, 0))
        dumps += [_Dump(member, job, source.sizes.get(member.oid, 1 << 40) // len(jobs), part) for job in jobs]
    with progress.of(run, "dumping and storing", _expected_bytes(dumps, source, like), site.context.zone, about=True) as items:
        calls = [
            (site, run, name, dump.member, dump.job, dump.size_bytes, dump.base, items[str(dump.job.file)], list[Dumped]())
            for dump in dumps
        ]
        stored = spread(run, store_relation, calls, [dump.size_bytes for dump in dumps])
    whole = [_joined([*parts]) for _, parts in groupby(stored, key=lambda part: part[0].qualified)]
    blocks = {relation.qualified: blocks for relation, blocks in whole if blocks}
    return sorted((relation for relation, _ in whole), key=lambda relation: relation.oid), blocks


@dataclass(frozen=True)
class _Dump:
    """The dump of a relation, or of some of its pages."""

    member: Member
    job: StreamJob
    size_bytes: int
    base: BasePart | None


def _expected_bytes(dumps: Sequence[_Dump], source: Source, like: Manifest | None) -> dict[str, float]:
    """Return estimated bytes of rows by staged file: from an earlier set, or the size on disk."""
    known, parts = like.plain_bytes if like else {}, Counter(dump.member.oid for dump in dumps)
    return {
        str(dump.job.file): known.get(dump.member.qualified, source.sizes.get(dump.member.oid, 0)) / parts[dump.member.oid]
        for dump in dumps
    }


def _split(site: Site, run: Run, member: Member, job: StreamJob, size_bytes: int) -> list[StreamJob]:
    """Return jobs that together dump a large relation in parallel, each into a file of its own."""
    jobs = split(site.server, job, size_bytes)
    if len(jobs) == 1:
        return jobs
    files = [_staged_file(site, run, member, number) for number in range(1, 1 + len(jobs))]
    return [replace(job, file=str(file)) for job, file in zip(jobs, files, strict=True)]


def _joined(parts: Sequence[tuple[Relation, BlockRows | None]]) -> tuple[Relation, BlockRows | None]:
    """Return the relation of which these are the parts, in order."""
    if len(parts) == 1:
        return parts[0]
    relations, counts = zip(*parts, strict=True)
    digest = RowDigest()
    for relation in relations:
        digest.include(RowDigest(relation.rows, int(relation.digest, 16), relation.plain_bytes))
    whole: dict[str, Any] = {
        "rows": digest.rows,
        "digest": digest.hex,
        "plain_bytes": digest.plain_bytes,
        "seconds": round(sum(relation.seconds for relation in relations), 3),
        "parts": [part for relation in relations for part in relation.parts],
    }
    return relations[0].model_copy(update=whole), BlockRows.joined(counts) if all(counts) else None


def stream_job(
    site: Site,
    run: Run,
    member: Member,
    snapshot: Snapshot,
    encoding: str,
    *,
    count_blocks: bool,
    only: RowKeys | None,
) -> StreamJob:
    """Return the job that streams one relation: its rows, and the staged file for them."""
    file, place = str(_staged_file(site, run, member)), (member.schema, member.name, list(member.columns))
    return StreamJob(site.database, run.title, *place, encoding, snapshot.name, file, count_blocks, only=only)


def _staged_file(site: Site, run: Run, member: Member, part: int | None = None) -> Path:
    # No name of a relation has this mark: it would be written as %21.
    return run.folder / f"{_file_name(site, member)}{f'!{part:04}' if part else ''}.copy.zst"


@step(name="back up {job.title}", repeatable=True)
def store_relation(
    site: Site,
    run: Run,
    name: SetName,
    member: Member,
    job: StreamJob,
    size_bytes: int,
    base: BasePart | None,
    item: Item,
    earlier: list[Dumped],
) -> tuple[Relation, BlockRows | None]:
    """Dump and store a relation or some pages; needs only the database, the store and staging.

    For a relation in the base only changed blocks are stored. The dump of an `earlier` attempt is
    used again.
    """
    place, file = f"data/{_file_name(site, member)}", Path(str(job.file))
    if base and runs_code(site.server, job):
        # The query for changed rows would run the owner's code as a login that may read more.
        base = None
    if base and not earlier:
        started = time.monotonic()
        if is_unchanged(site.server, job, base.blocks):
            item.known(base.relation.plain_bytes)
            item.at(base.relation.plain_bytes)
            return _unchanged(member, base.relation, time.monotonic() - started), None
        job = replace(job, base=base.blocks)
    dumped = earlier[0] if earlier else _dump(site, run, job, file, size_bytes, item)
    earlier[:] = [dumped]
    facts, parts = dumped.facts, list[StoredObject]()
    item.known(facts.plain_bytes)
    inherited = _inherited(site, run, name, place, facts) if base else None
    if inherited is None or facts.taken:
        part = StoredObject(path=f"data/{file.name}", bytes=facts.bytes, sha256=facts.sha256)
        sent = partial(item.sent, 2 * facts.bytes)
        in_class = upload_class(site.context.storage_classes.of(name.kind))
        parts.append(upload(site.store, run, name, part, file, in_class, sent))
    item.at(facts.plain_bytes)
    return _relation(member, dumped, parts, inherited), facts.blocks


def _dump(site: Site, run: Run, job: StreamJob, file: Path, size_bytes: int, item: Item) -> Dumped:
    """Dump one relation; replace the staged file of a failed attempt."""
    file.unlink(missing_ok=True)
    # Rows are chosen by a query, which may run code of the tables' owner.
    server = site.owners_login if job.only else site.server
    return dump_table(server, run, job, size_bytes, item.read)


def _unchanged(member: Member, known: Relation, seconds: float) -> Relation:
    """Return a relation whose rows are those of the base."""
    same: dict[str, Any] = {
        "parent": member.parent,
        "seconds": round(seconds, 3),
        "parts": [],
        "inherited": Inherited(rows=known.rows),
    }
    return known.model_copy(update=same)


def _inherited(site: Site, run: Run, name: SetName, place: str, facts: StreamFacts) -> Inherited | None:
    """Store which of the base's lines are no longer rows; return None if nothing is inherited."""
    rows = facts.rows - facts.taken
    if not rows:
        return None
    path, text = f"{place}.left-out.zst", facts.left_out.encode()
    return Inherited(rows=rows, left_out=store_packed(site, run, name, path, text) if facts.left_out else None)


def _file_name(site: Site, member: Member) -> str:
    names = [member.name] if member.schema == site.context.namespace else [member.schema, member.name]
    return ".".join(quote(name, safe="").replace(".", "%2E") for name in names)


def _relation(member: Member, dumped: Dumped, parts: list[StoredObject], inherited: Inherited | None) -> Relation:
    facts = dumped.facts
    return Relation(
        schema=member.schema,
        name=member.name,
        parent=member.parent,
        oid=member.oid,
        relfilenode=member.relfilenode,
        columns=list(member.columns),
        types=list(member.types),
        layout=member.layout,
        rows=facts.rows,
        digest=facts.digest,
        plain_bytes=facts.plain_bytes,
        seconds=round(dumped.seconds, 3),
        parts=parts,
        inherited=inherited,
    )
