"""Partitions by the hash of an enum: elsewhere its labels have other oids, and a row another partition."""

import re
from typing import Any

import pytest

from flows.recovery import disaster_recovery, recovery_drill
from flows.restore import full_restore, table_restore
from tasks.core.errors import OperationError
from tasks.core.sets.manifest_file import MANIFEST_FILE, parse_manifest, render_manifest
from tasks.database import catalog
from tests.support.database import ask, execute
from tests.support.example import DATABASE
from tests.support.odd_schema import SET_UP, context
from tests.support.restores import restore_by_hand
from tests.support.world import World

pytestmark = [pytest.mark.long, pytest.mark.every_variant]

KIND = "CREATE TYPE kind AS ENUM ('a', 'b', 'c', 'd', 'e', 'f', 'g', 'h')"
ROWS = "SELECT n, (enum_range(NULL::odd.kind))[1 + n % 8], 'v' FROM generate_series(1, 200) AS n"
PARTITIONS = [
    f"CREATE TABLE {{0}}_{number} PARTITION OF {{0}} FOR VALUES WITH (MODULUS 3, REMAINDER {number})" for number in range(3)
]  # fmt: skip
SCHEMAS = {
    "by an enum": [
        "CREATE TABLE t (id int, k kind, v text, PRIMARY KEY (id, k)) PARTITION BY HASH (k)",
        *(one.format("t") for one in PARTITIONS), f"INSERT INTO t {ROWS}",
    ],
    "by another table's partition": [
        "CREATE TABLE t (id int, k kind, v text, PRIMARY KEY (id, k, v)) PARTITION BY LIST (v)",
        "CREATE TABLE t_v PARTITION OF t FOR VALUES IN ('v') PARTITION BY HASH (k, id)",
        "CREATE TABLE t_rest PARTITION OF t DEFAULT", *(one.format("t_v") for one in PARTITIONS), f"INSERT INTO t {ROWS}",
        "INSERT INTO t SELECT n, 'a', 'w' FROM generate_series(1, 7) AS n",
    ],
    "by a domain too": [
        "CREATE DOMAIN word AS text",
        "CREATE TABLE t (id int, k kind, v word, PRIMARY KEY (id, k, v)) PARTITION BY HASH (k, v)",
        *(one.format("t") for one in PARTITIONS), f"INSERT INTO t {ROWS}",
    ],
    "columns in another order": [
        "CREATE TABLE t (id int, k kind, v text, PRIMARY KEY (id, k)) PARTITION BY HASH (k)",
        *(one.format("t") for one in PARTITIONS[:2]), "CREATE TABLE t_2 (v text, k kind NOT NULL, id int NOT NULL)",
        "ALTER TABLE t ATTACH PARTITION t_2 FOR VALUES WITH (MODULUS 3, REMAINDER 2)", f"INSERT INTO t {ROWS}",
    ],
    "without a key": ["CREATE TABLE t (id int, k kind[], v text) PARTITION BY HASH (k)", *(one.format("t") for one in PARTITIONS),
                      f"INSERT INTO t SELECT id, ARRAY[k], v FROM ({ROWS}) AS made (id, k, v)"],
}  # fmt: skip
ALL = "SELECT id, k::text, v FROM odd.t ORDER BY 1, 2, 3"
PLACES = "SELECT tableoid::regclass::text, id, k::text FROM odd.t ORDER BY 1, 2, 3"


def rows(world: World, database: str = DATABASE, query: str = ALL) -> list[Any]:
    with world.source.connect(database) as connection:
        return connection.execute(query.encode()).fetchall()


