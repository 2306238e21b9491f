"""The inventory of a context's objects, spelled so that a dump and restore does not change it."""

from psycopg.sql import SQL

_PRIVILEGES = """(SELECT string_agg(format('%%s=%%s%%s', CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(a.grantee) END,
                  a.privilege_type, CASE WHEN a.is_grantable THEN '*' ELSE '' END), ' '
                  ORDER BY a.grantee = 0, pg_get_userbyid(a.grantee) COLLATE "C", a.privilege_type)
                FROM aclexplode(coalesce({acl}, acldefault({kind}, {owner}))) AS a)"""


def _privileges(acl: str, kind: str, owner: str) -> str:
    return _PRIVILEGES.format(acl=acl, kind=kind, owner=owner)


def _storage(letter: str) -> str:
    return f"CASE {letter} WHEN 'p' THEN 'PLAIN' WHEN 'e' THEN 'EXTERNAL' WHEN 'm' THEN 'MAIN' ELSE 'EXTENDED' END"


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
                 -- A dump lists inherited columns first, and loses the place of columns added to
                 -- the parent later.
                 ', ' ORDER BY CASE WHEN a.attinhcount > 0 AND NOT c.relispartition THEN a.attname END, a.attnum)
          FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
          LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
          WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped), '') AS columns,
         concat_ws(' | ', 'owner ' || pg_get_userbyid(c.relowner),
                   -- A dump does not contain the members of extensions.
                   'extension ' || (SELECT x.extname FROM pg_depend d JOIN pg_extension x ON x.oid = d.refobjid
                     WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.refclassid = 'pg_extension'::regclass
                       AND d.deptype = 'e'),
                   'persistence ' || c.relpersistence::text,
                   'key ' || pg_get_partkeydef(c.oid), 'bound ' || pg_get_expr(c.relpartbound, c.oid),
                   CASE WHEN c.relrowsecurity THEN 'row security' END, CASE WHEN c.relforcerowsecurity THEN 'forced' END,
                   'replica identity ' || c.relreplident::text, 'options ' || c.reloptions::text,
                   'tablespace ' || (SELECT quote_ident(s.spcname) FROM pg_tablespace s WHERE s.oid = c.reltablespace),
                   CASE WHEN c.relkind IN ('m', 'v') THEN pg_get_viewdef(c.oid) END,
                   CASE WHEN c.relkind = 'm' AND NOT c.relispopulated THEN 'not populated' END,
                   'comment ' || obj_description(c.oid, 'pg_class'),
                   'privileges ' || {_privileges("c.relacl", "'r'", "c.relowner")}) AS state
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE c.oid = ANY (%(relations)s::oid[]) AND c.relkind IN ('r', 'p', 'm', 'v', 'f')
  UNION ALL
  -- Column facts that the table's item does not have.
  SELECT 'column', quote_ident(a.attname), format('%%I.%%I', n.nspname, c.relname), '',
         concat_ws(' | ', CASE WHEN a.attstorage <> t.typstorage THEN
                     format('storage %%s instead of %%s', {_storage("a.attstorage")}, {_storage("t.typstorage")}) END,
                   'compression ' || CASE a.attcompression WHEN 'p' THEN 'pglz' WHEN 'l' THEN 'lz4' END,
                   'statistics ' || nullif(a.attstattarget, -1), 'options ' || o.known::text)
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid
  JOIN pg_type t ON t.oid = a.atttypid
  -- An extension may set different ones, depending on the server.
  CROSS JOIN LATERAL (SELECT array_agg(option ORDER BY option) FROM unnest(a.attoptions) AS option
                      WHERE option LIKE 'n_distinct%%') AS o (known)
  WHERE c.oid = ANY (%(relations)s::oid[]) AND c.relkind IN ('r', 'p') AND a.attnum > 0 AND NOT a.attisdropped
    AND (a.attstorage <> t.typstorage OR a.attcompression <> '' OR nullif(a.attstattarget, -1) IS NOT NULL
         OR o.known IS NOT NULL)
  UNION ALL
  SELECT 'sequence', format('%%I.%%I', n.nspname, c.relname),
         coalesce((SELECT format('%%s.%%I', d.refobjid::regclass, a.attname) FROM pg_depend d
                   JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
                   WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype IN ('a', 'i')), ''), '',
         concat_ws(' | ', 'owner ' || pg_get_userbyid(c.relowner), format_type(s.seqtypid, NULL), s.seqstart, s.seqincrement,
                   s.seqmin, s.seqmax, s.seqcache, s.seqcycle,
                   CASE WHEN c.relpersistence = 'u' THEN 'persistence u' END, 'comment ' || obj_description(c.oid, 'pg_class'),
                   'privileges ' || {_privileges("c.relacl", "'s'", "c.relowner")})
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_sequence s ON s.seqrelid = c.oid
  WHERE c.oid = ANY (%(relations)s::oid[])
  UNION ALL
  SELECT 'index', i.indexrelid::regclass::text, i.indrelid::regclass::text, '',
         concat_ws(' | ', pg_get_indexdef(i.indexrelid), CASE WHEN NOT i.indisvalid THEN 'INVALID' END,
                   CASE WHEN i.indisclustered THEN 'clustered' END, CASE WHEN i.indisreplident THEN 'replica identity' END,
                   'attached to ' || (SELECT h.inhparent::regclass::text FROM pg_inherits h WHERE h.inhrelid = i.indexrelid),
                   'tablespace ' || (SELECT quote_ident(s.spcname) FROM pg_tablespace s WHERE s.oid = ic.reltablespace),
                   'comment ' || obj_description(i.indexrelid, 'pg_class'))
  FROM pg_index i JOIN pg_class ic ON ic.oid = i.indexrelid JOIN pg_class tc ON tc.oid = i.indrelid AND tc.relkind <> 't'
  WHERE i.indrelid = ANY (%(relations)s::oid[]) AND (i.indisvalid OR ic.relkind = 'I') AND i.indisready
  UNION ALL
  SELECT 'constraint', k.conname, k.conrelid::regclass::text, '',
         concat_ws(' | ', pg_get_constraintdef(k.oid), CASE WHEN NOT k.convalidated THEN 'NOT VALID' END,
                   (SELECT 'inherited yes' || CASE WHEN k.conislocal THEN ', and its own' ELSE '' END FROM pg_class c
                    WHERE k.contype = 'c' AND k.coninhcount > 0 AND c.oid = k.conrelid AND NOT c.relispartition),
                   'comment ' || obj_description(k.oid, 'pg_constraint'))
  FROM pg_constraint k WHERE k.conrelid = ANY (%(relations)s::oid[])
    -- NOT NULL belongs to its column's item, unless it is NOT VALID.
    AND (k.contype IN ('p', 'u', 'c', 'x', 'f') OR k.contype = 'n' AND NOT k.convalidated)
    AND NOT (k.contype = 'f' AND (k.conparentid <> 0 OR k.confrelid <> ALL (%(relations)s::oid[])))
  UNION ALL
  SELECT 'trigger', t.tgname, t.tgrelid::regclass::text, '',
         concat_ws(' | ', pg_get_triggerdef(t.oid), 'enabled ' || t.tgenabled::text,
                   'comment ' || obj_description(t.oid, 'pg_trigger'))
  FROM pg_trigger t WHERE t.tgrelid = ANY (%(relations)s::oid[]) AND NOT t.tgisinternal
  UNION ALL
  SELECT 'rule', r.rulename, r.ev_class::regclass::text, '',
         concat_ws(' | ', pg_get_ruledef(r.oid), 'enabled ' || r.ev_enabled::text,
                   'comment ' || obj_description(r.oid, 'pg_rewrite'))
  FROM pg_rewrite r WHERE r.ev_class = ANY (%(relations)s::oid[]) AND r.rulename <> '_RETURN'
  UNION ALL
  SELECT 'policy', p.polname, p.polrelid::regclass::text, '',
         concat_ws(' | ', p.polcmd, p.polpermissive, (SELECT string_agg(coalesce(r.rolname, 'PUBLIC'), ',' ORDER BY r.rolname)
                   FROM unnest(p.polroles) AS u LEFT JOIN pg_roles r ON r.oid = u),
                   'using ' || pg_get_expr(p.polqual, p.polrelid), 'check ' || pg_get_expr(p.polwithcheck, p.polrelid),
                   'comment ' || obj_description(p.oid, 'pg_policy'))
  FROM pg_policy p WHERE p.polrelid = ANY (%(relations)s::oid[])
  UNION ALL
  SELECT 'statistics', format('%%I.%%I', n.nspname, s.stxname), s.stxrelid::regclass::text, '',
         concat_ws(' | ', pg_get_statisticsobjdef(s.oid), 'statistics ' || nullif(s.stxstattarget, -1),
                   'comment ' || obj_description(s.oid, 'pg_statistic_ext'))
  FROM pg_statistic_ext s JOIN pg_namespace n ON n.oid = s.stxnamespace WHERE s.stxrelid = ANY (%(relations)s::oid[])
  UNION ALL
  SELECT 'function', p.oid::regprocedure::text, '', '',
         concat_ws(' | ', 'owner ' || pg_get_userbyid(p.proowner), CASE WHEN p.prokind <> 'a' THEN pg_get_functiondef(p.oid) END,
                   'comment ' || obj_description(p.oid, 'pg_proc'),
                   'privileges ' || {_privileges("p.proacl", "'f'", "p.proowner")})
  FROM pg_proc p WHERE p.oid = ANY (%(functions)s::oid[]) AND NOT EXISTS (
    -- Objects created with a range type belong to the bootstrap superuser, whoever created the
    -- type.
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
                   CASE WHEN t.typnotnull THEN 'NOT NULL' END,
                   -- The text of a domain's default is stored as written, independent of
                   -- search_path.
                   'DEFAULT ' || coalesce(pg_get_expr(t.typdefaultbin, 0), t.typdefault),
                   (SELECT string_agg(k.conname || ' ' || pg_get_constraintdef(k.oid), ', ' ORDER BY k.conname)
                    FROM pg_constraint k WHERE k.contypid = t.oid AND k.contype = 'c'),
                   'remarks ' || (SELECT string_agg(format('%%s %%L', k.conname, obj_description(k.oid, 'pg_constraint')), ', '
                                                    ORDER BY k.conname)
                    FROM pg_constraint k WHERE k.contypid = t.oid AND obj_description(k.oid, 'pg_constraint') IS NOT NULL),
                   'comment ' || obj_description(t.oid, 'pg_type'), 'privileges ' || {_privileges("t.typacl", "'T'", "t.typowner")})
  FROM pg_type t WHERE t.oid = ANY (%(types)s::oid[]) AND t.typtype IN ('e', 'd', 'c', 'r')
    AND NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = t.typrelid AND c.relkind <> 'c')
  UNION ALL
  SELECT i.type, i.identity, '', '',
         coalesce((SELECT concat_ws(' | ', c.castcontext, c.castmethod, nullif(c.castfunc, 0)::regprocedure) FROM pg_cast c
                   WHERE o.class = 'pg_cast'::regclass AND c.oid = o.oid),
                  (SELECT concat_ws(' | ', 'owner ' || pg_get_userbyid(p.oprowner), p.oprcode, nullif(p.oprcom, 0)::regoperator)
                   FROM pg_operator p WHERE o.class = 'pg_operator'::regclass AND p.oid = o.oid),
                  (SELECT concat_ws(' | ', 'owner ' || pg_get_userbyid(l.collowner), l.collprovider, l.collcollate, l.collctype,
                          l.collisdeterministic) FROM pg_collation l WHERE o.class = 'pg_collation'::regclass AND l.oid = o.oid),
                  (SELECT concat_ws(' | ', 'owner ' || pg_get_userbyid(f.cfgowner),
                          (SELECT string_agg(concat_ws(' ', m.maptokentype, m.mapseqno, m.mapdict::regdictionary), ', '
                                             ORDER BY m.maptokentype, m.mapseqno)
                           FROM pg_ts_config_map m WHERE m.mapcfg = f.oid))
                   FROM pg_ts_config f WHERE o.class = 'pg_ts_config'::regclass AND f.oid = o.oid),
                  (SELECT concat_ws(' | ', 'owner ' || pg_get_userbyid(d.dictowner), d.dictinitoption) FROM pg_ts_dict d
                   WHERE o.class = 'pg_ts_dict'::regclass AND d.oid = o.oid), '')
  FROM unnest(%(other_classes)s::oid[], %(others)s::oid[]) AS o (class, oid)
  CROSS JOIN LATERAL pg_identify_object(o.class, o.oid, 0) AS i WHERE i.identity IS NOT NULL
) AS item ORDER BY kind, parent, name"""  # noqa: S608
INVENTORY = SQL(_INVENTORY)

# Objects by the names that an inventory has.
EXPECTED = SQL(
    """WITH asked AS (SELECT kind, name FROM unnest(%(kinds)s::text[], %(names)s::text[]) AS o (kind, name))
       SELECT 'functions', NULL::bigint, p.oid::bigint FROM pg_proc p
       WHERE p.oid >= 16384 AND p.oid::regprocedure::text IN (SELECT name FROM asked WHERE kind = 'function')
       UNION ALL SELECT 'types', NULL, t.oid::bigint FROM pg_type t
       WHERE t.oid >= 16384 AND t.typtype IN ('e', 'd', 'c', 'r') AND format_type(t.oid, NULL) IN (
         SELECT name FROM asked WHERE kind = 'type')
       UNION ALL SELECT 'relations', NULL, c.oid::bigint FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
       WHERE c.oid >= 16384 AND (CASE c.relkind WHEN 'v' THEN 'view' WHEN 'S' THEN 'sequence' END,
         format('%%I.%%I', n.nspname, c.relname)) IN (SELECT kind, name FROM asked)
       UNION ALL SELECT 'schemas', NULL, n.oid::bigint FROM pg_namespace n
       WHERE n.nspname IN (SELECT name FROM asked WHERE kind = 'schema')
       UNION ALL SELECT 'others', o.class::bigint, o.oid::bigint FROM (
         SELECT 'pg_cast'::regclass::oid AS class, oid FROM pg_cast UNION ALL SELECT 'pg_operator'::regclass, oid FROM pg_operator
         UNION ALL SELECT 'pg_collation'::regclass, oid FROM pg_collation
         UNION ALL SELECT 'pg_ts_config'::regclass, oid FROM pg_ts_config
         UNION ALL SELECT 'pg_ts_dict'::regclass, oid FROM pg_ts_dict
       ) AS o CROSS JOIN LATERAL pg_identify_object(o.class, o.oid, 0) AS i
       WHERE o.oid >= 16384 AND (i.type, i.identity) IN (SELECT kind, name FROM asked)"""
)

UNUSABLE = SQL(
    """SELECT 'trigger ' || t.tgname || ' on ' || t.tgrelid::regclass || ' is ' ||
              CASE t.tgenabled WHEN 'D' THEN 'DISABLED' WHEN 'R' THEN 'enabled for replicas only' ELSE 'enabled ALWAYS' END
              || '; a restore keeps that: run ALTER TABLE … ENABLE TRIGGER … if it is not intended'
       FROM pg_trigger t WHERE t.tgrelid = ANY (%(oids)s::oid[]) AND t.tgenabled <> 'O'
         AND (NOT t.tgisinternal OR t.tgenabled = 'D')
       UNION ALL
       SELECT 'index ' || i.indexrelid::regclass || ' is INVALID and is not in the backup; REINDEX or drop it'
       FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
       WHERE i.indrelid = ANY (%(oids)s::oid[]) AND NOT i.indisvalid AND c.relkind = 'i'
       ORDER BY 1"""
)
