"""Every statement that is sent to PostgreSQL, named by what it answers or does; those of a merge are in merge_sql.

Catalogue queries read pg_inherits and pg_class rather than pg_partition_tree(), which ignores the snapshot.
"""

import re
from collections.abc import Sequence

from psycopg.sql import SQL, Composed, Identifier, Literal

from tasks.core.source_path import under_source_path

NO_STATEMENT_TIMEOUT = SQL("SET statement_timeout = 0")
# Time limits that not every version of PostgreSQL has, so that no session can begin with them.
SESSION_SETTINGS = SQL(
    """SELECT set_config(name, '0', false) FROM pg_settings WHERE name IN ('idle_session_timeout', 'transaction_timeout')"""
)

# What a dump and every comparison are read under, so that equal rows are equal text wherever they are.
FIXED_SETTINGS = SQL(
    """SELECT set_config(name, value, false) FROM (VALUES
         ('timezone', 'UTC'), ('datestyle', 'ISO, YMD'), ('intervalstyle', 'postgres'), ('extra_float_digits', '3'),
         ('bytea_output', 'hex'), ('lc_monetary', 'C'), ('xmloption', 'content'), ('row_security', 'off'), ('array_nulls', 'on'),
         ('synchronize_seqscans', 'off'), ('search_path', 'pg_catalog, pg_temp')) AS fixed (name, value)"""
)

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
# How many sessions this login, and the database, may have (-1: any number), and have.
CONNECTION_LIMITS = SQL(
    """SELECT r.rolname, CASE WHEN r.rolsuper THEN -1 ELSE r.rolconnlimit END,
              (SELECT count(*) FROM pg_stat_activity a WHERE a.usesysid = r.oid AND a.backend_type = 'client backend'),
              d.datname, CASE WHEN r.rolsuper THEN -1 ELSE d.datconnlimit END,
              (SELECT count(*) FROM pg_stat_activity a WHERE a.datid = d.oid AND a.backend_type = 'client backend')
       FROM pg_roles r, pg_database d WHERE r.rolname = session_user AND d.datname = current_database()"""
)

DATABASE_FACTS = SQL(
    """SELECT d.oid::bigint AS oid, d.datname AS name, pg_get_userbyid(d.datdba) AS owner,
              pg_encoding_to_char(d.encoding) AS encoding, d.datcollate AS collate, d.datctype AS ctype,
              to_jsonb(d) ->> 'datlocprovider' AS locale_provider,
              coalesce(to_jsonb(d) ->> 'datlocale', to_jsonb(d) ->> 'daticulocale') AS locale,
              to_jsonb(d) ->> 'daticurules' AS icu_rules,
              d.datconnlimit AS connection_limit, shobj_description(d.oid, 'pg_database') AS comment,
              coalesce((SELECT s.setconfig FROM pg_db_role_setting s WHERE s.setdatabase = d.oid AND s.setrole = 0), '{}')
                AS settings,
              coalesce((SELECT array_agg(r.rolname || ': ' || array_to_string(s.setconfig, ', ') ORDER BY r.rolname)
                        FROM pg_db_role_setting s JOIN pg_roles r ON r.oid = s.setrole
                        WHERE s.setdatabase = d.oid), '{}') AS role_settings,
              (SELECT jsonb_agg(jsonb_build_object('privilege', a.privilege_type, 'grantable', a.is_grantable,
                 'role', CASE WHEN a.grantee <> 0 THEN pg_get_userbyid(a.grantee) END) ORDER BY a::text)
               FROM aclexplode(d.datacl) AS a WHERE a.grantee <> d.datdba) AS grants, d.datacl IS NOT NULL AS restricted
       FROM pg_database d WHERE d.datname = current_database()"""
)

# Tables of the context with all their descendants: what is locked, dumped and compared.
MEMBERS = SQL(
    """WITH RECURSIVE named AS (
         SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE n.nspname = %(schema)s AND c.relname = ANY (%(tables)s) AND c.relkind IN ('r', 'p')),
       member (oid, is_chosen) AS (
         SELECT oid, %(partitions)s::text[] IS NULL FROM named UNION SELECT i.inhrelid, true FROM pg_inherits i
         JOIN member m ON i.inhparent = m.oid JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE m.is_chosen OR concat(n.nspname, '.', c.relname) = ANY (%(partitions)s::text[]))
       SELECT c.oid::bigint AS oid, n.nspname AS schema, c.relname AS name, c.relkind::text AS kind,
              c.relfilenode::bigint AS relfilenode, p.nspname AS parent_schema, up.relname AS parent_name,
              coalesce(i.inhdetachpending, false) AS detach_pending,
              coalesce((SELECT array_agg(a.attname::text ORDER BY a.attnum) FROM pg_attribute a
                        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''), '{}')
                AS columns,
              coalesce((SELECT array_agg(CASE WHEN tn.nspname = 'pg_catalog' THEN format_type(a.atttypid, a.atttypmod)
                                              ELSE format('%%I.%%I', tn.nspname, t.typname) END ORDER BY a.attnum)
                        FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid JOIN pg_namespace tn ON tn.oid = t.typnamespace
                        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''), '{}')
                AS types,
              -- Columns and attributes by number, dropped ones too, with what rows have that are older than a column. Types that
              -- are printed as another object's name may change their text with no row touched: such a layout is not known.
              (WITH RECURSIVE part (type) AS (
                 SELECT a.atttypid FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
                 UNION SELECT inner_part.type FROM part p JOIN pg_type t ON t.oid = p.type CROSS JOIN LATERAL (
                   SELECT unnest(ARRAY[t.typelem, t.typbasetype]) UNION ALL SELECT r.rngsubtype FROM pg_range r
                   WHERE t.oid IN (r.rngtypid, r.rngmultitypid)
                   UNION ALL SELECT a.atttypid FROM pg_attribute a WHERE a.attrelid = t.typrelid AND a.attnum > 0
                     AND NOT a.attisdropped) AS inner_part (type) WHERE inner_part.type <> 0)
               SELECT CASE WHEN EXISTS (SELECT FROM part p JOIN pg_type t ON t.oid = p.type
                                        WHERE t.typnamespace = 'pg_catalog'::regnamespace AND t.typname ~ '^(reg|aclitem$)')
                           THEN '' ELSE
                (SELECT md5(coalesce(string_agg(concat_ws(' ', CASE WHEN a.attrelid <> c.oid THEN a.attrelid END, a.attnum,
                   a.atttypid, a.atttypmod, a.attisdropped, a.attmissingval), ',' ORDER BY a.attrelid, a.attnum), ''))
                 FROM pg_attribute a WHERE a.attnum > 0 AND a.attrelid IN (
                   SELECT c.oid UNION SELECT t.typrelid FROM part p JOIN pg_type t ON t.oid = p.type WHERE t.typrelid <> 0)) END)
                AS layout
       FROM member m JOIN pg_class c ON c.oid = m.oid JOIN pg_namespace n ON n.oid = c.relnamespace
       LEFT JOIN LATERAL (SELECT h.* FROM pg_inherits h WHERE h.inhrelid = c.oid ORDER BY h.inhseqno LIMIT 1) i ON true
       LEFT JOIN pg_class up ON up.oid = i.inhparent LEFT JOIN pg_namespace p ON p.oid = up.relnamespace
       ORDER BY c.oid"""
)

RELATION_BYTES = SQL("SELECT oid::bigint, pg_table_size(oid::regclass) FROM unnest(%(oids)s::oid[]) AS oid")

VIEWS = SQL(
    """SELECT c.oid::bigint AS oid, n.nspname AS schema, c.relname AS name, c.relkind::text AS kind,
              c.relispopulated AS populated
       FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
       WHERE n.nspname = %(schema)s AND c.relname = ANY (%(views)s) AND c.relkind IN ('m', 'v')"""
)

