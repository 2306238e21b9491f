"""Statements that take a snapshot, hold it, and share it with other sessions."""

from collections.abc import Sequence

from psycopg.sql import SQL, Composed, Identifier, Literal

START_SNAPSHOT = SQL("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
EXPORT_SNAPSHOT = SQL("SELECT pg_export_snapshot()")
STILL_THERE = SQL("SELECT 1")
SNAPSHOT_FACTS = SQL(
    """SELECT clock_timestamp() AS instant,
              pg_snapshot_xmin(pg_current_snapshot())::text AS xmin, pg_snapshot_xmax(pg_current_snapshot())::text AS xmax,
              (CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END)::text AS lsn"""
)


def lock_tables(relations: Sequence[tuple[str, str]], *, nowait: bool = False) -> Composed:
    """Lock these relations, without children, in this order, against changes of definition."""
    names = SQL(", ").join(SQL("ONLY {}").format(Identifier(*relation)) for relation in relations)
    return SQL("LOCK TABLE {} IN ACCESS SHARE MODE{}").format(names, SQL(" NOWAIT") if nowait else SQL(""))


def import_snapshot(snapshot: str) -> Composed:
    """Use another session's exported snapshot."""
    return SQL("SET TRANSACTION SNAPSHOT {}").format(Literal(snapshot))
