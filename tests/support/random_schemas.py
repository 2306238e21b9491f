"""Random small schemas, with rows and changes to these, as hypothesis draws them.

A schema is drawn as data and rendered to SQL. Its statements are valid by construction; of its rows the server is the judge:
one that violates a key or a check is left out by whoever runs `Schema.rows`. Values come from small pools and a drawn seed,
because a value for each column of each row is more than hypothesis lets one example draw.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from random import Random
from typing import Any

from hypothesis import strategies as st

OWNER = "consulting_owner"
GRANTEES = ("consulting_app", "PUBLIC")
BYTES_OF_A_NAME = 63


def ident(name: str) -> str:
    """Quote a name."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Quote a text; standard_conforming_strings is on."""
    return "'" + text.replace("'", "''") + "'"


# --- names ---------------------------------------------------------------------------------------------------------------

ODD_NAMES = [
    "t", "T", "t_1", "t_10", "t_", "select", "user", "public", "null", "a b", " leading", "trailing ", 'say "x"', '"', "it's",
    "a.b", ".", "..", "a/b", "/", "100%", "%s %(x)s", "{0}", "{", "back\\slash", "\\.", "\\N", "日本語の表", "𠮷😀", "é", "e\u0301",
    "a;b", "--", "/*", "*/", "$$", "$1", "a,b", "(a)", "tab\tname", "new\nline", "~", "*", "-", "-x", "#", "TABLE t", "t ON t",
    "x" * 63, "x" * 62, "表" * 21, "Größe", "ı", "İ", "manifest.json", "schema.dump.zst", "con", "a:b", "?", "\x7f", "\u00a0",
    "\u200b",
]  # fmt: skip
SOME_NAMES = st.text(alphabet="abAB _.-%{}\\'\"日ß/:;$", min_size=1, max_size=12)
NAMES = st.one_of(st.sampled_from(ODD_NAMES), st.sampled_from(ODD_NAMES), SOME_NAMES)


@dataclass
class Namer:
    """Gives each object a name of its own."""

    draw: Callable[[Any], Any]
    taken: set[str] = field(default_factory=set)

    def __call__(self) -> str:
        name = wanted = str(self.draw(NAMES))
        number = 1
        while name in self.taken:
            number += 1
            name = f"{_shortened(wanted, BYTES_OF_A_NAME - len(str(number)))}{number}"
        self.taken.add(name)
        return name


def _shortened(name: str, size: int) -> str:
    return name.encode()[:size].decode(errors="ignore")


# --- types ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kind:
    """A type, literals of it, and what else it can be used for; `nth` makes as many different literals as are asked for."""

    sql: str
    pool: tuple[str, ...]
    nth: Callable[[int], str] | None = None
    generates: tuple[str, ...] = ()
    index: str = ""

    def __repr__(self) -> str:
        return f"Kind({self.sql})"


TEXTS = [
    "", "a", "A", " ", "NULL", "\\N", "\\.", "\\", "\t", "\n", "\r\n", "\\.\n\\.", "a\tb\\tc\nd", "it's", '"', "%s", "{}", ",",
    "日本語", "𠮷😀", "e\u0301", "\ufeff", "\u2028", "\x01\x7f", "\x85", "\x1a", "x" * 3000, "END;", "$$",
    "-- Name: x; Type: TABLE; Schema: y; Owner: z",
]  # fmt: skip


def _texts(*texts: str) -> tuple[str, ...]:
    return tuple(map(literal, texts))


def _cast(kind: str, *texts: str) -> tuple[str, ...]:
    return tuple(f"{literal(text)}::{kind}" for text in texts)


