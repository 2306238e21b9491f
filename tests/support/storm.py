"""What happens to a database between two backups: changes of every kind, chosen by a seed, some in transactions that last."""

import random
import uuid
from collections import Counter
from typing import LiteralString

import psycopg

from tests.support.world import World

LEAVES = [f"policy_violations_{year}" for year in range(2021, 2027)]
COLUMNS = (
    "policy_id, rule_id, target_type, target_id, severity, error_message, context, status, detected_at, resolved_at, "
    "resolved_by, resolution, created_at"
)
# {leaf} is a partition, {share} a part of its rows, {year} one that has a partition, {new} one that may have none.
CHANGES: dict[str, list[str]] = {
    "insert": [f"INSERT INTO policy_violations ({COLUMNS}) SELECT {COLUMNS} FROM {{leaf}} WHERE random() < {{share}}"],
    "update": ["UPDATE {leaf} SET error_message = md5(random()::text) WHERE random() < {share}"],
    "update wider": ["UPDATE {leaf} SET resolution = repeat(md5(random()::text), 20) WHERE random() < {share}"],
    "update to the same": ["UPDATE {leaf} SET status = status WHERE random() < {share}"],
    "update small tables": [
        "UPDATE teams SET purpose = md5(random()::text) WHERE random() < {share}",
        "UPDATE governance_policies SET description = md5(random()::text) WHERE random() < {share}",
    ],
    "delete": ["DELETE FROM {leaf} WHERE random() < {share}"],
    "delete the end": ["DELETE FROM {leaf} WHERE ctid >= '(40,1)'", "VACUUM {leaf}"],
    "delete the beginning": ["DELETE FROM {leaf} WHERE ctid < '(20,1)'", "VACUUM {leaf}"],
    "delete all": ["DELETE FROM {leaf}"],
    "delete and insert the same": [
        "BEGIN", "CREATE TEMP TABLE kept ON COMMIT DROP AS SELECT * FROM {leaf} WHERE random() < {share}",
        "DELETE FROM {leaf} WHERE id IN (SELECT id FROM kept)", "INSERT INTO {leaf} SELECT * FROM kept", "COMMIT",
    ],
    "keys": ["UPDATE {leaf} SET id = gen_random_uuid() WHERE random() < {share}"],
    "keys exchanged": ["UPDATE policy_scopes SET id = gen_random_uuid()"],
    "move": [
        "UPDATE policy_violations SET detected_at = make_timestamp({year}, 1 + (random() * 11)::int, 5, 1, 2, random() * 59) "
        "WHERE tableoid = '{leaf}'::regclass AND random() < {share}"
    ],
    "truncate": ["TRUNCATE {leaf}"],
    "truncate and fill": [
        "BEGIN", "CREATE TEMP TABLE kept ON COMMIT DROP AS SELECT * FROM {leaf}",
        "TRUNCATE {leaf}", "INSERT INTO {leaf} SELECT * FROM kept ORDER BY id", "COMMIT",
    ],
    "savepoints": [
        "BEGIN", "UPDATE {leaf} SET error_message = 'never' WHERE random() < {share}", "SAVEPOINT one",
        "UPDATE {leaf} SET error_message = 'lost' WHERE random() < {share}", "ROLLBACK TO one", "SAVEPOINT two",
        "DELETE FROM {leaf} WHERE random() < {share}", "RELEASE two", "COMMIT",
    ],
    "rolled back": ["BEGIN", "DELETE FROM {leaf}", "INSERT INTO {leaf} SELECT * FROM policy_violations LIMIT 0", "ROLLBACK"],
    "lock rows": ["BEGIN", "SELECT count(*) FROM (SELECT FROM {leaf} WHERE random() < {share} FOR KEY SHARE) AS locked", "COMMIT"],
    "vacuum": ["VACUUM {leaf}"],
    "vacuum full": ["VACUUM FULL {leaf}"],
    "vacuum freeze": ["VACUUM (FREEZE) {leaf}"],
    "cluster": ["CLUSTER {leaf} USING {leaf}_pkey"],
    "checkpoint": ["CHECKPOINT"],
    "new leaf": [
        "CREATE TABLE IF NOT EXISTS policy_violations_{new} PARTITION OF policy_violations "
        "FOR VALUES FROM ('{new}-01-01') TO ('{new}-12-31')", "ALTER TABLE policy_violations_{new} OWNER TO consulting_owner",
        "INSERT INTO policy_violations_{new} SELECT (jsonb_populate_record(v, jsonb_build_object('detected_at', "
        "timestamp '{new}-05-05' + random() * interval '90 days'))).* FROM {leaf} v WHERE random() < {share}",
    ],
    "older table": [
        "CREATE TABLE older_{new} (LIKE policy_violations INCLUDING ALL)", "ALTER TABLE older_{new} OWNER TO consulting_owner",
        "INSERT INTO older_{new} SELECT (jsonb_populate_record(v, jsonb_build_object('detected_at', "
        "timestamp '{new}-05-05' + random() * interval '90 days'))).* FROM {leaf} v WHERE random() < {share}",
    ],
    "attach it": ["ALTER TABLE policy_violations ATTACH PARTITION older_{new} FOR VALUES FROM ('{new}-01-01') TO ('{new}-12-31')"],
    "drop a leaf": ["DROP TABLE policy_violations_{new}"],
    "detach a leaf": ["ALTER TABLE policy_violations DETACH PARTITION policy_violations_{new}"],
    "a leaf made anew": [
        "BEGIN", "CREATE TABLE another (LIKE {leaf} INCLUDING ALL)", "ALTER TABLE another OWNER TO consulting_owner",
        "INSERT INTO another SELECT * FROM {leaf} WHERE random() < {share}",
        "ALTER TABLE policy_violations DETACH PARTITION {leaf}", "DROP TABLE {leaf}", "ALTER TABLE another RENAME TO {leaf}",
        "ALTER TABLE policy_violations ATTACH PARTITION {leaf} FOR VALUES FROM ('{of_leaf}-01-01') TO ('{after_leaf}-01-01')",
        "COMMIT",
    ],
}  # fmt: skip
# What a transaction may have done that stays open while a backup is taken.
LASTING = ["insert", "update", "update wider", "delete", "keys", "move", "update small tables"]
# Constraints may forbid one, or a transaction that lasts may be in its way: then it did not happen.
REFUSED = (
    psycopg.errors.IntegrityError, psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected,
    psycopg.errors.ObjectInUse, psycopg.errors.UndefinedTable, psycopg.errors.DuplicateTable, psycopg.errors.UndefinedObject,
    psycopg.errors.InvalidObjectDefinition, psycopg.errors.RaiseException, psycopg.errors.WrongObjectType,
)  # fmt: skip


