"""Single pg_dump archives of scripts older than this project: their facts, and what they lack."""

import re
from dataclasses import dataclass, field

from tasks.core.report.markdown import duration, headline, section, table

HEADER = re.compile(r"^;\s+(?P<key>[^:]+): (?P<value>.*)$", re.MULTILINE)
OWNER = re.compile(rb"^ALTER [A-Z ]+ .* OWNER TO (.*);\n", re.MULTILINE)
COPY = re.compile(rb'COPY (?P<table>(?:"(?:[^"]|"")+"|[^ "])+) .*FROM stdin;\n', re.DOTALL)
END_OF_ROWS = b"\\.\n"
LACKS = (
    "row counts and digests: all rows of the file were loaded, but whether the file had all rows of the database is unknown",
    "the time, transaction and LSN of its snapshot: whether a backup set is newer is unknown",
    "roles, and settings of the database",
)


@dataclass(frozen=True)
class ArchiveFacts:
    """The facts that an archive's header has."""

    path: str
    bytes: int
    database: str
    created: str
    server_major: int
    pg_dump: str
    encoding: str


def parse_archive_facts(path: str, size: int, listing: str, encoding: str) -> ArchiveFacts:
    """Return the header facts of a `pg_restore --list` output; missing ones are empty or 0."""
    header = {match["key"].strip(): match["value"].strip() for match in HEADER.finditer(listing)}
    created = re.search(r"^; Archive created at (.*)$", listing, re.MULTILINE)
    major = re.match(r"\d+", header.get("Dumped from database version", ""))
    return ArchiveFacts(
        path, size, header.get("dbname", ""), created[1] if created else "", int(major[0]) if major else 0,
        header.get("Dumped by pg_dump version", ""), encoding,
    )  # fmt: skip


@dataclass(frozen=True)
class Loaded:
    """The rows of a relation: in the file, loaded, and why others were not."""

    table: str
    rows: int
    loaded: int
    complaint: str = ""


@dataclass
class ArchiveRestore:
    """The result of restoring an archive."""

    facts: ArchiveFacts
    database: str
    loaded: list[Loaded] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    lacks: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    unread: int = 0
    seconds: float = 0.0

    @property
    def lost(self) -> int:
        """The number of rows that the file has and the database lacks."""
        return sum(relation.rows - relation.loaded for relation in self.loaded)


def archive_verdict(restore: ArchiveRestore) -> str:
    """Return the verdict in one line."""
    rows = sum(relation.loaded for relation in restore.loaded)
    word = "INCOMPLETE" if restore.lost or restore.unread else "RESTORED, UNPROVEN"
    lost = f", {restore.lost:,} rows of the file are missing" if restore.lost else ""
    lost += (
        f", {restore.unread:,} lines of INSERT statements or large objects were not loaded: use pg_restore"
        if restore.unread
        else ""
    )
    return (
        f"{word}: {rows:,} rows of {len(restore.loaded)} relations are in database "
        f'"{restore.database}"{lost}, '
        f"{len(restore.complaints)} objects could not be created; a legacy file has nothing to "
        "compare with"
    )


def archive_report(restore: ArchiveRestore) -> str:
    """Return the report of a restored archive as markdown."""
    facts = [
        ("file", f"`{restore.facts.path}`"), ("bytes", f"{restore.facts.bytes:,}"), ("created", restore.facts.created),
        ("of", f"database {restore.facts.database}, PostgreSQL {restore.facts.server_major}, "
               f"pg_dump {restore.facts.pg_dump}"),
        ("restored into", f"`{restore.database}`"), ("took", duration(restore.seconds)),
    ]  # fmt: skip
    rows = [(relation.table, f"{relation.rows:,}", f"{relation.loaded:,}", relation.complaint) for relation in restore.loaded]
    parts = [
        headline(archive_verdict(restore)),
        table(["what", "value"], facts) + "\n",
        section("What a single dump file lacks", [*LACKS, *restore.lacks]),
        section("What could not be created", restore.complaints),
        section("Integrity checks that failed", restore.violations),
        "## Rows\n\n" + table(["relation", "in the file", "loaded", "why not"], rows, (1, 2)) + "\n",
    ]
    return "\n".join(part for part in parts if part)
