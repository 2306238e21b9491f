"""Old rows that have had their time: found, archived and read back, and only then deleted.

Of each rule rows are found by deleting them and rolling that back, so that whatever refuses one is known before anything is
archived. A row is deleted only as it was archived; what a run that died left undone is done by the next one.
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
from tasks.database.locks import context_lock
from tasks.database.logins import require_temporary
from tasks.database.neighbours import Neighbours
from tasks.database.rows import bases_of_domains, load_rows
from tasks.partitions.transaction import LOCK_SECONDS, session
from tasks.run.run import Run, step
from tasks.run.site import Site
from tasks.sets import stage
from tasks.sets.choose import unfinished_clean_ups
from tasks.sets.manifest import name_of
from tasks.sets.marks import finish_clean_up
from tasks.sets.stage import StagedSet

# Rows that are archived at once; and how long rows are tried in one transaction, while which others may wait for one of them.
FOUND_ROWS = 20_000
TRIAL_SECONDS = 3.0


def require_archivable(site: Site, run: Run, month: datetime) -> None:
    """Find out before any row is tried whether it could be archived, and the long-term backups taken that go before.

    Raises:
        BadInput: this login may not read what that needs, or the store takes no set.
    """
    if not site.context.clean_up:
        return
    require_readable(site, run, read_others=False)
    for job in site.context.long_term:
        if long_term_since(site, job, month) is None:
            require_readable(long_term_site(site, job), run)
    require_writable(site, run, Kind.CLEAN_UP)


def rules_in_order(site: Site, run: Run) -> list[CleanUp]:
    """Return the context's rules, those first whose rows refer to the rows of others."""
    found = [CleanUp(rule) for rule in site.context.clean_up]
    place = {"schema": site.context.namespace, "tables": [one.rule.table for one in found]}
    with session(site, run) as connection:
        pairs = connection.execute(sql.foreign_keys.REFERENCES_AMONG, place).fetchall()
    numbers = range(len(found))
    references = [
        (child, parent) for child in numbers for parent in numbers if (found[child].rule.table, found[parent].rule.table) in pairs
    ]  # fmt: skip
    return [found[number] for group in outcome.groups(numbers, references) for number in sorted(group)]


@contextmanager
def explained(one: CleanUp) -> Iterator[None]:
    """Let what stops a rule stop no other; it is the rule's problem."""
    try:
        yield
    except psycopg.Error as error:
        is_written = (error.sqlstate or "").startswith("42") and not isinstance(error, psycopg.errors.InsufficientPrivilege)
        remedy = "; correct condition, hold or where of its rule in context.yaml" if is_written else ""
        one.problem = f"{message_of(error)}{remedy}"
    except OperationError as error:
        one.problem = str(error)
    except OSError as error:
        one.problem = f"{error.strerror or error}; {MORE_SPACE}"
    if one.problem:
        get_run_logger().error("clean-up of %s: %s", one.rule.table, one.problem)


def clean_up(site: Site, run: Run, one: CleanUp) -> None:
    """Follow a rule: finish what a run before left, then find, archive and delete; what fails is told, and loses nothing."""
    written = set[tuple[str, str]]()
    with explained(one):
        unfinished, damaged = unfinished_clean_ups(site.store, site.context.name, one.rule.table)
        one.notes += [f"{name} is damaged: rows that were deleted before its run died are in it alone" for name in damaged]
        for manifest in unfinished:
            one.notes.append(f"{manifest.id} was archived by a run that did not end")
            delete_archived(site, run, one, manifest, written)
        while _follow(site, run, one, written):
            get_run_logger().info("%s: rows went to which others referred that stayed; once more", one.rule.table)
    vacuum(site, run, one, sorted(written))


def _follow(site: Site, run: Run, one: CleanUp, written: set[tuple[str, str]]) -> bool:
    """Find, archive and delete all that is old now; return whether rows that stay may go the next time."""
    last, more, went, may_go = None, True, False, False
    # What stayed before is looked at again.
    one.stays = {}
    while more:
        subject, found, more = find_rows(site, run, one, last)
        one.took(Removed(stays=found.stays))
        last, may_go = found.last, may_go or found.may_go
        if counted(found.gone):
            manifest = archive_rows(site, run, subject, found.gone)
            removed = delete_archived(site, run, one, manifest, written)
            one.took(Removed(stays=removed.stays))
            went, may_go = went or counted(removed.gone) > 0, may_go or removed.may_go
    return went and may_go


@step(name="find old rows of {one.rule.table}")
def find_rows(site: Site, run: Run, one: CleanUp, last: Sequence[str] | None) -> tuple[Subject, Removed, bool]:
    """Return a rule as the database has it, which rows would go of those after the last one, and whether there are more.

    They are deleted, and all of it is rolled back.
    """
    found, more, deadline = Removed(), True, time.monotonic() + TRIAL_SECONDS
    with (
        context_lock(site.server, site.context.name, run.title),
        session(site, run) as connection,
        connection.transaction(force_rollback=True),
    ):
        require_temporary(connection)
        subject = read_subject(connection, site.context, one.rule, run.started, Neighbours.of(site, run))
        one.cutoff = subject.cutoff
        for removed in sweep(connection, subject, last=last):
            found.add(removed)
            if time.monotonic() > deadline or counted(found.gone) > FOUND_ROWS:
                break
        else:
            more = False
    get_run_logger().info("%s: %d rows are old, %d rows would go", one.rule.table, found.found, counted(found.gone))
    return subject, found, more


