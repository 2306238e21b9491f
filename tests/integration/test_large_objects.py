"""Large objects that rows name: in the set with their content, or named; never lost without a word."""

import re
from collections.abc import Iterator
from typing import Any

import pytest

from flows.checks import integrity_check
from flows.partitions import archive_partitions, reattach_partition
from flows.recovery import recovery_drill
from flows.restore import full_restore, restore_cleaned_up, table_restore
from flows.retention import clean_up_old_data
from flows.watch import verify_backups
from tasks.core.errors import BadInput, DamagedSet, OperationError, UnsafeTarget
from tests.support.database import ask, execute
from tests.support.example import DATABASE
from tests.support.faults import MemoryWatch
from tests.support.large_objects import OWN, documents, own, pages_of, put, seen
from tests.support.reports import report
from tests.support.restores import restore_by_hand, safety_sets, undo
from tests.support.servers import CONTRIB
from tests.support.surroundings import CONTEXT, newest, rehearsed, to_do
from tests.support.world import World

long = pytest.mark.long
every_version = pytest.mark.parametrize("any_version", [15, 16, 18], indirect=True)
SURE = {"context": CONTEXT, "dry_run": False, "confirm_database": DATABASE}


def test_large_objects_come_back(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    documents(world, monkeypatch)
    before = own(seen(world))
    assert world.backup(context=CONTEXT).startswith("STORED")
    large = newest(world).large_objects
    assert large and (large.objects, large.columns["odd.d"]) == (len(OWN), ["doc", "old", "more"])
    assert re.search(r"PASS.* relations and 8 large objects identical", world.recover(context=CONTEXT))
    assert seen(world, world.target) == before
    assert "large object" not in to_do(report(world, f"{CONTEXT}-recovery"))
    assert world.run(verify_backups, "backup_reader", context=CONTEXT).startswith("PASS")


@long
@every_version
def test_a_differential_has_those_that_changed(any_version: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Written, cut, removed, made again under the same oid, granted; new ones; and what VACUUM and a rewrite do to none."""
    world = any_version
    two_pages = "SET ROLE consulting_owner", "SELECT lo_from_bytea(71016, decode(repeat('ab', 4096), 'hex'))"
    documents(world, monkeypatch, *two_pages, *(f"INSERT INTO d VALUES ({n}, {n})" for n in (71014, 71015, 71016)))
    world.backup(context=CONTEXT)
    full = pages_of(world).stat().st_size
    execute(world, "VACUUM FULL pg_largeobject", "VACUUM FREEZE pg_largeobject")
    # A page that goes and leaves none younger: nobody does that but by hand.
    execute(world, "SET allow_system_table_mods = on", "DELETE FROM pg_largeobject WHERE loid = 71016 AND pageno = 1")
    put(world, 71010, "00ff")
    execute(
        world, "SELECT lo_truncate64(lo_open(71001, 131072), 2048)", "SELECT lo_unlink(71012), lo_unlink(71013)",
        "SET ROLE consulting_owner", "SELECT lo_from_bytea(71013, '\\x77')", "COMMENT ON LARGE OBJECT 71002 IS 'new'",
        "SELECT lo_from_bytea(71030, '\\x88')", "INSERT INTO odd.d VALUES (7, 71030)",
        "UPDATE odd.d SET doc = NULL WHERE id = 71014",
    )  # fmt: skip
    before = {oid: facts for oid, facts in seen(world).items() if oid in {*OWN, 71015, 71016, 71030}}
    assert world.differential(context=CONTEXT).startswith("STORED")
    # 71002, 71003, 71011 and 71015 lie in the full: 71004 has no page.
    assert re.search(r"large objects \| 10, 4 of them unchanged since the full", report(world, f"{CONTEXT}-backup"))
    assert pages_of(world, "differential").stat().st_size < full
    assert world.run(verify_backups, "backup_reader", context=CONTEXT).startswith("PASS")
    assert rehearsed(world).startswith("PASS")
    copy = {"context": CONTEXT, "target_database": "copy"}
    assert world.run(full_restore, "backup_restorer", **copy).startswith("PASS")
    assert seen(world, database="copy") == before
    (differential,) = world.set_folders("differential", CONTEXT)
    restore_by_hand(world, "by_hand", differential.name, CONTEXT)
    assert seen(world, database="by_hand") == before


@long
@every_version
def test_the_newest_backup_is_a_witness_of_them(any_version: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """What rows still name is lost, emptied or changed; what went with its row is not missed."""
    world = any_version
    documents(world, monkeypatch)
    world.backup(context=CONTEXT)
    checked = {"flow": integrity_check, "user": "backup_reader", "context": CONTEXT}
    assert world.run(**checked).startswith("PASS")
    put(world, 71010, "00ff")
    execute(world, "SELECT lo_unlink(71012)", "UPDATE odd.p SET file = NULL WHERE file = 71012")
    assert world.run(**checked).startswith("PASS")
    text = report(world, f"{CONTEXT}-integrity")
    assert "0 lost, 1 changed" in text and "8 checked, 7 of them read" in text and "71010 has changed content" in text
    execute(world, "SELECT lo_unlink(71013), lo_unlink(71003)", "SELECT lo_truncate(lo_open(71001, 131072), 0)")
    with pytest.raises(OperationError, match=r"large objects of the newest backup: 4 offending"):
        world.run(**checked)
    text = report(world, f"{CONTEXT}-integrity")
    assert "3 lost, 1 changed" in text and "71003 is missing or empty" in text
    assert "content of large objects" not in text


@long
@every_version
def test_the_script_of_a_set_brings_them_back(any_version: World, monkeypatch: pytest.MonkeyPatch) -> None:
    documents(any_version, monkeypatch)
    before = own(seen(any_version))
    any_version.backup(context=CONTEXT)
    restore_by_hand(any_version, "by_hand", context=CONTEXT)
    assert seen(any_version, database="by_hand") == before
    assert rehearsed(any_version).startswith("PASS")


@long
def test_bytes_that_the_store_lost_are_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    documents(world, monkeypatch)
    world.backup(context=CONTEXT)
    pages = pages_of(world)
    whole = pages.read_bytes()
    pages.write_bytes(whole[:-20] + bytes([whole[-20] ^ 1]) + whole[-19:])
    for flow, user in ((verify_backups, "backup_reader"), (recovery_drill, "backup_restorer")):
        with pytest.raises(
            (DamagedSet, OperationError), match=r"large-objects\.pages\.zst(:| is damaged:) 1\d\d bytes with sha256"
        ):
            world.run(flow, user, context=CONTEXT)
    pages.unlink()
    with pytest.raises(DamagedSet, match=r"large-objects\.pages\.zst"):
        world.recover(context=CONTEXT)
    assert not world.target.has_database(DATABASE)


@long
@every_version
def test_what_may_not_be_read_is_named(any_version: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A login that may read every table, but has not all of pg_read_all_data."""
    world = any_version
    documents(world, monkeypatch)
    execute(
        world, "CREATE ROLE narrow LOGIN", *(f"GRANT USAGE ON SCHEMA {one} TO narrow" for one in ("odd", "public", "beside")),
        *(f"GRANT SELECT ON ALL TABLES IN SCHEMA {one} TO narrow" for one in ("odd", "public", "beside")),
        "GRANT pg_read_all_stats TO narrow",
    )  # fmt: skip
    world.source.allow_login("narrow")
    try:
        said = world.backup("narrow", context=CONTEXT)
        assert re.search(r"STORED.*1 object not in the set \(8 large objects \(71001, 71002, 71003, …\)\)", said)
        assert "GRANT pg_read_all_data TO" in report(world, f"{CONTEXT}-backup")
        said = str(world.run(full_restore, "backup_restorer", context=CONTEXT, target_database="copy"))
        assert "8 large objects (71001, 71002, 71003, …)" in said
        assert seen(world, database="copy") == {}
        assert "GRANT pg_read_all_data TO" in to_do(report(world, f"{CONTEXT}-recovery"))
        world.backup(context=CONTEXT)
        # Each is there, and that is all that this login can tell.
        world.run(integrity_check, "narrow", context=CONTEXT)
        assert "content of large objects (not run): not compared" in report(world, f"{CONTEXT}-integrity")
    finally:
        execute(world, "DROP DATABASE IF EXISTS copy")
        execute(world, "DROP OWNED BY narrow")
        execute(world, "DROP ROLE narrow")


@long
def test_a_login_that_could_not_compare_them_is_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    documents(world, monkeypatch)
    world.backup(context=CONTEXT)
    with world.target.connect() as connection:
        connection.execute("REVOKE pg_read_all_data FROM backup_restorer")
    try:
        with pytest.raises(BadInput, match=r'has 8, to compare them; run: GRANT pg_read_all_data TO "backup_restorer"'):
            world.recover(context=CONTEXT)
    finally:
        with world.target.connect() as connection:
            connection.execute("GRANT pg_read_all_data TO backup_restorer")
    assert not world.target.has_database(DATABASE)


@long
def test_an_owner_that_nobody_may_act_as_is_left_to_do(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    documents(world, monkeypatch)
    execute(world, "ALTER LARGE OBJECT 71001 OWNER TO postgres")
    before = own(seen(world))
    world.backup(context=CONTEXT)
    assert world.recover(context=CONTEXT).startswith("PASS")
    left = to_do(report(world, f"{CONTEXT}-recovery"))
    statement = re.search(r"large object 71001 belonged to postgres, and now to another role; run as administrator: `(.*?)`", left)
    assert statement
    with world.connect(world.target) as connection:
        connection.execute(statement[1].encode())
    assert seen(world, world.target) == before


@pytest.fixture
def beside(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A set with large objects, and a database on the other server with none of our tables."""
    documents(world, monkeypatch)
    world.backup(context=CONTEXT)
    world.target.create_database(DATABASE, "consulting_owner")
    with world.connect(world.target) as connection:
        connection.execute("CREATE SCHEMA odd AUTHORIZATION consulting_owner")
    return world


@long
def test_a_database_that_is_there_gets_them(beside: World) -> None:
    before = own(seen(beside))
    with beside.connect(beside.target) as connection:
        # One is there already, with the same content and another owner; another one is somebody's.
        connection.execute("SELECT lo_from_bytea(71012, decode(md5('2'), 'hex')), lo_from_bytea(72000, '\\x72')")
    assert beside.recover(context=CONTEXT).startswith("PASS")
    assert "large object 71012 has another owner" in to_do(report(beside, f"{CONTEXT}-recovery"))
    after = seen(beside, beside.target)
    assert after.pop(72000)[0] == "postgres"
    assert after.pop(71012)[1:] == before.pop(71012)[1:]
    assert after == before


@long
def test_an_oid_that_is_taken_is_refused_beforehand(beside: World) -> None:
    with beside.connect(beside.target) as connection:
        connection.execute("SELECT lo_from_bytea(71013, '\\x72')")
    taken = seen(beside, beside.target)
    with pytest.raises(UnsafeTarget, match=r"large object 71013 has other content there"):
        beside.recover(context=CONTEXT)
    assert seen(beside, beside.target) == taken
    assert ask_target_tables(beside) == []


@long
def test_rows_that_are_refused_leave_no_large_object(beside: World) -> None:
    with beside.connect(beside.target) as connection:
        connection.execute("CREATE TABLE odd.d (id int PRIMARY KEY, doc oid, old oid CHECK (old = 1), more oid[])")
        connection.execute("ALTER TABLE odd.d OWNER TO consulting_owner")
    with pytest.raises(OperationError, match=r"violates check constraint"):
        beside.recover(context=CONTEXT)
    assert seen(beside, beside.target) == {}


def ask_target_tables(world: World) -> list[Any]:
    with world.connect(world.target) as connection:
        return connection.execute("SELECT relname FROM pg_class WHERE relnamespace = 'odd'::regnamespace").fetchall()


@long
@every_version
def test_in_place_those_that_are_gone_are_made(any_version: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world = any_version
    documents(world, monkeypatch)
    before = seen(world)
    world.backup(context=CONTEXT)
    # No row differs.
    execute(world, "SELECT lo_unlink(71001), lo_unlink(71012)")
    put(world, 71010, "00")
    other = seen(world)[71010]
    plan = str(world.run(full_restore, "backup_restorer", context=CONTEXT, in_place=True))
    assert "1 object to create" in plan
    assert "large object 71010: the content differs from the set" in report(world, f"{CONTEXT}-restore-plan")
    said = str(world.run(full_restore, "backup_restorer", in_place=True, **SURE))
    assert re.search(r"RESTORED, BUT OBJECTS DIFFER.*1 object created.*1 object \(1 of them errors: large object 71010", said)
    assert seen(world) == before | {71010: other}
    # What is left of a restore that fails, because of a check that is another when rows are written than when they are tried.
    execute(world, "DELETE FROM odd.d WHERE id = 1", "SELECT lo_unlink(71001)", "INSERT INTO odd.d VALUES (4, 1)")
    refusing = (
        "CREATE FUNCTION odd.tried() RETURNS bool LANGUAGE sql AS $$SELECT current_query() ~ 'tried rows'$$; "
        "ALTER TABLE odd.d ADD CONSTRAINT d_id_check CHECK (id <> 1 OR odd.tried()) NOT VALID"
    )
    execute(world, refusing)
    with pytest.raises(OperationError, match="is unchanged"):
        world.run(full_restore, "backup_restorer", in_place=True, **SURE)
    assert 71001 not in seen(world)
    execute(world, "ALTER TABLE odd.d DROP CONSTRAINT d_id_check")
    keyed = {"context": CONTEXT, "table": "d", "mode": "missing"}
    assert "nothing differs" in str(world.run(table_restore, "backup_restorer", **keyed, keys=[3]))
    assert ", 1 object to create" in str(world.run(table_restore, "backup_restorer", **keyed, keys=[2]))
    said = str(world.run(table_restore, "backup_restorer", **SURE, table="d", mode="missing"))
    assert said.startswith("RESTORED") and seen(world) == before | {71010: other}
    undo(world, CONTEXT)
    assert ask(world, "SELECT id FROM odd.d ORDER BY 1") == [(2,), (3,), (4,)]
    assert safety_sets(world, CONTEXT)


@long
def test_a_table_beside_says_what_its_rows_name(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    documents(world, monkeypatch)
    world.backup(context=CONTEXT)
    execute(world, "SELECT lo_unlink(71001)")
    put(world, 71010, "00")
    assert str(world.run(table_restore, "backup_restorer", context=CONTEXT, table="d")).startswith("RESTORED")
    told = report(world, f"{CONTEXT}-restore")
    assert (
        "large object 71001, which rows reference, is missing" in told
        and "large object 71010: the content differs from the set" in told
    )
    assert 71001 not in seen(world)


MEGABYTES = 200
# It takes 170 MB to back up or recover the example.
MOST_MEMORY = 320 << 20


@long
def test_memory_does_not_grow_with_them(world: World) -> None:
    """One object of 200 MB that does not shrink: what comes back has the sum that a superuser saw before."""
    execute(
        world, "ALTER TABLE public.teams ADD COLUMN document oid", "SET ROLE consulting_app", "SELECT lo_create(71050)",
        "SELECT count(lo_put(71050, n * 1048576, (SELECT string_agg(sha256((n * 65536 + i)::text::bytea), ''::bytea) "
        f"FROM generate_series(1, 32768) AS i))) FROM generate_series(0, {MEGABYTES - 1}) AS n", "RESET ROLE",
        "UPDATE public.teams SET document = 71050",
    )  # fmt: skip
    before, peaks = seen(world), dict[str, int]()
    for module, flow, user, server in (
        ("backup", "daily_backup", "backup_reader", world.source),
        ("recovery", "disaster_recovery", "backup_restorer", world.target),
    ):
        with world.start(module, flow, user, server) as process, MemoryWatch(process.pid) as memory:
            said, _ = process.communicate(timeout=900)
        assert process.returncode == 0, said[-3000:]
        peaks[flow] = memory.peak_bytes
    print(peaks)
    assert seen(world, world.target) == before
    assert max(peaks.values()) < MOST_MEMORY, peaks


RULE = {"table": "d", "clock": "gone", "keep": "1 year", "condition": "true"}


@long
def test_a_clean_up_leaves_them_and_says_so(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its set has those of its rows alone; what brings the rows back makes what is gone by then."""
    more = "ALTER TABLE d ADD COLUMN gone timestamptz", "UPDATE d SET gone = '2020-01-01' WHERE id = 1"
    documents(world, monkeypatch, *more, clean_up=[RULE])
    before = seen(world)
    assert str(world.run(clean_up_old_data, "backup_restorer", **SURE)).startswith("CLEANED UP: 1 rows of odd.d")
    assert "the set has the 4 large objects that its rows reference; in the database they remain" in report(
        world, f"{CONTEXT}-clean-up"
    )
    assert seen(world) == before
    execute(world, "SELECT lo_unlink(71002)")
    (folder,) = world.set_folders("clean-up", CONTEXT)
    said = str(world.run(restore_cleaned_up, "backup_restorer", **SURE, backup=folder.name))
    assert said.startswith("RESTORED") and seen(world) == before


@long
def test_an_archived_partition_comes_back_with_them(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    statements = (
        "SET ROLE consulting_owner", "CREATE TABLE y (at timestamptz NOT NULL, file oid) PARTITION BY RANGE (at)",
        "CREATE TABLE y_2020 PARTITION OF y FOR VALUES FROM ('2020-01-01 00:00+00') TO ('2021-01-01 00:00+00')",
        "SELECT lo_from_bytea(71060, '\\x60')", "INSERT INTO y VALUES ('2020-05-05', 71060)",
    )  # fmt: skip
    rule = {"table": "y", "column": "at", "period": "year", "keep": "1 year", "name": "y_{year}"}
    documents(world, monkeypatch, *statements, tables=["t", "d", "p", "y"], partitions=[rule])
    before = seen(world)
    world.run(archive_partitions, "backup_restorer", **SURE)
    assert "large object that its rows reference; in the database" in report(world, f"{CONTEXT}-archive")
    assert ask(world, "SELECT count(*) FROM odd.y") == [(0,)] and seen(world) == before
    execute(world, "SELECT lo_unlink(71060)")
    said = str(world.run(reattach_partition, "backup_restorer", context=CONTEXT, year="2020"))
    assert said.startswith("ATTACHED") and "large object 71060 was created" in said
    assert seen(world) == before


@long
@pytest.mark.parametrize("any_version", [15, CONTRIB], ids=["15", "18"], indirect=True)
def test_the_extension_that_looks_after_them(any_version: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its trigger removes what no row names any more; a restore fires none."""
    world = any_version
    statements = (
        "RESET ROLE", "CREATE EXTENSION lo SCHEMA public", "SET ROLE consulting_owner",
        "CREATE TABLE x (id int PRIMARY KEY, raster public.lo)",
        "SELECT lo_from_bytea(71070, '\\x70'), lo_from_bytea(71071, '\\x71')",
        "CREATE TRIGGER t_raster BEFORE UPDATE OR DELETE ON x FOR EACH ROW EXECUTE FUNCTION public.lo_manage(raster)",
        "INSERT INTO x VALUES (1, 71070), (2, 71071)",
    )  # fmt: skip
    documents(world, monkeypatch, *statements, tables=["t", "d", "p", "x"])
    before = seen(world)
    assert world.backup(context=CONTEXT).startswith("STORED")
    execute(world, "DELETE FROM odd.x WHERE id = 1", "INSERT INTO odd.x VALUES (3, 71090)")
    assert 71070 not in seen(world)
    said = str(world.run(full_restore, "backup_restorer", in_place=True, **SURE))
    assert said.startswith("RESTORED") and seen(world) == before
    assert rehearsed(world).startswith("PASS")
