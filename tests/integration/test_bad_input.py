"""Bad input: one clear error that names object, fact and remedy, and nothing was touched."""

import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from psycopg import sql

from deployments import local
from deployments.local import LocalS3, LocalServer, free_port, wheel_bin
from flows.backup import daily_backup, list_backups
from flows.recovery import disaster_recovery
from flows.restore import full_restore
from tasks.core.errors import BadInput, OperationError, StoreUnavailable, UnsafeTarget
from tasks.core.postgres import programs
from tasks.core.postgres.programs import Running
from tasks.core.run.clock import now
from tasks.core.sets.manifest import StoredObject
from tasks.core.sets.name import Kind, SetName
from tasks.restore.target import new_target
from tasks.run import site
from tasks.run.run import Run
from tasks.sets import stage
from tasks.store.address import StoreAddress
from tests.support import PROJECT
from tests.support.example import CONTEXT, DATABASE
from tests.support.faults import wait_for
from tests.support.moments import SECONDS
from tests.support.servers import databases, prepare
from tests.support.world import TwoSets, World

FLOWS = {
    "daily_backup": daily_backup,
    "list_backups": list_backups,
    "disaster_recovery": disaster_recovery,
    "full_restore": full_restore,
}
RESTORING = {"disaster_recovery", "full_restore"}
BOTH = ["daily_backup", pytest.param("disaster_recovery", marks=pytest.mark.long)]


@pytest.fixture
def filled(world: World, two_sets: TwoSets) -> World:
    """A store with two good sets, made by this source; the target is empty."""
    shutil.rmtree(world.store_folder)
    two_sets.copy(world.store_folder)
    return world


def advisory_locks(server: LocalServer) -> list[Any]:
    with server.connect() as connection:
        return connection.execute("SELECT * FROM pg_locks WHERE locktype = 'advisory'").fetchall()


def roles(server: LocalServer) -> list[str]:
    with server.connect() as connection:
        return [row[0] for row in connection.execute("SELECT rolname FROM pg_roles ORDER BY 1")]


def stored(world: World) -> dict[str, tuple[int, int]]:
    """Return every file of a folder store, half-written ones too, with size and time."""
    root = world.store_folder
    if not root.is_dir():
        return {}
    return {
        str(path.relative_to(root)): (path.stat().st_size, path.stat().st_mtime_ns) for path in root.rglob("*") if path.is_file()
    }


@contextmanager
def untouched(world: World) -> Iterator[None]:
    """Assert that the block leaves store, source, target and staging folder as they were, and no lock."""
    servers = (world.source, world.target)

    def facts() -> tuple[Any, ...]:
        return stored(world), [databases(one) for one in servers], [roles(one) for one in servers]

    before = facts()
    yield
    assert facts() == before
    # A session that was closed gives its lock back when its backend has noticed.
    wait_for(lambda: not any(advisory_locks(one) for one in servers), SECONDS, "the locks to be given back")
    assert not [path for path in (world.folder / "staging").glob("*") if path.is_dir()]


def refused(world: World, flow: str, kind: type[OperationError] = BadInput, **parameters: Any) -> str:
    """Run a flow that has to refuse; return what it says, which is one line."""
    server, user = (world.target, "backup_restorer") if flow in RESTORING else (world.source, "backup_reader")
    with untouched(world), pytest.raises(kind) as error:
        world.run(FLOWS[flow], user, server, **parameters)
    assert type(error.value) is kind
    said = str(error.value)
    assert "\n" not in said
    return said


# --- names ------------------------------------------------------------------------------------------------------------


def test_unknown_context(filled: World) -> None:
    said = refused(filled, "daily_backup", context="bc-999")
    assert 'unknown context "bc-999"' in said and "known: bc-004" in said and "deployments.register" in said
    assert 'unknown context "bc-999"' in refused(filled, "list_backups", context="bc-999")
    said = refused(filled, "disaster_recovery", context="bc-999")
    assert 'no backup set of context "bc-999"' in said and "daily_backup" in said


