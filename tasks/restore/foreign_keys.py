"""Foreign keys to tables of other contexts, which a restore creates once those tables exist."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import psycopg
from prefect import get_run_logger

from tasks.checks.integrity import SAMPLE_ROWS, offending
from tasks.core import sql
from tasks.core.database.objects import ForeignKey, InventoryItem
from tasks.core.errors import BadInput
from tasks.core.postgres.connection import Connection, Server, connect
from tasks.core.postgres.messages import message_of
from tasks.core.sets.manifest import Manifest
from tasks.core.sets.name import RULES
from tasks.core.spelling import foreign_key_of
from tasks.database.catalog import is_there
from tasks.database.locks import LOCK_WAIT_SECONDS, ContextLock
from tasks.run.run import Run, step
from tasks.sets.choose import newest_manifest
from tasks.sets.listing import list_sets
from tasks.store.address import StoreAddress


@dataclass(frozen=True)
class KeyOutcome:
    """A foreign key that exists, or why it does not."""

    key: ForeignKey
    made: bool
    note: str
    orphans: int = 0
    sample: list[str] = field(default_factory=list)

    @property
    def with_rows(self) -> str:
        """The note with the first violating rows: for reports, never for a log, state or error."""
        return f"{self.note}: {'; '.join(self.sample)}" if self.sample else self.note


def keys_of(manifest: Manifest) -> list[ForeignKey]:
    """Return every foreign key of a set: its own, and those to other contexts."""
    return [*own_keys(manifest), *manifest.outbound_keys]


def own_keys(manifest: Manifest) -> list[ForeignKey]:
    """Return the foreign keys within a set, from its inventory."""
    constraints = ((item, foreign_key_of(item.state)) for item in manifest.inventory if item.kind == "constraint")
    return [
        ForeignKey(
            name=sql.names.quoted(item.name), table=item.parent, references="", definition=definition, on_delete="",
            comment=item.state[len(definition) :].partition(" | comment ")[2] or None,
        )
        for item, definition in constraints if definition
    ]  # fmt: skip


def set_with_keys(store: StoreAddress, run: Run, backup: str) -> Manifest:
    """Return the set whose keys a recovered database needs, the newest with earlier sets' keys.

    Backups of a database that was recovered without some keys lack these keys, so those in the
    newest set of each earlier database are added.

    Raises:
        BadInput: there is no set of that name.
    """
    newest = newest_manifest(store, run.context, backup, run.started)
    if backup != "latest":
        return newest
    whole = [
        listed.manifest
        for listed in list_sets(store, run.context).sets
        if RULES[listed.name.kind].may_be_latest and not listed.damage
    ]
    last = {(manifest.snapshot.system_identifier, manifest.database.oid): manifest for manifest in reversed(whole) if manifest}
    keys = {(key.table, key.name): key for manifest in last.values() for key in manifest.outbound_keys}
    return newest.model_copy(update={"outbound_keys": list(keys.values())})


@step
def complete_keys(server: Server, run: Run, lock: ContextLock, manifest: Manifest, database: str) -> list[KeyOutcome]:
    """Create every foreign key of a set that its restored database lacks.

    Raises:
        BadInput: the database does not exist, or has none of the tables.
    """
    with connect(server, database, run.title) as connection:
        if not any(is_there(connection, key.table) for key in keys_of(manifest)):
            raise BadInput(f'database "{database}" has no table of {manifest.id}; recover it first, without resume')
        return make_keys(connection, keys_of(manifest), LOCK_WAIT_SECONDS, lock)


def make_keys(
    connection: Connection, keys: Iterable[ForeignKey], lock_seconds: float, lock: ContextLock | None = None
) -> list[KeyOutcome]:
    """Create missing keys one by one; keys that rows violate are left out, and the rows counted.

    Each takes SHARE ROW EXCLUSIVE on both tables until its transaction ends
    (https://www.postgresql.org/docs/current/sql-altertable.html). A caller that is in a transaction
    checks the context's lock itself.
    """
    connection.execute(sql.session.set_lock_timeout(lock_seconds))
    outcomes = [_make_key(connection, key, lock) for key in keys]
    for outcome in outcomes:
        get_run_logger().info("foreign key %s of %s: %s", outcome.key.name, outcome.key.table, outcome.note)
    return outcomes


def _make_key(connection: Connection, key: ForeignKey, lock: ContextLock | None) -> KeyOutcome:
    for table in filter(None, (key.table, key.references)):
        if not is_there(connection, table):
            return KeyOutcome(key, made=False, note=f"{table} does not exist")
    there = connection.execute(sql.foreign_keys.IS_VALIDATED, {"table": key.table, "name": key.name}).fetchall()
    if there and (there[0][0] or key.definition.endswith("NOT VALID")):
        return KeyOutcome(key, made=True, note="existed")
    try:
        with connection.transaction():
            add = sql.foreign_keys.add_key(key.table, key.name, key.definition)
            connection.execute(sql.foreign_keys.validate_key(key.table, key.name) if there else add)
            if key.comment and not there:
                connection.execute(sql.foreign_keys.comment_on_constraint(key.table, key.name, key.comment))
            if lock:
                lock.require_held(f"foreign key {key.name} of {key.table} was created", connection)
    except psycopg.errors.ForeignKeyViolation:
        return _orphaned(connection, key)
    except psycopg.errors.LockNotAvailable:
        return KeyOutcome(key, made=False, note=f"{key.table} or {key.references} is in use; run again")
    except psycopg.Error as error:
        if connection.broken:
            raise
        denied = isinstance(error, psycopg.errors.InsufficientPrivilege) and key.references
        remedy = f'; GRANT REFERENCES ON {key.references} TO "{connection.info.user}"' if denied else ""
        return KeyOutcome(key, made=False, note=f"{message_of(error)}{remedy}")
    return KeyOutcome(key, made=True, note="created")


def _orphaned(connection: Connection, key: ForeignKey) -> KeyOutcome:
    """Count violating rows by creating the key as NOT VALID in a transaction, rolled back."""
    count, sample = 0, list[str]()
    # For each leaf partition, because before 18 a partitioned table cannot have NOT VALID keys.
    for (leaf,) in connection.execute(sql.foreign_keys.LEAVES, {"table": key.table}).fetchall():
        with connection.transaction(force_rollback=True):
            if not connection.execute(sql.foreign_keys.IS_VALIDATED, {"table": leaf, "name": key.name}).fetchall():
                connection.execute(sql.foreign_keys.add_key(leaf, key.name, key.definition, proven=False))
            query = connection.execute(sql.foreign_keys.ORPHANS_OF_KEY, {"table": leaf, "name": key.name}).fetchall()[0][3]
            try:
                orphans = offending(connection, query)
            except psycopg.errors.InsufficientPrivilege as error:
                remedy = f'GRANT SELECT ON {key.references} TO "{connection.info.user}"'
                return KeyOutcome(
                    key, made=False, note=f"rows refer to missing rows, but cannot be counted: {message_of(error)}; {remedy}"
                )
        count, sample = count + orphans[0], [*sample, *orphans[1]][:SAMPLE_ROWS]
    return KeyOutcome(key, made=False, note=f"{count:,} rows refer to missing rows", orphans=count, sample=sample)


@step
def try_keys(server: Server, run: Run, manifest: Manifest, database: str) -> list[KeyOutcome]:
    """Try again to create the set's own keys where pg_restore failed, and count violating rows."""
    with connect(server, database, run.title) as connection:
        return make_keys(connection, own_keys(manifest), LOCK_WAIT_SECONDS)


def exclude_unmade_keys(inventory: Iterable[InventoryItem], outcomes: Iterable[KeyOutcome]) -> list[InventoryItem]:
    """Return an inventory without keys that could not be created, which are reported elsewhere."""
    unmade = {(outcome.key.table, outcome.key.name) for outcome in outcomes if not outcome.made}
    return [item for item in inventory if not (item.kind == "constraint" and (item.parent, sql.names.quoted(item.name)) in unmade)]