INSTANTS = [
    "infinity", "-infinity", "2024-02-29 23:59:59.999999", "4713-01-01 00:00:00 BC", "0044-03-15 12:00:00 BC", "294276-12-31",
]  # fmt: skip
BUILT_IN = [
    Kind("integer", ("0", "-1", "2147483647", "-2147483648"), str, ("{} / 2", "{} IS NULL")),
    Kind("bigint", ("0", "9223372036854775807", "-9223372036854775808"), str, ("{} / 3",)),
    Kind("smallint", ("0", "32767", "-32768"), str, ("{} % 2",)),
    Kind("numeric", _cast("numeric", "NaN", "Infinity", "-Infinity", "0", "0.000", "1e-40", "1e60", "-1.50"),
         lambda n: f"{n}.{n % 2 * '0'}5", ("abs({})",)),
    Kind("numeric(10,3)", _cast("numeric", "NaN", "0", "1234567.891", "-0.001"), lambda n: f"{n}.25", ("{} IS NULL",)),
    Kind("double precision", _cast("float8", "-0", "0", "NaN", "Infinity", "-Infinity", "1e-310", "1.7976931348623157e308", "0.1"),
         lambda n: f"{n}.125", ("{} IS NULL",)),
    Kind("real", _cast("real", "-0", "NaN", "Infinity", "1e-40", "3.4e38", "0.1"), None, ("- {}",)),
    Kind("text", _texts(*TEXTS), lambda n: literal(f"k{n}"), ("upper({})", "length({})", "{} || {}"),
         "gin (to_tsvector('simple', {}))"),
    Kind('text COLLATE "C"', _texts(*TEXTS), lambda n: literal(f"k\n{n}"), ("upper({})",), "btree ({} text_pattern_ops)"),
    Kind("character varying(40)", _texts(*(one for one in TEXTS if len(one) < 40)), lambda n: literal(f"{n}\\"), ("{} IS NULL",)),
    Kind("character(5)", _texts("", "a", "ab ", "日本", "\\.", "\t"), lambda n: literal(str(n)), ("length({})",)),
    Kind('"char"', _cast('"char"', "", "a", "\\377", "\\"), None),
    Kind("name", _cast("name", "", "a", "x" * 63, "\\."), None),
    Kind("boolean", ("true", "false"), None, ("NOT {}",)),
    Kind("bytea", _cast("bytea", "", "\\x00", "\\x5c2e0a", "\\xff00ff", "\\x09"), lambda n: f"'\\x{n:04x}'::bytea", ("md5({})",)),
    Kind("uuid", _cast("uuid", "00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff"),
         lambda n: f"'00000000-0000-4000-8000-{n:012x}'::uuid", (), "hash ({})"),
    Kind("json", _cast("json", "null", '{"a" : 1,  "a": 2}', '"\\u0041\\\\"', "[]", "\n1\t")),
    Kind("jsonb", _cast("jsonb", "null", '{"a": {"b": [1, 2.00, null]}}', '"\\n\\\\"', "[]", '{"": "𠮷"}'), None, ("{} IS NULL",),
         "gin ({} jsonb_path_ops)"),
    Kind("jsonpath", _cast("jsonpath", "$", '$."a b"[*] ? (@ > 1)')),
    Kind("integer[]", _cast("int[]", "{}", "{1,NULL}", "{{1,2},{3,4}}", "[-1:1]={1,2,3}"), None, ("cardinality({})",), "gin ({})"),
    Kind("text[]", ("ARRAY[]::text[]", "ARRAY['', NULL, 'NULL', '{}']", "ARRAY['a\\\"b', E'\\t\\n']"), None, ("cardinality({})",)),
    Kind("numeric(6,2)[]", _cast("numeric[]", "{NaN,1.5}", "{}")),
    Kind("int4range", _cast("int4range", "empty", "(,)", "[1,5)", "(,3]"), lambda n: f"'[{n * 2},{n * 2 + 2})'::int4range",
         ("isempty({})",), "gist ({})"),
    Kind("numrange", _cast("numrange", "empty", "[NaN,NaN]", "(1.10,2.0]")),
    Kind("tstzrange", _cast("tstzrange", "empty", "[2024-01-01 00:00+09,infinity]", "(,2024-01-01)")),
    Kind("datemultirange", _cast("datemultirange", "{}", "{[2024-01-01,2024-02-01),[2025-01-01,)}")),
    Kind("date", _cast("date", "infinity", "-infinity", "4713-01-01 BC", "5874897-12-31", "2000-02-29"),
         lambda n: f"DATE '2000-01-01' + {n}", ("{} IS NULL",), "brin ({})"),
    Kind("timestamp", _cast("timestamp", *INSTANTS), lambda n: f"TIMESTAMP '2000-01-01' + interval '{n} h'", ("{} IS NULL",)),
    Kind("timestamptz", _cast("timestamptz", *INSTANTS[:3], "2024-11-03 01:30:00 America/New_York"),
         lambda n: f"TIMESTAMPTZ '2000-01-01 UTC' + interval '{n} h'", ("{} IS NULL",), "brin ({}) WITH (pages_per_range = 2)"),
    Kind("timestamptz(3)", _cast("timestamptz", "2024-02-29 23:59:59.9996+09", "infinity")),
    Kind("time", _cast("time", "24:00:00", "00:00:00.000001"), None, ("{} IS NULL",)),
    Kind("time with time zone", _cast("timetz", "24:00:00+05:30", "00:00:00-15:59")),
    Kind("interval", _cast("interval", "-1 mon +3 days -00:00:00.000001", "0", "178000000 years", "infinity"), None, ("- {}",)),
    Kind("bit(3)", ("B'101'", "B'000'")),
    Kind("bit varying", ("B''", "B'1'", "B'10101010101'")),
    Kind("inet", _cast("inet", "::1/64", "10.0.0.1", "192.168.0.1/24"), lambda n: f"'10.0.{n // 256}.{n % 256}'::inet", (),
         "gist ({} inet_ops)"),
    Kind("cidr", _cast("cidr", "10.0.0.0/8", "::/0")),
    Kind("macaddr8", _cast("macaddr8", "08:00:2b:01:02:03:04:05")),
    Kind("money", _cast("money", "12.34", "-0.01", "-92233720368547758.08")),
    Kind("tsvector", _cast("tsvector", "", "'it''s':1A b:2", "'a\\\\b'"), None, (), "gin ({})"),
    Kind("tsquery", _cast("tsquery", "", "a & !b:*A | 'c d'")),
    # No xml: the servers of the wheel are built without libxml.
    Kind("point", _cast("point", "(1e300,-0)", "(NaN,1)"), None, (), "gist ({})"),
    Kind("polygon", _cast("polygon", "((0,0),(1,1),(1,0))")),
    Kind("circle", _cast("circle", "<(0,0),0.1>")),
    Kind("pg_lsn", _cast("pg_lsn", "0/0", "FFFFFFFF/FFFFFFFF")),
    Kind("oid", ("0", "4294967295"), str),
    Kind("xid8", _cast("xid8", "18446744073709551615")),
    Kind("regtype", _cast("regtype", "integer")),
]  # fmt: skip
BY_NAME = {kind.sql: kind for kind in BUILT_IN}
KEY_KINDS = [kind for kind in BUILT_IN if kind.nth]
RANGE_KINDS = [BY_NAME[name] for name in ("integer", "numeric(10,3)", "date", "timestamptz", "uuid")]
LIST_KINDS = [BY_NAME[name] for name in ("integer", "text", "date", "uuid", "character varying(40)", "bytea")]
HASH_KINDS = [*RANGE_KINDS, *LIST_KINDS]
SERIAL_KINDS = [BY_NAME[name] for name in ("smallint", "integer", "bigint")]


@dataclass(frozen=True)
class Version:
    """What the server can do that the schema is for."""

    major: int = 18
    icu: bool = False


# --- what a schema consists of -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Column:
    """A column; `rest` is what stands behind its type, `given` says whether an INSERT may name it."""

    name: str
    kind: Kind
    rest: str = ""
    given: bool = True
    pool: tuple[str, ...] = ()
    identity: bool = False
    refers: bool = False

    def __str__(self) -> str:
        return f"{ident(self.name)} {self.kind.sql}{self.rest}"

    def value(self, random: Random, largest: int) -> str:
        """Return a literal, or DEFAULT."""
        if self.refers and random.random() < 0.4:
            return "NULL"
        if not self.pool and self.kind.nth:
            return self.kind.nth(random.randrange(largest + 1))
        if random.random() < 0.2:
            return "DEFAULT" if "NOT NULL" in self.rest else random.choice(["NULL", "DEFAULT"])
        return random.choice(self.pool or self.kind.pool)