@pytest.mark.parametrize("name", SCHEMAS)
@pytest.mark.parametrize("any_version", [15, 16, 18], indirect=True)
def test_rows_that_belong_to_another_partition_where_they_are_restored(
    any_version: World, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:  # fmt: skip
    world, make = any_version, [*SET_UP, KIND, *SCHEMAS[name]]
    execute(world, *make)
    context(world, monkeypatch, ["t"])
    assert world.backup(context="bc-901").startswith("STORED")
    assert_comes_back_everywhere(world, "odd.t_v" if name == "by another table's partition" else "odd.t")


@pytest.mark.parametrize("any_version", [16], indirect=True)
def test_a_set_of_an_older_release_has_each_partition_in_its_own_column_order(
    any_version: World, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    world = any_version
    execute(world, *SET_UP, KIND, *SCHEMAS["columns in another order"])
    context(world, monkeypatch, ["t"])
    with monkeypatch.context() as older:
        older.setattr(catalog, "_ordered_as_top", lambda member, by_name: member)
        assert world.backup(context="bc-901").startswith("STORED")
    (file,) = world.store_folder.glob(f"bc-901/daily/*/{MANIFEST_FILE}")
    manifest = parse_manifest(file.read_bytes(), str(file))
    assert {tuple(relation.columns) for relation in manifest.relations} == {("id", "k", "v"), ("v", "k", "id")}
    assert_comes_back_everywhere(world)
    # A row that is another one is seen, in whichever partition it is.
    relations = [
        relation.model_copy(update={"digest": f"{int(relation.digest, 16) ^ 1:032x}"}) if relation.name == "t_2" else relation
        for relation in manifest.relations
    ]
    file.write_bytes(render_manifest(manifest.model_copy(update={"relations": relations})))
    with pytest.raises(OperationError, match=r"odd\.t_2: \d+ rows with digest \w+, the backup has \d+ with \w+; restore another"):
        world.run(recovery_drill, "backup_restorer", context="bc-901", backup=manifest.id)


def assert_comes_back_everywhere(world: World, hashed: str = "odd.t") -> None:
    """Restore the newest set wherever it can be restored, and compare."""
    before, places = rows(world), rows(world, query=PLACES)
    assert world.run(recovery_drill, "backup_restorer", context="bc-901").startswith("PASS")
    restore_by_hand(world, "by_hand", context="bc-901")
    assert rows(world, "by_hand") == before
    assert world.run(full_restore, "backup_restorer", context="bc-901", target_database="beside").startswith("PASS")
    assert rows(world, "beside") == before
    execute(world, "DROP TABLE odd.t", "DROP TYPE odd.kind")
    assert world.run(disaster_recovery, "backup_restorer", context="bc-901").startswith("PASS")
    assert rows(world) == before
    # Else nothing is shown.
    assert rows(world, query=PLACES) != places
    execute(world, "UPDATE odd.t SET v = 'v', id = id + 1000 WHERE id < 20", "DELETE FROM odd.t WHERE id BETWEEN 50 AND 90")
    sure = {"context": "bc-901", "dry_run": False, "confirm_database": DATABASE}
    assert world.run(full_restore, "backup_restorer", in_place=True, **sure).startswith("RESTORED")
    assert rows(world) == before
    execute(world, "DELETE FROM odd.t WHERE id < 60")
    assert world.run(table_restore, "backup_restorer", table="t", mode="replace", **sure).startswith("RESTORED")
    assert rows(world) == before
    said = world.run(table_restore, "backup_restorer", context="bc-901", table="t", mode="side-by-side")
    (beside,) = re.findall(r'"odd"\."t_restored_\d+_\d+"', said)
    assert rows(world, query=ALL.replace("odd.t", beside)) == before
    execute(world, f"DROP TABLE {beside}")
    # Rows of a detached partition may belong to another one, too.
    execute(
        world, f"ALTER TABLE {hashed} DETACH PARTITION {hashed}_1", f"ALTER TABLE {hashed} DETACH PARTITION {hashed}_2",
        f"DELETE FROM {hashed}_1 WHERE id < 60", f"DELETE FROM {hashed}_2 WHERE id > 100",
    )  # fmt: skip
    assert world.run(full_restore, "backup_restorer", in_place=True, **sure).startswith("RESTORED")
    assert rows(world) == before
    # No partition lost its rows to the eye of the next backup.
    assert world.backup(context="bc-901").startswith("STORED")
    assert ask(world, "SELECT count(*) FROM odd.t") == [(len(before),)]
