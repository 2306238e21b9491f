"""Large objects that a set's rows name, in a live database: those that are gone are made, those that differ are told and left."""

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

LEFT = "no undo could bring the content of a large object back; mode side-by-side shows the rows, restore a copy for the content"

UNREAD = "whether they are there, and with which content, is not known; grant that, and plan again"


@dataclass(frozen=True)
class Found:
    """The large objects of a set that a live database lacks, and how others differ there, as sentences."""

    missing: Sequence[int] = ()
    unlike: Sequence[str] = ()
    unread: Sequence[str] = ()

    @property
    def changes(self) -> list[ObjectChange]:
        """The same as a plan has it: what is gone is made, what differs is left."""
        made = [f"{named(self.missing)} was there and is not"] if self.missing else []
        return [
            *(ObjectChange(text, Severity.ERROR, Remedy(How.CREATE), is_done=True) for text in made),
            *(ObjectChange(text, Severity.ERROR, Remedy(How.NOT, why=LEFT), is_done=False) for text in self.unlike),
            *(ObjectChange(text, Severity.ERROR, Remedy(How.NOT, why=UNREAD), is_done=False) for text in self.unread),
        ]


def look_at_large_objects(merge: Merge) -> Found:
    """Compare the large objects that the rows of a merge name with those of the live database."""
    large = merge.manifest.large_objects
    if merge.refusals or not large or not large.objects:
        return Found()
    return compare_live(merge.site, merge.run, merge.staged, _concerned(merge, large.columns))


def large_objects_left(merge: Merge) -> list[ObjectChange]:
    """Return the large objects that are not as in the set now that those that were gone are made."""
    return [change for change in look_at_large_objects(merge).changes if not change.is_done]


def compare_live(site: Site, run: Run, staged: StagedSet, oids: Iterable[int]) -> Found:
    """Compare some large objects of a set with those of the live database."""
    wanted = {*oids}
    objects = [one for one in staged_objects(staged) if one.oid in wanted]
    if not objects:
        return Found()
    with connect(site.server, site.database, run.title) as connection:
        if not may_read(connection):
            grant = sql.large_objects.let_read(connection.info.user).as_string()
            return Found(
                unread=[f"large objects that the rows name were not compared, because this login may not read them ({grant})"]
            )
        there = read_objects(connection, (one.oid for one in objects))
    return Found(sorted({one.oid for one in objects} - {one.oid for one in there}), _unlike(objects, there))


def _unlike(objects: Sequence[LargeObject], there: Sequence[LargeObject]) -> list[str]:
    """Return how large objects that are there differ, those with other content in one sentence."""
    known = {one.oid: one for one in there}
    both = [one for one in objects if one.oid in known]
    other = [one.oid for one in both if (known[one.oid].pages, known[one.oid].digest) != (one.pages, one.digest)]
    said = [f"{named(other)}: the content is not that of the set"] if other else []
    return [*said, *(text for oid, text in differences(both, there) if oid not in {*other})]


def _concerned(merge: Merge, columns: Mapping[str, list[str]]) -> set[int]:
    """Return what the rows of the set that the merge is about have in columns that name large objects."""
    found = set[int]()
    for table in merge.tables:
        if table.relation and (names := columns.get(table.relation.qualified)):
            found |= _of_chosen(merge, table, names) if table.chosen else references_in(merge.staged, table.relation, names)
    for relation in merge.absent:
        found |= references_in(merge.staged, relation, columns.get(relation.qualified, []))
    return found


def _of_chosen(merge: Merge, table: Table, names: Iterable[str]) -> set[int]:
    asked = sql.staging.chosen_texts(table.number, list(names), table.chosen_rows)
    return {int(number) for row in merge.connection.execute(asked) for text in row if text for number in numbers_in(text.encode())}


def references_in(staged: StagedSet, relation: Relation, names: Sequence[str]) -> set[int]:
    """Return what the staged rows of a relation have in columns that name large objects."""
    places, found = [relation.columns.index(name) for name in names if name in relation.columns], set[int]()
    for source in staged.sources(relation) if places else ():
        for lines in source.batches():
            for line in lines:
                values = line.rstrip(b"\n").split(b"\t")
                found.update(int(number) for place in places for number in numbers_in(values[place]))
    return found


@contextmanager
def with_large_objects(merge: Merge) -> Iterator[list[str]]:
    """Make the large objects that are missing, for the rows that the block writes; gone again if it fails. Yields what to tell."""
    missing = look_at_large_objects(merge).missing
    if not missing:
        yield []
        return
    with made_for(merge.site.server, merge.site.database, merge.run, merge.staged, missing) as to_do:
        stays = f"{named(missing)} was made; an undo leaves it (SELECT lo_unlink(oid), or vacuumlo, once no row names it)"
        yield [stays, *to_do]
