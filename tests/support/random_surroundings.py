"""What stands around drawn tables: objects of every other kind, others' objects among them, as hypothesis draws them.

Each is drawn as a piece: statements, and who runs them when. What a backup of the context can have of it comes back; what it
cannot is named with statements, which run once what belongs to others is there again.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hypothesis import strategies as st

from tests.support.random_schemas import (
    OWNER,
    TEXTS,
    Namer,
    Piece,
    Schema,
    Table,
    Types,
    Version,
    View,
    draw_schema,
    ident,
    literal,
)

NEIGHBOUR = "consulting_app"
BESIDE = "beside"
# What belongs to other contexts, and is there before the context's tables are.
NEIGHBOURS = (
    f"CREATE SCHEMA {BESIDE} AUTHORIZATION {NEIGHBOUR}",
    f"CREATE TABLE {BESIDE}.users (id integer PRIMARY KEY, name text DEFAULT 'somebody')",
    f"CREATE TABLE {BESIDE}.log (at timestamptz DEFAULT now(), what text)",
    f"INSERT INTO {BESIDE}.users SELECT generate_series(1, 9)",
    f"ALTER TABLE {BESIDE}.users OWNER TO {NEIGHBOUR}", f"ALTER TABLE {BESIDE}.log OWNER TO {NEIGHBOUR}",
    f"GRANT USAGE ON SCHEMA {BESIDE} TO {OWNER}", f"GRANT ALL ON {BESIDE}.users, {BESIDE}.log TO {OWNER}",
)  # fmt: skip
# What code calls of extensions: of trusted ones, which come along, and of one that only a superuser can make.
CALLS = {
    "unaccent": "unaccent('é')", "fuzzystrmatch": "soundex('a')", "pg_trgm": "similarity('a', 'b')::text",
    "citext": "'a'::citext::text", "hstore": "hstore('a', 'b')::text", "pg_freespacemap": "pg_freespace(1)::text",
}  # fmt: skip


@dataclass
class Ground:
    """What pieces are drawn on."""

    draw: Callable[[Any], Any]
    names: Namer
    schema: Schema
    types: Types
    server: Version
    columns: dict[str, Namer] = field(default_factory=dict)

    def one(self, *values: Any) -> Any:
        """Draw one of some values."""
        return self.draw(st.sampled_from(values))

    def maybe(self, one_in: int = 2) -> bool:
        """Draw a chance."""
        return bool(self.draw(st.integers(0, one_in - 1)) == one_in - 1)

    def name(self) -> str:
        """Return a new name in the context's schema, as SQL writes it."""
        return self.spelled(self.names())

    def bare(self) -> str:
        """Return a new name, quoted."""
        return ident(self.names())

    def table(self, tables: Sequence[Table] = ()) -> Table:
        """Draw a table."""
        return self.one(*(tables or self.schema.tables))

    def spelled(self, name: str) -> str:
        """Return a name with the context's schema."""
        return f"{ident(self.schema.namespace)}.{ident(name)}"

    def growing(self) -> list[Table]:
        """Return tables that may get columns: a dump does not keep the place of what a child inherits later."""
        return [one for one in self.schema.tables if not one.child]

    def readable(self) -> list[Table]:
        """Return the tables of which the owner sees all rows."""
        return [one for one in self.schema.tables if not any("FORCE ROW" in text for text in one.statements)]

    def column(self, table: Table) -> str:
        """Return a new name for a column, quoted."""
        taken = {one.name for one in table.columns} | set(table.dropped) | {f"added {table.name[:9]}"}
        return ident(self.columns.setdefault(table.name, Namer(self.draw, taken))())

    def comment(self, what: str) -> list[str]:
        """Draw a comment on something, or none."""
        return [f"COMMENT ON {what} IS {literal(self.one(*TEXTS))}"] if self.maybe(3) else []

    def text_column(self, rest: str = "") -> tuple[Table, str, str] | None:
        """Add a text column to a table; return the table, the column, and the statement."""
        if not (tables := self.growing()):
            return None
        table = self.table(tables)
        column = self.column(table)
        return table, column, f"ALTER TABLE {self.spelled(table.name)} ADD COLUMN {column} text{rest}"


# --- what belongs to tables ----------------------------------------------------------------------------------------------


def policies(g: Ground) -> Piece:
    table, name = g.spelled(g.table().name), g.bare()
    reads = f"EXISTS (SELECT FROM {g.one(f'{BESIDE}.users', f'{BESIDE}.log', *(g.spelled(one.name) for one in g.schema.tables))})"
    command, clause = g.one(
        ("ALL", f"USING ({reads})"), ("SELECT", f"USING ({reads})"), ("INSERT", f"WITH CHECK ({reads})"),
        ("UPDATE", f"USING (true) WITH CHECK ({reads})"), ("DELETE", f"USING ({reads} OR current_user = 'x')"),
    )  # fmt: skip
    return Piece(owner=(
        f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY",
        f"CREATE POLICY {name} ON {table} AS {g.one('PERMISSIVE', 'RESTRICTIVE')} FOR {command}"
        f" TO {g.one('PUBLIC', g.types.role, 'consulting_app, consulting_owner')} {clause}",
        *g.comment(f"POLICY {name} ON {table}"),
    ))  # fmt: skip


