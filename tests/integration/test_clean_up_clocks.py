"""A rule may have several clocks: a row is old by any of them, or only by each."""

import pytest

from tasks.clean_up import delete
from tasks.clean_up import rules as clean_up_rules
from tests.support.clean_ups import ITEMS, clean_up, clean_up_sets, own, plan, report
from tests.support.database import ask
from tests.support.world import World

OLD, NEW = "2020-01-01", "2999-01-01"
# A column of each type that a clock may have: ended, left at, gone_at.
ROWS = {
    1: (OLD, OLD, OLD), 2: (OLD, NEW, NEW), 3: (NEW, OLD, None), 4: (None, None, OLD), 5: (NEW, NEW, NEW), 6: (None, None, None),
    7: (OLD, None, OLD), 8: (OLD, OLD, NEW), 9: (OLD, OLD, OLD), 10: ("infinity", "-infinity", None),
}  # fmt: skip
GOES = {"any": {1, 2, 3, 4, 7, 8, 9, 10}, "each": {1, 9}}


@pytest.mark.parametrize("how", ["any", pytest.param("each", marks=pytest.mark.long)])
def test_several_clocks(world: World, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    values = ", ".join(
        f"({number}, {', '.join('NULL' if one is None else repr(one) for one in clocks)})" for number, clocks in ROWS.items()
    )
    own(
        world, monkeypatch, ITEMS | {"clock": {how: ["ended", "left at", "gone_at"]}}, ["items"],
        'CREATE TABLE items (id int PRIMARY KEY, ended date, "left at" timestamp(3), gone_at timestamptz)',
        f"INSERT INTO items VALUES {values}",
    )  # fmt: skip
    monkeypatch.setattr(delete, "BATCH_ROWS", 3)
    with monkeypatch.context() as patch:
        patch.setattr(clean_up_rules, "TRIAL_SECONDS", 0.0)
        planned = plan(world)
    going = len(GOES[how])
    assert planned == f"PLANNED, nothing touched: {going} rows of public.items would be archived and deleted"
    word = "or" if how == "any" else "and"
    assert f"ended {word} left at {word} gone_at before 20" in report("clean-up-plan")
    monkeypatch.setattr(clean_up_rules, "FOUND_ROWS", 2)
    clean_up(world)
    assert {row[0] for row in ask(world, "SELECT id FROM items")} == {*ROWS} - GOES[how]
    assert sum(one["rows"] for taken in clean_up_sets(world)["items"] for one in taken["relations"]) == going


def test_a_clock_that_is_no_time_is_named(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    own(
        world, monkeypatch, ITEMS | {"clock": {"any": ["ended", "id"]}}, ["items"],
        "CREATE TABLE items (id int PRIMARY KEY, ended date)",
    )  # fmt: skip
    with pytest.raises(Exception, match="items: its `clock` column id is a integer; name a column of a date or timestamp type"):
        plan(world)