class Storm:
    """Changes at random; what was done stands in `done`, for the reader of a failure."""

    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        self.choice = random.Random(seed)
        self.done: list[str] = []
        self.refused = Counter[str]()
        self._open: list[psycopg.Connection] = []
        self._prepared: list[str] = []

    def blow(self, count: int) -> None:
        """Make so many changes, each committed or undone."""
        with self._connect() as connection:
            for _ in range(count):
                self._try(connection, self.choice.choice(list(CHANGES)))

    def begin_lasting(self) -> None:
        """Begin transactions that stay open, in a session and prepared."""
        session = self._connect()
        session.execute("BEGIN")
        self._try(session, self.choice.choice(LASTING))
        self._open.append(session)
        with self._connect() as connection:
            name = uuid.uuid4().hex
            connection.execute("BEGIN")
            if self._try(connection, self.choice.choice(LASTING)):
                connection.execute(f"PREPARE TRANSACTION '{name}'".encode())
                self._prepared.append(name)

    def end_lasting(self) -> None:
        """Commit most of them, and undo the others."""
        for session in self._open:
            session.execute(self._ending())
            session.close()
        for name in self._prepared:
            with self._connect() as connection:
                connection.execute(f"{self._ending()} PREPARED '{name}'".encode())
        self._open, self._prepared = [], []

    def _ending(self) -> LiteralString:
        return "COMMIT" if self.choice.random() < 0.7 else "ROLLBACK"

    def _connect(self) -> psycopg.Connection:
        connection = self.world.connect()
        connection.execute("SET lock_timeout = '300ms'")
        return connection

    def _try(self, connection: psycopg.Connection, change: str) -> bool:
        leaf = self.choice.choice(LEAVES)
        of_leaf = int(leaf[-4:])
        words = {
            "leaf": leaf, "share": self.choice.choice([0.002, 0.05, 0.6]), "year": self.choice.randint(2021, 2026),
            "new": self.choice.randint(2030, 2032), "of_leaf": of_leaf, "after_leaf": of_leaf + 1,
        }  # fmt: skip
        self.done.append(f"{change} {words}")
        try:
            for statement in CHANGES[change]:
                connection.execute(statement.format(**words).encode())
        except REFUSED as error:
            self.done.append(f"  not done: {error}")
            self.refused[change] += 1
            if connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
                connection.execute("ROLLBACK")
            return False
        return True
