"""Four large schemas, each with a database to itself, go through every flow, on each version that is here."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from deployments.local import LocalServer
from flows.backup import list_backups
from flows.checks import integrity_check
from flows.partitions import archive_partitions, create_partitions, reattach_partition
from flows.recovery import recovery_drill
from flows.restore import full_restore, restore_cleaned_up, table_restore
from flows.retention import clean_up_old_data
from flows.views import refresh_views
from flows.watch import backup_report, verify_backups, watch_recovery_point
from tasks.core.context import CONTEXT_FILE, Context, parse_context
from tasks.core.sets.manifest import Manifest
from tasks.core.sets.manifest_file import MANIFEST_FILE, parse_manifest
from tasks.run import site
from tests.support import PROJECT
from tests.support.clock import at
from tests.support.database import execute
from tests.support.servers import CONTRIB, Servers, drop_databases
from tests.support.variants import EVERY_VARIANT
from tests.support.whole_database import Whole, whole
from tests.support.world import World

pytestmark = [pytest.mark.long, pytest.mark.every_variant]
# Three hundred tables, and older versions, take minutes on a busy machine: they are for who asks for all variants.
MAJORS = (CONTRIB, 16, 15) if EVERY_VARIANT else (CONTRIB,)
LARGE = () if EVERY_VARIANT else ("bc-103",)
FOLDER = PROJECT / "tests" / "contexts"
SPRING = "2026-04-15T05:00+00:00"


@dataclass(frozen=True)
class Story:
    """What happens to a schema: changes by users, damage, and a table of which rows are lost, changed, and added."""

    change: tuple[str, ...]
    damage: tuple[str, ...]
    table: str
    lose: str
    spoil: str
    add: str
    archived: tuple[str, ...] = ()
    before_archive: tuple[str, ...] = ()


STORIES = {
    "bc-101": Story(
        change=(
            "UPDATE titles SET description = 'other rain' WHERE id < 30", "DELETE FROM title_performers WHERE performer_id = 3",
            "UPDATE customers SET email = NULL WHERE id < 5", "SELECT nextval('country_id_seq')",
            "INSERT INTO payments (customer_id, amount, paid_at) SELECT 1, n, '2026-02-05' FROM generate_series(1, 9) n",
        ),
        damage=(
            "DELETE FROM payments_2026_02", "UPDATE titles SET name = 'wrong' WHERE id < 90", "TRUNCATE audit",
            "DROP INDEX titles_by_features", "DROP TABLE title_categories CASCADE", "DROP FUNCTION last_day",
            "DROP VIEW open_categories", "ALTER TABLE rentals DROP CONSTRAINT rentals_staff_id_fkey",
            "DROP AGGREGATE unused_total(numeric)", "DROP TEXT SEARCH CONFIGURATION shop_search", "DROP DOMAIN unused_email",
        ),
        table="customers", lose="DELETE FROM customers WHERE id > 70", spoil="UPDATE customers SET name = 'x' WHERE id < 9",
        add="INSERT INTO customers (store_id, name) VALUES (1, 'new')", archived=("payments 2026-01",),
    ),
    "bc-102": Story(
        change=(
            'UPDATE "nodes now" SET latitude = latitude + 1, version = 3 WHERE id < 5', "DELETE FROM names WHERE language = 'de'",
            "INSERT INTO tiles VALUES (9, 99, 99, NULL, '(1,2]', NULL)", "UPDATE users SET home.latitude = 7 WHERE id = 3",
        ),
        damage=(
            'DELETE FROM "way tags now"', "UPDATE tiles SET x = x + 100 WHERE zoom = 4", "TRUNCATE trace_points",
            "DROP INDEX changesets_bounds", "DROP FUNCTION nodes_in", "DROP TABLE leases", 'DROP VIEW "all elements"',
            'ALTER TABLE "nodes" DROP CONSTRAINT "fk: redaction of node"', 'DROP TRIGGER "keeps versions" ON "nodes now"',
            "DELETE FROM closures WHERE way_id = 2", "DROP TABLE tiles_east",
        ),
        table="area tags", lose="DELETE FROM \"area tags\" WHERE id < 20", spoil="UPDATE \"area tags\" SET v = 'x'",
        add="INSERT INTO \"area tags\" VALUES (1, 1, 'new', '')",
    ),
    "bc-103": Story(
        change=(
            "UPDATE area SET name = 'ö', part_of = NULL WHERE id = 3", "DELETE FROM \"楽団 rating\" WHERE editor = 2",
            "INSERT INTO \"work–url\" (entity0, entity1) VALUES (1, 2)",
            "UPDATE editors SET email = 'NEW@example.org' WHERE id = 2",
        ),
        damage=(
            "SET session_replication_role = replica", "DELETE FROM artist WHERE id > 4",
            "UPDATE label SET gid = gen_random_uuid()", "RESET session_replication_role", "DROP TABLE \"url–url\"",
            "DROP VIEW everything CASCADE", "DROP FUNCTION is_code CASCADE",
            "ALTER TABLE work DROP CONSTRAINT \"work: ended\"", "TRUNCATE \"genre alias\"", "DROP TABLE \"楽団\" CASCADE",
        ),
        table="work rating", lose="DELETE FROM \"work rating\" WHERE editor > 3", spoil="UPDATE \"work rating\" SET rating = 100",
        add="INSERT INTO \"work rating\" VALUES (1, 5, 3)",
    ),
    "bc-104": Story(
        change=(
            "UPDATE messages SET body = 'edited', edited_at = '2026-03-01' WHERE id % 9 = 0",
            "DELETE FROM reads WHERE user_id = 1001",
            "INSERT INTO messages (sent_at, channel_id, body) SELECT '2026-04-02', id, 'new' FROM channels",
            "UPDATE users SET props = props || '{\"x\": 1.50}', keys = keys || '\\x01'::bytea WHERE id < 1009",
            "UPDATE events SET at = at + interval '80 days' WHERE kind = 'left'",
        ),
        damage=(
            "DELETE FROM messages_2026_03", "UPDATE users SET roles = '{}'", "DROP TABLE messages_2026_02 CASCADE",
            "DROP MATERIALIZED VIEW busiest CASCADE", "DROP INDEX users_zone",
            "ALTER TABLE members DROP CONSTRAINT members_user_id_fkey", "DROP FUNCTION thread CASCADE",
            "ALTER TABLE messages DISABLE TRIGGER counts_messages", "TRUNCATE sessions",
        ),
        table="sessions", lose="DELETE FROM sessions WHERE user_id < 1009", spoil="UPDATE sessions SET data = '{\"a\": 1}'",
        add="INSERT INTO sessions VALUES ('new', 1010, '2026-12-01')", archived=("messages 2026-01",),
        # A partition that a key needs stays.
        before_archive=("ALTER TABLE reads DROP CONSTRAINT reads_message_at_message_id_fkey",),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Sample:
    """A schema in a database of its own, and its context."""

    world: World
    context: Context
    script: dict[str, str]

    def run(self, flow: Any, user: str = "backup_restorer", **parameters: Any) -> str:
        return str(self.world.run(flow, user, context=self.context.name, **parameters))

    def change(self, flow: Any, **parameters: Any) -> str:
        """Run a flow that changes live rows, and has to be told that this is meant."""
        return self.run(flow, dry_run=False, confirm_database=self.context.database, **parameters)

    def execute(self, *statements: str) -> None:
        path = f'SET search_path = "{self.context.namespace}", extensions, shared, tools, public'
        execute(self.world, path, *statements)

    def state(self, database: str = "", *, of_target: bool = False) -> Whole:
        server = self.world.target if of_target else self.world.source
        return whole(server, database or self.context.database, self.context.namespace, self.context.tables, self.context.views)

    def manifest(self) -> Manifest:
        """Return the manifest of the newest set that is a backup."""
        sets = [*self.world.set_folders("daily", self.context.name), *self.world.set_folders("differential", self.context.name)]
        folder = max(sets, key=lambda one: one.name.split("_")[2:4])
        return parse_manifest((folder / MANIFEST_FILE).read_bytes(), str(folder))

    def complete(self) -> None:
        """Make in the recovered database what belongs to others, and what the set has by its statements only."""
        with self.world.connect(self.world.target) as connection:
            connection.execute(self.script["others"].encode())
            if connection.execute("SELECT to_regnamespace('extensions')").fetchone() != (None,):
                # Made by a login that may not give it away.
                connection.execute("ALTER SCHEMA extensions OWNER TO postgres")
            for one in self.manifest().by_hand:
                if not one.name.startswith(("schema accounting", "table accounting.")):
                    connection.execute(one.statements.encode())


def sections(text: str) -> dict[str, str]:
    """Return what a script has by the marks in it: what is the context's, others', and what a backup names."""
    own, _, rest = text.partition("-- @others")
    others, _, named = rest.partition("-- @named")
    return {"own": own, "others": others and f"--{others}", "named": named and f"--{named}"}


@pytest.fixture
def sample(
    servers: Servers, prefect_api: str, folder: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Sample]:
    """The schema and the version that the test names; where it is recovered, another server."""
    name, major = request.param
    source, target = servers[major], servers.empty(major)
    (folder / "store").mkdir()
    context = parse_context((FOLDER / name / CONTEXT_FILE).read_text("utf-8"), name)
    shutil.copytree(FOLDER / name, folder / "contexts" / name)
    monkeypatch.setattr(site, "CONTEXTS", folder / "contexts")
    world = World(source, target, folder, prefect_api, {"BACKUP_STORE": str(folder / "store")}, context.database)
    source.create_database(context.database, "consulting_owner")
    script = sections((FOLDER / f"{name}.sql").read_text("utf-8"))
    execute(world, *script.values())
    for server in (source, target):
        _let_all_rows_be_read(server, "BYPASSRLS")
    yield Sample(world, context, script)
    for server in (source, target):
        _let_all_rows_be_read(server, "NOBYPASSRLS")
        drop_databases(server)


def _let_all_rows_be_read(server: LocalServer, how: str) -> None:
    with server.connect() as connection:
        for login in ("backup_reader", "backup_restorer"):
            connection.execute(f"ALTER ROLE {login} {how}".encode())


@pytest.mark.parametrize(
    "sample",
    [pytest.param((name, major), id=f"{name} {min(major, 18)}") for major in MAJORS for name in STORIES if name not in LARGE],
    indirect=True,
)  # fmt: skip
def test_every_flow(sample: Sample) -> None:
    story = STORIES[sample.context.name]
    before = backups(sample, story)
    recoveries(sample, before)
    restores(sample, before, story)
    rows_of_a_table(sample, before, story)
    old_partitions_and_rows(sample, story)


@contextmanager
def in_spring() -> Iterator[None]:
    """Let runs begin in a month in which some partitions and rows have had their time."""
    with pytest.MonkeyPatch.context() as patch:
        at(patch, SPRING)
        yield


def backups(s: Sample, story: Story) -> Whole:
    """Take a full, change rows, take a differential, look at both; return the state that it has."""
    if s.context.partitions:
        with in_spring():
            assert s.run(create_partitions).startswith("PASS: created ")
    assert s.run(refresh_views).startswith("REFRESHED")
    assert s.world.backup(context=s.context.name).startswith("STORED")
    s.execute(*story.change)
    assert s.run(refresh_views).startswith("REFRESHED")
    before = s.state()
    assert "_differential_" in s.world.differential(context=s.context.name)
    assert s.run(verify_backups, "backup_reader", fraction=1.0).startswith("PASS")
    listed = s.world.run(list_backups, "backup_reader", context=s.context.name)
    assert [f"{one['kind']} {one['state']}" for one in listed] == ["differential decoded", "full decoded"]
    with in_spring():
        assert s.run(integrity_check, "backup_reader").startswith("PASS")
    assert s.run(watch_recovery_point, "backup_reader").startswith("PASS")
    assert s.run(backup_report, "backup_reader").startswith("30 days: 1 full, 1 differential")
    return before


def recoveries(s: Sample, before: Whole) -> None:
    """Rehearse a recovery, recover on another server, and beside the live database."""
    assert s.run(recovery_drill).startswith("PASS")
    said = s.world.recover(context=s.context.name)
    assert said.startswith("PASS")
    assert ("not in the set" in said) == bool(s.manifest().by_hand)
    s.complete()
    before.assert_equal(s.state(of_target=True))
    assert s.run(full_restore, target_database="beside").startswith("PASS")
    beside = s.state("beside")
    assert before.context.rows == beside.context.rows
    assert before.context.indexes == beside.context.indexes


def restores(s: Sample, before: Whole, story: Story) -> None:
    """Damage the live database and restore into it."""
    s.execute(*story.damage)
    damaged = s.state()
    assert s.run(full_restore, in_place=True).startswith("PLANNED, nothing touched")
    damaged.assert_equal(s.state(), views="stored")
    assert s.change(full_restore, in_place=True, objects="restore").startswith("RESTORED: the rows of")
    before.assert_equal(s.state())


def rows_of_a_table(s: Sample, before: Whole, story: Story) -> None:
    """Restore one table in each way."""
    assert "_restored_" in s.run(table_restore, table=story.table)
    beside = "SELECT 'DROP TABLE ' || oid::regclass FROM pg_class WHERE relname ~ '_restored_' AND relkind = 'r'"
    s.execute(f"DO $$ BEGIN EXECUTE ({beside}); END $$", story.lose)
    assert s.change(table_restore, table=story.table, mode="missing").startswith("RESTORED")
    before.assert_equal(s.state())
    s.execute(story.spoil)
    assert s.change(table_restore, table=story.table, mode="merge").startswith("RESTORED")
    before.assert_equal(s.state())
    s.execute(story.add, story.lose)
    assert s.change(table_restore, table=story.table, mode="replace").startswith("RESTORED")
    before.assert_equal(s.state())


def old_partitions_and_rows(s: Sample, story: Story) -> None:
    """Archive partitions, clean up rows, and bring back both."""
    with in_spring():
        if story.archived:
            s.execute(*story.before_archive)
            before = s.state()
            assert s.change(archive_partitions).startswith("ARCHIVED")
            for table, period in (one.split(" ") for one in story.archived):
                assert s.run(reattach_partition, table=table, year=period).startswith("ATTACHED")
            before.assert_equal(s.state(), views="stored")
        before = s.state()
        assert s.run(clean_up_old_data).startswith("PLANNED")
        assert s.change(clean_up_old_data).startswith("CLEANED UP")
        gone = s.world.set_folders("clean-up", s.context.name)
        assert gone
        assert before.context.rows != s.state().context.rows
        for folder in reversed(gone):
            assert s.change(restore_cleaned_up, backup=folder.name).startswith("RESTORED")
        before.assert_equal(s.state(), views="stored")
