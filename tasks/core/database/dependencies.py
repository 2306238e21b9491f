"""Which objects of a database are the context's: its relations, what belongs to them, and what they need.

Objects are (classid, oid) as in pg_depend (https://www.postgresql.org/docs/current/catalog-pg-depend.html); names decide
nothing but one thing: functions, types and sequences named in the source of a chosen function, because PostgreSQL records
no dependency for what plpgsql mentions.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field

ObjectId = tuple[int, int]
WORD = re.compile(r"\w+")
# What else a name may hold without quotes is the dollar sign, which elsewhere stands before a parameter's number.
WORD_WITH_DOLLAR = re.compile(r"\w[\w$]*")

# auto, internal, and the two ends of a partitioned object: what lives and dies with its owner.
BELONGING = frozenset("aiPS")
OTHERS_RELATIONS = frozenset("rpvmf")
# What has a lower number is made with every database.
FIRST_OID = 16384
# What texts in defaults and arguments of triggers may name: sequences, and what text is searched with.
BY_TEXT = ("pg_class", "pg_ts_config", "pg_ts_dict")


@dataclass(frozen=True)
class Dependency:
    """One row of pg_depend: the object needs, or belongs to, the referenced one."""

    dependent: ObjectId
    referenced: ObjectId
    kind: str


@dataclass(frozen=True)
class NamedObject:
    """What code names, with its own code if it has some; without a name, what only has code.

    What an extension brings counts as named only where it is `called`, or cast to, and by its schema if PostgreSQL has the like;
    it is `beyond` owners if only a superuser can make the extension. Of a default or a trigger only texts are code: `literal`,
    which name no functions.
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
    """What the choice is made from.

    `inline` are defaults and checks that are made with the table, or the domain, that they are of.
    """

    dependencies: list[Dependency]
    relation_kinds: Mapping[int, str]
    named: list[NamedObject]
    classes: Mapping[str, int]
    inline: frozenset[ObjectId] = frozenset()


@dataclass(frozen=True)
class Choice:
    """The context's objects; those left out, each with what of others it needs; and what only these need.

    `torn` are relations of the context itself that cannot be made without another context's, or the defaults and checks for which
    they cannot: with one of them nothing can be restored.
    """

    objects: frozenset[ObjectId]
    left_out: Mapping[ObjectId, ObjectId]
    with_them: Mapping[ObjectId, ObjectId] = field(default_factory=dict)
    torn: Mapping[ObjectId, ObjectId] = field(default_factory=dict)


def choose_objects(graph: "Graph") -> Choice:
    """Return the closure over the context's relations.

    What cannot be made without another context's relation is left out, and so is what nothing else of the context needs.
    """
    chosen, met = graph.closure(graph.own, graph.lost.keys() - graph.own)
    left_out = graph.topmost(met, met)
    # What an extension brings with it is the extension's.
    brought = {one for one in chosen - graph.own if graph.is_brought(one)}
    return Choice(
        frozenset(chosen - brought), {one: graph.lost[one] for one in sorted(left_out)},
        graph.only_for(left_out, chosen, met), graph.torn(),
    )  # fmt: skip


