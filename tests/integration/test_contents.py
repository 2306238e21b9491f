"""What is in a set and what is not, and that whatever PostgreSQL allows comes back as it was."""

import contextlib
import json
import re
import shutil
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, LiteralString

import httpx
import psycopg
import pytest
from psycopg import sql

from deployments.local import LocalServer
from flows.backup import list_backups
from flows.restore import full_restore
from flows.retention import prune_backups
from tasks.core.errors import BadInput
from tasks.database import borders
from tasks.run import site
from tests.support.clock import later
from tests.support.contexts import write_context
from tests.support.example import OUTBOUND_KEYS, TABLES, copy_template
from tests.support.hostile_names import HOSTILE, NAMESPACE, Hostile
from tests.support.oracle import State, capture, statements_of_all
from tests.support.servers import drop_databases
from tests.support.world import World


def change_every_leaf(connection: psycopg.Connection) -> int:
    """Delete a row of every leaf, and insert another once more, where its constraints allow that; return how many rows."""
    changed = 0
    leaves = connection.execute(
        "SELECT c.oid::regclass::text FROM pg_class c WHERE c.relnamespace = %s::regnamespace AND c.relkind = 'r'",
        (sql.Identifier(NAMESPACE).as_string(),),
    ).fetchall()
    for (leaf,) in leaves:
        for change in (
            "DELETE FROM ONLY {} WHERE ctid = (SELECT min(ctid) FROM ONLY {})",
            "INSERT INTO {} TABLE ONLY {} LIMIT 1",
        ):
            with contextlib.suppress(psycopg.errors.IntegrityError, psycopg.ProgrammingError, psycopg.errors.RaiseException):
                changed += connection.execute(change.format(leaf, leaf).encode()).rowcount
    return changed


def test_whatever_postgresql_allows_comes_back(hostile: Hostile) -> None:
    before = hostile.state(of_target=False)
    hostile.backup_and_recover()
    hostile.assert_equal(before)


@pytest.mark.long
def test_a_differential_of_whatever_postgresql_allows(hostile: Hostile) -> None:
    world = hostile.world
    world.backup(context="bc-900")
    with world.connect() as connection:
        connection.execute("SET default_transaction_read_only = off")
        changed = change_every_leaf(connection)
        for view in ("Mat 1", "Mat 0 auf 1"):
            connection.execute(sql.SQL("REFRESH MATERIALIZED VIEW {}").format(sql.Identifier(NAMESPACE, view)))
    assert changed > 5
    before = hostile.state(of_target=False)
    assert "differential" in world.differential(context="bc-900", accept_losses=True)
    assert world.recover(context="bc-900").startswith("PASS")
    hostile.assert_equal(before)


@pytest.mark.long
def test_whatever_postgresql_allows_is_restored_in_place(hostile: Hostile) -> None:
    world = hostile.world
    with world.connect() as connection:
        connection.execute("SET default_transaction_read_only = off")
        connection.execute("ALTER ROLE backup_restorer BYPASSRLS")
        connection.execute(sql.SQL("GRANT TEMPORARY ON DATABASE {} TO backup_restorer").format(sql.Identifier(HOSTILE)))
        rule = sql.SQL("DROP RULE {} ON {}")
        connection.execute(rule.format(sql.Identifier("Regel"), sql.Identifier(NAMESPACE, "Große Tabelle; DROP TABLE x --")))
    before = hostile.state(of_target=False)
    world.backup(context="bc-900")
    with world.connect() as connection:
        connection.execute("SET default_transaction_read_only = off")
        changed = change_every_leaf(connection)
    assert changed > 20
    try:
        said = world.run(full_restore, "backup_restorer", context="bc-900", in_place=True, dry_run=False, confirm_database=HOSTILE)
        assert said.startswith("RESTORED")
        hostile.assert_equal(before, of_target=False)
    finally:
        with world.source.connect() as connection:
            connection.execute("ALTER ROLE backup_restorer NOBYPASSRLS")


