"""What is known of the sets of the last weeks: those that are listed, and those that expired, which pruning recorded."""

from collections.abc import Iterable
from datetime import datetime, tzinfo

from tasks.core.calendar import before
from tasks.core.context_keys import Retention
from tasks.core.sets.facts import ExpiryRecord, SetFacts


def known_sets(listed: Iterable[SetFacts], records: Iterable[ExpiryRecord]) -> list[SetFacts]:
    """Return the sets that are there and those that expired; one that was made a set again is there."""
    gone = {one.id: one.model_copy(update={"expired": True}) for record in records for one in record.sets}
    return [*(gone | {one.id: one for one in listed}).values()]


def complete_since(first_record: datetime, retention: Retention, zone: tzinfo) -> tuple[datetime, datetime]:
    """Return since when all fulls, and since when all restorable states, are known, if expired sets are recorded since an instant.

    What had expired before is not known: older releases recorded nothing.
    """
    fulls, differentials = (before(first_record, period, zone) for period in (retention.daily, retention.differential))
    return fulls, max(fulls, differentials)
