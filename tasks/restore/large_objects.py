"""Large objects of a staged set, made in a database with the oids that its rows name, and read back.

The run's own login makes them, as it makes schemas and extensions: they have no code of anybody. Each is made as its owner,
where the login may act as that role.
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

# So many are made, granted and commented on in one transaction, each of which may hold a lock to its end.
AT_ONCE = 500


@dataclass(frozen=True)
class Made:
    """What came of making large objects: how they differ from the set's, and what a person still has to do."""

    differing: Sequence[str] = ()
    to_do: Sequence[str] = ()


@step
def make_large_objects(
    server: Server, database: str, run: Run, staged: StagedSet, wanted: Collection[int] | None = None,
    created: list[int] | None = None,
) -> Made:  # fmt: skip
    """Make all large objects of a set, or those that are wanted, in a database that has none of them, and read them back.

    Which are `created`, is said also where it fails.

    Raises:
        DamagedSet: their pages cannot be read.
        OperationError: the server refuses one.
    """
    objects = staged_objects(staged)
    chosen = [one for one in objects if wanted is None or one.oid in wanted]
    if not chosen:
        return Made()
    inherited = {one.oid for one in objects if one.inherited}
    with connect(server, database, run.title) as connection:
        able = _able(connection, {one.owner for one in chosen})
        try:
            _create(connection, chosen, able, [] if created is None else created)
            by_oid = {one.oid: one for one in chosen}
            _fill(connection, staged_pages(staged, inherited, by_oid), by_oid, able)
            _grant(connection, chosen, able)
        except (zstandard.ZstdError, ValueError) as error:
            raise DamagedSet(f"large objects of {staged.manifest.id} cannot be read: {error}; restore another set") from error
        except psycopg.Error as error:
            if connection.broken:
                raise
            raise OperationError(f"making large objects: {message_of(error)}") from None
        differing = [text for _, text in differences(chosen, read_objects(connection, (one.oid for one in chosen)), able)]
    return Made(differing, _to_give([one for one in chosen if one.owner not in able]))


def _able(connection: Connection, owners: Collection[str]) -> set[str]:
    """Return the owners that the session may act as."""
    question = sql.databases.MAY_BECOME_16 if major_of(connection) >= 16 else sql.databases.MAY_BECOME
    return {row[0] for row in connection.execute(question, {"names": sorted(owners)})}


def _acting(connection: Connection, one: LargeObject, able: Collection[str]) -> None:
    connection.execute(sql.large_objects.act_as(one.owner if one.owner in able else None))


def _create(connection: Connection, objects: Iterable[LargeObject], able: Collection[str], created: list[int]) -> None:
    for _, some in groupby(objects, key=lambda one: one.owner):
        group = [*some]
        for oids in batched((one.oid for one in group), AT_ONCE):
            with connection.transaction():
                _acting(connection, group[0], able)
                connection.execute(sql.large_objects.CREATE, {"oids": oids})
            created += oids


def _fill(
    connection: Connection, pages: Iterable[list[bytes]], objects: dict[int, LargeObject], able: Collection[str]
) -> None:  # fmt: skip
    """Write the pages in the order in which they come, about 256 KB in one transaction."""
    for lines in pages:
        with connection.transaction():
            for oid, of_one in by_object(lines):
                _acting(connection, objects[oid], able)
                _put(connection, oid, [content_of(line) for line in of_one])


def _put(connection: Connection, oid: int, contents: Sequence[tuple[int, bytes]]) -> None:
    for is_empty, some in groupby(contents, key=lambda one: not one[1]):
        if is_empty:
            for first, _ in some:
                connection.execute(sql.large_objects.CUT, {"oid": oid, "first": first})
            continue
        firsts, parts = zip(*some, strict=True)
        connection.execute(sql.large_objects.PUT, {"oids": [oid] * len(parts), "firsts": [*firsts], "contents": [*parts]})


def _grant(connection: Connection, objects: Iterable[LargeObject], able: Collection[str]) -> None:
    """Comment and grant as the set says; last, because an owner may have no right to write."""
    said = [one for one in objects if one.comment is not None or one.grants is not None]
    for number in range(0, len(said), AT_ONCE):
        with connection.transaction():
            for one in said[number : number + AT_ONCE]:
                _acting(connection, one, able)
                if one.comment is not None:
                    connection.execute(sql.large_objects.comment_on(one.oid, one.comment))
                for statement in _grants(one, one.owner if one.owner in able else connection.info.user):
                    connection.execute(statement)


