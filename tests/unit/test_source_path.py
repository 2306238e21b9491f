"""Statements that run under the path of the source: everything in them is named with its schema."""

from collections.abc import Callable, Iterator
from typing import Any

import pglast
import pytest
from pglast import ast, enums
from psycopg.sql import SQL, Composable, Identifier

from tasks.core import sql
from tasks.core.postgres.source_path import source_path_of
from tasks.core.sql.staging import EQUAL, Link
from tests.support import samples

# What PostgreSQL looks up by a name that cannot be written with a schema.
UNNAMEABLE = {
    enums.A_Expr_Kind.AEXPR_IN, enums.A_Expr_Kind.AEXPR_BETWEEN, enums.A_Expr_Kind.AEXPR_NOT_BETWEEN,
    enums.A_Expr_Kind.AEXPR_BETWEEN_SYM, enums.A_Expr_Kind.AEXPR_NOT_BETWEEN_SYM, enums.A_Expr_Kind.AEXPR_NULLIF,
    enums.A_Expr_Kind.AEXPR_DISTINCT, enums.A_Expr_Kind.AEXPR_NOT_DISTINCT, enums.A_Expr_Kind.AEXPR_LIKE,
    enums.A_Expr_Kind.AEXPR_ILIKE, enums.A_Expr_Kind.AEXPR_SIMILAR,
}  # fmt: skip


def nodes(node: Any) -> Iterator[ast.Node]:
    """Yield a node of a syntax tree with all that is below it."""
    if isinstance(node, tuple | list):
        for one in node:
            yield from nodes(one)
    elif isinstance(node, ast.Node):
        yield node
        for name in node:
            yield from nodes(getattr(node, name))


def looked_up(statement: str) -> list[str]:
    """Return what of a statement PostgreSQL would look up on the path: operators, functions, types."""
    return [said for node in nodes(pglast.parse_sql(statement)) for said in _of(node)]


def _of(node: ast.Node) -> Iterator[str]:
    if isinstance(node, ast.A_Expr):
        name = [one.sval for one in node.name]
        if node.kind in UNNAMEABLE:
            yield f"{enums.A_Expr_Kind(node.kind).name} {'.'.join(name)}"
        elif len(name) < 2:
            yield f"operator {name[0]}"
    elif isinstance(node, ast.FuncCall) and len(node.funcname) < 2:
        yield f"function {node.funcname[0].sval}"
    elif isinstance(node, ast.TypeName) and node.names and len(node.names) < 2:
        yield f"type {node.names[0].sval}"
    elif isinstance(node, ast.SubLink) and node.testexpr is not None and len(node.operName or ()) < 2:
        yield "IN (SELECT …), or an operator before ANY, ALL"
    elif isinstance(node, ast.CaseExpr) and node.arg is not None:
        yield "CASE x WHEN"
    elif isinstance(node, ast.JoinExpr) and (node.usingClause or node.isNatural):
        yield "JOIN … USING"
    elif isinstance(node, ast.SortBy) and node.useOp:
        yield "ORDER BY … USING"


