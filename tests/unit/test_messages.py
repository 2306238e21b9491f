"""What PostgreSQL's programs say, without rows."""

import pytest

from tasks.core.postgres.messages import MORE_TEMPORARY, without_rows

MARK = "ROWMARK"
UNIQUE = 'pg_restore: error: could not execute query: ERROR:  could not create unique index "u"'
IGNORED = "pg_restore: warning: errors ignored on restore: 1"
DETAIL = f"DETAIL:  Key (k)=({MARK}\n{MARK}) is duplicated.\nCommand was: ALTER TABLE t\n    ADD CHECK (k <> '{MARK}');\n"
CONTEXT = f'CONTEXT:  COPY t, line 1, column k: "{MARK}"'
OUT_OF_RANGE = 'ERROR:  value "{}" is out of range for type integer'
TOO_LARGE = 'pg_dump: error: query failed: ERROR:  temporary file size exceeds "temp_file_limit" (0kB)'
SAID = [
    (TOO_LARGE, f"{TOO_LARGE}\n{MORE_TEMPORARY}"),
    (f"{UNIQUE}\n{DETAIL}\n{IGNORED}", f"{UNIQUE}\n{IGNORED}"),
    (
        f'psql:/tmp/s.sql:3: ERROR:  invalid input syntax for type integer: "{MARK} ""x"""\n{CONTEXT}',
        'psql:/tmp/s.sql:3: ERROR:  invalid input syntax for type integer: "…"',
    ),
    (f"{OUT_OF_RANGE.format(MARK)}\nLINE 1: {MARK}\n   ^", OUT_OF_RANGE.format("…")),
    ('pg_dump: error: connection failed: FATAL:  database "d" does not exist', None),
    ('pg_dump: error: query failed: ERROR:  relation "t" does not exist\npg_dump: detail: Query was: LOCK TABLE t', None),
    ("pg_restore: error: input file does not appear to be a valid archive", None),
]


@pytest.mark.parametrize(("said", "told"), SAID)
def test_what_a_program_says(said: str, told: str | None) -> None:
    assert without_rows(said) == (told or said)
