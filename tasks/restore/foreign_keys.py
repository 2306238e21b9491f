"""Foreign keys that a restore leaves out, because they refer to tables of other contexts: made when those tables are there."""

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
    """What became of a foreign key: it is there, or why it is not."""

    key: ForeignKey
    made: bool
    note: str
    orphans: int = 0
    sample: list[str] = field(default_factory=list)

    @property
    def with_rows(self) -> str:
        """The same with the first rows that are in the way: for reports, never for a log, a state or an error."""
        return f"{self.note}: {'; '.join(self.sample)}" if self.sample else self.note


def keys_of(manifest: Manifest) -> list[ForeignKey]:
    """Return every foreign key of a set: its own, and those to other contexts."""
    return [*own_keys(manifest), *manifest.outbound_keys]


def own_keys(manifest: Manifest) -> list[ForeignKey]:
    """Return the foreign keys within a set, as its inventory has them."""
    constraints = ((item, foreign_key_of(item.state)) for item in manifest.inventory if item.kind == "constraint")
    return [
        ForeignKey(
            name=sql.names.quoted(item.name), table=item.parent, references="", definition=definition, on_delete="",
            comment=item.state[len(definition) :].partition(" | comment ")[2] or None,
        )
        for item, definition in constraints if definition
    ]  # fmt: skip


def set_with_keys(store: StoreAddress, run: Run, backup: str) -> Manifest:
    """Return the set whose keys a recovered database has to have: the named one, or the newest with what newer ones forgot.

    A backup of a database that was recovered without some keys does not know them: the newest set of each database that there
    was counts.

    Raises:
        BadInput: there is no such set.
    """
    newest = newest_manifest(store, run.context, backup, run.started)
    if backup != "latest":
        return newest
    whole = [one.manifest for one in list_sets(store, run.context).sets if RULES[one.name.kind].may_be_latest and not one.damage]
    last = {(one.snapshot.system_identifier, one.database.oid): one for one in reversed(whole) if one}
    keys = {(key.table, key.name): key for one in last.values() for key in one.outbound_keys}
    return newest.model_copy(update={"outbound_keys": list(keys.values())})


@step
def complete_keys(server: Server, run: Run, lock: ContextLock, manifest: Manifest, database: str) -> list[KeyOutcome]:
    """Make every foreign key of a set that its restored database does not have yet.

    Raises:
        BadInput: the database is not there, or has none of the tables.
    """
    with connect(server, database, run.title) as connection:
        if not any(is_there(connection, key.table) for key in keys_of(manifest)):
            raise BadInput(f'database "{database}" has no table of {manifest.id}; recover it first, without resume')
        return make_keys(connection, keys_of(manifest), LOCK_WAIT_SECONDS, lock)


def make_keys(
    connection: Connection, keys: Iterable[ForeignKey], lock_seconds: float, lock: ContextLock | None = None
) -> list[KeyOutcome]:  # fmt: skip
    """Make the keys that are missing, one by one; rows that refer to nothing are counted, and their key is left out.

    Each takes SHARE ROW EXCLUSIVE on both tables until its transaction ends
    (https://www.postgresql.org/docs/current/sql-altertable.html). In a transaction of the caller it is him who asks for the lock.
    """
    connection.execute(sql.session.set_lock_timeout(lock_seconds))
    outcomes = [_make_key(connection, key, lock) for key in keys]
    for one in outcomes:
        get_run_logger().info("foreign key %s of %s: %s", one.key.name, one.key.table, one.note)
    return outcomes


def _make_key(connection: Connection, key: ForeignKey, lock: ContextLock | None) -> KeyOutcome:
    for table in filter(None, (key.table, key.references)):
        if not is_there(connection, table):
            return KeyOutcome(key, made=False, note=f"{table} is not there")
    there = connection.execute(sql.foreign_keys.IS_VALIDATED, {"table": key.table, "name": key.name}).fetchall()
    if there and (there[0][0] or key.definition.endswith("NOT VALID")):
        return KeyOutcome(key, made=True, note="was there")
    try:
        with connection.transaction():
            add = sql.foreign_keys.add_key(key.table, key.name, key.definition)
            connection.execute(sql.foreign_keys.validate_key(key.table, key.name) if there else add)
            if key.comment and not there:
                connection.execute(sql.foreign_keys.comment_on_constraint(key.table, key.name, key.comment))
            if lock:
                lock.require_held(f"foreign key {key.name} of {key.table} was made", connection)
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
    return KeyOutcome(key, made=True, note="made")


def _orphaned(connection: Connection, key: ForeignKey) -> KeyOutcome:
    """Say how many rows refer to nothing, and which; the key is made for a moment, unproven, so that it can be asked."""
    count, sample = 0, list[str]()
    # Of a partitioned table leaf by leaf: before 18 it takes no key that is NOT VALID.
    for (leaf,) in connection.execute(sql.foreign_keys.LEAVES, {"table": key.table}).fetchall():
        with connection.transaction(force_rollback=True):
            if not connection.execute(sql.foreign_keys.IS_VALIDATED, {"table": leaf, "name": key.name}).fetchall():
                connection.execute(sql.foreign_keys.add_key(leaf, key.name, key.definition, proven=False))
            query = connection.execute(sql.foreign_keys.ORPHANS_OF_KEY, {"table": leaf, "name": key.name}).fetchall()[0][3]
            try:
                found = offending(connection, query)
            except psycopg.errors.InsufficientPrivilege as error:
                remedy = f'GRANT SELECT ON {key.references} TO "{connection.info.user}"'
                return KeyOutcome(
                    key, made=False, note=f"rows refer to nothing, but not to be counted: {message_of(error)}; {remedy}"
                )
        count, sample = count + found[0], [*sample, *found[1]][:SAMPLE_ROWS]
    return KeyOutcome(key, made=False, note=f"{count:,} rows refer to nothing", orphans=count, sample=sample)


@step
def try_keys(server: Server, run: Run, manifest: Manifest, database: str) -> list[KeyOutcome]:
    """Try again to make the keys within a set that pg_restore could not make, and find out which rows are in the way."""
    with connect(server, database, run.title) as connection:
        return make_keys(connection, own_keys(manifest), LOCK_WAIT_SECONDS)


def without(inventory: Iterable[InventoryItem], outcomes: Iterable[KeyOutcome]) -> list[InventoryItem]:
    """Return an inventory without the foreign keys that could not be made: they are told by themselves."""
    unmade = {(one.key.table, one.key.name) for one in outcomes if not one.made}
    return [item for item in inventory if not (item.kind == "constraint" and (item.parent, sql.names.quoted(item.name)) in unmade)]
