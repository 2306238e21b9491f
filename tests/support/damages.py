"""Damages to the objects of a live context, each with what a restore in place has to say of it, or to bring back."""

from dataclasses import dataclass

OTHERS = (
    "CREATE SCHEMA bc005",
    "CREATE TABLE bc005.reviews (id int PRIMARY KEY, team_id uuid CONSTRAINT reviews_team_fkey REFERENCES teams)",
    "INSERT INTO bc005.reviews SELECT row_number() OVER (), id FROM teams",
)


@dataclass(frozen=True)
class Damage:
    """What happens to a live context, what of it a plan and a report name, and after which restore nothing of it is left."""

    name: str
    statements: tuple[str, ...]
    named: str
    back: bool = False
    back_with_objects: bool = True

    def __str__(self) -> str:
        return self.name


VIOLATIONS = "policy_violations"
DAMAGES = (
    Damage("an index that is INVALID", (
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = (SELECT min(i.indexrelid) FROM pg_index i "
        "WHERE i.indrelid = 'teams'::regclass AND NOT i.indisprimary)",
    ), "INVALID", back=True),
    Damage("an index of a partition that is INVALID", (
        "UPDATE pg_index SET indisvalid = false, indisready = false WHERE indexrelid = (SELECT min(i.indexrelid) FROM pg_index i "
        "WHERE i.indrelid = 'policy_violations_2024'::regclass AND NOT i.indisprimary)",
    ), "INVALID", back=True),
    Damage("an outbound key dropped", ("ALTER TABLE team_members DROP CONSTRAINT team_members_user_fkey",),
           "team_members_user_fkey", back=True),
    Damage("all triggers off", ("ALTER TABLE team_members DISABLE TRIGGER ALL",), "team_members_team_fkey"),
    Damage("a function's body", (
        "DO $$ DECLARE f text; BEGIN SELECT pg_get_functiondef(tgfoid) INTO f FROM pg_trigger WHERE NOT tgisinternal AND "
        "tgrelid = 'teams'::regclass LIMIT 1; EXECUTE regexp_replace(f, 'BEGIN', 'BEGIN /* other */'); END $$",
    ), "function "),
    Damage("a partition's bound", (
        "ALTER TABLE policy_violations DETACH PARTITION policy_violations_2027",
        "ALTER TABLE policy_violations ATTACH PARTITION policy_violations_2027 FOR VALUES FROM ('2027-02-01') TO ('2028-01-01')",
    ), "bound was"),
    Damage("a default", ("ALTER TABLE teams ALTER COLUMN status DROP DEFAULT, ALTER COLUMN member_count SET DEFAULT 7",),
           "column member_count: DEFAULT"),
    Damage("NOT NULL", ("ALTER TABLE teams ALTER COLUMN name DROP NOT NULL, ALTER COLUMN purpose DROP NOT NULL",),
           "column name: NOT NULL"),
    Damage("UNLOGGED", ("ALTER TABLE policy_scopes SET UNLOGGED",), "persistence"),
    Damage("a grant to PUBLIC", ("GRANT SELECT ON teams TO PUBLIC",), "privileges"),
    Damage("grants lost", ("REVOKE ALL ON teams FROM consulting_app",), "privileges"),
    Damage("comments", ("COMMENT ON TABLE teams IS 'it''s \"another\"'", "COMMENT ON COLUMN teams.name IS 'a; b'",
                        "COMMENT ON CONSTRAINT teams_unit_fkey ON teams IS 'x'"), "comment"),
    Damage("a view not populated", ("REFRESH MATERIALIZED VIEW mv_team_statistics WITH NO DATA",), "mv_team_statistics", back=True),
    Damage("a stale view", (
        "ALTER TABLE teams DISABLE TRIGGER USER",
        "UPDATE teams SET name = name || ' once'", "REFRESH MATERIALIZED VIEW mv_team_statistics",
        "UPDATE teams SET name = left(name, -5)",
        "ALTER TABLE teams ENABLE TRIGGER USER",
    ), "rows are stale", back=True),
    Damage("a view with another text", (
        "DO $$ DECLARE v text := pg_get_viewdef('mv_team_statistics'::regclass); BEGIN DROP MATERIALIZED VIEW mv_team_statistics; "
        "EXECUTE 'CREATE MATERIALIZED VIEW mv_team_statistics AS SELECT * FROM (' || rtrim(v, ';') || ') AS v WHERE true'; "
        "ALTER MATERIALIZED VIEW mv_team_statistics OWNER TO consulting_owner; END $$",
    ), "mv_team_statistics"),
    Damage("an index renamed", (
        "DO $$ BEGIN EXECUTE (SELECT format('ALTER INDEX %I RENAME TO renamed', min(c.relname)) FROM pg_index i "
        "JOIN pg_class c ON c.oid = i.indexrelid WHERE i.indrelid = 'teams'::regclass AND NOT i.indisunique); END $$",
    ), "renamed", back_with_objects=False),
    Damage("another check", (
        "ALTER TABLE teams DROP CONSTRAINT teams_dates_check, "
        "ADD CONSTRAINT teams_dates_check CHECK (end_date > start_date) NOT VALID",
    ), "teams_dates_check"),
    Damage("a key that cascades", (
        "ALTER TABLE team_members DROP CONSTRAINT team_members_team_fkey, ADD CONSTRAINT team_members_team_fkey "
        "FOREIGN KEY (team_id) REFERENCES teams ON DELETE CASCADE",
    ), "team_members_team_fkey"),
    Damage("another trigger", (
        "DO $$ DECLARE t text; d text; BEGIN SELECT tgname, pg_get_triggerdef(oid) INTO t, d FROM pg_trigger "
        "WHERE NOT tgisinternal AND tgrelid = 'teams'::regclass LIMIT 1; EXECUTE format('DROP TRIGGER %I ON teams', t); "
        "EXECUTE replace(d, 'FOR EACH ROW', 'FOR EACH ROW WHEN (NEW.id IS NOT NULL)'); END $$",
    ), "trigger "),
    Damage("another index", (
        "DO $$ DECLARE n text; BEGIN SELECT min(i.indexrelid::regclass::text) INTO n FROM pg_index i WHERE NOT i.indisunique "
        "AND i.indrelid = 'governance_rules'::regclass; EXECUTE 'DROP INDEX ' || n; "
        "EXECUTE format('CREATE INDEX %I ON governance_rules (id, status)', split_part(n, '.', -1)); "
        "EXECUTE format('ALTER INDEX %I OWNER TO consulting_owner', split_part(n, '.', -1)); END $$",
    ), "index public"),
    Damage("others' key lost", ("ALTER TABLE bc005.reviews DROP CONSTRAINT reviews_team_fkey",), "reviews_team_fkey",
           back_with_objects=False),
    Damage("row-level security", ("ALTER TABLE teams ENABLE ROW LEVEL SECURITY",), "row security"),
    Damage("a newer partition", (
        "CREATE TABLE policy_violations_rest PARTITION OF policy_violations DEFAULT",
        "ALTER TABLE policy_violations_rest OWNER TO consulting_owner",
    ), "policy_violations_rest", back_with_objects=False),
    Damage("options", ("ALTER TABLE teams SET (fillfactor = 70)", "ALTER TABLE teams REPLICA IDENTITY FULL"), "fillfactor"),
    Damage("a sequence of an index of all partitions", (
        "DO $$ BEGIN EXECUTE (SELECT format('DROP INDEX %s', min(indexrelid::regclass::text)) FROM pg_index WHERE "
        "indrelid = 'policy_violations'::regclass AND NOT indisunique); END $$",
    ), "index public.policy_violations", back=True),
)  # fmt: skip
