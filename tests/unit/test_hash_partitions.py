"""Tables that are divided by hash, told as wholes; and what of a schema of everybody's is a context's own."""

import pytest

from tasks.core.backup.row_loss import losses_between
from tasks.core.database.objects import InventoryItem
from tasks.core.rows.digest import RowDigest
from tasks.core.sets.hash_partitions import families, unlike
from tasks.core.sets.manifest import Manifest
from tasks.core.sets.shared_schema import comparable, own_grants, schemas_with_objects
from tests.support import samples


def divided(name: str, key: str, parent: str = "") -> InventoryItem:
    state = f"owner o | persistence p | key {key} | replica identity d"
    return InventoryItem(kind="partitioned table", name=name, parent=parent, columns="", state=state)


# By list, of which one partition is divided by hash twice; and by hash with names in quotes.
INVENTORY = [
    divided("public.t", "LIST (region)"), divided("public.t_n", "HASH (k)", "public.t"),
    divided("public.t_n_0", "HASH (id)", "public.t_n"), divided('public."key HASH (x)"', "RANGE (at)"),
    divided('"S.1"."h | key"', "HASH (k)"),
]  # fmt: skip
RELATIONS = [
    samples.relation("t_n_0_0", 60, parent="public.t_n_0", digest=f"{1:032x}"),
    samples.relation("t_n_0_1", 40, parent="public.t_n_0", digest=f"{(1 << 128) - 1:032x}"),
    samples.relation("t_n_1", 10, parent="public.t_n", digest=f"{5:032x}"),
    samples.relation("t_rest", 7, parent="public.t", digest=f"{7:032x}"),
    samples.relation("r_1", 8, parent="public.key HASH (x)"), samples.relation("h_1", 9, parent="S.1.h | key"),
]  # fmt: skip
SET = samples.manifest(relations=RELATIONS, inventory=INVENTORY)
AS_STORED = {one.qualified: RowDigest(one.rows, int(one.digest, 16)) for one in RELATIONS}


def test_the_topmost_table_that_is_divided_by_hash() -> None:
    found = {family.table: [one.name for one in family.relations] for family in families(SET)}
    assert found == {("public", "t_n"): ["t_n_0_0", "t_n_0_1", "t_n_1"], ("S.1", "h | key"): ["h_1"]}


@pytest.mark.parametrize(
    ("moved", "said"),
    [
        ({}, []),
        # From one to another, also where the sum of the digests begins anew.
        ({"public.t_n_0_0": (50, (1 << 128) - 3), "public.t_n_0_1": (50, 3), "public.t_n_1": (10, 5)}, []),
        ({"public.t_n_0_0": (59, 1)}, ["public.t_n: 109 rows"]),
        ({"public.t_n_0_0": (60, 2)}, ["public.t_n: 110 rows"]),
        ({"public.t_rest": (7, 8)}, ["public.t_rest: 7 rows"]),
        # Into a partition that is told by itself, none can move.
        ({"public.t_n_1": (9, 4), "public.t_rest": (8, 8)}, ["public.t_rest: 8 rows", "public.t_n: 109 rows"]),
    ],
)  # fmt: skip
def test_partitions_by_hash_are_compared_together(moved: dict[str, tuple[int, int]], said: list[str]) -> None:
    found = unlike(SET, AS_STORED | {name: RowDigest(*facts) for name, facts in moved.items()})
    assert [line.partition(" with ")[0] for line in found] == said


def test_rows_in_another_order_of_columns_are_not_added_up() -> None:
    other = [*RELATIONS[:2], RELATIONS[2].model_copy(update={"columns": ["氏名", "id"]}), *RELATIONS[3:]]
    moved = {"public.t_n_0_0": RowDigest(50, 2), "public.t_n_0_1": RowDigest(50, (1 << 128) - 2)}
    assert len(unlike(SET.model_copy(update={"relations": other}), AS_STORED | moved)) == 2


def test_no_partition_by_hash_lost_its_rows_to_another() -> None:
    now = [one.model_copy(update={"rows": rows}) for one, rows in zip(RELATIONS, (30, 70, 10, 7, 8, 9), strict=True)]
    assert losses_between(SET, now, 0.2) == []
    fewer = [now[0].model_copy(update={"rows": 0}), *now[1:]]
    assert [one.partition(":")[0] for one in losses_between(SET, fewer, 0.2)] == ["public.t_n"]


def shared(privileges: str, schema: str = "app") -> Manifest:
    state = f"owner pg_database_owner | comment a | privileges b | privileges {privileges}"
    return samples.manifest(
        relations=[samples.relation(schema=schema)],
        inventory=[
            InventoryItem(kind="schema", name="public", parent="", columns="", state=state),
            InventoryItem(kind="function", name="public.f(integer, text)", parent="", columns="", state="owner o"),
            InventoryItem(kind="function", name="g()", parent="", columns="", state="owner a b"),
        ],
    )  # fmt: skip


def test_of_a_shared_schema_only_what_own_roles_may_do_counts() -> None:
    one = shared("o=CREATE o=USAGE* oo=CREATE a b=USAGE PUBLIC=USAGE")
    assert [grant.words for grant in own_grants(one)] == ["a b=USAGE", "o=CREATE", "o=USAGE*"]
    same, other = (comparable(one, shared(said).inventory) for said in ("a b=USAGE o=CREATE o=USAGE*", "o=CREATE o=USAGE*"))
    assert comparable(one, one.inventory) == same != other
    assert schemas_with_objects(one) == ["app", "public"]


def test_the_schema_of_a_contexts_tables_is_its_own() -> None:
    one = shared("o=CREATE x=USAGE", "public")
    assert own_grants(one) == [] and comparable(one, one.inventory) == one.inventory