@pytest.mark.parametrize("flow", BOTH)
@pytest.mark.parametrize("context", ["../bc-004", "bc-004/daily", "", "BC-004", "x" * 300, "bc\n004"])
def test_what_can_be_no_contexts_name(filled: World, flow: str, context: str) -> None:
    with untouched(filled), pytest.raises(BadInput, match=r"(?s)invalid context name .*; use"):
        filled.run(FLOWS[flow], "backup_restorer", context=context)


def test_listing_an_impossible_context(filled: World) -> None:
    with untouched(filled), pytest.raises(BadInput, match="invalid context name"):
        filled.run(list_backups, "backup_reader", context="../..")


def test_unknown_set(filled: World) -> None:
    unknown = "bc-004_full_20200101_000000_0000"
    said = refused(filled, "disaster_recovery", backup=unknown)
    assert f"no backup set {filled.store_folder}/bc-004/daily/{unknown}" in said and "list_backups" in said


@pytest.mark.parametrize(
    ("reference", "fact"),
    [
        ("yesterday", 'backup "yesterday" is neither "latest", nor a timestamp (such as 2025-11-03 14:00), nor the id of a set'),
        ("", 'backup "" is neither'),
        ("/elsewhere/bc-004/daily/bc-004_full_20251103_020000_3f9c", "nor the path of one below"),
        ("{store}/../store/bc-004/daily/{id}", "nor the path of one below"),
        ("s3://other/bc-004/daily/bc-004_full_20251103_020000_3f9c", "nor the path of one below"),
        ("bc-003_full_20251103_020000_3f9c", "belongs to context bc-003, not bc-004; name that context"),
        ("{store}/bc-003/daily/bc-003_full_20251103_020000_3f9c", "belongs to context bc-003, not bc-004"),
    ],
)
def test_a_reference_that_is_none(filled: World, two_sets: TwoSets, reference: str, fact: str) -> None:
    said = refused(filled, "disaster_recovery", backup=reference.format(store=filled.store_folder, id=two_sets.newer))
    assert fact in said


# --- the database to make -----------------------------------------------------------------------------------------------


def test_a_target_that_is_there(filled: World) -> None:
    filled.target.create_database(DATABASE, "consulting_owner")
    said = refused(filled, "full_restore", UnsafeTarget, target_database=DATABASE)
    assert f'refusing to restore into database "{DATABASE}"' in said and "it exists and it has 0 of" in said
    assert "name another target_database, or rename or drop that one first" in said

    with filled.target.connect(DATABASE) as connection:
        connection.execute("CREATE TABLE teams AS SELECT 1 AS id")
    assert "it holds rows in 1 of" in refused(filled, "disaster_recovery", UnsafeTarget)

    with filled.target.connect() as connection:
        connection.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(sql.Identifier(DATABASE)))
    assert "its content cannot be read" in refused(filled, "full_restore", UnsafeTarget, target_database=DATABASE)


NO_NAME = "is not a name of 1 to 63 bytes; choose another"


@pytest.mark.parametrize("name", ["", "x" * 64, "組" * 22])
def test_what_can_be_no_databases_name(filled: World, name: str) -> None:
    with untouched(filled), pytest.raises(BadInput, match=NO_NAME):
        filled.run(full_restore, "backup_restorer", filled.target, target_database=name)


def test_a_zero_byte_in_a_databases_name(tmp_path: Path) -> None:
    # Asked directly: a Prefect server on PostgreSQL cannot record a run with such a parameter.
    with pytest.raises(BadInput, match=NO_NAME):
        new_target(Run("full_restore", CONTEXT, "3f9c", now(), tmp_path, Running()), "a\0b")


