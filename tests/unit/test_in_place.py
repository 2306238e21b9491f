"""What a merge into a live database would do, as it is judged and told."""

from typing import Any
from zoneinfo import ZoneInfo

import pytest

from tasks.core.checks.definition import Severity
from tasks.core.database.objects import InventoryItem
from tasks.core.errors import BadInput
from tasks.core.in_place.objects import How, ObjectChange, Remedy
from tasks.core.in_place.plan import Change, Collision, Effect, Merged, MergePlan, Need, drift, trigger_states
from tasks.core.in_place.report import (
    Beside,
    beside_report,
    merged_report,
    merged_verdict,
    plan_report,
    plan_verdict,
    unchanged_report,
    unchanged_verdict,
)
from tasks.core.in_place.request import Drift, Keys, Mode, Request, name_beside, parse_keys, tables_named
from tasks.core.postgres.archive_toc import entries_of, parse_list
from tasks.core.sql.names import plain_name, table_of_column
from tests.support import samples

ZONE = ZoneInfo("Asia/Tokyo")


def item(kind: str, name: str, parent: str = "", state: str = "") -> InventoryItem:
    return InventoryItem(kind=kind, name=name, parent=parent, columns="", state=state)


def plan(*changes: Change, **more: Any) -> MergePlan:
    return MergePlan("bc-004_full_20251103_020000_3f9c", samples.INSTANT, "consulting_tool", changes, **more)


RELATION = samples.relation(columns=["id", "名"], types=["uuid", "text"])


@pytest.mark.parametrize(
    ("columns", "types", "said"),
    [
        (["id", "名"], ["uuid", "text"], []),
        (["名", "id"], ["text", "uuid"], []),
        (["id"], ["uuid"], ["public.teams no longer has column 名"]),
        (["id", "名", "x"], ["uuid", "text", "date"], ["public.teams has a column x date that the set does not have"]),
        (["id", "名"], ["uuid", "bytea"], ["public.teams.名 has type bytea, in the set text"]),
    ],
)
def test_drift(columns: list[str], types: list[str], said: list[str]) -> None:
    assert drift(RELATION, columns, types) == said


def test_an_older_set_does_not_know_its_types() -> None:
    assert drift(samples.relation(columns=["id"]), ["id"], ["uuid"]) == []


@pytest.mark.parametrize(
    ("on_delete", "rows", "accepted", "refused"),
    [
        ("NO ACTION", 0, False, False), ("NO ACTION", 1, True, True), ("NO ACTION", None, False, False),
        ("CASCADE", 0, False, False), ("CASCADE", 1, False, True), ("CASCADE", 1, True, False), ("CASCADE", None, False, True),
        ("SET NULL", 1, False, True), ("SET NULL", None, True, False), ("RESTRICT", 1, True, True),
    ],
)  # fmt: skip
def test_effects_on_others(on_delete: str, rows: int | None, accepted: bool, refused: bool) -> None:
    assert Effect("k", "bc005.notes", on_delete, rows).is_refused(accepted=accepted) is refused


def test_states_of_triggers() -> None:
    found = [
        item("trigger", "a", "public.t", "CREATE TRIGGER a … | enabled O | comment … | enabled D"),
        item("trigger", "b", "public.t", "CREATE TRIGGER b … | enabled R"), item("index", "public.i", "public.t", "… | enabled D"),
    ]  # fmt: skip
    assert trigger_states(found) == {("public.t", "a"): "ENABLE", ("public.t", "b"): "ENABLE REPLICA"}


def test_verdicts() -> None:
    assert plan_verdict(plan(Change("public.t", 3, 3, unchanged=True))) == "PLANNED, nothing touched: nothing differs"
    said = plan_verdict(plan(Change("public.t", 4, 3, 1, 2, 2), Change("public.u", 0, 0)))
    assert said.startswith("PLANNED, nothing touched: 1 rows to insert, 2 to update, 2 to delete in 1 relations: database")
    assert plan_verdict(plan(refusals=["because"])) == "REFUSED, nothing touched: because"


