"""Reading and reporting the backups of the last days; only the listing and the records are read."""

from functools import partial
from operator import itemgetter

from tasks.core.calendar import before
from tasks.core.checks.record import CheckRecord
from tasks.core.context import Context
from tasks.core.restore.drill import DrillRecord
from tasks.core.sets.facts import ExpiryRecord
from tasks.core.sets.records import recorded_since
from tasks.core.watch.anomalies import anomalies
from tasks.core.watch.history import Overview
from tasks.core.watch.history_report import overview_report, overview_verdict, set_rows
from tasks.core.watch.known_sets import complete_since, known_sets
from tasks.run.artifacts import publish
from tasks.run.run import Run, step
from tasks.sets.listing import facts_of_set, list_sets
from tasks.sets.records import read_records
from tasks.store.address import StoreAddress

OLDEST = itemgetter(slice(-1, None))


@step(repeatable=True)
def look_back(store: StoreAddress, context: Context, run: Run, days: int) -> Overview:
    """Return the overview of the backups of the last days.

    Raises:
        OperationError: the store cannot be listed or read.
    """
    listing = list_sets(store, context.name)
    since = before(run.started, f"{days} days", context.zone)
    choose = partial(recorded_since, since=since)
    expired = read_records(store, context.name, ExpiryRecord, choose)
    first = read_records(store, context.name, ExpiryRecord, OLDEST)
    complete = complete_since(first[0].instant if first else run.started, context.retention, context.zone)
    return Overview(
        context.name, store.url, store.off_host, context.zone, context.objectives, run.started, since, days, *complete,
        sets=known_sets(map(facts_of_set, listing.sets), expired), legacy=len(listing.legacy),
        drill_records=read_records(store, context.name, DrillRecord, choose),
        check_records=read_records(store, context.name, CheckRecord, choose),
    )  # fmt: skip


@step
def publish_overview(overview: Overview) -> str:
    """Publish the report and the table of sets; return the verdict."""
    findings = anomalies(overview)
    verdict = overview_verdict(overview, findings)
    publish(f"{overview.context}-report", verdict, overview_report(overview, verdict, findings), set_rows(overview), "sets")
    return verdict
