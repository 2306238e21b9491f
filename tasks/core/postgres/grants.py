"""Grants of an archive that were made by others than the owner of the object: by a role that holds a privilege WITH GRANT OPTION.

pg_dump writes them between SET SESSION AUTHORIZATION and its RESET, which only a superuser may run
(https://www.postgresql.org/docs/current/sql-set-session-authorization.html). They are taken out of their entries, and made with
SET ROLE where a login may become the grantor.
"""

import re
from dataclasses import dataclass, replace

from tasks.core.postgres.archive_script import Chunk
from tasks.core.postgres.archive_toc import codec_of
from tasks.core.spelling import IDENTIFIER
from tasks.core.sql.names import quoted, unquoted

OF_GRANTS = re.compile(rb"^-- Name: [^\n]*; Type: (?:DEFAULT )?ACL; Schema: ", re.MULTILINE)
BY_ANOTHER = re.compile(
    rb"^SET SESSION AUTHORIZATION (?P<grantor>[^;\n\"]+|\"(?:[^\"]|\"\")+\");\n(?P<statements>.*?)^RESET SESSION AUTHORIZATION;\n",
    re.MULTILINE | re.DOTALL,
)  # fmt: skip
# pg_dump takes all that an owner has by itself, before it grants him again what he kept.
FROM_OWNER = re.compile(rb"^REVOKE ALL ON .+? FROM (?!PUBLIC;)", re.MULTILINE | re.DOTALL)
# One statement that grants privileges on an object, and no role; a name in quotes may hold anything.
_WORD = r"(?:[^\"';]|\"(?:[^\"]|\"\")+\")"
GRANT = re.compile(
    rf"GRANT (?:ALL|[A-Z]+(?: [A-Z]+)*(?:\({_WORD}+?\))?(?:,[A-Z]+(?: [A-Z]+)*(?:\({_WORD}+?\))?)*) ON {_WORD}+? "
    rf"TO {IDENTIFIER.pattern}(?: WITH GRANT OPTION)?;"
)


@dataclass(frozen=True)
class Grant:
    """A grant, as one statement, and the role that made it."""

    grantor: str
    statement: str

    @property
    def by_hand(self) -> str:
        """What a superuser runs to make it as it was."""
        return f"SET ROLE {quoted(self.grantor)}; {self.statement} RESET ROLE;"


def grants_by_others(chunk: Chunk, encoding: str) -> list[Grant]:
    """Return the grants of an entry that others than the owner made, up to what is no grant of privileges on an object."""
    found, codec = list[Grant](), codec_of(encoding)
    for block in BY_ANOTHER.finditer(chunk.statements) if _has_grants(chunk) else ():
        grantor, text = (block[part].decode(codec, "replace") for part in ("grantor", "statements"))
        position = 0
        while grant := GRANT.match(text, position):
            found.append(Grant(unquoted(grantor), grant[0]))
            position = grant.end() + 1
    return found


def without_grants_by_others(chunk: Chunk) -> Chunk:
    """Return an entry without them."""
    return replace(chunk, statements=BY_ANOTHER.sub(b"", chunk.statements)) if _has_grants(chunk) else chunk


def takes_from_owner(chunk: Chunk) -> bool:
    """Say whether an entry takes privileges from the object's owner, which loading rows may need."""
    return _has_grants(chunk) and FROM_OWNER.search(chunk.statements) is not None


def _has_grants(chunk: Chunk) -> bool:
    return not chunk.has_class and OF_GRANTS.search(chunk.statements) is not None
