"""Remedies: the statement that changes an object back to what the set has, or why it is left.

Statements contain names as in the live catalog. Texts of a set become part of a statement only as a
literal or an identifier, or if they match a pattern; PostgreSQL parses a default before it is used.
Definitions come from the set's archive, not from these texts.
"""

import re
from collections.abc import Collection, Iterable, Iterator

from psycopg.sql import SQL, Composable, Identifier, Literal

from tasks.core.database import facts
from tasks.core.database.comparison import Difference
from tasks.core.database.objects import TABLES, VIEWS, InventoryItem
from tasks.core.in_place.migrations import COLUMNS_ARE_MIGRATED, begin_of_migration, of_type
from tasks.core.in_place.objects import STATES, How, Remedy
from tasks.core.in_place.option_remedies import OF_KINDS, of_sequence, option_words, spelled
from tasks.core.sql.names import split_name

NEVER_DROPPED = "it is not in the set; such objects are never dropped"
ONLY_SUPERUSER = "only a superuser may disable the triggers of a foreign key"

HOLD_NO_ROWS = frozenset({"constraint", "trigger", "policy", "rule", "index", "view", "statistics"})
OF_OTHERS = "it belongs to another context"
SHARED_SCHEMA = "other contexts use the schema too: ask its owner"


def remedy(difference: Difference, own: Collection[str], constraints: Collection[tuple[str, str]]) -> Remedy:
    """Return how an object is changed back to what the set has.

    Args:
        difference: what differs.
        own: the context's tables and views, as SQL writes them; others' keys are left.
        constraints: parent and name of each live constraint.
    """
    then, now = difference.then, difference.now
    if difference.item.kind in OF_KINDS:
        return OF_KINDS[difference.item.kind](difference)
    if difference.item.kind == "constraint" and difference.item.parent not in own:
        return Remedy(How.NOT, made(then) if then else "", OF_OTHERS)
    if now is None:
        return Remedy(How.CREATE, made(difference.item))
    if then is None:
        return Remedy(How.NOT, _gone_by_hand(difference.item), NEVER_DROPPED)
    if difference.fact.startswith("column "):
        return _of_column(difference, now)
    chosen = _OF_FACTS.get(difference.fact)
    if now.kind == "type" and difference.fact not in {facts.COMMENT, facts.OWNER, facts.PRIVILEGES}:
        return of_type(difference, now)
    if difference.fact == facts.DEFINITION:
        return _of_definition(then, now, constraints)
    return chosen(difference, now) if chosen else Remedy(How.NOT, "", "a restore has no statement for it: change it back by hand")


def name_of(item: InventoryItem) -> Composable:
    """Return an object's name in statements."""
    if item.kind in {"constraint", "trigger", "policy", "rule"}:
        return SQL("{} ON {}").format(Identifier(item.name), SQL(item.parent))
    return Identifier(item.name) if item.kind == "schema" else SQL(item.name)


def word_of(item: InventoryItem) -> SQL:
    """Return the keyword of an object's kind."""
    words = {"partitioned table": "TABLE", "function": "ROUTINE", "foreign table": "FOREIGN TABLE"}
    return SQL(words.get(item.kind, item.kind.upper()))


def drops(item: InventoryItem, *, if_exists: bool = False) -> str:
    """Return the statement that drops an object."""
    exists = SQL("IF EXISTS " if if_exists else "")
    if item.kind == "constraint":
        statement = "ALTER TABLE {2}{0} DROP CONSTRAINT {2}{1}"
        return spelled(statement, SQL(item.parent), Identifier(item.name), exists)
    return spelled("DROP {} {}{}", word_of(item), exists, name_of(item))


def _gone_by_hand(item: InventoryItem) -> str:
    """Return the statement to drop an unneeded object without rows, or detach a partition."""
    if item.kind in TABLES:
        return _detaches(item) if facts.BOUND in facts.facts(item) else ""
    return drops(item) if item.kind in HOLD_NO_ROWS else ""


def drops_made(difference: Difference) -> Remedy:
    """Return the remedy for an object that a restore created, when that is undone."""
    return Remedy(How.DROP, drops(difference.item, if_exists=True))


def is_lasting(difference: Difference, how: Remedy, own: Collection[str], constraints: Collection[tuple[str, str]]) -> bool:
    """Return whether a remedy is irreversible: no statement brings back the present state."""
    if how.how in {How.CREATE, How.ATTACH, How.DETACH, How.NOT, How.DROP, How.ADVANCE}:
        return how.how is How.ADVANCE
    back = Difference(difference.now, difference.then, difference.fact, difference.becomes, difference.was)
    return remedy(back, own, constraints).how is How.NOT


