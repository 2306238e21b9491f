"""What stands around a context and is part of no relation: taken along where it is the context's own, else named.

Taken along is what lives in the context's schemas, or needs its relations, belongs to the owner of these and can be made by that
role; a cast or an operator of a type that the context uses, too. Everything else of that kind is named, with the reason.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from tasks.core.database.dependencies import Choice, Graph, ObjectId, unfolded

# What code says before the name of a relation; elsewhere a name counts with its schema alone.
AFTER = "from|join|into|update|only|table|using|copy|truncate|references"
IDENT = r'"(?:[^"]|"")+"|[^\W\d][\w$]*'
RELATION = re.compile(
    rf"(?P<word>(?:\b(?:{AFTER})\s+)*)(?:(?P<schema>{IDENT})\s*\.\s*)?(?P<name>{IDENT})", re.IGNORECASE
)  # fmt: skip
COMMENT = re.compile(r"--[^\n]*|/\*.*?\*/", re.DOTALL)
# What belongs to types.
OF_TYPES = ("pg_cast", "pg_operator", "pg_opclass", "pg_transform")


@dataclass(frozen=True)
class Bystander:
    """An object that is part of no other: its schema's oid, its owner, whether one who is no superuser may make it.

    `wide` is what is the whole database's.
    """

    id: ObjectId
    schema: int | None
    owner: str | None
    plain: bool
    wide: bool


@dataclass(frozen=True)
class Around:
    """What is known of a context's surroundings: schemas and owners of its relations, names of relations, code, bystanders."""

    schemas: Collection[int]
    owners: Collection[str]
    relations: Mapping[ObjectId, tuple[str, str]]
    code: Mapping[ObjectId, str]
    bystanders: Mapping[ObjectId, Bystander]
    asked: Collection[ObjectId] = ()


@dataclass(frozen=True)
class Surroundings:
    """What is taken along, and what is not, each with why, and with the object that this speaks of."""

    objects: frozenset[ObjectId]
    named: Mapping[ObjectId, tuple[str, ObjectId | None]] = field(default_factory=dict)


def choose_surroundings(graph: Graph, choice: Choice, around: Around) -> Surroundings:
    """Return what of the surroundings comes along; of the graph, views that no other context has are nobody's."""
    near = _Near(graph, choice, around)
    taken, named = set[ObjectId](), dict[ObjectId, tuple[str, ObjectId | None]]()
    pending, decided = list(near.concerned()), set(near.known)
    while pending:
        one = pending.pop()
        if one in decided or one in named:
            continue
        group = graph.closure({one}, decided, named=False)[0]
        if reason := near.why_not(one, group):
            named[one] = reason
        else:
            taken |= group
            decided |= group
            pending += [other for member in group for other in near.named_by(member)]
            pending += near.of_types(group)
    taken = {one for one in taken if not graph.is_brought(one)}
    met = taken | named.keys() | near.known | near.theirs
    for one, other in graph.only_for(named, decided, met).items():
        named[one] = ("only {} needs it, which is not in the backup", other)
    return Surroundings(frozenset(taken), named | near.relations_in_code())


