"""The lock's session is ended in the middle of a run, another gets the lock: from then on the first one changes nothing.

It is ended before a chosen statement of the run, or after a chosen change of its store; what the other one sees then is what is
there when the first one has ended.
"""

import re
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.sql import Composable

from deployments.local import LocalS3, LocalServer
from flows.partitions import archive_partitions, create_partitions, reattach_partition
from flows.recovery import recovery_drill
from flows.restore import full_restore, table_restore
from flows.retention import clean_up_old_data, prune_backups
from tasks.core.errors import LostLock, OperationError
from tasks.core.sets.facts import ExpiryRecord
from tasks.database import locks
from tasks.database.locks import SPACE, context_lock
from tasks.store.folder import FolderStore
from tasks.store.s3 import S3Store
from tests.support.archives import ONE_YEAR_IS_DUE, RESOLVED
from tests.support.clock import at, later
from tests.support.contexts import edit_context
from tests.support.database import ask, execute, server_of
from tests.support.example import CONTEXT, DATABASE
from tests.support.faults import FaultyProxy
from tests.support.retention import Kept, contents
from tests.support.servers import databases, drop_databases
from tests.support.stores import client_of, fill
from tests.support.variants import EVERY_VARIANT
from tests.support.world import World

long = pytest.mark.long
HELD = f"FROM pg_locks WHERE locktype = 'advisory' AND classid = {SPACE} AND granted AND mode = 'ExclusiveLock'"
LOST = (
    r"the lock of \"[^\"]+\" was lost: its session \d+, .*; this run stopped before .*, and did nothing without the lock; run again"
    r"|a session .* was lost: "
)
TABLES = ("teams", "team_members", "team_leaders", "policy_scopes", "policy_violations", "organizations")


@dataclass
class Loss:
    """The end of the lock's session, once it was brought about, and what another one saw that got the lock."""

    server: LocalServer
    look: Callable[[], Any]
    seen: Any = None
    second: psycopg.Connection | None = None
    lock: Any = field(default_factory=threading.Lock)
    count: int = 0
    failed: bool = False

    def lose(self) -> bool:
        """End the session that holds the lock, if one does, and be the next."""
        session = self.server.connect()
        held = session.execute(f"SELECT pid, objid::bigint {HELD}").fetchone()
        if not held:
            session.close()
            return False
        session.execute("SET statement_timeout = '20s'")
        session.execute("SELECT pg_terminate_backend(%s)", (held[0],))
        session.execute("SELECT pg_advisory_lock(%s, %s)", (SPACE, held[1]))
        self.second, self.seen = session, self.look()
        return True

    def is_held_by_the_second(self) -> bool:
        assert self.second
        return bool(self.second.execute(f"SELECT {HELD} AND pid = pg_backend_pid()").fetchall())


