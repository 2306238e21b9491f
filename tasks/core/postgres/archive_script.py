"""The script that pg_restore prints of an archive, entry by entry, each such that it may be made without those before it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Chunk:
    """The statements of one entry, as they stand in a verbose script; entries without a class are about those they depend on."""

    dump_id: int
    has_class: bool
    needs: frozenset[int]
    statements: bytes


CHUNK = re.compile(
    rb"^--\n-- TOC entry (?P<id>\d+) \(class (?P<class>\d+) OID \d+\)\n(?:-- Dependencies:(?P<needs>(?: \d+)+)\n)?",
    re.MULTILINE,
)
# psql's own commands, and what servers before 17 do not know.
FOR_PSQL = re.compile(rb"^(\\(un)?restrict .*|SET transaction_timeout = 0;)\n", re.MULTILINE)


# Where the table of an entry lies, and how, is set before the head of the entry, and only where that changes.
PLACE = re.compile(rb"(?:^SET default_(?:tablespace|table_access_method) = [^\n]*;\n\n?)+\Z", re.MULTILINE)
PLACE_SETTING = re.compile(rb"^SET (default_\w+) = ([^\n]*);$", re.MULTILINE)
SAID_PLACE = re.compile(rb"\A(?:SET default_\w+ = [^\n]*;\n)+")
IN_TABLESPACE = re.compile(rb"-- Name: [^\n]*; Tablespace: [^\n]*\n")
TABLESPACE, NO_TABLESPACE = b"default_tablespace", b"''"


def parse_chunks(script: bytes) -> tuple[bytes, list[Chunk]]:
    """Return the settings that a verbose script begins with, and the statements of each entry in order.

    Each entry says itself in which tablespace its table lies, so that it may be made without those before it.
    """
    script = FOR_PSQL.sub(b"", script)
    found = list(CHUNK.finditer(script))
    if not found:
        return script, []
    ends = [*(one.start() for one in found[1:]), len(script)]
    settings, place = _without_place(script[: found[0].start()], {})
    chunks = list[Chunk]()
    for one, end in zip(found, ends, strict=True):
        before = place
        statements, place = _without_place(script[one.end() : end], before)
        here = {**before, TABLESPACE: before.get(TABLESPACE, NO_TABLESPACE) if IN_TABLESPACE.match(statements) else NO_TABLESPACE}
        said = b"".join(b"SET %b = %b;\n" % setting for setting in here.items())
        needs = frozenset(map(int, (one["needs"] or b"").split()))
        chunks.append(Chunk(int(one["id"]), one["class"] != b"0", needs, said + statements))
    return settings, chunks


def without_place(chunk: Chunk) -> bytes:
    """Return the statements of an entry without where its table lies, and how."""
    return SAID_PLACE.sub(b"", chunk.statements)


def tablespace_of(chunk: Chunk) -> bytes:
    """Return in which tablespace an entry makes something, as SQL writes it: '' for that of the database."""
    return place_of(chunk).get(TABLESPACE, NO_TABLESPACE)


def place_of(chunk: Chunk) -> dict[bytes, bytes]:
    """Return the settings that say where what an entry makes lies, and how."""
    said = SAID_PLACE.match(chunk.statements)
    return dict(PLACE_SETTING.findall(said[0])) if said else {}


def _without_place(text: bytes, place: Mapping[bytes, bytes]) -> tuple[bytes, Mapping[bytes, bytes]]:
    """Return the text without what it sets for the entry after it, and what is set then."""
    found = PLACE.search(text)
    return (text[: found.start()], {**place, **dict(PLACE_SETTING.findall(found[0]))}) if found else (text, place)
