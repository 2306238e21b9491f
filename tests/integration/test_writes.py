"""A recovered database takes writes, or its recovery does not pass: tried in each table, and rolled back."""

import re
from collections.abc import Callable

import pytest

from flows.recovery import recovery_drill
from flows.restore import full_restore
from tasks.core.errors import OperationError
from tests.support.database import execute
from tests.support.example import DATABASE
from tests.support.reports import report
from tests.support.servers import CONTRIB
from tests.support.surroundings import AS_OWNER, CONTEXT, ask_target, run_on_target, surround, to_do
from tests.support.world import World

long = pytest.mark.long
RECOVERED = "RECOVERED, WRITES FAIL: "
WRITES_LOG = """CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql
    AS 'BEGIN INSERT INTO beside.log (id) VALUES (NEW.id); RETURN NEW; END'"""
ON_INSERT = "CREATE TRIGGER noted BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION note()"


def failed(world: World, recover: Callable[[], str], *, said: str) -> str:
    """Recover a database that does not take every write; return what is left to do."""
    with pytest.raises(OperationError) as raised:
        recover()
    assert str(raised.value).startswith(f"{RECOVERED}odd.t: {said}")
    text = report(world, f"{CONTEXT}-recovery")
    assert text.startswith("# RECOVERED, WRITES FAIL\n")
    assert said in text.partition("## Writes that fail")[2].partition("\n## ")[0]
    # It is there all the same, under its name, with rows and sequences as they were.
    assert ask_target(world, "SELECT id, v FROM odd.t ORDER BY id") == [(1, "a"), (2, "b")]
    return to_do(text)