@dataclass(frozen=True)
class Partition:
    """A partition of a table or of a partition; attached ones were made by themselves, with their columns in another order."""

    name: str
    bound: str
    attached: bool = False
    by: str = ""
    partitions: tuple["Partition", ...] = ()
    elsewhere: bool = False


@dataclass(frozen=True)
class ForeignKey:
    """A foreign key; those that are not validated are made when the rows are there, which may violate them."""

    table: str
    name: str
    columns: tuple[str, ...]
    parent: str
    referenced: tuple[str, ...]
    rest: str
    valid: bool


@dataclass(frozen=True)
class Table:
    """A table with what belongs to it; `later` are statements for when it has rows."""

    name: str
    columns: tuple[Column, ...]
    key: tuple[Column, ...] = ()
    constraints: tuple[str, ...] = ()
    unlogged: bool = False
    dropped: tuple[str, ...] = ()
    by: str = ""
    partitions: tuple[Partition, ...] = ()
    child: tuple[str, tuple[Column, ...]] | None = None
    statements: tuple[str, ...] = ()
    later: tuple[str, ...] = ()
    rows: int = 0
    seed: int = 0


@dataclass(frozen=True)
class View:
    """A view, or a materialized one."""

    name: str
    query: str
    materialized: bool
    populated: bool = True
    statements: tuple[str, ...] = ()


@dataclass(frozen=True)
class Piece:
    """What stands around the tables, as statements that are run when these have rows.

    The owner runs his; an administrator what is to be there `first`, what comes `last`, and what belongs to other contexts
    (`theirs`); `tables`, `views` are the context's, `neighbours` tables that others look after.
    """

    first: tuple[str, ...] = ()
    owner: tuple[str, ...] = ()
    last: tuple[str, ...] = ()
    theirs: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()
    views: tuple[View, ...] = ()
    neighbours: tuple[str, ...] = ()


@dataclass(frozen=True)
class Schema:
    """All of it. An administrator makes `spaces`, the owner the rest; `prefix` is what tables need, `rows` may fail one by one."""

    namespace: str
    other: str
    spaces: tuple[str, ...]
    prefix: tuple[str, ...]
    tables: tuple[Table, ...]
    keys: tuple[ForeignKey, ...]
    views: tuple[View, ...]
    around: tuple[Piece, ...] = ()

    def all_tables(self) -> list[str]:
        """Return the names of the context's tables."""
        return [*(table.name for table in self.tables), *(name for piece in self.around for name in piece.tables)]

    def all_views(self) -> list[View]:
        """Return the views that the context names."""
        return [*self.views, *(view for piece in self.around for view in piece.views)]

    def statements(self) -> Iterator[str]:
        """Yield what has to be run before there are rows."""
        yield from self.prefix
        for table in self.tables:
            yield from self._create(table)
        for key in self.keys:
            if key.valid:
                yield self._add(key)

    def rows(self) -> Iterator[str]:
        """Yield statements that write rows; one that fails is passed over."""
        for table in self.tables:
            yield from self.inserts(table, table.rows, Random(table.seed))
        for key in self.keys:
            if key.valid:
                yield self._refer(key)

    def finish(self) -> Iterator[str]:
        """Yield what has to be run when there are rows."""
        for table in self.tables:
            yield from table.later
        for key in self.keys:
            if not key.valid:
                yield self._add(key)
        for piece in self.around:
            yield from piece.owner
        for view in self.all_views():
            kind = "MATERIALIZED VIEW" if view.materialized else "VIEW"
            data = "" if view.populated else " WITH NO DATA"
            yield f"CREATE {kind} {ident(view.name)} AS {view.query}{data}"
            yield from view.statements

    def refresh(self) -> Iterator[str]:
        """Yield what fills the materialized views that are populated."""
        for view in self.all_views():
            if view.materialized and view.populated:
                yield f"REFRESH MATERIALIZED VIEW {ident(view.name)}"

    def inserts(self, table: Table, count: int, random: Random) -> Iterator[str]:
        """Yield INSERTs of random rows, into children too."""
        for _ in range(count):
            child = table.child if random.random() < 0.4 else None
            name = child[0] if child else table.name
            given = [one for one in (*table.columns, *(child[1] if child else ())) if one.given]
            if not given or random.random() < 0.05:
                yield f"INSERT INTO {ident(name)} DEFAULT VALUES"
                continue
            values = ", ".join(one.value(random, 2 * table.rows) for one in given)
            yield f"INSERT INTO {ident(name)} ({', '.join(ident(one.name) for one in given)}) VALUES ({values})"

    def _create(self, table: Table) -> Iterator[str]:
        gone = [f"{ident(name)} text" for name in table.dropped]
        parts = ", ".join([*gone, *map(str, table.columns), *table.constraints])
        kind = "UNLOGGED TABLE" if table.unlogged else "TABLE"
        by = f" PARTITION BY {table.by}" if table.by else ""
        yield f"CREATE {kind} {ident(table.name)} ({parts}){by}"
        for name in table.dropped:
            yield f"ALTER TABLE {ident(table.name)} DROP COLUMN {ident(name)}"
        for partition in table.partitions:
            yield from self._partition(table, table.name, partition)
        if table.child:
            name, columns = table.child
            yield f"CREATE TABLE {ident(name)} ({', '.join(map(str, columns))}) INHERITS ({ident(table.name)})"
        yield from table.statements

    def _partition(self, table: Table, parent: str, one: Partition) -> Iterator[str]:
        name = f"{ident(self.other)}.{ident(one.name)}" if one.elsewhere else ident(one.name)
        above = f"{ident(self.other)}.{ident(parent)}" if self._is_elsewhere(table, parent) else ident(parent)
        by = f" PARTITION BY {one.by}" if one.by else ""
        if one.attached:
            required = {*table.key, *(one for one in table.columns if one.identity)}
            columns = [replace(one, rest=" NOT NULL") if one in required else one for one in reversed(table.columns)]
            parts = ", ".join(["weg text", *map(str, columns), *(c for c in table.constraints if " CHECK " in c)])
            yield f"CREATE TABLE {name} ({parts}){by}"
            yield f"ALTER TABLE {name} DROP COLUMN weg"
            yield f"ALTER TABLE {above} ATTACH PARTITION {name} {one.bound}"
        else:
            yield f"CREATE TABLE {name} PARTITION OF {above} {one.bound}{by}"
        for below in one.partitions:
            yield from self._partition(table, one.name, below)

    def _is_elsewhere(self, table: Table, name: str) -> bool:
        return any(one.name == name and one.elsewhere for one in table.partitions)

    def _add(self, key: ForeignKey) -> str:
        listed, referenced = (", ".join(map(ident, names)) for names in (key.columns, key.referenced))
        valid = "" if key.valid else " NOT VALID"
        return (
            f"ALTER TABLE {ident(key.table)} ADD CONSTRAINT {ident(key.name)} FOREIGN KEY ({listed})"
            f" REFERENCES {ident(key.parent)} ({referenced}){key.rest}{valid}"
        )

    def _refer(self, key: ForeignKey) -> str:
        """Let rows refer to the last row that can be referred to: what makes cycles."""
        listed, referenced = (", ".join(map(ident, names)) for names in (key.columns, key.referenced))
        return (
            f"UPDATE {ident(key.table)} SET ({listed}) = (SELECT {referenced} FROM {ident(key.parent)} ORDER BY {referenced} DESC"
            f" LIMIT 1) WHERE {ident(key.columns[0])} IS NULL"
        )