@dataclass(frozen=True)
class _Near:
    graph: Graph
    choice: Choice
    around: Around

    @cached_property
    def known(self) -> frozenset[ObjectId]:
        """What is decided already."""
        return self.choice.objects | self.choice.left_out.keys() | self.choice.with_them.keys()

    @cached_property
    def theirs(self) -> set[ObjectId]:
        """What other contexts' relations need and have."""
        return self.graph.closure(self.graph.others, self.choice.objects, theirs=True)[0]

    def concerned(self) -> Iterator[ObjectId]:
        """Yield the bystanders that need the context's relations, live beside them, are asked for, or are the whole database's."""
        bystanders = self.around.bystanders
        theirs, needing = self.theirs, self._needing()
        for one, facts in bystanders.items():
            resident = facts.schema in self.around.schemas and one not in theirs
            if facts.wide or resident or one in needing or one in self.around.asked:
                yield one
        for one, source in self.around.code.items():
            if one in bystanders and one not in theirs and not self._relations_of(source).isdisjoint(self.graph.own):
                yield one
        yield from self.of_types(self.choice.objects)

    def _needing(self) -> set[ObjectId]:
        """Return what cannot be made without a relation of the context and is no other context's relation."""
        found, pending = set[ObjectId](), [d.dependent for one in self.graph.own for d in self.graph.below[one]]
        while pending:
            one = pending.pop()
            if one not in found and one not in self.graph.foreign:
                found.add(one)
                pending += [d.dependent for d in self.graph.below[one]]
                pending += [d.referenced for d in self.graph.above[one] if d.kind == "i" and d.referenced not in self.graph.own]
        return found

    def of_types(self, objects: Iterable[ObjectId]) -> Iterator[ObjectId]:
        """Yield casts, operators … of types."""
        classes = {self.graph.classes[name] for name in OF_TYPES if name in self.graph.classes}
        for one in objects:
            if one[0] == self.graph.classes["pg_type"]:
                for dependency in self.graph.below[one]:
                    if dependency.dependent[0] in classes and dependency.dependent in self.around.bystanders:
                        yield dependency.dependent

    def named_by(self, one: ObjectId) -> Iterator[ObjectId]:
        """Yield the bystanders that the code of an object names."""
        yield from (other for other in self.graph.mentions.get(one, ()) if other in self.around.bystanders)

    def why_not(self, one: ObjectId, group: Iterable[ObjectId]) -> tuple[str, ObjectId | None] | None:
        """Return why an object, with what it cannot be made without, does not come along; None if it does."""
        if self.around.bystanders[one].wide:
            return "it is the whole database's, not the context's", None
        for other in sorted(group):
            facts = self.around.bystanders.get(other)
            if other in self.graph.lost:
                return "it needs {} of another context", self.graph.lost[other]
            if facts and not facts.plain:
                return "only a superuser can make {}", other
            if facts and facts.owner is not None and facts.owner not in self.around.owners and one not in self.around.asked:
                return f"{{}} belongs to {facts.owner}, who owns no table of the context", other
        return None

    def relations_in_code(self) -> dict[ObjectId, tuple[str, ObjectId | None]]:
        """Return what the code of the context's own objects names and they can be made without: others' relations, extensions."""
        found = dict[ObjectId, tuple[str, ObjectId | None]]()
        for one in sorted(self.choice.objects & (self.around.code.keys() | self.graph.mentions.keys())):
            mentions = self.graph.mentions.get(one, set())
            named = self._relations_of(self.around.code.get(one, "")) & self.graph.others
            named |= {self.graph.foreign[other] for other in mentions & self.graph.foreign.keys()}
            beyond = {d.referenced for other in mentions & self.graph.beyond for d in self.graph.above[other] if d.kind == "e"}
            for other in sorted((named | beyond) - self.choice.objects):
                found.setdefault(other, ("the code of {} names it", one))
        return found

    def _relations_of(self, source: str) -> set[ObjectId]:
        """Return the relations that code names; a bare name is that of a relation of the context, if there is such a one."""
        found = set[ObjectId]()
        for schema, name in _names_of_relations(source):
            there = self._by_name.get(name, [])
            if schema:
                found |= {one for one in there if self.around.relations[one][0] == schema}
            else:
                found |= {one for one in there if one in self.graph.own} or {*there}
        return found

    @cached_property
    def _by_name(self) -> Mapping[str, list[ObjectId]]:
        found = defaultdict[str, list[ObjectId]](list)
        for one, (_, name) in self.around.relations.items():
            found[name].append(one)
        return found


def _names_of_relations(source: str) -> Iterator[tuple[str, str]]:
    """Yield schema and name of what may be relations in code; without a schema only after words that stand before relations."""
    for found in RELATION.finditer(COMMENT.sub(" ", source)):
        if found["schema"]:
            yield unfolded(found["schema"]), unfolded(found["name"])
        elif found["word"].strip():
            yield "", unfolded(found["name"])
