"""Backups under load, with the schema changing at moments that the test chooses.

A writer is at work all the time. What the restored database has to equal is read by the oracle in the very snapshot that the
backup exported, while the backup is held with its rows half on the way.
"""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import LiteralString

import psycopg
import pytest

from tests.support import moments
from tests.support.faults import Writer, wait_for
from tests.support.moments import SECONDS, Gates, Started, hold_at_lock, listed_sets, staged
from tests.support.oracle import State
from tests.support.world import World

long = pytest.mark.long
WAITING = "SELECT FROM pg_stat_activity WHERE application_name = 'test change' AND wait_event_type = 'Lock'"
SET_UP = """
SET ROLE consulting_owner;
CREATE TABLE invoices (id int PRIMARY KEY, team_id uuid REFERENCES teams (id));
CREATE TABLE next_year (LIKE policy_violations INCLUDING ALL);
ALTER TABLE next_year OWNER TO consulting_owner;
"""
CHANGES: dict[str, list[LiteralString]] = {
    "truncate": ["TRUNCATE policy_scopes"],
    "rewrite": ["ALTER TABLE team_leaders ADD COLUMN stamp uuid NOT NULL DEFAULT gen_random_uuid()"],
    "attach": [
        "ALTER TABLE policy_violations ATTACH PARTITION next_year FOR VALUES FROM ('2031-01-01') TO ('2032-01-01')",
        "INSERT INTO policy_violations (policy_id, rule_id, target_type, target_id, severity, error_message, context, status, "
        "detected_at) SELECT policy_id, rule_id, target_type, target_id, severity, error_message, context, 'active', '2031-05-05' "
        "FROM policy_violations LIMIT 50",
    ],
    "create": ["CREATE TABLE later PARTITION OF policy_violations FOR VALUES FROM ('2032-01-01') TO ('2033-01-01')"],
    "detach": ["ALTER TABLE policy_violations DETACH PARTITION policy_violations_2021 CONCURRENTLY"],
    "index": ["CREATE INDEX teams_purpose_now ON teams (purpose)"],
    "function": [
        "CREATE OR REPLACE FUNCTION set_updated_at() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN NEW.updated_at := clock_timestamp(); RETURN NEW; END'"
    ],
    "foreign drop": ["DROP TABLE invoices"],
}


class Change:
    """A change of the schema in a session of its own; it may have to wait for the backup."""

    def __init__(self, world: World, statements: list[LiteralString], writer: Writer) -> None:
        self.world, self.statements, self.writer = world, statements, writer
        self.error: psycopg.Error | None = None
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        try:
            with psycopg.connect(
                self.world.source.conninfo(self.world.database), autocommit=True, application_name="test change"
            ) as connection:
                connection.execute("SET ROLE consulting_owner")
                for statement in self.statements:
                    connection.execute(statement)
        except psycopg.Error as error:
            self.error = error

    def begin(self) -> None:
        """Return when it is done, or queued behind the backup's locks; from then on the writer may queue behind it."""
        before = self.writer.transactions
        wait_for(lambda: self.writer.transactions > before + 20, SECONDS, "load")
        self.thread.start()
        wait_for(lambda: not self.thread.is_alive() or self.waits(), SECONDS, "the change")

    def waits(self) -> bool:
        with self.world.source.connect() as connection:
            return connection.execute(WAITING).fetchone() is not None

    def assert_done(self) -> None:
        self.thread.join(SECONDS)
        assert not self.thread.is_alive(), "the change hangs"
        assert self.error is None


def begin_change(held: Gates, moment: str, change: Change) -> None:
    """Start the backup and bring it to its schema dump, with the change where it belongs."""
    held.close("pg_dump")
    held.close("after_dump")
    if moment in ("before the lock", "while locking"):
        holder = hold_at_lock(held, last=moment == "while locking")
        change.begin()
        holder.close()
    else:
        held.start("backup", "daily_backup")
        held.wait_for("pg_dump")
        if moment == "before the dump":
            change.begin()


def dumped_or_over(flow: Started, attempts: int) -> bool:
    """Say whether rows were dumped, or the backup began anew once more, or ended."""
    return flow.ended or flow.said.count("; once more") > attempts or "bytes as" in flow.said.rpartition("; once more")[2]


def lead(held: Gates, moment: str, change: Change) -> State | None:
    """Lead a backup to its end; return what the oracle saw in the snapshot of its last attempt."""
    flow, expected = held.flow, None
    while True:
        wait_for(lambda: flow.ended or held.reached("pg_dump"), SECONDS, "a schema dump")
        if flow.ended:
            return expected
        held.store.hold()
        begun = flow.said.count("; once more")
        held.open("pg_dump")
        if moment == "after the dump" and not change.thread.ident:
            wait_for(lambda: flow.ended or held.reached("after_dump"), SECONDS, "the end of the schema dump")
            change.begin()
        held.open("after_dump")
        # Rows are dumped, and wait to be uploaded: the snapshot is there to be looked at.
        wait_for(partial(dumped_or_over, flow, begun), SECONDS, "rows")
        if flow.ended:
            return None
        if flow.said.count("; once more") > begun:
            # Each attempt begins with a look into the store.
            held.close("pg_dump")
            held.store.pass_through()
            continue
        # Behind a change that is queued the oracle would wait too; then the backup has to start over.
        queued = change.waits()
        expected = None if queued else held.world.state(snapshot=re.findall(r"snapshot (\S+) of", flow.said)[-1])
        if moment == "after the snapshot" and not change.thread.ident:
            change.begin()
        held.close("pg_dump")
        held.store.pass_through()


@contextmanager
def load(world: World) -> Iterator[Writer]:
    with Writer(world.source.conninfo(world.database), rate_per_second=300) as writer:
        wait_for(lambda: writer.transactions > 100, SECONDS, "load")
        yield writer


@pytest.fixture
def held(s3_world: World) -> Iterator[Gates]:
    with s3_world.connect() as connection:
        connection.execute(SET_UP)
    with moments.gates(s3_world) as built:
        yield built


MOMENTS = ["before the lock", "while locking", "before the dump", "after the dump", "after the snapshot"]


@long
@pytest.mark.parametrize(("moment", "change"), [(moment, change) for moment in MOMENTS for change in CHANGES])
def test_backup_equals_its_snapshot(held: Gates, moment: str, change: str) -> None:
    world = held.world
    with load(world) as writer:
        changing = Change(world, CHANGES[change], writer)
        begin_change(held, moment, changing)
        expected = lead(held, moment, changing)
        code = held.flow.wait()
        changing.assert_done()
    print(f"{writer.rate:.0f} transactions a second, the slowest {writer.slowest_seconds:.1f} s, {dict(writer.errors)}")
    held.flow.wait_until_gone()
    assert staged(world) == []
    assert len(listed_sets(world)) == (code == 0)
    assert code == 0, held.flow.said[-3000:]
    assert world.recover().startswith("PASS")
    if expected is None:
        # Queued on the parent alone, it hinders the oracle's pg_dump, and not the backup: only the product has seen this snapshot.
        assert (moment, change) == ("after the dump", "create")
    else:
        world.assert_recovered(expected)