# --- drawing it ----------------------------------------------------------------------------------------------------------

Draw = Callable[[st.SearchStrategy[Any]], Any]


def _maybe(draw: Draw, one_in: int = 3) -> bool:
    return bool(draw(st.integers(0, one_in - 1)) == one_in - 1)


def _one(draw: Draw, values: Sequence[Any]) -> Any:
    return draw(st.sampled_from(values))


def _some(draw: Draw, values: Sequence[Any], least: int, most: int) -> list[Any]:
    return list(draw(st.lists(st.sampled_from(values), min_size=least, max_size=most)))


def _subset(draw: Draw, values: Sequence[Any], least: int, most: int) -> list[Any]:
    return list(draw(st.lists(st.sampled_from(values), min_size=least, max_size=most, unique_by=id)))


@dataclass
class Types:
    """Types, functions and sequences of a schema, and the statements that make each of them, by its name."""

    statements: dict[str, list[str]]
    kinds: list[Kind]
    sequence: str
    doubles: str
    fires: str
    role: str
    server: "Version"


def _types(draw: Draw, names: Namer, namespace: str, other: str, role: str, server: "Version") -> Types:
    def place() -> str:
        return f"{ident(_one(draw, [namespace, other]))}.{ident(names())}"

    enum, domain, strict, composite, spans, helper, deeper, fires, sequence = (place() for _ in range(9))
    labels = list(dict.fromkeys([*draw(st.lists(NAMES, min_size=1, max_size=4)), "", "end"]))
    default = f" DEFAULT {literal(labels[0])}" if _maybe(draw) else ""
    statements = {
        enum: [
            f"CREATE TYPE {enum} AS ENUM ({', '.join(map(literal, labels))})",
            f"COMMENT ON TYPE {enum} IS {literal(_one(draw, TEXTS))}",
            f"ALTER TYPE {enum} ADD VALUE 'added later' BEFORE {literal(labels[0])}",
        ],
        domain: [f"CREATE DOMAIN {domain} AS text CONSTRAINT {ident(names())} CHECK (VALUE NOT IN ('forbidden', 'it''s'))"],
        strict: [f"CREATE DOMAIN {strict} AS numeric(6, 2) DEFAULT 1.5 NOT NULL CHECK (VALUE > -100)"],
        composite: [f"CREATE TYPE {composite} AS ({ident(names())} text, {ident(names())} {enum}, {ident(names())} integer[])"],
        spans: [f"CREATE TYPE {spans} AS RANGE (subtype = numeric)"],
        deeper: [f"CREATE FUNCTION {deeper}(n bigint) RETURNS bigint LANGUAGE sql IMMUTABLE AS $f$ SELECT n + 1 $f$"],
        helper: [
            f"CREATE FUNCTION {helper}(n bigint DEFAULT 2) RETURNS bigint LANGUAGE plpgsql IMMUTABLE AS "
            f"$f$ BEGIN /* $$ ' \\ % */ RETURN {deeper}(n) * 2; END $f$",
            f"REVOKE EXECUTE ON FUNCTION {helper}(bigint) FROM PUBLIC",
            f"GRANT EXECUTE ON FUNCTION {helper}(bigint) TO {role} WITH GRANT OPTION",
        ],
        fires: [
            f"CREATE FUNCTION {fires}() RETURNS trigger LANGUAGE plpgsql AS "
            f"$f$ BEGIN\n\n    PERFORM {helper}(1); -- SET default_x = 1;\n"
            f"    IF session_user = 'backup_restorer' THEN RAISE 'a restore lets triggers fire'; END IF;\n"
            f"    RETURN coalesce(NEW, OLD); END $f$",
            f"COMMENT ON FUNCTION {fires}() IS {literal(_one(draw, TEXTS))}",
        ],
        sequence: [
            f"CREATE SEQUENCE {sequence} AS bigint INCREMENT BY {_one(draw, [1, 10, -7])} CACHE {_one(draw, [1, 5])}",
            f"GRANT USAGE ON SEQUENCE {sequence} TO {role}",
        ],
    }  # fmt: skip
    kinds = [
        Kind(f"{enum}{default}", tuple(f"{literal(label)}::{enum}" for label in labels),
             lambda n: f"{literal(labels[n % len(labels)])}::{enum}", ("{} IS NULL",)),
        Kind(f"{enum}[]", (f"ARRAY[{literal(labels[0])}, NULL]::{enum}[]", f"'{{}}'::{enum}[]")),
        Kind(domain, _texts("", "a", "\\.", "\t"), lambda n: literal(f"d{n}"), ("length({})",)),
        Kind(f"{domain}[]", (f"ARRAY['', NULL, 'a,b']::{domain}[]",)),
        Kind(strict, ("0", "99.5", "'NaN'")),
        Kind(composite, (f"ROW('a\"b', {literal(labels[-1])}, '{{1,NULL}}')::{composite}", f"ROW(NULL, NULL, NULL)::{composite}",
                         f"ROW('', {literal(labels[0])}, '{{}}')::{composite}")),
        Kind(f"{composite}[]", (f"ARRAY[ROW(E'\\t\\\\', NULL, NULL)::{composite}, NULL]",)),
        Kind(spans, (f"'empty'::{spans}", f"'[1.50,)'::{spans}"), lambda n: f"'[{n},{n}]'::{spans}"),
    ]  # fmt: skip
    return Types(statements, kinds, sequence, helper, fires, role, server)


