"""Objects that are not what they were: how grave each difference is."""

from collections.abc import Iterable

from tasks.core.checks.definition import Severity
from tasks.core.database import facts
from tasks.core.database.comparison import Difference, find_differences, named
from tasks.core.database.objects import VIEWS, InventoryItem

OF_NO_ROW = frozenset({facts.COMMENT, facts.CLUSTERED, facts.OPTIONS, facts.REPLICA_IDENTITY})
ACTS_ON_ROWS = frozenset({"trigger", "rule", "policy", "constraint"})


def severity(difference: Difference) -> Severity:
    """Return how grave it is: whether wrong rows may come in, right ones be lost or refused, or anybody read them."""
    item, fact = difference.item, difference.fact.rpartition(": ")[2]
    is_unique = item.kind == "index" and item.state.startswith("CREATE UNIQUE ")
    harmless = item.kind == "statistics" or (item.kind == "index" and not is_unique) or fact in OF_NO_ROW
    stricter = fact in {facts.NOT_VALID, facts.NOT_POPULATED} and not difference.becomes
    new = difference.then is None and not is_unique and item.kind not in ACTS_ON_ROWS
    return Severity.WARNING if harmless or stricter or new else Severity.ERROR


def changed_objects(then: Iterable[InventoryItem], now: Iterable[InventoryItem]) -> list[Difference]:
    """Return how objects that were there and are there are not what they were.

    Both are of one major version of PostgreSQL: between majors it spells the same object differently.
    """
    before, after = ({item.identity: item for item in items} for items in (then, now))
    both = before.keys() & after.keys()
    return find_differences((before[one] for one in both), (after[one] for one in both), same_major=True)


def is_grave(difference: Difference) -> bool:
    """Say whether a difference from a backup is an error; a view may be spelled otherwise because it was dumped and restored."""
    return severity(difference) is Severity.ERROR and difference.item.kind not in VIEWS


def in_short(difference: Difference) -> str:
    """Return which object it is and what of it changed, without the texts, which may be long."""
    return f"{named(difference.item)}: {difference.fact}"
