"""The large objects of a set: those that the rows it stores name, under the same snapshot; no other of the database."""

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
    """What a set has of large objects, and what it does not have."""

    columns: Mapping[str, list[str]]
    objects: Sequence[LargeObject] = ()
    pages: StoredObject | None = None
    left_out: Sequence[LeftOut] = ()


def add_large_objects(
    site: Site, run: Run, name: SetName, snapshot: Snapshot, manifest: Manifest, base: Base | None,
    only: Mapping[str, RowKeys] | None,
) -> Manifest:  # fmt: skip
    """Store the large objects that rows of the set name; return its manifest with them, or as it was where no column names any.

    Raises:
        MovedSnapshot, OperationError: they could not be read.
    """
    members = [one for one in snapshot.members.holding_rows if only is None or one.qualified in only]
    references = large_objects.reference_columns(snapshot.coordinator, members)
    if not references.columns and not references.parts:
        return manifest
    return store_large_objects(site, run, name, snapshot, manifest, base, only, members, references)


@step(repeatable=True)
def store_large_objects(
    site: Site, run: Run, name: SetName, snapshot: Snapshot, manifest: Manifest, base: Base | None,
    only: Mapping[str, RowKeys] | None, members: Sequence[Member], references: References,
) -> Manifest:  # fmt: skip
    """Store the large objects that rows of some relations name in these columns; return the manifest with them.

    Raises:
        MovedSnapshot, OperationError: they could not be read.
    """
    started = time.monotonic()
    with large_objects.explained("reading large objects"):
        oids = _referred_to(site, run, snapshot, [one for one in members if one.qualified in references.columns], references, only)
        with seeing(site.server, site.database, run.title, snapshot.name, []) as connection:
            taken = _take(connection, site, run, name, oids, references, base)
            roles = _with_roles(connection, manifest.roles, taken.objects)
    index = store_packed(site, run, name, INDEX, render_index(taken.objects)) if taken.objects else None
    summary = LargeObjects(
        columns=dict(taken.columns), objects=len(taken.objects), inherited=sum(one.inherited for one in taken.objects),
        plain_bytes=sum(one.plain_bytes for one in taken.objects), digest=total_of(taken.objects),
        seconds=round(time.monotonic() - started, 3),
    )  # fmt: skip
    get_run_logger().info("%d large objects, %d of them as in the base", summary.objects, summary.inherited)
    more = {"large_objects": summary, "large_object_index": index, "large_object_pages": taken.pages}
    return manifest.model_copy(update=more | {"by_hand": [*manifest.by_hand, *taken.left_out], "roles": roles})


def _referred_to(
    site: Site, run: Run, snapshot: Snapshot, members: Sequence[Member], references: References, only: Mapping[str, RowKeys] | None
) -> set[int]:  # fmt: skip
    """Return what the rows of the set have in columns that name large objects."""
    encoding, found = encoding_of(snapshot.coordinator), set[int]()
    if not members:
        return found
    # Rows are chosen by a query, which may run code of the tables' owner.
    server: Server = site.owners_login if only is not None else site.server
    places = [(one.schema, one.name) for one in members]
    with seeing(server, site.database, run.title, snapshot.name, places) as connection:
        for member in members:
            keys = only[member.qualified] if only is not None else None
            job = stream_job(site, run, member, snapshot, encoding, count_blocks=False, only=keys)
            found |= large_objects.read_references(connection, job, references.columns[member.qualified])
    return found


def _take(
    connection: Connection, site: Site, run: Run, name: SetName, oids: Collection[int], references: References, base: Base | None
) -> _Taken:  # fmt: skip
    """Store those of the named objects that are there; what is not there, was not there for the rows either."""
    facts = [*large_objects.read_facts(connection, oids)]
    left_out = _parts_of_values(connection, references.parts)
    if not facts:
        return _Taken(references.columns, left_out=left_out)
    there = [int(one["oid"]) for one in facts]
    if not large_objects.may_read(connection):
        return _Taken(references.columns, left_out=[*left_out, _unreadable(connection, there)])
    known = base.large_objects if base else {}
    same = large_objects.unchanged_since(connection, there, known, base.manifest.snapshot.xmin) if base else set[int]()
    pages, stored = _store_pages(connection, site, run, name, [one for one in there if one not in same])
    objects = [
        _as_in(known[one["oid"]], one) if one["oid"] in same else large_objects.described(one, pages.get(one["oid"], RowDigest()))
        for one in facts
    ]
    return _Taken(references.columns, objects, stored, left_out)


def _as_in(then: LargeObject, facts: Mapping[str, Any]) -> LargeObject:
    """Return an object that has the pages that it had in the base."""
    return LargeObject(**facts, pages=then.pages, plain_bytes=then.plain_bytes, digest=then.digest, inherited=True)


def _store_pages(
    connection: Connection, site: Site, run: Run, name: SetName, oids: Sequence[int]
) -> tuple[dict[int, RowDigest], StoredObject | None]:  # fmt: skip
    """Stream the pages of some objects into a private file, and store it; return what went by, by object."""
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
    plain = sum(one.plain_bytes for one in pages.values())
    part = StoredObject(path=PAGES, bytes=file.bytes, sha256=sha256, plain_bytes=plain)
    return pages, upload(site.store, run, name, part, staged, upload_class(site.context.storage_classes.of(name.kind)))


def _with_roles(connection: Connection, roles: Iterable[Role], objects: Iterable[LargeObject]) -> list[Role]:
    """Return the roles of a set with those that own large objects, or are granted something on them."""
    known = {one.name: one for one in roles}
    named_here = {one.owner for one in objects} | {grant.role for one in objects for grant in one.grants or [] if grant.role}
    more = {one.name: one for one in catalog.read_roles_named(connection, named_here - known.keys())}
    return [one for _, one in sorted((known | more).items())]


def _unreadable(connection: Connection, oids: Sequence[int]) -> LeftOut:
    login = connection.execute(sql.session.CURRENT_USER).fetchall()[0][0]
    why = f'rows name it, and login "{login}" may not read what large objects hold, in the source; grant that, and back up again'
    return LeftOut(name=named(oids), why=why, statements=sql.large_objects.let_read(login).as_string() + ";")


def _parts_of_values(connection: Connection, parts: Mapping[str, list[str]]) -> list[LeftOut]:
    """Name the columns in whose values an oid is only a part: which large objects they name is not looked for."""
    if not parts or not connection.execute(sql.large_objects.ARE_THERE).fetchall()[0][0]:
        return []
    why = "its type has an oid as a part; only columns of type oid, of domains over it (lo) and of arrays of them are looked into"
    return [
        LeftOut(name=f"what column {column} of table {relation} names of large objects", why=why, statements="")
        for relation, columns in parts.items()
        for column in columns
    ]