def rules(g: Ground) -> Piece:
    table, name = g.spelled(g.table().name), g.bare()
    own = g.spelled(g.table().name)
    action = g.one(
        f"INSERT INTO {BESIDE}.log (what) VALUES ('x')", f"DELETE FROM {BESIDE}.users WHERE false", "NOTIFY \"a b\"", "NOTHING",
        f"DELETE FROM {own} WHERE false", "(NOTIFY a; NOTIFY b)",
    )  # fmt: skip
    condition = "" if "NOTIFY" in action else g.one("", " WHERE false")
    return Piece(owner=(
        f"CREATE RULE {name} AS ON {g.one('INSERT', 'DELETE', 'UPDATE')} TO {table}{condition} DO ALSO {action}",
        *g.comment(f"RULE {name} ON {table}"),
    ))  # fmt: skip


def sequences_as_text(g: Ground) -> Piece | None:
    sequence = g.names()
    named = g.one(g.spelled(sequence), ident(sequence))
    form = g.one("({}::text)::regclass", "{}::regclass", "concat({})::regclass").replace("{}", literal(named))
    if not (tables := g.growing()):
        return None
    table = g.table(tables)
    return Piece(owner=(
        f"CREATE SEQUENCE {g.spelled(sequence)} INCREMENT {g.one(1, 5)}",
        f"ALTER TABLE {g.spelled(table.name)} ADD COLUMN {g.column(table)} bigint DEFAULT nextval({form})",
    ))  # fmt: skip


def searching(g: Ground) -> Piece | None:
    if not (found := g.text_column(" DEFAULT 'the quick fox'")):
        return None
    (table, column, added), name = found, g.spelled(found[0].name)
    dictionary, config, other = g.name(), g.name(), g.column(table)
    like, change = g.one(("COPY = pg_catalog.simple", "ALTER"), ("PARSER = pg_catalog.default", "ADD"))
    trigger, function = g.bare(), "tsvector_update_trigger"
    used = g.one(
        [f"ALTER TABLE {name} ADD COLUMN {other} tsvector GENERATED ALWAYS AS (to_tsvector({literal(config)}, {column})) STORED"],
        [f"ALTER TABLE {name} ADD COLUMN {other} tsvector",
         f"CREATE TRIGGER {trigger} BEFORE INSERT OR UPDATE ON {name} FOR EACH ROW"
         f" EXECUTE FUNCTION {function}({literal(other[1:-1].replace(chr(34) * 2, chr(34)))}, {literal(config)},"
         f" {literal(column[1:-1].replace(chr(34) * 2, chr(34)))})"],
        [f"CREATE INDEX ON {name} USING gin (to_tsvector({literal(config)}::regconfig, {column}))"],
        [f"CREATE VIEW {g.name()} AS SELECT ts_lexize({literal(dictionary)}, {column}) AS lexemes FROM {name}"]
        if table in g.readable() else [],
        [],
    )  # fmt: skip
    return Piece(owner=(
        added, f"CREATE TEXT SEARCH DICTIONARY {dictionary} (TEMPLATE = pg_catalog.simple, accept = {g.one('true', 'false')})",
        f"CREATE TEXT SEARCH CONFIGURATION {config} ({like})",
        f"ALTER TEXT SEARCH CONFIGURATION {config} {change} MAPPING FOR asciiword, word WITH {dictionary}, simple",
        *used, *g.comment(f"TEXT SEARCH DICTIONARY {dictionary}"), *g.comment(f"TEXT SEARCH CONFIGURATION {config}"),
    ))  # fmt: skip


def generated_with_bare_names(g: Ground) -> Piece | None:
    if not (found := g.text_column(" DEFAULT 'Ä b'")):
        return None
    table, column, added = found
    helper, slug = g.bare(), g.bare()
    language = g.one("plpgsql", "sql")
    body = {"plpgsql": f"BEGIN RETURN {helper}(v); END", "sql": f"SELECT {helper}(v)"}[language]
    return Piece(owner=(
        added, f"CREATE FUNCTION {helper}(v text) RETURNS text LANGUAGE sql IMMUTABLE AS $f$ SELECT lower(v) $f$",
        f"CREATE FUNCTION {slug}(v text) RETURNS text LANGUAGE {language} IMMUTABLE AS $f$ {body} $f$",
        f"ALTER TABLE {g.spelled(table.name)} ADD COLUMN {g.column(table)} text GENERATED ALWAYS AS ({slug}({column})) STORED",
    ))  # fmt: skip


