"""What of a set is told as left out, and is not missed."""

import pytest

from tasks.core.database.objects import InventoryItem, LeftOut
from tasks.core.sets.large_objects import LargeObjects
from tasks.core.sets.left_out import chores, in_short, without_absent
from tests.support.samples import manifest, relation


def item(kind: str, name: str, parent: str = "", state: str = "") -> InventoryItem:
    return InventoryItem(kind=kind, name=name, parent=parent, columns="", state=state)


def test_what_is_left_out_is_told_with_its_statements() -> None:
    by_hand = [
        LeftOut(name="view app.v", why="it needs table b.u of another context", statements="CREATE VIEW app.v AS\n SELECT 1;")
    ]
    (told,) = chores(manifest(left_out=["view app.v"], by_hand=by_hand))
    assert told.startswith("view app.v is not in the backup: it needs table b.u of another context; create it when")
    assert told.endswith("```sql\n  CREATE VIEW app.v AS\n   SELECT 1;\n  ```")
    quoted = by_hand[0].model_copy(update={"statements": "SELECT '````';"})
    assert "\n  `````sql\n" in chores(manifest(by_hand=[quoted]))[0]


def test_older_sets_tell_names_alone() -> None:
    older = manifest(left_out=["rule r on table app.t"], forgotten_tables=["app.f"])
    assert chores(older) == [
        "table app.f and its rows are in no backup, because no context lists the table",
        "rule r on table app.t is not in the backup: it needs another context's table; its statements are not in the manifest",
    ]
    assert in_short(older) == "2 objects not in the set (rule r on table app.t, app.f)"


def test_older_sets_say_which_columns_may_name_large_objects() -> None:
    lo = item("type", "app.lo", state="owner o | d | oid")
    types = {"id": "integer", "a": "oid", "b": "app.lo", "c": "app._lo", "d": "oid[]", "e": "lib.lo", "f": "regclass"}
    table = relation().model_copy(update={"columns": [*types], "types": [*types.values()]})
    older = manifest(relations=[table], inventory=[lo], extensions=["lo"])
    name = f"the large objects that {table.qualified}(a, b, c, d, e) references"
    assert in_short(older) == f"1 object not in the set ({name})"
    assert chores(older)[0].startswith(f"{name} is not in the backup: the release that took the set stored no large objects")
    none = LargeObjects(columns={table.qualified: ["a"]}, objects=0, plain_bytes=0, digest="0" * 32, seconds=0)
    assert in_short(older.model_copy(update={"large_objects": none})) == ""


@pytest.mark.parametrize(
    ("count", "said"), [(0, ""), (1, "1 object not in the set (a0)"), (5, "5 objects not in the set (a0, a1, a2, and 2 more)")]
)
def test_a_verdict_names_the_first(count: int, said: str) -> None:
    by_hand = [LeftOut(name=f"a{number}", why="w", statements="") for number in range(count)]
    assert in_short(manifest(by_hand=by_hand)) == said


def test_partitions_lack_what_their_table_lacks() -> None:
    kept = [
        item("partitioned table", "app.t"), item("table", "app.t1", "app.t"), item("table", "app.o"), item("trigger", "g", "app.o"),
        item("trigger", "own", "app.t1"),
    ]  # fmt: skip
    gone = [
        item("trigger", "g", "app.t"), item("trigger", "g", "app.t1"), item("index", "app.i", "app.t"),
        item("index", "app.i1", "app.t1", "CREATE INDEX … | attached to app.i"), item("policy", "p", "app.t"),
    ]  # fmt: skip
    left_out = ["trigger g on table app.t", "index app.i", "policy p on table app.t"]
    assert without_absent([*kept, *gone], left_out) == kept