class Graph:
    """What the objects of a database need, and what belongs to them, seen from some relations.

    Relations that are neither these nor `neutral` are other contexts'; what needs one of them is `lost`, with that one.
    """

    def __init__(self, catalogue: Catalogue, relations: Iterable[int], neutral: Iterable[int] = ()) -> None:
        pg_class = catalogue.classes["pg_class"]
        self.own = {(pg_class, oid) for oid in relations}
        self.classes = catalogue.classes
        self.above = defaultdict[ObjectId, list[Dependency]](list)
        self.below = defaultdict[ObjectId, list[Dependency]](list)
        for one in catalogue.dependencies:
            self.above[one.dependent].append(one)
            self.below[one.referenced].append(one)
        self._brought = self._parts_of({one.dependent for one in catalogue.dependencies if one.kind == "e"})
        known = self.own | {(pg_class, oid) for oid in neutral}
        others = {(pg_class, oid) for oid, kind in catalogue.relation_kinds.items() if kind in OTHERS_RELATIONS} - known
        self.others = {one for one in others if not self.is_brought(one)}
        self.mentions = _mentions(catalogue.named, {catalogue.classes[name] for name in BY_TEXT if name in catalogue.classes})
        self.foreign = self._with_belongings(self.others)
        self.beyond = {one.id for one in catalogue.named if one.beyond}
        self._inline = catalogue.inline
        self.lost = self._lost()

    def closure(
        self, start: Iterable[ObjectId], barred: Set[ObjectId], *, theirs: bool = False, named: bool = True
    ) -> tuple[set[ObjectId], set[ObjectId]]:  # fmt: skip
        """Return all that some objects need, with what belongs to it, up to what is barred; and what of this was met.

        Other contexts' relations are not followed unless it is `theirs`; what code names, only if `named`.
        """
        chosen, met, pending = set[ObjectId](), set[ObjectId](), list(start)
        while pending:
            one = pending.pop()
            if one not in chosen:
                chosen.add(one)
                # A function is made without a look at what it names, so what of this is another context's it can be made without.
                found = {*self._needed(one, named=named), *self._belonging(one)}
                if not theirs:
                    found = {other for other in found if other not in self.foreign}
                met |= found & barred
                pending += found - met
        return chosen, met

    def only_for(self, left_out: Iterable[ObjectId], chosen: Set[ObjectId], met: Set[ObjectId]) -> dict[ObjectId, ObjectId]:
        """Return what objects that are left out need besides the chosen ones, each with one of them."""
        found = dict[ObjectId, ObjectId]()
        for one in sorted(left_out):
            needed = {other for other in self.closure({one}, chosen)[0] - met if other[1] >= FIRST_OID}
            found |= dict.fromkeys(sorted(self.topmost(needed, needed | met)), one)
        return found

    def torn(self) -> dict[ObjectId, ObjectId]:
        """Return own relations that are lost, or in their place the defaults and checks for which they are."""
        torn = dict[ObjectId, ObjectId]()
        for one in sorted(self.own & self.lost.keys()):
            reasons = [d.dependent for d in self.below[one] if d.dependent in self._inline and d.dependent in self.lost]
            torn |= {reason: self.lost[reason] for reason in reasons or [one]}
        return torn

    def topmost(self, objects: Set[ObjectId], among: Set[ObjectId]) -> set[ObjectId]:
        """Return the objects but for those that belong to others, and what extensions bring."""
        part = {one for one in objects if any(d.kind in BELONGING and d.referenced in among for d in self.above[one])}
        return {one for one in objects - part if not self.is_brought(one)}

    def is_brought(self, one: ObjectId) -> bool:
        """Say whether an extension brings it, or what it is part of."""
        return one in self._brought

    def _needed(self, one: ObjectId, *, named: bool) -> Iterable[ObjectId]:
        """Return what an object cannot be made without; a member of an extension comes with the extension."""
        above = self.above[one]
        extension = [dependency.referenced for dependency in above if dependency.kind == "e"]
        mentions = self.mentions.get(one, set()) - self.beyond if named else set()
        return extension or [*(dependency.referenced for dependency in above), *mentions]

    def _belonging(self, one: ObjectId) -> Iterable[ObjectId]:
        """Yield what lives and dies with an object: indexes, constraints, defaults, triggers, rules, owned sequences …"""
        if one not in self.own and one[0] in (self.classes["pg_namespace"], self.classes["pg_extension"]):
            return
        # Membership in a publication belongs to the publication as well, which is not ours.
        publication = self.classes.get("pg_publication_rel")
        for dependency in self.below[one]:
            if dependency.kind in BELONGING and dependency.dependent[0] != publication:
                yield dependency.dependent

    def _parts_of(self, objects: Iterable[ObjectId]) -> set[ObjectId]:
        """Return objects with what is internal to them."""
        found, pending = set[ObjectId](), list(objects)
        while pending:
            one = pending.pop()
            if one not in found:
                found.add(one)
                pending += [d.dependent for d in self.below[one] if d.kind == "i"]
        return found

    def _with_belongings(self, relations: set[ObjectId]) -> dict[ObjectId, ObjectId]:
        """Return other contexts' relations with their indexes, keys, row types …, each with the relation that it belongs to."""
        found, pending = dict[ObjectId, ObjectId](), [(one, one) for one in sorted(relations)]
        while pending:
            one, relation = pending.pop()
            if one not in found and one not in self.own:
                found[one] = one if one in relations else relation
                pending += [(d.dependent, found[one]) for d in self.below[one] if d.kind in BELONGING]
        return found

    def _lost(self) -> dict[ObjectId, ObjectId]:
        """Return every object that cannot be made without another context's relation; own relations among them."""
        lost = dict[ObjectId, ObjectId]()
        pending = [(d.dependent, relation) for one, relation in self.foreign.items() for d in self.below[one]]
        while pending:
            one, relation = pending.pop()
            if one in lost or one in self.foreign or self.is_brought(one):
                continue
            lost[one] = relation
            if one not in self.own:
                pending += [(d.dependent, relation) for d in self.below[one]]
            # A view is its rule, an exclusion constraint its index, and a table is made with its defaults and checks.
            made_with = BELONGING if one in self._inline else "i"
            pending += [(d.referenced, relation) for d in self.above[one] if d.kind in made_with]
        return lost


