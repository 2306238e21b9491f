"""Requesting a recovery drill if the schema changed since the last drill that passed."""

from operator import itemgetter

from prefect import get_run_logger

from tasks.core.backup.report import Rehearsal
from tasks.core.errors import OperationError
from tasks.core.report.markdown import local_time
from tasks.core.restore.drill import SCHEMA_CHANGED, DrillRecord, automation_of_drills, last_proven, why_unproven
from tasks.core.sets.manifest import Manifest
from tasks.run.artifacts import deliver
from tasks.run.run import step
from tasks.run.site import Site
from tasks.sets.records import read_records

# Only this many of the newest drills are read: an older one proves nothing any more.
RECORDS_READ = 60


@step
def ask_for_drill(site: Site, manifest: Manifest) -> Rehearsal:
    """Compare the schema of a full backup with that of the last passed drill.

    Request a drill if they differ. The request is the event `schema.changed`. The set is stored in
    any case: if the comparison or the request fails, that is reported.
    """
    context = site.context
    try:
        records = read_records(site.store, context.name, DrillRecord, itemgetter(slice(RECORDS_READ)))
    except OperationError as error:
        return _unasked(f"whether the schema changed since the last drill is unknown: {error}", manifest)
    proven = last_proven(records)
    if proven and proven.schema_fingerprint == manifest.schema_fingerprint:
        return Rehearsal(f"unchanged since {proven.set}, whose drill passed on {local_time(proven.instant, context.zone)}")
    why = why_unproven(records, proven, context.zone)
    payload = {"set": manifest.id, "why": why, "drilled": (proven and proven.set) or ""}
    # The automation starts one drill for each pair of labels: further backups before that drill
    # request no second one.
    labels = {"schema.fingerprint": str(manifest.schema_fingerprint), "drill.last": str(records[0].instant if records else "")}
    if refusal := deliver(context.name, SCHEMA_CHANGED, payload, labels, automation_of_drills(context.name)):
        return _unasked(f"{why}: {refusal}", manifest)
    get_run_logger().info("%s: drill requested", why)
    return Rehearsal(f"{why}: drill requested")


def _unasked(outcome: str, manifest: Manifest) -> Rehearsal:
    get_run_logger().warning("schema: %s", outcome)
    return Rehearsal(outcome, f"start a drill of {manifest.id}: `python -m flows.recovery recovery_drill --backup {manifest.id}`")
