"""The large objects of a set: only those that its rows refer to, read under the same snapshot."""

import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prefect import get_run_logger

from tasks.backup.objects import store_packed
from tasks.backup.relations import stream_job
from tasks.core import sql
from tasks.core.backup.differential import Base
from tasks.core.database.objects import LeftOut, Role
from tasks.core.postgres.connection import Connection, Server, encoding_of
from tasks.core.rows.compressed_file import CompressedFile
from tasks.core.rows.digest import RowDigest
from tasks.core.rows.job import RowKeys
from tasks.core.rows.stream import seeing
from tasks.core.sets.large_objects import INDEX, PAGES, LargeObject, LargeObjects, digest_pages, named, render_index, total_of
from tasks.core.sets.manifest import Manifest, StoredObject
from tasks.core.sets.name import SetName, upload_class
from tasks.database import catalog, large_objects
from tasks.database.catalog import Member
from tasks.database.large_objects import References
from tasks.database.snapshot import Snapshot
from tasks.run.run import Run, staging, step
from tasks.run.site import Site
from tasks.sets.upload import upload


@dataclass(frozen=True)
class _Taken:
    """The large objects of a set, and those left out of it."""

    columns: Mapping[str, list[str]]
    objects: Sequence[LargeObject] = ()
    pages: StoredObject | None = None
    left_out: Sequence[LeftOut] = ()


def add_large_objects(
    site: Site,
    run: Run,
    name: SetName,
    snapshot: Snapshot,
    manifest: Manifest,
    base: Base | None,
    only: Mapping[str, RowKeys] | None,
) -> Manifest:
    """Store the large objects that rows of the set refer to; return its manifest with them.

    Without columns that refer to large objects the manifest is returned unchanged.

    Raises:
        MovedSnapshot, OperationError: the large objects cannot be read.
    """
    members = [member for member in snapshot.members.holding_rows if only is None or member.qualified in only]
    references = large_objects.reference_columns(snapshot.coordinator, members)
    if not references.columns and not references.parts:
        return manifest
    return store_large_objects(site, run, name, snapshot, manifest, base, only, members, references)


@step(repeatable=True)
def store_large_objects(
    site: Site,
    run: Run,
    name: SetName,
    snapshot: Snapshot,
    manifest: Manifest,
    base: Base | None,
    only: Mapping[str, RowKeys] | None,
    members: Sequence[Member],
    references: References,
) -> Manifest:
    """Store the large objects that these relations' rows refer to; return the manifest with them.

    Raises:
        MovedSnapshot, OperationError: the large objects cannot be read.
    """
    started = time.monotonic()
    with large_objects.explained():
        referring = [member for member in members if member.qualified in references.columns]
        oids = _referred_to(site, run, snapshot, referring, references, only)
        with seeing(site.server, site.database, run.title, snapshot.name, []) as connection:
            taken = _take(connection, site, run, name, oids, references, base)
            roles = _with_roles(connection, manifest.roles, taken.objects)
    index = store_packed(site, run, name, INDEX, render_index(taken.objects)) if taken.objects else None
    summary = LargeObjects(
        columns=dict(taken.columns),
        objects=len(taken.objects),
        inherited=sum(large_object.inherited for large_object in taken.objects),
        plain_bytes=sum(large_object.plain_bytes for large_object in taken.objects),
        digest=total_of(taken.objects),
        seconds=round(time.monotonic() - started, 3),
    )
    get_run_logger().info("%d large objects, %d of them unchanged since the base", summary.objects, summary.inherited)
    more = {"large_objects": summary, "large_object_index": index, "large_object_pages": taken.pages}
    return manifest.model_copy(update=more | {"by_hand": [*manifest.by_hand, *taken.left_out], "roles": roles})


def _referred_to(
    site: Site,
    run: Run,
    snapshot: Snapshot,
    members: Sequence[Member],
    references: References,
    only: Mapping[str, RowKeys] | None,
) -> set[int]:
    """Return the oids that rows of the set have in columns that refer to large objects."""
    encoding, oids = encoding_of(snapshot.coordinator), set[int]()
    if not members:
        return oids
    # Rows are chosen by a query, which may run code of the tables' owner.
    server: Server = site.owners_login if only is not None else site.server
    places = [(member.schema, member.name) for member in members]
    with seeing(server, site.database, run.title, snapshot.name, places) as connection:
        for member in members:
            keys = only[member.qualified] if only is not None else None
            job = stream_job(site, run, member, snapshot, encoding, count_blocks=False, only=keys)
            oids |= large_objects.read_references(connection, job, references.columns[member.qualified])
    return oids


