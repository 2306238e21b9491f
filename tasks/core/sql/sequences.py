"""Statements that read and set positions of sequences."""

from psycopg.sql import SQL, Composed, Identifier, Literal

SEQUENCES = SQL(
    """SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
       WHERE c.relkind = 'S' AND c.oid = ANY (%(oids)s::oid[]) ORDER BY 1, 2"""
)


def sequence_position(schema: str, name: str) -> Composed:
    """Read a sequence's position; it ignores snapshots, so it is at or above any stored row."""
    return SQL("SELECT last_value, is_called FROM {}").format(Identifier(schema, name))


# A sequence whose owner revoked his own UPDATE is not set again after a trial.
SET_SEQUENCE = SQL(
    """SELECT setval(oid, %(value)s, %(called)s) FROM pg_class
       WHERE oid = format('%%I.%%I', %(schema)s::text, %(name)s::text)::regclass AND has_sequence_privilege(oid, 'UPDATE')"""
)


def advance_sequence(schema: str, name: str, value: int, *, called: bool) -> Composed:
    """Advance an existing sequence, never back: others may use it, and it is not transactional."""
    return SQL(
        "SELECT setval({name}::regclass, {value}, {called}) FROM {sequence} s JOIN pg_sequence q "
        "ON q.seqrelid = {name}::regclass WHERE sign(q.seqincrement) * ({value} - s.last_value) > "
        "0 OR {value} = s.last_value AND {called} AND NOT s.is_called"
    ).format(
        name=Literal(Identifier(schema, name).as_string()),
        sequence=Identifier(schema, name),
        value=Literal(value),
        called=Literal(called),
    )
