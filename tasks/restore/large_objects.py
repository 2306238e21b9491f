"""Creating a staged set's large objects under the oids that rows reference, and reading them back.

The run's own login creates them, like schemas and extensions: they contain no code. Each is created
as its owner if the login may act as that role.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby

import psycopg
import zstandard
from prefect import get_run_logger

from tasks.core import sql
from tasks.core.errors import DamagedSet, OperationError, RestoreDiffers, UnsafeTarget
from tasks.core.postgres.connection import Connection, Server, connect, major_of
from tasks.core.postgres.messages import message_of
from tasks.core.sets.large_objects import Grant, LargeObject, by_object, content_of, named
from tasks.database.large_objects import batched, read_objects
from tasks.run.run import Run, step
from tasks.sets.large_objects import staged_objects, staged_pages
from tasks.sets.stage import StagedSet

# Large objects per transaction, as each may hold a lock to its end.
AT_ONCE = 500


@dataclass(frozen=True)
class Made:
    """The result of creating large objects: differences from the set, and what is still to do."""

    differing: Sequence[str] = ()
    to_do: Sequence[str] = ()


@step
def make_large_objects(
    server: Server, database: str, run: Run, staged: StagedSet, wanted: Collection[int] | None = None,
    created: list[int] | None = None,
) -> Made:  # fmt: skip
    """Create all or the wanted large objects of a set in a database without them; read them back.

    `created` gets their oids even if it fails.

    Raises:
        DamagedSet: the pages of large objects cannot be read.
        OperationError: the server refuses to create a large object.
    """
    objects = staged_objects(staged)
    chosen = [large_object for large_object in objects if wanted is None or large_object.oid in wanted]
    if not chosen:
        return Made()
    inherited = {large_object.oid for large_object in objects if large_object.inherited}
    with connect(server, database, run.title) as connection:
        able = _able(connection, {large_object.owner for large_object in chosen})
        try:
            _create(connection, chosen, able, [] if created is None else created)
            by_oid = {large_object.oid: large_object for large_object in chosen}
            _fill(connection, staged_pages(staged, inherited, by_oid), by_oid, able)
            _grant(connection, chosen, able)
        except (zstandard.ZstdError, ValueError) as error:
            raise DamagedSet(f"large objects of {staged.manifest.id} cannot be read: {error}; restore another set") from error
        except psycopg.Error as error:
            if connection.broken:
                raise
            raise OperationError(f"large objects cannot be created: {message_of(error)}") from None
        differing = [
            text for _, text in differences(chosen, read_objects(connection, (large_object.oid for large_object in chosen)), able)
        ]
    return Made(differing, _to_give([large_object for large_object in chosen if large_object.owner not in able]))


def _able(connection: Connection, owners: Collection[str]) -> set[str]:
    """Return the owners whose role the session's login may take."""
    question = sql.databases.MAY_BECOME_16 if major_of(connection) >= 16 else sql.databases.MAY_BECOME
    return {row[0] for row in connection.execute(question, {"names": sorted(owners)})}


def _acting(connection: Connection, large_object: LargeObject, able: Collection[str]) -> None:
    connection.execute(sql.large_objects.act_as(large_object.owner if large_object.owner in able else None))


def _create(connection: Connection, objects: Iterable[LargeObject], able: Collection[str], created: list[int]) -> None:
    for _, some in groupby(objects, key=lambda large_object: large_object.owner):
        group = [*some]
        for oids in batched((large_object.oid for large_object in group), AT_ONCE):
            with connection.transaction():
                _acting(connection, group[0], able)
                connection.execute(sql.large_objects.CREATE, {"oids": oids})
            created += oids


def _fill(connection: Connection, pages: Iterable[list[bytes]], objects: dict[int, LargeObject], able: Collection[str]) -> None:
    """Write the pages in their order, about 256 KB per transaction."""
    for lines in pages:
        with connection.transaction():
            for oid, of_one in by_object(lines):
                _acting(connection, objects[oid], able)
                _put(connection, oid, [content_of(line) for line in of_one])


def _put(connection: Connection, oid: int, contents: Sequence[tuple[int, bytes]]) -> None:
    for is_empty, some in groupby(contents, key=lambda content: not content[1]):
        if is_empty:
            for first, _ in some:
                connection.execute(sql.large_objects.CUT, {"oid": oid, "first": first})
            continue
        firsts, parts = zip(*some, strict=True)
        connection.execute(sql.large_objects.PUT, {"oids": [oid] * len(parts), "firsts": [*firsts], "contents": [*parts]})


def _grant(connection: Connection, objects: Iterable[LargeObject], able: Collection[str]) -> None:
    """Apply comments and grants, last, because an owner may lack the right to write."""
    described = [large_object for large_object in objects if large_object.comment is not None or large_object.grants is not None]
    for number in range(0, len(described), AT_ONCE):
        with connection.transaction():
            for large_object in described[number : number + AT_ONCE]:
                _acting(connection, large_object, able)
                if large_object.comment is not None:
                    connection.execute(sql.large_objects.comment_on(large_object.oid, large_object.comment))
                for statement in _grants(large_object, large_object.owner if large_object.owner in able else connection.info.user):
                    connection.execute(statement)


