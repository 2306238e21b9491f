"""What an inventory says of an object, fact by fact: its owner, definition, columns with their defaults, comment, grants.

Facts of a state are joined by ` | `, in an order of their own (tasks/core/sql/inventory.py); definitions and comments may hold
anything, so each kind is read by a pattern that knows that order.
"""

import re
from collections.abc import Iterable, Iterator, Mapping

from tasks.core.database.objects import RELATIONS, TABLES, VIEWS, InventoryItem
from tasks.core.database.settings import ROLE_SETTINGS, SETTING
from tasks.core.spelling import IDENTIFIER

DEFINITION, OWNER, COMMENT, PRIVILEGES, ENABLED = "definition", "owner", "comment", "privileges", "enabled"
PERSISTENCE, BOUND, NOT_POPULATED, NOT_VALID, INVALID, NOT_ENFORCED = (
    "persistence", "bound", "not populated", "NOT VALID", "INVALID", "triggers of the key",
)  # fmt: skip
ATTACHED, CLUSTERED, ROW_SECURITY, FORCED, REPLICA_IDENTITY, OPTIONS = (
    "attached to", "clustered", "row security", "forced", "replica identity", "options",
)  # fmt: skip
TYPE, COLLATION, NOT_NULL, GENERATED, IDENTITY, DEFAULT, GRANTS = (
    "type", "COLLATE", "NOT NULL", "GENERATED", "IDENTITY", "DEFAULT", "ACL",
)  # fmt: skip
STORAGE, COMPRESSION, STATISTICS, POSITION = "storage", "compression", "statistics", "position"
OWNED_BY, CONSTRAINTS, COLUMNS = "owned by", "constraints", "columns"
OTHERS_TABLE = "table of another context"
YES = "yes"

_END = rf"( \| {COMMENT} (?P<comment>.*?))?"
_GRANTED = rf"( \| {PRIVILEGES} (?P<privileges>.*))?"
_RELATION = (
    rf"{OWNER} (?P<owner>.*?)( \| extension (?P<extension>.*?))? \| {PERSISTENCE} (?P<persistence>.)( \| key (?P<key>.*?))?"
    rf"( \| {BOUND} (?P<bound>.*?))?(?P<row_security> \| {ROW_SECURITY})?(?P<forced> \| {FORCED})?"
    rf" \| {REPLICA_IDENTITY} (?P<replica_identity>.)( \| {OPTIONS} (?P<options>\{{.*?\}}))?"
)
_NEXT = r" \| |\Z"
_OWN = rf"{OWNER} (?P<owner>.*?)"
_PATTERNS = {
    **dict.fromkeys([*TABLES, "foreign table"], rf"{_RELATION}{_END}{_GRANTED}"),
    **dict.fromkeys(VIEWS, rf"{_RELATION} \| (?P<definition>.*?;)(?P<not_populated> \| {NOT_POPULATED})?{_END}{_GRANTED}"),
    "index": rf"(?P<definition>.*?)(?P<INVALID> \| {INVALID})?(?P<clustered> \| {CLUSTERED})?"
             rf"(?P<replica_identity> \| {REPLICA_IDENTITY})?( \| {ATTACHED} (?P<attached_to>.*?))?{_END}",
    "constraint": rf"(?P<definition>.*?)( {NOT_VALID})?(?P<NOT_VALID> \| {NOT_VALID})?"
    rf"( \| {NOT_ENFORCED} (?P<triggers_of_the_key>.*?))?{_END}",
    "trigger": rf"(?P<definition>.*?) \| {ENABLED} (?P<enabled>[ODRA]){_END}",
    "rule": rf"(?P<definition>.*) \| {ENABLED} (?P<enabled>[ODRA])",
    "function": rf"{_OWN}( \| (?P<definition>.*?\n.*\n))?{_END}{_GRANTED}",
    # Of a schema that others share, nothing is told but what the context's own roles may do there.
    "schema": rf"({_OWN}{_END})?((\A| \| ){PRIVILEGES} (?P<privileges>.*))?",
    "sequence": rf"{_OWN} \| (?P<definition>.*?)( \| {OWNED_BY} (?P<owned_by>.*?))?{_GRANTED}",
    "type": rf"{_OWN} \| d \| (?P<definition>.*?)(?P<NOT_NULL> \| {NOT_NULL})?( \| {DEFAULT} (?P<DEFAULT>.*?))?"
    rf"( \| (?P<constraints>\S+ CHECK .*))?",
    "statistics": rf"(?P<definition>.*?)( \| {STATISTICS} (?P<statistics>\d+))?",
    "column": rf"({STORAGE} (?P<storage>[A-Z]+ instead of [A-Z]+)({_NEXT}))?({COMPRESSION} (?P<compression>\w+)({_NEXT}))?"
    rf"({STATISTICS} (?P<statistics>\d+)({_NEXT}))?({OPTIONS} (?P<options>.*))?",
}  # fmt: skip
_READ = {kind: re.compile(pattern, re.DOTALL) for kind, pattern in _PATTERNS.items()}
# What stands in quotes or brackets, brackets from within.
_QUOTED = re.compile(r"'(?:[^'\\]|''|\\.)*'|\"(?:[^\"]|\"\")*\"", re.DOTALL)
_BRACKETS = re.compile(r"[(\[][^()\[\]]*[)\]]")
_COLUMN_FACTS = re.compile(
    rf"( {COLLATION} (?P<COLLATE>\S+))?( {NOT_NULL}(?P<NOT_NULL>))?( {GENERATED} (?P<GENERATED>\S))?"
    rf"( {IDENTITY} (?P<IDENTITY>\S))?( {DEFAULT} (?P<DEFAULT>.*?))?"
    rf"( {COMMENT.upper()} (?P<comment>E?\S+))?( {GRANTS} (?P<ACL>.*))?",
    re.DOTALL,
)
# Of these only what is not as it is by default is told.
DEFAULTED = frozenset({"column", SETTING, ROLE_SETTINGS})