def domains(g: Ground) -> Piece | None:
    function, domain, over = g.name(), g.name(), g.name()
    named = g.bare()
    statements = [
        f"CREATE FUNCTION {function}(v text) RETURNS boolean LANGUAGE {g.one('sql', 'plpgsql')} IMMUTABLE AS ",
        f"CREATE DOMAIN {domain} AS text COLLATE \"C\" DEFAULT 'd'"
        f" CONSTRAINT {named} CHECK ({function}(VALUE)) CHECK (VALUE <> 'x')",
        f"CREATE DOMAIN {over} AS {domain} {g.one('', 'NOT NULL ')}CHECK (length(VALUE) < 100)",
        *g.comment(f"DOMAIN {domain}"), *g.comment(f"CONSTRAINT {named} ON DOMAIN {domain}"),
        *g.one([], [f"GRANT USAGE ON TYPE {domain} TO {g.types.role}"], [f"REVOKE USAGE ON TYPE {over} FROM PUBLIC"]),
    ]  # fmt: skip
    body = "$f$ SELECT v IS NULL OR v <> '' $f$" if " sql " in statements[0] else "$f$ BEGIN RETURN v IS NULL OR v <> ''; END $f$"
    statements[0] += body
    if g.maybe() and (tables := g.growing()):
        table = g.table(tables)
        kind = g.one(over, domain, f"{domain}[]")
        default = " DEFAULT 'dd'" if kind == over else ""
        statements.append(f"ALTER TABLE {g.spelled(table.name)} ADD COLUMN {g.column(table)} {kind}{default}")
    return Piece(owner=tuple(statements))


def extensions_in_code(g: Ground) -> Piece:
    extension = g.one(*CALLS)
    call = CALLS[extension]
    if g.maybe():
        call = f"public.{call}" if "::citext" not in call else call.replace("::citext", "::public.citext")
    function, table = g.name(), g.spelled(g.table().name)
    return Piece(
        first=(f"CREATE EXTENSION IF NOT EXISTS {extension} SCHEMA public",),
        owner=(
            f"CREATE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql AS $f$ DECLARE x text; BEGIN x := {call};"
            " RETURN coalesce(NEW, OLD); END $f$",
            f"CREATE TRIGGER {g.bare()} BEFORE {g.one('INSERT', 'DELETE')} ON {table} FOR EACH ROW EXECUTE FUNCTION {function}()",
        ),
    )  # fmt: skip


def triggers(g: Ground) -> Piece:
    function, table, trigger = g.name(), g.table(), g.bare()
    name = g.spelled(table.name)
    body = g.one(
        "PERFORM count(*) FROM seen;", f"INSERT INTO {BESIDE}.log (what) VALUES (TG_OP);", "PERFORM 1;",
        f"PERFORM 1 FROM {g.spelled(g.table().name)} LIMIT 1;",
    )  # fmt: skip
    if "seen" in body:
        how = f"AFTER UPDATE ON {name} REFERENCING NEW TABLE AS seen FOR EACH STATEMENT"
    else:
        how = g.one(
            f"AFTER TRUNCATE ON {name} FOR EACH STATEMENT", f"BEFORE UPDATE ON {name} FOR EACH STATEMENT",
            f"AFTER INSERT OR DELETE ON {name} DEFERRABLE INITIALLY DEFERRED FOR EACH ROW",
        )  # fmt: skip
    kind = "CONSTRAINT TRIGGER" if "DEFERRABLE" in how else "TRIGGER"
    return Piece(owner=(
        f"CREATE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN {body} RETURN NULL; END $f$",
        f"CREATE {kind} {trigger} {how} EXECUTE FUNCTION {function}({g.one('', literal('a b'), literal(g.one(*TEXTS[:20])))})",
        *g.comment(f"TRIGGER {trigger} ON {name}"),
    ))  # fmt: skip


def statistics(g: Ground) -> Piece | None:
    if not (found := g.text_column(" DEFAULT 'v'")):
        return None
    table, column, added = found
    name = g.name()
    what = g.one(
        f"(ndistinct, dependencies) ON {column}, (md5({column}))", f"(mcv) ON {column}, (lower({column}))",
        f"ON (upper({column}))", f"ON (lower({column})), (length({column}))",
    )  # fmt: skip
    return Piece(owner=(
        added, f"CREATE STATISTICS {name} {what} FROM {g.spelled(table.name)}", *g.comment(f"STATISTICS {name}"),
        *([f"ALTER STATISTICS {name} SET STATISTICS 50"] if g.maybe(3) else []),
    ))  # fmt: skip


def grants(g: Ground) -> Piece:
    table = g.table()
    name, role = g.spelled(table.name), g.one(g.types.role, "consulting_app")
    column = ident(table.columns[0].name) if table.columns else ""
    said = [
        f"GRANT SELECT, UPDATE ON {name} TO {role} WITH GRANT OPTION", f"REVOKE UPDATE ON {name} FROM {OWNER}",
        f"GRANT ALL ON {name} TO PUBLIC", f"GRANT USAGE, CREATE ON SCHEMA {ident(g.schema.namespace)} TO {role}",
    ]  # fmt: skip
    if column:
        said += [
            f"GRANT UPDATE ({column}), REFERENCES ({column}) ON {name} TO {role}", f"GRANT SELECT ({column}) ON {name} TO PUBLIC",
        ]  # fmt: skip
    return Piece(owner=(g.one(*said),))