@pytest.mark.long
def test_a_name_with_quotes_and_signs_is_a_name(filled: World, two_sets: TwoSets) -> None:
    name = 'it\'s "a" =b\\ 復元 host=x' + "y" * 30
    assert len(name.encode()) <= 63

    assert filled.recover(target_database=name).startswith("PASS")

    assert databases(filled.target) == {name}
    filled.database = name
    filled.assert_recovered(two_sets.before_newer)


def test_the_template_database_is_no_target(filled: World) -> None:
    assert "its content cannot be read" in refused(filled, "full_restore", UnsafeTarget, target_database="template0")


@pytest.mark.parametrize("parameters", [{"in_place": True, "target_database": "x"}, {}])
def test_a_restore_goes_to_one_place(filled: World, parameters: dict[str, Any]) -> None:
    assert "or in_place=true, to restore into the live one" in refused(filled, "full_restore", **parameters)


# --- programs and versions ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def older() -> Iterator[LocalServer]:
    """A server of PostgreSQL 16."""
    with local.postgres(wheel_bin(16)) as server:
        yield prepare(server)


def test_an_older_server_than_the_source(filled: World, older: LocalServer) -> None:
    filled.target = older
    said = refused(filled, "disaster_recovery")
    assert "the server is PostgreSQL 16, the backup is from 18; restore to the same or a newer major version" in said


@pytest.mark.parametrize("flow", BOTH)
def test_a_server_newer_than_every_program(
    filled: World, flow: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(programs, "program_folders", lambda: [wheel_bin(16)])
    before = stored(filled)
    said = refused(filled, flow)
    assert "18 or newer is needed" in said and f"installed: 16 ({wheel_bin(16)}" in said
    assert "install postgresql-client-18 or point PG_BIN at its bin folder" in said
    assert stored(filled) == before
    # Neither was a database made that is gone again.
    assert "created as" not in caplog.text


def test_no_program_at_all_leaves_an_empty_store_empty(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "program_folders", list)
    assert "installed: none" in refused(world, "daily_backup")
    assert stored(world) == {}


# --- the database server ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flow", BOTH)
@pytest.mark.parametrize(
    ("extra", "fact"),
    [
        ({"PGPORT": "{closed}"}, "Connection refused"),
        ({"PGPASSWORD": "wrong"}, "password authentication failed"),
        ({"PGUSER": "nobody_at_all"}, "password authentication failed"),
        ({"PGHOST": "no-such-host.invalid"}, "no-such-host.invalid"),
    ],
)
def test_a_database_that_cannot_be_reached(filled: World, flow: str, extra: dict[str, str], fact: str) -> None:
    filled.extra = {name: value.format(closed=free_port()) for name, value in extra.items()}
    said = refused(filled, flow)
    assert 'cannot connect to database "' in said and fact in said
    assert "check that the server runs, its address, the login and its rights" in said


def test_a_database_that_is_not_there(filled: World) -> None:
    filled.extra = {"PGDATABASE": "no_such_database"}
    said = refused(filled, "daily_backup")
    assert 'cannot connect to database "no_such_database"' in said and "does not exist" in said


# --- what the login may -------------------------------------------------------------------------------------------------


def make_login(server: LocalServer, name: str, options: str = "") -> None:
    """Make a role that may log in with the server's password."""
    with server.connect() as connection:
        connection.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(name)))
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN " + options).format(sql.Identifier(name)))
    server.allow_login(name)


def as_login(world: World, flow: str, login: str) -> str:
    world.extra = {"PGUSER": login}
    return refused(world, flow)


@pytest.fixture
def reader(world: World) -> Iterator[str]:
    """A login that may read every table of the source, one by one, and that a test takes something away from."""
    name = "Half-reader"
    make_login(world.source, name)
    with world.connect() as connection:
        connection.execute(f'GRANT SELECT ON ALL TABLES IN SCHEMA public TO "{name}"')
    yield name
    with world.connect() as connection:
        connection.execute(f'DROP OWNED BY "{name}"; DROP ROLE "{name}"')