def archive_rows(site: Site, run: Run, subject: Subject, gone: Mapping[str, Sequence[Key]]) -> Manifest:
    """Take a set of exactly the rows that would go."""
    why = Occasion(label=f"clean-up of {subject.rule.table}", sort=Kind.CLEAN_UP, only=_keys(subject, gone))
    return take_part(site.narrowed(subject.scope), run, why, read_others=False)


def _keys(subject: Subject, gone: Mapping[str, Sequence[Key]]) -> dict[str, RowKeys]:
    found = dict[str, RowKeys]()
    for oid, leaf in subject.leaves.items():
        if keys := gone.get(leaf.qualified):
            table = subject.tables[subject.tops[oid]]
            columns = list(table.key)
            types = dict(zip(leaf.columns, leaf.types, strict=True))
            found[leaf.qualified] = RowKeys(
                columns, [types[name] for name in columns], list(table.equal), [list(one) for one in zip(*keys, strict=True)]
            )
    return found


@step(name="delete old rows of {one.rule.table}")
def delete_archived(site: Site, run: Run, one: CleanUp, manifest: Manifest, written: set[tuple[str, str]]) -> Removed:
    """Delete the rows of a clean-up set that are still as they were archived, in transactions of some rows each, and count them.

    `written` gets the relations that were written.

    Raises:
        DamagedSet: the set read back is not what was stored; nothing was deleted.
        LostLock: the lock was lost; rows that were deleted before are, and the next run goes on.
    """
    removed, gone = Removed(), dict[str, int]()
    one.sets.append(manifest.id)
    one.notes += staying(manifest.large_objects)
    try:
        staged = stage.stage_newest_good(site.store, run, manifest.id).set
        with (
            context_lock(site.server, site.context.name, run.title, exclusive=True) as lock,
            session(site, run) as connection,
        ):
            subject = read_subject(connection, site.context, one.rule, run.started, Neighbours.of(site, run))
            archived = _stage(connection, subject, staged)
            own = [archived[leaf.oid][0] for leaf in subject.leaves_of(subject.root) if leaf.oid in archived]
            chosen = [sql.deletion.is_staged(subject.root, own)]
            for some in sweep(connection, subject, chosen, archived=archived, lock=lock) if own else ():
                removed.add(some)
                # Told at once: it is done, whatever comes.
                one.took(Removed(gone=some.gone))
                written |= {(leaf.schema, leaf.name) for leaf in subject.leaves.values() if leaf.qualified in some.gone}
            gone = _count_gone(connection, subject, archived)
            lock.require_held(f"{manifest.id} was called done")
    finally:
        shutil.rmtree(run.folder / manifest.id, ignore_errors=True)
    finish_clean_up(site.store, name_of(manifest), {"instant": run.started, "run": run.id, "deleted": gone})
    get_run_logger().info("%d rows deleted that %s has; of %d that it has", counted(removed.gone), manifest.id, manifest.rows)
    return removed


def _count_gone(connection: Connection, subject: Subject, archived: Mapping[int, tuple[int, Sequence[str]]]) -> dict[str, int]:
    """Count by relation the staged rows that are there no longer, whichever run deleted them."""
    found = dict[str, int]()
    for oid, (number, _) in archived.items():
        leaf, table = subject.leaves[oid], subject.tables[subject.tops[oid]]
        asked = sql.deletion.count_gone(table, (leaf.schema, leaf.name), number)
        found[leaf.qualified] = connection.execute(asked).fetchall()[0][0]
    return found


def _stage(connection: Connection, subject: Subject, staged: StagedSet) -> dict[int, tuple[int, Sequence[str]]]:
    """Have the rows of a set in TEMP tables; return by oid of the relation number and columns of its table.

    What has other columns by now is not staged: its rows are not as they were archived.
    """
    leaves = {leaf.qualified: leaf for leaf in subject.leaves.values()}
    found = dict[int, tuple[int, Sequence[str]]]()
    for number, relation in enumerate(staged.manifest.relations):
        leaf = leaves.get(relation.qualified)
        if leaf is None or drift(relation, leaf.columns, leaf.types):
            continue
        bases = bases_of_domains(connection, leaf.oid)
        made = sql.staging.create_staging(number, leaf.schema, leaf.name, relation.columns, leaf.columns, bases)
        execute_written(connection, made, subject.path)
        sources, encoding = staged.sources(relation), staged.manifest.database.encoding
        load_rows(connection, relation, sources, encoding, into=sql.staging.staging_place(number))
        connection.execute(sql.staging.analyze_temp(sql.staging.STAGED.format(number)))
        found[leaf.oid] = number, relation.columns
    return found


@step(name="vacuum {one.rule.table}")
def vacuum(site: Site, run: Run, one: CleanUp, relations: Sequence[tuple[str, str]]) -> None:
    """Make the room of deleted rows usable, and gather statistics; where that fails, the rows are deleted all the same."""
    try:
        with session(site, run) as connection:
            connection.execute(sql.session.set_lock_timeout(LOCK_SECONDS))
            for schema, name in relations:
                one.notes += [f"VACUUM of {schema}.{name} failed: {said}" for said in _failure_of_vacuum(connection, schema, name)]
    except OperationError as error:
        one.notes.append(f"VACUUM failed: {error}")


def _failure_of_vacuum(connection: Connection, schema: str, name: str) -> list[str]:
    try:
        connection.execute(sql.deletion.vacuum(schema, name))
    except psycopg.Error as error:
        if connection.broken:
            raise
        return [message_of(error)]
    return []
