"""Partitions whose period is over, compared with the newest good set in `comparison_seconds`.

All their rows are read, one partition after the other, under one snapshot. Rows of the set are
downloaded only for a partition that differs, to find out which rows differ.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import psycopg
import zstandard

from tasks.checks.integrity import SAMPLE_ROWS
from tasks.core import sql
from tasks.core.backup.row_loss import CleanedUp, cleaned_since
from tasks.core.checks.definition import Finding, Severity, Verdict
from tasks.core.checks.partitions import PARTITIONS, PartitionFinding, RowDifferences, judge_partitions
from tasks.core.checks.record import CheckRecord
from tasks.core.checks.rotation import Rotation
from tasks.core.context import Context
from tasks.core.context_keys import PartitionRule
from tasks.core.errors import BadInput, OperationError
from tasks.core.partitions.timeline import Partition, is_frozen, is_over, unfinished_detach
from tasks.core.postgres.connection import Connection, Server
from tasks.core.postgres.messages import message_of
from tasks.core.rows.bag import RowBag
from tasks.core.rows.digest import RowDigest
from tasks.core.rows.job import StreamJob
from tasks.core.rows.stream import digest_relation, row_blocks, seeing
from tasks.core.sets.manifest import Manifest, Relation
from tasks.database import catalog
from tasks.database.catalog import Member
from tasks.database.partitions import below_each, read_division
from tasks.database.rows import reading_job
from tasks.run.run import Run, step
from tasks.sets.choose import departed_sets, good_sets
from tasks.sets.records import read_records
from tasks.sets.stage import stage_relations
from tasks.store.address import StoreAddress

# How long to wait for the lock on a partition.
LOCK_SECONDS = 1.0
SHORTEST_SECONDS = 0.01
# 32 bytes of memory each; if there are more, only their numbers are compared.
MOST_ROWS = 20_000_000
PAST_SECONDS = (TimeoutError, psycopg.errors.QueryCanceled)


@dataclass(frozen=True)
class Subject:
    """A partition whose period is over, with its leaf partitions and their relations in the set.

    `why` is the reason if the partition cannot be compared.
    """

    partition: Partition
    is_frozen: bool
    leaves: Sequence[tuple[Member, Relation]] = ()
    why: str = ""


@dataclass(frozen=True)
class Comparing:
    """A comparison's session and sets, newest good first; `deadline` is of the monotonic clock."""

    connection: Connection
    database: str
    run: Run
    store: StoreAddress
    sets: Sequence[Manifest]
    cleaned: Sequence[CleanedUp]
    rotation: Rotation
    seconds: int
    deadline: float

    @property
    def manifest(self) -> Manifest:
        """The newest good set."""
        return self.sets[0]

    @property
    def over(self) -> str:
        """The reason given for partitions that are not compared when the time limit is reached."""
        return f"the limit of {self.seconds} s (`comparison_seconds`) was reached"

    @property
    def is_over(self) -> bool:
        """Whether the time limit is reached."""
        return time.monotonic() >= self.deadline

    def reading(self, relation: Relation) -> StreamJob:
        """Return the job that reads a relation, and limit the time of the next statement."""
        left = max(self.deadline - time.monotonic(), SHORTEST_SECONDS)
        self.connection.execute(sql.session.limit_statements(left))
        return reading_job(self.database, self.run, relation, self.manifest.database.encoding)