CONDITION = SQL("t.v IS NULL").format()
TABLE = sql.clean_up.Table(0, "s", "t", ("a", "b"), (EQUAL, "OPERATOR(public.=)"), ("OPERATOR(pg_catalog.>)",) * 2, {})
OTHER = sql.clean_up.Table(1, "s", "u", ("a",), (EQUAL,), ("OPERATOR(pg_catalog.>)",), {})
LINK = Link(["a", "b"], ["c", "d"], [EQUAL, EQUAL])
KEY = {"a": EQUAL, "b": "OPERATOR(public.=)"}
CLOCK = sql.clean_up.clock_of(TABLE, ["at", "on"], each=True)
OLD = [
    sql.clean_up.is_old({"at": "2026-01-01", "on": "2026-01-02"}, each=False), sql.clean_up.is_after(CLOCK, TABLE, ["1", "2", "3"]),
    sql.clean_up.is_going(TABLE, SQL("t"), Identifier("going")),
    sql.deletion.is_staged(TABLE, [0, 1]), sql.key_values.has_values(KEY, [("1", "2"), ("3", "4")], {"b": "pg_catalog._text"}),
    sql.key_values.has_values({"a": EQUAL}, [("1",), ("2",)], {}), LINK.refers(SQL("c"), SQL("p")),
]  # fmt: skip
NOTICED = sql.in_place.noticed_rows(0, "s", "t", KEY, acts_on_delete=False, acts_on_update=True)
QUERY = "SELECT id FROM t WHERE v IS NULL"
# For each that is marked: what it is called with. Of what people wrote, only that it is wrapped by nothing of ours.
SAMPLES: dict[Callable[..., Composable], list[tuple[tuple[Any, ...], dict[str, Any]]]] = {
    sql.in_place.merge_rows: [(([
        sql.in_place.TableToWrite(0, "s", "t", ["a", "b"], ["b"], deletes=True),
        sql.in_place.TableToWrite(1, "s", "u", ["a"], [], deletes=False),
    ],), {})],
    sql.in_place.park_rows: [((0, "s", "t", "a", kind, 30), {}) for kind in ("uuid", "text")],
    sql.in_place.note_broken: [((0, QUERY), {})],
    sql.in_place.find_broken: [((0, QUERY), {"noted": noted}) for noted in (True, False)],
    sql.key_values.hanging_keys: [(((0, 1), ("c", "p"), ["a"], OLD[3], OLD[5]), {})],
    sql.key_values.add_condition: [(("a IS NULL",), {})],
    sql.clean_up.mark_old: [((TABLE, CLOCK, OLD, CONDITION, 5), {})],
    sql.clean_up.count_old: [((TABLE, OLD), {})],
    sql.clean_up.mark_by_condition: [((TABLE, OTHER, CONDITION), {})],
    sql.clean_up.roots_not_alone: [((TABLE, OTHER, CONDITION), {})],
    sql.deletion.delete_marked: [(([TABLE, OTHER], [1, 2]), {})],
    sql.partitions.move_rows: [
        ((("s", "t"), ("s", "u"), ["a"], condition), {})
        for condition in (sql.partitions.within("a", "1", "2"), sql.partitions.among("a", ["1", "2"]))
    ],
    sql.partitions.count_rows_where: [(("s", "t", ["a IS NULL", "b IS NULL"]), {"hold": hold}) for hold in (True, False)],
    sql.rows.analyze_relation: [(("s", "t"), {})],
    sql.rows.count_rows_and_old: [(("s", "t", 700), {})],
    sql.prerequisites.explain_delete: [(("s", "t"), {})],
    sql.prerequisites.explain_update: [(("s", "t", "a"), {})],
    sql.prerequisites.try_rows: [((0, ["a"], "IU"), {})],
    sql.staging.create_staging: [((0, "s", "t", ["a", "b", "c"], ["a", "b"], {"b": "s.base"}), {})],
    sql.staging.find_differences: [((0, "s", "t", ["a", "b"], key, OLD[3]), {}) for key in (KEY, {})],
    sql.staging.changed_columns: [((0, "s", "t", ["a", "b"]), {})],
    sql.in_place.lock_leaving_rows: [((0, "s", "t"), {})],
    sql.in_place.referring_rows: [(("s.u", LINK, NOTICED), {})],
    sql.neighbours.noticed_values: [((["a"], NOTICED), {})],
    sql.key_values.create_key_table: [(("s", "t", ["a"]), {})],
    sql.key_values.absent_values: [(("s", "t", 0, sql.key_values.has_values(KEY, [("1", "2")], {})), {})],
    sql.key_values.needed_values: [((0, ("s", "t"), LINK, ("s", "u"), [1]), {})],
    sql.key_values.orphans_to_go: [((0, ("s", "t"), LINK, ("s", "u")), {})],
    sql.rows.copy_rows_in: [(("s", "t", ["a"], "UTF8"), {})],
    sql.checks.offending_rows: [((QUERY, 5), {})],
    sql.views.refresh_view: [(("s", "v"), {"concurrently": True})],
    sql.triggers.touch_row: [(("s", "t", ["a", "b"], "1", "(0,1)"), {})],
    sql.triggers.delete_row: [(("s", "t", "1", "(0,1)"), {})],
    sql.triggers.remember_row: [(("s", "t", "1", "(0,1)"), {})],
    sql.triggers.insert_defaults: [(("s", "t"), {})],
    sql.triggers.insert_remembered: [(("s", "t", ["a", "b"], ["b"]), {})],
}  # fmt: skip


def test_nothing_of_ours_is_looked_up_on_the_path_of_the_source() -> None:
    assert {*SAMPLES} == {*sql.source_path.BUILDERS}
    found = {
        builder.__name__: said
        for builder, calls in SAMPLES.items()
        for arguments, named in calls
        if (said := looked_up(builder(*arguments, **named).as_string()))
    }
    assert found == {}
    # What gives the path, and takes it back.
    assert looked_up(sql.source_path.set_path("s, public").as_string()) == []
    assert looked_up(sql.source_path.OWN_PATH.as_string()) == []
    assert looked_up(sql.triggers.explain_analyze(sql.triggers.delete_row("s", "t", "1", "(0,1)")).as_string()) == []


@pytest.mark.parametrize(
    ("settings", "schema", "path"),
    [
        ([], "odd", '"odd", public'), (["work_mem=1MB"], "O d", '"O d", public'),
        (["work_mem=1MB", 'search_path="$user", lib, public'], "odd", '"odd", "$user", lib, public'),
        (['search_path=""'], "odd", '"odd", ""'),
    ],
)  # fmt: skip
def test_the_path_of_a_source(settings: list[str], schema: str, path: str) -> None:
    database = samples.manifest().database.model_copy(update={"settings": settings})
    assert source_path_of(database, schema) == path


@pytest.mark.parametrize(
    ("expression", "expected"),
    {
        "a = 1": "operator =", "a OPERATOR(public.=) 1": "", "a IN (1, 2)": "AEXPR_IN =", "a IN (SELECT 1)": "IN (SELECT …)",
        "a = ANY ('{1}')": "operator =", "a OPERATOR(pg_catalog.=) ANY ('{1}')": "", "a BETWEEN 1 AND 2": "AEXPR_BETWEEN",
        "a LIKE 'x'": "AEXPR_LIKE", "a IS DISTINCT FROM 1": "AEXPR_DISTINCT", "nullif(a, 1)": "AEXPR_NULLIF",
        "CASE a WHEN 1 THEN 2 END": "CASE x WHEN", "lower(a)": "function lower", "pg_catalog.lower(a)": "",
        "a::text": "type text", "a::bigint": "", "a::pg_catalog.text": "", "-a": "operator -", "coalesce(a, b)": "",
        "EXISTS (SELECT FROM x JOIN y USING (a))": "JOIN … USING",
        "a OPERATOR(pg_catalog.=) ANY (SELECT 1)": "",
    }.items(),
)  # fmt: skip
def test_what_is_looked_up(expression: str, expected: str) -> None:
    found = looked_up(f"SELECT {expression} FROM t")
    assert found[0].startswith(expected) if expected else not found, found
