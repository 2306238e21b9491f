"""An independent oracle of a database state: what a context is, read without any code of the product.

`capture` reads a context's schema (as pg_dump prints it), its rows (as order-independent hashes computed in the
server) and the catalogue flags that pg_dump does not print; `State.differences` says in sentences what differs.
The source may hold other contexts' tables, views and keys beside ours: what does not belong to the context is listed in
`State.outside` and not compared.
"""

import os
import re
import subprocess
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import unified_diff
from pathlib import Path
from typing import Any, Literal

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

Node = tuple[str, int]
ViewRows = Literal["stored", "recomputed", "ignored"]

SETTINGS = {
    "search_path": "pg_catalog",
    "timezone": "UTC",
    "datestyle": "ISO, YMD",
    "intervalstyle": "postgres",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "xmloption": "content",
    "row_security": "off",
    "statement_timeout": "0",
    "lock_timeout": "30s",
    "idle_in_transaction_session_timeout": "0",
}

ENTRY = re.compile(
    r"^--\n-- (?:Data for )?Name: (?P<name>.*); Type: (?P<kind>[A-Z ]+); Schema: (?P<schema>.*?); Owner: .*\n--\n",
    re.MULTILINE,
)
NOISE = re.compile(r"^(?:\\(?:un)?restrict .*|-- PostgreSQL database dump complete|--|SET default_\w+ = .*;)$", re.MULTILINE)
# A dump and restore moves the cast of `column IN ('a', 'b')` from the array to its elements: one spelling for both.
CAST_ELEMENTS = re.compile(
    r"\(ARRAY\[((?:\('(?:[^']|'')*'::character varying\)::text(?:, )?)+)\]\)",
)
CAST_ELEMENT = re.compile(r"\(('(?:[^']|'')*'::character varying)\)::text")
OF_A_TABLE = {"CONSTRAINT", "CHECK CONSTRAINT", "FK CONSTRAINT", "TRIGGER", "DEFAULT", "RULE", "POLICY"}
ABOUT_ANOTHER = {"COMMENT", "ACL", "SECURITY LABEL"}
OWNERS_OF_PARTS = {"pg_class", "pg_constraint"}
NEVER_OURS = {"pg_publication", "pg_publication_rel", "pg_publication_namespace", "pg_subscription"}
OBJECT_KIND = re.compile(
    r"^(?:MATERIALIZED VIEW|FOREIGN TABLE|TEXT SEARCH \w+|OPERATOR \w+|[A-Z]+) (?=\S)",
)


@dataclass(frozen=True)
class Rows:
    """How many rows a relation holds, and two sums of their 64-bit hashes."""

    count: int
    digest: str


@dataclass(frozen=True)
class View:
    """What a materialized view holds, and what it would hold after a refresh; nothing if it is not populated."""

    stored: Rows | None
    recomputed: Rows | None


@dataclass(frozen=True)
class SequenceValue:
    """The value a restored sequence has to reach; None when it could not be known at the snapshot."""

    floor: int | None
    last_value: int
    increment: int

    def is_reached_by(self, other: "SequenceValue") -> bool:
        if self.floor is None:
            return True
        return other.last_value >= self.floor if self.increment > 0 else other.last_value <= self.floor


