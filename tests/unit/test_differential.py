"""What a differential can be taken against, and which relations of it."""

from typing import Any

import pytest

from tasks.core.backup.differential import MOST_TRANSACTIONS, Base, incompatibility
from tasks.core.database.objects import InventoryItem
from tasks.core.rows.file_blocks import BlockRows
from tasks.core.sets.manifest import Incarnation
from tests.support import samples

HERE = Incarnation(started="2025-11-01T00:00:00.000001Z", address="10.0.0.1:5432")
AGAIN = Incarnation(started="2025-11-02T00:00:00.000001Z", address="10.0.0.1:5432")
BASE = samples.manifest(snapshot=samples.snapshot(incarnation=HERE))
TABLE, TYPE = (
    InventoryItem(kind="table", name="public.teams", parent="", columns="id uuid", state="owner o"),
    InventoryItem(kind="type", name="public.mood", parent="", columns="good, bad", state="owner o"),
)


def why(xmax: int = 800, database: int = 1, inventory: list[InventoryItem] | None = None, **snapshot: Any) -> str | None:
    found = samples.snapshot(**{"xmin": 750, "lsn": "0/2000", "incarnation": HERE} | snapshot)
    return incompatibility(BASE, found, xmax, database, [TABLE] if inventory is None else inventory)


def test_a_base_that_fits() -> None:
    assert why() is None
    assert why(xmin=700, lsn="0/1000", xmax=700) is None
    assert why(xmax=700 + MOST_TRANSACTIONS - 1) is None


@pytest.mark.parametrize(
    ("now", "said"),
    [
        ({"system_identifier": "8"}, "it was taken from another cluster"),
        ({"timeline": 2}, "it was taken from another timeline"),
        ({"database": 2}, "it was taken from another database"),
        ({"lsn": "0/FFF"}, "this server has not reached the state of that backup"),
        ({"timeline": 0, "lsn": "0/FFF"}, "this server has not reached the state of that backup"),
        (
            {"timeline": 0},
            "the standby did not report which timeline it follows (it receives no WAL, or the login lacks pg_read_all_stats)",
        ),
        ({"xmin": 699}, "this server has not reached the state of that backup"),
        (
            {"incarnation": AGAIN},
            "the server was restarted since (started 2025-11-02T00:00:00.000001Z, at that backup 2025-11-01T00:00:00.000001Z)",
        ),
        (
            {"incarnation": HERE.model_copy(update={"address": "10.0.0.2:5432"})},
            "the server has another address now (10.0.0.2:5432, at that backup 10.0.0.1:5432)",
        ),
        (
            {"incarnation": AGAIN.model_copy(update={"address": "local socket:5432"})},
            "this is another server now (local socket:5432, at that backup 10.0.0.1:5432)",
        ),
        ({"incarnation": None}, "it does not record when the server was started"),
        # What is behind says so first, however it came to be so.
        ({"incarnation": AGAIN, "lsn": "0/FFF"}, "this server has not reached the state of that backup"),
        ({"xmax": 700 + MOST_TRANSACTIONS}, "1,073,741,824 transactions began since that backup, too many to compare ids"),
        ({"inventory": [TABLE.model_copy(update={"columns": "id text"})]}, "table public.teams changed"),
        ({"inventory": [TABLE, TYPE]}, "type public.mood changed"),
    ],
)
def test_a_base_that_does_not(now: dict[str, Any], said: str) -> None:
    assert why(**now) == said


def test_a_base_of_an_older_release_is_none() -> None:
    older = samples.manifest()
    said = incompatibility(older, samples.snapshot(xmin=750, lsn="0/2000", incarnation=HERE), 800, 1, [TABLE])
    assert said == "it does not record when the server was started"


def test_tables_may_come_and_go() -> None:
    assert why(inventory=[]) is None
    assert why(inventory=[TABLE, TABLE.model_copy(update={"name": "public.later"})]) is None


@pytest.mark.parametrize(
    ("now", "has"),
    [
        ({}, True), ({"oid": 1}, False), ({"relfilenode": 1}, False), ({"name": "public.other"}, False),
        ({"columns": ["id"]}, False), ({"layout": "another"}, False), ({"layout": ""}, False),
    ],
)  # fmt: skip
def test_a_relation_of_the_base(now: dict[str, Any], has: bool) -> None:
    base = Base(BASE, {"public.teams": BlockRows.of(0, [3])})
    asked = {"oid": 16400, "relfilenode": 16400, "name": "public.teams", "columns": ["id", "氏名"], "layout": "a layout"}
    assert (base.part_of(**asked | now) is not None) == has
    assert Base(BASE, {}).part_of(**asked) is None


def test_layouts_that_nobody_knows_are_not_the_same() -> None:
    older = BASE.model_copy(update={"relations": [one.model_copy(update={"layout": ""}) for one in BASE.relations]})
    base = Base(older, {"public.teams": BlockRows.of(0, [3])})
    assert base.part_of(16400, 16400, "public.teams", ["id", "氏名"], "") is None