def test_nothing_differs_only_where_nothing_does() -> None:
    same = Change("public.t", 3, 3, unchanged=True)
    left = ObjectChange("index public.i differs", Severity.WARNING, Remedy(How.ALTER, "REINDEX", "because"), is_done=False)
    skipped = Collision("public.t", "t_key", ("id",), ("1",), ("2",))
    assert unchanged_verdict(plan(same)).startswith("RESTORED: nothing differs, nothing was touched")
    for more, word in (
        ({"objects": [left]}, "RESTORED, BUT OBJECTS DIFFER"), ({"skipped": [skipped]}, "RESTORED, BUT ROWS WERE SKIPPED"),
        ({"not_compared": "definitions were not compared"}, "RESTORED"),
    ):  # fmt: skip
        planned = plan(same, **more)
        assert "nothing differs" not in plan_verdict(planned) + unchanged_verdict(planned)
        assert unchanged_verdict(planned).startswith(f"{word}: ")
    assert "because" in unchanged_report(plan(same, objects=[left]))
    done = merged_verdict(plan(same), Merged(0, 0, 0, [], 0.5, {}, "", [same], left=[left]))
    assert done.startswith("RESTORED, BUT OBJECTS DIFFER: ")


def test_reports() -> None:
    made = ObjectChange("index public.i is missing", Severity.WARNING, Remedy(How.CREATE), is_done=True)
    gone = ObjectChange("index public.j was not in the source", Severity.WARNING, Remedy(How.DROP), is_done=True)
    lasts = "index public.k: INVALID was [], is [yes]; it stays built again"
    change, effect = Change("public.t", 4, 3, 1, 2, 2), Effect("k", "x", "CASCADE", 1)
    planned = plan(change, objects=[made, gone], effects=[effect], not_undone=[lasts])
    assert "1 object to create, 1 object to drop: " in plan_verdict(planned)
    assert plan_verdict(planned).endswith("; an undo would not revert 1 of its changes, see the report")
    text = plan_report(planned, ZONE, "the command")
    assert "the command" in text
    assert "- index public.i" in text
    assert "foreign key k of x (ON DELETE CASCADE): 1 rows refer to rows that would be deleted or changed" in text
    assert "the command" not in plan_report(plan(refusals=["because"]), ZONE, "the command")
    done = merged_report(planned, Merged(1, 2, 2, [made], 0.5, {"writing": 0.4}, "the undo", planned.changes, ["a view"]))
    assert done.startswith("# RESTORED\n")
    assert "the undo" in done
    assert lasts in done
    assert lasts in text
    assert "- a view" in done


LISTED = """
215; 1259 16400 TABLE public teams owner
216; 1259 16401 TABLE public teams other owner
217; 2604 16402 DEFAULT public teams id owner
3300; 2606 16410 CONSTRAINT public teams teams_pkey owner
3301; 2606 16411 FK CONSTRAINT public teams teams_fkey owner
3302; 1259 16412 INDEX public teams_name_idx owner
3303; 2620 16413 TRIGGER public teams counted owner
230; 1255 16414 FUNCTION public count_them(integer, text) owner
231; 1259 16415 TABLE Büro.x Große "T" owner
3304; 2606 16416 CHECK CONSTRAINT public of two lines and two owner
"""


@pytest.mark.parametrize(
    ("missing", "ids"),
    [
        (item("index", "public.teams_name_idx", "public.teams"), {3302}),
        (item("constraint", "teams_fkey", "public.teams"), {3301}),
        (item("trigger", "counted", "public.teams"), {3303}),
        (item("function", "public.count_them(integer, text)"), {230}),
        (item("table", '"Büro.x"."Große ""T"""'), {231}),
        (item("index", "public.teams_pkey", "public.teams"), set()),
        (item("constraint", "and\ntwo", 'public."of two\nlines"'), {3304}),
    ],
)
def test_entries_of_what_is_missing(missing: InventoryItem, ids: set[int]) -> None:
    assert entries_of([missing], parse_list(LISTED)) == ids


@pytest.mark.parametrize(
    ("column", "table"),
    [
        ("public.teams.id", "public.teams"), ('public.teams."a.b"', "public.teams"), ('"a.b"."c""."."d""."', '"a.b"."c""."'),
        ('public."two\nlines".n', 'public."two\nlines"'),
    ],
)  # fmt: skip
def test_the_table_of_a_column(column: str, table: str) -> None:
    assert table_of_column(column) == table


def test_a_name_of_several_lines_is_kept_where_it_is_no_title() -> None:
    assert plain_name('public."two\nlines"') == "public.two\nlines"


