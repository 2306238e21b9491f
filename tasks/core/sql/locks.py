"""Statements about the context's advisory lock."""

from psycopg.sql import SQL

TRY_LOCK_SHARED = SQL("SELECT pg_try_advisory_lock_shared(%(space)s, %(key)s)")
TRY_LOCK_EXCLUSIVE = SQL("SELECT pg_try_advisory_lock(%(space)s, %(key)s)")
LOCK_HOLDERS = SQL(
    """SELECT coalesce(nullif(a.application_name, ''), 'pid ' || a.pid) FROM pg_locks l JOIN pg_stat_activity a USING (pid)
       WHERE l.locktype = 'advisory' AND l.classid = %(space)s::oid AND l.objid = %(key)s::oid AND l.objsubid = 2 AND l.granted
         AND a.pid <> pg_backend_pid() ORDER BY 1"""
)
BACKEND_PID = SQL("SELECT pg_backend_pid()")
LOCK_SESSION = SQL("SELECT pid, backend_start, datid FROM pg_stat_activity WHERE pid = pg_backend_pid()")
# Used in transactions with the source's search_path, so all names are qualified. The session's
# start is hidden from logins other than its own without pg_read_all_stats: then its pid and lock
# have to suffice.
HOLDS_LOCK = SQL(
    """SELECT EXISTS (
         SELECT FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_stat_activity a ON a.pid OPERATOR(pg_catalog.=) l.pid
         WHERE l.locktype OPERATOR(pg_catalog.=) 'advisory' AND l.granted
           AND l.database OPERATOR(pg_catalog.=) %(database)s::pg_catalog.oid
           AND l.classid OPERATOR(pg_catalog.=) %(space)s::pg_catalog.oid
           AND l.objid OPERATOR(pg_catalog.=) %(key)s::pg_catalog.oid
           AND l.objsubid OPERATOR(pg_catalog.=) 2 AND l.mode OPERATOR(pg_catalog.=) %(mode)s::pg_catalog.text
           AND l.pid OPERATOR(pg_catalog.=) %(pid)s::pg_catalog.int4
           AND (a.backend_start IS NULL OR a.backend_start OPERATOR(pg_catalog.=) %(began)s::pg_catalog.timestamptz))"""
)