# --- what nothing uses ---------------------------------------------------------------------------------------------------


def functions(g: Ground) -> Piece:
    name, table = g.name(), g.spelled(g.table().name)
    signature, rest = g.one(
        ("()", f"RETURNS SETOF {table} LANGUAGE sql STABLE AS $f$ SELECT * FROM {table} $f$"),
        ("()", f"RETURNS bigint LANGUAGE sql BEGIN ATOMIC SELECT count(*) FROM {table}; END"),
        (f"(r {table})", "RETURNS boolean LANGUAGE sql AS $f$ SELECT r IS NULL $f$"),
        ("(a integer DEFAULT 3, VARIADIC b text[] DEFAULT '{}')", "RETURNS TABLE (x integer, \"Y z\" text) LANGUAGE plpgsql "
         f"ROWS 7 AS $f$ BEGIN RETURN QUERY SELECT a, b[1]; PERFORM 1 FROM {table}; END $f$"),
        ("(anyelement, anyarray)", "RETURNS anyarray LANGUAGE sql PARALLEL SAFE COST 3 AS $f$ SELECT $2 $f$"),
        ("(OUT a integer, INOUT b text)", "LANGUAGE plpgsql SECURITY DEFINER "
         f"SET search_path = {ident(g.schema.namespace)}, pg_temp SET work_mem = '1MB' AS $f$ BEGIN a := 1; END $f$"),
        ("()", f"RETURNS integer LANGUAGE plpgsql AS $f$ BEGIN DELETE FROM {BESIDE}.users WHERE false; RETURN 1; END $f$"),
        (f"(u {BESIDE}.users)", "RETURNS integer LANGUAGE sql AS $f$ SELECT u.id $f$"),
        ("()", "RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN RETURN NULL; END $f$"),
    )  # fmt: skip
    kind = "FUNCTION"
    if g.maybe(4):
        kind, signature = "PROCEDURE", "(a integer, INOUT b text)"
        rest = f"LANGUAGE plpgsql AS $f$ BEGIN UPDATE {table} SET ctid = ctid; END $f$"
    return Piece(owner=(
        f"CREATE {kind} {name}{signature} {rest}", *g.comment(f"{kind} {name}"),
        *g.one([], [f"REVOKE EXECUTE ON {kind} {name} FROM PUBLIC"], [f"GRANT EXECUTE ON {kind} {name} TO {g.types.role}"]),
        *g.one([], [f"ALTER {kind} {name} OWNER TO {OWNER}"]),
    ))  # fmt: skip


def aggregates(g: Ground) -> Piece:
    step, name = g.name(), g.name()
    arguments, rest = g.one(
        ("bigint", f"SFUNC = {step}, STYPE = bigint, INITCOND = '5', COMBINEFUNC = int8pl, PARALLEL = SAFE"),
        ("bigint", f"SFUNC = {step}, STYPE = bigint, MSFUNC = {step}, MINVFUNC = {step}, MSTYPE = bigint, MINITCOND = '0'"),
        ("bigint", "SFUNC = int8larger, STYPE = bigint, SORTOP = >"),
        ("anycompatible", "SFUNC = array_append, STYPE = anycompatiblearray, INITCOND = '{}'"),
    )  # fmt: skip
    statements = [
        f"CREATE FUNCTION {step}(bigint, bigint) RETURNS bigint LANGUAGE sql IMMUTABLE"
        " AS $f$ SELECT coalesce($1, 0) + coalesce($2, 0) $f$",
        f"CREATE AGGREGATE {name}({arguments}) ({rest})",
        *g.comment(f"AGGREGATE {name}({arguments})"),
        *g.one([], [f"REVOKE ALL ON FUNCTION {name}({arguments}) FROM PUBLIC"]),
    ]  # fmt: skip
    if arguments == "bigint" and g.maybe() and (tables := g.readable()):
        source = g.spelled(g.table(tables).name)
        statements.append(f"CREATE VIEW {g.name()} AS SELECT {name}(length(x::text)) AS n FROM {source} AS x")
    return Piece(owner=tuple(statements))