CALL = re.compile(r"""(?:(?P<schema>"[^"]+"|[^\W\d][\w$]*)\s*\.\s*)?(?P<name>"[^"]+"|[^\W\d][\w$]*)\s*\(""")
CAST = re.compile(r"""::\s*(?:(?P<schema>"[^"]+"|[^\W\d][\w$]*)\s*\.\s*)?(?P<name>"[^"]+"|[^\W\d][\w$]*)""")


def _mentions(named: list[NamedObject], by_text: Set[int]) -> dict[ObjectId, set[ObjectId]]:
    by_name, called = defaultdict[str, set[ObjectId]](set), defaultdict[str, set[ObjectId]](set)
    for one in named:
        if one.called:
            for name in (f"{one.schema}.{one.name}", *([] if one.shadowed else [one.name])):
                called[name].add(one.id)
        elif one.name:
            by_name[one.name].add(one.id)
    quoted = {name: '"' + name.replace('"', '""') + '"' for name in by_name if not WORD.fullmatch(name)}
    mentions = dict[ObjectId, set[ObjectId]]()
    for one in named:
        found = {other for name in _names_in(one.source, quoted) for other in by_name.get(name, ())}
        calls = {other for name in _calls_in(one.source) for other in called.get(name, ())} if called else set[ObjectId]()
        mentions[one.id] = {other for other in found if other[0] in by_text} if one.literal else found | calls
    return mentions


def _calls_in(source: str) -> Iterator[str]:
    """Yield the names that are called or cast to, bare and with the schema that stands there."""
    for found in (*CALL.finditer(source), *CAST.finditer(source)):
        name = unfolded(found["name"])
        yield f"{unfolded(found['schema'])}.{name}" if found["schema"] else name


def unfolded(name: str) -> str:
    """Return a name of code as the catalogue has it."""
    return name[1:-1].replace('""', '"') if name.startswith('"') else name.lower()


def _names_in(source: str, quoted: Mapping[str, str]) -> set[str]:
    """Return the words of a source, and of names that are no words those that stand there in quotes."""
    return _words(source) | {name for name, spelled in quoted.items() if spelled in source}


def _words(source: str) -> set[str]:
    """Return the words of a source as written and folded to lower case, as PostgreSQL folds names without quotes."""
    words = set(WORD.findall(source)) | set(WORD_WITH_DOLLAR.findall(source))
    return words | {word.lower() for word in words}
