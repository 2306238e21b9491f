"""Following the rules of a clean-up: old rows are found, archived, read back, and then deleted.

The rows of a rule are found by deleting them and rolling back, so that every refusal is known
before anything is archived. A row is deleted only if it is still as it was archived. If a run is
interrupted, the next one finishes its work.
"""

import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime

import psycopg
from prefect import get_run_logger

from tasks.backup.long_term import long_term_since, long_term_site
from tasks.backup.source import require_readable
from tasks.backup.take import Occasion, require_writable, take_part
from tasks.clean_up.delete import sweep
from tasks.clean_up.subject import Subject, read_subject
from tasks.core import sql
from tasks.core.clean_up import outcome
from tasks.core.clean_up.outcome import CleanUp, Key, Removed, counted
from tasks.core.errors import OperationError
from tasks.core.in_place.plan import drift
from tasks.core.postgres.connection import Connection
from tasks.core.postgres.messages import message_of
from tasks.core.postgres.source_path import execute_written
from tasks.core.rows.job import RowKeys
from tasks.core.rows.stream import MORE_SPACE
from tasks.core.sets.large_objects import staying
from tasks.core.sets.manifest import Manifest
from tasks.core.sets.name import Kind
from tasks.database.loading import load_rows
from tasks.database.locks import context_lock
from tasks.database.logins import require_temporary
from tasks.database.neighbours import Neighbours
from tasks.database.rows import bases_of_domains
from tasks.partitions.transaction import LOCK_SECONDS, session
from tasks.run.run import Run, step
from tasks.run.site import Site
from tasks.sets import stage
from tasks.sets.choose import unfinished_clean_ups
from tasks.sets.manifest import name_of
from tasks.sets.marks import finish_clean_up
from tasks.sets.stage import StagedSet

# Rows that are archived in one set; and the seconds that rows are tried in one transaction, for
# which other sessions may have to wait.
FOUND_ROWS = 20_000
TRIAL_SECONDS = 3.0


def require_archivable(site: Site, run: Run, month: datetime) -> None:
    """Check, before rows are tried, that they can be archived and long-term backups be taken.

    Raises:
        BadInput: this login lacks a privilege to read for that, or the store cannot be written.
    """
    if not site.context.clean_up:
        return
    require_readable(site, run, read_others=False)
    for job in site.context.long_term:
        if long_term_since(site, job, month) is None:
            require_readable(long_term_site(site, job), run)
    require_writable(site, run, Kind.CLEAN_UP)


def rules_in_order(site: Site, run: Run) -> list[CleanUp]:
    """Return the context's rules, ordered so that referencing rows are deleted first."""
    clean_ups = [CleanUp(rule) for rule in site.context.clean_up]
    place = {"schema": site.context.namespace, "tables": [clean_up.rule.table for clean_up in clean_ups]}
    with session(site, run) as connection:
        pairs = connection.execute(sql.foreign_keys.REFERENCES_AMONG, place).fetchall()
    numbers = range(len(clean_ups))
    references = [
        (child, parent)
        for child in numbers
        for parent in numbers
        if (clean_ups[child].rule.table, clean_ups[parent].rule.table) in pairs
    ]
    return [clean_ups[number] for group in outcome.groups(numbers, references) for number in sorted(group)]


@contextmanager
def explained(clean_up: CleanUp) -> Iterator[None]:
    """Record an error that stops a rule as its problem: the other rules are still followed."""
    try:
        yield
    except psycopg.Error as error:
        is_written = (error.sqlstate or "").startswith("42") and not isinstance(error, psycopg.errors.InsufficientPrivilege)
        remedy = "; correct `condition`, `hold` or `where` of the rule in context.yaml" if is_written else ""
        clean_up.problem = f"{message_of(error)}{remedy}"
    except OperationError as error:
        clean_up.problem = str(error)
    except OSError as error:
        clean_up.problem = f"{error.strerror or error}; {MORE_SPACE}"
    if clean_up.problem:
        get_run_logger().error("clean-up of %s: %s", clean_up.rule.table, clean_up.problem)


