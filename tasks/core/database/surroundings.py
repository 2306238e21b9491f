"""Objects of no relation that may belong to the context, such as functions and publications.

An object is included if it is in one of the context's schemas or needs its relations, and if the
relations' owner owns it and can create it. Casts and operators of types that the context uses are
included too. All others are named in the set, each with the reason why it is not included.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from tasks.core.database.dependencies import Choice, Graph, ObjectId, unfolded

# Keywords before relation names in code; elsewhere only qualified names count.
AFTER = "from|join|into|update|only|table|using|copy|truncate|references"
IDENT = r'"(?:[^"]|"")+"|[^\W\d][\w$]*'
RELATION = re.compile(rf"(?P<word>(?:\b(?:{AFTER})\s+)*)(?:(?P<schema>{IDENT})\s*\.\s*)?(?P<name>{IDENT})", re.IGNORECASE)
COMMENT = re.compile(r"--[^\n]*|/\*.*?\*/", re.DOTALL)
# Catalogs of objects that belong to types.
OF_TYPES = ("pg_cast", "pg_operator", "pg_opclass", "pg_transform")


@dataclass(frozen=True)
class Bystander:
    """An object of no relation: its schema's oid, owner, and whether a non-superuser may create it.

    `wide` objects belong to the whole database.
    """

    id: ObjectId
    schema: int | None
    owner: str | None
    plain: bool
    wide: bool


@dataclass(frozen=True)
class Around:
    """The facts that decide which objects are included.

    These are schemas and owners of the context's relations, relation names, code, the objects that
    belong to no relation, relations that no context lists, each with the reason why it is not
    included, and relations that other contexts list.
    """

    schemas: Collection[int]
    owners: Collection[str]
    relations: Mapping[ObjectId, tuple[str, str]]
    code: Mapping[ObjectId, str]
    bystanders: Mapping[ObjectId, Bystander]
    asked: Collection[ObjectId] = ()
    unlisted: Mapping[ObjectId, str] = field(default_factory=dict)
    theirs: Collection[ObjectId] = ()


@dataclass(frozen=True)
class Surroundings:
    """The included objects, and the others with the reason and the object that it refers to."""

    objects: frozenset[ObjectId]
    named: Mapping[ObjectId, tuple[str, ObjectId | None]] = field(default_factory=dict)


def choose_surroundings(graph: Graph, choice: Choice, around: Around) -> Surroundings:
    """Return the included surroundings; views that no context lists belong to nobody."""
    near = _Near(graph, choice, around)
    taken, named = set[ObjectId](), dict[ObjectId, tuple[str, ObjectId | None]]()
    pending, decided = list(near.concerned()), set(near.known)
    while pending:
        object_id = pending.pop()
        if object_id in decided or object_id in named:
            continue
        group = graph.closure({object_id}, decided, named=False)[0]
        if reason := near.why_not(object_id, group):
            named[object_id] = reason
        else:
            taken |= group
            decided |= group
            pending += [other for member in group for other in near.named_by(member)]
            pending += near.of_types(group)
    taken = {object_id for object_id in taken if not graph.is_brought(object_id)}
    met = taken | named.keys() | near.known | near.theirs
    for object_id, other in graph.only_for(named, decided, met).items():
        named[object_id] = ("only {} needs it, and that is not in the backup", other)
    return Surroundings(frozenset(taken), named | near.relations_in_code())


@dataclass(frozen=True)
class _Near:
    graph: Graph
    choice: Choice
    around: Around

    @cached_property
    def known(self) -> frozenset[ObjectId]:
        """Objects for which the decision is made."""
        return self.choice.objects | self.choice.left_out.keys() | self.choice.with_them.keys()

    @cached_property
    def theirs(self) -> set[ObjectId]:
        """The objects that relations listed by other contexts need or consist of."""
        return self.graph.closure(self.graph.others & {*self.around.theirs}, self.choice.objects, theirs=True)[0]

    def concerned(self) -> Iterator[ObjectId]:
        """Yield objects that need the context, share its schemas, are named or database-wide."""
        bystanders = self.around.bystanders
        theirs, needing = self.theirs, self._needing()
        for object_id, facts in bystanders.items():
            resident = facts.schema in self.around.schemas and object_id not in theirs
            if facts.wide or resident or object_id in needing or object_id in self.around.asked:
                yield object_id
        for object_id, source in self.around.code.items():
            if object_id in bystanders and object_id not in theirs and not self._relations_of(source).isdisjoint(self.graph.own):
                yield object_id
        yield from self.of_types(self.choice.objects)

    def _needing(self) -> set[ObjectId]:
        """Return what needs a relation of the context and is no other context's relation."""
        needing, pending = set[ObjectId](), [d.dependent for relation in self.graph.own for d in self.graph.below[relation]]
        while pending:
            object_id = pending.pop()
            if object_id not in needing and object_id not in self.graph.foreign:
                needing.add(object_id)
                pending += [d.dependent for d in self.graph.below[object_id]]
                pending += [
                    d.referenced for d in self.graph.above[object_id] if d.kind == "i" and d.referenced not in self.graph.own
                ]
        return needing

    def of_types(self, objects: Iterable[ObjectId]) -> Iterator[ObjectId]:
        """Yield casts, operators … of types."""
        classes = {self.graph.classes[name] for name in OF_TYPES if name in self.graph.classes}
        for object_id in objects:
            if object_id[0] == self.graph.classes["pg_type"]:
                for dependency in self.graph.below[object_id]:
                    if dependency.dependent[0] in classes and dependency.dependent in self.around.bystanders:
                        yield dependency.dependent

    def named_by(self, object_id: ObjectId) -> Iterator[ObjectId]:
        """Yield the bystanders that an object's code names."""
        yield from (other for other in self.graph.mentions.get(object_id, ()) if other in self.around.bystanders)

    def why_not(self, object_id: ObjectId, group: Iterable[ObjectId]) -> tuple[str, ObjectId | None] | None:
        """Return why an object, with what it needs, is not included; None if it is."""
        if self.around.bystanders[object_id].wide:
            return "it belongs to the whole database, not to the context", None
        if object_id in self.around.unlisted:
            return self.around.unlisted[object_id], None
        for other in sorted(group):
            if other in self.around.unlisted:
                return "it needs {}, which no context lists", other
            facts = self.around.bystanders.get(other)
            if other in self.graph.lost:
                return "it needs {} of another context", self.graph.lost[other]
            if facts and not facts.plain:
                return "only a superuser can make {}", other
            if facts and facts.owner is not None and facts.owner not in self.around.owners and object_id not in self.around.asked:
                return f"{{}} belongs to {facts.owner}, a role that owns no table of the context", other
        return None

    def relations_in_code(self) -> dict[ObjectId, tuple[str, ObjectId | None]]:
        """Return other contexts' relations and extensions that code names without a dependency."""
        reasons = dict[ObjectId, tuple[str, ObjectId | None]]()
        for object_id in sorted(self.choice.objects & (self.around.code.keys() | self.graph.mentions.keys())):
            mentions = self.graph.mentions.get(object_id, set())
            named = self._relations_of(self.around.code.get(object_id, "")) & self.graph.others
            named |= {self.graph.foreign[other] for other in mentions & self.graph.foreign.keys()}
            beyond = {d.referenced for other in mentions & self.graph.beyond for d in self.graph.above[other] if d.kind == "e"}
            for other in sorted((named | beyond) - self.choice.objects):
                reasons.setdefault(other, ("the code of {} names it", object_id))
        return reasons

    def _relations_of(self, source: str) -> set[ObjectId]:
        """Return the relations that code names: with a bare name the context's, if it has it."""
        relations = set[ObjectId]()
        for schema, name in _names_of_relations(source):
            there = self._by_name.get(name, [])
            if schema:
                relations |= {relation for relation in there if self.around.relations[relation][0] == schema}
            else:
                relations |= {relation for relation in there if relation in self.graph.own} or {*there}
        return relations

    @cached_property
    def _by_name(self) -> Mapping[str, list[ObjectId]]:
        by_name = defaultdict[str, list[ObjectId]](list)
        for relation, (_, name) in self.around.relations.items():
            by_name[name].append(relation)
        return by_name


def _names_of_relations(source: str) -> Iterator[tuple[str, str]]:
    """Yield possible relations in code; unqualified names only after certain keywords."""
    for match in RELATION.finditer(COMMENT.sub(" ", source)):
        if match["schema"]:
            yield unfolded(match["schema"]), unfolded(match["name"])
        elif match["word"].strip():
            yield "", unfolded(match["name"])
