"""Statements about the session itself: its settings, its limits, and connection limits."""

from psycopg.sql import SQL, Composed, Literal

NO_STATEMENT_TIMEOUT = SQL("SET statement_timeout = 0")

# transaction_timeout, since 17, so that it cannot be among the options at the start. A search
# of pg_settings would take 2 ms a session.
SESSION_SETTINGS = SQL(
    """SELECT set_config('transaction_timeout', '0', false)
       WHERE current_setting('server_version_num')::int >= 170000"""
)

# Settings of dumps and comparisons, so that equal rows have equal texts everywhere.
FIXED_SETTINGS = SQL(
    """SELECT set_config(name, value, false) FROM (VALUES
         ('timezone', 'UTC'), ('datestyle', 'ISO, YMD'), ('intervalstyle', 'postgres'), ('extra_float_digits', '3'),
         ('bytea_output', 'hex'), ('lc_monetary', 'C'), ('xmloption', 'content'), ('row_security', 'off'), ('array_nulls', 'on'),
         ('synchronize_seqscans', 'off'), ('search_path', 'pg_catalog, pg_temp')) AS fixed (name, value)"""
)

# Connection limits of this login, the database and the server (-1: none), and current sessions. Of
# others' sessions a login may see only the owner: they count.
CONNECTION_LIMITS = SQL(
    """WITH clients AS (SELECT usesysid, datid FROM pg_stat_activity
                        WHERE coalesce(backend_type, 'client backend') = 'client backend' AND usesysid IS NOT NULL)
       SELECT r.rolname, CASE WHEN r.rolsuper THEN -1 ELSE r.rolconnlimit END,
              (SELECT count(*) FROM clients c WHERE c.usesysid = r.oid),
              d.datname, CASE WHEN r.rolsuper THEN -1 ELSE d.datconnlimit END,
              (SELECT count(*) FROM clients c WHERE c.datid = d.oid),
              current_setting('max_connections')::int - CASE WHEN r.rolsuper THEN 0 ELSE
                current_setting('superuser_reserved_connections')::int
                + coalesce(current_setting('reserved_connections', true), '0')::int END, (SELECT count(*) FROM clients)
       FROM pg_roles r, pg_database d WHERE r.rolname = session_user AND d.datname = current_database()"""
)
# New objects are created in the default tablespace of the database or the role.
OWN_TABLESPACE = SQL("RESET default_tablespace")
CURRENT_USER = SQL("SELECT current_user")
TEMPORARY_LIMIT = SQL("SELECT current_setting('temp_file_limit')")


def set_lock_timeout(seconds: float) -> Composed:
    """Set lock_timeout."""
    return SQL("SET lock_timeout = {}").format(Literal(int(seconds * 1000)))


def set_statement_timeout(seconds: float) -> Composed:
    """Set statement_timeout."""
    return SQL("SET statement_timeout = {}").format(Literal(int(seconds * 1000)))


# Indexes are built in parallel; the default of 64 MB would sort millions of rows on disk.
SORT_MEMORY = "256MB"
SORT_IN_MEMORY = SQL("SET maintenance_work_mem = {}").format(Literal(SORT_MEMORY))


def limit_statements(timeout_seconds: float) -> Composed:
    """Set statement_timeout for this transaction."""
    return SQL("SET LOCAL statement_timeout = {}").format(Literal(int(timeout_seconds * 1000)))


def check_settings(zone: str, timeout_seconds: float) -> Composed:
    """Set the time zone of applications, and statement_timeout, for this transaction's checks."""
    return SQL(
        "SELECT set_config('TimeZone', {}, true), set_config('statement_timeout', {}, true), "
        "set_config('row_security', 'off', true)"
    ).format(Literal(zone), Literal(str(int(timeout_seconds * 1000))))


def encode_as(encoding: str) -> Composed:
    """Set client_encoding for this transaction."""
    return SQL("SELECT set_config('client_encoding', {}, true)").format(Literal(encoding))


def set_zone(zone: str) -> Composed:
    """Set the time zone of applications for this transaction's triggers and conditions."""
    return SQL("SELECT set_config('TimeZone', {}, true)").format(Literal(zone))