def clean_up(site: Site, run: Run, followed: CleanUp) -> None:
    """Follow a rule: finish the work of an interrupted run, then find, archive and delete old rows.

    A failure is reported, and loses no row.
    """
    written = set[tuple[str, str]]()
    with explained(followed):
        unfinished, damaged = unfinished_clean_ups(site.store, site.context.name, followed.rule.table)
        followed.notes += [f"{name} is damaged, and no other set has the rows that its interrupted run deleted" for name in damaged]
        for manifest in unfinished:
            followed.notes.append(f"{manifest.id} was archived by a run that did not finish")
            delete_archived(site, run, followed, manifest, written)
        while _follow(site, run, followed, written):
            get_run_logger().info(
                "%s: rows stayed only because of rows that are deleted now; trying them again", followed.rule.table
            )
    vacuum(site, run, followed, sorted(written))


def _follow(site: Site, run: Run, clean_up: CleanUp, written: set[tuple[str, str]]) -> bool:
    """Find, archive and delete old rows; return whether another pass may delete those that stay."""
    last, has_more, any_deleted, may_go = None, True, False, False
    # Rows that stayed in an earlier pass are tried again.
    clean_up.stays = {}
    while has_more:
        subject, result, has_more = find_rows(site, run, clean_up, last)
        clean_up.record(Removed(stays=result.stays))
        last, may_go = result.last, may_go or result.may_go
        if counted(result.deleted):
            manifest = archive_rows(site, run, subject, result.deleted)
            removed = delete_archived(site, run, clean_up, manifest, written)
            clean_up.record(Removed(stays=removed.stays))
            any_deleted, may_go = any_deleted or counted(removed.deleted) > 0, may_go or removed.may_go
    return any_deleted and may_go


@step(name="find old rows of {clean_up.rule.table}")
def find_rows(site: Site, run: Run, clean_up: CleanUp, last: Sequence[str] | None) -> tuple[Subject, Removed, bool]:
    """Return the rule's tables, the next old rows that can be deleted, and whether more follow.

    The rows are deleted for a try, and the transaction is rolled back.
    """
    result, has_more, deadline = Removed(), True, time.monotonic() + TRIAL_SECONDS
    with (
        context_lock(site.server, site.context.name, run.title),
        session(site, run) as connection,
        connection.transaction(force_rollback=True),
    ):
        require_temporary(connection)
        subject = read_subject(connection, site.context, clean_up.rule, run.started, Neighbours.of(site, run))
        clean_up.cutoff = subject.cutoff
        for removed in sweep(connection, subject, last=last):
            result.add(removed)
            if time.monotonic() > deadline or counted(result.deleted) > FOUND_ROWS:
                break
        else:
            has_more = False
    get_run_logger().info("%s: %d rows are old, %d would be deleted", clean_up.rule.table, result.examined, counted(result.deleted))
    return subject, result, has_more


def archive_rows(site: Site, run: Run, subject: Subject, deleted: Mapping[str, Sequence[Key]]) -> Manifest:
    """Take a set of exactly the rows that would be deleted."""
    occasion = Occasion(label=f"clean-up of {subject.rule.table}", sort=Kind.CLEAN_UP, only=_keys(subject, deleted))
    return take_part(site.narrowed(subject.scope), run, occasion, read_others=False)


def _keys(subject: Subject, deleted: Mapping[str, Sequence[Key]]) -> dict[str, RowKeys]:
    keys_by_relation = dict[str, RowKeys]()
    for oid, leaf in subject.leaves.items():
        if keys := deleted.get(leaf.qualified):
            table = subject.tables[subject.tops[oid]]
            columns = list(table.key)
            types = dict(zip(leaf.columns, leaf.types, strict=True))
            keys_by_relation[leaf.qualified] = RowKeys(
                columns, [types[name] for name in columns], list(table.equal), [list(values) for values in zip(*keys, strict=True)]
            )
    return keys_by_relation


