"""The table of contents of a pg_dump archive, and the -L list that restores one context's part of it.

`pg_restore --list` gives each entry with its (classid, oid); entries without a class (comments, privileges, attachments,
row security) are known by what they depend on, which `pg_restore --verbose --file=-` prints.
"""

import codecs
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from tasks.core.database.dependencies import ObjectId
from tasks.core.database.objects import TABLES, InventoryItem
from tasks.core.postgres.archive_script import Chunk, parse_chunks
from tasks.core.sql.names import QUALIFIED, plain_name, split_name

ENTRY = re.compile(r"(?P<dump_id>\d{1,10}); (?P<class>\d{1,10}) (?P<oid>\d{1,10}) (?P<rest>.*)")
SCRIPT_ENTRY = re.compile(r"-- TOC entry (\d{1,10}) \(class (\d{1,10}) OID (\d{1,10})\)")
SCRIPT_DEPENDENCIES = re.compile(r"-- Dependencies:((?: \d{1,10})+)")
# A name of several lines stands on one there.
ON_ONE_LINE = str.maketrans("\r\n", "  ")
ALWAYS = ("ENCODING ", "STDSTRINGS ", "SEARCHPATH ")


@dataclass(frozen=True)
class Entry:
    """One entry of the archive; `rest` is what the list says after the numbers: kind, schema, name, owner."""

    dump_id: int
    object_id: tuple[int, int]
    rest: str
    line: str


def parse_list(text: str) -> list[Entry]:
    """Return the entries of a `pg_restore --list` output."""
    # Names may hold what splitlines() takes for the end of a line.
    found = (ENTRY.fullmatch(line) for line in text.split("\n"))
    return [Entry(int(f["dump_id"]), (int(f["class"]), int(f["oid"])), f["rest"], f[0]) for f in found if f]


@dataclass(frozen=True)
class Origin:
    """Which database an archive was dumped from, and the version of its server, as the head of its list says."""

    database: str
    server: str

    @property
    def listed(self) -> "Origin":
        """The same as a list says it, on one line."""
        return Origin(self.database.translate(ON_ONE_LINE), self.server)


HEAD = re.compile(
    r"^;     dbname: (?P<database>.*)$(?:.|\n)*?^;     Dumped from database version: (?P<server>.*)$", re.MULTILINE
)  # fmt: skip


def parse_origin(text: str) -> Origin | None:
    """Return what the head of a `pg_restore --list` output says; None if it says nothing."""
    found = HEAD.search(text)
    return Origin(found["database"], found["server"]) if found else None


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
    """Return the entries of the chosen objects, and those about them or about a schema, in the archive's order."""
    # The archive names no schema `public` to depend on; what is said about it is known by its name.
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


# What stands around the statements of an entry: what it is called, and settings for what comes next.
ABOUT_ENTRY = re.compile(
    r"\A(?:SET default_\w+ = [^\n]*;\n)*-- Name: [^\n]*\n(?:-- [^\n]*\n)*--\n|^SET default_\w+ = [^\n]*;\n|^-- Completed on .*\Z",
    re.MULTILINE | re.DOTALL,
)  # fmt: skip


def statements_of(script: bytes, encoding: str, entries: list[Entry], objects: Collection[ObjectId]) -> dict[ObjectId, str]:
    """Return the statements that make objects, with what is said about these, in the order of the archive's verbose script.

    What the archive has no entry of is not among them.
    """
    text = {chunk.dump_id: chunk for chunk in parse_chunks(script)[1]}
    needs = {dump_id: chunk.needs for dump_id, chunk in text.items()}
    found = dict[ObjectId, str]()
    for one in entries:
        if one.object_id in objects and one.object_id not in found:
            said = choose_entries(entries, needs, {one.object_id}, ())
            parts = [
                _bare(text[e.dump_id].statements, encoding) for e in said if e.dump_id in text and not e.rest.startswith(ALWAYS)
            ]
            found[one.object_id] = "\n".join(parts)
    return found


def _bare(statements: bytes, encoding: str) -> str:
    """Return statements without what pg_dump writes around them."""
    codec = codec_of(encoding)
    return re.sub(r"\n{2,}", "\n", ABOUT_ENTRY.sub("", statements.decode(codec, errors="replace"))).strip()


def codec_of(encoding: str) -> str:
    """Return the codec of Python for an encoding of PostgreSQL, that of UTF-8 where there is none."""
    try:
        return codecs.lookup(re.sub(r"^WIN(?=\d)", "cp", encoding)).name
    except LookupError:
        return "utf-8"


# Jobs that work side by side do not say which entry it was, as one job alone does.
COMMAND = re.compile(rb"^Command was: (.+?)\s*(?=^pg_restore: |\Z)", re.MULTILINE | re.DOTALL)