@pytest.mark.parametrize(
    "table",
    [
        "public.users",
        *(pytest.param(one, marks=pytest.mark.long) for one in ("public.team_leaders", "public.policy_violations_2023")),
    ],
)
def test_a_table_that_the_login_may_not_read(world: World, reader: str, table: str) -> None:
    with world.connect() as connection:
        connection.execute(f'REVOKE SELECT ON {table} FROM "{reader}"')

    said = as_login(world, "daily_backup", reader)

    assert f'role "{reader}" may not read {table} ' in said
    remedy = f'GRANT SELECT ON {table} TO "{reader}";'
    assert remedy in said
    with world.connect() as connection:
        connection.execute(remedy)
    assert world.backup(user=reader).startswith("STORED")


def test_a_schema_that_the_login_may_not_use(world: World, reader: str) -> None:
    with world.connect() as connection:
        connection.execute("CREATE SCHEMA other CREATE TABLE t (); REVOKE USAGE ON SCHEMA public FROM PUBLIC")

    said = as_login(world, "daily_backup", reader)

    remedy = said.split("run: ")[1].split(" or, for")[0]
    to = f'TO "{reader}";'
    assert remedy == f"GRANT USAGE ON SCHEMA other {to} GRANT USAGE ON SCHEMA public {to} GRANT SELECT ON other.t {to}"


def test_row_level_security(world: World) -> None:
    with world.connect() as connection:
        connection.execute("ALTER TABLE teams ENABLE ROW LEVEL SECURITY")
    said = refused(world, "daily_backup")
    assert 'row-level security would hide rows of public.teams from role "backup_reader"' in said
    assert 'run: ALTER ROLE "backup_reader" BYPASSRLS' in said


def test_a_cluster_that_may_not_be_identified(world: World) -> None:
    with world.connect() as connection:
        connection.execute("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC")
    said = refused(world, "daily_backup")
    assert 'GRANT EXECUTE ON FUNCTION pg_control_system(), pg_control_checkpoint() TO "backup_reader"' in said


@pytest.fixture
def needy(world: World) -> Iterator[World]:
    """A set that needs a role and an extension which the target lacks."""
    extensions = world.folder / "share" / "extension"
    extensions.mkdir(parents=True)
    world.folder.chmod(0o755)
    (extensions / "probe.control").write_text("default_version = '1'\n")
    (extensions / "probe--1.sql").write_text("CREATE FUNCTION probe() RETURNS int LANGUAGE sql AS 'SELECT 1';\n")
    with world.connect() as connection:
        connection.execute("CREATE ROLE auditor")
        connection.execute("GRANT SELECT ON teams TO auditor")
        connection.execute(sql.SQL("SET extension_control_path = {}").format(sql.Literal(f"{world.folder / 'share'}:$system")))
        connection.execute("CREATE EXTENSION probe; ALTER TABLE teams ADD COLUMN probed int DEFAULT probe()")
    try:
        world.backup()
        yield world
    finally:
        with world.connect() as connection:
            connection.execute("DROP OWNED BY auditor; DROP ROLE auditor")


