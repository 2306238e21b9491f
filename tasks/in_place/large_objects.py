"""Large objects that a set's rows reference: missing ones are created, differing ones reported."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from tasks.core import sql
from tasks.core.checks.definition import Severity
from tasks.core.in_place.objects import How, ObjectChange, Remedy
from tasks.core.postgres.connection import connect
from tasks.core.sets.large_objects import LargeObject, named
from tasks.core.sets.manifest import Relation
from tasks.database.large_objects import may_read, numbers_in, read_objects
from tasks.in_place.session import Merge, Table
from tasks.restore.large_objects import differences, made_for
from tasks.run.run import Run
from tasks.run.site import Site
from tasks.sets.large_objects import staged_objects
from tasks.sets.stage import StagedSet

LEFT = (
    "a restore does not change the content of large objects, because an undo could not restore it; "
    "for the old content, restore the set into a new database"
)

UNREAD = "whether they exist, and with which content, is unknown; grant that right, and plan again"


@dataclass(frozen=True)
class LargeObjectDifferences:
    """Large objects of a set that a live database lacks, and how others differ, as sentences."""

    missing: Sequence[int] = ()
    unlike: Sequence[str] = ()
    unread: Sequence[str] = ()

    @property
    def changes(self) -> list[ObjectChange]:
        """Changes to large objects for the plan: missing ones are created, differing ones left."""
        made = [f"{named(self.missing)} is missing"] if self.missing else []
        return [
            *(ObjectChange(text, Severity.ERROR, Remedy(How.CREATE), is_done=True) for text in made),
            *(ObjectChange(text, Severity.ERROR, Remedy(How.NOT, why=LEFT), is_done=False) for text in self.unlike),
            *(ObjectChange(text, Severity.ERROR, Remedy(How.NOT, why=UNREAD), is_done=False) for text in self.unread),
        ]


def look_at_large_objects(merge: Merge) -> LargeObjectDifferences:
    """Compare the large objects named by the rows of a merge with those of the live database."""
    large = merge.manifest.large_objects
    if merge.refusals or not large or not large.objects:
        return LargeObjectDifferences()
    return compare_live(merge.site, merge.run, merge.staged, _concerned(merge, large.columns))


def large_objects_left(merge: Merge) -> list[ObjectChange]:
    """Return the large objects that still differ after missing ones were created."""
    return [change for change in look_at_large_objects(merge).changes if not change.is_done]


def compare_live(site: Site, run: Run, staged: StagedSet, oids: Iterable[int]) -> LargeObjectDifferences:
    """Compare the given large objects of a set with those of the live database."""
    wanted = {*oids}
    objects = [large_object for large_object in staged_objects(staged) if large_object.oid in wanted]
    if not objects:
        return LargeObjectDifferences()
    with connect(site.server, site.database, run.title) as connection:
        if not may_read(connection):
            grant = sql.large_objects.let_read(connection.info.user).as_string()
            return LargeObjectDifferences(
                unread=[f"large objects that the rows name were not compared: this login may not read them ({grant})"]
            )
        there = read_objects(connection, (large_object.oid for large_object in objects))
    return LargeObjectDifferences(
        sorted({large_object.oid for large_object in objects} - {large_object.oid for large_object in there}),
        _unlike(objects, there),
    )


def _unlike(objects: Sequence[LargeObject], there: Sequence[LargeObject]) -> list[str]:
    """Return how existing large objects differ; those of changed content in one sentence."""
    known = {large_object.oid: large_object for large_object in there}
    both = [large_object for large_object in objects if large_object.oid in known]
    other = [
        large_object.oid
        for large_object in both
        if (known[large_object.oid].pages, known[large_object.oid].digest) != (large_object.pages, large_object.digest)
    ]
    sentences = [f"{named(other)}: the content differs from the set"] if other else []
    return [*sentences, *(text for oid, text in differences(both, there) if oid not in {*other})]


def _concerned(merge: Merge, columns: Mapping[str, list[str]]) -> set[int]:
    """Return the oids of the large objects that the rows to restore reference."""
    oids = set[int]()
    for table in merge.tables:
        if table.relation and (names := columns.get(table.relation.qualified)):
            oids |= _of_chosen(merge, table, names) if table.chosen else references_in(merge.staged, table.relation, names)
    for relation in merge.absent:
        oids |= references_in(merge.staged, relation, columns.get(relation.qualified, []))
    return oids


def _of_chosen(merge: Merge, table: Table, names: Iterable[str]) -> set[int]:
    asked = sql.staging.chosen_texts(table.number, list(names), table.chosen_rows)
    return {int(number) for row in merge.connection.execute(asked) for text in row if text for number in numbers_in(text.encode())}


def references_in(staged: StagedSet, relation: Relation, names: Sequence[str]) -> set[int]:
    """Return the oids of the large objects that the staged rows of a relation reference."""
    places, oids = [relation.columns.index(name) for name in names if name in relation.columns], set[int]()
    for source in staged.sources(relation) if places else ():
        for lines in source.batches():
            for line in lines:
                values = line.rstrip(b"\n").split(b"\t")
                oids.update(int(number) for place in places for number in numbers_in(values[place]))
    return oids


@contextmanager
def with_large_objects(merge: Merge) -> Iterator[list[str]]:
    """Create missing large objects for the block's rows, yield notes; on failure remove them."""
    missing = look_at_large_objects(merge).missing
    if not missing:
        yield []
        return
    with made_for(merge.site.server, merge.site.database, merge.run, merge.staged, missing) as to_do:
        stays = (
            f"{named(missing)} was created; an undo does not remove it (once no row references it, run lo_unlink(oid) or vacuumlo)"
        )
        yield [stays, *to_do]