def operators(g: Ground) -> Piece:
    function, schema = g.name(), ident(g.schema.namespace)
    sign = g.one("<->!", "###", "~=~=", "|=|", "@-@!")
    created = {f"{sign}{one}" for one in "%&"}
    one, other = (f"{schema}.{part}" for part in sorted(created))
    more = g.one(
        f", COMMUTATOR = OPERATOR({one})", f", NEGATOR = OPERATOR({other})",
        ", RESTRICT = eqsel, JOIN = eqjoinsel, HASHES, MERGES", "",
    )  # fmt: skip
    types = "LEFTARG = text, RIGHTARG = text"
    statements = [
        f"CREATE FUNCTION {function}(text, text) RETURNS boolean LANGUAGE sql IMMUTABLE"
        " AS $f$ SELECT $1 IS NOT DISTINCT FROM $2 $f$",
        f"CREATE OPERATOR {one} ({types}, FUNCTION = {function}{more})",
        *([f"CREATE OPERATOR {other} ({types}, FUNCTION = {function}, NEGATOR = OPERATOR({one}))"] if "NEGATOR" in more else []),
        *g.comment(f"OPERATOR {one} (text, text)"),
    ]  # fmt: skip
    if g.maybe() and (found := g.text_column(" DEFAULT 'o'")):
        table, column, added = found
        name = g.spelled(table.name)
        statements += [added, g.one(
            f"CREATE INDEX ON {name} ({column}) WHERE {column} OPERATOR({one}) 'a'",
            f"ALTER TABLE {name} ADD CONSTRAINT {g.bare()} CHECK (NOT {column} OPERATOR({one}) 'a')",
        )]  # fmt: skip
    return Piece(owner=tuple(statements))


def casts(g: Ground) -> Piece:
    kind, function = g.name(), g.name()
    made, target = g.one(
        (f"CREATE TYPE {kind} AS ENUM ('a', 'b')", "integer"), (f"CREATE TYPE {kind} AS (a integer, b text)", "text"),
        (f"CREATE TYPE {kind} AS RANGE (subtype = text, multirange_type_name = {g.name()})", "text"),
    )  # fmt: skip
    how = g.one("", " AS ASSIGNMENT", " AS IMPLICIT")
    statements = [
        made, f"CREATE FUNCTION {function}({kind}) RETURNS {target} LANGUAGE sql IMMUTABLE AS $f$ SELECT NULL::{target} $f$",
        g.one(f"CREATE CAST ({kind} AS {target}) WITH FUNCTION {function}({kind}){how}",
              f"CREATE CAST (varchar AS {kind}) WITH INOUT{how}", f"CREATE CAST ({kind} AS varchar) WITH INOUT{how}"),
    ]  # fmt: skip
    into = statements[-1].removeprefix("CREATE ").partition(" WITH")[0]
    statements += g.comment(into)
    if g.maybe() and (tables := g.growing()):
        table = g.table(tables)
        statements.append(f"ALTER TABLE {g.spelled(table.name)} ADD COLUMN {g.column(table)} {kind}{g.one('', '[]')}")
    return Piece(owner=tuple(statements))


def plain_views(g: Ground) -> Piece | None:
    if not (tables := g.readable()):
        return None
    one, other = (g.spelled(g.table(tables).name) for _ in range(2))
    name = g.name()
    query = g.one(
        f"SELECT 1 AS a, 'x'::text AS b, a.* IS NULL AS c FROM {one} AS a UNION ALL SELECT 2, NULL, NULL FROM {other}",
        f"SELECT NULL::date AS a, NULL AS b FROM {one} UNION SELECT NULL, 'q' FROM {other} EXCEPT SELECT now()::date, NULL",
        "WITH RECURSIVE up (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM up WHERE n < 3)"
        f" SELECT n, count(x) FROM up, {one} AS x GROUP BY n",
        f"SELECT x AS whole, row_number() OVER (ORDER BY 1) AS n FROM {one} AS x",
        f"SELECT count(*) FILTER (WHERE x IS NULL) AS n FROM {one} AS x"
        f" LEFT JOIN LATERAL (SELECT 1 AS y FROM {other} LIMIT 1) AS z ON true",
        f"VALUES (1, 'a'::text), (2, (SELECT NULL::text FROM {one} LIMIT 1))",
        f"SELECT u.id FROM {BESIDE}.users AS u, {one} AS x",
    )  # fmt: skip
    options = g.one("", " WITH (security_barrier)", " WITH (security_invoker = true)")
    statements = [f"CREATE VIEW {name}{options} AS {query}", *g.comment(f"VIEW {name}")]
    rule = f"CREATE RULE {g.bare()} AS ON INSERT TO {name} DO INSTEAD NOTHING"
    statements += g.one([], [f"GRANT SELECT ON {name} TO {g.types.role}"], [rule])
    if g.maybe(4):
        statements.append(f"CREATE VIEW {g.name()} AS SELECT * FROM {name}")
    return Piece(owner=tuple(statements))


def materialized_views(g: Ground) -> Piece | None:
    if not (tables := g.readable()):
        return None
    source, name = g.spelled(g.table(tables).name), g.names()
    query = g.one(
        f"SELECT 'a'::text AS a, count(*) AS n FROM {source} UNION ALL SELECT NULL, 0",
        f"SELECT * FROM ts_stat({literal(f'SELECT to_tsvector(x::text) FROM {source} AS x')})",
        f"SELECT word FROM ts_stat({literal(f'SELECT to_tsvector(x::text) FROM {ident(g.table(tables).name)} AS x')})",
    )  # fmt: skip
    # From 17 on nothing is found by a bare name where a view is computed.
    populated = g.server.major < 17 or 'FROM "' not in query.replace(f"FROM {source}", "")
    return Piece(views=(View(name, query, True, populated, tuple(g.comment(f"MATERIALIZED VIEW {g.spelled(name)}"))),))