def _take(
    connection: Connection,
    site: Site,
    run: Run,
    name: SetName,
    oids: Collection[int],
    references: References,
    base: Base | None,
) -> _Taken:
    """Store the large objects that exist: references to others are broken in the source."""
    facts = [*large_objects.read_facts(connection, oids)]
    left_out = _parts_of_values(connection, references.parts)
    if not facts:
        return _Taken(references.columns, left_out=left_out)
    existing = [int(row["oid"]) for row in facts]
    if not large_objects.may_read(connection):
        return _Taken(references.columns, left_out=[*left_out, _unreadable(connection, existing)])
    known = base.large_objects if base else {}
    same = large_objects.unchanged_since(connection, existing, known, base.manifest.snapshot.xmin) if base else set[int]()
    pages, stored = _store_pages(connection, site, run, name, [oid for oid in existing if oid not in same])
    objects = [
        _as_in(known[row["oid"]], row) if row["oid"] in same else large_objects.described(row, pages.get(row["oid"], RowDigest()))
        for row in facts
    ]
    return _Taken(references.columns, objects, stored, left_out)


def _as_in(then: LargeObject, facts: Mapping[str, Any]) -> LargeObject:
    """Return a large object whose pages are taken from the base."""
    return LargeObject(**facts, pages=then.pages, plain_bytes=then.plain_bytes, digest=then.digest, inherited=True)


def _store_pages(
    connection: Connection,
    site: Site,
    run: Run,
    name: SetName,
    oids: Sequence[int],
) -> tuple[dict[int, RowDigest], StoredObject | None]:
    """Stream the objects' pages into a private file, and store it; return the digests by oid."""
    staged = run.folder / PAGES.replace("/", "-")
    staged.unlink(missing_ok=True)
    with staging(staged), CompressedFile(str(staged)) as file:

        def written() -> Iterator[list[bytes]]:
            for lines in large_objects.read_pages(connection, oids):
                file.write(b"".join(lines))
                yield lines

        pages = digest_pages(written())
        sha256 = file.finish()
    if not pages:
        staged.unlink()
        return pages, None
    plain = sum(digest.plain_bytes for digest in pages.values())
    part = StoredObject(path=PAGES, bytes=file.bytes, sha256=sha256, plain_bytes=plain)
    return pages, upload(site.store, run, name, part, staged, upload_class(site.context.storage_classes.of(name.kind)))


def _with_roles(connection: Connection, roles: Iterable[Role], objects: Iterable[LargeObject]) -> list[Role]:
    """Return the roles of a set with the owners and grantees of its large objects."""
    known, names = {role.name: role for role in roles}, set[str]()
    for large_object in objects:
        names |= {large_object.owner, *(grant.role for grant in large_object.grants or [] if grant.role)}
    more = {role.name: role for role in catalog.read_roles_named(connection, names - known.keys())}
    return [role for _, role in sorted((known | more).items())]


def _unreadable(connection: Connection, oids: Sequence[int]) -> LeftOut:
    login = connection.execute(sql.session.CURRENT_USER).fetchall()[0][0]
    why = f'rows reference them, and login "{login}" may not read large objects in the source; grant that right, and back up again'
    return LeftOut(name=named(oids), why=why, statements=sql.large_objects.let_read(login).as_string() + ";")


def _parts_of_values(connection: Connection, parts: Mapping[str, list[str]]) -> list[LeftOut]:
    """Return the columns whose values have an oid as a part: they are not searched."""
    if not parts or not connection.execute(sql.large_objects.ARE_THERE).fetchall()[0][0]:
        return []
    why = "oids inside its type are not searched; only columns of type oid, domains over it (lo) and arrays of them are"
    return [
        LeftOut(name=f"the large objects that {relation}({column}) references", why=why, statements="")
        for relation, columns in parts.items()
        for column in columns
    ]
