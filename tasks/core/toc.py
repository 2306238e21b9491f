"""The table of contents of a pg_dump archive, and the -L list that restores one context's part of it.

`pg_restore --list` gives each entry with its (classid, oid); entries without a class (comments, privileges, attachments,
row security) are known by what they depend on, which `pg_restore --verbose --file=-` prints.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

ENTRY = re.compile(r"(?P<dump_id>\d+); (?P<class>\d+) (?P<oid>\d+) (?P<rest>.*)")
SCRIPT_ENTRY = re.compile(r"-- TOC entry (\d+) \(class (\d+) OID (\d+)\)")
SCRIPT_DEPENDENCIES = re.compile(r"-- Dependencies:((?: \d+)+)")
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
    found = (ENTRY.fullmatch(line) for line in text.splitlines())
    return [Entry(int(f["dump_id"]), (int(f["class"]), int(f["oid"])), f["rest"], f[0]) for f in found if f]


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


def render_list(entries: list[Entry]) -> str:
    """Return the text of a -L list file."""
    return "".join(f"{entry.line}\n" for entry in entries)