@step
def compare_past_partitions(
    server: Server, database: str, run: Run, context: Context, store: StoreAddress, timeout_seconds: float
) -> tuple[list[Finding], Rotation]:  # fmt: skip
    """Compare past partitions with the newest good set, those compared longest ago first.

    Returns a finding (none if the context has no partitions), and the rotation to store in the
    record of the check.
    """
    rotation = Rotation()
    if not context.partitions:
        return [], rotation
    try:
        for record in read_records(store, context.name, CheckRecord, lambda keys: keys[:1]):
            rotation = record.partitions
        if not (sets := good_sets(store, context.name)):
            note = f"no good backup set of the context in {store.url}"
            return [Finding(PARTITIONS, Severity.ERROR, Verdict.NOT_RUN, note=note)], rotation
        _, cleaned = departed_sets(store, context.name)
        with seeing(server, database, run.title, None, []) as connection:
            connection.execute(sql.session.limit_statements(timeout_seconds))
            connection.execute(sql.partitions.limit_waiting(LOCK_SECONDS))
            subjects = [*chain.from_iterable(_subjects(connection, context, rule, sets[0], run) for rule in context.partitions)]
            seconds = context.comparison_seconds
            before = connection, database, run, store, sets, cleaned, rotation, seconds
            return _compare_in_turn(Comparing(*before, time.monotonic() + seconds), subjects)
    except (OperationError, psycopg.Error) as error:
        note = message_of(error) if isinstance(error, psycopg.Error) else str(error)
        return [Finding(PARTITIONS, Severity.ERROR, Verdict.BROKEN, note=note)], rotation


def _subjects(
    connection: Connection, context: Context, rule: PartitionRule, manifest: Manifest, run: Run
) -> Iterator[Subject]:  # fmt: skip
    try:
        division = read_division(connection, context, rule)
    except BadInput as error:
        yield Subject(Partition(0, context.namespace, rule.table, "", 0), is_frozen=False, why=str(error))
        return
    over = [partition for partition in division.partitions if is_over(partition, run.started)]
    known = {relation.qualified: relation for relation in manifest.relations}
    tree = below_each(catalog.read_relations(connection, context), (partition.oid for partition in over))
    for partition, members in zip(over, tree, strict=True):
        leaves = [member for member in members if member.kind != "p"]
        why = _why_not((context.namespace, rule.table), partition, leaves, known, manifest.id)
        pairs = [] if why else [(leaf, known[leaf.qualified]) for leaf in leaves]
        yield Subject(partition, is_frozen(rule, partition, run.started, division.zone), pairs, why)


def _why_not(
    table: tuple[str, str], partition: Partition, leaves: Sequence[Member], known: Mapping[str, Relation], set_id: str
) -> str:
    """Return why a partition cannot be compared with a set, or nothing."""
    if partition.detach_pending:
        return str(unfinished_detach(table, (partition.schema, partition.name)))
    for leaf in leaves:
        if (relation := known.get(leaf.qualified)) is None:
            return f"{set_id} lacks one of its partitions"
        types = dict(zip(leaf.columns, leaf.types, strict=True))
        if relation.types and any(types.get(name) != kind for name, kind in zip(relation.columns, relation.types, strict=True)):
            return f"its columns differ from those in {set_id}"
        if not {*relation.columns} <= {*leaf.columns}:
            return f"it lacks columns that {set_id} has"
    return ""


def _compare_in_turn(comparing: Comparing, subjects: Sequence[Subject]) -> tuple[list[Finding], Rotation]:
    started, by_name = time.monotonic(), {subject.partition.qualified: subject for subject in subjects}
    findings, tried, rotation = list[PartitionFinding](), list[str](), comparing.rotation
    for name in rotation.ordered(by_name, now := comparing.run.started):
        subject = by_name[name]
        cleaned = _cleaned(comparing, subject, comparing.manifest)
        finding = PartitionFinding(name, subject.is_frozen, subject.why, cleaned=cleaned, last=rotation.last(name))
        if not subject.why and comparing.is_over:
            finding = replace(finding, why=comparing.over)
        elif not subject.why:
            tried.append(name)
            finding = _compare(comparing, subject, finding)
        findings.append(finding)
    compared = [finding.name for finding in findings if finding.is_compared]
    agreed = {finding.name: comparing.manifest.id for finding in findings if finding.is_equal}
    after = rotation.after(by_name, tried, compared, agreed, now)
    overdue = after.overdue([finding.name for finding in findings if finding.why == comparing.over], now)
    seconds = time.monotonic() - started
    return [judge_partitions(comparing.manifest.id, findings, overdue, seconds, SAMPLE_ROWS)], after


