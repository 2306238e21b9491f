"""Names as statements spell them."""

import re
from collections.abc import Sequence

from psycopg.sql import SQL, Composed, Identifier

QUOTED = re.compile(r'"((?:[^"]|"")+)"')
LAST_NAME = re.compile(r'\.(?:"(?:[^"]|"")+"|[^".]+)\Z')
QUALIFIED = re.compile(r'(?P<schema>"(?:[^"]|"")+"|[^".(]+)\.(?P<name>.*)', re.DOTALL)


def column_list(columns: Sequence[str]) -> Composed:
    """Return a parenthesized column list for COPY and INSERT; empty for no columns."""
    return SQL(" ({})").format(SQL(", ").join(map(Identifier, columns))) if columns else SQL("").format()


def quoted(name: str) -> str:
    """Return a name as an identifier, quoted."""
    return Identifier(name).as_string()


def quoted_name(schema: str, name: str) -> str:
    """Return the name of a relation as SQL writes it, quoted."""
    return Identifier(schema, name).as_string()


def plain_name(qualified: str) -> str:
    """Return schema.name unquoted, as manifests name relations."""
    return ".".join(split_name(qualified))


def table_of_column(qualified: str) -> str:
    """Return the table of schema.table.column, all as SQL writes them."""
    return LAST_NAME.sub("", qualified)


def split_name(qualified: str) -> tuple[str, str]:
    """Return schema and name, unquoted; an unqualified name has no schema."""
    match = QUALIFIED.fullmatch(qualified)
    if match is None:
        return "", unquoted(qualified)
    return unquoted(match["schema"]), unquoted(match["name"])


def unquoted(name: str) -> str:
    """Return an identifier, or each one in a name, unquoted."""
    return QUOTED.sub(lambda quoted: quoted[1].replace('""', '"'), name)