def test_another_contexts_table_that_is_not_there_yet_is_named(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    surround(world, monkeypatch, WRITES_LOG, ON_INSERT)
    world.backup(context=CONTEXT)
    left = failed(world, lambda: world.recover(context=CONTEXT), said='relation "beside.log" does not exist (42P01)')
    assert (
        "- INSERT on odd.t (noted): " in left
        and "create the objects that are not in the backup (see below): table beside.log" in left
    )
    # What an operator does then.
    execute_on_target(
        world, "CREATE SCHEMA beside", "CREATE TABLE beside.log (id int)",
        "GRANT ALL ON SCHEMA beside TO consulting_owner; GRANT ALL ON beside.log TO consulting_owner",
    )  # fmt: skip
    run_on_target(world, "INSERT INTO odd.t VALUES (3, 'c')")
    assert ask_target(world, "SELECT id FROM beside.log") == [(3,)]


def execute_on_target(world: World, *statements: str) -> None:
    with world.connect(world.target) as connection:
        for statement in statements:
            connection.execute(statement.encode())


# What an insert lets run, of which nothing but an insert shows that it needs what did not come back.
BROKEN = {
    "a table without rows": ([WRITES_LOG, ON_INSERT, "DELETE FROM t"], 'relation "beside.log" does not exist'),
    "a default": (
        ["CREATE FUNCTION next() RETURNS text LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT max(id) FROM beside.log); END'",
         "ALTER TABLE t ALTER COLUMN v SET DEFAULT next()"], 'relation "beside.log" does not exist',
    ),
    "a check": (
        ["CREATE FUNCTION fits(text) RETURNS bool LANGUAGE plpgsql AS 'BEGIN RETURN $1 <> coalesce((SELECT max(id)::text FROM "
         "beside.log), ''''); END'", "ALTER TABLE t ADD CHECK (fits(v)) NOT VALID"], 'relation "beside.log" does not exist',
    ),
    "a trigger on each statement": (
        ["CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM FROM beside.log; RETURN NULL; END'",
         "CREATE TRIGGER noted AFTER INSERT ON t EXECUTE FUNCTION note()"], 'relation "beside.log" does not exist',
    ),
    "a trigger at the end of the transaction": (
        [WRITES_LOG, "CREATE CONSTRAINT TRIGGER noted AFTER INSERT ON t DEFERRABLE INITIALLY DEFERRED FOR EACH ROW "
         "EXECUTE FUNCTION note()"], 'relation "beside.log" does not exist',
    ),
    "a right on another table than the one that the owner has none on": (
        ["CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM FROM pg_authid; RETURN NEW; END'", ON_INSERT,
         "REVOKE UPDATE ON t FROM consulting_owner"], "permission denied for table pg_authid",
    ),
    "a session that ends": (
        ["CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN "
         "NEW; END'", ON_INSERT], "a session in database",
    ),
}  # fmt: skip


@long
@pytest.mark.parametrize("name", BROKEN)
def test_writes_that_fail_fail_the_recovery(world: World, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    statements, said = BROKEN[name]
    surround(world, monkeypatch, *statements)
    if "rows" in name:
        execute(world, "DELETE FROM odd.t")
    world.backup(context=CONTEXT)
    with pytest.raises(OperationError, match=f"^{RECOVERED}odd.t: {said}"):
        world.recover(context=CONTEXT)
    assert world.target.has_database(DATABASE)
    with pytest.raises(OperationError, match=r"^FAIL: 1 (writes fail because of triggers|writes fail), RTO"):
        world.run(recovery_drill, "backup_restorer", world.target, context=CONTEXT)


@long
@pytest.mark.parametrize("any_version", [15, CONTRIB], ids=["15", "18"], indirect=True)
def test_an_extension_that_only_code_calls(any_version: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world = any_version
    execute(world, "CREATE EXTENSION pg_stat_statements")
    surround(
        world, monkeypatch, "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN NEW.v := "
        "pg_stat_statements_info() IS NULL; RETURN NEW; END$$", ON_INSERT,
    )  # fmt: skip
    world.backup(context=CONTEXT)
    execute(world, "RESET ROLE")
    with pytest.raises(OperationError, match=f"^{RECOVERED}odd.t: function pg_stat_statements_info"):
        world.run(full_restore, "backup_restorer", context=CONTEXT, target_database="beside")
    assert "create the objects that are not in the backup (see below): extension pg_stat_statements" in to_do(
        report(world, f"{CONTEXT}-recovery")
    )


KEYS = {
    "identity": "id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
    "serial": "id serial PRIMARY KEY",
    "plain": "id int PRIMARY KEY",
    "uuid": "id uuid PRIMARY KEY",
    "none": "id int",
}


@long
def test_what_takes_writes_is_left_as_it_was(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = [f"k_{name}" for name in KEYS] + ["parts", "refers"]
    surround(
        world, monkeypatch,
        *(f"CREATE TABLE k_{name} ({key}, v text, g text GENERATED ALWAYS AS (upper(v)) STORED)" for name, key in KEYS.items()),
        *(f"INSERT INTO k_{name} (v) SELECT 'v' FROM generate_series(1, 3)" for name in ("identity", "serial", "none")),
        "INSERT INTO k_plain (id, v) VALUES (7, 'v')", "INSERT INTO k_uuid (id, v) VALUES (gen_random_uuid(), 'v')",
        "CREATE TABLE parts (at date, v text, PRIMARY KEY (at)) PARTITION BY RANGE (at)",
        "CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM ('2025-01-01') TO ('2026-01-01')",
        "INSERT INTO parts VALUES ('2025-02-01')",
        "CREATE TABLE refers (id int PRIMARY KEY, k int REFERENCES k_plain)", "INSERT INTO refers VALUES (1, 7)",
        "CREATE RULE notified AS ON INSERT TO k_plain DO ALSO NOTIFY written",
        "CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN IF current_setting('app.who') = '' THEN RETURN NULL; "
        "END IF; RETURN NEW; END$$", "CREATE TRIGGER touched BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION touch()",
        tables=["t", *tables],
    )  # fmt: skip
    world.backup(context=CONTEXT)
    assert world.recover(context=CONTEXT).startswith("PASS")
    text = report(world, f"{CONTEXT}-recovery")
    written = re.findall(r"^\| odd\.(\w+) \| INSERT \| [^|]*\| ([^|]*) \| ([^|]*) \|", text, re.MULTILINE)
    # The one asks for what only an application sets.
    assert written == sorted(
        [(name, "ran", "") for name in tables] + [("t", "refused every row", "by a missing setting (UndefinedObject)")]
    )
    for name in tables:
        counted = f"SELECT count(*) FROM odd.{name}"
        with world.connect() as connection:
            assert ask_target(world, counted) == connection.execute(counted.encode()).fetchall()
    assert ask_target(world, "SELECT last_value, is_called FROM odd.k_serial_id_seq") == [(3, True)]
    assert ask_target(world, "SELECT last_value, is_called FROM odd.k_identity_id_seq") == [(3, True)]
    assert ask_target(world, "SELECT FROM pg_constraint WHERE condeferrable") == []


@long
@pytest.mark.parametrize("any_version", [15], indirect=True)
def test_code_that_acts_outside_is_not_let_run(any_version: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world = any_version
    execute(world, "CREATE EXTENSION dblink", "CREATE TABLE public.told (v text)", "GRANT ALL ON public.told TO PUBLIC")
    given = world.source.environment("backup_loader")
    link = f"host={given['PGHOST']} port={given['PGPORT']} user=backup_loader password={given['PGPASSWORD']} dbname={DATABASE}"
    surround(
        world, monkeypatch, "CREATE FUNCTION tell() RETURNS void LANGUAGE plpgsql AS "
        f"$$BEGIN PERFORM dblink_exec('{link}', 'INSERT INTO public.told VALUES (1)'); END$$",
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM tell(); RETURN NEW; END'", ON_INSERT,
    )  # fmt: skip
    world.backup(context=CONTEXT)
    world.source.create_database("beside", "consulting_owner")
    with world.source.connect("beside") as connection:
        connection.execute("CREATE EXTENSION dblink")
        connection.execute("GRANT CREATE ON DATABASE beside TO backup_loader")
    said = world.recover(context=CONTEXT, target_database="beside")
    assert said.startswith("PASS") and said.endswith("; 1 writes could not be tried")
    assert "code of this table may call dblink_exec, which acts outside" in report(world, f"{CONTEXT}-recovery")
    with world.connect() as connection:
        assert connection.execute("SELECT count(*) FROM public.told").fetchall() == [(0,)]


@long
def test_writes_to_tables_that_were_there(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    surround(world, monkeypatch, WRITES_LOG, ON_INSERT, "ALTER TABLE t ADD COLUMN n serial")
    world.backup(context=CONTEXT)
    world.target.create_database(DATABASE, "consulting_owner")
    execute_on_target(world, "CREATE SCHEMA other AUTHORIZATION consulting_owner", AS_OWNER, "CREATE TABLE other.t (id int)")
    failed(world, lambda: world.recover(context=CONTEXT), said='relation "beside.log" does not exist (42P01)')
    assert "Sequence values used for this are skipped." in report(world, f"{CONTEXT}-recovery")


@long
def test_who_may_not_make_temporary_tables_says_that_it_does_not_know(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    surround(world, monkeypatch)
    world.backup(context=CONTEXT)
    world.target.create_database(DATABASE, "postgres")
    execute_on_target(
        world, f"REVOKE ALL ON DATABASE {DATABASE} FROM PUBLIC", f"GRANT CONNECT, CREATE ON DATABASE {DATABASE} TO backup_loader",
        f"GRANT CONNECT ON DATABASE {DATABASE} TO backup_restorer", "CREATE SCHEMA odd AUTHORIZATION consulting_owner",
    )  # fmt: skip
    said = world.recover(context=CONTEXT)
    assert said.startswith("PASS") and "1 writes could not be tried" in said
    assert "no row to try: permission denied to create temporary tables" in report(world, f"{CONTEXT}-recovery")
