"""The severity of a difference between an object and the newest backup."""

from collections.abc import Iterable

from tasks.core.checks.definition import Severity
from tasks.core.database import facts
from tasks.core.database.comparison import Difference, named
from tasks.core.database.objects import TABLES, VIEWS, InventoryItem
from tasks.core.database.settings import GRAVE, ROLE_SETTINGS, SETTING

OF_NO_ROW = frozenset({
    facts.COMMENT, facts.REMARKS, facts.CLUSTERED, facts.OPTIONS, facts.REPLICA_IDENTITY, facts.TABLESPACE,
    facts.INHERITED,
})  # fmt: skip
OF_NO_ROW_EITHER = frozenset({"statistics", "column", "extension", ROLE_SETTINGS})
ACTS_ON_ROWS = frozenset({"trigger", "rule", "policy", "constraint"})


def severity(difference: Difference) -> Severity:
    """Return ERROR if rows could wrongly be accepted, refused or lost, or read by other roles."""
    item, fact = difference.item, difference.fact.rpartition(": ")[2]
    is_unique = item.kind == "index" and item.state.startswith("CREATE UNIQUE ")
    harmless = item.kind in OF_NO_ROW_EITHER or (item.kind == "index" and not is_unique) or fact in OF_NO_ROW
    harmless |= item.kind == SETTING and item.name not in GRAVE
    stricter = fact in {facts.NOT_VALID, facts.NOT_POPULATED} and not difference.becomes
    new = difference.then is None and not is_unique and item.kind not in ACTS_ON_ROWS
    return Severity.WARNING if harmless or stricter or new else Severity.ERROR


def came_with_time(differences: Iterable[Difference], then: Iterable[InventoryItem]) -> set[tuple[str, str, str]]:
    """Return the identities of expected new objects: future partitions, new tables' objects."""
    new = [difference.item for difference in differences if difference.then is None]
    divided = {item.name for item in then if item.kind == "partitioned table"}
    tables = {item.name: item for item in new if item.kind in TABLES}
    partitions = [
        table for table in tables.values() if table.parent in divided and facts.facts(table).get(facts.BOUND) != "DEFAULT"
    ]
    return {item.identity for item in [*partitions, *(item for item in new if item.parent in tables)]}


def is_grave(difference: Difference) -> bool:
    """Return whether it is an error; a view's text alone is none, as restores change it."""
    return severity(difference) is Severity.ERROR and difference.item.kind not in VIEWS


def in_short(difference: Difference) -> str:
    """Return the object and which facts changed; for tables of other contexts also what they are."""
    is_short = not difference.fact or difference.item.kind == facts.OTHERS_TABLE
    return difference.line if is_short else f"{named(difference.item)}: {difference.fact}"
