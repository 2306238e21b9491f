"""The table of contents of a pg_dump archive, and -L lists of the context's part of it.

`pg_restore --list` shows each entry's (classid, oid); entries without a class (comments,
privileges, attachments, row security) are found by their dependencies, from `pg_restore --verbose
--file=-`.
"""

import codecs
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from tasks.core.database.dependencies import ObjectId
from tasks.core.database.objects import TABLES, InventoryItem
from tasks.core.postgres.archive_script import Chunk, parse_chunks
from tasks.core.sql.names import QUALIFIED, plain_name, split_name

ENTRY = re.compile(r"(?P<dump_id>\d{1,10}); (?P<class>\d{1,10}) (?P<oid>\d{1,10}) (?P<rest>.*)")
SCRIPT_ENTRY = re.compile(r"-- TOC entry (\d{1,10}) \(class (\d{1,10}) OID (\d{1,10})\)")
SCRIPT_DEPENDENCIES = re.compile(r"-- Dependencies:((?: \d{1,10})+)")
# Line breaks in names are printed as spaces.
ON_ONE_LINE = str.maketrans("\r\n", "  ")
ALWAYS = ("ENCODING ", "STDSTRINGS ", "SEARCHPATH ")


@dataclass(frozen=True)
class Entry:
    """An entry of the archive; `rest` is the list's text of kind, schema, name and owner."""

    dump_id: int
    object_id: tuple[int, int]
    rest: str
    line: str


def parse_list(text: str) -> list[Entry]:
    """Return the entries of a `pg_restore --list` output."""
    # Names may contain other line breaks that splitlines() would split at.
    matches = (ENTRY.fullmatch(line) for line in text.split("\n"))
    return [Entry(int(f["dump_id"]), (int(f["class"]), int(f["oid"])), f["rest"], f[0]) for f in matches if f]


@dataclass(frozen=True)
class Origin:
    """The source of an archive, from the list's header: the database and its server's version."""

    database: str
    server: str

    @property
    def listed(self) -> "Origin":
        """The origin with the database's name as pg_restore --list prints it, on one line."""
        return Origin(self.database.translate(ON_ONE_LINE), self.server)


HEAD = re.compile(r"^;     dbname: (?P<database>.*)$(?:.|\n)*?^;     Dumped from database version: (?P<server>.*)$", re.MULTILINE)


def parse_origin(text: str) -> Origin | None:
    """Return the origin in the header of a `pg_restore --list` output; None if it has none."""
    match = HEAD.search(text)
    return Origin(match["database"], match["server"]) if match else None


def parse_dependencies(script: str) -> dict[int, frozenset[int]]:
    """Return the dump ids that each entry of a verbose script depends on."""
    dependencies, current = dict[int, frozenset[int]](), None
    for line in script.splitlines():
        if entry := SCRIPT_ENTRY.fullmatch(line):
            current = int(entry[1])
            dependencies.setdefault(current, frozenset())
        elif current is not None and (named := SCRIPT_DEPENDENCIES.fullmatch(line)):
            dependencies[current] = frozenset(map(int, named[1].split()))
            current = None
        elif not line.startswith("--"):
            current = None
    return dependencies


def choose_entries(
    entries: list[Entry],
    dependencies: Mapping[int, frozenset[int]],
    objects: Collection[tuple[int, int]],
    schemas: Collection[str],
) -> list[Entry]:
    """Return the chosen objects' entries, and comments and grants on them or on schemas."""
    # Archives have no entry for schema `public`; entries about it are known by its name.
    about_schemas = tuple(f"{kind} - SCHEMA {schema} " for schema in schemas for kind in ("ACL", "COMMENT"))
    always = ALWAYS + about_schemas
    chosen = {e.dump_id for e in entries if e.object_id in objects or e.rest.startswith(always)}
    nameless = [e for e in entries if e.object_id[0] == 0 and e.dump_id not in chosen]
    present = {e.dump_id for e in entries}
    while more := {e.dump_id for e in nameless if _is_about(dependencies.get(e.dump_id, frozenset()) & present, chosen)} - chosen:
        chosen |= more
    return [e for e in entries if e.dump_id in chosen]