def lonely(g: Ground) -> Piece:
    name, more = g.name(), g.name()
    return Piece(owner=g.one(
        (f"CREATE SEQUENCE {name} AS smallint START 5 CYCLE", f"SELECT nextval({literal(name)})",
         f"GRANT USAGE ON SEQUENCE {name} TO {g.types.role}"),
        (f"CREATE TYPE {name} AS ENUM ('a', 'b''c')", f"CREATE TYPE {more} AS (a {name}, b {name}[])",
         f"COMMENT ON TYPE {more} IS 'x'"),
        (f"CREATE TYPE {name} AS RANGE (subtype = float8, subtype_diff = float8mi, multirange_type_name = {more})",),
        (f"CREATE TYPE {name} AS ()", f"COMMENT ON TYPE {name} IS 'nothing'"),
        (f"CREATE COLLATION {name} (locale = 'C')", f"COMMENT ON COLLATION {name} IS 'c'"),
        (f"CREATE COLLATION {name} FROM \"C\"", f"CREATE DOMAIN {more} AS text COLLATE {name}"),
        (f"CREATE DOMAIN {name} AS integer[] CHECK (cardinality(VALUE) < 4)", f"COMMENT ON DOMAIN {name} IS 'x'"),
    ))  # fmt: skip


# --- what no context has ---------------------------------------------------------------------------------------------------


def default_privileges(g: Ground) -> Piece:
    schema = ident(g.schema.namespace)
    return Piece(last=(
        f"ALTER DEFAULT PRIVILEGES FOR ROLE {OWNER}{g.one('', f' IN SCHEMA {schema}')} GRANT "
        + g.one("SELECT ON TABLES", "USAGE ON SEQUENCES", "EXECUTE ON FUNCTIONS", "USAGE ON TYPES") + f" TO {g.types.role}",
    ))  # fmt: skip


def publications(g: Ground) -> Piece:
    name, chosen, schema = g.bare(), g.table(), ident(g.schema.namespace)
    table = g.spelled(chosen.name)
    # Of a partitioned table rows are filtered by the root alone.
    rooted = " WITH (publish_via_partition_root)" if chosen.by else ""
    what = g.one(
        "FOR ALL TABLES", f"FOR TABLE {table}", f"FOR TABLES IN SCHEMA {schema}", f"FOR TABLE {table} WHERE (true){rooted}"
    )
    if any(one.unlogged for one in g.schema.tables):
        what = "FOR ALL TABLES"
    return Piece(last=(f"CREATE PUBLICATION {name} {what}", *g.comment(f"PUBLICATION {name}")))


def operator_classes(g: Ground) -> Piece:
    name = g.name()
    made = (
        f"CREATE OPERATOR CLASS {name} FOR TYPE integer USING btree AS OPERATOR 1 <, OPERATOR 2 <=, OPERATOR 3 =, OPERATOR 4 >=,"
        " OPERATOR 5 >, FUNCTION 1 btint4cmp(integer, integer)"
    )
    return Piece(last=(g.one(made, f"CREATE OPERATOR FAMILY {name} USING hash"),))


def theirs(g: Ground) -> Piece:
    """Draw what others have in the context's schema, or of its tables."""
    # Not by a name that code may happen to have as a word.
    name, more = (g.spelled(f"{g.names()[:10]} of others {n}") for n in range(2))
    table = g.spelled(g.table().name)
    function = f"CREATE FUNCTION {more}() RETURNS integer LANGUAGE sql AS $f$ SELECT 1 $f$"
    neighbour = g.names()
    spelled = g.spelled(neighbour)
    return g.one(
        Piece(last=(function, f"ALTER FUNCTION {more}() OWNER TO {NEIGHBOUR}")),
        Piece(last=(f"CREATE TYPE {name} AS ENUM ('theirs')", f"ALTER TYPE {name} OWNER TO {NEIGHBOUR}")),
        Piece(last=(f"CREATE FUNCTION {more}() RETURNS integer LANGUAGE sql AS $f$ SELECT count(*)::int FROM {table} $f$",
                    f"ALTER FUNCTION {more}() OWNER TO {NEIGHBOUR}")),
        Piece(theirs=(f"CREATE VIEW {BESIDE}.{g.bare()} AS SELECT count(*) AS n FROM {table}",)),
        Piece(theirs=(f"CREATE TABLE {spelled} (id integer PRIMARY KEY DEFAULT 7, v text)",
                      f"ALTER TABLE {spelled} OWNER TO {NEIGHBOUR}", f"CREATE INDEX ON {spelled} (v)"), neighbours=(neighbour,)),
        Piece(theirs=(f"CREATE TABLE {spelled} (id integer PRIMARY KEY, v text)", function,
                      f"ALTER TABLE {spelled} ALTER v SET DEFAULT {more}()::text"), neighbours=(neighbour,)),
        Piece(theirs=(f"CREATE TABLE {spelled} (id integer)",)),
    )  # fmt: skip


