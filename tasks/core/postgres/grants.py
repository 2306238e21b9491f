"""Grants in an archive by roles other than the owner, which hold a privilege WITH GRANT OPTION.

pg_dump writes them between SET and RESET SESSION AUTHORIZATION, which only a superuser may execute
(https://www.postgresql.org/docs/current/sql-set-session-authorization.html). They are removed from
their entries, and executed with SET ROLE if the login may become the grantor.
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
)
# pg_dump first revokes all privileges of an owner, then grants those that are left.
FROM_OWNER = re.compile(rb"^REVOKE ALL ON .+? FROM (?!PUBLIC;)", re.MULTILINE | re.DOTALL)
# A single GRANT of privileges on an object; a quoted name may contain anything.
_WORD = r"(?:[^\"';]|\"(?:[^\"]|\"\")+\")"
GRANT = re.compile(
    rf"GRANT (?:ALL|[A-Z]+(?: [A-Z]+)*(?:\({_WORD}+?\))?(?:,[A-Z]+(?: [A-Z]+)*(?:\({_WORD}+?\))?)*) ON {_WORD}+? "
    rf"TO {IDENTIFIER.pattern}(?: WITH GRANT OPTION)?;"
)


@dataclass(frozen=True)
class Grant:
    """A grant as one statement, and its grantor."""

    grantor: str
    statement: str

    @property
    def by_hand(self) -> str:
        """The statements with which a superuser can repeat the grant."""
        return f"SET ROLE {quoted(self.grantor)}; {self.statement} RESET ROLE;"


def grants_by_others(chunk: Chunk, encoding: str) -> list[Grant]:
    """Return the grants by others in an entry, up to the first statement that is not a grant."""
    grants, codec = list[Grant](), codec_of(encoding)
    for block in BY_ANOTHER.finditer(chunk.statements) if _has_grants(chunk) else ():
        grantor, text = (block[part].decode(codec, "replace") for part in ("grantor", "statements"))
        position = 0
        while grant := GRANT.match(text, position):
            grants.append(Grant(unquoted(grantor), grant[0]))
            position = grant.end() + 1
    return grants


def without_grants_by_others(chunk: Chunk) -> Chunk:
    """Return an entry without grants by others."""
    return replace(chunk, statements=BY_ANOTHER.sub(b"", chunk.statements)) if _has_grants(chunk) else chunk


def takes_from_owner(chunk: Chunk) -> bool:
    """Return whether an entry revokes privileges of the owner, which loading rows may need."""
    return _has_grants(chunk) and FROM_OWNER.search(chunk.statements) is not None


def _has_grants(chunk: Chunk) -> bool:
    return not chunk.has_class and OF_GRANTS.search(chunk.statements) is not None