def facts(item: InventoryItem) -> dict[str, str]:
    """Return what is said of an object, by the names of the facts; of a column that is `column <name>: <fact>`."""
    pattern = _READ.get(item.kind)
    found = pattern.fullmatch(item.state) if pattern else None
    if found is None:
        return {name: text for name, text in ((COLUMNS, item.columns), (DEFINITION, item.state)) if text}
    said = {name.replace("_", " "): _said(text) for name, text in found.groupdict().items() if text is not None}
    return said | dict(_columns(item))


def columns_of(items: Iterable[InventoryItem]) -> set[tuple[str, str]]:
    """Return the columns of tables, each by its table's name and its own, as SQL writes them."""
    return {
        (item.name, name.removeprefix("column ").removesuffix(f": {TYPE}"))
        for item in items if item.kind in TABLES for name, _ in _columns(item) if name.endswith(f": {TYPE}")
    }  # fmt: skip


def is_descending(sequence: InventoryItem) -> bool:
    """Say whether a sequence counts down."""
    _, _, increment, *_ = f"{facts(sequence).get(DEFINITION, '')} |  | ".split(" | ")
    return increment.startswith("-")


def owner_of(item: InventoryItem) -> str:
    """Return the role that an object belongs to; nothing where that is its table's."""
    return facts(item).get(OWNER, "")


def _said(text: str) -> str:
    return YES if text.startswith(" | ") else text


def _columns(item: InventoryItem) -> Iterator[tuple[str, str]]:
    if item.kind not in RELATIONS or not item.columns:
        return
    for text, seen in split_columns(item.columns):
        name = IDENTIFIER.match(text)
        start = name.end() + 1 if name else 0
        at = min((seen.find(word, start) for word in _WORDS if word in seen[start:]), default=len(seen))
        where = f"column {text[: max(start - 1, 0)]}"
        yield f"{where}: {TYPE}", text[start:at]
        if found := _COLUMN_FACTS.fullmatch(seen, at):
            for fact in found.groupdict():
                if found[fact] is not None:
                    yield f"{where}: {fact.replace('_', ' ')}", text[slice(*found.span(fact))] or YES
        elif at < len(text):
            yield f"{where}: {DEFINITION}", text[at:]


_WORDS = tuple(f" {word}" for word in (COLLATION, NOT_NULL, GENERATED, IDENTITY, DEFAULT, COMMENT.upper(), GRANTS))


def split_columns(columns: str) -> list[tuple[str, str]]:
    """Return each column's text, and the same with what is in quotes and brackets covered, so that words are found."""
    covered = _QUOTED.sub(_cover, columns)
    while (more := _BRACKETS.sub(_cover, covered)) != covered:
        covered = more
    found, start = list[tuple[str, str]](), 0
    for end in [*(one.start() for one in re.finditer(", ", covered)), len(columns)]:
        found.append((columns[start:end], covered[start:end]))
        start = end + 2
    return found


def _cover(found: re.Match[str]) -> str:
    return "_" * len(found[0])


def changed_facts(then: Mapping[str, str], now: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """Return each fact that is not as it was, how it was and how it is; nothing where it was, or is, not said."""
    names = [*then, *(name for name in now if name not in then)]
    return [(name, then.get(name, ""), now.get(name, "")) for name in names if then.get(name, "") != now.get(name, "")]