def made(item: InventoryItem) -> str:
    """Return the statement that creates an object, or "" if the inventory has no definition."""
    definition = facts.facts(item).get(facts.DEFINITION, "").strip()
    if item.kind == "constraint":
        return f"ALTER TABLE {item.parent} ADD CONSTRAINT {Identifier(item.name).as_string()} {definition};"
    if item.kind in VIEWS:
        return f"CREATE {item.kind.upper()} {item.name} AS {definition}"
    return f"{definition.rstrip(';')};" if definition.startswith("CREATE ") else ""


def _of_definition(then: InventoryItem, now: InventoryItem, constraints: Collection[tuple[str, str]]) -> Remedy:
    if now.kind == "sequence":
        return of_sequence(then, now)
    if now.kind in {"function", "view"}:
        return Remedy(How.REPLACE, made(then).replace("CREATE VIEW ", "CREATE OR REPLACE VIEW ", 1))
    of_key = now.kind == "index" and (now.parent, split_name(now.name)[1]) in constraints
    if of_key or facts.facts(now).get(facts.ATTACHED):
        return Remedy(How.NOT, "", "it belongs to a constraint, or to an index of the partitioned table")
    if now.kind == "constraint" and now.state.startswith(("PRIMARY KEY", "UNIQUE")) and (now.parent, now.name) in constraints:
        return Remedy(How.NOT, f"{drops(now)} {made(then)}", "keys of other tables may refer to it")
    if now.kind in {"index", "constraint", "trigger", "rule", "policy", "statistics", "materialized view"}:
        return Remedy(How.ANEW, f"{drops(now)} {made(then)}".strip())
    return Remedy(How.NOT, "", "a restore does not change its definition; migrate it")


def _of_column(difference: Difference, now: InventoryItem) -> Remedy:
    where, _, fact = difference.fact.rpartition(": ")
    column = where.removeprefix("column ")
    kinds = [facts.facts(item).get(f"{where}: {facts.TYPE}") for item in (difference.then, now) if item]
    if None in kinds:
        return Remedy(How.NOT, begin_of_migration(difference, now, where, column), COLUMNS_ARE_MIGRATED)
    if fact == facts.COMMENT:
        comment = SQL(difference.was) if _LITERAL.fullmatch(difference.was) else SQL("NULL")
        return Remedy(How.ALTER, spelled("COMMENT ON COLUMN {}.{} IS {}", SQL(now.name), SQL(column), comment))
    if fact == facts.GRANTS:
        return _granted(difference, now, column)
    if now.kind not in TABLES or fact not in {facts.DEFAULT, facts.NOT_NULL}:
        return Remedy(How.NOT, begin_of_migration(difference, now, where, column), COLUMNS_ARE_MIGRATED)
    if facts.facts(now).get(f"{where}: {facts.GENERATED}"):
        return Remedy(How.NOT, "", COLUMNS_ARE_MIGRATED)
    value = f" {difference.was}" if fact == facts.DEFAULT and difference.was else ""
    action = SQL(f"{'SET' if difference.was else 'DROP'} {fact}{value}")
    return Remedy(How.ALTER, spelled("ALTER TABLE {} ALTER COLUMN {} {}", SQL(now.name), SQL(column), action))


_LITERAL = re.compile(r"'(?:[^'\\]|'')*'|E'(?:[^'\\]|''|\\.)*'", re.DOTALL)


def _of_owning_column(difference: Difference, now: InventoryItem) -> Remedy:
    return Remedy(How.ALTER, spelled("ALTER SEQUENCE {} OWNED BY {}", SQL(now.name), SQL(now.parent or "NONE")))


def _of_comment(difference: Difference, now: InventoryItem) -> Remedy:
    comment = Literal(difference.was) if difference.was else SQL("NULL")
    return Remedy(How.ALTER, spelled("COMMENT ON {} {} IS {}", word_of(now), name_of(now), comment))


def _of_owner(difference: Difference, now: InventoryItem) -> Remedy:
    return Remedy(How.ALTER, spelled("ALTER {} {} OWNER TO {}", word_of(now), name_of(now), Identifier(difference.was)))


def _of_persistence(difference: Difference, now: InventoryItem) -> Remedy:
    word = SQL({"u": "UNLOGGED"}.get(difference.was, "LOGGED"))
    return Remedy(How.ALTER, spelled("ALTER {} {} SET {}", word_of(now), SQL(now.name), word))


