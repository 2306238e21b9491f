"""Facts of objects as an inventory says them, and how what differs is set back."""

import pytest

from tasks.core.checks.definition import Severity
from tasks.core.checks.objects import came_with_time
from tasks.core.database.comparison import Difference, find_differences, with_moved_sequences
from tasks.core.database.facts import SINCE_3, facts, without_facts
from tasks.core.database.objects import InventoryItem
from tasks.core.database.settings import SETTING
from tasks.core.in_place.objects import How, severity
from tasks.core.in_place.remedies import drops_made, is_lasting, remedy

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


@pytest.mark.parametrize(
    ("kind", "state", "earlier", "said"),
    [
        ("type", "owner o | e | comment a | b | privileges o=USAGE", "owner o | e", {"comment": "a | b", "privileges": "o=USAGE"}),
        (
            "type",
            "owner o | d | text | NOT NULL | DEFAULT 'x'::text | m CHECK ((VALUE <> ''::text)) | remarks m 'x' | comment y",
            "owner o | d | text | NOT NULL | DEFAULT 'x'::text | m CHECK ((VALUE <> ''::text))",
            {"constraints": "m CHECK ((VALUE <> ''::text))", "remarks": "m 'x'", "comment": "y"},
        ),
        (
            "sequence",
            "owner o | bigint | 1 | 1 | 1 | 9 | 1 | f | persistence u | comment x | owned by public.t.id | privileges o=USAGE",
            "owner o | bigint | 1 | 1 | 1 | 9 | 1 | f | owned by public.t.id | privileges o=USAGE",
            {"persistence": "u", "comment": "x", "owned by": "public.t.id"},
        ),
        ("rule", "CREATE RULE x | enabled O | comment y", "CREATE RULE x | enabled O", {"enabled": "O", "comment": "y"}),
        ("policy", "r | t | PUBLIC | using (a) | comment c", "r | t | PUBLIC | using (a)", {"comment": "c"}),
        ("statistics", "CREATE STATISTICS x | statistics 5 | comment z", "CREATE STATISTICS x | statistics 5", {"comment": "z"}),
        (
            "constraint",
            "CHECK ((a > 0)) | NOT VALID | inherited yes, and its own | comment z",
            "CHECK ((a > 0)) | NOT VALID | comment z",
            {"definition": "CHECK ((a > 0))", "inherited": "yes, and its own", "NOT VALID": "yes", "comment": "z"},
        ),
    ],
)
def test_facts_that_sets_of_earlier_releases_lack(kind: str, state: str, earlier: str, said: dict[str, str]) -> None:
    one = item(kind, state)
    assert said.items() <= facts(one).items()
    assert without_facts(one, SINCE_3[kind]).state == earlier
    assert without_facts(item(kind, earlier), SINCE_3[kind]).state == earlier


def test_tablespaces_are_facts() -> None:
    table = TABLE.replace("replica identity d", 'replica identity d | options {fillfactor=50} | tablespace "A b"')
    assert facts(item("table", table))["tablespace"] == '"A b"'
    index = item("index", "CREATE INDEX x ON y | attached to public.z | tablespace q | comment x")
    assert facts(index)["tablespace"] == "q"
    assert without_facts(index, ["tablespace"]).state == "CREATE INDEX x ON y | attached to public.z | comment x"


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


@pytest.mark.parametrize(
    ("then", "now", "how", "statement"),
    [
        ("privileges o=CREATE", "privileges ", How.NOT, 'GRANT CREATE ON SCHEMA "s" TO "o";'),
        ("owner o | comment a | privileges b=CREATE", "owner o | comment a", How.ALTER, 'GRANT CREATE ON SCHEMA "s" TO "b";'),
        ("owner o | comment privileges x", "owner o", How.ALTER, "COMMENT ON SCHEMA \"s\" IS 'privileges x';"),
    ],
)
def test_what_is_granted_on_a_schema_that_others_use_is_left_to_its_owner(then: str, now: str, how: How, statement: str) -> None:
    (difference,) = find_differences([item("schema", then, name="s")], [item("schema", now, name="s")], same_major=True)
    said = remedy(difference, [], [])
    assert (said.how, said.statement) == (how, statement)


