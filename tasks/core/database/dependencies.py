"""Which objects belong to a context: its relations, their parts, and what they need.

Objects are (classid, oid) as in pg_depend
(https://www.postgresql.org/docs/current/catalog-pg-depend.html). Names matter only for functions,
types and sequences named in the source of a chosen function, because PostgreSQL records no
dependencies of plpgsql bodies.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field

ObjectId = tuple[int, int]
WORD = re.compile(r"\w+")
# Unquoted names may contain a dollar sign, which also begins parameter numbers.
WORD_WITH_DOLLAR = re.compile(r"\w[\w$]*")

# auto, internal, and the two kinds of partition dependencies: such objects are dropped together
# with the referenced one.
BELONGING = frozenset("aiPS")
OTHERS_RELATIONS = frozenset("rpvmf")
# Lower oids belong to objects that every database has.
FIRST_OID = 16384
# What texts in defaults and trigger arguments may name: sequences, text search objects.
BY_TEXT = ("pg_class", "pg_ts_config", "pg_ts_dict")


@dataclass(frozen=True)
class Dependency:
    """A row of pg_depend: the object needs, or belongs to, the referenced one."""

    dependent: ObjectId
    referenced: ObjectId
    kind: str


@dataclass(frozen=True)
class NamedObject:
    """An object that code may name, with its own code; an object without a name only has code.

    A member of an extension counts as named only if it is `called` or cast to, and with its schema
    if PostgreSQL has an object of that name. `beyond` means that only a superuser can create the
    extension. `literal` code (defaults, triggers) consists of texts, which name no functions.
    """

    id: ObjectId
    name: str
    source: str = ""
    schema: str = ""
    called: bool = False
    shadowed: bool = False
    beyond: bool = False
    literal: bool = False


@dataclass(frozen=True)
class Catalogue:
    """The objects to choose from; `inline` defaults and checks come with their table or domain."""

    dependencies: list[Dependency]
    relation_kinds: Mapping[int, str]
    named: list[NamedObject]
    classes: Mapping[str, int]
    inline: frozenset[ObjectId] = frozenset()


@dataclass(frozen=True)
class Choice:
    """The context's objects, and the objects left out.

    These need another context's object, which is named, or are needed only by such objects. `torn`
    are relations of the context, or their defaults and checks, that need another context's
    relation: a set with one of them could not be restored.
    """

    objects: frozenset[ObjectId]
    left_out: Mapping[ObjectId, ObjectId]
    with_them: Mapping[ObjectId, ObjectId] = field(default_factory=dict)
    torn: Mapping[ObjectId, ObjectId] = field(default_factory=dict)


def choose_objects(graph: "Graph") -> Choice:
    """Return the context's relations with all objects that they need.

    Objects that need another context's relation are left out, and so are objects that only those
    need.
    """
    chosen, met = graph.closure(graph.own, graph.lost.keys() - graph.own)
    left_out = graph.topmost(met, met)
    # Members of extensions come with these.
    brought = {object_id for object_id in chosen - graph.own if graph.is_brought(object_id)}
    return Choice(
        frozenset(chosen - brought),
        {object_id: graph.lost[object_id] for object_id in sorted(left_out)},
        graph.only_for(left_out, chosen, met),
        graph.torn(),
    )


class Graph:
    """The dependency graph of a database's objects, seen from the context's relations.

    All other relations, except `neutral` ones and their partitions, belong to other contexts;
    `lost` maps each object that needs such a relation to that relation.
    """

    def __init__(self, catalogue: Catalogue, relations: Iterable[int], neutral: Iterable[int] = ()) -> None:
        pg_class = catalogue.classes["pg_class"]
        self.own = {(pg_class, oid) for oid in relations}
        self.classes = catalogue.classes
        self.above = defaultdict[ObjectId, list[Dependency]](list)
        self.below = defaultdict[ObjectId, list[Dependency]](list)
        for dependency in catalogue.dependencies:
            self.above[dependency.dependent].append(dependency)
            self.below[dependency.referenced].append(dependency)
        self._brought = self._parts_of({dependency.dependent for dependency in catalogue.dependencies if dependency.kind == "e"})
        known = self.own | self._with_belongings({(pg_class, oid) for oid in neutral}).keys()
        others = {(pg_class, oid) for oid, kind in catalogue.relation_kinds.items() if kind in OTHERS_RELATIONS} - known
        self.others = {relation for relation in others if not self.is_brought(relation)}
        self.mentions = _mentions(catalogue.named, {catalogue.classes[name] for name in BY_TEXT if name in catalogue.classes})
        self.foreign = self._with_belongings(self.others)
        self.beyond = {entry.id for entry in catalogue.named if entry.beyond}
        self._inline = catalogue.inline
        self.lost = self._lost()

    def closure(
        self, start: Iterable[ObjectId], barred: Set[ObjectId], *, theirs: bool = False, named: bool = True
    ) -> tuple[set[ObjectId], set[ObjectId]]:
        """Return all that the objects need, with its parts.

        Also return which of the `barred` objects are needed; the search stops there. Other
        contexts' relations are followed only with `theirs`, names in code only with `named`.
        """
        chosen, met, pending = set[ObjectId](), set[ObjectId](), list(start)
        while pending:
            object_id = pending.pop()
            if object_id not in chosen:
                chosen.add(object_id)
                # Functions are created without checking names, so others' objects that they name
                # are not needed.
                needed = {*self._needed(object_id, named=named), *self._belonging(object_id)}
                if not theirs:
                    needed = {other for other in needed if other not in self.foreign}
                met |= needed & barred
                pending += needed - met
        return chosen, met

    def only_for(self, left_out: Iterable[ObjectId], chosen: Set[ObjectId], met: Set[ObjectId]) -> dict[ObjectId, ObjectId]:
        """Return objects that only left-out objects need, each with one of these."""
        needs = dict[ObjectId, ObjectId]()
        for object_id in sorted(left_out):
            needed = {other for other in self.closure({object_id}, chosen)[0] - met if other[1] >= FIRST_OID}
            needs |= dict.fromkeys(sorted(self.topmost(needed, needed | met)), object_id)
        return needs

    def torn(self) -> dict[ObjectId, ObjectId]:
        """Return relations, or their defaults and checks, that need another context's relation."""
        torn = dict[ObjectId, ObjectId]()
        for relation in sorted(self.own & self.lost.keys()):
            reasons = [d.dependent for d in self.below[relation] if d.dependent in self._inline and d.dependent in self.lost]
            torn |= {reason: self.lost[reason] for reason in reasons or [relation]}
        return torn

    def topmost(self, objects: Set[ObjectId], among: Set[ObjectId]) -> set[ObjectId]:
        """Return the objects without parts of others, and without members of extensions."""
        part = {
            object_id for object_id in objects if any(d.kind in BELONGING and d.referenced in among for d in self.above[object_id])
        }
        return {object_id for object_id in objects - part if not self.is_brought(object_id)}

    def is_brought(self, object_id: ObjectId) -> bool:
        """Return whether an object is, or is part of, a member of an extension."""
        return object_id in self._brought

    def _needed(self, object_id: ObjectId, *, named: bool) -> Iterable[ObjectId]:
        """Return what an object cannot be created without, or the extension that it is part of."""
        above = self.above[object_id]
        extension = [dependency.referenced for dependency in above if dependency.kind == "e"]
        mentions = self.mentions.get(object_id, set()) - self.beyond if named else set()
        return extension or [*(dependency.referenced for dependency in above), *mentions]

    def _belonging(self, object_id: ObjectId) -> Iterable[ObjectId]:
        """Yield parts dropped with an object: indexes, constraints, defaults, triggers, rules …"""
        if object_id not in self.own and object_id[0] in (self.classes["pg_namespace"], self.classes["pg_extension"]):
            return
        # Membership in a publication also belongs to the publication, which is not ours.
        publication = self.classes.get("pg_publication_rel")
        for dependency in self.below[object_id]:
            if dependency.kind in BELONGING and dependency.dependent[0] != publication:
                yield dependency.dependent

    def _parts_of(self, objects: Iterable[ObjectId]) -> set[ObjectId]:
        """Return objects with their internal parts."""
        parts, pending = set[ObjectId](), list(objects)
        while pending:
            object_id = pending.pop()
            if object_id not in parts:
                parts.add(object_id)
                pending += [d.dependent for d in self.below[object_id] if d.kind == "i"]
        return parts

    def _with_belongings(self, relations: set[ObjectId]) -> dict[ObjectId, ObjectId]:
        """Return other contexts' relations and their parts, each with its relation."""
        belongings, pending = dict[ObjectId, ObjectId](), [(owner, owner) for owner in sorted(relations)]
        while pending:
            object_id, relation = pending.pop()
            if object_id not in belongings and object_id not in self.own:
                belongings[object_id] = object_id if object_id in relations else relation
                pending += [(d.dependent, belongings[object_id]) for d in self.below[object_id] if d.kind in BELONGING]
        return belongings

    def _lost(self) -> dict[ObjectId, ObjectId]:
        """Return every object that needs another context's relation, own relations included."""
        lost = dict[ObjectId, ObjectId]()
        pending = [(d.dependent, relation) for object_id, relation in self.foreign.items() for d in self.below[object_id]]
        while pending:
            object_id, relation = pending.pop()
            if object_id in lost or object_id in self.foreign or self.is_brought(object_id):
                continue
            lost[object_id] = relation
            if object_id not in self.own:
                pending += [(d.dependent, relation) for d in self.below[object_id]]
            # A view depends on its rule, an exclusion constraint on its index, a table on inline
            # defaults.
            made_with = BELONGING if object_id in self._inline else "i"
            pending += [(d.referenced, relation) for d in self.above[object_id] if d.kind in made_with]
        return lost


