"""What a merge into a live database would do, as it is judged and told."""

from typing import Any
from zoneinfo import ZoneInfo

import pytest

from tasks.core.manifest import InventoryItem
from tasks.core.merge import Change, Effect, Merged, MergePlan, drift, merged_report, plan_report, plan_verdict, trigger_states
from tasks.core.toc import entries_of, parse_list
from tests.unit import samples

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
        (["id"], ["uuid"], ["public.teams has no column 名 any more"]),
        (["id", "名", "x"], ["uuid", "text", "date"], ["public.teams has a column x date that the set does not have"]),
        (["id", "名"], ["uuid", "bytea"], ["public.teams.名 was text, is bytea"]),
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


def test_reports() -> None:
    planned = plan(Change("public.t", 4, 3, 1, 2, 2), to_create=["index public.i"], effects=[Effect("k", "x", "CASCADE", 1)])
    text = plan_report(planned, ZONE, "the command")
    assert "the command" in text
    assert "- index public.i" in text
    assert "foreign key k of x (ON DELETE CASCADE): 1 rows refer to rows that would go or change" in text
    assert "the command" not in plan_report(plan(refusals=["because"]), ZONE, "the command")
    done = merged_report(planned, Merged(1, 2, 2, ["index public.i"], 0.5, {"writing": 0.4}, "a set", ["a view"]), "the undo")
    assert done.startswith("# RESTORED\n")
    assert "the undo" in done
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
    ],
)
def test_entries_of_what_is_missing(missing: InventoryItem, ids: set[int]) -> None:
    assert entries_of([missing], parse_list(LISTED)) == ids


def test_a_table_comes_with_its_defaults() -> None:
    # Names have no quotes in the list: one that begins as another's is taken too, and is found to be there.
    assert entries_of([item("table", "public.teams")], parse_list(LISTED)) == {215, 216, 217}