def _is_about(needs: frozenset[int], chosen: set[int]) -> bool:
    return bool(needs) and needs <= chosen


# Text around an entry's statements: its header, and settings for the next entry.
ABOUT_ENTRY = re.compile(
    r"\A(?:SET default_\w+ = [^\n]*;\n)*-- Name: [^\n]*\n(?:-- [^\n]*\n)*--\n|^SET default_\w+ = [^\n]*;\n|^-- Completed on .*\Z",
    re.MULTILINE | re.DOTALL,
)


def statements_of(
    script: bytes, encoding: str, entries: list[Entry], objects: Mapping[ObjectId, Collection[ObjectId]]
) -> dict[ObjectId, str]:
    """Return the statements that create objects, each with its parts, comments and grants, in archive order.

    Objects without an entry are omitted. A part of several objects is created with the last of them.
    """
    there, owners = {entry.object_id for entry in entries}, defaultdict[ObjectId, set[ObjectId]](set)
    for object_id in objects.keys() & there:
        for part in objects[object_id]:
            owners[part].add(object_id)
    text = {chunk.dump_id: chunk for chunk in parse_chunks(script)[1]}
    needs = {dump_id: chunk.needs for dump_id, chunk in text.items()}
    statements = dict[ObjectId, str]()
    for entry in entries:
        if entry.object_id in objects and entry.object_id not in statements:
            made = {entry.object_id, *statements}
            own = {part for part in objects[entry.object_id] if owners[part] <= made}
            about = choose_entries(entries, needs, {entry.object_id, *own}, ())
            parts = [
                _bare(text[e.dump_id].statements, encoding) for e in about if e.dump_id in text and not e.rest.startswith(ALWAYS)
            ]
            statements[entry.object_id] = "\n".join(parts)
    return statements


def _bare(statements: bytes, encoding: str) -> str:
    """Return statements without pg_dump's comments around them."""
    codec = codec_of(encoding)
    return re.sub(r"\n{2,}", "\n", ABOUT_ENTRY.sub("", statements.decode(codec, errors="replace"))).strip()


def codec_of(encoding: str) -> str:
    """Return Python's codec for a PostgreSQL encoding, UTF-8 if it has none."""
    try:
        return codecs.lookup(re.sub(r"^WIN(?=\d)", "cp", encoding)).name
    except LookupError:
        return "utf-8"


# Parallel jobs quote only the command of a failed entry, not its id.
COMMAND = re.compile(rb"^Command was: (.+?)\s*(?=^pg_restore: |\Z)", re.MULTILINE | re.DOTALL)


def failed_entries(errors: str, chunks: Iterable[Chunk]) -> set[int]:
    """Return entries that failed in parallel pg_restore jobs, by the commands quoted on stderr."""
    commands = [b"\n" + command + b"\n" for command in COMMAND.findall(errors.encode())]
    return {chunk.dump_id for chunk in chunks if any(command in chunk.statements for command in commands)}


def some_of_list(listing: str, entries: Collection[int]) -> str:
    """Return only those lines of a -L list that belong to some entries."""
    lines = (line for line in listing.split("\n") if (match := ENTRY.match(line)) and int(match["dump_id"]) in entries)
    return "".join(f"{line}\n" for line in lines)


# Entries about schemas and extensions: without code, but they need privileges that owners lack.
FRAME = ("SCHEMA - ", "EXTENSION - ", "COMMENT - SCHEMA ", "COMMENT - EXTENSION ", "ACL - SCHEMA ")


