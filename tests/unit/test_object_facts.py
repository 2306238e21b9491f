"""Facts of objects as an inventory says them, and how what differs is set back."""

import pytest

from tasks.core.checks.definition import Severity
from tasks.core.database.comparison import Difference, find_differences
from tasks.core.database.facts import facts
from tasks.core.database.objects import InventoryItem
from tasks.core.in_place.objects import How, severity
from tasks.core.in_place.remedies import remedy

TABLE = (
    "owner o | persistence p | bound FOR VALUES FROM ('a') TO ('b') | replica identity d | comment it's | x | privileges o=SELECT"
)


def item(kind: str, state: str, columns: str = "", name: str = "public.t", parent: str = "") -> InventoryItem:
    return InventoryItem(kind=kind, name=name, parent=parent, columns=columns, state=state)


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ("id uuid NOT NULL DEFAULT gen()", {"id: type": "uuid", "id: NOT NULL": "yes", "id: DEFAULT": "gen()"}),
        ("a numeric(4,2), b text", {"a: type": "numeric(4,2)", "b: type": "text"}),
        ("\"a, b\" text DEFAULT 'x, DEFAULT y'::text", {'"a, b": type': "text", '"a, b": DEFAULT': "'x, DEFAULT y'::text"}),
        (
            "a text[] DEFAULT ARRAY['(, '::text, (b || ']'::text)] COMMENT E'it''s \\\\' ACL r=SELECT",
            {
                "a: type": "text[]",
                "a: DEFAULT": "ARRAY['(, '::text, (b || ']'::text)]",
                "a: comment": "E'it''s \\\\'",
                "a: ACL": "r=SELECT",
            },
        ),
        ("t timestamp without time zone NOT NULL", {"t: type": "timestamp without time zone", "t: NOT NULL": "yes"}),
        ("i bigint NOT NULL IDENTITY a", {"i: type": "bigint", "i: NOT NULL": "yes", "i: IDENTITY": "a"}),
    ],
)
def test_columns(columns: str, said: dict[str, str]) -> None:
    found = facts(item("table", TABLE, columns))
    assert {name.removeprefix("column "): text for name, text in found.items() if name.startswith("column ")} == said
    assert found["comment"] == "it's | x"


def test_a_state_of_which_no_fact_is_known_differs_all_the_same() -> None:
    found = find_differences([item("type", "owner o | e", "'a'")], [item("type", "owner o | e", "'a', 'b'")], same_major=True)
    assert [one.fact for one in found] == ["columns"]
    odd = find_differences([item("table", "something")], [item("table", "something else")], same_major=True)
    assert [one.fact for one in odd] == ["definition"]


@pytest.mark.parametrize(
    ("then", "now", "statement"),
    [
        (TABLE, TABLE.replace("SELECT", "SELECT PUBLIC=INSERT*"), "REVOKE INSERT ON TABLE public.t FROM PUBLIC;"),
        (TABLE.replace("o=SELECT", 'o=SELECT a "b=UPDATE*'), TABLE, 'GRANT UPDATE ON TABLE public.t TO "a ""b" WITH GRANT OPTION;'),
        (TABLE, TABLE.replace("it's | x", "y"), "COMMENT ON TABLE public.t IS 'it''s | x';"),
        (TABLE, TABLE.replace("persistence p", "persistence u"), "ALTER TABLE public.t SET LOGGED;"),
        (
            TABLE, TABLE.replace("'a'", "'c'"),
            "ALTER TABLE public.p DETACH PARTITION public.t; "
            "ALTER TABLE public.p ATTACH PARTITION public.t FOR VALUES FROM ('a') TO ('b');",
        ),
        (TABLE.replace("'a'", "'a'; DROP TABLE x; --'"), TABLE, ""),
    ],
)  # fmt: skip
def test_a_table_is_set_back(then: str, now: str, statement: str) -> None:
    (one,) = find_differences([item("table", then, parent="public.p")], [item("table", now, parent="public.p")], same_major=True)
    assert remedy(one, ["public.t"], []).by_hand == statement


@pytest.mark.parametrize(
    ("then", "now", "grave", "how"),
    [
        (item("trigger", "CREATE x | enabled O", parent="public.t"), None, Severity.ERROR, How.CREATE),
        (None, item("trigger", "CREATE x | enabled O", parent="public.t"), Severity.ERROR, How.NOT),
        (None, item("table", TABLE), Severity.WARNING, How.NOT),
        (item("index", "CREATE INDEX i"), item("index", "CREATE INDEX i | INVALID"), Severity.WARNING, How.REBUILD),
        (item("index", "CREATE UNIQUE INDEX i"), item("index", "CREATE UNIQUE INDEX i | INVALID"), Severity.ERROR, How.REBUILD),
        (item("function", "owner o | CREATE x\ny\n"), item("function", "owner o | CREATE x\nz\n"), Severity.ERROR, How.REPLACE),
        (
            item("constraint", "CHECK (true)", parent="public.t"), item("constraint", "CHECK (false)", parent="public.t"),
            Severity.ERROR, How.ANEW,
        ),
        (item("constraint", "CHECK (true)", parent="other.t"), None, Severity.ERROR, How.NOT),
    ],
)  # fmt: skip
def test_how_grave_and_how_it_is_set_back(
    then: InventoryItem | None, now: InventoryItem | None, grave: Severity, how: How
) -> None:  # fmt: skip
    fact = find_differences([then], [now], same_major=True)[0] if then and now else Difference(then, now)
    assert (severity(fact), remedy(fact, ["public.t"], []).how) == (grave, how)


def test_a_bound_is_set_back_in_two_statements_whatever_the_table_is_called() -> None:
    state = "owner o | persistence p | bound FOR VALUES FROM ('{}') TO ('9') | replica identity d"
    then, now = (item("table", state.format(one), name='public."p; q"', parent='public."a; b"') for one in ("1", "2"))
    (found,) = find_differences([then], [now], same_major=True)
    how = remedy(found, [], [])
    assert how.before == 'ALTER TABLE public."a; b" DETACH PARTITION public."p; q";'
    assert how.statement == """ALTER TABLE public."a; b" ATTACH PARTITION public."p; q" FOR VALUES FROM ('1') TO ('9');"""
    assert how.by_hand == f"{how.before} {how.statement}"
