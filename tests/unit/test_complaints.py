"""What PostgreSQL's programs say, without rows."""

import pytest

from tasks.core.complaints import without_rows

MARK = "ROWMARK"
SAID = [
    (
        f'pg_restore: error: could not execute query: ERROR:  could not create unique index "u"\nDETAIL:  Key (k)=({MARK}\n{MARK}) is '
        f"duplicated.\nCommand was: ALTER TABLE t\n    ADD CHECK (k <> '{MARK}');\n\npg_restore: warning: errors ignored: 1",
        'pg_restore: error: could not execute query: ERROR:  could not create unique index "u"\npg_restore: warning: errors ignored: 1',
    ),
    (
        f'psql:/tmp/s.sql:3: ERROR:  invalid input syntax for type integer: "{MARK} ""x"""\nCONTEXT:  COPY t, line 1, column k: "{MARK}"',
        'psql:/tmp/s.sql:3: ERROR:  invalid input syntax for type integer: "…"',
    ),
    (f'ERROR:  value "{MARK}" is out of range for type integer\nLINE 1: {MARK}\n   ^', 'ERROR:  value "…" is out of range for type integer'),
    ('pg_dump: error: connection failed: FATAL:  database "d" does not exist', None),
    ('pg_dump: error: query failed: ERROR:  relation "t" does not exist\npg_dump: detail: Query was: LOCK TABLE t', None),
    ("pg_restore: error: input file does not appear to be a valid archive", None),
]  # fmt: skip


@pytest.mark.parametrize(("said", "told"), SAID)
def test_what_a_program_says(said: str, told: str | None) -> None:
    assert without_rows(said) == (told or said)
