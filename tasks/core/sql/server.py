"""Statements about the server: its cluster, its WAL, and long-running transactions."""

from psycopg.sql import SQL

SERVER_FACTS = SQL(
    """SELECT (SELECT system_identifier::text FROM pg_control_system()),
              -- The last checkpoint may be of an older timeline, after a promotion and on a standby
              -- following one.
              CASE WHEN pg_is_in_recovery() THEN coalesce((SELECT received_tli FROM pg_stat_wal_receiver), 0)
                   ELSE ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int END,
              current_setting('server_version'), current_setting('server_version_num')::int, pg_is_in_recovery()"""
)

# A socket session has no address; the socket's path is visible only to some logins.
INCARNATION = SQL(
    """SELECT to_char(pg_postmaster_start_time() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
              concat(coalesce(host(inet_server_addr()), 'local socket'), ':',
                     coalesce(inet_server_port()::text, current_setting('port')))"""
)
# WAL that was written, or replayed on a standby, is safe once flushed. Query it after the snapshot
# was taken: what that sees lies before it.
WRITTEN_LOG = SQL("SELECT (CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_insert_lsn() END)::text")
LOG_IS_FLUSHED = SQL("SELECT CASE WHEN pg_is_in_recovery() THEN true ELSE pg_current_wal_flush_lsn() >= %s::pg_lsn END")
# An empty transaction with an id: at its end the WAL writer flushes all that was written before.
END_A_TRANSACTION = SQL("SELECT pg_current_xact_id()")

# Transactions that a snapshot counts as running: those with an id, in all databases.
LASTING_TRANSACTIONS = SQL(
    """SELECT who, since FROM (
         SELECT concat('prepared transaction ', quote_literal(gid), ' of ', owner) AS who, prepared AS since FROM pg_prepared_xacts
         UNION ALL SELECT concat('the transaction of ', usename, ' (session ', pid, ')'), xact_start FROM pg_stat_activity
         WHERE backend_xid IS NOT NULL) AS unfinished
       WHERE since < now() - %s ORDER BY since"""
)
SERVER_CLOCK = SQL("SELECT clock_timestamp()")