def event_triggers(g: Ground) -> Piece:
    function, trigger = g.name(), g.bare()
    return Piece(
        owner=(f"CREATE FUNCTION {function}() RETURNS event_trigger LANGUAGE plpgsql AS $f$ BEGIN END $f$",),
        last=(f"CREATE EVENT TRIGGER {trigger} ON ddl_command_end EXECUTE FUNCTION {function}()",),
    )


# --- tables of their own -------------------------------------------------------------------------------------------------------


def with_extension(name: str, *statements: str) -> Piece:
    """Return a piece that needs an extension."""
    return Piece(first=(f"CREATE EXTENSION IF NOT EXISTS {name} SCHEMA public",), owner=statements)


def special_tables(g: Ground) -> Piece:
    table, other, kind = g.names(), g.names(), g.name()
    name, parent = g.spelled(table), g.spelled(other)
    create, rows = f"CREATE TABLE {name}", f"INSERT INTO {name} VALUES"
    outbound = g.one("", " ON DELETE CASCADE", " NOT NULL", " DEFERRABLE")
    halves = [f"CREATE TABLE {g.name()} PARTITION OF {name} FOR VALUES WITH (MODULUS 2, REMAINDER {n})" for n in range(2)]
    pieces = [
        Piece(owner=(f"CREATE TYPE {kind} AS (id integer, v text)", f"{create} OF {kind} (PRIMARY KEY (id), v DEFAULT 'd')",
                     f"{rows} (1, 'a')")),
        with_extension(
            "btree_gist",
            f"{create} (room integer, during tstzrange, EXCLUDE USING gist (room WITH =, during WITH &&) WHERE (room > 0)"
            f"{g.one('', ' DEFERRABLE INITIALLY DEFERRED')})",
            f"{rows} (1, '[2024-01-01,2024-02-01)'), (1, '[2024-02-01,)'), (0, 'empty'), (0, 'empty')",
        ),
        with_extension(
            "ltree", f"{create} (path public.ltree PRIMARY KEY, above public.ltree REFERENCES {name}, q public.lquery)",
            f"CREATE INDEX ON {name} USING gist (path)", f"{rows} ('a', NULL, '*.a'), ('a.b', 'a', NULL)",
        ),
        with_extension(
            "citext", f"{create} (k public.citext{g.one('', '[]')}, v public.citext, PRIMARY KEY (k)) PARTITION BY HASH (k)",
            *halves, f"{rows} ('{{A}}', 'x'), ('{{b}}', 'Y'), ('{{Ç}}', NULL)",
        ),
        with_extension(
            "hstore", f"{create} (k public.hstore PRIMARY KEY, v public.hstore[])", f"CREATE INDEX ON {name} USING gin (k)",
            f"""{rows} ('a=>1', NULL), ('a=>NULL, "b c"=>"\\\\"', ARRAY['x=>y'::public.hstore])""",
        ),
        Piece(owner=(
            f"CREATE TABLE {parent} (a integer CHECK (a > 0), b text)", f"{create} (c integer) INHERITS ({parent})",
            f"CREATE TABLE {g.name()} (d integer, PRIMARY KEY (d)) INHERITS ({name}, {parent})", f"{rows} (1, 'b', 2)",
            f"INSERT INTO {parent} VALUES (1, 'only the parent')",
        ), tables=(other,)),
        Piece(owner=(
            f"CREATE TABLE {parent} (id integer PRIMARY KEY, b integer)",
            f"{create} (id integer PRIMARY KEY, a integer REFERENCES {parent} ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED)",
            f"ALTER TABLE {parent} ADD FOREIGN KEY (b) REFERENCES {name} DEFERRABLE",
            f"INSERT INTO {parent} VALUES (1, NULL), (2, NULL)", f"{rows} (1, 1), (2, 2)", f"UPDATE {parent} SET b = id",
        ), tables=(table, other)),
        Piece(owner=(f"{create} (id integer REFERENCES {BESIDE}.users{outbound})", f"{rows} (1), (2), (2)")),
        Piece(owner=(
            f"{create} (at date, id bigint GENERATED ALWAYS AS IDENTITY, PRIMARY KEY (at, id)) PARTITION BY RANGE (at)",
            f"CREATE TABLE {parent} PARTITION OF {name} FOR VALUES FROM ('2024-01-01') TO ('2025-01-01')",
            f"CREATE TABLE {g.name()} PARTITION OF {name} DEFAULT", f"{rows} ('2024-05-05'), ('2020-01-01')",
        )),
        Piece(owner=(
            f"CREATE TABLE {parent} (id integer PRIMARY KEY, v text[])",
            f"{create} (a {parent}, b {parent}[] DEFAULT '{{}}', c integer)", f"INSERT INTO {parent} VALUES (1, '{{a,NULL}}')",
            f"{rows} (ROW (1, '{{\"x y\"}}'), ARRAY[ROW (2, NULL)::{parent}, NULL], 3)",
        ), tables=(table, other)),
        Piece(owner=(
            f"{create} (id integer, v text) PARTITION BY {g.one('LIST ((id % 2))', 'RANGE (abs(id))', 'RANGE ((id / 2), v)')}",
            f"CREATE TABLE {parent} PARTITION OF {name} DEFAULT", f"CREATE INDEX ON {name} ((lower(v)))",
            f"{rows} (1, 'a'), (2, 'B')",
        )),
        Piece(owner=(
            f"CREATE TYPE {kind} AS ENUM ('b', 'a')",
            f"CREATE TYPE {parent} AS RANGE (subtype = {kind}, multirange_type_name = {g.name()})",
            f"{create} (r {parent}, n {kind}[], EXCLUDE USING gist (r WITH &&), CHECK (n <> '{{a}}'))",
            f"{rows} ('[b,a)', '{{a,b}}'), ('empty', NULL)",
        )),
        Piece(owner=(
            f"CREATE TYPE {kind} AS (a integer, b text)", f"CREATE DOMAIN {parent} AS {kind} CHECK ((VALUE).a > 0)",
            f"{create} (d {parent}, e {parent}[], UNIQUE (d))",
            f"{rows} (ROW (1, 'x'), NULL), (NULL, ARRAY[ROW (2, NULL)::{kind}::{parent}])",
        )),
        Piece(owner=(
            f"{create} (id integer NOT NULL, a integer UNIQUE NULLS NOT DISTINCT, b integer GENERATED BY DEFAULT AS IDENTITY,"
            " v text)", f"CREATE UNIQUE INDEX {ident(other)} ON {name} (id)", f"ALTER TABLE {name} CLUSTER ON {ident(other)}",
            f"ALTER TABLE {name} REPLICA IDENTITY USING INDEX {ident(other)}", f"CREATE INDEX ON {name} USING hash (v)",
            f"CREATE INDEX ON {name} USING spgist (v)", f"COMMENT ON INDEX {parent} IS 'i'",
            f"{rows} (1, NULL, 5, 'a'), (2, 1, 6, '')",
        )),
        Piece(owner=(
            f"CREATE SEQUENCE {parent}",
            f"{create} (a bigint DEFAULT nextval({literal(parent)}), b bigint DEFAULT currval({literal(parent)}))",
            f"ALTER SEQUENCE {parent} OWNED BY {name}.b", f"INSERT INTO {name} DEFAULT VALUES",
        )),
    ]  # fmt: skip
    if g.server.major >= 18:
        pieces.append(replace(with_extension(
            "btree_gist", f"CREATE TABLE {parent} (id integer, at daterange, PRIMARY KEY (id, at WITHOUT OVERLAPS))",
            f"{create} (id integer, at daterange, FOREIGN KEY (id, PERIOD at) REFERENCES {parent} (id, PERIOD at))",
            f"INSERT INTO {parent} VALUES (1, '[2024-01-01,2025-01-01)'), (1, '[2025-01-01,)')",
            f"{rows} (1, '[2024-06-01,2025-06-01)')",
        ), tables=(table, other)))  # fmt: skip
    if g.server.icu:
        collation, divided = g.name(), g.maybe()
        pieces.append(Piece(owner=(
            f"CREATE COLLATION {collation} (provider = icu, locale = 'und-u-ks-level2', deterministic = false)",
            f"{create} (k text COLLATE {collation}, v text, PRIMARY KEY (k)){' PARTITION BY HASH (k)' if divided else ''}",
            *(halves if divided else ()), f"{rows} ('Alpha', 'a'), ('béta', 'b')",
        )))  # fmt: skip
    piece = g.one(*pieces)
    return piece if piece.tables else replace(piece, tables=(table,))


DRAWN = (
    policies, sequences_as_text, searching, generated_with_bare_names, domains, extensions_in_code, triggers, statistics, grants,
    functions, functions, aggregates, operators, casts, plain_views, plain_views, materialized_views, lonely, default_privileges,
    publications, operator_classes, theirs, theirs, event_triggers, special_tables, special_tables, special_tables,
)  # fmt: skip


@st.composite
def schemas(draw: Callable[[Any], Any], role: str, server: Version, *, with_rules: bool = True) -> Schema:
    """Draw a schema with what stands around its tables; `role` is one, quoted, that privileges are given to."""
    drawn = draw_schema(draw, role, server, rules=with_rules)
    ground = Ground(draw, drawn.names, drawn.schema, drawn.types, server)
    kinds = draw(st.lists(st.sampled_from([*DRAWN, *([rules] * with_rules)]), min_size=4, max_size=12))
    pieces = [piece for piece in (kind(ground) for kind in kinds) if piece]
    return replace(drawn.schema, around=tuple(pieces))
