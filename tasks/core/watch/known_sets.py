"""The known sets: those in the store, and expired ones that pruning recorded."""

from collections.abc import Iterable
from datetime import datetime, tzinfo

from tasks.core.calendar import before
from tasks.core.context_keys import Retention
from tasks.core.sets.facts import ExpiryRecord, SetFacts


def known_sets(listed: Iterable[SetFacts], records: Iterable[ExpiryRecord]) -> list[SetFacts]:
    """Return the sets in the store (also if put back), and the expired ones."""
    expired = {facts.id: facts.model_copy(update={"expired": True}) for record in records for facts in record.sets}
    return [*(expired | {facts.id: facts for facts in listed}).values()]


def complete_since(first_record: datetime, retention: Retention, zone: tzinfo) -> tuple[datetime, datetime]:
    """Return since when all full backups are known, and since when all restorable states are.

    Sets that expired before that record are not known, because older releases recorded none.
    """
    fulls, differentials = (before(first_record, period, zone) for period in (retention.daily, retention.differential))
    return fulls, max(fulls, differentials)