def failed_entries(errors: str, chunks: Iterable[Chunk]) -> set[int]:
    """Return the entries that jobs of pg_restore could not restore: those with the commands that it quotes on stderr."""
    commands = [b"\n" + command + b"\n" for command in COMMAND.findall(errors.encode())]
    return {chunk.dump_id for chunk in chunks if any(command in chunk.statements for command in commands)}


def some_of_list(listing: str, entries: Collection[int]) -> str:
    """Return the lines of a -L list that are of some entries."""
    lines = (line for line in listing.split("\n") if (found := ENTRY.match(line)) and int(found["dump_id"]) in entries)
    return "".join(f"{line}\n" for line in lines)


# What is about no object of an owner: it has no code, and takes rights on the database that owners do not need.
FRAME = ("SCHEMA - ", "EXTENSION - ", "COMMENT - SCHEMA ", "COMMENT - EXTENSION ", "ACL - SCHEMA ")


def split_list(listing: str) -> tuple[str, str]:
    """Return a -L list in two: schemas and extensions with what is said about them, and all else."""
    lines = {line: ENTRY.match(line) for line in listing.split("\n") if line}
    frame = [line for line, found in lines.items() if found and found["rest"].startswith(FRAME)]
    return "".join(f"{line}\n" for line in frame), "".join(f"{line}\n" for line in lines if line not in {*frame})


def render_list(entries: list[Entry]) -> str:
    """Return the text of a -L list file."""
    return "".join(f"{entry.line}\n" for entry in entries)


# What the list calls the kinds of an inventory; an index that stands for a constraint comes with the constraint.
NAMES_OF_KINDS = {
    "table": ("TABLE", "UNLOGGED TABLE"), "partitioned table": ("TABLE",), "view": ("VIEW",),
    "materialized view": ("MATERIALIZED VIEW",), "sequence": ("SEQUENCE",), "index": ("INDEX",),
    "constraint": ("CONSTRAINT", "FK CONSTRAINT", "CHECK CONSTRAINT"), "trigger": ("TRIGGER",), "rule": ("RULE",),
    "policy": ("POLICY",), "statistics": ("STATISTICS",), "function": ("FUNCTION", "PROCEDURE", "AGGREGATE"),
    "schema": ("SCHEMA",), "type": ("TYPE", "DOMAIN"), "collation": ("COLLATION",),
    "text search configuration": ("TEXT SEARCH CONFIGURATION",), "text search dictionary": ("TEXT SEARCH DICTIONARY",),
}  # fmt: skip
OF_A_TABLE = frozenset({"constraint", "trigger", "rule", "policy"})


# Of functions, whose argument types are quoted as the source's settings want it, neither quotes nor spaces are compared.
QUOTES_AND_SPACES = re.compile(r'["\s]')


def entries_of(items: Iterable[InventoryItem], entries: Iterable[Entry]) -> set[int]:
    """Return the dump ids of the entries that make objects of an inventory, with the defaults of tables among these."""
    wanted = tuple(title for item in items for title in (*titles_of(item), *_defaults(item)))
    return {entry.dump_id for entry in entries if comparable(entry.rest).startswith(wanted)}


def comparable(rest: str) -> str:
    """Return what an entry says in the form in which titles are: those of its object are what it begins with."""
    kind, _, named = rest.partition(" ")
    return _function_title(kind, named) if kind in NAMES_OF_KINDS["function"] else f"{rest} "


def titles_of(item: InventoryItem) -> list[str]:
    """Return how the list may name an object: kind, schema, the table that it is of, name; nothing is quoted there."""
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
    """Return the beginning of an entry of these words."""
    return f"{' '.join(words)} ".translate(ON_ONE_LINE)


def _function_titles(signature: str) -> list[str]:
    """Return how the list may name a function, an aggregate without arguments with a star in their place."""
    found = QUALIFIED.fullmatch(signature)
    named = f"{found['schema']}{found['name']}" if found else signature
    star = [_function_title("AGGREGATE", f"{named[:-2]}(*)")] if named.endswith("()") else []
    return [*(_function_title(kind, named) for kind in NAMES_OF_KINDS["function"]), *star]


def _function_title(kind: str, named: str) -> str:
    return f"{kind} {QUOTES_AND_SPACES.sub('', named)}"


def _defaults(item: InventoryItem) -> list[str]:
    return [title("DEFAULT", *split_name(item.name))] if item.kind == "table" else []


def table_of(item: InventoryItem) -> str:
    """Return schema.name of the table that an object is, or is of."""
    return plain_name(item.name if item.kind in TABLES else item.parent)