@pytest.mark.long
def test_what_the_target_lacks(needy: World) -> None:
    said = refused(needy, "disaster_recovery")
    assert "the server lacks extension probe, which the backup needs; install its package there" in said

    extensions = needy.folder / "share" / "extension"
    path = sql.Literal(f"{extensions.parent}:$system")
    for login, options in (("no_creator", ""), ("no_role_creator", "CREATEDB")):
        make_login(needy.target, login, options)
        with needy.target.connect() as connection:
            connection.execute(sql.SQL("ALTER ROLE {} SET extension_control_path = {}").format(sql.Identifier(login), path))

    with needy.target.connect() as connection:
        # What makes roles and what loads are not to be had.
        connection.execute("ALTER ROLE backup_roles NOLOGIN; REVOKE consulting_owner FROM backup_loader")
    try:
        said = as_login(needy, "disaster_recovery", "no_creator")
        assert 'login "no_creator" may not create databases; use login "backup_restorer", which may' in said
        said = as_login(needy, "disaster_recovery", "no_role_creator")
        assert 'login "backup_loader" may not create objects for consulting_owner' in said
        assert 'GRANT "consulting_owner" TO "backup_loader";' in said
        with needy.target.connect() as connection:
            connection.execute("ALTER ROLE backup_restorer NOCREATEDB; GRANT consulting_owner TO backup_loader")
        said = as_login(needy, "disaster_recovery", "no_creator")
        assert 'login "no_creator" may not create databases; run as administrator: ALTER ROLE "no_creator" CREATEDB' in said
        said = as_login(needy, "disaster_recovery", "no_role_creator")
        assert (
            'roles auditor are missing, login "no_role_creator" may not create them, and there is no login "backup_roles"' in said
        )
        assert 'CREATE ROLE "auditor" NOLOGIN; GRANT "auditor" TO "no_role_creator";' in said
    finally:
        needy.target.run_script(PROJECT / "deployments" / "roles.sql")
        with needy.target.connect() as connection:
            connection.execute("DROP ROLE no_creator, no_role_creator")


# --- the store ----------------------------------------------------------------------------------------------------------

STORES = [
    ({"BACKUP_STORE": ""}, BadInput, "BACKUP_STORE is not set; write s3://bucket"),
    ({"BACKUP_STORE": "ftp://somewhere"}, BadInput, "neither s3://bucket"),
    ({"BACKUP_STORE": "/no/such/folder"}, BadInput, "/no/such/folder does not exist; mount or create it, or correct BACKUP_STORE"),
    ({"BACKUP_STORE": "s3://no-such-bucket/x"}, BadInput, "s3://no-such-bucket/x/bc-004/.*NoSuchBucket.*check bucket, credentials"),
    ({"AWS_ENDPOINT_URL": "http://127.0.0.1:{closed}"}, StoreUnavailable, "bc-004/.*127.0.0.1.*check the network and AWS_ENDP"),
    ({"AWS_ENDPOINT_URL": "nonsense"}, BadInput, "settings of the store: .*nonsense"),
]  # fmt: skip


@pytest.mark.parametrize("flow", BOTH)
@pytest.mark.parametrize(("changes", "kind", "fact"), STORES, ids=[" ".join(one[0].values()) or "none" for one in STORES])
def test_a_store_that_cannot_be_used(
    world: World, s3: LocalS3, flow: str, changes: dict[str, str], kind: type[OperationError], fact: str, quick_retries: None
) -> None:
    settings = s3.environment() | {"AWS_MAX_ATTEMPTS": "1"} | changes
    world.extra = {name: value.format(closed=free_port()) for name, value in settings.items()}
    user, server = ("backup_restorer", world.target) if flow in RESTORING else ("backup_reader", world.source)
    with untouched(world), pytest.raises(kind, match=fact) as error:
        world.run(FLOWS[flow], user, server)
    assert type(error.value) is kind


@pytest.mark.parametrize("flow", BOTH)
def test_credentials_that_the_store_does_not_know(world: World, s3: LocalS3, flow: str) -> None:
    world.extra = s3.environment()
    user, server = ("backup_restorer", world.target) if flow in RESTORING else ("backup_reader", world.source)
    reset = f"{s3.endpoint}/moto-api/reset-auth"
    httpx.post(reset, content="0").raise_for_status()
    try:
        with untouched(world), pytest.raises(BadInput, match=f"{s3.url}/bc-004/.*InvalidAccessKeyId.*check bucket, credentials"):
            world.run(FLOWS[flow], user, server)
    finally:
        httpx.post(reset, content="inf").raise_for_status()


def test_no_credentials_at_all(world: World, s3: LocalS3) -> None:
    none = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_EC2_METADATA_DISABLED": "true"}
    world.extra = s3.environment() | none | {"AWS_SHARED_CREDENTIALS_FILE": "/nonexistent", "AWS_CONFIG_FILE": "/nonexistent"}
    with untouched(world), pytest.raises(BadInput, match=r"credentials.*correct BACKUP_STORE and the AWS_"):
        world.run(daily_backup, "backup_reader")