@contextmanager
def before_statement(moment: int | str | None, server: LocalServer, look: Callable[[], Any]) -> Iterator[Loss]:
    """Lose the lock before the n-th statement of those sent while it is held, or the first with some words, or only count them."""
    loss, execute_it = Loss(server, look), psycopg.Connection.execute

    def counting(connection: psycopg.Connection, *words: Any, **named: Any) -> Any:
        # What the test itself asks, it asks as superuser.
        if not connection.closed and connection.info.user.startswith("backup_"):
            with loss.lock, server.connect() as session:
                loss.count += bool(session.execute(f"SELECT {HELD}").fetchall())
                reached = moment in spelled(words[0]) if isinstance(moment, str) else loss.count - 1 == moment
                if reached and loss.second is None:
                    loss.lose()
        return execute_it(connection, *words, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(psycopg.Connection, "execute", counting)
        try:
            yield loss
        finally:
            if loss.second:
                patch.undo()
                loss.second.close()


def spelled(statement: Any) -> str:
    return statement.as_string() if isinstance(statement, Composable) else str(statement)


@contextmanager
def after_change(moment: int | str | None, server: LocalServer, look: Callable[[], Any]) -> Iterator[Loss]:
    """Lose the lock after the n-th change of the store that is made while it is held, or only count them."""
    loss = Loss(server, look)

    def counting(real: Callable[..., Any]) -> Callable[..., Any]:
        def change(*words: Any) -> Any:
            done = real(*words)
            with server.connect() as session:
                held = session.execute(f"SELECT {HELD}").fetchall()
            loss.count += bool(held)
            if loss.count - 1 == moment and loss.second is None:
                loss.lose()
            return done

        return change

    with pytest.MonkeyPatch.context() as patch:
        for store in (FolderStore, S3Store):
            for name in ("delete", "replace", "create", "abort"):
                patch.setattr(store, name, counting(getattr(store, name)))
        try:
            yield loss
        finally:
            if loss.second:
                loss.second.close()


At = Callable[[int | str | None, LocalServer, Callable[[], Any]], Any]


@dataclass
class Story:
    """A run: what it is run on, what it does, what is looked at, and the server of its lock."""

    prepare: Callable[[], Any]
    act: Callable[[], Any]
    look: Callable[[], Any]
    server: LocalServer
    at: At = before_statement
    runs: int = 1


def tell(story: Story, moment: int | str | None) -> Loss:
    """Run it once, with the loss at a moment; what the second one saw is what is there at the end, or nobody got in."""
    story.prepare()
    with story.at(moment, story.server, story.look) as loss:
        try:
            story.act()
        except OperationError as error:
            assert loss.second, error
            assert re.search(LOST, str(error))
            loss.failed = True
        if loss.second:
            assert loss.is_held_by_the_second()
            assert story.look() == loss.seen, moment
    return loss


def moments(count: int) -> list[int]:
    """Return some of so many moments, the last ones among them, or all."""
    return [*range(count)] if EVERY_VARIANT else sorted({*range(0, count, max(1, count // 3)), *range(max(0, count - 3), count)})


def tell_all(story: Story) -> None:
    """Run it with the loss at many moments; after each the next run does by itself what is to be done."""
    count = tell(story, None).count
    for _ in range(story.runs - 1):
        story.act()
    wanted, failures = story.look(), 0
    assert count > 2
    for number in moments(count):
        loss = tell(story, number)
        failures += loss.failed
        for _ in range(story.runs if loss.failed else story.runs - 1):
            story.act()
        assert story.look() == wanted, number
    assert failures > 1


def rows(world: World, *tables: str) -> list[Any]:
    return [ask(world, f"SELECT count(*), md5(string_agg(t::text, '|' ORDER BY t::text)) FROM {name} t") for name in tables]


DAMAGE = ("UPDATE teams SET purpose = 'wrong'", "DELETE FROM policy_violations_2025 WHERE ctid < '(3,1)'")


def in_place(world: World, **words: Any) -> Story:
    flow = table_restore if "table" in words else full_restore
    given = {"backup": world.set_folders()[0].name, "dry_run": False, "confirm_database": DATABASE} | words
    return Story(
        lambda: execute(world, *DAMAGE), lambda: world.run(flow, "backup_restorer", **given),
        lambda: rows(world, *TABLES), world.source,
    )  # fmt: skip


def recovery(world: World) -> Story:
    # Under its working name a database is nobody's yet: the next run drops it.
    return Story(
        lambda: drop_databases(world.target), world.recover,
        lambda: {name for name in databases(world.target) if "_restoring_" not in name}, world.target,
    )  # fmt: skip


def pruning(world: World, kept: Kept, _: object = None) -> Story:
    def prepare() -> None:
        world.store["BACKUP_STORE"] = str(kept_copy(world, kept))

    # What expires, or is marked, is deleted by the run after that.
    return Story(prepare, lambda: prune_later(world), lambda: contents(world), world.source, after_change, runs=2)


def pruning_of_s3(world: World, kept: Kept, s3: LocalS3) -> Story:
    def prepare() -> None:
        place = kept_copy(world, kept)
        fill(s3, place, place)
        world.store = s3.environment() | {"BACKUP_STORE": f"{s3.url}/{place.name}"}

    def look() -> dict[str, str]:
        bucket, _, prefix = world.store["BACKUP_STORE"].removeprefix("s3://").partition("/")
        found = client_of(s3).list_objects_v2(Bucket=bucket, Prefix=f"{prefix}/{CONTEXT}/")["Contents"]
        return {one["Key"].removeprefix(prefix): one["ETag"] for one in found if f"/{ExpiryRecord.folder}/" not in one["Key"]}

    return Story(prepare, lambda: prune_later(world), look, world.source, after_change, runs=2)


def prune_later(world: World) -> None:
    with later(days=40):
        world.run(prune_backups, "backup_reader", dry_run=False)


def kept_copy(world: World, kept: Kept) -> Path:
    """Return a fresh copy of a store, in which another run died."""
    store = Path(tempfile.mkdtemp(dir=world.folder))
    shutil.copytree(kept.folder, store, dirs_exist_ok=True)
    died = store / CONTEXT / "daily" / "bc-004_full_20200101_000000_aaaa" / "data" / "teams.copy.zst"
    died.parent.mkdir(parents=True)
    died.write_bytes(b"x")
    return store


def cleaning(world: World, monkeypatch: pytest.MonkeyPatch) -> Story:
    """Return the story of many rows that go by one rule, in several batches."""
    rule = {"table": "policy_scopes", "clock": "created_at", "condition": "target_type = 'old'", "keep": "3 years"}
    edit_context(world, monkeypatch, clean_up=[rule], long_term={})
    check = ask(
        world, "SELECT conname FROM pg_constraint WHERE conrelid = 'policy_scopes'::regclass AND contype = 'c'"
    )  # fmt: skip
    execute(world, *(f"ALTER TABLE policy_scopes DROP CONSTRAINT {name}" for (name,) in check))

    def prepare() -> None:
        execute(
            world,
            "INSERT INTO policy_scopes SELECT (jsonb_populate_record(p, jsonb_build_object('id', gen_random_uuid(), 'target_id', "
            "gen_random_uuid(), 'target_type', 'old', 'created_at', '2020-01-01'))).* "
            "FROM policy_scopes p, generate_series(1, 500) WHERE p.id = (SELECT id FROM policy_scopes LIMIT 1)",
        )

    def act() -> None:
        world.run(clean_up_old_data, "backup_restorer", dry_run=False, confirm_database=DATABASE)

    def look() -> list[Any]:
        return ask(world, "SELECT count(*) FROM policy_scopes WHERE target_type = 'old'")

    return Story(prepare, act, look, world.source)


# Each once, at the moment at which the most is at stake


@long
def test_a_restore_into_the_living_is_not_committed(world: World) -> None:
    world.backup()
    before, story = rows(world, *TABLES), in_place(world, in_place=True)
    # Everything is written.
    assert tell(story, "SET CONSTRAINTS ALL IMMEDIATE").failed
    story.act()
    assert story.look() == before


@long
def test_a_database_is_not_renamed(world: World) -> None:
    world.backup()
    story = recovery(world)
    assert tell(story, "RENAME TO").failed
    assert DATABASE not in databases(world.target)
    story.act()
    assert databases(world.target) == {DATABASE}


@long
def test_no_more_rows_are_deleted(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    story = cleaning(world, monkeypatch)
    count = tell(story, None).count
    # The last two statements ask whether the set may be called done.
    assert tell(story, count - 2).failed
    story.act()
    assert story.look()[0][0] == 0


def test_nothing_more_is_pruned(kept_world: World, kept: Kept) -> None:
    story = pruning(kept_world, kept)
    assert tell(story, 0).failed


# All of them, at many moments


def into_an_empty_database(world: World) -> Story:
    def prepare() -> None:
        drop_databases(world.target)
        world.target.create_database(DATABASE, "consulting_owner")

    def look() -> list[Any]:
        with world.connect(world.target) as connection:
            return connection.execute("SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace").fetchall()

    return Story(prepare, world.recover, look, world.target)


def drilling(world: World) -> Story:
    def drill() -> None:
        world.run(recovery_drill, "backup_restorer")

    return Story(lambda: None, drill, lambda: databases(world.source) & {DATABASE}, world.source)


def leaves(world: World) -> list[Any]:
    """Return the partitions that are attached; those who read the catalogue wait for nobody."""
    asked = "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'policy_violations'::regclass ORDER BY 1"
    return ask(world, asked)


def archiving(world: World, patch: pytest.MonkeyPatch, *, back: bool) -> Story:
    """Return the story of a partition that is archived, or of its way back."""
    at(patch, ONE_YEAR_IS_DUE)
    execute(world, "DROP TABLE policy_violations_2021", RESOLVED)

    def attach() -> None:
        if ("policy_violations_2022",) not in leaves(world):
            world.run(reattach_partition, "backup_restorer", year="2022")

    def archive() -> None:
        world.run(archive_partitions, "backup_restorer", dry_run=False, confirm_database=DATABASE)

    prepare, act = (archive, attach) if back else (attach, archive)
    return Story(prepare, act, lambda: leaves(world), world.source)


def creating(world: World, monkeypatch: pytest.MonkeyPatch) -> Story:
    at(monkeypatch, "2028-01-15T05:00+09:00")

    def prepare() -> None:
        execute(world, *(f"DROP TABLE IF EXISTS policy_violations_{year}" for year in (2027, 2028, 2029)))

    return Story(prepare, lambda: world.run(create_partitions, "backup_restorer"), lambda: leaves(world), world.source)


STORIES: dict[str, Callable[[World, pytest.MonkeyPatch], Story]] = {
    "in place": lambda world, _: in_place(world, in_place=True),
    "a table": lambda world, _: in_place(world, table="teams", mode="replace"),
    "disaster recovery": lambda world, _: recovery(world),
    "into an empty database": lambda world, _: into_an_empty_database(world),
    "drill": lambda world, _: drilling(world),
    "archive": lambda world, patch: archiving(world, patch, back=False),
    "reattach": lambda world, patch: archiving(world, patch, back=True),
    "create partitions": creating,
    "clean-up": cleaning,
}


@long
@pytest.mark.parametrize("name", STORIES)
def test_at_many_moments(world: World, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    world.backup()
    tell_all(STORIES[name](world, monkeypatch))


@long
@pytest.mark.parametrize("place", [pruning, pruning_of_s3])
def test_pruning_at_many_moments(kept_world: World, kept: Kept, s3: LocalS3, place: Callable[..., Story]) -> None:
    tell_all(place(kept_world, kept, s3))


# The lock itself


def test_what_counts_as_lost(world: World) -> None:
    server = server_of(world, "backup_restorer")
    with suppress(OperationError), world.connect() as asking, context_lock(server, CONTEXT, "first", exclusive=True) as lock:
        lock.require_held("x")
        lock.require_held("x", asking)
        # Under the path of a stranger, whose objects are better matches.
        asking.execute("CREATE SCHEMA mine; CREATE FUNCTION mine.eq(oid, oid) RETURNS bool RETURN false")
        asking.execute("CREATE OPERATOR mine.= (LEFTARG = oid, RIGHTARG = oid, FUNCTION = mine.eq)")
        asking.execute("CREATE TABLE mine.pg_locks (); SET search_path = mine, pg_catalog")
        lock.require_held("x", asking)
        loss = Loss(world.source, lambda: None)
        assert loss.lose()
        for connection in (asking, None):
            with pytest.raises(
                LostLock, match=rf"session {lock.pid}, .*; this run stopped before x, and did nothing without the lock"
            ):
                lock.require_held("x", connection)
        assert loss.second
        loss.second.close()


def test_a_network_that_is_silent_is_a_lost_lock(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "UNANSWERED", {"tcp_user_timeout": "500"})
    with FaultyProxy("127.0.0.1", world.source.port) as proxy:
        server = server_of(world, "backup_restorer")
        server.parameters["port"] = str(proxy.port)
        with context_lock(server, CONTEXT, "first", exclusive=True) as lock:
            proxy.reset()
            with pytest.raises(LostLock):
                lock.require_held("x")