def _of_tablespace(difference: Difference, now: InventoryItem) -> Remedy:
    place = difference.was or "pg_default"
    why = (
        "a restore does not move files; run"
        if difference.was
        else "a restore does not move files; run, with the default of the database"
    )
    return Remedy(How.NOT, spelled("ALTER {} {} SET TABLESPACE {}", word_of(now), SQL(now.name), SQL(place)), why)


_VALUE = r"(?:E?'(?:[^'\\]|''|\\.)*'|-?[\d.]+|NULL|MINVALUE|MAXVALUE|true|false)"
_VALUES = rf"\({_VALUE}(?:, {_VALUE})*\)"
_BOUND = re.compile(
    rf"DEFAULT|FOR VALUES (?:IN {_VALUES}|FROM {_VALUES} TO {_VALUES}|WITH \(modulus \d+, remainder \d+\))", re.DOTALL
)


def _of_bound(difference: Difference, now: InventoryItem) -> Remedy:
    if not _BOUND.fullmatch(difference.was):
        return Remedy(How.NOT, "", "its bound in the set could not be parsed")
    return Remedy(How.ALTER, attaches(now, difference.was), before=_detaches(now))


def attaches(partition: InventoryItem, bound: str) -> str:
    """Return the ATTACH of a partition, or "" unless the bound is spelled as in the catalog."""
    if not _BOUND.fullmatch(bound):
        return ""
    return spelled("ALTER TABLE {} ATTACH PARTITION {} {}", SQL(partition.parent), SQL(partition.name), SQL(bound))


def _detaches(partition: InventoryItem) -> str:
    return spelled("ALTER TABLE {} DETACH PARTITION {}", SQL(partition.parent), SQL(partition.name))


def moves(difference: Difference, partition: InventoryItem, keys: Iterable[str]) -> Remedy:
    """Return how to attach a partition again, or, to undo that, to detach it without these keys."""
    if difference.was:
        return Remedy(How.ATTACH, attaches(partition, difference.was))
    drop = (spelled("ALTER TABLE {} DROP CONSTRAINT IF EXISTS {}", SQL(partition.name), Identifier(key)) for key in keys)
    return Remedy(How.DETACH, " ".join([_detaches(partition), *drop]))


def _of_validity(difference: Difference, now: InventoryItem) -> Remedy:
    if difference.was:
        return Remedy(How.NOT, "", "it is validated in this database, which does no harm")
    return Remedy(How.ALTER, spelled("ALTER TABLE {} VALIDATE CONSTRAINT {}", SQL(now.parent), Identifier(now.name)))


def _of_enabled(difference: Difference, now: InventoryItem) -> Remedy:
    parts = SQL(now.parent), SQL(STATES.get(difference.was, "ENABLE")), word_of(now), Identifier(now.name)
    return Remedy(How.SWITCH if now.kind == "trigger" else How.ALTER, spelled("ALTER TABLE {} {} {} {}", *parts))


DISABLED = re.compile(r'(?P<trigger>"[^"]+") of (?P<table>[^;]+)')


def _of_key_triggers(difference: Difference, now: InventoryItem) -> Remedy:
    if difference.was:
        return Remedy(How.NOT, f"ALTER TABLE {now.parent} DISABLE TRIGGER ALL;", ONLY_SUPERUSER)
    matches = DISABLED.finditer(difference.becomes)
    return Remedy(How.ANEW, " ".join(f"ALTER TABLE {match['table']} ENABLE TRIGGER {match['trigger']};" for match in matches))


def _of_population(difference: Difference, now: InventoryItem) -> Remedy:
    if difference.was:
        return Remedy(How.NOT, "", "it is populated in this database, which does no harm")
    return Remedy(How.REFRESH, spelled("REFRESH MATERIALIZED VIEW {}", SQL(now.name)))


def _of_index_validity(difference: Difference, now: InventoryItem) -> Remedy:
    if difference.was or " ON ONLY " in facts.facts(now)[facts.DEFINITION]:
        return Remedy(How.NOT, "", "it becomes valid once an index of every partition is attached")
    return Remedy(How.REBUILD, spelled("REINDEX INDEX {}", SQL(now.name)))


def _of_row_security(difference: Difference, now: InventoryItem) -> Remedy:
    words = {facts.ROW_SECURITY: ("ENABLE", "DISABLE"), facts.FORCED: ("FORCE", "NO FORCE")}[difference.fact]
    word = SQL(words[0] if difference.was else words[1])
    return Remedy(How.ALTER, spelled("ALTER TABLE {} {} ROW LEVEL SECURITY", SQL(now.name), word))


