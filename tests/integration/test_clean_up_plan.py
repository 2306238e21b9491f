"""The plan of a clean-up looks at every row that is due, however many; what cannot be known is called so, never none."""

import re
from typing import Any

import pytest

from tasks.clean_up import delete
from tasks.clean_up import rules as clean_up_rules
from tests.support.clean_ups import ITEMS, OLD, clean_up, hang, live, own, plan, report
from tests.support.contexts import edit_context
from tests.support.database import ask, count, execute
from tests.support.example import TABLES
from tests.support.moments import SECONDS
from tests.support.variants import first_quick
from tests.support.world import World

SLOW = (
    "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.01); RETURN OLD; END $$",
    "CREATE TRIGGER slow BEFORE DELETE ON {} FOR EACH ROW EXECUTE FUNCTION slow()",
)
ORDERS = ITEMS | {"table": "orders"}


def planned_and_done(world: World) -> tuple[str, str]:
    """Return the verdicts of a plan and of the clean-up after it, in the same words."""
    planned = plan(world).removeprefix("PLANNED, nothing touched: ").replace("would be archived", "archived")
    return planned, clean_up(world).removeprefix("CLEANED UP: ")


def short_trials(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    """Let each some rows be tried in a transaction of their own, as if there were many."""
    monkeypatch.setattr(clean_up_rules, "TRIAL_SECONDS", 0.0)
    monkeypatch.setattr(delete, "BATCH_ROWS", rows)


@pytest.mark.long
@pytest.mark.parametrize("rows", [7, 1])
def test_rules_that_need_each_other_are_planned_as_they_are_followed(
    world: World, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:  # fmt: skip
    hang(world)
    edit_context(world, monkeypatch, long_term={})
    before = world.state()
    with monkeypatch.context() as patch:
        short_trials(patch, rows)
        planned = plan(world)
    assert before.differences(world.state()) == []
    assert "not known" not in planned + report("clean-up-plan")
    done = clean_up(world)
    assert done.removeprefix("CLEANED UP: ").replace("archived", "would be archived") in planned
    assert [count(world, table, condition) for table, condition in OLD.items()] == [0, 0, 0, 0]


@pytest.mark.long
def test_a_plan_tries_all_and_holds_nobody_up(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than fits into one transaction, in three rules of which each needs that the one before was followed."""
    own(
        world, monkeypatch, ITEMS, ["orders", "items", "notes"],
        "CREATE TABLE orders (id int PRIMARY KEY, ended date)",
        "CREATE TABLE items (id int PRIMARY KEY, order_id int REFERENCES orders, ended date)",
        "CREATE TABLE notes (id int PRIMARY KEY, item_id int REFERENCES items, ended date)",
        SLOW[0], *(SLOW[1].format(table) for table in ("orders", "items", "notes")),
        "INSERT INTO orders SELECT n, '2020-01-01' FROM generate_series(1, 500) AS n",
        "INSERT INTO items SELECT n, 1 + n % 500, '2020-01-01' FROM generate_series(1, 700) AS n",
        "INSERT INTO notes SELECT n, 1 + n % 700, '2020-01-01' FROM generate_series(1, 900) AS n",
    )  # fmt: skip
    names = ["orders", "items", "notes"]
    edit_context(world, monkeypatch, tables=[*TABLES, *names], clean_up=[ITEMS | {"table": one} for one in names])
    with live(world, "UPDATE orders SET ended = ended WHERE id = 499") as waits:
        text = plan(world)
    assert text == (
        "PLANNED, nothing touched: 900 rows of public.notes, 700 rows of public.items, 500 rows of public.orders "
        "would be archived and deleted"
    )
    # A batch that began just before the time was over is finished.
    assert max(waits) < clean_up_rules.TRIAL_SECONDS + delete.BATCH_ROWS * 4 * 0.01 + 3
    assert clean_up(world).removeprefix("CLEANED UP: ").startswith("900 rows of public.notes, 700 rows of public.items, 500 rows ")


def chain(world: World, monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    own(
        world, monkeypatch, ITEMS, ["items"], "CREATE TABLE items (id int PRIMARY KEY, parent_id int REFERENCES items, ended date)",
        f"INSERT INTO items SELECT n, nullif(n - 1, 0), '2020-01-01' FROM generate_series(1, {rows}) AS n",
    )  # fmt: skip


@pytest.mark.parametrize("seconds", first_quick(1, [0.0, 3.0]))
def test_a_chain_is_planned_to_its_end(world: World, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    chain(world, monkeypatch, 30)
    with monkeypatch.context() as patch:
        patch.setattr(delete, "BATCH_ROWS", 8)
        patch.setattr(clean_up_rules, "TRIAL_SECONDS", seconds)
        planned = plan(world)
    assert planned == "PLANNED, nothing touched: 30 rows of public.items would be archived and deleted"
    assert clean_up(world) == "CLEANED UP: 30 rows of public.items archived and deleted"


# No order goes while one of its items is there, as only a trigger says: by number, without a key.
GUARD = (
    "CREATE TABLE orders (id int PRIMARY KEY, ended date)",
    "CREATE TABLE items (id int PRIMARY KEY, order_id int, ended date)",
    "CREATE FUNCTION guard() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
    "IF EXISTS (SELECT FROM items WHERE order_id = OLD.id) THEN RAISE 'order % has items', OLD.id; END IF; RETURN OLD; END $$",
    "CREATE TRIGGER guard BEFORE DELETE ON orders FOR EACH ROW EXECUTE FUNCTION guard()",
    "INSERT INTO orders SELECT n, '2020-01-01' FROM generate_series(1, 4) AS n",
    "INSERT INTO items SELECT n, 1 + n % 4, '2020-01-01' FROM generate_series(1, 40) AS n",
)


def guarded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    own(world, monkeypatch, ITEMS, ["items", "orders"], *GUARD)
    edit_context(world, monkeypatch, tables=[*TABLES, "items", "orders"], clean_up=[ITEMS, ORDERS])


def rule_row(text: str, table: str) -> str:
    found = re.search(rf"^\| `{table}` .*$", text, re.MULTILINE)
    assert found, text
    return found[0]


@pytest.mark.long
def test_what_a_trigger_refuses_beside_rows_that_would_go_is_not_known(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    guarded(world, monkeypatch)
    with monkeypatch.context() as patch:
        short_trials(patch, 8)
        planned = plan(world)
    text = report("clean-up-plan")
    assert "40 rows of public.items would be archived and deleted" in planned and "4 old rows: not known" in planned
    assert "| 4 not known |" in rule_row(text, "orders") and "none" not in rule_row(text, "orders")
    assert "4 rows of orders: refused by guard(): RaiseException (P0001); the plan tried it before" in text.split("## Not known")[1]
    assert clean_up(world) == "CLEANED UP: 40 rows of public.items, 4 rows of public.orders archived and deleted"


def test_what_is_tried_together_is_known(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    guarded(world, monkeypatch)
    # In one transaction, however slow the machine is.
    monkeypatch.setattr(clean_up_rules, "TRIAL_SECONDS", float(SECONDS))
    execute(world, "INSERT INTO items VALUES (99, 1, '2999-01-01')")
    planned, done = planned_and_done(world)
    assert planned == done == "40 rows of public.items, 3 rows of public.orders archived and deleted; 1 old rows stay"


def test_rows_that_others_work_on_are_not_known(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    own(
        world, monkeypatch, ITEMS, ["items"], "CREATE TABLE items (id int PRIMARY KEY, ended date)",
        "INSERT INTO items SELECT n, '2020-01-01' FROM generate_series(1, 3) AS n",
    )  # fmt: skip
    with world.connect() as connection, connection.transaction():
        connection.execute("SELECT FROM items FOR UPDATE")
        assert plan(world) == "PLANNED, nothing touched: no row would be archived and deleted; 3 old rows: not known"
    assert "| 3 not known |" in rule_row(report("clean-up-plan"), "items")


def rows_of_rules(text: str) -> list[Any]:
    return re.findall(r"^\| `\w+` .*$", text, re.MULTILINE)


def test_a_rule_that_fails_says_not_known(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    guarded(world, monkeypatch)
    edit_context(world, monkeypatch, clean_up=[ITEMS, ORDERS | {"condition": "no_such_column"}])
    with pytest.raises(Exception, match="no_such_column"):
        plan(world)
    assert len(rows_of_rules(report("clean-up-plan"))) == 2
    assert "| not known |" in rule_row(report("clean-up-plan"), "orders")
    assert ask(world, "SELECT count(*) FROM orders") == [(4,)]