# pg_dump locks every table of the database, other contexts' too, and locking takes the right to read.
UNREADABLE = SQL(
    """SELECT format('%%I', n.nspname), has_schema_privilege(n.oid, 'USAGE'),
              format('%%I.%%I', n.nspname, c.relname), has_table_privilege(c.oid, 'SELECT'), c.oid::bigint, n.nspname, c.relname
       FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
       WHERE (c.relkind IN ('r', 'p') OR c.oid = ANY (%(sequences)s::oid[]) AND c.relkind = 'S')
         AND c.oid >= 16384 AND c.relpersistence <> 't'
         AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
         AND NOT (has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')) ORDER BY 1, 3"""
)

# Row-level security makes COPY fail with row_security = off, unless the role bypasses it or owns the table unforced.
HIDDEN_BY_ROW_SECURITY = SQL(
    """SELECT format('%%I.%%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
       JOIN pg_roles me ON me.rolname = current_user
       WHERE c.oid = ANY (%(oids)s::oid[]) AND c.relrowsecurity AND NOT (me.rolsuper OR me.rolbypassrls)
         AND (c.relforcerowsecurity OR NOT pg_has_role(c.relowner, 'USAGE')) ORDER BY 1"""
)

# Which views read which, through plain views of anybody's too.
VIEW_NEEDS = SQL(
    """WITH RECURSIVE reads (view, relation) AS (
         SELECT oid, oid FROM unnest(%(oids)s::oid[]) AS oid
         UNION SELECT s.view, d.refobjid FROM reads s JOIN pg_rewrite r ON r.ev_class = s.relation
         JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid AND d.refclassid = 'pg_class'::regclass
         JOIN pg_class c ON c.oid = d.refobjid AND c.relkind IN ('m', 'v'))
       SELECT view::bigint, relation::bigint FROM reads WHERE relation = ANY (%(oids)s::oid[]) AND view <> relation"""
)

CURRENT_USER = SQL("SELECT current_user")

