"""Remedies for options of columns, sequences, settings and extension versions.

As in remedies, a set's texts get into statements as literals, or after matching a pattern.
"""

import re
from collections.abc import Iterator

from psycopg.sql import SQL, Composable, Identifier, Literal

from tasks.core.database import facts
from tasks.core.database.comparison import Difference
from tasks.core.database.objects import InventoryItem
from tasks.core.database.settings import ROLE_SETTINGS, SETTING
from tasks.core.in_place.migrations import COLUMNS_ARE_MIGRATED
from tasks.core.in_place.objects import How, Remedy
from tasks.core.sql.names import unquoted

OF_ALL = "it concerns the whole database, which other applications use as well"
# Settings whose values are lists of identifiers.
LISTS = frozenset({
    "search_path", "temp_tablespaces", "session_preload_libraries", "local_preload_libraries", "shared_preload_libraries",
})  # fmt: skip


def spelled(statement: str, *parts: Composable) -> str:
    """Return a statement with its parts filled in."""
    return f"{SQL(statement).format(*parts).as_string()};"


_OPTION = re.compile(r"(?P<name>[a-z_]+(?:\.[a-z_]+)?)=(?P<value>[\w.+-]*)")


def option_words(difference: Difference) -> Iterator[str]:
    """Yield the clauses that set options back."""
    was, becomes = (dict(_OPTION.findall(text)) for text in (difference.was, difference.becomes))
    if gone := ", ".join(name for name in becomes if name not in was):
        yield f"RESET ({gone})"
    if was:
        yield f"SET ({', '.join(f'{name} = {Literal(value).as_string()}' for name, value in was.items())})"


_IDENTIFIERS = re.compile(r'(?:[\w$]+|"(?:[^"]|"")*")(?:, ?(?:[\w$]+|"(?:[^"]|"")*"))*')


def _of_setting(difference: Difference) -> Remedy:
    item, was = difference.item, difference.was
    # In pg_db_role_setting, the elements of lists are quoted already.
    is_list = item.name in LISTS and _IDENTIFIERS.fullmatch(was)
    value = SQL("TO {}").format(SQL(was) if is_list else Literal(was)) if was else SQL("")
    change = SQL("ALTER DATABASE {} {} {} {}").format(
        Identifier(item.columns), SQL("SET" if was else "RESET"), Identifier(item.name), value
    )
    return Remedy(How.NOT, f"{change.as_string().rstrip()};", OF_ALL)


def _of_role_settings(difference: Difference) -> Remedy:
    parts = Identifier(difference.item.name), Identifier(difference.item.columns)
    reset = spelled("ALTER ROLE {} IN DATABASE {} RESET ALL", *parts)
    return Remedy(How.NOT, reset, f"{OF_ALL}; then set again what the set has: {difference.was or 'nothing'}")


def _of_extension(difference: Difference) -> Remedy:
    parts = Identifier(difference.item.name), Literal(difference.was)
    return Remedy(
        How.NOT,
        spelled("ALTER EXTENSION {} UPDATE TO {}", *parts),
        "a restore does not change the version of an extension; change it, if the extension has such an update path",
    )


def _of_own_column(difference: Difference) -> Remedy:
    """Return the remedy for a column's options; each has its own word for the default."""
    item, fact, was, becomes = difference.item, difference.fact, difference.was, difference.becomes
    place = SQL("ALTER TABLE {} ALTER COLUMN {}").format(SQL(item.parent), Identifier(unquoted(item.name))).as_string()
    match fact:
        case facts.STORAGE:
            return Remedy(How.ALTER, f"{place} SET STORAGE {was.partition(' ')[0] or becomes.rpartition(' ')[2]};")
        case facts.COMPRESSION:
            return Remedy(How.ALTER, f"{place} SET COMPRESSION {was or 'DEFAULT'};")
        case facts.STATISTICS:
            return Remedy(How.ALTER, f"{place} SET STATISTICS {was or '-1'};")
        case facts.OPTIONS:
            return Remedy(How.ALTER, " ".join(f"{place} {words};" for words in option_words(difference)))
    return Remedy(How.NOT, "", COLUMNS_ARE_MIGRATED)


_SEQUENCE = re.compile(
    r"(?P<type>[a-z]+) \| (?P<start>-?\d+) \| (?P<increment>-?\d+) \| (?P<least>-?\d+) \| (?P<most>-?\d+) \| (?P<cache>\d+)"
    r" \| (?P<cycle>[tf])(?:rue|alse)?"
)


def of_sequence(then: InventoryItem, now: InventoryItem) -> Remedy:
    """Return the remedy for a sequence's settings."""
    match = _SEQUENCE.fullmatch(facts.facts(then).get(facts.DEFINITION, ""))
    if not match:
        return Remedy(How.NOT, "", "its settings in the set could not be parsed")
    cycle = "CYCLE" if match["cycle"] == "t" else "NO CYCLE"
    settings = (
        f"AS {match['type']} INCREMENT {match['increment']} MINVALUE {match['least']} MAXVALUE "
        f"{match['most']} START {match['start']} CACHE {match['cache']} {cycle}"
    )
    return Remedy(How.ALTER, spelled("ALTER SEQUENCE {} {}", SQL(now.name), SQL(settings)))


def _of_others_table(difference: Difference) -> Remedy:
    return Remedy(How.NOT, "", "restore its rows from the backups of its own context")


OF_KINDS = {
    facts.OTHERS_TABLE: _of_others_table,
    "column": _of_own_column, SETTING: _of_setting, ROLE_SETTINGS: _of_role_settings, "extension": _of_extension,
}  # fmt: skip
