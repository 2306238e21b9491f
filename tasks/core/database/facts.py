"""Facts of an inventory item: owner, definition, columns with defaults, comment, grants.

Facts of a state are joined by ` | ` in a fixed order (tasks/core/sql/inventory.py); definitions and
comments may contain anything, so each kind has a pattern for its order.
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
OWNED_BY, CONSTRAINTS, COLUMNS, TABLESPACE, REMARKS = "owned by", "constraints", "columns", "tablespace", "remarks"
INHERITED = "inherited"
OTHERS_TABLE = "table of another context"
YES = "yes"

_END = rf"( \| {COMMENT} (?P<comment>.*?))?"
_GRANTED = rf"( \| {PRIVILEGES} (?P<privileges>.*))?"
_RELATION = (
    rf"{OWNER} (?P<owner>.*?)( \| extension (?P<extension>.*?))? \| {PERSISTENCE} (?P<persistence>.)( \| key (?P<key>.*?))?"
    rf"( \| {BOUND} (?P<bound>.*?))?(?P<row_security> \| {ROW_SECURITY})?(?P<forced> \| {FORCED})?"
    rf" \| {REPLICA_IDENTITY} (?P<replica_identity>.)( \| {OPTIONS} (?P<options>\{{.*?\}}))?"
    rf"( \| {TABLESPACE} (?P<tablespace>{IDENTIFIER.pattern}))?"
)
_NEXT = r" \| |\Z"
_OWN = rf"{OWNER} (?P<owner>.*?)"
_PATTERNS = {
    **dict.fromkeys([*TABLES, "foreign table"], rf"{_RELATION}{_END}{_GRANTED}"),
    **dict.fromkeys(VIEWS, rf"{_RELATION} \| (?P<definition>.*?;)(?P<not_populated> \| {NOT_POPULATED})?{_END}{_GRANTED}"),
    "index": rf"(?P<definition>.*?)(?P<INVALID> \| {INVALID})?(?P<clustered> \| {CLUSTERED})?"
    rf"(?P<replica_identity> \| {REPLICA_IDENTITY})?( \| {ATTACHED} (?P<attached_to>.*?))?"
    rf"( \| {TABLESPACE} (?P<tablespace>{IDENTIFIER.pattern}))?{_END}",
    "constraint": rf"(?P<definition>.*?)( {NOT_VALID})?(?P<NOT_VALID> \| {NOT_VALID})?"
    rf"( \| {INHERITED} (?P<inherited>yes(?:, and its own)?))?( \| {NOT_ENFORCED} (?P<triggers_of_the_key>.*?))?{_END}",
    "trigger": rf"(?P<definition>.*?) \| {ENABLED} (?P<enabled>[ODRA]){_END}",
    "rule": rf"(?P<definition>.*?) \| {ENABLED} (?P<enabled>[ODRA]){_END}",
    "policy": rf"(?P<definition>.*?){_END}",
    "function": rf"{_OWN}( \| (?P<definition>.*?\n.*\n))?{_END}{_GRANTED}",
    # For a schema that others share, only privileges of the context's roles are listed.
    "schema": rf"({_OWN}{_END})?((\A| \| ){PRIVILEGES} (?P<privileges>.*))?",
    "sequence": rf"{_OWN} \| (?P<definition>.*?)( \| {PERSISTENCE} (?P<persistence>u))?{_END}"
    rf"( \| {OWNED_BY} (?P<owned_by>.*?))?{_GRANTED}",
    "type": rf"{_OWN} \| (?P<kind>[a-z])((?<= d) \| (?P<definition>.*?))?(?P<NOT_NULL> \| {NOT_NULL})?"
    rf"( \| {DEFAULT} (?P<DEFAULT>.*?))?( \| (?P<constraints>\S+ CHECK .*?))?( \| {REMARKS} (?P<remarks>.*?))?{_END}{_GRANTED}",
    "statistics": rf"(?P<definition>.*?)( \| {STATISTICS} (?P<statistics>\d+))?{_END}",
    "column": rf"({STORAGE} (?P<storage>[A-Z]+ instead of [A-Z]+)({_NEXT}))?({COMPRESSION} (?P<compression>\w+)({_NEXT}))?"
    rf"({STATISTICS} (?P<statistics>\d+)({_NEXT}))?({OPTIONS} (?P<options>.*))?",
}
_READ = {kind: re.compile(pattern, re.DOTALL) for kind, pattern in _PATTERNS.items()}
# Quoted and bracketed text, innermost brackets first.
_QUOTED = re.compile(r"'(?:[^'\\]|''|\\.)*'|\"(?:[^\"]|\"\")*\"", re.DOTALL)
_BRACKETS = re.compile(r"[(\[][^()\[\]]*[)\]]")
_COLUMN_FACTS = re.compile(
    rf"( {COLLATION} (?P<COLLATE>\S+))?( {NOT_NULL}(?P<NOT_NULL>))?( {GENERATED} (?P<GENERATED>\S))?"
    rf"( {IDENTITY} (?P<IDENTITY>\S))?( {DEFAULT} (?P<DEFAULT>.*?))?"
    rf"( {COMMENT.upper()} (?P<comment>E?\S+))?( {GRANTS} (?P<ACL>.*))?",
    re.DOTALL,
)
# Only non-default facts of these are listed.
DEFAULTED = frozenset({"column", SETTING, ROLE_SETTINGS})
# Facts that an inventory has since its version 3.
SINCE_3 = {
    "sequence": (PERSISTENCE, COMMENT), "type": (REMARKS, COMMENT, PRIVILEGES), "constraint": (INHERITED,),
    **dict.fromkeys(["rule", "policy", "statistics"], (COMMENT,)),
}  # fmt: skip


def facts(item: InventoryItem) -> dict[str, str]:
    """Return the facts of an object by name; for columns, `column <name>: <fact>`."""
    pattern = _READ.get(item.kind)
    match = pattern.fullmatch(item.state) if pattern else None
    if match is None:
        return {name: text for name, text in ((COLUMNS, item.columns), (DEFINITION, item.state)) if text}
    stated = {name.replace("_", " "): _value(text) for name, text in match.groupdict().items() if text is not None}
    if item.kind == "type" and item.columns:
        stated[COLUMNS] = item.columns
    return stated | dict(_columns(item))


def without_facts(item: InventoryItem, names: Iterable[str]) -> InventoryItem:
    """Return an object without some facts of its state."""
    state = item.state
    for name in names:
        if (match := _READ[item.kind].fullmatch(state)) and match[name] is not None:
            state = state[: match.start(name) - len(f" | {name} ")] + state[match.end(name) :]
    return item.model_copy(update={"state": state})


def columns_of(items: Iterable[InventoryItem]) -> set[tuple[str, str]]:
    """Return (table, column) of all columns of tables, as SQL writes them."""
    return {
        (item.name, name.removeprefix("column ").removesuffix(f": {TYPE}"))
        for item in items if item.kind in TABLES for name, _ in _columns(item) if name.endswith(f": {TYPE}")
    }  # fmt: skip


def columns_by_relation(items: Iterable[InventoryItem]) -> dict[str, set[str]]:
    """Return the columns of tables and views, as SQL writes them, by the relation's name."""
    suffix = f": {TYPE}"
    return {
        item.name: {name.removeprefix("column ").removesuffix(suffix) for name, _ in _columns(item) if name.endswith(suffix)}
        for item in items if item.kind in RELATIONS
    }  # fmt: skip


