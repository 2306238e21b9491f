"""Parsing the script that pg_restore prints of an archive, into independent entries."""

import re
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Chunk:
    """The statements of an entry of a verbose script.

    An entry without a class (a comment, a grant) belongs to the object on which it depends.
    """

    dump_id: int
    has_class: bool
    needs: frozenset[int]
    statements: bytes


CHUNK = re.compile(
    rb"^--\n-- TOC entry (?P<id>\d+) \(class (?P<class>\d+) OID \d+\)\n(?:-- Dependencies:(?P<needs>(?: \d+)+)\n)?",
    re.MULTILINE,
)
# psql meta-commands, and parameters unknown before 17.
FOR_PSQL = re.compile(rb"^(\\(un)?restrict .*|SET transaction_timeout = 0;)\n", re.MULTILINE)


# Tablespace and access method are set before an entry's header, and only if they change.
PLACE = re.compile(rb"(?:^SET default_(?:tablespace|table_access_method) = [^\n]*;\n\n?)+\Z", re.MULTILINE)
PLACE_SETTING = re.compile(rb"^SET (default_\w+) = ([^\n]*);$", re.MULTILINE)
PLACE_BEFORE = re.compile(rb"\A(?:SET default_\w+ = [^\n]*;\n)+")
IN_TABLESPACE = re.compile(rb"-- Name: [^\n]*; Tablespace: [^\n]*\n")
TABLESPACE, NO_TABLESPACE = b"default_tablespace", b"''"


def parse_chunks(script: bytes) -> tuple[bytes, list[Chunk]]:
    """Return the settings at the beginning of a verbose script, and the statements of each entry.

    Each entry sets its own tablespace, so that it can be executed without the others.
    """
    script = FOR_PSQL.sub(b"", script)
    heads = list(CHUNK.finditer(script))
    if not heads:
        return script, []
    ends = [*(head.start() for head in heads[1:]), len(script)]
    settings, place = _without_place(script[: heads[0].start()], {})
    chunks = list[Chunk]()
    for head, end in zip(heads, ends, strict=True):
        before = place
        statements, place = _without_place(script[head.end() : end], before)
        here = {**before, TABLESPACE: before.get(TABLESPACE, NO_TABLESPACE) if IN_TABLESPACE.match(statements) else NO_TABLESPACE}
        settings_before = b"".join(b"SET %b = %b;\n" % setting for setting in here.items())
        needs = frozenset(map(int, (head["needs"] or b"").split()))
        chunks.append(Chunk(int(head["id"]), head["class"] != b"0", needs, settings_before + statements))
    return settings, chunks


def without_place(chunk: Chunk) -> bytes:
    """Return the statements of an entry without its tablespace and access method."""
    return PLACE_BEFORE.sub(b"", chunk.statements)


def tablespace_of(chunk: Chunk) -> bytes:
    """Return an entry's tablespace as SQL writes it: '' for the database's default tablespace."""
    return place_of(chunk).get(TABLESPACE, NO_TABLESPACE)


def place_of(chunk: Chunk) -> dict[bytes, bytes]:
    """Return the tablespace and access method settings of an entry."""
    match = PLACE_BEFORE.match(chunk.statements)
    return dict(PLACE_SETTING.findall(match[0])) if match else {}


def _without_place(text: bytes, place: Mapping[bytes, bytes]) -> tuple[bytes, Mapping[bytes, bytes]]:
    """Return the text without the settings that apply to the next entry, and those settings."""
    match = PLACE.search(text)
    return (text[: match.start()], {**place, **dict(PLACE_SETTING.findall(match[0]))}) if match else (text, place)
