"""Archives of pg_dump alone, as scripts made them before there were backup sets: what they say of themselves, and lack."""

import re
from dataclasses import dataclass, field

from tasks.core.report.markdown import duration, headline, section, table

HEADER = re.compile(r"^;\s+(?P<key>[^:]+): (?P<value>.*)$", re.MULTILINE)
OWNER = re.compile(rb"^ALTER [A-Z ]+ .* OWNER TO (.*);\n", re.MULTILINE)
COPY = re.compile(rb'COPY (?P<table>(?:"(?:[^"]|"")+"|[^ "])+) .*FROM stdin;\n', re.DOTALL)
END_OF_ROWS = b"\\.\n"
LACKS = (
    "row counts and digests: what was loaded is what the file has, and nobody can say whether that is all there was",
    "the instant, transaction and LSN of its snapshot, and so its place among backup sets",
    "roles, and settings of the database",
)


@dataclass(frozen=True)
class ArchiveFacts:
    """What an archive says of itself."""

    path: str
    bytes: int
    database: str
    created: str
    server_major: int
    pg_dump: str
    encoding: str


def parse_archive_facts(path: str, size: int, listing: str, encoding: str) -> ArchiveFacts:
    """Return what the head of a `pg_restore --list` output says; what it does not say is empty or 0."""
    said = {found["key"].strip(): found["value"].strip() for found in HEADER.finditer(listing)}
    created = re.search(r"^; Archive created at (.*)$", listing, re.MULTILINE)
    major = re.match(r"\d+", said.get("Dumped from database version", ""))
    return ArchiveFacts(
        path, size, said.get("dbname", ""), created[1] if created else "", int(major[0]) if major else 0,
        said.get("Dumped by pg_dump version", ""), encoding,
    )  # fmt: skip


@dataclass(frozen=True)
class Loaded:
    """One relation's rows: as many as the file has, as many as arrived, and why others did not."""

    table: str
    rows: int
    loaded: int
    complaint: str = ""


@dataclass
class ArchiveRestore:
    """What became of an archive."""

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
        """Rows of the file that are not in the database."""
        return sum(one.rows - one.loaded for one in self.loaded)


def archive_verdict(restore: ArchiveRestore) -> str:
    """Return the one line that says what is there now."""
    rows = sum(one.loaded for one in restore.loaded)
    word = "INCOMPLETE" if restore.lost or restore.unread else "RESTORED, UNPROVEN"
    lost = f", {restore.lost:,} rows of the file are not" if restore.lost else ""
    lost += (
        f", {restore.unread:,} lines of INSERT statements or large objects are not read: use pg_restore" if restore.unread else ""
    )
    return (
        f'{word}: {rows:,} rows of {len(restore.loaded)} relations are in database "{restore.database}"{lost}, '
        f"{len(restore.complaints)} objects could not be made; a legacy file has nothing to compare with"
    )


def archive_report(restore: ArchiveRestore) -> str:
    """Return the report of a restored archive as markdown."""
    facts = [
        ("file", f"`{restore.facts.path}`"), ("bytes", f"{restore.facts.bytes:,}"), ("made", restore.facts.created),
        ("of", f"database {restore.facts.database}, PostgreSQL {restore.facts.server_major}, pg_dump {restore.facts.pg_dump}"),
        ("restored into", f"`{restore.database}`"), ("took", duration(restore.seconds)),
    ]  # fmt: skip
    rows = [(one.table, f"{one.rows:,}", f"{one.loaded:,}", one.complaint) for one in restore.loaded]
    parts = [
        headline(archive_verdict(restore)), table(["what", "value"], facts) + "\n",
        section("What such a file lacks", [*LACKS, *restore.lacks]),
        section("What could not be made", restore.complaints), section("Integrity checks that fail", restore.violations),
        "## Rows\n\n" + table(["relation", "in the file", "loaded", "why not"], rows, (1, 2)) + "\n",
    ]  # fmt: skip
    return "\n".join(part for part in parts if part)