def _cleaned(comparing: Comparing, subject: Subject, since: Manifest) -> int:
    """Return how many rows of a partition clean-ups archived since a set was taken."""
    counts = cleaned_since(since, comparing.cleaned)
    return sum(counts[relation.qualified] for _, relation in subject.leaves)


def _compare(comparing: Comparing, subject: Subject, finding: PartitionFinding) -> PartitionFinding:
    """Compare a partition's row count and digest, leaves together; if they differ, each row."""
    connection, then, now = comparing.connection, RowDigest(), RowDigest()
    try:
        with connection.transaction():
            for _, relation in subject.leaves:
                then.include(_digest_of(relation))
                now.include(digest_relation(connection, comparing.reading(relation)))
            finding = replace(finding, rows=(then.rows, now.rows))
            if (then.rows, then.hex) == (now.rows, now.hex):
                return _compare_sets(comparing, subject, finding, now)
            if max(then.rows, now.rows) > MOST_ROWS:
                return replace(finding, why=f"there are more than {MOST_ROWS:,} rows")
            return replace(finding, differences=_differences_of_rows(comparing, subject.leaves))
    except PAST_SECONDS:
        return replace(finding, why=comparing.over)
    except (OperationError, psycopg.Error, zstandard.ZstdError) as error:
        if connection.broken:
            raise
        return replace(finding, why=message_of(error) if isinstance(error, psycopg.Error) else str(error))


def _digest_of(relation: Relation) -> RowDigest:
    return RowDigest(relation.rows, int(relation.digest, 16))


def _compare_sets(comparing: Comparing, subject: Subject, finding: PartitionFinding, now: RowDigest) -> PartitionFinding:
    """Compare the newest good set, which a partition equals, with the set that it equaled before.

    This finds a change that was backed up between two checks. Only number and digest of the rows
    are compared.
    """
    agreed = comparing.rotation.agreed.get(finding.name)
    earlier = next((manifest for manifest in comparing.sets[1:] if manifest.id == agreed), None)
    known, then = {relation.qualified: relation for relation in earlier.relations} if earlier else {}, RowDigest()
    for _, relation in subject.leaves:
        was = known.get(relation.qualified)
        if was is None or (was.columns, was.types) != (relation.columns, relation.types):
            return finding
        then.include(_digest_of(was))
    if earlier is None or (then.rows, then.hex) == (now.rows, now.hex):
        return finding
    why = f"{comparing.manifest.id} has the present rows, but {earlier.id}, which was equal at an earlier check, has other rows"
    cleaned = _cleaned(comparing, subject, earlier)
    changed = replace(finding, rows=(then.rows, now.rows), cleaned=cleaned, why=why)
    return changed if changed.is_grave else finding


def _differences_of_rows(comparing: Comparing, leaves: Sequence[tuple[Member, Relation]]) -> RowDifferences:
    """Count rows by key: only in the set, different, and only in the database.

    Raises:
        TimeoutError, psycopg.errors.QueryCanceled: the time limit is reached.
        OperationError, zstandard.ZstdError: the rows of the set cannot be read.
    """
    connection, then, now = comparing.connection, RowBag(), RowBag()
    facts = catalog.dicts(connection, sql.staging.MERGE_FACTS, {"oids": [leaf.oid for leaf, _ in leaves]})
    keys = {row["oid"]: row["key"] for row in facts}
    relations = [relation for _, relation in leaves]
    with stage_relations(comparing.store, comparing.run, comparing.manifest, relations) as staged:
        for leaf, relation in leaves:
            # If the set lacks a column of the key, its rows have no key.
            is_known = {*keys[leaf.oid]} <= {*relation.columns}
            key = [relation.columns.index(name) for name in keys[leaf.oid]] if is_known else []
            for rows in (batch for source in staged.sources(relation) for batch in source.batches()):
                if comparing.is_over:
                    raise TimeoutError
                then.add(rows, key)
            for rows, _ in row_blocks(connection, comparing.reading(relation)):
                now.add(rows, key)
    lost, only_then = then.keys.beyond(now.keys), then.rows.beyond(now.rows)
    return RowDifferences(lost, only_then - lost, now.rows.beyond(then.rows) - (only_then - lost))
