"""Objects that differ from a set's set back in the transaction of the merge, as far as it was asked for."""

from collections.abc import Iterator

import psycopg

from tasks.core import sql
from tasks.core.database import facts
from tasks.core.database.comparison import named
from tasks.core.database.objects import TABLES
from tasks.core.errors import OperationError, RestoreDiffers
from tasks.core.in_place.objects import Found, How, ObjectChange
from tasks.core.in_place.remedies import drops
from tasks.core.postgres.messages import message_of
from tasks.core.postgres.source_path import execute_written
from tasks.core.sql.names import split_name
from tasks.in_place import differences
from tasks.in_place.objects import dropped_last
from tasks.in_place.session import Merge
from tasks.sets.texts import understood_default

# What goes when an undo has written its rows, with all that is of it.
HOLDERS = TABLES | {"function", "type", "sequence", "schema"}


def make_way(merge: Merge) -> None:
    """Drop what is made again, and lift what would refuse rows of the set: a NOT NULL that it does not have, a wrong bound."""
    for item in _dropped(merge):
        _execute(merge, item, drops(item.item))
    # What forbids rows, or reads them, goes before these come back; what goes with its table is left to that.
    _settle(merge, [one for one in merge.drops if one.item.kind not in HOLDERS])
    for one in _altered(merge):
        if one.remedy.before:
            _execute(merge, one, one.remedy.before)
        if one.difference.fact.endswith(facts.NOT_NULL) and not one.difference.was:
            _execute(merge, one, one.remedy.statement)


def _dropped(merge: Merge) -> Iterator[Found]:
    """Yield what is dropped now: not what goes with its parent's, nor keys to other contexts, which come last."""
    chosen = [one for one in merge.found if one.is_done and one.remedy.how is How.ANEW]
    last, identities = {item.identity for item in dropped_last(merge)}, {one.item.identity for one in chosen}
    parents = {item.name: item.parent for item in merge.inventory}
    for identity in dict.fromkeys(one.item.identity for one in chosen):
        kind, parent, name = identity
        goes_with_parents = parents.get(parent) and (kind, parents[parent], name) in identities
        if identity not in last and not goes_with_parents:
            yield next(one for one in chosen if one.item.identity == identity)


def _altered(merge: Merge) -> list[Found]:
    """Return what is altered; what is made again has all that is said of it but a comment, if it is a check."""
    again = {one.item.identity for one in merge.found if one.is_done and one.remedy.how is How.ANEW}
    return [
        one for one in merge.found
        if one.is_done and one.remedy.how in {How.ALTER, How.REBUILD}
        and (one.item.identity not in again or one.difference.fact == facts.COMMENT)
    ]  # fmt: skip


def set_back(merge: Merge) -> None:
    """Alter what is not as in the set; what needs another first is tried again after it.

    Raises:
        OperationError: an object cannot be set back.
    """
    for one, error in _settle(merge, [*merge.drops, *_altered(merge)]):
        raise _refused(merge, one, error)


def _settle(merge: Merge, left: list[Found]) -> list[tuple[Found, psycopg.Error]]:
    """Run statements, each again after others as long as that helps; return those that are refused, and why."""
    while left:
        refused = [(one, error) for one in left if (error := _try(merge, one))]
        if len(refused) == len(left):
            return refused
        left = [one for one, _ in refused]
    return []


def _try(merge: Merge, one: Found) -> psycopg.Error | None:
    fact, statement = one.difference.fact, one.remedy.statement
    if fact.endswith(facts.DEFAULT) and one.difference.was:
        where = f"{merge.manifest.id}: inventory: {one.item.name}: {fact}"
        column = sql.names.unquoted(fact.removeprefix("column ").rpartition(": ")[0])
        understood_default(merge.connection, where, split_name(one.item.name), column, one.difference.was)
    try:
        with merge.connection.transaction():
            execute_written(merge.connection, sql.staging.as_written(statement), merge.path)
    except psycopg.Error as error:
        if merge.connection.broken:
            raise
        return error
    return None


def _execute(merge: Merge, one: Found, statement: str) -> None:
    try:
        execute_written(merge.connection, sql.staging.as_written(statement), merge.path)
    except psycopg.Error as error:
        if merge.connection.broken:
            raise
        raise _refused(merge, one, error) from None


def _refused(merge: Merge, one: Found, error: psycopg.Error) -> OperationError:
    return OperationError(
        f'database "{merge.site.database}" is as it was: {one.difference.line}, and cannot be set back: {message_of(error)}; '
        f"mend that, or say objects=plan; by hand: {one.remedy.by_hand}"
    )


def left_over(merge: Merge) -> list[ObjectChange]:
    """Return what is not as in the set now that all is written; views are still to be computed.

    Raises:
        RestoreDiffers: what was to be made is not there.
    """
    missing = {item.identity for item in merge.missing}
    found = differences.find_now(merge)
    if kept := [named(one.item) for one in found if one.remedy.how is How.DROP]:
        raise RestoreDiffers(f'database "{merge.site.database}" is as it was: {"; ".join(kept[:10])} could not be dropped')
    if gone := [named(one.item) for one in found if one.difference.now is None and one.item.identity in missing]:
        raise RestoreDiffers(f'database "{merge.site.database}" is as it was: {"; ".join(gone[:10])} could not be made')
    return [_left(one) for one in found if one.remedy.how is not How.REFRESH]


def _left(one: Found) -> ObjectChange:
    return ObjectChange(one.difference.line, one.change.severity, one.change.remedy, is_done=False)