def _grants(large_object: LargeObject, owner: str) -> Iterator[psycopg.sql.Composed]:
    if large_object.grants is None:
        return
    yield sql.large_objects.revoke_all(large_object.oid, owner)
    for grant in large_object.grants:
        # The owner's privileges stay with the owner, even if that is another role.
        role = owner if grant.role == large_object.owner else grant.role
        yield sql.large_objects.grant(large_object.oid, grant.privilege, role, grantable=grant.grantable and role != owner)


def differences(
    objects: Iterable[LargeObject], there: Iterable[LargeObject], able: Collection[str] | None = None
) -> list[tuple[int, str]]:
    """Return how large objects differ, by oid; in owner and grants only if `able` has the owner."""
    by_oid = {large_object.oid: large_object for large_object in there}
    differing = list[tuple[int, str]]()
    for large_object in objects:
        if (now := by_oid.get(large_object.oid)) is None:
            differing.append((large_object.oid, f"large object {large_object.oid} is missing"))
            continue
        if (now.pages, now.digest) != (large_object.pages, large_object.digest):
            differing.append((large_object.oid, f"large object {large_object.oid} has other content"))
        if able is None or large_object.owner in able:
            alike = {
                "another owner": large_object.owner == now.owner,
                "other grants": _plain(large_object) == _plain(now),
                "another comment": large_object.comment == now.comment,
            }
            what = " and ".join(name for name, is_same in alike.items() if not is_same)
            differing += [(large_object.oid, f"large object {large_object.oid} has {what}")] if what else []
    return differing


def _plain(large_object: LargeObject) -> set[Grant] | None:
    return None if large_object.grants is None else {*large_object.grants}


def _to_give(objects: Iterable[LargeObject]) -> list[str]:
    """Return what an administrator has to run for owners that the login could not act as."""
    by_owner = groupby(sorted(objects, key=lambda large_object: large_object.owner), key=lambda large_object: large_object.owner)
    given = [(owner, [large_object.oid for large_object in some]) for owner, some in by_owner]
    return [
        f"{named(oids)} belonged to {owner}, and now to another role; run as administrator: "
        f"`{sql.large_objects.give(oids, owner).as_string()}`"
        for owner, oids in given
    ]


@contextmanager
def large_objects_beside(server: Server, database: str, run: Run, staged: StagedSet) -> Iterator[list[str]]:
    """Create a set's large objects in an existing database for the rows that the block restores.

    If the block fails, remove them. Existing large objects with the set's content are kept. Yields
    what is still to do.

    Raises:
        UnsafeTarget: an existing large object has an oid of the set, but other content; nothing was
            changed.
        RestoreDiffers: the created large objects differ from the set; they were removed again.
    """
    objects = staged_objects(staged)
    if not objects:
        yield []
        return
    with connect(server, database, run.title) as connection:
        there = {
            large_object.oid: large_object
            for large_object in read_objects(connection, (large_object.oid for large_object in objects))
        }
    kept = [large_object for large_object in objects if large_object.oid in there]
    taken = [
        large_object.oid
        for large_object in kept
        if (there[large_object.oid].pages, there[large_object.oid].digest) != (large_object.pages, large_object.digest)
    ]
    if taken:
        raise UnsafeTarget(
            f'refusing to restore into database "{database}": {named(taken)} has other content '
            "there than "
            f"in {staged.manifest.id}, and restored rows would reference it; ask its owner and "
            "remove it (SELECT lo_unlink(oid)), or "
            "name another target_database"
        )
    notes = [f"existed before the restore: {text}" for _, text in differences(kept, there.values())]
    with made_for(server, database, run, staged, {large_object.oid for large_object in objects} - there.keys()) as to_do:
        yield [*notes, *to_do]


@contextmanager
def made_for(
    server: Server,
    database: str,
    run: Run,
    staged: StagedSet,
    missing: Collection[int],
) -> Iterator[list[str]]:
    """Create large objects that a live database lacks; remove them if the block fails.

    They are committed before the rows that reference them; if the run is killed, they remain, and
    the next run uses them.

    Raises:
        RestoreDiffers: the created large objects differ from the set; they were removed again.
    """
    created = list[int]()
    try:
        made = make_large_objects(server, database, run, staged, missing, created)
        if made.differing:
            raise RestoreDiffers(f'database "{database}" is unchanged: {"; ".join(made.differing[:10])}', made.differing)
        yield [*made.to_do]
    except BaseException:
        _remove(server, database, run, created)
        raise


def _remove(server: Server, database: str, run: Run, created: Sequence[int]) -> None:
    """Remove large objects whose rows were not restored."""
    try:
        with connect(server, database, run.title) as connection:
            for oids in batched(created, AT_ONCE):
                connection.execute(sql.large_objects.UNLINK, {"oids": oids})
    except (psycopg.Error, OperationError) as error:
        message = message_of(error) if isinstance(error, psycopg.Error) else str(error)
        get_run_logger().warning("%s could not be removed, although no row references them: %s", named(created), message)