@pytest.mark.long
def test_a_local_copy_restores_by_itself(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    copies = world.folder / "copies"
    text = (site.CONTEXTS / "bc-004" / "context.yaml").read_text(encoding="utf-8")
    shutil.copytree(site.CONTEXTS, world.folder / "contexts")
    monkeypatch.setattr(site, "CONTEXTS", world.folder / "contexts")
    (site.CONTEXTS / "bc-004" / "context.yaml").write_text(f"{text}\nlocal_copy: {{folder: {copies}, keep: 3 days}}\n")
    # What cannot be copied is stored all the same.
    assert world.backup().startswith("STORED")
    copies.mkdir()
    assert world.backup().startswith("STORED")
    before = world.state()
    shutil.rmtree(copies / "bc-004")
    assert "differential" in world.differential()
    there = world.store["BACKUP_STORE"]
    world.store["BACKUP_STORE"] = str(copies)
    assert [row["state"] for row in world.run(list_backups, "backup_reader")] == ["stored", "stored"]
    shutil.move(there, f"{there} gone")
    assert world.recover().startswith("PASS")
    world.assert_recovered(before)

    world.store["BACKUP_STORE"] = there
    shutil.move(f"{there} gone", there)
    with later(days=4):
        said = world.run(prune_backups, "backup_reader", dry_run=False)
    # The newest is kept there too, and what it needs.
    assert said.count("PRUNED: 0 sets expire") == 2


@pytest.mark.long
@pytest.mark.parametrize("place", ["", "/below", "/.."])
def test_a_local_copy_in_the_store_itself_is_refused(world: World, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    world.backup()
    text = (site.CONTEXTS / "bc-004" / "context.yaml").read_text(encoding="utf-8")
    shutil.copytree(site.CONTEXTS, world.folder / "contexts")
    monkeypatch.setattr(site, "CONTEXTS", world.folder / "contexts")
    copies = f"{world.store_folder}{place}"
    (site.CONTEXTS / "bc-004" / "context.yaml").write_text(f"{text}\nlocal_copy: {{folder: {copies}, keep: 3 days}}\n")
    for flow in (world.backup, lambda: world.run(prune_backups, "backup_reader")):
        with pytest.raises(BadInput, match="overlap"):
            flow()


@pytest.mark.long
def test_who_makes_differentials_grow_is_named(world: World) -> None:
    with world.connect() as connection:
        connection.execute("BEGIN")
        connection.execute("UPDATE teams SET purpose = 'x' WHERE ctid = '(0,1)'")
        connection.execute("PREPARE TRANSACTION 'forgotten'")
        try:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(borders, "LONG", timedelta(0))
                assert "1 warnings" in world.backup()
        finally:
            connection.execute("ROLLBACK PREPARED 'forgotten'")
    (folder,) = world.set_folders()
    assert "prepared transaction 'forgotten' of postgres has been open since" in (folder / "manifest.json").read_text()


@pytest.mark.long
def test_an_encoding_with_characters_that_unicode_has_not(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.database = "euc"
    monkeypatch.setattr(site, "CONTEXTS", world.folder / "contexts")
    write_context(world.folder / "contexts", name="bc-901", database="euc", schema="public", tables=["顧客"])
    with world.source.connect() as connection:
        connection.execute("CREATE DATABASE euc OWNER consulting_owner ENCODING 'EUC_JP' LOCALE 'C' TEMPLATE template0")
    with world.connect() as connection:
        connection.execute("SET ROLE consulting_owner")
        connection.execute("CREATE TABLE 顧客 (番号 integer PRIMARY KEY, 名 text DEFAULT '無名')")
        # A user-defined character: valid in EUC_JP, in no conversion to UTF8.
        connection.execute("INSERT INTO 顧客 VALUES (1, '佐藤'), (2, convert_from('\\xf5a1f5a2'::bytea, 'EUC_JP'))")
    conninfo = world.source.conninfo("euc")
    before = (
        capture(conninfo, bin_dir=world.source.bin, tables=['public."顧客"']),
        statements_of_all(conninfo, bin_dir=world.source.bin),
    )
    assert world.backup(context="bc-901").startswith("STORED")
    assert world.recover(context="bc-901").startswith("PASS")
    conninfo = world.target.conninfo("euc")
    after = (
        capture(conninfo, bin_dir=world.target.bin, tables=['public."顧客"']),
        statements_of_all(conninfo, bin_dir=world.target.bin),
    )
    assert before[0].differences(after[0]) == []
    assert before[1] == after[1]


@pytest.mark.long
def test_a_child_gets_what_its_parent_got_later_in_another_place(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site, "CONTEXTS", world.folder / "contexts")
    write_context(world.folder / "contexts", name="bc-903", database=world.database, schema="public", tables=["parent"])
    with world.connect() as connection:
        connection.execute("SET ROLE consulting_owner")
        connection.execute("CREATE TABLE parent (a integer)")
        connection.execute("CREATE TABLE child (b integer) INHERITS (parent)")
        connection.execute("ALTER TABLE parent ADD c integer")
        connection.execute("INSERT INTO child (a, b, c) VALUES (1, 2, 3)")
    assert world.backup(context="bc-903").startswith("STORED")
    # pg_dump puts inherited columns first, and has no way to say otherwise.
    assert world.recover(context="bc-903").startswith("PASS")
    with world.connect(world.target) as connection:
        assert connection.execute("TABLE child").fetchall() == [(1, 3, 2)]


# One night: a live database with all that surrounds a context, backed up and recovered once, and looked at in many tests.

SURROUNDINGS = """
CREATE TABLE policy_violations_2019 PARTITION OF policy_violations FOR VALUES FROM ('2019-01-01') TO ('2020-01-01');
INSERT INTO policy_violations_2019
    SELECT (jsonb_populate_record(v, '{"detected_at": "2019-05-05"}')).* FROM policy_violations v LIMIT 5;
ALTER TABLE policy_violations DETACH PARTITION policy_violations_2019;
CREATE TABLE policy_violations_tmp_export AS SELECT * FROM policy_violations LIMIT 7;
CREATE TABLE team_performance_history (
    id integer PRIMARY KEY, team_id uuid CONSTRAINT performance_of REFERENCES teams ON DELETE CASCADE, score numeric);
INSERT INTO team_performance_history SELECT 1, id, 0.5 FROM teams LIMIT 1;
CREATE SCHEMA bc_005;
CREATE TABLE bc_005.team_notes (team_id uuid REFERENCES public.teams, note text);
CREATE VIEW bc_005.team_names AS SELECT id, name FROM public.teams;
CREATE MATERIALIZED VIEW bc_005.violations AS SELECT severity, count(*) FROM public.policy_violations GROUP BY 1;
CREATE FUNCTION bc_005.look() RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM public.teams';
CREATE PUBLICATION others FOR TABLE public.teams;
ALTER TABLE teams DISABLE TRIGGER {trigger};
"""
LEGACY = {
    "bc-004/daily/bc-004_full_20251103_020000.dump.gz": b"daily \x00\xff",
    "bc-004/violations/2025/policy_violations_2025_11.dump.gz": b"monthly",
    "bc-004/archive/policy_violations_2020.dump.gz": b"archive",
}
OUR_VIEWS = ["mv_user_allocation_summary", "mv_team_statistics", "mv_unit_statistics"]


@dataclass(frozen=True)
class Night:
    """What was seen before, in the store, and after."""

    before: State
    after: State
    recovered: set[str]
    manifest: dict[str, Any]
    keys: dict[str, str]
    legacy: dict[str, bytes]
    listing: list[dict[str, Any]]
    trigger: str
    artifacts: dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def night(source: LocalServer, target: LocalServer, prefect_api: str, tmp_path_factory: pytest.TempPathFactory) -> Night:
    """Everything that a night leaves."""
    store = tmp_path_factory.mktemp("night")
    for key, data in LEGACY.items():
        (store / key).parent.mkdir(parents=True)
        (store / key).write_bytes(data)
    copy_template(source)
    world = World(source, target, store.with_name("staging-of-night"), prefect_api, {"BACKUP_STORE": str(store)})
    world.folder.mkdir()
    with world.connect() as connection:
        trigger = _one(connection, "SELECT min(tgname) FROM pg_trigger WHERE tgrelid = 'teams'::regclass AND NOT tgisinternal")
        connection.execute(SURROUNDINGS.replace("{trigger}", trigger))
        keys = dict(connection.execute(
            """SELECT conrelid::regclass || '.' || conname, pg_get_constraintdef(oid) FROM pg_constraint
               WHERE contype = 'f' AND confrelid = 'users'::regclass AND conparentid = 0
               AND conrelid <> 'policy_violations_2019'::regclass"""
        ).fetchall())  # fmt: skip
    before = world.state(views=OUR_VIEWS)
    assert world.backup().startswith("STORED")
    assert world.recover().startswith("PASS")
    (set_folder,) = (path.parent for path in store.glob("bc-004/daily/*/manifest.json"))
    manifest = json.loads((set_folder / "manifest.json").read_bytes())["manifest"]
    after = world.state(target, views=OUR_VIEWS)
    with world.connect(target) as connection:
        names = "SELECT oid::regclass::text FROM pg_class WHERE relkind IN ('r', 'p', 'm', 'v') AND oid >= 16384"
        recovered = {row[0] for row in connection.execute(names)}
    listing = world.run(list_backups, "backup_reader")
    drop_databases(source)
    drop_databases(target)
    legacy = {key: (store / key).read_bytes() for key in LEGACY}
    artifacts = {key: _artifact(prefect_api, key, manifest["id"]) for key in ARTIFACTS}
    return Night(before, after, recovered, manifest, keys, legacy, listing, trigger, artifacts)


ARTIFACTS = ["bc-004-backup", "bc-004-backup-relations", "bc-004-recovery", "bc-004-recovery-relations"]


def _artifact(api: str, key: str, set_id: str) -> dict[str, Any]:
    asked = {"artifacts": {"key": {"any_": [key]}}, "sort": "CREATED_DESC"}
    answer = httpx.post(f"{api}/artifacts/filter", json=asked)
    (found,) = (one for one in answer.raise_for_status().json() if set_id in one["description"])
    return dict(found)


def _one(connection: psycopg.Connection, query: LiteralString) -> str:
    row = connection.execute(query).fetchone()
    assert row
    return str(row[0])


@pytest.mark.long
def test_what_surrounds_a_context_disturbs_nothing(night: Night) -> None:
    assert night.before.differences(night.after, ignore_foreign_keys=OUTBOUND_KEYS, views="recomputed") == []
    assert night.after.outside == ()
    leaves = {f"policy_violations_{year}" for year in range(2021, 2028)}
    assert night.recovered == {*TABLES, *OUR_VIEWS, *leaves}


def test_names_alone_put_nothing_into_a_set(night: Night) -> None:
    names = {one["name"] for one in night.manifest["relations"]}
    assert names == {*TABLES, *(f"policy_violations_{year}" for year in range(2021, 2028))} - {"policy_violations"}


def test_tables_that_nobody_claims_are_warned_of(night: Night) -> None:
    forgotten = {
        "public.policy_violations_2019 (refers to this context)", "public.policy_violations_tmp_export",
        "public.team_performance_history (refers to this context)", "bc_005.team_notes (refers to this context)",
    }  # fmt: skip
    assert set(night.manifest["forgotten_tables"]) == forgotten
    report = night.artifacts["bc-004-backup"]["data"]
    assert all(any(one in warning for warning in night.manifest["warnings"]) and one in report for one in forgotten)
    assert "public.users" not in " ".join(night.manifest["warnings"])
    statements = {item["name"]: item["statements"] for item in night.manifest["by_hand"]}
    names = [f"table {table.partition(' (')[0]}" for table in forgotten]
    # It reads the context's tables.
    names.append("materialized view bc_005.violations")
    assert [name for name in names if "CREATE " not in statements[name] or f"{name} is not in the backup" not in report] == []


def test_a_disabled_trigger_is_warned_of_and_comes_back_disabled(night: Night) -> None:
    warning = f"trigger {night.trigger} on public.teams is DISABLED"
    assert any(warning in one for one in night.manifest["warnings"])
    for key in ("bc-004-backup", "bc-004-recovery"):
        assert warning in night.artifacts[key]["data"]
    name = f"public.teams.{night.trigger}"
    assert night.before.triggers[name] == night.after.triggers[name] == "enabled: D"


def test_keys_to_other_contexts_are_listed_by_name_and_definition(night: Night) -> None:
    listed = {f"{key['table'].removeprefix('public.')}.{key['name']}": key["definition"] for key in night.manifest["outbound_keys"]}
    assert sorted(listed) == OUTBOUND_KEYS
    assert {name: text.replace("public.", "") for name, text in listed.items()} == night.keys
    to_do = night.artifacts["bc-004-recovery"]["data"].split("Still to do")[1].split("\n## ")[0]
    for name, definition in listed.items():
        table, key = name.split(".")
        assert f"ALTER TABLE public.{table} ADD CONSTRAINT {key} {definition}" in to_do
    assert "performance_of of public.team_performance_history" in to_do


def test_files_of_the_old_scripts_are_listed_and_left_alone(night: Night) -> None:
    assert night.legacy == LEGACY
    listed = {row["id"]: (row["state"], row["bytes"]) for row in night.listing if row["state"] == "legacy"}
    assert listed == {key: ("legacy", len(data)) for key, data in LEGACY.items()}


def test_reports_are_there_with_the_verdict_first(night: Night) -> None:
    for key, verdict in (("bc-004-backup", "STORED"), ("bc-004-recovery", "PASS")):
        report, table = night.artifacts[key], night.artifacts[f"{key}-relations"]
        assert report["type"], table["type"] == ("markdown", "table")
        assert report["description"] == table["description"]
        assert report["description"].startswith(f"{verdict}: ")
        facts = report["description"].removeprefix(f"{verdict}: ")
        assert report["data"].startswith(f"# {verdict}\n\n**{facts}**\n")
        assert f"/bc-004/daily/{night.manifest['id']}" in report["data"]
        assert "Still to do" in report["data"]
        rows = {row["relation"]: row for row in json.loads(table["data"])}
        for one in night.manifest["relations"]:
            row = rows.pop(f"public.{one['name']}")
            assert (row["rows"], row["stored bytes"]) == (one["rows"], sum(part["bytes"] for part in one["parts"]))
            assert row["seconds"] >= 0
            assert re.search(
                rf"\| public\.{one['name']} \| {one['rows']:,} \| `{one['digest'][:12]}…` \| [\d.]+ [KM]?B \| [\d.]+ s \|",
                report["data"],
            )
        assert rows == {}
