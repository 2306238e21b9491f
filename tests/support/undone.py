"""Damages to a live context that a restore in place mends, and that what undoes it has to bring back as they were."""

from collections.abc import Iterator
from dataclasses import dataclass

# Of each table: what is changed in its rows, and what a row that is added has otherwise than the one that it is copied from.
COLUMNS = {
    "organizations": ("description = 'wrong'", "'code', t.code || '+'"),
    "organization_units": ("description = 'wrong'", "'name', 'added'"),
    "organization_hierarchies": ("path = 'wrong'", ""),
    "organization_members": ("role_in_unit = 'wrong'", "'status', 'inactive'"),
    "teams": ("purpose = 'wrong'", "'name', t.name || '+'"),
    "team_members": ("role = 'wrong'", "'status', 'inactive', 'left_at', t.joined_at"),
    "team_leaders": ("assigned_at = assigned_at + interval '1 day'", "'status', 'inactive'"),
    "governance_policies": ("description = 'wrong'", "'name', t.name || '+'"),
    "governance_rules": ("condition = 'wrong'", "'name', 'added'"),
    "policy_scopes": ("include_descendants = NOT include_descendants", "'target_id', gen_random_uuid()"),
    "policy_violations": ("error_message = 'wrong'", "'error_message', 'added'"),
}
LOSE = """DO $$ DECLARE r record; n int := 0; BEGIN
  FOR r IN SELECT id FROM {table} ORDER BY id LOOP
    BEGIN DELETE FROM {table} WHERE id = r.id; n := n + 1; EXCEPTION WHEN foreign_key_violation THEN NULL; END;
    EXIT WHEN n = 3;
  END LOOP; END $$"""
EXCHANGED = (
    "CREATE TABLE pair AS SELECT id, row_number() OVER (ORDER BY id) AS n FROM {table} ORDER BY id LIMIT 2",
    "UPDATE {table} SET id = '00000000-0000-0000-0000-000000000000' WHERE id = (SELECT id FROM pair WHERE n = 1)",
    "UPDATE {table} SET id = (SELECT id FROM pair WHERE n = 1) WHERE id = (SELECT id FROM pair WHERE n = 2)",
    "UPDATE {table} SET id = (SELECT id FROM pair WHERE n = 2) WHERE id = '00000000-0000-0000-0000-000000000000'",
    "DROP TABLE pair",
)


def quietly(table: str, *statements: str) -> tuple[str, ...]:
    """Return statements that run without the triggers of a table."""
    return f"ALTER TABLE {table} DISABLE TRIGGER USER", *statements, f"ALTER TABLE {table} ENABLE TRIGGER USER"


def _rows(table: str) -> Iterator[str]:
    changed, added = COLUMNS[table]
    yield LOSE.format(table=table)
    yield f"UPDATE {table} SET {changed} WHERE id IN (SELECT id FROM {table} ORDER BY id DESC LIMIT 3)"
    if added:
        yield (
            f"INSERT INTO {table} SELECT (jsonb_populate_record(t, jsonb_build_object('id', gen_random_uuid(), {added}))).* "
            f"FROM {table} AS t WHERE id IN (SELECT id FROM {table} ORDER BY id DESC OFFSET 5 LIMIT 2)"
        )
    if table in {"organization_hierarchies", "policy_scopes", "governance_rules"}:
        yield from (one.format(table=table) for one in EXCHANGED if table != "governance_rules")


# Of tables with unique values besides the key: which rows have them.
UNIQUE = {
    "organization_hierarchies": "true", "organization_members": "status = 'active'", "team_members": "status = 'active'",
    "team_leaders": "status = 'active'", "policy_scopes": "true",
}  # fmt: skip
TAKE = """DO $$ DECLARE r record; BEGIN
  FOR r IN SELECT id FROM {table} WHERE {condition} ORDER BY id DESC LOOP
    BEGIN UPDATE {table} SET id = gen_random_uuid() WHERE id = r.id; EXIT; EXCEPTION WHEN foreign_key_violation THEN NULL; END;
  END LOOP; END $$"""


def taken(table: str) -> tuple[str, ...]:
    """Return how another row comes to have the unique values of one that is lost."""
    return quietly(table, TAKE.format(table=table, condition=UNIQUE[table]))


def rows(table: str) -> tuple[str, ...]:
    """Return how rows of a table are lost, changed, added and exchanged."""
    return quietly(table, *_rows(table))


@dataclass(frozen=True)
class Before:
    """What happened before a restore, the table that it is of, and which words the plan says of what no undo brings back."""

    name: str
    table: str
    statements: tuple[str, ...]
    left: str = ""

    def __str__(self) -> str:
        return self.name