@pytest.mark.parametrize(
    ("content", "fact"),
    [
        ('{"system_identifier": "42"}', "are written by the cluster with system identifier 42, this one is "),
        ("not JSON", "does not name the cluster that writes sets here"),
        ("[]", "does not name the cluster that writes sets here"),
        ("", "does not name the cluster that writes sets here"),
    ],
)
def test_the_store_of_another_cluster(world: World, content: str, fact: str) -> None:
    owner = world.store_folder / CONTEXT / "owner.json"
    owner.parent.mkdir()
    owner.write_text(content)
    said = refused(world, "daily_backup")
    assert str(owner) in said and fact in said and "python -m deployments.register --adopt" in said


# --- the staging folder -------------------------------------------------------------------------------------------------


def of_somebody_else(folder: Path) -> None:
    if os.geteuid():
        pytest.skip("only root can give a folder away")
    os.chown(folder, 65534, 65534)


def world_writable(folder: Path) -> None:
    folder.chmod(0o777)


def a_link(folder: Path) -> None:
    folder.rmdir()
    (folder.parent / "elsewhere").mkdir()
    folder.symlink_to(folder.parent / "elsewhere")


def a_file(folder: Path) -> None:
    folder.rmdir()
    folder.write_text("")


@pytest.mark.parametrize("flow", BOTH)
@pytest.mark.parametrize("spoil", [of_somebody_else, world_writable, a_link, a_file])
def test_a_staging_folder_that_is_not_ours_alone(filled: World, flow: str, spoil: Any) -> None:
    staging = filled.folder / "staging"
    staging.mkdir(exist_ok=True)
    spoil(staging)
    said = refused(filled, flow)
    assert f"folder {staging} " in said and "set BACKUP_STAGING to" in said


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """Mount a memory disk of a size."""
    folder.mkdir(mode=0o700)
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=0700", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip(f"no memory disk can be mounted here: {made.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_staging_folder_that_is_too_small(filled: World, two_sets: TwoSets) -> None:
    with small_disk(filled.folder / "small", 1) as disk:
        filled.extra = {"BACKUP_STAGING": str(disk)}
        said = refused(filled, "daily_backup")
        assert (
            f"staging folder {disk} has " in said and "free space there, or set BACKUP_STAGING to a folder on a larger disk" in said
        )
        with disk.joinpath("filler").open("wb") as filler:
            filler.write(bytes(900_000))
        assert f"staging folder {disk} has " in refused(filled, "disaster_recovery")
        assert [path.name for path in disk.iterdir()] == ["filler"]


def test_a_staging_folder_that_fills_up_on_the_way(world: World) -> None:
    with world.connect() as connection, connection.cursor() as cursor:
        # What cannot be compressed needs more than was reckoned with.
        cursor.execute("CREATE TABLE blobs (b bytea STORAGE EXTERNAL)")
        with cursor.copy("COPY blobs FROM STDIN") as copy:
            for _ in range(48):
                copy.write_row([os.urandom(1 << 20)])
        cursor.execute("ALTER TABLE policy_scopes ADD COLUMN blob bytea STORAGE EXTERNAL")
        cursor.execute("ALTER TABLE policy_scopes DISABLE TRIGGER USER")
        cursor.execute(
            """UPDATE policy_scopes SET blob = n.b FROM (SELECT b, row_number() OVER () AS i FROM blobs) n
               JOIN (SELECT id, row_number() OVER () AS i FROM policy_scopes) s USING (i) WHERE s.id = policy_scopes.id"""
        )
        cursor.execute("DROP TABLE blobs")
    with small_disk(world.folder / "small", 46) as disk:
        world.extra = {"BACKUP_STAGING": str(disk)}
        with pytest.raises(OperationError) as error:
            world.backup()
        assert list(disk.iterdir()) == []
    said = str(error.value)
    assert "reading public." in said and "No space left on device" in said
    assert "free some space, or set BACKUP_STAGING to a larger disk" in said
    assert not list(world.store_folder.rglob("manifest.json"))
    wait_for(lambda: not advisory_locks(world.source), SECONDS, "the lock to be given back")


def test_no_space_for_what_is_downloaded(filled: World, two_sets: TwoSets) -> None:
    file = filled.store_folder / CONTEXT / "daily" / two_sets.newer / "schema.dump.zst"
    name, object_ = (
        SetName(CONTEXT, Kind.FULL, two_sets.newer),
        StoredObject(path=file.name, bytes=file.stat().st_size, sha256="0" * 64),
    )
    with small_disk(filled.folder / "small", 1) as disk:
        disk.joinpath("filler").write_bytes(bytes((1 << 20) - 4096))
        with pytest.raises(OperationError, match=r"staged file .*small/x: No space left.*set BACKUP_STAGING") as error:
            stage.fetch.fn(StoreAddress(str(filled.store_folder)), name, object_, disk / "x")
    assert type(error.value) is OperationError  # nothing that another try would help against


# --- the context folder -------------------------------------------------------------------------------------------------


@pytest.fixture
def context_file(world: World, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The context folder as a copy that a test may spoil."""
    contexts = shutil.copytree(PROJECT / "deployments" / "contexts", world.folder / "contexts")
    monkeypatch.setattr(site, "CONTEXTS", contexts)
    return contexts / CONTEXT / "context.yaml"


def test_an_unknown_key_in_the_context_file(world: World, context_file: Path) -> None:
    context_file.write_text(context_file.read_text() + "\ntabels: [x]\n")
    said = refused(world, "daily_backup")
    assert f"{context_file}: unknown key 'tabels'; remove it or correct its spelling" in said


def test_a_context_file_that_is_no_yaml(world: World, context_file: Path) -> None:
    context_file.write_text("name: bc-004\ntables: [a, b\n")
    said = refused(world, "daily_backup")
    assert f"{context_file}: not valid YAML" in said and "line 3" in said


def test_a_context_folder_without_its_file(world: World, context_file: Path) -> None:
    context_file.unlink()
    assert f"{context_file.parent} has no context.yaml" in refused(world, "daily_backup")


@pytest.mark.parametrize(("key", "name"), [("tables", "no_such_table"), ("views", "mv_no_such_view")])
def test_a_table_or_view_that_is_not_in_the_database(world: World, context_file: Path, key: str, name: str) -> None:
    content = yaml.safe_load(context_file.read_text())
    content[key].append(name)
    context_file.write_text(yaml.safe_dump(content))
    said = refused(world, "daily_backup")
    assert (
        f'database "{DATABASE}", schema "public": {name} not found; correct `tables` and `views` in the context file of bc-004'
        in said
    )


# --- by hand ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "flow", "changes", "said"),
    [
        ("backup", "daily_backup", {"BACKUP_STORE": ""}, "BadInput: BACKUP_STORE is not set"),
        pytest.param(
            "recovery", "disaster_recovery", {"PGPASSWORD": "wrong"}, 'BadInput: cannot connect to database "postgres"',
            marks=pytest.mark.long,
        ),
    ],
)  # fmt: skip
def test_by_hand_the_error_is_one_line(filled: World, module: str, flow: str, changes: dict[str, str], said: str) -> None:
    with untouched(filled):
        process = filled.start(module, flow, "backup_restorer", filled.target, **changes)
        output = process.communicate(timeout=60)[0]

    assert process.returncode == 1
    assert len([line for line in output.splitlines() if line.startswith(said)]) == 1
    assert "Traceback" not in output
    assert filled.target.password not in output


def test_staged_files_are_private(world: World) -> None:
    world.backup()
    assert stat.S_IMODE((world.folder / "staging").stat().st_mode) == 0o700