@dataclass(frozen=True)
class State:
    """One context of one database; keys are schema-qualified names."""

    missing: tuple[str, ...] = ()
    statements: Mapping[str, str] = field(default_factory=dict)
    outside: tuple[str, ...] = ()
    rows: Mapping[str, Rows] = field(default_factory=dict)
    views: Mapping[str, View] = field(default_factory=dict)
    relations: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    partitions: Mapping[str, str] = field(default_factory=dict)
    triggers: Mapping[str, str] = field(default_factory=dict)
    foreign_keys: Mapping[str, str] = field(default_factory=dict)
    indexes: Mapping[str, str] = field(default_factory=dict)
    sequences: Mapping[str, SequenceValue] = field(default_factory=dict)
    surroundings: Mapping[str, str] = field(default_factory=dict)

    def differences(self, other: "State", *, ignore_foreign_keys: Collection[str] = (), views: ViewRows = "stored") -> list[str]:
        """Say what `other` (the restored side) has not as `self` (the source) had it; an empty list is equality.

        `ignore_foreign_keys` ('table.constraint') may be absent from `other`; where present they have to be equal.
        `views`: compare what the views stored, or what they would hold after a refresh, or ignore their rows.
        """
        absent = _keys_that_may_be_absent(ignore_foreign_keys, self.statements, other.statements)
        expected = {key: text for key, text in self.statements.items() if key not in absent}
        return [
            *(f"the source has no relation {name}: nothing to compare with" for name in self.missing),
            *_compare("statement", expected, other.statements, _diff),
            *_compare("rows of", self.rows, other.rows, _rows_differ),
            *_compare_views(self.views, other.views, views),
            *_compare("relation", self.relations, other.relations, _facts_differ),
            *_compare("partition", self.partitions, other.partitions),
            *_compare("trigger", self.triggers, other.triggers),
            *_compare_common("foreign key", self.foreign_keys, other.foreign_keys),
            *_compare("index", self.indexes, other.indexes),
            *_compare_sequences(self.sequences, other.sequences),
            *_compare("surroundings:", self.surroundings, other.surroundings),
        ]


def capture(
    connection_info: str,
    *,
    bin_dir: Path,
    tables: Sequence[str],
    views: Sequence[str] | None = None,
    snapshot: str | None = None,
    surroundings: bool = False,
) -> State:
    """Read the state of the context that consists of `tables` (`public` unless qualified), their leaves and views.

    `views` None means: every materialized view that reads one of the tables. Where another context has one of its own
    over our tables, name ours. With `snapshot` rows and catalogue are read in that exported snapshot; the text of
    pg_dump is always of now. Both sides of a comparison need a pg_dump of the same major.

    With `surroundings` also what is not the context's alone: settings of the database, versions of extensions, the keys of others
    that refer here, and the rows of those tables.
    """
    dump = _dump_schema(connection_info, bin_dir)
    with psycopg.connect(connection_info, autocommit=True) as conn:
        for name, value in SETTINGS.items():
            conn.execute("SELECT set_config(%s, %s, false)", (name, value))
        with conn.transaction():
            conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            if snapshot is not None:
                conn.execute(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(snapshot))
            found = _capture(conn, dump, _qualified(tables), views, snapshot is not None)
            return replace(found, surroundings=_surroundings(conn, _qualified(tables))) if surroundings else found


def _capture(conn: psycopg.Connection, dump: str, tables: Sequence[str], views: Sequence[str] | None, at_snapshot: bool) -> State:
    found = _oids(conn, tables)
    tree = _tree(conn, found.values())
    if views is None:
        seen_by, wanted = _readers(conn, tree), []
    else:
        wanted = list(_qualified(views))
        seen_by = list(_oids(conn, wanted).values())
    members = _closure(conn, [*tree, *seen_by])
    relations = _relations(conn, [oid for kind, oid in members if kind == "pg_class"])
    entries = dict(_entries(dump))
    ours = _of_context(entries, _names(conn, members))
    oids = [int(facts["oid"]) for facts in relations.values()]
    return State(
        missing=tuple(name for name in [*tables, *wanted] if name not in relations),
        statements={_title(key): text for key, text in entries.items() if key in ours},
        outside=tuple(_title(key) for key in entries if key not in ours),
        rows=_rows_by_relation(conn, relations),
        views={name: _view(conn, name, facts) for name, facts in relations.items() if facts["kind"] == "m"},
        relations={name: {k: v for k, v in facts.items() if k != "oid"} for name, facts in relations.items()},
        partitions=_partitions(conn, oids),
        triggers=_triggers(conn, oids),
        foreign_keys=_foreign_keys(conn, oids),
        indexes=_indexes(conn, oids),
        sequences={
            name: _sequence(conn, name, int(facts["oid"]), at_snapshot) for name, facts in relations.items() if facts["kind"] == "S"
        },
    )