def _of_attachment(difference: Difference, now: InventoryItem) -> Remedy:
    if not difference.was or not re.fullmatch(r'[\w$."]+', difference.was):
        return Remedy(How.NOT, "", "an attached index cannot be detached")
    return Remedy(How.ALTER, spelled("ALTER INDEX {} ATTACH PARTITION {}", SQL(difference.was), SQL(now.name)))


def _of_cluster(difference: Difference, now: InventoryItem) -> Remedy:
    how = SQL("CLUSTER ON {}").format(Identifier(split_name(now.name)[1])) if difference.was else SQL("SET WITHOUT CLUSTER")
    return Remedy(How.ALTER, spelled("ALTER TABLE {} {}", SQL(now.parent), how))


def _of_replica_identity(difference: Difference, now: InventoryItem) -> Remedy:
    words = {"d": "DEFAULT", "f": "FULL", "n": "NOTHING"}.get(difference.was)
    if now.kind == "index" and difference.was:
        index = Identifier(split_name(now.name)[1])
        return Remedy(How.ALTER, spelled("ALTER TABLE {} REPLICA IDENTITY USING INDEX {}", SQL(now.parent), index))
    if words is None or now.kind == "index":
        return Remedy(How.NOT, "", "it is set together with its index, or with its table")
    return Remedy(How.ALTER, spelled("ALTER TABLE {} REPLICA IDENTITY {}", SQL(now.name), SQL(words)))


def _of_options(difference: Difference, now: InventoryItem) -> Remedy:
    words = (spelled("ALTER {} {} {}", word_of(now), SQL(now.name), SQL(words)) for words in option_words(difference))
    return Remedy(How.ALTER, " ".join(words))


def _of_position(difference: Difference, now: InventoryItem) -> Remedy:
    statement = spelled("SELECT setval({}, {})", Literal(now.name), SQL(difference.was))
    return Remedy(How.ADVANCE, statement)


def _of_target(difference: Difference, now: InventoryItem) -> Remedy:
    return Remedy(How.ALTER, spelled("ALTER STATISTICS {} SET STATISTICS {}", SQL(now.name), SQL(difference.was or "-1")))


_GRANT = re.compile(r"(?P<role>.+?)=(?P<privilege>[A-Z]+)(?P<star>\*?)(?: |\Z)", re.DOTALL)


def _of_privileges(difference: Difference, now: InventoryItem) -> Remedy:
    granted = _granted(difference, now)
    is_shared = now.kind == "schema" and facts.OWNER not in facts.facts(now)
    return Remedy(How.NOT, granted.statement, SHARED_SCHEMA) if is_shared else granted


def _granted(difference: Difference, now: InventoryItem, column: str = "") -> Remedy:
    was, becomes = (list(_GRANT.findall(text)) for text in (difference.was, difference.becomes))
    return Remedy(How.ALTER, " ".join([
        *_grants(now, "REVOKE {} ON {} {} FROM {}", [grant for grant in becomes if grant not in was], column),
        *_grants(now, "GRANT {} ON {} {} TO {}", [grant for grant in was if grant not in becomes], column),
    ]))  # fmt: skip


def _grants(now: InventoryItem, statement: str, granted: list[tuple[str, str, str]], column: str) -> Iterator[str]:
    kind = SQL("TABLE") if now.kind in TABLES | VIEWS | {"foreign table"} else word_of(now)
    for role, privilege, star in granted:
        what = SQL(f"{privilege} ({column})" if column else privilege)
        whom = SQL("PUBLIC") if role == "PUBLIC" else Identifier(role)
        option = " WITH GRANT OPTION" if star and statement.startswith("GRANT") else ""
        yield spelled(f"{statement}{option}", what, kind, name_of(now), whom)


_OF_FACTS = {
    facts.COMMENT: _of_comment, facts.OWNER: _of_owner, facts.PERSISTENCE: _of_persistence, facts.BOUND: _of_bound,
    facts.NOT_VALID: _of_validity, facts.ENABLED: _of_enabled, facts.NOT_ENFORCED: _of_key_triggers,
    facts.NOT_POPULATED: _of_population, facts.ROW_SECURITY: _of_row_security, facts.FORCED: _of_row_security,
    facts.ATTACHED: _of_attachment, facts.CLUSTERED: _of_cluster, facts.REPLICA_IDENTITY: _of_replica_identity,
    facts.INVALID: _of_index_validity, facts.OPTIONS: _of_options, facts.PRIVILEGES: _of_privileges,
    facts.POSITION: _of_position, facts.STATISTICS: _of_target, facts.OWNED_BY: _of_owning_column,
    facts.TABLESPACE: _of_tablespace,
}  # fmt: skip
