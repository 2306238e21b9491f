"""The safety set: all tables that a restore will write, stored before, so that it can be undone."""

import re
from dataclasses import replace

from prefect import get_run_logger

from tasks.backup.take import Occasion, take_set
from tasks.core.context import Context
from tasks.core.errors import OperationError
from tasks.core.sets.manifest import Scope
from tasks.core.sets.name import Kind
from tasks.database.snapshot import position
from tasks.in_place.repairs import concerned_checks
from tasks.in_place.session import Merge, lineage
from tasks.sets.upload import missing_class


def take_safety_set(merge: Merge) -> None:
    """Take a set of the present rows, damaged or not, with which the restore can be undone."""
    if not merge.tables:
        # None of the requested tables exists.
        return
    with merge.phases.phase("safety set"):
        run = merge.run.another() if merge.safety else merge.run
        site = replace(merge.site, context=_what_is_written(merge))
        why = Occasion(label=f"before {merge.run.title}", sort=Kind.SAFETY, made=merge.makes)
        merge.safety = take_set(site, run, merge.source, why)
        if merge.safety.snapshot.incarnation != (here := position(merge.connection)[0].incarnation):
            raise OperationError(
                f"safety set {merge.safety.id} was taken from another server than the one to be "
                f"changed ({here}); nothing was changed; find out why the server's address "
                "changed, and run again"
            )
    get_run_logger().info("safety set %s taken", merge.safety.id)
    for warning in missing_class(site.store, site.context.storage_classes, Kind.SAFETY):
        get_run_logger().warning("%s: %s", merge.safety.id, warning)


def _what_is_written(merge: Merge) -> Context:
    """Return the context reduced to the tables that the restore and its repairs write."""
    context = merge.site.context
    if merge.request.table is None:
        return context
    written = {name for table in merge.tables for name in lineage(merge.members, table.member)}
    repairs = " ".join(check.repair for check in concerned_checks(merge))
    tables = [
        name for name in context.tables
        if f"{context.namespace}.{name}" in written or re.search(rf"\b{re.escape(name)}\b", repairs)
    ]  # fmt: skip
    return context.narrowed(Scope(schema=context.namespace, tables=tables))
