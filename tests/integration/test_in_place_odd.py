"""Restores into the living of schemas with keys that act, partitions of partitions, values that are generated or checked."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from flows.restore import full_restore, table_restore
from tasks.core.errors import OperationError
from tasks.in_place import apply
from tests.support.database import ask, execute
from tests.support.example import DATABASE
from tests.support.odd_schema import SET_UP, context, rows
from tests.support.restores import safety_sets, undo
from tests.support.world import World

pytestmark = pytest.mark.long


@dataclass(frozen=True)
class Case:
    """A schema, what happens to it after its backup, and what a restore says if it does not bring it back."""

    schema: Sequence[str]
    damage: Sequence[str]
    refused: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)


TREE = [
    "CREATE TABLE t (id int, region text, at int, v varchar(9) CHECK (v IN ('a', 'b')), PRIMARY KEY (id, region, at)) "
    "PARTITION BY LIST (region)",
    "CREATE TABLE t_north PARTITION OF t FOR VALUES IN ('north') PARTITION BY RANGE (at)",
    "CREATE TABLE t_north_1 PARTITION OF t_north FOR VALUES FROM (0) TO (100)",
    "CREATE TABLE t_rest PARTITION OF t DEFAULT", "INSERT INTO t SELECT n, 'north', n, 'a' FROM generate_series(1, 50) AS n",
    "INSERT INTO t VALUES (1, 'else', 7, 'b')",
]  # fmt: skip
EXCHANGE = [
    "UPDATE t SET a = 'c0' WHERE id = 1", "UPDATE t SET a = 'c1' WHERE id = 2", "UPDATE t SET a = 'c2' WHERE id = 1",
]  # fmt: skip
CODES = [
    "CREATE TABLE t (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), code text UNIQUE)",
    "INSERT INTO t (code) VALUES ('a'), ('b')",
]
CASES = {
    "a key of its own acts on what comes back": Case(
        [*CODES, "CREATE TABLE u (id int PRIMARY KEY, code text REFERENCES t (code) ON DELETE CASCADE)",
         "INSERT INTO u VALUES (1, 'a'), (2, 'b')"],
        ["UPDATE t SET id = gen_random_uuid()"], r"odd.u: the action of one of its foreign keys changed restored rows",
    ),
    "another's key acts on what comes back": Case(
        [*CODES, "CREATE TABLE others (id int PRIMARY KEY, code text REFERENCES t (code) ON DELETE CASCADE)",
         "INSERT INTO others VALUES (1, 'a')"],
        ["UPDATE t SET id = gen_random_uuid()"], r"others \(ON DELETE CASCADE\): 1 rows refer to rows that would be deleted",
    ),
    "another's key acts on an update": Case(
        [*CODES, "CREATE TABLE others (id int PRIMARY KEY, code text REFERENCES t (code) ON UPDATE CASCADE)"],
        ["UPDATE t SET code = 'z' WHERE code = 'a'", "INSERT INTO others VALUES (1, 'z')"],
        r"1 rows refer to rows that would be deleted",
    ),
    "a newer branch of partitions": Case(
        TREE, ["CREATE TABLE t_south PARTITION OF t FOR VALUES IN ('south') PARTITION BY RANGE (at)",
               "CREATE TABLE t_south_1 PARTITION OF t_south FOR VALUES FROM (0) TO (100)",
               "INSERT INTO t VALUES (1, 'south', 1, 'a')"],
    ),
    "a branch of partitions dropped": Case(TREE, ["DROP TABLE t_north"]),
    "rows of a partition gone": Case(TREE, ["DELETE FROM t WHERE id > 10", "UPDATE t SET v = 'b'"]),
    "generated unique values exchanged": Case(
        ["CREATE TABLE t (id int PRIMARY KEY, a text, g text GENERATED ALWAYS AS (upper(a)) STORED UNIQUE)",
         "INSERT INTO t VALUES (1, 'c1'), (2, 'c2')"], EXCHANGE,
    ),
    "checked unique values exchanged": Case(
        ["CREATE TABLE t (id int PRIMARY KEY, a text UNIQUE CHECK (a ~ '^c'))", "INSERT INTO t VALUES (1, 'c1'), (2, 'c2')"],
        EXCHANGE,
    ),
    "excluding values exchanged": Case(
        ["CREATE TABLE t (id int PRIMARY KEY, r int4range, EXCLUDE USING gist (r WITH &&))",
         "INSERT INTO t VALUES (1, '[1,5)'), (2, '[5,9)')"],
        ["UPDATE t SET r = 'empty' WHERE id = 1", "UPDATE t SET r = '[1,5)' WHERE id = 2", "UPDATE t SET r = '[5,9)' WHERE id = 1"],
    ),
    "a check that old rows need not keep": Case(
        ["CREATE TABLE t (id int PRIMARY KEY, v int)", "INSERT INTO t VALUES (1, -1)",
         "ALTER TABLE t ADD CONSTRAINT c CHECK ((v | 0) > 0) NOT VALID"],
        ["ALTER TABLE t DROP CONSTRAINT c", "INSERT INTO t VALUES (2, 5)"],
    ),
    "a key that is generated": Case(
        ["CREATE TABLE t (a int, b int GENERATED ALWAYS AS (a * 2) STORED PRIMARY KEY)", "INSERT INTO t (a) VALUES (1), (2)"],
        ["DELETE FROM t WHERE a = 1", "INSERT INTO t (a) VALUES (7)"],
    ),
    "no key": Case(
        ["CREATE TABLE t (a int, b numeric)", "INSERT INTO t VALUES (1, 1.0), (1, 1.0), (1, 1.00), (NULL, NULL)"],
        ["UPDATE t SET b = 1.000 WHERE a = 1", "INSERT INTO t VALUES (NULL, NULL)"],
    ),
    "an identity that is always generated": Case(
        ["CREATE TABLE t (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), n int GENERATED ALWAYS AS IDENTITY, v text)",
         "INSERT INTO t (v) SELECT 'v' FROM generate_series(1, 5)"],
        ["UPDATE t SET n = DEFAULT WHERE n < 3", "UPDATE t SET v = 'w' WHERE n = 4", "DELETE FROM t WHERE n = 5"],
    ),
    "another type": Case(
        ["CREATE TABLE t (id int PRIMARY KEY, v int)", "INSERT INTO t VALUES (1, 1)"],
        ["ALTER TABLE t ALTER COLUMN v TYPE text USING 'a word'"], r"odd.t.v has type text, in the set integer",
    ),
    "another type, restored in common": Case(
        ["CREATE TABLE t (id int PRIMARY KEY, v int)", "INSERT INTO t VALUES (1, 1)"],
        ["ALTER TABLE t ALTER COLUMN v TYPE bigint", "UPDATE t SET v = 7"], parameters={"on_schema_drift": "common-columns"},
    ),
    "the key is another column": Case(
        ["CREATE TABLE t (id int PRIMARY KEY, v int)", "INSERT INTO t VALUES (1, 1)"],
        ["ALTER TABLE t DROP COLUMN id, ADD COLUMN n int GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY"],
        r"odd.t no longer has column id",
    ),
}  # fmt: skip


def restore(world: World, **parameters: Any) -> str:
    words = {"context": "bc-901", "in_place": True, "dry_run": False, "confirm_database": DATABASE} | parameters
    return str(world.run(full_restore, "backup_restorer", **words))


@pytest.mark.parametrize("name", CASES)
def test_odd_schemas(world: World, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    case = CASES[name]
    execute(world, *SET_UP, *case.schema)
    own = ["t", "u"] if "CREATE TABLE u " in " ".join(case.schema) else ["t"]
    context(world, monkeypatch, own)
    before = rows(world)
    world.backup(context="bc-901")
    execute(world, *SET_UP[1:], *case.damage)
    damaged = rows(world)
    if case.refused:
        with pytest.raises(OperationError, match=case.refused):
            restore(world, **case.parameters)
        assert rows(world) == damaged
    else:
        assert restore(world, **case.parameters).startswith("RESTORED")
        assert rows(world) == before


def test_a_table_that_is_newer_than_the_set(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    execute(world, *SET_UP, *CODES)
    context(world, monkeypatch, ["t"])
    world.backup(context="bc-901")
    execute(
        world, *SET_UP[1:], "INSERT INTO t (code) VALUES ('newer')",
        "CREATE TABLE u (id int PRIMARY KEY, code text REFERENCES t (code) ON DELETE CASCADE)", "INSERT INTO u VALUES (1, 'newer')",
    )  # fmt: skip
    context(world, monkeypatch, ["t", "u"])
    damaged = rows(world)
    with pytest.raises(OperationError, match=r"odd.u \(ON DELETE CASCADE\): 1 rows refer to rows that would be deleted"):
        restore(world)
    assert rows(world) == damaged


def test_rows_written_after_the_safety_set_are_not_lost(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    execute(world, *SET_UP, *CODES)
    context(world, monkeypatch, ["t"])
    before = rows(world)
    world.backup(context="bc-901")
    execute(world, "UPDATE odd.t SET code = 'z' WHERE code = 'a'")
    carry_out = apply.carry_out

    def meanwhile(*arguments: Any, **more: Any) -> Any:
        execute(world, "INSERT INTO odd.t (code) VALUES ('in between')")
        return carry_out(*arguments, **more)

    with monkeypatch.context() as patch:
        patch.setattr(apply, "carry_out", meanwhile)
        assert restore(world).startswith("RESTORED")
    assert rows(world) == before
    # Both may be of one second; the newest stands first.
    safety = safety_sets(world, "bc-901")[0]
    assert restore(world, backup=safety).startswith("RESTORED")
    assert ask(world, "SELECT code FROM odd.t ORDER BY 1") == [("b",), ("in between",), ("z",)]


@dataclass(frozen=True)
class Key:
    """The statements that make the type `k`, and five of its values."""

    make: str
    values: Sequence[str]
    refers: str = "REFERENCES t ON UPDATE CASCADE"


KEYS = {
    "a domain over an enum": Key(
        "CREATE TYPE e AS ENUM ('a', 'b', 'c', 'd', 'f'); CREATE DOMAIN k AS e", ["a", "b", "c", "d", "f"], refers=""
    ),
    "an array": Key("CREATE DOMAIN k AS int[]", ["{1}", "{1,2}", "{}", "{{1},{2}}", "{NULL}"]),
    "an array of a domain": Key("CREATE DOMAIN n AS text; CREATE DOMAIN k AS n[]", ["{a}", "{a,b}", "{}", '{"a b"}', "{NULL}"]),
    "a range": Key("CREATE DOMAIN k AS int4range", ["[1,2)", "[1,3)", "empty", "(,5)", "[7,)"]),
    "a range of its own": Key("CREATE TYPE k AS RANGE (subtype = text)", ["[a,b]", "[a,c]", "empty", "(,d]", "[e,)"]),
    "a multirange": Key("CREATE DOMAIN k AS nummultirange", ["{[1,2)}", "{[1,3)}", "{}", "{[1,2),[5,6)}", "{[7,)}"]),
    "a composite": Key("CREATE TYPE k AS (a int, b text)", ["(1,a)", "(1,b)", "(2,a)", "(3,)", '(4,"x, y")']),
    "a domain over a composite": Key(
        "CREATE TYPE p AS (a int, b numeric); CREATE DOMAIN k AS p CHECK ((VALUE).a > 0)",
        ["(1,1)", "(1,2.50)", "(2,1)", "(3,)", "(4,0)"],
    ),
    "a composite of an enum": Key(
        "CREATE TYPE e AS ENUM ('a', 'b', 'c'); CREATE TYPE k AS (a e, b int4range)",
        ['(a,"[1,2)")', '(b,"[1,2)")', '(c,"[1,2)")', "(a,empty)", "(b,)"],
    ),
    "an array of enums": Key("CREATE TYPE e AS ENUM ('a', 'b', 'c'); CREATE DOMAIN k AS e[]", ["{a}", "{b}", "{a,b}", "{}", "{c}"]),
}  # fmt: skip


def keyed(key: Key) -> list[str]:
    one, two, three, four, _ = (f"'{value}'" for value in key.values)
    return [
        *key.make.split("; "), "CREATE TABLE t (id k PRIMARY KEY, o k UNIQUE, v text)",
        f"CREATE TABLE u (id k PRIMARY KEY, t k {key.refers}, n int)",
        f"INSERT INTO t VALUES ({one}, {two}, 'one'), ({two}, {one}, 'two'), ({three}, {three}, 'three'), ({four}, NULL, 'four')",
        f"INSERT INTO u VALUES ({one}, {two}, 1), ({three}, {three}, 3)",
    ]  # fmt: skip


@pytest.mark.parametrize("name", KEYS)
def test_keys_of_odd_types(world: World, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Rows are planned, written, chosen by key and set back by the operators of their types."""
    one, two, _, four, five = (f"'{value}'" for value in KEYS[name].values)
    execute(world, *SET_UP, *keyed(KEYS[name]))
    context(world, monkeypatch, ["t", "u"])
    before = rows(world)
    world.backup(context="bc-901")
    execute(
        world, *SET_UP[1:], "UPDATE t SET v = 'changed' WHERE v = 'two'", "UPDATE u SET n = 4 WHERE n = 3",
        f"DELETE FROM u WHERE id::text = {one}", f"UPDATE t SET o = {five} WHERE id::text = {two}",
        f"UPDATE t SET o = {one} WHERE id::text = {one}", f"DELETE FROM t WHERE id::text = {four}",
        f"INSERT INTO t VALUES ({five}, {four}, 'new')",
    )  # fmt: skip
    damaged = rows(world)
    assert restore(world).startswith("RESTORED")
    assert rows(world) == before
    undo(world, "bc-901")
    assert rows(world) == damaged
    chosen = {"context": "bc-901", "table": "t", "mode": "merge", "dry_run": False, "confirm_database": DATABASE}
    chosen |= {"keys": [KEYS[name].values[3]], "backup": world.set_folders(context="bc-901")[0].name}
    assert world.run(table_restore, "backup_restorer", **chosen).startswith("RESTORED")
    assert ask(world, f"SELECT v, o IS NULL FROM odd.t WHERE id::text = {four}") == [("four", True)]