def split_list(listing: str) -> tuple[str, str]:
    """Split a -L list in two: schemas and extensions, with comments and grants, and all else."""
    lines = {line: ENTRY.match(line) for line in listing.split("\n") if line}
    frame = [line for line, match in lines.items() if match and match["rest"].startswith(FRAME)]
    return "".join(f"{line}\n" for line in frame), "".join(f"{line}\n" for line in lines if line not in {*frame})


def render_list(entries: list[Entry]) -> str:
    """Return the text of a -L list file."""
    return "".join(f"{entry.line}\n" for entry in entries)


# The list's names for inventory kinds; the index of a constraint comes with the constraint.
NAMES_OF_KINDS = {
    "table": ("TABLE", "UNLOGGED TABLE"), "partitioned table": ("TABLE",), "view": ("VIEW",),
    "materialized view": ("MATERIALIZED VIEW",), "sequence": ("SEQUENCE",), "index": ("INDEX",),
    "constraint": ("CONSTRAINT", "FK CONSTRAINT", "CHECK CONSTRAINT"), "trigger": ("TRIGGER",), "rule": ("RULE",),
    "policy": ("POLICY",), "statistics": ("STATISTICS",), "function": ("FUNCTION", "PROCEDURE", "AGGREGATE"),
    "schema": ("SCHEMA",), "type": ("TYPE", "DOMAIN"), "collation": ("COLLATION",),
    "text search configuration": ("TEXT SEARCH CONFIGURATION",), "text search dictionary": ("TEXT SEARCH DICTIONARY",),
}  # fmt: skip
OF_A_TABLE = frozenset({"constraint", "trigger", "rule", "policy"})


# Function signatures are compared without quotes and spaces, as quoting depends on settings.
QUOTES_AND_SPACES = re.compile(r'["\s]')


def entries_of(items: Iterable[InventoryItem], entries: Iterable[Entry]) -> set[int]:
    """Return dump ids of entries that create inventory objects, including defaults of tables."""
    wanted = tuple(title for item in items for title in (*titles_of(item), *_defaults(item)))
    return {entry.dump_id for entry in entries if comparable(entry.rest).startswith(wanted)}


def comparable(rest: str) -> str:
    """Return an entry's text as `titles_of` writes it: it begins with its object's title."""
    kind, _, named = rest.partition(" ")
    return _function_title(kind, named) if kind in NAMES_OF_KINDS["function"] else f"{rest} "


def titles_of(item: InventoryItem) -> list[str]:
    """Return the titles, kind, schema, table and name unquoted, that the list may have."""
    kinds = NAMES_OF_KINDS.get(item.kind, ())
    if item.kind in OF_A_TABLE:
        schema, table = split_name(item.parent)
        return [title(kind, schema, table, item.name) for kind in kinds]
    if item.kind == "schema":
        return [title("SCHEMA", "-", item.name)]
    if item.kind == "function":
        return _function_titles(item.name)
    return [title(kind, *split_name(item.name)) for kind in kinds]


def title(*words: str) -> str:
    """Return the title that consists of these words."""
    return f"{' '.join(words)} ".translate(ON_ONE_LINE)


def _function_titles(signature: str) -> list[str]:
    """Return the titles that the list may have for a function; for aggregates also with a star."""
    match = QUALIFIED.fullmatch(signature)
    named = f"{match['schema']}{match['name']}" if match else signature
    star = [_function_title("AGGREGATE", f"{named[:-2]}(*)")] if named.endswith("()") else []
    return [*(_function_title(kind, named) for kind in NAMES_OF_KINDS["function"]), *star]


def _function_title(kind: str, named: str) -> str:
    return f"{kind} {QUOTES_AND_SPACES.sub('', named)}"


def _defaults(item: InventoryItem) -> list[str]:
    return [title("DEFAULT", *split_name(item.name))] if item.kind == "table" else []


def table_of(item: InventoryItem) -> str:
    """Return schema.name of the table that an object is, or belongs to."""
    return plain_name(item.name if item.kind in TABLES else item.parent)
