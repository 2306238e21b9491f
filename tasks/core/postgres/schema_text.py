"""A digest of the objects that the statements of a dumped schema create.

Ids, comments and settings of pg_dump, and the order of entries, do not count: dumps by another
minor version, or of a restored database, have the same digest.
"""

import re
from collections.abc import Collection, Iterable, Iterator
from hashlib import sha256

from tasks.core.postgres.archive_script import Chunk, place_of, without_place

# The header of an entry.
TITLE = re.compile(rb"\A\s*-- Name: [^\n]*\n(?:-- [^\n]*\n)*--\n")
END = re.compile(rb"^(?:-- Completed on [^\n]*\n+)?--\n-- PostgreSQL database dump complete\n--\s*\Z", re.MULTILINE)
# Objects with storage use these settings; before others they vary.
STANDARD = {b"default_tablespace": b"''", b"default_table_access_method": b"heap"}
TAKES_ROOM = re.compile(
    rb"^(?:CREATE (?:UNLOGGED )?TABLE|CREATE MATERIALIZED VIEW|CREATE (?:UNIQUE )?INDEX|    ADD CONSTRAINT) ", re.MULTILINE
)
PRIVILEGE = re.compile(rb"(?:GRANT|REVOKE|ALTER DEFAULT PRIVILEGES|SET SESSION AUTHORIZATION|RESET SESSION AUTHORIZATION)\b")


def digest_of(chunks: Iterable[Chunk], chosen: Collection[int]) -> str:
    """Return the SHA-256 of what the chosen entries (dump ids) of a verbose script create."""
    whole = sha256()
    for text in sorted(_texts(chunks, chosen)):
        whole.update(sha256(text).digest())
    return whole.hexdigest()


def _texts(chunks: Iterable[Chunk], chosen: Collection[int]) -> Iterator[bytes]:
    for chunk in chunks:
        if chunk.dump_id in chosen and (statements := _statements(without_place(chunk))):
            place = STANDARD | place_of(chunk)
            odd = sorted(pair for pair in place.items() if STANDARD[pair[0]] != pair[1]) if TAKES_ROOM.search(statements) else []
            yield b"".join(b"%s = %s\n" % pair for pair in odd) + statements


def _statements(text: bytes) -> bytes:
    """Return only the statements, privileges sorted: the catalog has them in the order granted."""
    bare = END.sub(b"", TITLE.sub(b"", text)).strip()
    lines = [line for line in bare.split(b"\n") if line]
    return b"\n".join(sorted(lines)) if all(map(PRIVILEGE.match, lines)) else bare
