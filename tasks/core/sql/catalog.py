"""Catalog queries about a context: its tables, views, and dependencies in both directions.

Catalogue queries read pg_inherits and pg_class rather than pg_partition_tree(), which ignores the
snapshot.
"""

from psycopg.sql import SQL

# A view shows the rows that its owner may see; under policies on him a query would fail without
# this.
SHOW_AS_OWNER = SQL("SET row_security = on")

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
              -- are printed as another object's name may change their text with no row touched: such a layout is not known. Each
              -- type and table is looked up by its oid (OFFSET 0), or catalogues of many partitions are read whole for each.
              (WITH RECURSIVE part (type) AS (
                 SELECT a.atttypid FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
                 UNION SELECT inner_part.type FROM part p CROSS JOIN LATERAL (
                   SELECT t.oid, t.typelem, t.typbasetype, t.typrelid FROM pg_type t WHERE t.oid = p.type OFFSET 0) AS t
                 CROSS JOIN LATERAL (
                   SELECT unnest(ARRAY[t.typelem, t.typbasetype]) UNION ALL SELECT r.rngsubtype FROM pg_range r
                   WHERE t.oid IN (r.rngtypid, r.rngmultitypid)
                   UNION ALL SELECT a.atttypid FROM pg_attribute a WHERE a.attrelid = t.typrelid AND a.attnum > 0
                     AND NOT a.attisdropped) AS inner_part (type) WHERE inner_part.type <> 0)
               SELECT CASE WHEN EXISTS (SELECT FROM part p CROSS JOIN LATERAL (
                                          SELECT t.typnamespace, t.typname FROM pg_type t WHERE t.oid = p.type OFFSET 0) AS t
                                        WHERE t.typnamespace = 'pg_catalog'::regnamespace AND t.typname ~ '^(reg|aclitem$)')
                           THEN '' ELSE
                (SELECT md5(coalesce(string_agg(concat_ws(' ', CASE WHEN a.attrelid <> c.oid THEN a.attrelid END, a.attnum,
                   a.atttypid, a.atttypmod, a.attisdropped, a.attmissingval), ',' ORDER BY a.attrelid, a.attnum), ''))
                 FROM (SELECT c.oid UNION SELECT t.typrelid FROM part p CROSS JOIN LATERAL (
                         SELECT t.typrelid FROM pg_type t WHERE t.oid = p.type OFFSET 0) AS t WHERE t.typrelid <> 0) AS o (oid)
                 CROSS JOIN LATERAL (SELECT a.* FROM pg_attribute a WHERE a.attrelid = o.oid AND a.attnum > 0 OFFSET 0) AS a) END)
                AS layout
       FROM member m JOIN pg_class c ON c.oid = m.oid JOIN pg_namespace n ON n.oid = c.relnamespace
       LEFT JOIN LATERAL (SELECT h.* FROM pg_inherits h WHERE h.inhrelid = c.oid ORDER BY h.inhseqno LIMIT 1) i ON true
       LEFT JOIN pg_class up ON up.oid = i.inhparent LEFT JOIN pg_namespace p ON p.oid = up.relnamespace
       ORDER BY c.oid"""
)

VIEWS = SQL(
    """SELECT c.oid::bigint AS oid, n.nspname AS schema, c.relname AS name, c.relkind::text AS kind,
              c.relispopulated AS populated
       FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
       WHERE n.nspname = %(schema)s AND c.relname = ANY (%(views)s) AND c.relkind IN ('m', 'v')"""
)

# pg_dump locks every table of the database, other contexts' too, which requires SELECT.
UNREADABLE = SQL(
    """SELECT format('%%I', n.nspname), has_schema_privilege(n.oid, 'USAGE'),
              format('%%I.%%I', n.nspname, c.relname), has_table_privilege(c.oid, 'SELECT'), c.oid::bigint, n.nspname, c.relname
       FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
       WHERE (c.relkind IN ('r', 'p') OR c.oid = ANY (%(sequences)s::oid[]) AND c.relkind = 'S')
         AND c.oid >= 16384 AND c.relpersistence <> 't'
         AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
         AND NOT (has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')) ORDER BY 1, 3"""
)

# With row_security = off, COPY fails under policies unless the role bypasses them or owns the table
# unforced.
HIDDEN_BY_ROW_SECURITY = SQL(
    """SELECT format('%%I.%%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
       JOIN pg_roles me ON me.rolname = current_user
       WHERE c.oid = ANY (%(oids)s::oid[]) AND c.relrowsecurity AND NOT (me.rolsuper OR me.rolbypassrls)
         AND (c.relforcerowsecurity OR NOT pg_has_role(c.relowner, 'USAGE')) ORDER BY 1"""
)

# Which views read which, also through plain views of others.
VIEW_NEEDS = SQL(
    """WITH RECURSIVE reads (view, relation) AS (
         SELECT oid, oid FROM unnest(%(oids)s::oid[]) AS oid
         UNION SELECT s.view, d.refobjid FROM reads s JOIN pg_rewrite r ON r.ev_class = s.relation
         JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid AND d.refclassid = 'pg_class'::regclass
         JOIN pg_class c ON c.oid = d.refobjid AND c.relkind IN ('m', 'v'))
       SELECT view::bigint, relation::bigint FROM reads WHERE relation = ANY (%(oids)s::oid[]) AND view <> relation"""
)

DEPENDENCIES = SQL(
    """SELECT classid::bigint, objid::bigint, refclassid::bigint, refobjid::bigint, deptype::text
       FROM pg_depend WHERE objid >= 16384 AND (refobjid >= 16384 OR refclassid = 'pg_namespace'::regclass)"""
)