def _grants(one: LargeObject, owner: str) -> Iterator[psycopg.sql.Composed]:
    if one.grants is None:
        return
    yield sql.large_objects.revoke_all(one.oid, owner)
    for grant in one.grants:
        # What the owner has, it keeps when it is another one's.
        role = owner if grant.role == one.owner else grant.role
        yield sql.large_objects.grant(one.oid, grant.privilege, role, grantable=grant.grantable and role != owner)


def differences(
    objects: Iterable[LargeObject], there: Iterable[LargeObject], able: Collection[str] | None = None
) -> list[tuple[int, str]]:  # fmt: skip
    """Return how large objects differ from a set's, by oid; of owners that nobody could act as, owner and grants may differ."""
    found = {one.oid: one for one in there}
    differing = list[tuple[int, str]]()
    for one in objects:
        if (now := found.get(one.oid)) is None:
            differing.append((one.oid, f"large object {one.oid} is missing"))
            continue
        if (now.pages, now.digest) != (one.pages, one.digest):
            differing.append((one.oid, f"large object {one.oid} has other content"))
        if able is None or one.owner in able:
            alike = {
                "another owner": one.owner == now.owner, "other grants": _plain(one) == _plain(now),
                "another comment": one.comment == now.comment,
            }  # fmt: skip
            what = " and ".join(name for name, is_same in alike.items() if not is_same)
            differing += [(one.oid, f"large object {one.oid} has {what}")] if what else []
    return differing


def _plain(one: LargeObject) -> set[Grant] | None:
    return None if one.grants is None else {*one.grants}


def _to_give(objects: Iterable[LargeObject]) -> list[str]:
    """Return what an administrator still has to run for owners that the login could not act as."""
    by_owner = groupby(sorted(objects, key=lambda one: one.owner), key=lambda one: one.owner)
    given = [(owner, [one.oid for one in some]) for owner, some in by_owner]
    return [
        f"{named(oids)} belonged to {owner}; run as administrator: `{sql.large_objects.give(oids, owner).as_string()}`"
        for owner, oids in given
    ]


@contextmanager
def large_objects_beside(server: Server, database: str, run: Run, staged: StagedSet) -> Iterator[list[str]]:
    """Make the large objects of a set in a database that is there, for the rows that the block writes; undo that if it fails.

    Those that are there with the set's content stay as they are. Yields what a person still has to do.

    Raises:
        UnsafeTarget: an oid is another object's there; nothing was touched.
        RestoreDiffers: what was made is not what the set has; it is gone again.
    """
    objects = staged_objects(staged)
    if not objects:
        yield []
        return
    with connect(server, database, run.title) as connection:
        there = {one.oid: one for one in read_objects(connection, (one.oid for one in objects))}
    kept = [one for one in objects if one.oid in there]
    taken = [one.oid for one in kept if (there[one.oid].pages, there[one.oid].digest) != (one.pages, one.digest)]
    if taken:
        raise UnsafeTarget(
            f'refusing to restore into database "{database}": {named(taken)} is there with other content than '
            f"{staged.manifest.id} has, and rows would name it; find out whose it is, and remove it (SELECT lo_unlink(oid)), or "
            "name another target_database"
        )
    notes = [f"it was there before, and {text}" for _, text in differences(kept, there.values())]
    with made_for(server, database, run, staged, {one.oid for one in objects} - there.keys()) as to_do:
        yield [*notes, *to_do]


@contextmanager
def made_for(
    server: Server, database: str, run: Run, staged: StagedSet, missing: Collection[int]
) -> Iterator[list[str]]:  # fmt: skip
    """Make those large objects of a set that are missing in a live database, for as long as the block does not fail.

    They are committed before the rows that name them: who is killed in between leaves them, and the next run takes them
    as they are.

    Raises:
        RestoreDiffers: what was made is not what the set has; it is gone again.
    """
    created = list[int]()
    try:
        made = make_large_objects(server, database, run, staged, missing, created)
        if made.differing:
            raise RestoreDiffers(f'database "{database}" is as it was: {"; ".join(made.differing[:10])}', made.differing)
        yield [*made.to_do]
    except BaseException:
        _remove(server, database, run, created)
        raise


def _remove(server: Server, database: str, run: Run, created: Sequence[int]) -> None:
    """Remove large objects that were made for rows that did not come."""
    try:
        with connect(server, database, run.title) as connection:
            for oids in batched(created, AT_ONCE):
                connection.execute(sql.large_objects.UNLINK, {"oids": oids})
    except (psycopg.Error, OperationError) as error:
        said = message_of(error) if isinstance(error, psycopg.Error) else str(error)
        get_run_logger().warning("%s stay, although no row names them: %s", named(created), said)
