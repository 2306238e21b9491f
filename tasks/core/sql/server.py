"""Statements about the server: which cluster it is, what it has written, and the transactions that last."""

from psycopg.sql import SQL

SERVER_FACTS = SQL(
    """SELECT (SELECT system_identifier::text FROM pg_control_system()),
              -- The last checkpoint may still be one of an older timeline, after a promotion and on a standby that follows one.
              CASE WHEN pg_is_in_recovery() THEN coalesce((SELECT received_tli FROM pg_stat_wal_receiver), 0)
                   ELSE ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int END,
              current_setting('server_version'), current_setting('server_version_num')::int, pg_is_in_recovery()"""
)

# A session through a socket has no address; where that lies is only for some logins to see.
INCARNATION = SQL(
    """SELECT to_char(pg_postmaster_start_time() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
              concat(coalesce(host(inet_server_addr()), 'local socket'), ':',
                     coalesce(inet_server_port()::text, current_setting('port')))"""
)
# What was written, or on a standby replayed, cannot be lost any more in a crash once it is flushed. Asked for after the snapshot
# was taken: what that sees lies before it.
WRITTEN_LOG = SQL("SELECT (CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_insert_lsn() END)::text")
LOG_IS_FLUSHED = SQL("SELECT CASE WHEN pg_is_in_recovery() THEN true ELSE pg_current_wal_flush_lsn() >= %s::pg_lsn END")
# A transaction of one's own, with a number and nothing else: when it ends, the WAL writer flushes all that was written before.
END_A_TRANSACTION = SQL("SELECT pg_current_xact_id()")

# What a snapshot counts as unfinished: transactions with an id, in every database of the cluster.
LASTING_TRANSACTIONS = SQL(
    """SELECT who, since FROM (
         SELECT concat('prepared transaction ', quote_literal(gid), ' of ', owner) AS who, prepared AS since FROM pg_prepared_xacts
         UNION ALL SELECT concat('the transaction of ', usename, ' (session ', pid, ')'), xact_start FROM pg_stat_activity
         WHERE backend_xid IS NOT NULL) AS unfinished
       WHERE since < now() - %s ORDER BY since"""
)
SERVER_CLOCK = SQL("SELECT clock_timestamp()")
