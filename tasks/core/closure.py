"""Which objects of a database are the context's: its relations, what belongs to them, and what they need.

Objects are (classid, oid) as in pg_depend (https://www.postgresql.org/docs/current/catalog-pg-depend.html); names decide
nothing but one thing: functions, types and sequences named in the source of a chosen function, because PostgreSQL records
no dependency for what plpgsql mentions.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

ObjectId = tuple[int, int]
WORD = re.compile(r"\w+")
# What else a name may hold without quotes is the dollar sign, which elsewhere stands before a parameter's number.
WORD_WITH_DOLLAR = re.compile(r"\w[\w$]*")

# auto, internal, and the two ends of a partitioned object: what lives and dies with its owner.
BELONGING = frozenset("aiPS")
OTHERS_RELATIONS = frozenset("rpvmf")


@dataclass(frozen=True)
class Dependency:
    """One row of pg_depend: the object needs, or belongs to, the referenced one."""

    dependent: ObjectId
    referenced: ObjectId
    kind: str


@dataclass(frozen=True)
class NamedObject:
    """A function, type or sequence, with the source if it is a function."""

    id: ObjectId
    name: str
    source: str


@dataclass(frozen=True)
class Catalogue:
    """What the choice is made from."""

    dependencies: list[Dependency]
    relation_kinds: Mapping[int, str]
    named: list[NamedObject]
    classes: Mapping[str, int]


@dataclass(frozen=True)
class Choice:
    """The context's objects, and the topmost ones left out because they need another context's relations.

    `torn` are relations of the context itself among these: with one of them nothing can be restored.
    """

    objects: frozenset[ObjectId]
    left_out: frozenset[ObjectId]
    torn: frozenset[ObjectId] = frozenset()


@dataclass
class _Edges:
    below: dict[ObjectId, list[Dependency]] = field(default_factory=lambda: defaultdict(list))
    above: dict[ObjectId, list[Dependency]] = field(default_factory=lambda: defaultdict(list))


def choose_objects(catalogue: Catalogue, relations: Iterable[int]) -> Choice:
    """Return the closure over relations (oids of tables, leaves and views of the context)."""
    pg_class = catalogue.classes["pg_class"]
    own = {(pg_class, oid) for oid in relations}
    edges = _edges(catalogue.dependencies)
    others = {(pg_class, oid) for oid, kind in catalogue.relation_kinds.items() if kind in OTHERS_RELATIONS} - own
    foreign = others | _with_belongings(others, own, edges)
    # A function is made without a look at what it names, so another context's sequence is nothing that it cannot be made without.
    mentions = {one: named - foreign for one, named in _mentions(catalogue.named).items()}
    chosen, pending, blocked = set[ObjectId](), list(own), set[ObjectId]()
    while pending:
        one = pending.pop()
        if one in chosen:
            continue
        chosen.add(one)
        for needed in _needed(one, edges, mentions):
            if needed in foreign:
                blocked.add(one)
            else:
                pending.append(needed)
        pending += _belonging(one, own, foreign, edges, catalogue.classes)
    lost = _dependants(blocked - own, chosen, edges)
    # A view is its rule: without what the rule reads there is no view.
    rules = {one for one in lost if one[0] == catalogue.classes.get("pg_rewrite")}
    torn = own & (lost | {d.referenced for rule in rules for d in edges.above.get(rule, []) if d.kind == "i"})
    part = {one for one in lost if any(d.kind in BELONGING and d.referenced in lost for d in edges.above.get(one, []))}
    # What an extension brings with it is the extension's.
    brought = {one for one in chosen - own if any(d.kind == "e" for d in edges.above.get(one, []))}
    return Choice(frozenset(chosen - lost - brought), frozenset(lost - part), frozenset(torn))


def _edges(dependencies: Iterable[Dependency]) -> _Edges:
    edges = _Edges()
    for one in dependencies:
        edges.above[one.dependent].append(one)
        edges.below[one.referenced].append(one)
    return edges


def _with_belongings(relations: set[ObjectId], own: set[ObjectId], edges: _Edges) -> set[ObjectId]:
    """Return other contexts' relations with their indexes, keys, row types …: a key of ours may need their index."""
    found, pending = set[ObjectId](), list(relations)
    while pending:
        one = pending.pop()
        if one not in found and one not in own:
            found.add(one)
            pending += [d.dependent for d in edges.below.get(one, []) if d.kind in BELONGING]
    return found


def _mentions(named: list[NamedObject]) -> dict[ObjectId, set[ObjectId]]:
    by_name = defaultdict[str, set[ObjectId]](set)
    for one in named:
        by_name[one.name].add(one.id)
    quoted = {name: '"' + name.replace('"', '""') + '"' for name in by_name if not WORD.fullmatch(name)}
    return {one.id: {found for name in _names_in(one.source, quoted) for found in by_name.get(name, ())} for one in named}


def _names_in(source: str, quoted: Mapping[str, str]) -> set[str]:
    """Return the words of a source, and of names that are no words those that stand there in quotes."""
    return _words(source) | {name for name, spelled in quoted.items() if spelled in source}


def _words(source: str) -> set[str]:
    """Return the words of a source as written and folded to lower case, as PostgreSQL folds names without quotes."""
    words = set(WORD.findall(source)) | set(WORD_WITH_DOLLAR.findall(source))
    return words | {word.lower() for word in words}


def _needed(one: ObjectId, edges: _Edges, mentions: Mapping[ObjectId, set[ObjectId]]) -> Iterable[ObjectId]:
    """Yield what an object cannot be made without; a member of an extension comes with the extension."""
    above = edges.above.get(one, [])
    extension = [dependency.referenced for dependency in above if dependency.kind == "e"]
    return extension or [*(dependency.referenced for dependency in above), *mentions.get(one, ())]


def _belonging(
    one: ObjectId, own: set[ObjectId], foreign: set[ObjectId], edges: _Edges, classes: Mapping[str, int]
) -> list[ObjectId]:
    """Return what lives and dies with an object: indexes, constraints, defaults, triggers, rules, owned sequences …"""
    if one not in own and one[0] in (classes["pg_namespace"], classes["pg_extension"]):
        return []
    # Membership in a publication belongs to the publication as well, which is not ours.
    publication = classes.get("pg_publication_rel")
    return [
        dependency.dependent
        for dependency in edges.below.get(one, [])
        if dependency.kind in BELONGING and dependency.dependent not in foreign and dependency.dependent[0] != publication
    ]


def _dependants(blocked: set[ObjectId], chosen: set[ObjectId], edges: _Edges) -> set[ObjectId]:
    """Return the blocked objects and every chosen one that needs one of them."""
    lost, pending = set[ObjectId](), list(blocked)
    while pending:
        one = pending.pop()
        if one in lost:
            continue
        lost.add(one)
        pending += [d.dependent for d in edges.below.get(one, []) if d.dependent in chosen]
    return lost