ORPHANS = (
    "SET session_replication_role = replica",
    "INSERT INTO policy_scopes (policy_id, target_type, target_id, status) "
    "SELECT gen_random_uuid(), 'team', gen_random_uuid(), 'active' FROM generate_series(1, 3)",
    "SET session_replication_role = origin",
)
DAMAGES = (
    Before("orphans under a key", "policy_scopes", ORPHANS, "policy_scopes_policy_fkey"),
    Before("orphans without a key", "policy_scopes", (
        "ALTER TABLE policy_scopes DROP CONSTRAINT policy_scopes_policy_fkey", *ORPHANS)),
    Before("triggers off", "teams", (*rows("teams"), "ALTER TABLE teams DISABLE TRIGGER USER")),
    Before("keys off", "teams", (*rows("teams"), "ALTER TABLE teams DISABLE TRIGGER ALL"), "triggers of the key"),
    Before("a check dropped, and rows that break it", "teams", (
        *quietly("teams", "ALTER TABLE teams DROP CONSTRAINT teams_dates_check",
                 "UPDATE teams SET end_date = '1999-01-01', start_date = '2000-01-01' WHERE purpose IS NOT NULL"),)),
    Before("rows older than a check", "teams", (
        *quietly("teams", "UPDATE teams SET purpose = 'old' WHERE status = 'active'"),
        "ALTER TABLE teams ADD CONSTRAINT newer CHECK (purpose <> 'old') NOT VALID")),
    Before("a unique index dropped, and doubles", "teams", quietly(
        "teams", "DROP INDEX teams_active_key",
        "INSERT INTO teams SELECT (jsonb_populate_record(t, jsonb_build_object('id', gen_random_uuid()))).* "
        "FROM teams AS t WHERE status = 'active' LIMIT 4")),
    Before("an index that is INVALID", "teams", (
        *rows("teams"),
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = (SELECT min(i.indexrelid) FROM pg_index i "
        "WHERE i.indrelid = 'teams'::regclass AND NOT i.indisunique)"), "INVALID"),
    Before("an index dropped", "teams", (
        *rows("teams"), "DO $$ BEGIN EXECUTE (SELECT 'DROP INDEX ' || min(i.indexrelid::regclass::text) FROM pg_index i "
        "WHERE NOT i.indisunique AND i.indrelid = 'teams'::regclass); END $$")),
    Before("a key to others dropped", "team_members", (
        *rows("team_members"), "ALTER TABLE team_members DROP CONSTRAINT team_members_user_fkey")),
    Before("a partition detached", "policy_violations", (
        "ALTER TABLE policy_violations DETACH PARTITION policy_violations_2024", *rows("policy_violations"))),
    Before("a partition dropped", "policy_violations", ("DROP TABLE policy_violations_2024", *rows("policy_violations"))),
    Before("a table dropped", "policy_scopes", ("DROP TABLE policy_scopes",)),
    Before("a table dropped that others refer to", "teams", ("DROP TABLE teams CASCADE",)),
    Before("a newer partition with rows", "policy_violations", (
        "CREATE TABLE policy_violations_2030 PARTITION OF policy_violations FOR VALUES FROM ('2030-01-01') TO ('2031-01-01')",
        "ALTER TABLE policy_violations_2030 OWNER TO consulting_owner",
        "UPDATE policy_violations SET detected_at = '2030-05-05' WHERE tableoid = 'policy_violations_2023'::regclass")),
    Before("a trigger and its function dropped", "team_leaders", (
        "DO $$ BEGIN EXECUTE (SELECT 'DROP FUNCTION ' || min(tgfoid::regprocedure::text) || ' CASCADE' FROM pg_trigger "
        "WHERE tgrelid = 'team_leaders'::regclass AND NOT tgisinternal); END $$",)),
    Before("a view dropped", "teams", (*rows("teams"), "DROP MATERIALIZED VIEW mv_team_statistics")),
    Before("a default, NOT NULL and a comment", "teams", (
        *rows("teams"), "ALTER TABLE teams ALTER COLUMN status DROP DEFAULT, ALTER COLUMN name DROP NOT NULL",
        "COMMENT ON TABLE teams IS 'other'", "GRANT SELECT ON teams TO PUBLIC")),
    Before("another check, another key", "teams", (
        *rows("teams"),
        "ALTER TABLE teams DROP CONSTRAINT teams_dates_check, "
        "ADD CONSTRAINT teams_dates_check CHECK (end_date > start_date) NOT VALID",
        "ALTER TABLE team_members DROP CONSTRAINT team_members_team_fkey, ADD CONSTRAINT team_members_team_fkey "
        "FOREIGN KEY (team_id) REFERENCES teams ON DELETE CASCADE")),
    Before("all rows gone", "policy_violations", (f"TRUNCATE {', '.join(COLUMNS)}",)),
    Before("a sequence moved", "teams", ("SELECT setval('ticket', 5000)", *rows("teams"))),
)  # fmt: skip