@pytest.mark.parametrize(
    ("then", "now", "lasting"),
    [
        (item("index", "CREATE INDEX i"), item("index", "CREATE INDEX i | INVALID"), True),
        (item("function", "owner o | CREATE x\ny\n"), item("function", "owner o | CREATE x\nz\n"), False),
        (item("trigger", "CREATE x | enabled O", parent="public.t"), None, False),
    ],
)  # fmt: skip
def test_what_no_undo_sets_back(then: InventoryItem, now: InventoryItem | None, lasting: bool) -> None:
    fact = find_differences([then], [now], same_major=True)[0] if now else Difference(then, now)
    assert is_lasting(fact, remedy(fact, ["public.t"], []), ["public.t"], []) is lasting


@pytest.mark.parametrize(
    ("made", "statement"),
    [
        (
            item("constraint", "CHECK (true)", name="c d", parent="public.t"),
            'ALTER TABLE IF EXISTS public.t DROP CONSTRAINT IF EXISTS "c d";',
        ),
        (item("trigger", "CREATE x | enabled O", name="x", parent="public.t"), 'DROP TRIGGER IF EXISTS "x" ON public.t;'),
        (item("partitioned table", TABLE, name="public.t"), "DROP TABLE IF EXISTS public.t;"),
        (item("function", "owner o", name="public.f(integer)"), "DROP ROUTINE IF EXISTS public.f(integer);"),
    ],
)
def test_what_a_restore_made_is_dropped(made: InventoryItem, statement: str) -> None:
    assert drops_made(Difference(None, made)).statement == statement


def test_a_bound_is_set_back_in_two_statements_whatever_the_table_is_called() -> None:
    state = "owner o | persistence p | bound FOR VALUES FROM ('{}') TO ('9') | replica identity d"
    then, now = (item("table", state.format(one), name='public."p; q"', parent='public."a; b"') for one in ("1", "2"))
    (found,) = find_differences([then], [now], same_major=True)
    how = remedy(found, [], [])
    assert how.before == 'ALTER TABLE public."a; b" DETACH PARTITION public."p; q";'
    assert how.statement == """ALTER TABLE public."a; b" ATTACH PARTITION public."p; q" FOR VALUES FROM ('1') TO ('9');"""
    assert how.by_hand == f"{how.before} {how.statement}"


@pytest.mark.parametrize(
    ("kind", "then", "now", "statement"),
    [
        ("column", "", "storage MAIN instead of EXTENDED", 'ALTER TABLE public.t ALTER COLUMN "c" SET STORAGE EXTENDED;'),
        ("column", "storage PLAIN instead of MAIN", "", 'ALTER TABLE public.t ALTER COLUMN "c" SET STORAGE PLAIN;'),
        ("column", "compression lz4", "compression pglz", 'ALTER TABLE public.t ALTER COLUMN "c" SET COMPRESSION lz4;'),
        ("column", "", "statistics 7", 'ALTER TABLE public.t ALTER COLUMN "c" SET STATISTICS -1;'),
        (
            "column", "statistics 7 | options {n_distinct=3}", "statistics 7 | options {n_distinct=-0.5,n_distinct_inherited=2}",
            'ALTER TABLE public.t ALTER COLUMN "c" RESET (n_distinct_inherited); '
            """ALTER TABLE public.t ALTER COLUMN "c" SET (n_distinct = '3');""",
        ),
        ("statistics", "CREATE STATISTICS s", "CREATE STATISTICS s | statistics 7", "ALTER STATISTICS c SET STATISTICS -1;"),
        (
            "sequence", "owner o | bigint | 1 | 1 | 1 | 9 | 1 | f", "owner o | bigint | 1 | -2 | 1 | 9 | 1 | t",
            "ALTER SEQUENCE c AS bigint INCREMENT 1 MINVALUE 1 MAXVALUE 9 START 1 CACHE 1 NO CYCLE;",
        ),
        ("sequence", "owner o | bigint; DROP TABLE x | 1 | 1 | 1 | 9 | 1 | f", "owner o | bigint | 1 | 1 | 1 | 9 | 1 | f", ""),
        (SETTING, "1MB", "2MB", """ALTER DATABASE "d" SET "c" TO '1MB';"""),
        (SETTING, "", "2MB", 'ALTER DATABASE "d" RESET "c";'),
        ("extension", "1.3", "1.6", """ALTER EXTENSION "c" UPDATE TO '1.3';"""),
    ],
)  # fmt: skip
def test_what_a_set_says_besides_definitions(kind: str, then: str, now: str, statement: str) -> None:
    place = {"name": "public.c" if kind == "sequence" else "c", "parent": "public.t" if kind == "column" else ""}
    columns = "d" if kind == SETTING else ""
    (one,) = find_differences([item(kind, then, columns, **place)], [item(kind, now, columns, **place)], same_major=True)
    assert remedy(one, ["public.t"], []).statement == statement.replace("SEQUENCE c", "SEQUENCE public.c")