START_SNAPSHOT = SQL("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
EXPORT_SNAPSHOT = SQL("SELECT pg_export_snapshot()")
STILL_THERE = SQL("SELECT 1")
SNAPSHOT_FACTS = SQL(
    """SELECT clock_timestamp() AS instant,
              pg_snapshot_xmin(pg_current_snapshot())::text AS xmin, pg_snapshot_xmax(pg_current_snapshot())::text AS xmax,
              (CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END)::text AS lsn"""
)


# What a snapshot counts as unfinished: transactions with an id, in every database of the cluster.
LASTING_TRANSACTIONS = SQL(
    """SELECT who, since FROM (
         SELECT concat('prepared transaction ', quote_literal(gid), ' of ', owner) AS who, prepared AS since FROM pg_prepared_xacts
         UNION ALL SELECT concat('the transaction of ', usename, ' (session ', pid, ')'), xact_start FROM pg_stat_activity
         WHERE backend_xid IS NOT NULL) AS unfinished
       WHERE since < now() - %s ORDER BY since"""
)


def lock_tables(relations: Sequence[tuple[str, str]], *, nowait: bool = False) -> Composed:
    """Lock exactly these relations against changes of their definition, in the order given."""
    names = SQL(", ").join(SQL("ONLY {}").format(Identifier(*relation)) for relation in relations)
    return SQL("LOCK TABLE {} IN ACCESS SHARE MODE{}").format(names, SQL(" NOWAIT") if nowait else SQL(""))


def set_lock_timeout(seconds: float) -> Composed:
    """Limit how long this session waits for a lock."""
    return SQL("SET lock_timeout = {}").format(Literal(int(seconds * 1000)))


def set_statement_timeout(seconds: float) -> Composed:
    """Limit how long each statement of this session may take."""
    return SQL("SET statement_timeout = {}").format(Literal(int(seconds * 1000)))


def import_snapshot(snapshot: str) -> Composed:
    """Read what another session's exported snapshot sees."""
    return SQL("SET TRANSACTION SNAPSHOT {}").format(Literal(snapshot))


def copy_rows_out(schema: str, name: str, columns: Sequence[str], encoding: str) -> Composed:
    """Send the rows of one relation, without its children, as text in the given encoding."""
    return SQL("COPY {}{} TO STDOUT (ENCODING {})").format(Identifier(schema, name), column_list(columns), Literal(encoding))


def copy_chosen_out(
    schema: str, name: str, columns: Sequence[str], encoding: str, key: Sequence[str], equal: Sequence[str],
    types: Sequence[str], values: Sequence[Sequence[str]],
) -> Composed:  # fmt: skip
    """Send the rows of one relation whose key is among some, given as text column by column."""
    typed = zip(values, types, strict=True)
    lists = SQL(", ").join(SQL("{}::{}[]").format(Literal(list(texts)), SQL(kind)) for texts, kind in typed)
    wanted = [Identifier(f"wanted {number}") for number in range(len(key))]
    pairs = zip(key, equal, wanted, strict=True)
    same = SQL(" AND ").join(SQL("t.{} {} w.{}").format(Identifier(own), SQL(operator), name) for own, operator, name in pairs)
    return SQL(
        "COPY (SELECT {} FROM ONLY {} AS t WHERE EXISTS (SELECT FROM unnest({}) AS w ({}) WHERE {})) TO STDOUT (ENCODING {})"
    ).format(
        SQL(", ").join(map(Identifier, columns)), Identifier(schema, name), lists, SQL(", ").join(wanted), same, Literal(encoding),
    )  # fmt: skip


@under_source_path
def copy_rows_in(schema: str, name: str, columns: Sequence[str], encoding: str, *, freeze: bool = True) -> Composed:
    """Take rows into a relation; frozen, if it was emptied in the same transaction: no later rewrite, no hint bits."""
    statement = SQL("COPY {}{} FROM STDIN ({}ENCODING {})")
    return statement.format(Identifier(schema, name), column_list(columns), SQL("FREEZE, " if freeze else ""), Literal(encoding))


def count_rows_and_old(schema: str, name: str, since: int) -> Composed:
    """Count the rows of one relation, and those that a transaction before this one (a full transaction id) wrote."""
    return SQL("SELECT count(*), count(*) FILTER (WHERE {}) FROM ONLY {}").format(is_old(since), Identifier(schema, name))


def count_rows_by_block(schema: str, name: str, shift: int, since: int | None) -> Composed:
    """Count the same for each group of 2**shift blocks; the first four bytes of a ctid are the number of the block."""
    return SQL(
        """SELECT block >> {}, sum(rows)::bigint, sum(old)::bigint FROM (
             SELECT ('x' || encode(bytes, 'hex'))::bit(32)::bigint AS block, rows, old FROM (
               SELECT substr(tidsend(ctid), 1, 4) AS bytes, count(*) AS rows, count(*) FILTER (WHERE {}) AS old
               FROM ONLY {} GROUP BY 1) AS counted) AS numbered GROUP BY 1 ORDER BY 1"""
    ).format(Literal(shift), SQL("true") if since is None else is_old(since), Identifier(schema, name))


def is_old(since: int) -> Composed:
    """Return the condition that a transaction before this one wrote a row; sound while fewer than 2**31 have come since.

    A row that was frozen long ago still carries its transaction's number, which may look like one to come. age() counts from
    this transaction's own number, if it has one, as a lock may have given it before it was waited for: rows of transactions that
    came since are younger than 0, and no younger than what the snapshot sees.
    """
    return SQL("age(xmin) NOT BETWEEN (SELECT age(pg_snapshot_xmax(pg_current_snapshot())::xid)) AND age({}::xid)").format(
        Literal(str(since % (1 << 32)))
    )


RELATION_BLOCKS = SQL(
    "SELECT pg_relation_size(%(name)s::regclass) / current_setting('block_size')::bigint, "
    "(SELECT a.amname = 'heap' FROM pg_class c JOIN pg_am a ON a.oid = c.relam WHERE c.oid = %(name)s::regclass)"
)


def empty_relation(schema: str, name: str) -> Composed:
    """Empty a relation of a database that is being restored; COPY (FREEZE) needs it in the same transaction."""
    return SQL("TRUNCATE TABLE ONLY {}").format(Identifier(schema, name))


def column_list(columns: Sequence[str]) -> Composed:
    """Return columns in brackets, as what COPY and INSERT take; nothing for no columns."""
    return SQL(" ({})").format(SQL(", ").join(map(Identifier, columns))) if columns else SQL("").format()


# --- the context's part of the schema ---------------------------------------------------------------------------------

DEPENDENCIES = SQL(
    """SELECT classid::bigint, objid::bigint, refclassid::bigint, refobjid::bigint, deptype::text
       FROM pg_depend WHERE objid >= 16384 AND (refobjid >= 16384 OR refclassid = 'pg_namespace'::regclass)"""
)

RELATIONS = SQL(
    """SELECT c.oid::bigint, n.nspname, c.relname, c.relkind::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
       WHERE c.oid >= 16384 AND n.nspname !~ '^pg_(toast|temp)'"""
)

# Functions, types and sequences by name, with the source of functions: what plpgsql names is in no pg_depend.
NAMED_OBJECTS = SQL(
    """SELECT 'pg_proc'::regclass::oid::bigint, p.oid::bigint, p.proname, p.prosrc FROM pg_proc p
       WHERE p.oid >= 16384 AND NOT EXISTS (
         SELECT FROM pg_depend d WHERE d.objid = p.oid AND d.classid = 'pg_proc'::regclass AND d.deptype = 'e')
       UNION ALL SELECT 'pg_type'::regclass::oid::bigint, t.oid::bigint, t.typname, '' FROM pg_type t
       LEFT JOIN pg_class c ON c.oid = t.typrelid
       WHERE t.oid >= 16384 AND t.typtype IN ('e', 'd', 'c', 'r') AND (c.oid IS NULL OR c.relkind = 'c')
       UNION ALL SELECT 'pg_class'::regclass::oid::bigint, c.oid::bigint, c.relname, '' FROM pg_class c
       WHERE c.oid >= 16384 AND c.relkind = 'S'"""
)

CLASS_OIDS = SQL(
    """SELECT relname::text, oid::bigint FROM pg_class
       WHERE relname = ANY (%(names)s) AND relnamespace = 'pg_catalog'::regnamespace"""
)

DESCRIBE_OBJECTS = SQL(
    """SELECT pg_describe_object(classid::oid, objid::oid, 0) FROM unnest(%(classes)s::bigint[], %(objects)s::bigint[])
       AS o (classid, objid) ORDER BY 1"""
)

FOREIGN_KEYS = SQL(
    """SELECT k.oid::bigint AS oid, quote_ident(k.conname) AS name, k.conrelid::regclass::text AS table,
              k.confrelid::regclass::text AS references, pg_get_constraintdef(k.oid) AS definition,
              k.conrelid::bigint AS table_oid, obj_description(k.oid, 'pg_constraint') AS comment,
              CASE k.confdeltype WHEN 'c' THEN 'CASCADE' WHEN 'n' THEN 'SET NULL' WHEN 'd' THEN 'SET DEFAULT'
                                 WHEN 'r' THEN 'RESTRICT' ELSE 'NO ACTION' END AS on_delete
       FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
       WHERE k.contype = 'f' AND k.conparentid = 0
         AND ((k.conrelid = ANY (%(oids)s::oid[])) <> (k.confrelid = ANY (%(oids)s::oid[])))
       ORDER BY n.nspname, c.relname, k.conname"""
)

# Tables that share the context's schema or refer to its tables; nobody may look after them.
NEIGHBOURS = SQL(
    """SELECT n.nspname AS schema, c.relname AS name,
              EXISTS (SELECT FROM pg_constraint k WHERE k.contype = 'f' AND k.conrelid = c.oid
                      AND k.confrelid = ANY (%(oids)s::oid[])) AS refers
       FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
       WHERE c.relkind IN ('r', 'p', 'f', 'm') AND c.oid >= 16384 AND c.oid <> ALL (%(oids)s::oid[]) AND NOT c.relispartition
         AND n.nspname !~ '^pg_'
         AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
         AND (n.nspname = %(schema)s OR EXISTS (SELECT FROM pg_constraint k WHERE k.contype = 'f' AND k.conrelid = c.oid
              AND k.confrelid = ANY (%(oids)s::oid[])))
       ORDER BY 1, 2"""
)

SEQUENCES = SQL(
    """SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
       WHERE c.relkind = 'S' AND c.oid = ANY (%(oids)s::oid[]) ORDER BY 1, 2"""
)

ROLES = SQL(
    """SELECT r.rolname AS name, r.rolsuper AS superuser, r.rolcreatedb AS createdb, r.rolcreaterole AS createrole,
              r.rolcanlogin AS login, r.rolinherit AS inherit, r.rolbypassrls AS bypassrls,
              coalesce((SELECT array_agg(DISTINCT g.rolname::text ORDER BY g.rolname::text) FROM pg_auth_members m
                        JOIN pg_roles g ON g.oid = m.roleid WHERE m.member = r.oid), '{}') AS member_of
       FROM pg_roles r
       WHERE r.oid IN (SELECT s.refobjid FROM pg_shdepend s
                       JOIN unnest(%(classes)s::bigint[], %(objects)s::bigint[]) AS o (classid, objid)
                         ON s.classid = o.classid::oid AND s.objid = o.objid::oid
                       JOIN pg_database d ON d.oid = s.dbid AND d.datname = current_database()
                       WHERE s.refclassid = 'pg_authid'::regclass
                       -- The bootstrap superuser is pinned: what it owns is in no pg_shdepend.
                       UNION SELECT relowner FROM pg_class WHERE oid = ANY (%(relations)s::oid[])
                       UNION SELECT p.proowner FROM pg_proc p WHERE p.oid = ANY (%(functions)s::oid[]) AND NOT EXISTS (
                         SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'i')
                       UNION SELECT typowner FROM pg_type WHERE oid = ANY (%(types)s::oid[]))
         AND r.rolname !~ '^pg_'
       ORDER BY r.rolname"""
)


def sequence_position(schema: str, name: str) -> Composed:
    """Read where a sequence is now; sequences do not obey snapshots, so this is at or above any stored row."""
    return SQL("SELECT last_value, is_called FROM {}").format(Identifier(schema, name))


SET_SEQUENCE = SQL("SELECT setval(format('%%I.%%I', %(schema)s::text, %(name)s::text)::regclass, %(value)s, %(called)s)")


def advance_sequence(schema: str, name: str, value: int, *, called: bool) -> Composed:
    """Set a sequence that was there before to a position, but never back: others may use it, and it obeys no transaction."""
    return SQL(
        "SELECT setval({name}::regclass, {value}, {called}) FROM {sequence} s JOIN pg_sequence q ON q.seqrelid = {name}::regclass "
        "WHERE sign(q.seqincrement) * ({value} - s.last_value) > 0 OR {value} = s.last_value AND {called} AND NOT s.is_called"
    ).format(
        name=Literal(Identifier(schema, name).as_string()), sequence=Identifier(schema, name), value=Literal(value),
        called=Literal(called),
    )  # fmt: skip


# --- the inventory: every object as text that a dump and restore does not change -------------------------------------------

_PRIVILEGES = """(SELECT string_agg(format('%%s=%%s%%s', CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(a.grantee) END,
                  a.privilege_type, CASE WHEN a.is_grantable THEN '*' ELSE '' END), ' '
                  ORDER BY a.grantee = 0, pg_get_userbyid(a.grantee) COLLATE "C", a.privilege_type)
                FROM aclexplode(coalesce({acl}, acldefault({kind}, {owner}))) AS a)"""


def _privileges(acl: str, kind: str, owner: str) -> str:
    return _PRIVILEGES.format(acl=acl, kind=kind, owner=owner)


_INVENTORY = f"""
SELECT kind, name, parent, columns, state FROM (
  SELECT CASE c.relkind WHEN 'p' THEN 'partitioned table' WHEN 'm' THEN 'materialized view' WHEN 'v' THEN 'view'
                        WHEN 'f' THEN 'foreign table' ELSE 'table' END AS kind,
         format('%%I.%%I', n.nspname, c.relname) AS name,
         coalesce((SELECT string_agg(i.inhparent::regclass::text, ',' ORDER BY i.inhseqno) FROM pg_inherits i
                   WHERE i.inhrelid = c.oid), '') AS parent,
         coalesce((SELECT string_agg(concat_ws(' ', quote_ident(a.attname), format_type(a.atttypid, a.atttypmod),
                   CASE WHEN a.attcollation <> t.typcollation THEN 'COLLATE ' || a.attcollation::regcollation END,
                   CASE WHEN a.attnotnull THEN 'NOT NULL' END,
                   CASE WHEN a.attgenerated <> '' THEN 'GENERATED ' || a.attgenerated::text END,
                   CASE WHEN a.attidentity <> '' THEN 'IDENTITY ' || a.attidentity::text END,
                   'DEFAULT ' || pg_get_expr(d.adbin, d.adrelid),
                   'COMMENT ' || quote_literal(col_description(c.oid, a.attnum)),
                   CASE WHEN a.attacl IS NOT NULL THEN 'ACL ' || {_privileges("a.attacl", "'c'", "c.relowner")} END),
                 -- A dump puts what a child inherits first; where among it a later column of the parent came, it does not keep.
                 ', ' ORDER BY CASE WHEN a.attinhcount > 0 AND NOT c.relispartition THEN a.attname END, a.attnum)
          FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
          LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
          WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped), '') AS columns,
         concat_ws(' | ', 'owner ' || pg_get_userbyid(c.relowner),
                   -- A dump does not say how to make what CREATE EXTENSION makes.
                   'extension ' || (SELECT x.extname FROM pg_depend d JOIN pg_extension x ON x.oid = d.refobjid
                     WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.refclassid = 'pg_extension'::regclass
                       AND d.deptype = 'e'),
                   'persistence ' || c.relpersistence::text,
                   'key ' || pg_get_partkeydef(c.oid), 'bound ' || pg_get_expr(c.relpartbound, c.oid),
                   CASE WHEN c.relrowsecurity THEN 'row security' END, CASE WHEN c.relforcerowsecurity THEN 'forced' END,
                   'replica identity ' || c.relreplident::text, 'options ' || c.reloptions::text,
                   CASE WHEN c.relkind IN ('m', 'v') THEN pg_get_viewdef(c.oid) END,
                   CASE WHEN c.relkind = 'm' AND NOT c.relispopulated THEN 'not populated' END,
                   'comment ' || obj_description(c.oid, 'pg_class'),
                   'privileges ' || {_privileges("c.relacl", "'r'", "c.relowner")}) AS state
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE c.oid = ANY (%(relations)s::oid[]) AND c.relkind IN ('r', 'p', 'm', 'v', 'f')
  UNION ALL
  SELECT 'sequence', format('%%I.%%I', n.nspname, c.relname),
         coalesce((SELECT format('%%s.%%I', d.refobjid::regclass, a.attname) FROM pg_depend d
                   JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
                   WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype IN ('a', 'i')), ''), '',
         concat_ws(' | ', 'owner ' || pg_get_userbyid(c.relowner), format_type(s.seqtypid, NULL), s.seqstart, s.seqincrement,
                   s.seqmin, s.seqmax, s.seqcache, s.seqcycle, 'privileges ' || {_privileges("c.relacl", "'s'", "c.relowner")})
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_sequence s ON s.seqrelid = c.oid
  WHERE c.oid = ANY (%(relations)s::oid[])
  UNION ALL
  SELECT 'index', i.indexrelid::regclass::text, i.indrelid::regclass::text, '',
         concat_ws(' | ', pg_get_indexdef(i.indexrelid), CASE WHEN NOT i.indisvalid THEN 'INVALID' END,
                   CASE WHEN i.indisclustered THEN 'clustered' END, CASE WHEN i.indisreplident THEN 'replica identity' END,
                   'attached to ' || (SELECT h.inhparent::regclass::text FROM pg_inherits h WHERE h.inhrelid = i.indexrelid),
                   'comment ' || obj_description(i.indexrelid, 'pg_class'))
  FROM pg_index i JOIN pg_class ic ON ic.oid = i.indexrelid JOIN pg_class tc ON tc.oid = i.indrelid AND tc.relkind <> 't'
  WHERE i.indrelid = ANY (%(relations)s::oid[]) AND (i.indisvalid OR ic.relkind = 'I') AND i.indisready
  UNION ALL
  SELECT 'constraint', k.conname, k.conrelid::regclass::text, '',
         concat_ws(' | ', pg_get_constraintdef(k.oid), CASE WHEN NOT k.convalidated THEN 'NOT VALID' END,
                   'comment ' || obj_description(k.oid, 'pg_constraint'))
  FROM pg_constraint k WHERE k.conrelid = ANY (%(relations)s::oid[])
    -- NOT NULL is told with its column, but for one that is not proven.
    AND (k.contype IN ('p', 'u', 'c', 'x', 'f') OR k.contype = 'n' AND NOT k.convalidated)
    AND NOT (k.contype = 'f' AND (k.conparentid <> 0 OR k.confrelid <> ALL (%(relations)s::oid[])))
  UNION ALL
  SELECT 'trigger', t.tgname, t.tgrelid::regclass::text, '',
         concat_ws(' | ', pg_get_triggerdef(t.oid), 'enabled ' || t.tgenabled::text,
                   'comment ' || obj_description(t.oid, 'pg_trigger'))
  FROM pg_trigger t WHERE t.tgrelid = ANY (%(relations)s::oid[]) AND NOT t.tgisinternal
  UNION ALL
  SELECT 'rule', r.rulename, r.ev_class::regclass::text, '',
         concat_ws(' | ', pg_get_ruledef(r.oid), 'enabled ' || r.ev_enabled::text)
  FROM pg_rewrite r WHERE r.ev_class = ANY (%(relations)s::oid[]) AND r.rulename <> '_RETURN'
  UNION ALL
  SELECT 'policy', p.polname, p.polrelid::regclass::text, '',
         concat_ws(' | ', p.polcmd, p.polpermissive, (SELECT string_agg(coalesce(r.rolname, 'PUBLIC'), ',' ORDER BY r.rolname)
                   FROM unnest(p.polroles) AS u LEFT JOIN pg_roles r ON r.oid = u),
                   'using ' || pg_get_expr(p.polqual, p.polrelid), 'check ' || pg_get_expr(p.polwithcheck, p.polrelid))
  FROM pg_policy p WHERE p.polrelid = ANY (%(relations)s::oid[])
  UNION ALL
  SELECT 'statistics', format('%%I.%%I', n.nspname, s.stxname), s.stxrelid::regclass::text, '', pg_get_statisticsobjdef(s.oid)
  FROM pg_statistic_ext s JOIN pg_namespace n ON n.oid = s.stxnamespace WHERE s.stxrelid = ANY (%(relations)s::oid[])
  UNION ALL
  SELECT 'function', p.oid::regprocedure::text, '', '',
         concat_ws(' | ', 'owner ' || pg_get_userbyid(p.proowner), CASE WHEN p.prokind <> 'a' THEN pg_get_functiondef(p.oid) END,
                   'comment ' || obj_description(p.oid, 'pg_proc'),
                   'privileges ' || {_privileges("p.proacl", "'f'", "p.proowner")})
  FROM pg_proc p WHERE p.oid = ANY (%(functions)s::oid[]) AND NOT EXISTS (
    -- What a range type brings with it belongs to the bootstrap superuser, whoever made the type.
    SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'i')
  UNION ALL
  SELECT 'schema', n.nspname, '', '',
         concat_ws(' | ', 'owner ' || pg_get_userbyid(n.nspowner), 'comment ' || obj_description(n.oid, 'pg_namespace'),
                   'privileges ' || {_privileges("n.nspacl", "'n'", "n.nspowner")})
  FROM pg_namespace n WHERE n.oid = ANY (%(schemas)s::oid[])
  UNION ALL
  SELECT 'type', format_type(t.oid, NULL), '',
         coalesce((SELECT string_agg(quote_literal(e.enumlabel), ', ' ORDER BY e.enumsortorder) FROM pg_enum e
                   WHERE e.enumtypid = t.oid),
                  (SELECT string_agg(quote_ident(a.attname) || ' ' || format_type(a.atttypid, a.atttypmod), ', ' ORDER BY a.attnum)
                   FROM pg_attribute a WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped), ''),
         concat_ws(' | ', 'owner ' || pg_get_userbyid(t.typowner), t.typtype,
                   CASE WHEN t.typtype = 'd' THEN format_type(t.typbasetype, t.typtypmod) END,
                   CASE WHEN t.typnotnull THEN 'NOT NULL' END, 'DEFAULT ' || t.typdefault,
                   (SELECT string_agg(k.conname || ' ' || pg_get_constraintdef(k.oid), ', ' ORDER BY k.conname)
                    FROM pg_constraint k WHERE k.contypid = t.oid AND k.contype = 'c'))
  FROM pg_type t WHERE t.oid = ANY (%(types)s::oid[]) AND t.typtype IN ('e', 'd', 'c', 'r')
    AND NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = t.typrelid AND c.relkind <> 'c')
) AS item ORDER BY kind, parent, name"""  # noqa: S608
INVENTORY = SQL(_INVENTORY)

UNUSABLE = SQL(
    """SELECT 'trigger ' || t.tgname || ' on ' || t.tgrelid::regclass || ' is ' ||
              CASE t.tgenabled WHEN 'D' THEN 'DISABLED' WHEN 'R' THEN 'enabled for replicas only' ELSE 'enabled ALWAYS' END
              || '; it will come back as it is: ALTER TABLE … ENABLE TRIGGER … if that is not meant'
       FROM pg_trigger t WHERE t.tgrelid = ANY (%(oids)s::oid[]) AND t.tgenabled <> 'O'
         AND (NOT t.tgisinternal OR t.tgenabled = 'D')
       UNION ALL
       SELECT 'index ' || i.indexrelid::regclass || ' is INVALID and is not in the backup; REINDEX or drop it'
       FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
       WHERE i.indrelid = ANY (%(oids)s::oid[]) AND NOT i.indisvalid AND c.relkind = 'i'
       ORDER BY 1"""
)

EXTENSIONS = SQL("SELECT extname FROM pg_extension WHERE oid = ANY (%(oids)s::oid[]) ORDER BY 1")

# --- restoring into a new database ------------------------------------------------------------------------------------

DATABASE_EXISTS = SQL("SELECT EXISTS (SELECT FROM pg_database WHERE datname = %(name)s)")
# By name as well: a database that somebody renamed by hand may be in use, whatever its comment still says.
MARKED_DATABASES = SQL(
    """SELECT d.datname, shobj_description(d.oid, 'pg_database') FROM pg_database d
       WHERE starts_with(shobj_description(d.oid, 'pg_database'), %(mark)s)
         AND d.datname ~ '_(restoring|drill)_[0-9a-f]{4}$' ORDER BY 1"""
)
EXISTING_ROLES = SQL("SELECT rolname FROM pg_roles WHERE rolname = ANY (%(names)s)")
# What this login may become; creating an object for a role needs SET ROLE to it.
MAY_BECOME = SQL("SELECT rolname FROM pg_roles WHERE rolname = ANY (%(names)s) AND pg_has_role(oid, 'MEMBER')")
MAY_BECOME_16 = SQL("SELECT rolname FROM pg_roles WHERE rolname = ANY (%(names)s) AND pg_has_role(oid, 'SET')")
MY_RIGHTS = SQL("SELECT rolsuper, rolcreatedb, rolcreaterole, rolbypassrls FROM pg_roles WHERE rolname = current_user")
AVAILABLE_EXTENSIONS = SQL("SELECT name FROM pg_available_extensions")
SCHEMA_CREATORS = SQL(
    """SELECT rolname FROM pg_roles WHERE rolname = ANY (%(owners)s)
       AND NOT has_schema_privilege(oid, %(schema)s, 'CREATE') ORDER BY 1"""
)
SCHEMA_EXISTS = SQL("SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = %(schema)s)")


ANALYZE = SQL("ANALYZE")


def analyze_relation(schema: str, name: str) -> Composed:
    """Gather planner statistics of one table."""
    return SQL("ANALYZE {}").format(Identifier(schema, name))


def unquoted(name: str) -> str:
    """Return the name that an identifier stands for."""
    return name[1:-1].replace('""', '"') if name.startswith('"') else name


def quoted(name: str) -> str:
    """Return a name as an identifier, quoted."""
    return Identifier(name).as_string()


def quoted_name(schema: str, name: str) -> str:
    """Return the name of a relation as SQL writes it, quoted."""
    return Identifier(schema, name).as_string()


def create_role(name: str) -> Composed:
    """Create a role that owns or is granted things and that nobody can log in as."""
    return SQL("CREATE ROLE {} NOLOGIN").format(Identifier(name))


def drop_role(name: str) -> Composed:
    """Drop a role that owns nothing."""
    return SQL("DROP ROLE {}").format(Identifier(name))


def create_database(name: str, options: Sequence[tuple[str, str]]) -> Composed:
    """Create a database from template0, which alone allows another encoding and locale."""
    chosen = SQL(" ").join(SQL("{} {}").format(SQL(key), Literal(value)) for key, value in options)
    return SQL("CREATE DATABASE {} TEMPLATE template0 {}").format(Identifier(name), chosen)


# WITH (FORCE) also ends the workers of autovacuum, which only a superuser may, and so fails now and then for everyone
# else; a plain DROP cancels those by itself and waits 5 s for whoever is leaving.
END_SESSIONS = SQL("""
    SELECT pg_terminate_backend(a.pid) FROM pg_stat_activity a JOIN pg_roles r ON r.oid = a.usesysid
    JOIN pg_database d ON d.oid = a.datid
    WHERE d.datname = %(name)s AND pg_has_role(d.datdba, 'USAGE') AND a.backend_type = 'client backend'
      AND (r.rolsuper <= current_setting('is_superuser')::boolean)
      AND (pg_has_role(r.oid, 'USAGE') OR pg_has_role('pg_signal_backend', 'USAGE'))
""")


def create_extension(name: str) -> Composed:
    """Install an extension, where a superuser would, if it is not there."""
    return SQL("CREATE EXTENSION IF NOT EXISTS {}").format(Identifier(name))


def drop_database(name: str) -> Composed:
    """Drop a database, in which no session may be left."""
    return SQL("DROP DATABASE IF EXISTS {}").format(Identifier(name))


def rename_database(name: str, new_name: str) -> Composed:
    """Give a database its final name."""
    return SQL("ALTER DATABASE {} RENAME TO {}").format(Identifier(name), Identifier(new_name))


def set_database_owner(name: str, owner: str) -> Composed:
    """Hand a database to a role."""
    return SQL("ALTER DATABASE {} OWNER TO {}").format(Identifier(name), Identifier(owner))


def comment_on_database(name: str, comment: str | None) -> Composed:
    """Write, or take away, the comment of a database."""
    return SQL("COMMENT ON DATABASE {} IS {}").format(Identifier(name), Literal(comment))


LISTS_OF_NAMES = frozenset({"search_path", "temp_tablespaces", "local_preload_libraries", "session_preload_libraries"})
LIST_ELEMENT = re.compile(r'"((?:[^"]|"")*)"|([^\s,"]+)')


def set_for_database(name: str, setting: str, value: str) -> Composed:
    """Give a database its own default of a setting."""
    # The catalogue has a list of names as it would be written; as one literal it would be one name.
    listed = [(found[2] or found[1]).replace('""', '"') for found in LIST_ELEMENT.finditer(value)]
    values = SQL(", ").join(map(Literal, listed if setting in LISTS_OF_NAMES else [value]))
    return SQL("ALTER DATABASE {} SET {} TO {}").format(Identifier(name), Identifier(*setting.split(".")), values)


def revoke_public(name: str) -> Composed:
    """Take away what everybody may do in a database by default."""
    return SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(Identifier(name))


def grant_on_database(name: str, privilege: str, role: str | None, *, grantable: bool) -> Composed:
    """Grant CONNECT, CREATE or TEMPORARY to a role, or to everybody."""
    if privilege not in ("CONNECT", "CREATE", "TEMPORARY"):
        raise ValueError(f"{privilege} is no privilege on a database")
    return SQL("GRANT {} ON DATABASE {} TO {}{}").format(
        SQL(privilege), Identifier(name), Identifier(role) if role else SQL("PUBLIC"),
        SQL(" WITH GRANT OPTION") if grantable else SQL(""),
    )  # fmt: skip


def limit_connections(name: str, limit: int) -> Composed:
    """Limit the sessions in a database."""
    return SQL("ALTER DATABASE {} CONNECTION LIMIT {}").format(Identifier(name), Literal(limit))


def grant_create(schema: str, role: str) -> Composed:
    """Let a role create in a schema, for as long as the restore hands objects to it."""
    return SQL("GRANT CREATE ON SCHEMA {} TO {}").format(Identifier(schema), Identifier(role))


def revoke_create(schema: str, role: str) -> Composed:
    """Take back what was granted for the restore."""
    return SQL("REVOKE CREATE ON SCHEMA {} FROM {}").format(Identifier(schema), Identifier(role))


@under_source_path
def refresh_view(schema: str, name: str, *, concurrently: bool = False) -> Composed:
    """Fill a materialized view; concurrently, readers go on."""
    return SQL("REFRESH MATERIALIZED VIEW {}{}").format(SQL("CONCURRENTLY " if concurrently else ""), Identifier(schema, name))


# --- restoring into a database that is there ---------------------------------------------------------------------------

OWN_COLUMNS = SQL(
    """SELECT n.nspname, c.relname,
              coalesce(array_agg(a.attname::text ORDER BY a.attnum) FILTER (WHERE a.attname IS NOT NULL), '{}')
       FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
       LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
       WHERE (n.nspname, c.relname) IN (SELECT * FROM unnest(%(schemas)s::text[], %(names)s::text[])) AND c.relkind IN ('r', 'p')
       GROUP BY 1, 2 ORDER BY 1, 2"""
)
FOREIGN_OWNED = SQL(
    """SELECT DISTINCT pg_get_userbyid(c.relowner) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
       WHERE (n.nspname, c.relname) IN (SELECT * FROM unnest(%(schemas)s::text[], %(names)s::text[]))
         AND NOT pg_has_role(c.relowner, 'USAGE') ORDER BY 1"""
)
# Triggers of people's making, each with the words that bring its state back; those of a partition after those of its parent,
# which is switched with all that is below it.
TRIGGER_STATES = SQL(
    """SELECT n.nspname, c.relname, t.tgname, CASE t.tgenabled WHEN 'R' THEN 'ENABLE REPLICA' WHEN 'A' THEN 'ENABLE ALWAYS'
                                                               WHEN 'D' THEN 'DISABLE' ELSE 'ENABLE' END, c.oid::regclass::text
       FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
       WHERE t.tgrelid = ANY (%(oids)s::oid[]) AND NOT t.tgisinternal
       ORDER BY (SELECT count(*) FROM pg_partition_ancestors(c.oid)), 1, 2, 3"""
)
REFERENCES_AMONG = SQL(
    """SELECT c.relname::text, p.relname::text FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid
       JOIN pg_class p ON p.oid = k.confrelid JOIN pg_namespace n ON n.oid = c.relnamespace AND n.oid = p.relnamespace
       WHERE k.contype = 'f' AND n.nspname = %(schema)s AND c.relname = ANY (%(tables)s) AND p.relname = ANY (%(tables)s)
         AND c.oid <> p.oid"""
)
KEYS_WITHIN = SQL(
    """SELECT k.conrelid::regclass::text, quote_ident(k.conname), pg_get_constraintdef(k.oid),
              obj_description(k.oid, 'pg_constraint')
       FROM pg_constraint k WHERE k.contype = 'f' AND k.conparentid = 0
         AND k.conrelid = ANY (%(oids)s::oid[]) AND k.confrelid = ANY (%(oids)s::oid[]) ORDER BY 1, 2"""
)
IS_VALIDATED = SQL(
    "SELECT convalidated FROM pg_constraint WHERE conrelid = %(table)s::regclass AND conname = (parse_ident(%(name)s))[1]"
)


def lock_own(schema: str, tables: Sequence[str]) -> Composed:
    """Keep everybody else away from tables, their partitions included, that are to be filled."""
    names = SQL(", ").join(Identifier(schema, table) for table in tables)
    return SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(names)


def switch_trigger(schema: str, table: str, trigger: str, words: str) -> Composed:
    """Switch one trigger: DISABLE, ENABLE, ENABLE ALWAYS or ENABLE REPLICA."""
    if words not in ("DISABLE", "ENABLE", "ENABLE ALWAYS", "ENABLE REPLICA"):
        raise ValueError(f"{words} is no state of a trigger")
    return SQL("ALTER TABLE {} {} TRIGGER {}").format(Identifier(schema, table), SQL(words), Identifier(trigger))


def comment_on_constraint(table: str, name: str, comment: str) -> Composed:
    """Write the comment of a constraint; table and name are quoted where they must be."""
    return SQL("COMMENT ON CONSTRAINT {} ON {} IS {}").format(SQL(name), SQL(table), Literal(comment))


# Keys are named and defined as the catalogue or a manifest spells them, quoted where they must be.


def add_key(table: str, name: str, definition: str, *, proven: bool = True) -> SQL:
    """Make a foreign key; unproven, it is made without a look at the rows that are there."""
    return SQL(f"ALTER TABLE {table} ADD CONSTRAINT {name} {definition}{'' if proven else ' NOT VALID'}")


def drop_key(table: str, name: str) -> SQL:
    """Drop a foreign key."""
    return SQL(f"ALTER TABLE {table} DROP CONSTRAINT {name}")


def validate_key(table: str, name: str) -> SQL:
    """Look whether every row obeys a foreign key that was made without a look."""
    return SQL(f"ALTER TABLE {table} VALIDATE CONSTRAINT {name}")


# Indexes are built several at once; the server's default of 64 MB sorts millions of rows on disk.
SORT_MEMORY = "256MB"
SORT_IN_MEMORY = SQL("SET maintenance_work_mem = {}").format(Literal(SORT_MEMORY))


# --- integrity checks -------------------------------------------------------------------------------------------------

MISSING_RELATIONS = SQL(
    """SELECT name FROM unnest(%(names)s::text[]) AS name
       WHERE NOT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                         WHERE n.nspname = %(schema)s AND c.relname = name AND c.relkind IN ('r', 'p', 'm', 'v')) ORDER BY 1"""
)


def limit_statements(timeout_seconds: float) -> Composed:
    """Limit how long each statement of this transaction may take."""
    return SQL("SET LOCAL statement_timeout = {}").format(Literal(int(timeout_seconds * 1000)))


def check_settings(zone: str, timeout_seconds: float) -> Composed:
    """Let the checks of this transaction know the time as an application's session does, and limit how long each may take."""
    return SQL(
        "SELECT set_config('TimeZone', {}, true), set_config('statement_timeout', {}, true), "
        "set_config('row_security', 'off', true)"
    ).format(Literal(zone), Literal(str(int(timeout_seconds * 1000))))


WITHOUT_PARTITIONS = SQL(
    """SELECT c.oid::regclass::text FROM pg_class c
       WHERE c.relkind = 'p' AND NOT EXISTS (SELECT FROM pg_inherits i WHERE i.inhparent = c.oid) ORDER BY 1"""
)
TYPE_IS_THERE = SQL("SELECT to_regtype(%(name)s) IS NOT NULL")
RELATION_IS_THERE = SQL("SELECT pg_catalog.to_regclass(%(name)s) IS NOT NULL")


@under_source_path
def offending_rows(query: str, limit: int) -> Composed:
    """Count the rows of a check and return the first few of them; the query is the context's or made from the catalogue."""
    return SQL("SELECT pg_catalog.count(*) OVER () AS all_of_them, offending.* FROM (\n{}\n) AS offending LIMIT {}").format(
        SQL(query),
        Literal(limit),
    )


# For each foreign key of the given relations, one without its parents: the anti-join that finds rows that it does not allow.
_ORPHANS = """SELECT k.oid::bigint, c.relname, k.conname,
         format('SELECT %%s FROM %%s%%s AS c WHERE %%s AND NOT EXISTS (SELECT FROM %%s%%s AS r WHERE %%s)',
           (SELECT string_agg(format('c.%%I', a.attname), ', ' ORDER BY u.place) FROM (
              SELECT attnum, min(place) AS place
              FROM unnest(coalesce(p.conkey, '{}') || k.conkey) WITH ORDINALITY AS o (attnum, place) GROUP BY attnum) AS u
            JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.attnum),
           CASE c.relkind WHEN 'p' THEN '' ELSE 'ONLY ' END, k.conrelid::regclass,
           -- MATCH FULL allows no row with a part of the key.
           CASE k.confmatchtype WHEN 'f' THEN format('num_nonnulls(%%1$s) BETWEEN 1 AND %%2$s - 1 OR ',
             string_agg(format('c.%%I', ca.attname), ', ' ORDER BY u.place), count(*)) ELSE '' END
           || string_agg(format('c.%%I IS NOT NULL', ca.attname), ' AND ' ORDER BY u.place),
           CASE f.relkind WHEN 'p' THEN '' ELSE 'ONLY ' END, k.confrelid::regclass,
           string_agg(format('r.%%I OPERATOR(%%I.%%s) c.%%I', fa.attname, n.nspname, o.oprname, ca.attname), ' AND '
             ORDER BY u.place))
       FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_class f ON f.oid = k.confrelid
       LEFT JOIN pg_constraint p ON p.conrelid = k.conrelid AND p.contype = 'p'
       CROSS JOIN LATERAL unnest(k.conkey, k.confkey, k.conpfeqop) WITH ORDINALITY AS u (key, foreign_key, operator, place)
       JOIN pg_attribute ca ON ca.attrelid = k.conrelid AND ca.attnum = u.key
       JOIN pg_attribute fa ON fa.attrelid = k.confrelid AND fa.attnum = u.foreign_key
       JOIN pg_operator o ON o.oid = u.operator JOIN pg_namespace n ON n.oid = o.oprnamespace
       WHERE k.contype = 'f' AND k.conparentid = 0 AND <which>
         AND NOT coalesce((to_jsonb(k) ->> 'conperiod')::boolean, false)
       GROUP BY k.oid, k.conrelid, k.confrelid, k.conname, k.conkey, k.confmatchtype, c.relname, c.relkind, f.relkind, p.conkey
       ORDER BY 2, 3"""
FOREIGN_KEY_ORPHANS = SQL(_ORPHANS.replace("<which>", "k.conrelid = ANY (%(oids)s::oid[])"))
ORPHANS_OF_KEY = SQL(_ORPHANS.replace("<which>", "k.conrelid = %(table)s::regclass AND k.conname = (parse_ident(%(name)s))[1]"))

LEAVES = SQL(
    """WITH RECURSIVE member (oid) AS (
         SELECT %(table)s::regclass::oid UNION SELECT i.inhrelid FROM pg_inherits i JOIN member m ON i.inhparent = m.oid
         WHERE EXISTS (SELECT FROM pg_class c WHERE c.oid = m.oid AND c.relkind = 'p'))
       SELECT c.oid::regclass::text FROM member m JOIN pg_class c ON c.oid = m.oid WHERE c.relkind = 'r' ORDER BY 1"""
)

# Of every materialized view: what it holds too much and too little against its own query, by its unique key.
STALE_VIEW_ROWS = SQL(
    """SELECT c.relname, format(
         'SELECT ''gone from its tables'' AS why%%1$s FROM (SELECT * FROM %%2$s EXCEPT ALL (%%3$s)) AS v UNION ALL '
         'SELECT ''not in it yet''%%1$s FROM ((%%3$s) EXCEPT ALL SELECT * FROM %%2$s) AS v',
         coalesce((SELECT ', ' || string_agg(format('v.%%I', a.attname), ', ') FROM pg_attribute a
                   WHERE a.attrelid = c.oid AND a.attnum = ANY (
                     (SELECT i.indkey::smallint[] FROM pg_index i WHERE i.indrelid = c.oid AND i.indisunique AND i.indpred IS NULL
                        AND i.indexprs IS NULL ORDER BY i.indexrelid LIMIT 1)::smallint[])), ''),
         c.oid::regclass, rtrim(pg_get_viewdef(c.oid), ';'))
       FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
       WHERE n.nspname = %(schema)s AND c.relname = ANY (%(views)s) AND c.relkind = 'm' AND c.relispopulated ORDER BY 1"""
)

# Whether a row of that instant has a partition of its own, by the partition's own constraint; a DEFAULT one is none. What it
# is partitioned by further down is not asked.
LEAF_CONSTRAINTS = SQL(
    """SELECT pg_get_partition_constraintdef(c.oid), (
                SELECT format_type(a.atttypid, a.atttypmod) FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = %(column)s)
       FROM pg_class p JOIN pg_namespace n ON n.oid = p.relnamespace JOIN pg_inherits i ON i.inhparent = p.oid
       JOIN pg_class c ON c.oid = i.inhrelid
       WHERE n.nspname = %(schema)s AND p.relname = %(table)s AND p.relkind = 'p'
         AND pg_get_expr(c.relpartbound, c.oid) <> 'DEFAULT'"""
)


def instants_without_leaf(column: str, leaves: Sequence[tuple[str, str]], instants: Sequence[str]) -> Composed:
    """Return those of the instants (with offset) that no leaf would take; the session's zone is that of naive timestamps."""
    kind = SQL(leaves[0][1] if leaves else "timestamptz")
    taken = SQL(" OR ").join(SQL("({})").format(SQL(constraint)) for constraint, _ in leaves) if leaves else SQL("false")
    return SQL(
        "SELECT w.{} AS without_partition FROM (SELECT i::timestamptz::{} AS {} FROM unnest({}::text[]) AS i) AS w WHERE NOT ({})"
    ).format(Identifier(column), kind, Identifier(column), Literal(list(instants)), taken)


def count_rows(schema: str, name: str) -> Composed:
    """Count the rows of one relation without its children."""
    return SQL("SELECT count(*) FROM ONLY {}").format(Identifier(schema, name))


TRIGGERS_OFF = """
SELECT t.tgrelid::regclass::text AS "table",
       CASE WHEN t.tgisinternal THEN coalesce(k.conname, t.tgname) ELSE t.tgname END AS "trigger",
       CASE t.tgenabled WHEN 'D' THEN 'disabled' WHEN 'R' THEN 'for replicas only' END AS state
FROM pg_trigger t LEFT JOIN pg_constraint k ON k.oid = t.tgconstraint
WHERE t.tgenabled IN ('D', 'R')
  -- A key's triggers sit on both its tables, on those of other contexts too.
  AND (t.tgrelid = ANY ({oids}) OR k.contype = 'f' AND k.conrelid = ANY ({oids}))"""
INDEXES_INVALID = """
SELECT i.indrelid::regclass::text AS "table", i.indexrelid::regclass::text AS "index" FROM pg_index i
WHERE i.indrelid = ANY ({oids}) AND NOT (i.indisvalid AND i.indisready AND i.indislive)"""
_ENFORCED = "coalesce((to_jsonb(k) ->> 'conenforced')::boolean, true)"
_CONSTRAINTS = """
SELECT k.conrelid::regclass::text AS "table", k.conname AS "constraint" FROM pg_constraint k
WHERE k.conrelid = ANY ({oids}) AND k.conparentid = 0"""
CONSTRAINTS_OFF = f"{_CONSTRAINTS} AND NOT {_ENFORCED}"
CONSTRAINTS_UNPROVEN = f"{_CONSTRAINTS} AND NOT k.convalidated AND {_ENFORCED}"
VIEWS_EMPTY = """
SELECT c.oid::regclass::text AS "view" FROM pg_class c
WHERE c.oid = ANY ({oids}) AND c.relkind = 'm' AND NOT c.relispopulated"""
VIEW_OIDS = SQL(
    """SELECT c.oid::bigint FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
       WHERE n.nspname = %(schema)s AND c.relname = ANY (%(views)s) AND c.relkind = 'm'"""
)


def about(query: str, oids: Sequence[int]) -> str:
    """Return one of the catalogue's checks for these relations."""
    return query.format(oids=f"'{{{','.join(map(str, oids))}}}'::oid[]")


# --- triggers, made to fire -------------------------------------------------------------------------------------------

# Enabled triggers of tables that are no partitions (those have copies of their parent's), with what they fire on.
TRIGGERS = SQL(
    """SELECT n.nspname, c.relname,
         (SELECT coalesce(array_agg(a.attname::text ORDER BY a.attnum), '{}') FROM pg_attribute a
          WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''),
         (SELECT coalesce(array_agg(a.attname::text), '{}') FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attidentity = 'a'),
         (SELECT coalesce(array_agg(a.attname::text), '{}') FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid
          WHERE i.indrelid = c.oid AND i.indisprimary AND a.attnum = ANY (i.indkey) AND a.atttypid = 'uuid'::regtype),
         t.tgname, array_remove(ARRAY[CASE WHEN t.tgtype & 16 <> 0 THEN 'UPDATE' END, CASE WHEN t.tgtype & 8 <> 0 THEN 'DELETE' END,
                                      CASE WHEN t.tgtype & 4 <> 0 THEN 'INSERT' END], NULL)
       FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
       WHERE t.tgrelid = ANY (%(oids)s::oid[]) AND NOT t.tgisinternal AND t.tgenabled IN ('O', 'A') AND c.relkind IN ('r', 'p')
         AND t.tgparentid = 0 ORDER BY n.nspname, c.relname, t.tgname"""
)

KEYS_AROUND = SQL(
    """SELECT n.nspname, c.relname, k.conname FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid
       JOIN pg_namespace n ON n.oid = c.relnamespace
       WHERE k.contype = 'f' AND k.conparentid = 0
         AND format('%%I.%%I', %(schema)s::text, %(name)s::text)::regclass IN (k.conrelid, k.confrelid)"""
)


DEFERRED_TRIGGERS = SQL(
    """SELECT n.nspname, t.tgname
       FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
       WHERE NOT t.tgisinternal AND t.tgdeferrable
         AND t.tgrelid = format('%%I.%%I', %(schema)s::text, %(name)s::text)::regclass"""
)


def fire_at_once(schema: str, trigger: str) -> Composed:
    """Let a deferred constraint trigger fire with its statement."""
    return SQL("SET CONSTRAINTS {} IMMEDIATE").format(Identifier(schema, trigger))


def explain_analyze(statement: Composed) -> Composed:
    """Run a statement, and say which triggers were called."""
    return SQL("EXPLAIN (ANALYZE, COSTS off, TIMING off, FORMAT json) {}").format(statement)


def set_zone(zone: str) -> Composed:
    """Let trigger functions and conditions of this transaction know the time as an application's session does."""
    return SQL("SELECT set_config('TimeZone', {}, true)").format(Literal(zone))


def defer_key(schema: str, table: str, key: str) -> Composed:
    """Check a foreign key at the end of the transaction, which never comes."""
    return SQL("ALTER TABLE {} ALTER CONSTRAINT {} DEFERRABLE INITIALLY DEFERRED").format(
        Identifier(schema, table), Identifier(key)
    )


def some_rows(schema: str, name: str, limit: int) -> Composed:
    """Return leaf and place of a few rows."""
    return SQL("SELECT tableoid::text, ctid::text FROM {} LIMIT {}").format(Identifier(schema, name), Literal(limit))


def _at(leaf: str, row: str) -> Composed:
    place = "tableoid OPERATOR(pg_catalog.=) {}::pg_catalog.oid AND ctid OPERATOR(pg_catalog.=) {}::pg_catalog.tid"
    return SQL(place).format(Literal(leaf), Literal(row))


@under_source_path
def touch_row(schema: str, name: str, columns: Sequence[str], leaf: str, row: str) -> Composed:
    """Set every column of a row to what it is."""
    same = SQL(", ").join(SQL("{0} = {0}").format(Identifier(column)) for column in columns)
    return SQL("UPDATE {} SET {} WHERE {}").format(Identifier(schema, name), same, _at(leaf, row))


@under_source_path
def delete_row(schema: str, name: str, leaf: str, row: str) -> Composed:
    """Delete a row."""
    return SQL("DELETE FROM {} WHERE {}").format(Identifier(schema, name), _at(leaf, row))


@under_source_path
def remember_row(schema: str, name: str, leaf: str, row: str) -> Composed:
    """Keep a copy of a row for as long as the transaction."""
    return SQL("CREATE TEMP TABLE remembered_row ON COMMIT DROP AS SELECT * FROM {} WHERE {}").format(
        Identifier(schema, name), _at(leaf, row)
    )


@under_source_path
def insert_remembered(schema: str, name: str, columns: Sequence[str], new: Sequence[str]) -> Composed:
    """Insert the row that was remembered, with new values for some columns of type uuid."""
    values = [SQL("pg_catalog.gen_random_uuid()") if column in new else Identifier(column) for column in columns]
    return SQL("INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM pg_temp.remembered_row").format(
        Identifier(schema, name), SQL(", ").join(map(Identifier, columns)), SQL(", ").join(values)
    )


DATABASE_BYTES = SQL("SELECT pg_database_size(current_database())")

# --- locks ------------------------------------------------------------------------------------------------------------

TRY_LOCK_SHARED = SQL("SELECT pg_try_advisory_lock_shared(%(space)s, %(key)s)")
TRY_LOCK_EXCLUSIVE = SQL("SELECT pg_try_advisory_lock(%(space)s, %(key)s)")
LOCK_HOLDERS = SQL(
    """SELECT coalesce(nullif(a.application_name, ''), 'pid ' || a.pid) FROM pg_locks l JOIN pg_stat_activity a USING (pid)
       WHERE l.locktype = 'advisory' AND l.classid = %(space)s::oid AND l.objid = %(key)s::oid AND l.objsubid = 2 AND l.granted
         AND a.pid <> pg_backend_pid() ORDER BY 1"""
)
BACKEND_PID = SQL("SELECT pg_backend_pid()")


def holds_rows(schema: str, name: str) -> Composed:
    """Return one row if the relation, children included, has any."""
    return SQL("SELECT 1 FROM {} LIMIT 1").format(Identifier(schema, name))


WHY_NOT_CONCURRENTLY = SQL(
    """SELECT CASE WHEN NOT c.relispopulated THEN 'it was never computed'
                   WHEN NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid
                                    AND i.indimmediate AND i.indpred IS NULL AND 0 <> ALL (i.indkey::smallint[]))
                   THEN 'it has no unique index over all its rows' ELSE '' END
       FROM pg_class c WHERE c.oid = %(name)s::regclass"""
)
LOCK_SESSION = SQL("SELECT pid, backend_start, datid FROM pg_stat_activity WHERE pid = pg_backend_pid()")
# Asked in transactions that run under the path of the source: nothing in it is looked for by a path. When the session began is
# hidden from a login that is neither its own nor reads all statistics; then its number and its lock have to do.
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
SERVER_CLOCK = SQL("SELECT clock_timestamp()")
