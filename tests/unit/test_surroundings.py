"""What stands around a context: taken along, or named."""

from collections.abc import Iterable, Mapping, Sequence

import pytest

from tasks.core.database.dependencies import Catalogue, Dependency, Graph, NamedObject, ObjectId, choose_objects
from tasks.core.database.surroundings import Around, Bystander, Surroundings, choose_surroundings

CLASSES = {"pg_class": 1, "pg_proc": 2, "pg_type": 3, "pg_namespace": 4, "pg_extension": 5, "pg_publication_rel": 6, "pg_cast": 7}
OURS, THEIRS, VIEW = ((1, oid) for oid in (20000, 20001, 20002))
NAMES = {OURS: ("app", "teams"), THEIRS: ("other", "log"), VIEW: ("app", "shown")}
SCHEMA, ELSEWHERE = 30000, 30001
RULE, CAST, PUBLICATION = (8, 1), (7, 16500), (9, 16501)


def function(oid: int) -> ObjectId:
    return (2, 16400 + oid)


def stands(one: ObjectId, schema: int | None = SCHEMA, owner: str | None = "us", **facts: bool) -> Bystander:
    return Bystander(one, schema, owner, facts.get("plain", True), facts.get("wide", False))


def look_around(
    edges: Iterable[tuple[ObjectId, ObjectId, str]], bystanders: Sequence[Bystander], code: Mapping[ObjectId, str] | None = None
) -> Surroundings:  # fmt: skip
    named = [NamedObject(one, f"f{one[1] - 16400}", source) for one, source in (code or {}).items()]
    kinds = {OURS[1]: "r", THEIRS[1]: "r", VIEW[1]: "v"}
    catalogue = Catalogue([Dependency(*edge) for edge in edges], kinds, named, CLASSES)
    choice = choose_objects(Graph(catalogue, [OURS[1]]))
    around = Around({SCHEMA}, {"us"}, NAMES, code or {}, {one.id: one for one in bystanders}, theirs={THEIRS})
    return choose_surroundings(Graph(catalogue, [OURS[1]], [VIEW[1]]), choice, around)


def test_a_view_that_no_other_context_has_comes_along() -> None:
    found = look_around([(RULE, VIEW, "i"), (RULE, OURS, "n")], [stands(VIEW, ELSEWHERE)])
    assert (found.objects, found.named) == ({VIEW, RULE}, {})


def test_a_view_over_anothers_table_is_named() -> None:
    found = look_around([(RULE, VIEW, "i"), (RULE, OURS, "n"), (RULE, THEIRS, "n")], [stands(VIEW)])
    assert (found.objects, found.named) == (frozenset(), {VIEW: ("it needs {} of another context", THEIRS)})


@pytest.mark.parametrize(
    ("facts", "taken", "named"),
    [
        (stands(function(1)), True, False),
        (stands(function(1), ELSEWHERE), False, False),
        (stands(function(1), owner="them"), False, True),
        (stands(function(1), plain=False), False, True),
    ],
)
def test_what_lives_in_the_schema_is_taken_if_an_owner_may_make_it(facts: Bystander, taken: bool, named: bool) -> None:
    found = look_around([], [facts])
    assert (function(1) in found.objects, function(1) in found.named) == (taken, named)


def test_what_anothers_relation_needs_is_its() -> None:
    trigger = (10, 1)
    found = look_around([(trigger, THEIRS, "a"), (trigger, function(1), "n")], [stands(function(1))])
    assert (found.objects, found.named) == (frozenset(), {})


@pytest.mark.parametrize(
    ("source", "is_ours"),
    [
        ("SELECT * FROM app.teams", True), ("DELETE FROM ONLY teams", True), ("RETURN teams", False), ("-- FROM teams", False),
        ('UPDATE "teams" SET a = 1', True), ('UPDATE "Teams" SET a = 1', False), ("SELECT * FROM other.teams", False),
        ("RETURN (SELECT count(*) FROM TEAMS)", True),
    ],
)  # fmt: skip
def test_code_that_names_a_relation_of_the_context_comes_along(source: str, is_ours: bool) -> None:
    found = look_around([], [stands(function(1), ELSEWHERE)], {function(1): source})
    assert (function(1) in found.objects) is is_ours


def test_what_code_of_the_taken_names_comes_along_or_is_named() -> None:
    code = {function(1): "RETURN f2() + f3()", function(2): "RETURN 1", function(3): "RETURN 1"}
    found = look_around([], [stands(function(1)), stands(function(2), ELSEWHERE), stands(function(3), ELSEWHERE, "them")], code)
    assert found.objects == {function(1), function(2)}
    assert found.named == {function(3): ("{} belongs to them, a role that owns no table of the context", function(3))}


def test_a_relation_of_others_that_the_contexts_code_names_is_named() -> None:
    trigger = (10, 1)
    code = {function(1): "INSERT INTO other.log VALUES (1)"}
    found = look_around([(trigger, OURS, "a"), (trigger, function(1), "n")], [stands(function(1))], code)
    assert found.named == {THEIRS: ("the code of {} names it", function(1))}


def test_casts_of_types_that_are_used_come_along_and_what_is_wide_does_not() -> None:
    kind, unused = (3, 16600), (3, 16601)
    edges = [(OURS, kind, "n"), (CAST, kind, "n"), ((7, 16502), unused, "n")]
    facts = [
        stands(CAST, None, None), stands((7, 16502), None, None), stands(PUBLICATION, None, None, wide=True),
        stands(kind), stands(unused, ELSEWHERE),
    ]  # fmt: skip
    found = look_around(edges, facts)
    assert found.objects == {CAST}
    assert found.named == {PUBLICATION: ("it belongs to the whole database, not to the context", None)}