def test_a_table_comes_with_its_defaults() -> None:
    # Names have no quotes in the list: one that begins as another's is taken too, and is found to be there.
    assert entries_of([item("table", "public.teams")], parse_list(LISTED)) == {215, 216, 217}


# One table


@pytest.mark.parametrize(
    ("said", "understood"),
    [
        ("id > 'a'", "id > 'a'"),
        (["a", 1], [{"id": "a"}, {"id": "1"}]),
        (' ["a"]', [{"id": "a"}]),
        ([{"at": "2025-01-01", "id": "a"}], [{"at": "2025-01-01", "id": "a"}]),
        ([True], [{"id": "true"}]),
    ],
)
def test_keys(said: Keys, understood: object) -> None:
    assert parse_keys(said, ["id", "at"]) == understood


@pytest.mark.parametrize(
    ("said", "key", "refused"),
    [
        ("id > 1", [], "has no primary key"),
        ("  ", ["id"], "keys is empty"),
        ([], ["id"], "name rows by values of id"),
        ("[1", ["id"], "not a JSON list"),
        ([{"x": 1}], ["id"], "the same selection of the key columns id"),
        ([{"id": 1}, {"at": 1}], ["id", "at"], "the same selection of the key columns id, at"),
        ([None], ["id"], "is not a value of a key column"),
    ],
)
def test_wrong_keys(said: Any, key: list[str], refused: str) -> None:
    with pytest.raises(BadInput, match=refused):
        parse_keys(said, key)


PARENTS = {"public.t": "", "public.t_1": "public.t", "public.t_1_a": "public.t_1", "public.u": "", 'Büro.x "y"': ""}


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("t", {"public.t", "public.t_1", "public.t_1_a"}),
        ("public.t_1", {"public.t_1", "public.t_1_a"}),
        ("u", {"public.u"}),
        ('"Büro"."x ""y"""', {'Büro.x "y"'}),
    ],
)
def test_tables_are_named(said: str, found: set[str]) -> None:
    assert tables_named(said, "public", PARENTS, "in the set") == found


def test_unknown_table() -> None:
    with pytest.raises(BadInput, match=r'table "v" is not in the set; name one of .*public.t, public.u, or a partition'):
        tables_named("v", "public", PARENTS, "in the set")


def test_the_name_beside_fits() -> None:
    assert name_beside("teams", "bc-004_full_20251103_020000_3f9c") == "teams_restored_20251103_020000"
    long = name_beside("組" * 30, "bc-004_full_20251103_020000_3f9c")
    assert len(long.encode()) <= 63
    assert long.endswith("組_restored_20251103_020000")


def test_the_command_of_a_request() -> None:
    asked = Request("a_set", Drift.COMMON_COLUMNS, True, "public.t", Mode.MERGE, ["it's"], True)
    said = asked.command("bc-004", "consulting_tool")
    for word in (
        "table_restore --context bc-004 --backup a_set", "--table public.t --mode merge", """--keys '["it'"'"'s"]'""",
        "--include-parents true", "--on-schema-drift common-columns", "--accept-effects-on-others true",
        "--dry-run false --confirm-database consulting_tool",
    ):  # fmt: skip
        assert word in said
    assert "full_restore --in-place true" in Request("a_set").command("bc-004", "consulting_tool")


def test_what_is_needed_and_a_table_beside_are_told() -> None:
    need = Need("k", "public.m", "public.t", ("id",), ("=",), tuple((str(n),) for n in range(7)))
    said = need.line("do it")
    assert said.startswith("public.m needs 7 rows of public.t that are missing (k: id); do it")
    beside = Beside('"t_restored"', '"t"', "a_set", samples.INSTANT, "d", 3, 5, 1.0, ['"id"'], ["column x is text"])
    text = beside_report(beside, ZONE, ["another is damaged"])
    for said in ("3 of 5 rows", "DROP TABLE", 'l."id" = r."id"', "column x is text", "another is damaged"):
        assert said in text


def test_a_plan_that_does_the_same() -> None:
    one = plan(Change("public.t", 4, 3, 1, 2, 2), holders=["x"], comparing_seconds=1.0)
    assert one.does_as(plan(Change("public.t", 4, 3, 1, 2, 2)))
    assert not one.does_as(plan(Change("public.t", 4, 3, 1, 2, 1)))
    assert not one.does_as(plan(Change("public.t", 4, 3, 1, 2, 2), effects=[Effect("k", "x", "CASCADE", 1)]))