def _pool(draw: Draw, kind: Kind) -> tuple[str, ...]:
    pool = _some(draw, kind.pool, 1, 4)
    if kind.sql == "text" and _maybe(draw):
        text = draw(st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\0"), max_size=12))
        pool.append(literal(text))
    return tuple(pool)


def _plain_column(draw: Draw, names: Namer, types: Types) -> Column:
    kind = _one(draw, [*BUILT_IN, *types.kinds, *types.kinds])
    if kind.sql == "interval" and types.server.major < 17:
        kind = replace(kind, pool=tuple(one for one in kind.pool if "infinity" not in one))
    column = Column(names(), kind, pool=_pool(draw, kind))
    match _one(draw, ["", "", "default", "not null", "named not null"]):
        case "default" if "DEFAULT" not in kind.sql:
            return replace(column, rest=f" DEFAULT {column.pool[0]}")
        case "not null":
            return replace(column, rest=" NOT NULL")
        case "named not null":
            return replace(column, rest=f" CONSTRAINT {ident(_shortened(f'must have {column.name}', BYTES_OF_A_NAME))} NOT NULL")
    return column


def _special_columns(draw: Draw, names: Namer, types: Types, plain: Sequence[Column]) -> list[Column]:
    """Draw columns whose values the server makes."""
    found = []
    if _maybe(draw):
        how = _one(draw, ["ALWAYS", "BY DEFAULT"])
        steps = _one(draw, ["", " (START WITH -5 INCREMENT BY -3)", " (START 100 MAXVALUE 30000 CYCLE CACHE 3)"])
        rest = f" GENERATED {how} AS IDENTITY{steps}"
        found.append(Column(names(), _one(draw, SERIAL_KINDS), rest, given=False, identity=True))
    if _maybe(draw):
        found.append(Column(names(), BY_NAME["bigint"], f" DEFAULT nextval({literal(types.sequence)})", given=False))
    if _maybe(draw, 4):
        found.append(Column(names(), BY_NAME["bigint"], f" DEFAULT {types.doubles}()", given=False))
    if (sources := [one for one in plain if one.kind.generates]) and _maybe(draw, 2):
        source = _one(draw, sources)
        expression = _one(draw, source.kind.generates).replace("{}", ident(source.name))
        # A virtual column may use no type that a user made.
        ways = ["STORED", "VIRTUAL"] if source.kind in BUILT_IN and types.server.major >= 18 else ["STORED"]
        kind = Kind(_type_of(expression, source.kind), ())
        found.append(Column(names(), kind, f" GENERATED ALWAYS AS ({expression}) {_one(draw, ways)}", given=False))
    return found


def _type_of(expression: str, source: Kind) -> str:
    if expression.endswith("IS NULL") or expression.startswith(("NOT ", "isempty(")):
        return "boolean"
    if expression.startswith(("length(", "cardinality(")):
        return "integer"
    if expression.startswith(("upper(", "md5(")) or "||" in expression:
        return "text"
    return source.sql


@dataclass
class Drawing:
    """What is drawn of one table before it is whole."""

    draw: Draw
    names: Namer
    types: Types
    other: str
    rules: bool

    def table(self) -> Table:
        """Draw a table by itself: without foreign keys and what is made of its columns."""
        draw, names = self.draw, Namer(self.draw)
        columns = [_plain_column(draw, names, self.types) for _ in range(draw(st.integers(0, 4)))]
        columns += _special_columns(draw, names, self.types, columns)
        key = [self._key_column(names) for _ in range(_one(draw, [0, 1, 1, 1, 2, 3]))]
        by, partitions = "", tuple[Partition, ...]()
        if _maybe(draw, 3):
            kinds = [*HASH_KINDS, *(one for one in self.types.kinds if one.nth)]
            first, second = (self._key_column(names, kinds) for _ in range(2))
            if key:
                key = [*key, first, second]
            else:
                columns += [first, second]
            # A dump attaches a partition that has partitions when the table has its identity already, which PostgreSQL then
            # hands down one level only: pg_dump and psql lose it in the same way.
            identity = any(one.identity for one in columns)
            by, partitions = self._partitioned([first] if identity else [first, second])
        columns = list(draw(st.permutations([*columns, *key])))
        primary = tuple(draw(st.permutations(key)))
        return Table(
            self.names(), tuple(columns), primary, by=by, partitions=partitions,
            dropped=tuple(names() for _ in range(_one(draw, [0, 0, 1, 2]))),
            unlogged=not by and _maybe(draw, 8), rows=_one(draw, [0, 3, 9, 30]), seed=draw(st.integers(0, 2**16)),
        )  # fmt: skip

    def _key_column(self, names: Namer, kinds: Sequence[Kind] = ()) -> Column:
        return Column(names(), _one(self.draw, kinds or [*KEY_KINDS, *(one for one in self.types.kinds if one.nth)]))

    def _partitioned(self, columns: Sequence[Column], depth: int = 0) -> tuple[str, tuple[Partition, ...]]:
        column = columns[depth]
        ways = ["HASH", *(["RANGE"] if column.kind in RANGE_KINDS else []), *(["LIST"] if column.kind in LIST_KINDS else [])]
        way = _one(self.draw, ways)
        bounds = getattr(self, f"_{way.lower()}_bounds")(column)
        return f"{way} ({ident(column.name)})", tuple(self._partition(bound, columns, depth) for bound in bounds)

    def _partition(self, bound: str, columns: Sequence[Column], depth: int) -> Partition:
        draw = self.draw
        divided = depth + 1 < len(columns) and _maybe(draw, 4)
        below = self._partitioned(columns, depth + 1) if divided else ("", ())
        return Partition(self.names(), bound, _maybe(draw), *below, elsewhere=depth == 0 and _maybe(draw, 6))

    def _range_bounds(self, column: Column) -> list[str]:
        assert column.kind.nth
        edges = [column.kind.nth(n) for n in sorted(self.draw(st.sets(st.integers(0, 30), min_size=1, max_size=3)))]
        if _maybe(self.draw, 2):
            edges = ["MINVALUE", *edges]
        if _maybe(self.draw, 2):
            edges = [*edges, "MAXVALUE"]
        bounds = [f"FOR VALUES FROM ({low}) TO ({high})" for low, high in pairwise(edges)]
        return bounds if _maybe(self.draw) and bounds else [*bounds, "DEFAULT"]

    def _list_bounds(self, column: Column) -> list[str]:
        assert column.kind.nth
        numbers = sorted(self.draw(st.sets(st.integers(0, 20), min_size=1, max_size=6)))
        cut = self.draw(st.integers(1, len(numbers)))
        sets = [[column.kind.nth(n) for n in part] for part in (numbers[:cut], numbers[cut:]) if part]
        bounds = [f"FOR VALUES IN ({', '.join(part)})" for part in sets]
        return bounds if _maybe(self.draw) else [*bounds, "DEFAULT"]

    def _hash_bounds(self, _: Column) -> list[str]:
        modulus = self.draw(st.integers(1, 3))
        return [f"FOR VALUES WITH (MODULUS {modulus}, REMAINDER {n})" for n in range(modulus)]

    def finished(self, table: Table, *, referred_to: bool) -> Table:
        """Draw what is made of a table's columns: constraints, indexes, triggers, comments, privileges …"""
        name = ident(table.name)
        constraints = list[str]()
        # What a foreign key refers to may not be deferrable.
        defer = "" if referred_to else self._defer()
        if table.key:
            constraints.append(f"CONSTRAINT {ident(self.names())} PRIMARY KEY {_listed(table.key)}{defer}")
        constraints += self._constraints(table)
        child = None
        if not table.by and not table.unlogged and _maybe(self.draw, 6):
            child = (self.names(), (Column(f"only of the child {table.name}"[:20], BY_NAME["text"], pool=_texts("x", "y")),))
        statements = [
            *self._indexes(table), *self._triggers(name), *self._security(table), *self._comments(table),
            *self._details(table, child is not None),
        ]  # fmt: skip
        later = tuple(self._later(table, child is not None))
        return replace(
            table, constraints=tuple(constraints), child=child, statements=tuple(statements), later=later,
        )  # fmt: skip

    def _later(self, table: Table, has_child: bool) -> Iterator[str]:
        """Draw what is done to a table when it has rows, which need not keep to what is not validated."""
        name, draw = ident(table.name), self.draw
        # A dump puts what a child inherits before its own columns, and so does not keep the place of what its parent got later.
        if not has_child and _maybe(draw, 5):
            yield f"ALTER TABLE {name} ADD COLUMN {ident('added ' + table.name[:9])} text DEFAULT {literal(_one(draw, TEXTS))}"
        columns = [one for one in table.columns if one.given and one not in table.key and "NOT NULL" not in one.rest]
        if not columns or table.by or not _maybe(draw, 2):
            return
        column = ident(_one(draw, columns).name)
        new = ["NOT NULL {} NOT VALID", "CHECK ({} IS NULL) NOT ENFORCED"] if self.types.server.major >= 18 else []
        what = _one(draw, ["CHECK ({} IS NULL) NOT VALID", *new])
        yield f"ALTER TABLE {name} ADD CONSTRAINT {ident(self.names())} {what.replace('{}', column)}"

    def _defer(self) -> str:
        return str(_one(self.draw, ["", "", "", " DEFERRABLE", " DEFERRABLE INITIALLY DEFERRED"]))

    def _constraints(self, table: Table) -> Iterator[str]:
        draw = self.draw
        texts = [one for one in table.columns if one.kind.sql.startswith(("text", "character varying")) and "[" not in one.kind.sql]
        if texts and _maybe(draw, 2):
            column = ident(_one(draw, texts).name)
            check = _one(draw, [f"{column} NOT IN ('a', 'it''s')", f"{column} <> 'x'", f"length({column}) < 5000"])
            yield f"CONSTRAINT {ident(self.names())} CHECK ({check})"
        if not table.by and table.key and _maybe(draw, 3):
            unique = _one(draw, ["UNIQUE", "UNIQUE NULLS NOT DISTINCT"])
            yield f"CONSTRAINT {ident(self.names())} {unique} {_listed(table.key[:2])}{self._defer()}"
        ranges = [one for one in table.columns if one.kind.sql == "int4range"]
        if ranges and not table.by:
            yield f"CONSTRAINT {ident(self.names())} EXCLUDE USING gist ({ident(ranges[0].name)} WITH &&){self._defer()}"

    def _indexes(self, table: Table) -> Iterator[str]:
        name, draw = ident(table.name), self.draw
        special = [one for one in table.columns if one.kind.index]
        if special and _maybe(draw, 2):
            column = _one(draw, special)
            yield f"CREATE INDEX {ident(self.names())} ON {name} USING {column.kind.index.replace('{}', ident(column.name))}"
        ordinary = [one for one in table.columns if one.kind.nth and one.given]
        if ordinary and _maybe(draw, 2):
            first, last = ident(_one(draw, ordinary).name), ident(_one(draw, ordinary).name)
            where = _one(draw, ["", f" WHERE {last} IS NOT NULL"])
            yield f"CREATE INDEX ON {name} ({first} DESC NULLS LAST) INCLUDE ({last}) WITH (fillfactor = 60){where}"
        numbers = [
            one for one in table.columns if one.kind.sql in ("integer", "bigint", "smallint") and "GENERATED" not in one.rest
        ]
        if numbers and _maybe(draw, 2):
            column = ident(_one(draw, numbers).name)
            index = ident(self.names())
            yield f"CREATE INDEX {index} ON {name} ({self.types.doubles}({column}), ({column} / 2))"
            yield f"ALTER INDEX {index} ALTER COLUMN 2 SET STATISTICS 70"
        if len(ordinary) > 1 and _maybe(draw, 3):
            pair = ", ".join(ident(one.name) for one in ordinary[:2])
            yield f"CREATE STATISTICS {ident(self.other)}.{ident(self.names())} ON {pair} FROM {name}"

    def _triggers(self, name: str) -> Iterator[str]:
        draw = self.draw
        for _ in range(_one(draw, [0, 0, 1, 2])):
            trigger = ident(self.names())
            when = _one(draw, ["BEFORE INSERT OR UPDATE", "AFTER DELETE", "BEFORE DELETE", "AFTER INSERT"])
            yield f"CREATE TRIGGER {trigger} {when} ON {name} FOR EACH ROW EXECUTE FUNCTION {self.types.fires}()"
            if state := _one(draw, ["", "DISABLE", "ENABLE ALWAYS", "ENABLE REPLICA"]):
                yield f"ALTER TABLE {name} {state} TRIGGER {trigger}"
            if _maybe(draw):
                yield f"COMMENT ON TRIGGER {trigger} ON {name} IS {literal(_one(draw, TEXTS))}"

    def _security(self, table: Table) -> Iterator[str]:
        name, draw = ident(table.name), self.draw
        for grantee in _subset(draw, [*GRANTEES, self.types.role], 0, 3):
            what = _one(draw, ["SELECT", "INSERT, UPDATE", "ALL", "TRIGGER, REFERENCES"])
            option = "" if grantee == "PUBLIC" else _one(draw, ["", " WITH GRANT OPTION"])
            columns = f" ({ident(table.columns[0].name)})" if what == "SELECT" and table.columns and _maybe(draw, 2) else ""
            yield f"GRANT {what}{columns} ON {name} TO {grantee}{option}"
        if _maybe(draw, 5):
            policy = ident(self.names())
            yield f"ALTER TABLE {name} ENABLE ROW LEVEL SECURITY"
            kind = _one(draw, ["PERMISSIVE", "RESTRICTIVE"])
            yield f"CREATE POLICY {policy} ON {name} AS {kind} TO {self.types.role} USING (true)"
            yield f"COMMENT ON POLICY {policy} ON {name} IS {literal(_one(draw, TEXTS))}"
            if _maybe(draw):
                yield f"ALTER TABLE {name} FORCE ROW LEVEL SECURITY"

    def _comments(self, table: Table) -> Iterator[str]:
        name, draw = ident(table.name), self.draw
        if _maybe(draw, 2):
            yield f"COMMENT ON TABLE {name} IS {literal(_one(draw, TEXTS))}"
        if table.columns and _maybe(draw, 2):
            yield f"COMMENT ON COLUMN {name}.{ident(_one(draw, table.columns).name)} IS {literal(_one(draw, TEXTS))}"

    def _details(self, table: Table, has_child: bool) -> Iterator[str]:
        name, draw = ident(table.name), self.draw
        if not table.by and _maybe(draw, 4):
            # Where what is too long for a row went has options only as long as a column can have such values.
            toast = ", toast.autovacuum_enabled = off" if any(one.kind.sql == "text" for one in table.columns) else ""
            yield f"ALTER TABLE {name} SET (fillfactor = 70, autovacuum_enabled = off{toast})"
        if _maybe(draw, 5):
            yield f"ALTER TABLE {name} REPLICA IDENTITY {_one(draw, ['FULL', 'NOTHING'])}"
        if self.rules and _maybe(draw, 6):
            yield f"CREATE RULE {ident(self.names())} AS ON UPDATE TO {name} WHERE false DO INSTEAD NOTHING"
        texts = [one for one in table.columns if one.kind.sql.startswith("text") and "GENERATED" not in one.rest]
        if texts and _maybe(draw):
            changes = ["SET STORAGE EXTERNAL", "SET STATISTICS 77", "SET (n_distinct = 5)"]
            # A child has the compression that its parent had when it was made, and a dump cannot say that it had none.
            if not has_child:
                changes.append("SET COMPRESSION pglz")
            change = _one(draw, changes)
            yield f"ALTER TABLE {name} ALTER COLUMN {ident(texts[0].name)} {change}"

    def foreign_keys(self, tables: list[Table]) -> list[ForeignKey]:
        """Draw foreign keys between tables, and give these the columns for them."""
        found = []
        parents = [table for table in tables if table.key and not table.unlogged]
        children = [number for number, table in enumerate(tables) if not table.unlogged]
        for _ in range(self.draw(st.integers(0, 4)) if parents and children else 0):
            parent, number = _one(self.draw, parents), _one(self.draw, children)
            key, child = parent.key, tables[number]
            taken = Namer(self.draw, {one.name for one in child.columns} | set(child.dropped))
            columns = tuple(Column(taken(), one.kind, refers=True) for one in key)
            tables[number] = replace(child, columns=(*child.columns, *columns))
            parents = [tables[number] if one is child else one for one in parents]
            actions = [
                "",
                *(f" ON DELETE {action}" for action in ("CASCADE", "SET NULL", "SET DEFAULT", "RESTRICT ON UPDATE CASCADE")),
            ]
            if not child.by:
                # PostgreSQL hands the columns of SET NULL down to partitions by number, where other columns may have these.
                actions.append(f" ON DELETE SET NULL ({ident(columns[0].name)})")
            match = _one(self.draw, ["", "", " MATCH FULL"])
            found.append(
                ForeignKey(
                    child.name, self.names(), tuple(one.name for one in columns), parent.name, tuple(one.name for one in key),
                    f"{match}{_one(self.draw, actions)}{self._defer()}",
                    valid=bool(child.by and self.types.server.major < 18) or not _maybe(self.draw, 5),
                )
            )  # fmt: skip
        return found

    def views(self, tables: Sequence[Table]) -> Iterator[View]:
        """Draw views of tables and of each other."""
        # To its owner a table shows no rows where row-level security is forced and no policy lets it see some.
        shown_to_owner = [table for table in tables if not any("FORCE ROW" in one for one in table.statements)]
        readable, draw = [(table.name, table.columns, True) for table in shown_to_owner], self.draw
        for _ in range(_one(draw, [0, 1, 2, 3]) if readable else 0):
            source, columns, populated = _one(draw, readable)
            shown = tuple(one for one in columns if _maybe(draw, 2)) or columns[:1]
            listed = ", ".join(ident(one.name) for one in shown)
            query = f"SELECT {listed} FROM {ident(source)}"
            if not columns or _maybe(draw, 4):
                shown, query = (Column("n", BY_NAME["bigint"]),), f"SELECT count(*) AS n FROM {ident(source)}"
            elif _maybe(draw, 4):
                query += f" WHERE {ident(columns[0].name)} IS NOT NULL OR 'it''s %' <> ''"
            name, materialized = self.names(), _maybe(draw, 2)
            filled = populated and not _maybe(draw, 4) if materialized else populated
            statements = [f"GRANT SELECT ON {ident(name)} TO {self.types.role}"] if _maybe(draw) else []
            if materialized and _maybe(draw, 4):
                statements.append(f"ALTER MATERIALIZED VIEW {ident(name)} SET (fillfactor = 50)")
            if _maybe(draw):
                kind = "MATERIALIZED VIEW" if materialized else "VIEW"
                statements.append(f"COMMENT ON {kind} {ident(name)} IS {literal(_one(draw, TEXTS))}")
            if materialized and shown == (Column("n", BY_NAME["bigint"]),):
                statements.append(f"CREATE UNIQUE INDEX ON {ident(name)} (n)")
            yield View(name, query, materialized, filled or not materialized, tuple(statements))
            readable.append((name, shown, filled))


def _listed(columns: Sequence[Column]) -> str:
    return f"({', '.join(ident(one.name) for one in columns)})"


@dataclass(frozen=True)
class Drawn:
    """A schema, and what else can be drawn of it."""

    schema: Schema
    names: Namer
    types: Types


def draw_schema(draw: Draw, role: str, server: Version, *, rules: bool) -> Drawn:
    """Draw tables and what belongs to them; `role`, quoted, is given privileges; `rules`: whether tables have some."""
    names = Namer(draw)
    spaces = Namer(draw, {"public", "user"})
    namespace, other = ("public", spaces()) if _maybe(draw, 4) else (spaces(), spaces())
    types = _types(draw, names, namespace, other, role, server)
    drawing = Drawing(draw, names, types, other, rules)
    tables = [drawing.table() for _ in range(draw(st.integers(1, 5)))]
    keys = drawing.foreign_keys(tables)
    parents = {key.parent for key in keys}
    tables = [drawing.finished(table, referred_to=table.name in parents) for table in tables]
    views = tuple(drawing.views(tables))
    schema = Schema(namespace, other, (), (), tuple(tables), tuple(keys), views)
    return Drawn(_with_what_is_used(schema, types, also_unused=_maybe(draw)), names, types)


def _with_what_is_used(schema: Schema, types: Types, *, also_unused: bool) -> Schema:
    """Add types, functions and schemas; of what nothing needs, what is in the context's schema, if at all: the rest is nobody's."""
    statements, used = [*schema.statements(), *schema.finish()], list[str]()
    # Each is made after what it needs itself.
    for name, making in reversed(types.statements.items()):
        is_used = any(literal(name)[1:-1] in one or name in one for one in statements)
        if is_used or (also_unused and name.startswith(f"{ident(schema.namespace)}.")):
            statements += making
            used = [*making, *used]
    spaces = [
        statement
        for space in (schema.namespace, schema.other)
        if space != "public" and (space == schema.namespace or any(f"{ident(space)}." in one for one in statements))
        for statement in (
            f"CREATE SCHEMA {ident(space)} AUTHORIZATION {OWNER}",
            f"GRANT USAGE ON SCHEMA {ident(space)} TO {types.role}",
            f"COMMENT ON SCHEMA {ident(space)} IS {literal(space)}",
        )
    ]
    return replace(schema, spaces=tuple(spaces), prefix=tuple(used))


@dataclass(frozen=True)
class Changes:
    """What happens to the rows of a schema, by a seed and how much of it; tables may go, too."""

    seed: int
    steps: int
    dropping: bool = False

    def statements(self, schema: Schema, leaves: Sequence[str]) -> Iterator[str]:
        """Yield what is done; `leaves` are the relations that hold rows. What fails is passed over."""
        random = Random(self.seed)
        for _ in range(self.steps):
            yield from self._step(schema, random, random.choice(schema.tables), random.choice(leaves))
        if self.dropping:
            # Not a partition alone: made anew, it is made like its parent.
            yield f"DROP TABLE {ident(random.choice(schema.tables).name)} CASCADE"

    def _step(self, schema: Schema, random: Random, table: Table, leaf: str) -> Iterator[str]:
        given = [one for one in table.columns if one.given]
        some = f"LIMIT {random.randrange(1, 4)}"
        match random.choice(["insert", "update", "update", "delete", "delete", "truncate"]):
            case "insert":
                yield from schema.inserts(table, random.randrange(1, 4), random)
            case "update" if given:
                column = random.choice(given)
                chosen = f"SELECT ctid FROM {ident(table.name)} ORDER BY ctid {some}"
                value = column.value(random, 2 * table.rows)
                yield f"UPDATE {ident(table.name)} SET {ident(column.name)} = {value} WHERE ctid IN ({chosen})"
            case "truncate":
                yield f"TRUNCATE ONLY {leaf}"
            case _:
                yield f"DELETE FROM ONLY {leaf} WHERE ctid IN (SELECT ctid FROM ONLY {leaf} ORDER BY ctid DESC {some})"


def changes(*, dropping: bool = False) -> st.SearchStrategy[Changes]:
    """Draw changes; where `dropping`, some of them drop a table."""
    return st.builds(Changes, st.integers(0, 2**16), st.integers(1, 20), st.booleans() if dropping else st.just(False))
