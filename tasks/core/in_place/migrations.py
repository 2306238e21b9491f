"""Types and columns, which are not restored: the reason, and a statement to start migrating with.

These statements are never executed, because they contain texts of the set unchanged.
"""

import re

from tasks.core.database import facts
from tasks.core.database.comparison import Difference
from tasks.core.database.objects import InventoryItem
from tasks.core.in_place.objects import How, Remedy

COLUMNS_ARE_MIGRATED = "a restore does not change types and generated values of columns; migrate them"
TYPES_ARE_MIGRATED = "a restore does not change types; migrate them"


def begin_of_migration(difference: Difference, now: InventoryItem, where: str, column: str) -> str:
    """Return a statement to start migrating a missing column, or one of another type."""
    then, here = (facts.facts(item) if item else {} for item in (difference.then, now))
    had, has = then.get(f"{where}: {facts.TYPE}"), here.get(f"{where}: {facts.TYPE}")
    change = f"ALTER TABLE {now.name} {{}} COLUMN {column}{{}};"
    if not had or not has:
        return change.format("ADD", f" {had}") if had else ""
    match difference.fact.rpartition(": ")[2]:
        case facts.TYPE | facts.COLLATION:
            collation = then.get(f"{where}: {facts.COLLATION}", '"default"' if facts.COLLATION in difference.fact else "")
            return change.format("ALTER", f" TYPE {had}{f' COLLATE {collation}' if collation else ''}")
        case facts.IDENTITY if difference.was and difference.becomes:
            return change.format("ALTER", f" SET GENERATED {'ALWAYS' if difference.was == 'a' else 'BY DEFAULT'}")
    return ""


def of_type(difference: Difference, now: InventoryItem) -> Remedy:
    """Return why a type is not restored, with a statement to start a migration with."""
    was, becomes, domain = difference.was, difference.becomes, f"ALTER DOMAIN {now.name}"
    match difference.fact:
        case facts.DEFAULT | facts.NOT_NULL:
            action = f"SET {difference.fact}{f' {was}' if difference.fact == facts.DEFAULT else ''}"
            return Remedy(How.NOT, f"{domain} {action if was else f'DROP {difference.fact}'};", TYPES_ARE_MIGRATED)
        case facts.CONSTRAINTS:
            return Remedy(How.NOT, f"{domain} ADD CONSTRAINT {was};" if was and not becomes else "", TYPES_ARE_MIGRATED)
        case facts.COLUMNS:
            then, here = (_LABEL.findall(text) for text in (was, becomes))
            renamed = [pair for pair in zip(then, here, strict=False) if pair[0] != pair[1]]
            if len(then) == len(here) and len(renamed) == 1:
                return Remedy(
                    How.NOT, f"ALTER TYPE {now.name} RENAME VALUE {renamed[0][1]} TO {renamed[0][0]};", TYPES_ARE_MIGRATED
                )
            if then and [label for label in here if label in then] == then:
                return Remedy(How.NOT, "", "PostgreSQL cannot drop a label of an enum")
    return Remedy(How.NOT, "", TYPES_ARE_MIGRATED)


_LABEL = re.compile(r"'(?:[^']|'')*'")