def is_descending(sequence: InventoryItem) -> bool:
    """Return whether a sequence is descending."""
    _, _, increment, *_ = f"{facts(sequence).get(DEFINITION, '')} |  | ".split(" | ")
    return increment.startswith("-")


def owner_of(item: InventoryItem) -> str:
    """Return the owner of an object; "" if it has none of its own."""
    return facts(item).get(OWNER, "")


def _value(text: str) -> str:
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
        if match := _COLUMN_FACTS.fullmatch(seen, at):
            for fact in match.groupdict():
                if match[fact] is not None:
                    yield f"{where}: {fact.replace('_', ' ')}", text[slice(*match.span(fact))] or YES
        elif at < len(text):
            yield f"{where}: {DEFINITION}", text[at:]


_WORDS = tuple(f" {word}" for word in (COLLATION, NOT_NULL, GENERATED, IDENTITY, DEFAULT, COMMENT.upper(), GRANTS))


def split_columns(columns: str) -> list[tuple[str, str]]:
    """Return each column's text, and the same with quoted and bracketed text masked."""
    covered = _QUOTED.sub(_cover, columns)
    while (more := _BRACKETS.sub(_cover, covered)) != covered:
        covered = more
    parts, start = list[tuple[str, str]](), 0
    for end in [*(comma.start() for comma in re.finditer(", ", covered)), len(columns)]:
        parts.append((columns[start:end], covered[start:end]))
        start = end + 2
    return parts


def _cover(match: re.Match[str]) -> str:
    return "_" * len(match[0])


def changed_facts(then: Mapping[str, str], now: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """Return changed facts: name, old value, new value; "" where there is none."""
    names = [*then, *(name for name in now if name not in then)]
    return [(name, then.get(name, ""), now.get(name, "")) for name in names if then.get(name, "") != now.get(name, "")]
