"""Changing objects back to what the set has, as far as requested, in the restore's transaction."""

from collections.abc import Iterator

import psycopg

from tasks.core import sql
from tasks.core.database import facts
from tasks.core.database.comparison import named
from tasks.core.database.objects import TABLES
from tasks.core.errors import OperationError, RestoreDiffers
from tasks.core.in_place.objects import Finding, How, ObjectChange
from tasks.core.in_place.remedies import drops
from tasks.core.postgres.messages import message_of
from tasks.core.postgres.source_path import execute_written
from tasks.core.sql.names import split_name
from tasks.in_place import differences
from tasks.in_place.detached import lacking
from tasks.in_place.objects import dropped_last
from tasks.in_place.session import Merge
from tasks.sets.texts import understood_default

# Such objects are dropped with everything in them after an undo has written its rows.
HOLDERS = TABLES | {"function", "type", "sequence", "schema"}


def make_way(merge: Merge) -> None:
    """Drop what will be re-created, and any NOT NULL or wrong bound that would refuse rows."""
    _attach_referenced(merge)
    for item in _dropped(merge):
        _execute(merge, item, drops(item.item))
    # Constraints on rows, and readers, are dropped first; parts of a table are dropped with it.
    _settle(merge, [drop for drop in merge.drops if drop.item.kind not in HOLDERS])
    for finding in _altered(merge):
        if finding.remedy.before:
            _execute(merge, finding, finding.remedy.before)
        if finding.difference.fact.endswith(facts.NOT_NULL) and not finding.difference.was:
            _execute(merge, finding, finding.remedy.statement)


def _attach_referenced(merge: Merge) -> None:
    """Attach complete detached partitions before rows are written that may refer to theirs."""
    attaching = [finding for finding in merge.findings if finding.remedy.how is How.ATTACH]
    tables = {"names": sorted({merge.moved[finding.item.name].parent for finding in attaching})}
    if merge.connection.execute(sql.partitions.REFERENCED, tables).fetchall():
        complete = [finding for finding in attaching if not lacking(merge, finding.item.name)]
        refused = [finding for finding, _ in _settle(merge, complete)]
        merge.attached = [finding for finding in complete if finding not in refused]


def _dropped(merge: Merge) -> Iterator[Finding]:
    """Yield objects to drop before rows are written, without those dropped with another or last."""
    chosen = [finding for finding in merge.findings if finding.is_done and finding.remedy.how is How.ANEW]
    last, identities = {item.identity for item in dropped_last(merge)}, {finding.item.identity for finding in chosen}
    parents = {item.name: item.parent for item in merge.inventory}
    for identity in dict.fromkeys(finding.item.identity for finding in chosen):
        kind, parent, name = identity
        goes_with_parents = parents.get(parent) and (kind, parents[parent], name) in identities
        if identity not in last and not goes_with_parents:
            yield next(finding for finding in chosen if finding.item.identity == identity)


def _altered(merge: Merge) -> list[Finding]:
    """Return the objects to alter; of re-created ones only checks, for their comments."""
    again = {finding.item.identity for finding in merge.findings if finding.is_done and finding.remedy.how is How.ANEW}
    return [
        finding
        for finding in merge.findings
        if finding.is_done
        and finding.remedy.how in {How.ALTER, How.REBUILD, How.ATTACH, How.DETACH}
        and (finding.item.identity not in again or finding.difference.fact == facts.COMMENT)
        and finding not in merge.attached
        and not _comes_with_parent(merge, finding)
    ]


def _comes_with_parent(merge: Merge, finding: Finding) -> bool:
    """Return whether NOT NULL comes with that of the table from which a column is inherited; set by itself, it would be its own."""
    if not finding.difference.fact.endswith(facts.NOT_NULL) or not finding.difference.was:
        return False
    above = {*finding.item.parent.split(",")}
    return any(
        other.is_done and other.item.name in above and other.difference.fact == finding.difference.fact for other in merge.findings
    )


def set_back(merge: Merge) -> None:
    """Alter the objects that differ from the set.

    A statement that depends on another one is retried after it.

    Raises:
        OperationError: an object cannot be changed back.
    """
    # A partition is attached with its own partitions, so that its indexes are valid.
    deepest_first = sorted(_altered(merge), key=lambda finding: -_depth(merge, finding.item.name))
    for finding, error in _settle(merge, [*merge.drops, *deepest_first]):
        raise _refused(merge, finding, error)


def _depth(merge: Merge, name: str) -> int:
    """Return below how many partitions, themselves to be attached, a partition is."""
    parent = merge.moved[name].parent if name in merge.moved else ""
    return 1 + _depth(merge, parent) if parent in merge.moved else 0


def _settle(merge: Merge, left: list[Finding]) -> list[tuple[Finding, psycopg.Error]]:
    """Run statements; repeat refused ones as long as others succeed; return the final refusals."""
    while left:
        refused = [(finding, error) for finding in left if (error := _try(merge, finding))]
        if len(refused) == len(left):
            return refused
        left = [finding for finding, _ in refused]
    return []


def _try(merge: Merge, finding: Finding) -> psycopg.Error | None:
    fact, statement = finding.difference.fact, finding.remedy.statement
    if fact.endswith(facts.DEFAULT) and finding.difference.was:
        where = f"{merge.manifest.id}: inventory: {finding.item.name}: {fact}"
        column = sql.names.unquoted(fact.removeprefix("column ").rpartition(": ")[0])
        understood_default(merge.connection, where, split_name(finding.item.name), column, finding.difference.was)
    try:
        with merge.connection.transaction():
            execute_written(merge.connection, sql.staging.as_written(statement), merge.path)
    except psycopg.Error as error:
        if merge.connection.broken:
            raise
        return error
    return None


def _execute(merge: Merge, finding: Finding, statement: str) -> None:
    try:
        execute_written(merge.connection, sql.staging.as_written(statement), merge.path)
    except psycopg.Error as error:
        if merge.connection.broken:
            raise
        raise _refused(merge, finding, error) from None


def _refused(merge: Merge, finding: Finding, error: psycopg.Error) -> OperationError:
    return OperationError(
        f'database "{merge.site.database}" is unchanged: {finding.difference.line}, and cannot be '
        f"changed back: {message_of(error)}; "
        f"fix that, or pass objects=plan; by hand: {finding.remedy.by_hand}"
    )


def left_over(merge: Merge) -> list[ObjectChange]:
    """Return the objects that still differ from the set after writing; views are refreshed later.

    Raises:
        RestoreDiffers: an object could not be dropped or created.
    """
    missing = {item.identity for item in merge.missing}
    findings = differences.find_now(merge)
    if kept := [named(finding.item) for finding in findings if finding.remedy.how is How.DROP]:
        raise RestoreDiffers(f'database "{merge.site.database}" is unchanged: {"; ".join(kept[:10])} could not be dropped')
    if gone := [named(finding.item) for finding in findings if finding.difference.now is None and finding.item.identity in missing]:
        raise RestoreDiffers(f'database "{merge.site.database}" is unchanged: {"; ".join(gone[:10])} could not be created')
    return [_left(finding) for finding in findings if finding.remedy.how is not How.REFRESH]


def _left(finding: Finding) -> ObjectChange:
    return ObjectChange(finding.difference.line, finding.change.severity, finding.change.remedy, is_done=False)