CALL = re.compile(r"""(?:(?P<schema>"[^"]+"|[^\W\d][\w$]*)\s*\.\s*)?(?P<name>"[^"]+"|[^\W\d][\w$]*)\s*\(""")
CAST = re.compile(r"""::\s*(?:(?P<schema>"[^"]+"|[^\W\d][\w$]*)\s*\.\s*)?(?P<name>"[^"]+"|[^\W\d][\w$]*)""")


def _mentions(named: list[NamedObject], by_text: Set[int]) -> dict[ObjectId, set[ObjectId]]:
    by_name, called = defaultdict[str, set[ObjectId]](set), defaultdict[str, set[ObjectId]](set)
    for entry in named:
        if entry.called:
            for name in (f"{entry.schema}.{entry.name}", *([] if entry.shadowed else [entry.name])):
                called[name].add(entry.id)
        elif entry.name:
            by_name[entry.name].add(entry.id)
    quoted = {name: '"' + name.replace('"', '""') + '"' for name in by_name if not WORD.fullmatch(name)}
    mentions = dict[ObjectId, set[ObjectId]]()
    for entry in named:
        mentioned = {other for name in _names_in(entry.source, quoted) for other in by_name.get(name, ())}
        calls = {other for name in _calls_in(entry.source) for other in called.get(name, ())} if called else set[ObjectId]()
        mentions[entry.id] = {other for other in mentioned if other[0] in by_text} if entry.literal else mentioned | calls
    return mentions


def _calls_in(source: str) -> Iterator[str]:
    """Yield names that are called or cast to, bare, or qualified if the source qualifies them."""
    for match in (*CALL.finditer(source), *CAST.finditer(source)):
        name = unfolded(match["name"])
        yield f"{unfolded(match['schema'])}.{name}" if match["schema"] else name


def unfolded(name: str) -> str:
    """Return an identifier of code as the catalog has it."""
    return name[1:-1].replace('""', '"') if name.startswith('"') else name.lower()


def _names_in(source: str, quoted: Mapping[str, str]) -> set[str]:
    """Return the words of a source, and quoted identifiers among the known names."""
    return _words(source) | {name for name, spelled in quoted.items() if spelled in source}


def _words(source: str) -> set[str]:
    """Return the words of a source as written, and folded to lower case as PostgreSQL does."""
    words = set(WORD.findall(source)) | set(WORD_WITH_DOLLAR.findall(source))
    return words | {word.lower() for word in words}