RELATIONS = SQL(
    """SELECT c.oid::bigint, n.nspname, c.relname, c.relkind::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
       WHERE c.oid >= 16384 AND n.nspname !~ '^pg_(toast|temp)'"""
)

# Defaults and checks that a dump creates with their table or domain.
MADE_INLINE = SQL(
    """SELECT 'pg_attrdef'::regclass::oid::bigint, d.oid::bigint FROM pg_attrdef d JOIN pg_class c ON c.oid = d.adrelid
       WHERE c.relkind IN ('r', 'p', 'f') AND c.oid >= 16384
       UNION ALL SELECT 'pg_constraint'::regclass::oid::bigint, k.oid::bigint FROM pg_constraint k
       WHERE k.contype = 'c' AND k.convalidated AND k.oid >= 16384"""
)

CLASS_OIDS = SQL(
    """SELECT relname::text, oid::bigint FROM pg_class
       WHERE relname = ANY (%(names)s) AND relnamespace = 'pg_catalog'::regnamespace"""
)

DESCRIBE_OBJECTS = SQL(
    """SELECT classid, objid, pg_describe_object(classid::oid, objid::oid, 0)
       FROM unnest(%(classes)s::bigint[], %(objects)s::bigint[]) AS o (classid, objid)"""
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

# Tables that share the context's schema, or whose keys, policies, rules or columns need its tables;
# perhaps no context lists them.
NEIGHBOURS = SQL(
    """WITH own (oid) AS (SELECT unnest(%(oids)s::oid[])),
       row_type (oid) AS (SELECT unnest(ARRAY[t.oid, t.typarray]) FROM own JOIN pg_type t ON t.typrelid = own.oid),
       referring (oid) AS (
         SELECT conrelid FROM pg_constraint JOIN own ON confrelid = own.oid WHERE contype = 'f'
         UNION SELECT attrelid FROM pg_attribute JOIN row_type ON atttypid = row_type.oid WHERE NOT attisdropped
         UNION SELECT coalesce(p.polrelid, w.ev_class) FROM own
         JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = own.oid
         LEFT JOIN pg_policy p ON d.classid = 'pg_policy'::regclass AND p.oid = d.objid
         LEFT JOIN pg_rewrite w ON d.classid = 'pg_rewrite'::regclass AND w.oid = d.objid
         WHERE coalesce(p.polrelid, w.ev_class) IS NOT NULL)
       SELECT c.oid::bigint AS oid, n.nspname AS schema, c.relname AS name, c.relkind::text AS kind,
              c.oid IN (SELECT oid FROM referring) AS refers
       FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
       WHERE c.relkind IN ('r', 'p', 'f') AND c.oid >= 16384 AND c.oid <> ALL (%(oids)s::oid[]) AND NOT c.relispartition
         AND n.nspname !~ '^pg_'
         AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
         AND (n.nspname = %(schema)s OR c.oid IN (SELECT oid FROM referring))
       ORDER BY 1, 2"""
)

_ROLES = """SELECT r.rolname AS name, r.rolsuper AS superuser, r.rolcreatedb AS createdb, r.rolcreaterole AS createrole,
              r.rolcanlogin AS login, r.rolinherit AS inherit, r.rolbypassrls AS bypassrls,
              coalesce((SELECT array_agg(DISTINCT g.rolname::text ORDER BY g.rolname::text) FROM pg_auth_members m
                        JOIN pg_roles g ON g.oid = m.roleid WHERE m.member = r.oid), '{}') AS member_of
       FROM pg_roles r"""
ROLES_NAMED = SQL(f"{_ROLES} WHERE r.rolname = ANY (%(names)s) AND r.rolname !~ '^pg_' ORDER BY r.rolname")
ROLES = SQL(
    f"""{_ROLES} WHERE r.oid IN (SELECT s.refobjid FROM pg_shdepend s
                       JOIN unnest(%(classes)s::bigint[], %(objects)s::bigint[]) AS o (classid, objid)
                         ON s.classid = o.classid::oid AND s.objid = o.objid::oid
                       JOIN pg_database d ON d.oid = s.dbid AND d.datname = current_database()
                       WHERE s.refclassid = 'pg_authid'::regclass
                       -- The bootstrap superuser is pinned: pg_shdepend does not have its objects.
                       UNION SELECT relowner FROM pg_class WHERE oid = ANY (%(relations)s::oid[])
                       UNION SELECT p.proowner FROM pg_proc p WHERE p.oid = ANY (%(functions)s::oid[]) AND NOT EXISTS (
                         SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'i')
                       UNION SELECT typowner FROM pg_type WHERE oid = ANY (%(types)s::oid[]))
         AND r.rolname !~ '^pg_'
       ORDER BY r.rolname"""  # noqa: S608
)
EXTENSIONS = SQL("SELECT extname, extversion FROM pg_extension WHERE oid = ANY (%(oids)s::oid[]) ORDER BY 1")

MISSING_RELATIONS = SQL(
    """SELECT name FROM unnest(%(names)s::text[]) AS name
       WHERE NOT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                         WHERE n.nspname = %(schema)s AND c.relname = name AND c.relkind IN ('r', 'p', 'm', 'v')) ORDER BY 1"""
)
TYPE_IS_THERE = SQL("SELECT to_regtype(%(name)s) IS NOT NULL")
RELATION_IS_THERE = SQL("SELECT pg_catalog.to_regclass(%(name)s) IS NOT NULL")