def _qualified(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(name if "." in name else f"public.{name}" for name in names)


# pg_dump's text


def statements_of_all(connection_info: str, *, bin_dir: Path) -> dict[str, str]:
    """Read all that pg_dump prints of a database, its own properties too: where a context has a database to itself."""
    return {_title(key): text for key, text in _entries(_dump_schema(connection_info, bin_dir, "--create"))}


def _dump_schema(connection_info: str, bin_dir: Path, *options: str) -> str:
    """Run pg_dump; a password travels by environment."""
    parameters = conninfo_to_dict(connection_info)
    password = parameters.pop("password", None)
    environment = os.environ | ({"PGPASSWORD": str(password)} if password else {})
    command = [str(bin_dir / "pg_dump"), "--schema-only", "--lock-wait-timeout=30s", "--encoding=UTF8", *options, "--dbname"]
    done = subprocess.run([*command, make_conninfo("", **parameters)], env=environment, capture_output=True, check=False)
    if done.returncode != 0:
        raise AssertionError(f"pg_dump exited {done.returncode}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout.decode()


def _entries(dump: str) -> Iterator[tuple[tuple[str, str, str], str]]:
    """Split the text at pg_dump's headings into (kind, schema, name) and normalised statements."""
    heads = list(ENTRY.finditer(dump))
    for head, following in zip(heads, [*heads[1:], None], strict=True):
        text = dump[head.end() : following.start() if following else len(dump)]
        yield (head["kind"], head["schema"], head["name"]), _normalised(head["kind"], text)


def _normalised(kind: str, text: str) -> str:
    if kind in {"FUNCTION", "PROCEDURE"}:
        # Inside of a body everything counts, also what looks like noise.
        return _without_trailing_noise(text)
    text = CAST_ELEMENTS.sub(_cast_array, NOISE.sub("", text))
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    return "\n".join(sorted(lines) if kind == "ACL" else lines)


def _without_trailing_noise(text: str) -> str:
    lines = text.strip().splitlines()
    while lines and (NOISE.fullmatch(lines[-1]) or not lines[-1].strip()):
        lines.pop()
    return "\n".join(lines)


def _cast_array(found: re.Match[str]) -> str:
    elements = CAST_ELEMENT.sub(r"\1", found[1])
    return f"((ARRAY[{elements}])::text[])"


def _of_context(entries: Iterable[tuple[str, str, str]], names: Collection[tuple[str, str]]) -> set[tuple[str, str, str]]:
    return {key for key in entries if any((key[1], subject) in names for subject in _subjects(key[0], key[2]))}


def _subjects(kind: str, name: str) -> list[str]:
    """Name what a heading may be about: of a constraint or trigger its table, of a comment what it comments.

    Neither the name of a table nor that of its constraint is quoted there, and both may have spaces.
    """
    if kind in OF_A_TABLE:
        words = name.split(" ")
        return [" ".join(words[:count]) for count in range(1, len(words))]
    if kind in ABOUT_ANOTHER:
        rest = OBJECT_KIND.sub("", name).replace('"', "")
        if name.startswith("COLUMN "):
            return [rest.split(".")[0]]
        return [rest.rsplit(" ON ", 1)[-1]]
    return [name]


def _title(key: tuple[str, str, str]) -> str:
    kind, schema, name = key
    return f"{kind} {name}" if schema in {"-", "public"} else f"{kind} {schema} {name}"


# what belongs to the context


def _oids(conn: psycopg.Connection, names: Iterable[str]) -> dict[str, int]:
    found = ((name, conn.execute("SELECT to_regclass(%s)::oid", (name,)).fetchone()) for name in names)
    return {name: row[0] for name, row in found if row and row[0]}


def _tree(conn: psycopg.Connection, roots: Iterable[int]) -> list[int]:
    return _column(
        conn,
        """WITH RECURSIVE tree(oid) AS (
               SELECT unnest(%s::oid[])
               UNION SELECT i.inhrelid FROM pg_inherits i JOIN tree t ON i.inhparent = t.oid)
           SELECT oid FROM tree""",
        [list(roots)],
    )


def _readers(conn: psycopg.Connection, tree: Sequence[int]) -> list[int]:
    return _column(
        conn,
        """WITH RECURSIVE seen(oid) AS (
               SELECT unnest(%s::oid[])
               UNION
               SELECT r.ev_class FROM seen s
               JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = s.oid
               JOIN pg_rewrite r ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid)
           SELECT c.oid FROM seen JOIN pg_class c USING (oid) WHERE c.relkind = 'm'""",
        [list(tree)],
    )


def _closure(conn: psycopg.Connection, start: Iterable[int]) -> set[Node]:
    """Add what hangs on the relations (indexes, triggers, …) and what they need, never another context's table."""
    needs, parts = _dependencies(conn)
    functions = _functions(conn)
    tables, indexes = _of_kind(conn, "r", "p", "f"), _of_kind(conn, "i", "I")
    members: set[Node] = {("pg_class", oid) for oid in start}
    todo = list(members)
    while todo:
        node = todo.pop()
        # A key needs the index it refers to: only as a part of its own table an index is ours.
        near = needs.get(node, set()) - indexes
        if node[0] in OWNERS_OF_PARTS:
            near = near | parts.get(node, set())
        if node[0] == "pg_proc":
            near = near | _called_by(node[1], functions)
        new = {other for other in near - members - tables if other[0] not in NEVER_OURS}
        members |= new
        todo.extend(new)
    return members


def _of_kind(conn: psycopg.Connection, *kinds: str) -> set[Node]:
    oids = _column(conn, "SELECT oid FROM pg_class WHERE relkind = ANY(%s)", [list(kinds)])
    return {("pg_class", oid) for oid in oids}


def _dependencies(conn: psycopg.Connection) -> tuple[dict[Node, set[Node]], dict[Node, set[Node]]]:
    needs: dict[Node, set[Node]] = {}
    parts: dict[Node, set[Node]] = {}
    for kind, oid, ref_kind, ref_oid, how in conn.execute(
        "SELECT classid::regclass::text, objid, refclassid::regclass::text, refobjid, deptype::text FROM pg_depend"
    ):
        needs.setdefault((kind, oid), set()).add((ref_kind, ref_oid))
        if how in {"a", "i"}:
            parts.setdefault((ref_kind, ref_oid), set()).add((kind, oid))
    return needs, parts


def _functions(conn: psycopg.Connection) -> dict[int, tuple[str, str]]:
    query = """SELECT p.oid, p.proname, p.prosrc FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
               WHERE n.nspname NOT IN ('pg_catalog', 'information_schema')"""
    return {oid: (name, source) for oid, name, source in conn.execute(query)}


def _called_by(oid: int, functions: Mapping[int, tuple[str, str]]) -> set[Node]:
    """Find the functions whose names the source of this one calls: pg_depend does not know them."""
    source = functions.get(oid, ("", ""))[1]
    found = re.findall(r'([\w$]+)"?\s*\(|"((?:[^"]|"")+)"\s*\(', source)
    called = {(word or name.replace('""', '"')).lower() for word, name in found}
    return {("pg_proc", other) for other, (name, _) in functions.items() if name.lower() in called}


def _names(conn: psycopg.Connection, members: Iterable[Node]) -> set[tuple[str, str]]:
    """Spell the members as pg_dump's headings do: (schema or '-', name)."""
    nodes = list(members)
    named = conn.execute(
        """SELECT coalesce(i.schema, '-'), i.name FROM unnest(%s::text[], %s::oid[]) n(kind, oid),
               pg_identify_object(n.kind::regclass, n.oid, 0) i
           WHERE i.name IS NOT NULL""",
        ([kind for kind, _ in nodes], [oid for _, oid in nodes]),
    )
    # A heading gives the types of the arguments; that of a grant or comment gives their names too.
    signatures = conn.execute(
        """SELECT n.nspname, p.proname || '(' || a.arguments || ')' FROM pg_proc p
           JOIN pg_namespace n ON n.oid = p.pronamespace,
           LATERAL (VALUES (pg_get_function_identity_arguments(p.oid)), (coalesce(
               (SELECT string_agg(format_type(t.type, NULL), ', ' ORDER BY t.nr)
                FROM unnest(p.proargtypes) WITH ORDINALITY t(type, nr)), ''))) a(arguments)
           WHERE p.oid = ANY(%s::oid[])""",
        ([oid for kind, oid in nodes if kind == "pg_proc"],),
    )
    return {(schema.replace('"', ""), name.replace('"', "")) for schema, name in [*named, *signatures]}


# the catalogue


def _relations(conn: psycopg.Connection, oids: Sequence[int]) -> dict[str, dict[str, str]]:
    facts = conn.execute(
        """SELECT c.oid::regclass::text, jsonb_build_object(
               'oid', c.oid::text, 'kind', c.relkind::text, 'owner', pg_get_userbyid(c.relowner),
               'persistence', c.relpersistence::text, 'replica identity', c.relreplident::text,
               'row security', c.relrowsecurity::text, 'forced row security', c.relforcerowsecurity::text,
               'tablespace', coalesce((SELECT spcname FROM pg_tablespace t WHERE t.oid = c.reltablespace), ''),
               'options', coalesce(array_to_string(c.reloptions, ' '), ''),
               'access', coalesce((SELECT amname FROM pg_am a WHERE a.oid = c.relam), ''))
           FROM pg_class c WHERE c.oid = ANY(%s::oid[]) AND c.relkind NOT IN ('t', 'c') AND c.relnamespace NOT IN
               (SELECT oid FROM pg_namespace WHERE nspname IN ('pg_catalog', 'information_schema', 'pg_toast'))
           ORDER BY 1""",
        [list(oids)],
    )
    return dict(facts)


def _partitions(conn: psycopg.Connection, oids: Sequence[int]) -> dict[str, str]:
    return _pairs(
        conn,
        """SELECT c.oid::regclass::text, string_agg(i.inhparent::regclass::text || ' '
               || coalesce(pg_get_expr(c.relpartbound, c.oid), '(index)')
               || coalesce((to_jsonb(i) ->> 'inhdetachpending')::boolean::text, ''), ', ' ORDER BY i.inhseqno)
           FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhrelid = ANY(%s::oid[]) GROUP BY c.oid""",
        oids,
    )


def _triggers(conn: psycopg.Connection, oids: Sequence[int]) -> dict[str, str]:
    return _pairs(
        conn,
        """SELECT tgrelid::regclass::text || '.' || tgname, 'enabled: ' || tgenabled::text
           FROM pg_trigger WHERE NOT tgisinternal AND tgrelid = ANY(%s::oid[])""",
        oids,
    )


def _foreign_keys(conn: psycopg.Connection, oids: Sequence[int]) -> dict[str, str]:
    """Read the keys from and to these tables, and whether their system triggers are on: pg_dump does not tell."""
    return _pairs(
        conn,
        """SELECT conrelid::regclass::text || '.' || conname, pg_get_constraintdef(c.oid)
               || ', validated ' || convalidated || ', enforced by '
               || (SELECT string_agg(tgenabled::text, '' ORDER BY tgfoid) FROM pg_trigger WHERE tgconstraint = c.oid)
           FROM pg_constraint c
           WHERE contype = 'f' AND conrelid <> 0 AND ARRAY[conrelid, confrelid] && %s::oid[]""",
        oids,
    )


def _indexes(conn: psycopg.Connection, oids: Sequence[int]) -> dict[str, str]:
    return _pairs(
        conn,
        """SELECT indexrelid::regclass::text, format('on %%s, valid %%s, ready %%s, live %%s, clustered %%s',
               indrelid::regclass, indisvalid, indisready, indislive, indisclustered)
           FROM pg_index WHERE indrelid = ANY(%s::oid[])""",
        oids,
    )


def _surroundings(conn: psycopg.Connection, tables: Sequence[str]) -> dict[str, str]:
    found = dict(
        conn.execute(
            """SELECT format('settings of %s', coalesce(r.rolname, 'the database')), array_to_string(s.setconfig, ', ')
               FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase AND d.datname = current_database()
               LEFT JOIN pg_roles r ON r.oid = s.setrole
               UNION ALL SELECT format('extension %s', extname), extversion FROM pg_extension"""
        ).fetchall()
    )
    ours = _tree(conn, _oids(conn, tables).values())
    for key, definition, table in conn.execute(
        """SELECT format('key %%s of %%s', conname, conrelid::regclass), pg_get_constraintdef(oid), conrelid::regclass::text
           FROM pg_constraint WHERE contype = 'f' AND confrelid = ANY(%(ours)s) AND conrelid <> ALL(%(ours)s)""",
        {"ours": ours},
    ).fetchall():
        found |= {key: definition, f"rows of {table}": str(_rows(conn, table))}
    return found


def _sequence(conn: psycopg.Connection, name: str, oid: int, at_snapshot: bool) -> SequenceValue:
    """Read a sequence. It knows no snapshot: at one, the largest value in its column is what must be reached."""
    row = conn.execute(
        """SELECT s.seqincrement, d.refobjid::regclass::text, a.attname FROM pg_sequence s
           LEFT JOIN pg_depend d ON d.objid = s.seqrelid AND d.classid = 'pg_class'::regclass
               AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i') AND d.refobjsubid > 0
           LEFT JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
           WHERE s.seqrelid = %s""",
        (oid,),
    ).fetchone()
    last = conn.execute(f"SELECT last_value - (NOT is_called)::int FROM {name}").fetchone()
    assert row is not None and last is not None
    increment, table, column = row
    floor = last[0]
    if at_snapshot:
        extreme = sql.SQL("SELECT {}({}) FROM {}").format(
            sql.SQL("max" if increment > 0 else "min"), sql.Identifier(column or ""), sql.SQL(table or "")
        )
        found = conn.execute(extreme).fetchone() if table else None
        floor = found[0] if found else None
    return SequenceValue(floor, last[0], increment)


def _rows_by_relation(conn: psycopg.Connection, relations: Mapping[str, Mapping[str, str]]) -> dict[str, Rows]:
    """Read the rows of tables and leaves; of tables that are divided by the hash of an enum, or what has one, as wholes.

    A label's hash is that of its oid, which is another one where it is restored: there rows may belong to other partitions.
    """
    wholes = dict(
        conn.execute(
            """WITH RECURSIVE divided (oid, whole, depth) AS (
                   SELECT p.partrelid, p.partrelid, 0 FROM pg_partitioned_table p WHERE p.partstrat = 'h' AND EXISTS (
                       SELECT FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid WHERE a.attrelid = p.partrelid
                       AND a.attnum = ANY (p.partattrs::int2[]) AND t.oid >= 16384 AND (t.typtype <> 'b' OR t.typelem <> 0))
                   UNION ALL SELECT i.inhrelid, d.whole, d.depth + 1 FROM divided d JOIN pg_inherits i ON i.inhparent = d.oid)
               SELECT DISTINCT ON (oid) oid::regclass::text, whole::regclass::text FROM divided ORDER BY oid, depth DESC"""
        ).fetchall()
    )
    leaves = [name for name, facts in relations.items() if facts["kind"] == "r"]
    single = {name: _rows(conn, f"ONLY {name}") for name in leaves if name not in wholes}
    return single | {whole: _rows(conn, whole) for whole in {wholes[name] for name in leaves if name in wholes}}


def _rows(conn: psycopg.Connection, source: str) -> Rows:
    """Count and hash: `source` is a relation as the server spelled it, or the definition of a view in brackets."""
    row = conn.execute(
        f"""SELECT count(*), coalesce(sum(hashtextextended(r::text COLLATE "C", 0)::numeric), 0)::text || '/'
                || coalesce(sum(hashtextextended(r::text COLLATE "C", 1)::numeric), 0)::text
            FROM {source} AS r"""
    ).fetchone()
    assert row is not None
    return Rows(row[0], row[1])


def _view(conn: psycopg.Connection, name: str, facts: Mapping[str, str]) -> View:
    question = "SELECT relispopulated, pg_get_viewdef(oid), relnamespace::regnamespace::text FROM pg_class WHERE oid = %s::oid"
    row = conn.execute(question, (facts["oid"],)).fetchone()
    assert row is not None
    populated, definition, schema = row
    if not populated:
        # Nor may be what it reads.
        return View(None, None)
    # Texts in it may be queries with bare names.
    conn.execute("SELECT set_config('search_path', %s, false)", (schema,))
    rows = View(_rows(conn, name), _rows(conn, f"({definition.rstrip().rstrip(';')})"))
    conn.execute("SELECT set_config('search_path', %s, false)", (SETTINGS["search_path"],))
    return rows


def _column(conn: psycopg.Connection, query: str, parameters: Sequence[Any] = ()) -> list[int]:
    return [row[0] for row in conn.execute(query, parameters)]


def _pairs(conn: psycopg.Connection, query: str, oids: Sequence[int]) -> dict[str, str]:
    return dict(conn.execute(query, [list(oids)]))


# the comparison


def _keys_that_may_be_absent(foreign_keys: Collection[str], ours: Mapping[str, str], theirs: Mapping[str, str]) -> set[str]:
    """Translate 'table.constraint' into the headings of the key and of its comment, where the other has none."""
    named = [["public", *name.split(".")][-3:] for name in foreign_keys]
    titles = {_title(("FK CONSTRAINT", schema, f"{table} {key}")) for schema, table, key in named}
    titles |= {_title(("COMMENT", schema, f"CONSTRAINT {key} ON {table}")) for schema, table, key in named}
    return {title for title in titles if title in ours and title not in theirs}


def _compare(
    what: str, ours: Mapping[str, Any], theirs: Mapping[str, Any], describe: Any = lambda a, b: f"{a!s} -> {b!s}"
) -> Iterator[str]:
    for name in sorted(ours.keys() | theirs.keys()):
        if name not in theirs:
            yield f"{what} {name}: lost"
        elif name not in ours:
            yield f"{what} {name}: only in the other"
        elif ours[name] != theirs[name]:
            yield f"{what} {name}: changed: {describe(ours[name], theirs[name])}"


def _compare_views(ours: Mapping[str, View], theirs: Mapping[str, View], how: ViewRows) -> Iterator[str]:
    if how == "ignored":
        return
    # A view that was never filled stays so.
    before = {name: view.recomputed if view.stored and how == "recomputed" else view.stored for name, view in ours.items()}
    after = {name: view.stored for name, view in theirs.items()}
    yield from _compare("rows of view", before, after, _rows_differ)


def _compare_common(what: str, ours: Mapping[str, str], theirs: Mapping[str, str]) -> Iterator[str]:
    """Compare what both have: a lost key of ours is a lost statement, another context's key may come and go."""
    both = ours.keys() & theirs.keys()
    yield from _compare(what, {name: ours[name] for name in both}, {name: theirs[name] for name in both})


def _compare_sequences(ours: Mapping[str, SequenceValue], theirs: Mapping[str, SequenceValue]) -> Iterator[str]:
    for name in sorted(ours.keys() & theirs.keys()):
        if not ours[name].is_reached_by(theirs[name]):
            yield f"sequence {name}: at {theirs[name].last_value}, has to reach {ours[name].floor}"


def _diff(ours: str, theirs: str) -> str:
    _, _, *lines = unified_diff(ours.splitlines(), theirs.splitlines(), lineterm="", n=0)
    return " | ".join(line for line in lines if not line.startswith("@@"))


def _rows_differ(ours: Rows | None, theirs: Rows | None) -> str:
    if ours is None or theirs is None:
        return f"{'not populated' if ours is None else 'populated'} -> {'not ' if theirs is None else ''}populated"
    if ours.count != theirs.count:
        return f"{ours.count} rows -> {theirs.count} rows"
    return f"{ours.count} rows as before, other contents"


def _facts_differ(ours: Mapping[str, str], theirs: Mapping[str, str]) -> str:
    changed = (key for key in sorted(ours.keys() | theirs.keys()) if ours.get(key) != theirs.get(key))
    return ", ".join(f"{key} {ours.get(key)!r} -> {theirs.get(key)!r}" for key in changed)