@step(name="delete old rows of {clean_up.rule.table}")
def delete_archived(site: Site, run: Run, clean_up: CleanUp, manifest: Manifest, written: set[tuple[str, str]]) -> Removed:
    """Delete a clean-up set's rows that are still as archived, in batches, and count them.

    The relations from which rows were deleted are added to `written`.

    Raises:
        DamagedSet: the set differs from what was stored, when it was read back; nothing was
            deleted.
        LostLock: the context's lock was lost; rows deleted before that stay deleted, and the next
            run continues.
    """
    removed, deleted = Removed(), dict[str, int]()
    clean_up.sets.append(manifest.id)
    clean_up.notes += staying(manifest.large_objects)
    try:
        staged = stage.stage_newest_good(site.store, run, manifest.id).set
        with (
            context_lock(site.server, site.context.name, run.title, exclusive=True) as lock,
            session(site, run) as connection,
        ):
            subject = read_subject(connection, site.context, clean_up.rule, run.started, Neighbours.of(site, run))
            archived = _stage(connection, subject, staged)
            own = [archived[leaf.oid][0] for leaf in subject.leaves_of(subject.root) if leaf.oid in archived]
            chosen = [sql.deletion.is_staged(subject.root, own)]
            for batch in sweep(connection, subject, chosen, archived=archived, lock=lock) if own else ():
                removed.add(batch)
                # Recorded at once: the rows are deleted, even if a later step fails.
                clean_up.record(Removed(deleted=batch.deleted))
                written |= {(leaf.schema, leaf.name) for leaf in subject.leaves.values() if leaf.qualified in batch.deleted}
            deleted = _count_deleted(connection, subject, archived)
            lock.require_held(f"{manifest.id} was marked as done")
    finally:
        shutil.rmtree(run.folder / manifest.id, ignore_errors=True)
    finish_clean_up(site.store, name_of(manifest), {"instant": run.started, "run": run.id, "deleted": deleted})
    get_run_logger().info("%d rows of %s deleted, of %d in that set", counted(removed.deleted), manifest.id, manifest.rows)
    return removed


def _count_deleted(connection: Connection, subject: Subject, archived: Mapping[int, tuple[int, Sequence[str]]]) -> dict[str, int]:
    """Count the staged rows that no longer exist, by relation, also those deleted earlier."""
    counts = dict[str, int]()
    for oid, (number, _) in archived.items():
        leaf, table = subject.leaves[oid], subject.tables[subject.tops[oid]]
        statement = sql.deletion.count_gone(table, (leaf.schema, leaf.name), number)
        counts[leaf.qualified] = connection.execute(statement).fetchall()[0][0]
    return counts


def _stage(connection: Connection, subject: Subject, staged: StagedSet) -> dict[int, tuple[int, Sequence[str]]]:
    """Load the rows of a set into TEMP tables.

    Return, by oid of a relation, the number of its TEMP table and its columns. A relation whose
    columns changed is not staged: its rows are not as they were archived.
    """
    leaves = {leaf.qualified: leaf for leaf in subject.leaves.values()}
    staged_tables = dict[int, tuple[int, Sequence[str]]]()
    for number, relation in enumerate(staged.manifest.relations):
        leaf = leaves.get(relation.qualified)
        if leaf is None or drift(relation, leaf.columns, leaf.types):
            continue
        bases = bases_of_domains(connection, leaf.oid)
        statement = sql.staging.create_staging(number, leaf.schema, leaf.name, relation.columns, leaf.columns, bases)
        execute_written(connection, statement, subject.path)
        sources, encoding = staged.sources(relation), staged.manifest.database.encoding
        load_rows(connection, relation, sources, encoding, subject.path, into=sql.staging.staging_place(number))
        connection.execute(sql.staging.analyze_temp(sql.staging.STAGED.format(number)))
        staged_tables[leaf.oid] = number, relation.columns
    return staged_tables


@step(name="vacuum {clean_up.rule.table}")
def vacuum(site: Site, run: Run, clean_up: CleanUp, relations: Sequence[tuple[str, str]]) -> None:
    """Vacuum and analyze relations with deleted rows; a failure is only reported."""
    try:
        with session(site, run) as connection:
            connection.execute(sql.session.set_lock_timeout(LOCK_SECONDS))
            for schema, name in relations:
                clean_up.notes += [
                    f"VACUUM of {schema}.{name} failed: {message}" for message in _failure_of_vacuum(connection, schema, name)
                ]
    except OperationError as error:
        clean_up.notes.append(f"VACUUM failed: {error}")


def _failure_of_vacuum(connection: Connection, schema: str, name: str) -> list[str]:
    try:
        connection.execute(sql.deletion.vacuum(schema, name))
    except psycopg.Error as error:
        if connection.broken:
            raise
        return [message_of(error)]
    return []