def test_a_search_path_is_grave_and_is_set_as_the_list_that_it_is() -> None:
    then, now = (item(SETTING, text, "d", "search_path") for text in ("app, public", '"$user", public'))
    (one,) = find_differences([then], [now], same_major=True)
    assert severity(one) is Severity.ERROR
    assert remedy(one, [], []).statement == 'ALTER DATABASE "d" SET "search_path" TO app, public;'


def test_partitions_for_times_to_come_come_on_purpose_and_a_default_one_does_not() -> None:
    state = "owner o | persistence p | bound {} | replica identity d"
    parent = item("partitioned table", "owner o | persistence p | key RANGE (at) | replica identity d", name="public.p")
    year, rest = (
        item("table", state.format(bound), name=f"public.{name}", parent="public.p")
        for name, bound in (("year", "FOR VALUES FROM (1) TO (2)"), ("rest", "DEFAULT"))
    )
    index, trigger = item("index", "CREATE INDEX i", name="public.i", parent="public.year"), item("trigger", "x", parent="public.p")
    new = [Difference(None, one) for one in (year, rest, index, trigger)]
    assert came_with_time(new, [parent]) == {year.identity, index.identity}


VIEW = "owner o | persistence p | replica identity d | SELECT 1;"
DOMAIN = "owner o | d | character varying(80) | DEFAULT 'none'::text | said CHECK (VALUE <> ''::text)"


@pytest.mark.parametrize(
    ("then", "now", "statement"),
    [
        (item("type", DOMAIN), item("type", DOMAIN.partition(" | said")[0]),
         "ALTER DOMAIN public.t ADD CONSTRAINT said CHECK (VALUE <> ''::text);"),
        (item("type", DOMAIN), item("type", DOMAIN.replace("none", "x")), "ALTER DOMAIN public.t SET DEFAULT 'none'::text;"),
        (item("type", DOMAIN), item("type", DOMAIN.replace(" | DEFAULT", " | NOT NULL | DEFAULT")),
         "ALTER DOMAIN public.t DROP NOT NULL;"),
        (item("type", "owner o | e", "'a', 'it''s, c'"), item("type", "owner o | e", "'a', 'z'"),
         "ALTER TYPE public.t RENAME VALUE 'z' TO 'it''s, c';"),
        (item("type", "owner o | e", "'a'"), item("type", "owner o | e", "'a', 'b'"), ""),
        (item("type", "owner o | e", "'a', 'b'"), item("type", "owner o | e", "'b', 'a'"), ""),
        (item("table", TABLE, "a text"), item("table", TABLE, "a varchar(9)"), "ALTER TABLE public.t ALTER COLUMN a TYPE text;"),
        (item("table", TABLE, "a text"), item("table", TABLE, 'a text COLLATE "C"'),
         'ALTER TABLE public.t ALTER COLUMN a TYPE text COLLATE "default";'),
        (item("table", TABLE, "a int, b text"), item("table", TABLE, "a int"), "ALTER TABLE public.t ADD COLUMN b text;"),
        (item("table", TABLE, "a int"), item("table", TABLE, "a int, b text"), ""),
        (item("view", VIEW, "a int NOT NULL"), item("view", VIEW, "a int"), ""),
        (item("table", TABLE, "a int IDENTITY d"), item("table", TABLE, "a int IDENTITY a"),
         "ALTER TABLE public.t ALTER COLUMN a SET GENERATED BY DEFAULT;"),
    ],
)  # fmt: skip
def test_what_is_migrated_is_left_with_the_statement_to_begin_with(
    then: InventoryItem, now: InventoryItem, statement: str
) -> None:  # fmt: skip
    (one,) = find_differences([then], [now], same_major=True)
    how = remedy(one, ["public.t"], [])
    assert (how.how, how.statement) == (How.NOT, statement)
    assert how.why


def test_a_sequence_of_another_column_is_the_same_sequence() -> None:
    state = "owner o | bigint | 1 | 1 | 1 | 9 | 1 | f | privileges o=USAGE"
    then = item("sequence", state, name="public.s", parent="public.t.a")
    (now,) = with_moved_sequences([then], [item("sequence", state, name="public.s")])
    (one,) = find_differences([then], [now], same_major=True)
    assert (one.fact, one.becomes) == ("owned by", "NONE")
    assert remedy(one, [], []).statement == "ALTER SEQUENCE public.s OWNED BY public.t.a;"
    assert with_moved_sequences([then], [then]) == [then]
