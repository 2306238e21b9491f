"""Catalog queries about a context's surroundings: what its code names, and independent objects."""

from psycopg.sql import SQL

# Functions, types, sequences and what text is searched and sorted with, by name, with the source of
# functions: what code names is in no pg_depend. Functions and types that extensions bring stand for
# these, some of which only a superuser can make. A default names no column, and is spelled without
# its table: pg_get_expr would wait for whoever has that locked.
NAMED_OBJECTS = SQL(
    """WITH brought AS MATERIALIZED (
         SELECT d.classid, d.objid, coalesce(v.trusted, false) AS trusted FROM pg_extension x
         JOIN pg_depend d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = x.oid AND d.deptype = 'e'
         LEFT JOIN pg_available_extension_versions v ON v.name = x.extname AND v.version = x.extversion)
       SELECT 'pg_proc'::regclass::oid::bigint, p.oid::bigint, p.proname, CASE WHEN b.objid IS NULL THEN p.prosrc ELSE '' END,
              n.nspname, b.objid IS NOT NULL, EXISTS (SELECT FROM pg_proc o WHERE o.proname = p.proname
              AND o.pronamespace = 'pg_catalog'::regnamespace), NOT coalesce(b.trusted, true), false
       FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
       LEFT JOIN brought b ON b.classid = 'pg_proc'::regclass AND b.objid = p.oid WHERE p.oid >= 16384
       UNION ALL SELECT 'pg_type'::regclass::oid::bigint, t.oid::bigint, t.typname, '', n.nspname, b.objid IS NOT NULL, false,
              NOT coalesce(b.trusted, true), false
       FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace LEFT JOIN pg_class c ON c.oid = t.typrelid
       LEFT JOIN brought b ON b.classid = 'pg_type'::regclass AND b.objid = t.oid
       WHERE t.oid >= 16384 AND (c.oid IS NULL OR c.relkind = 'c') AND (b.objid IS NOT NULL OR t.typtype IN ('e', 'd', 'c', 'r'))
       UNION ALL SELECT o.class::regclass::oid::bigint, o.oid::bigint, o.name, o.source, '', false, false, false, o.source <> ''
       FROM (
         SELECT 'pg_class' AS class, oid, relname AS name, '' AS source FROM pg_class WHERE relkind = 'S'
         UNION ALL SELECT 'pg_ts_config', oid, cfgname, '' FROM pg_ts_config
         UNION ALL SELECT 'pg_ts_dict', oid, dictname, '' FROM pg_ts_dict
         UNION ALL SELECT 'pg_collation', oid, collname, '' FROM pg_collation
         UNION ALL SELECT 'pg_trigger', oid, '', pg_get_triggerdef(oid) FROM pg_trigger
         WHERE tgrelid = ANY (%(oids)s::oid[]) AND NOT tgisinternal AND tgnargs > 0
         UNION ALL SELECT 'pg_attrdef', d.oid, '', pg_get_expr(d.adbin, 0) FROM pg_attrdef d
         JOIN pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
         WHERE d.adrelid = ANY (%(oids)s::oid[]) AND a.attgenerated = ''
       ) AS o WHERE o.oid >= 16384"""
)

# Independent objects: schema, owner, whether a non-superuser may create it, and whether it is
# database-wide. Extensions can be re-created by their owner, whoever that is.
BYSTANDERS = SQL(
    """WITH brought AS (SELECT classid, objid FROM pg_depend WHERE deptype IN ('e', 'i'))
       SELECT o.class::regclass::oid::bigint, o.oid::bigint, o.schema::bigint, pg_get_userbyid(o.owner), o.plain, o.wide FROM (
         SELECT 'pg_proc' AS class, p.oid, p.pronamespace AS schema, p.proowner AS owner,
                p.prokind = 'a' OR l.lanpltrusted AS plain, false AS wide
         FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
         UNION ALL SELECT 'pg_class', oid, relnamespace, relowner, true, false FROM pg_class c
         WHERE relkind IN ('v', 'm') OR relkind = 'S'
           AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'a')
         UNION ALL SELECT 'pg_type', t.oid, typnamespace, typowner, typtype <> 'b', false FROM pg_type t
           LEFT JOIN pg_class c ON c.oid = t.typrelid WHERE c.oid IS NULL OR c.relkind = 'c'
         UNION ALL SELECT 'pg_cast', oid, NULL, NULL, castmethod <> 'b', castsource < 16384 AND casttarget < 16384 FROM pg_cast
         UNION ALL SELECT 'pg_operator', oid, oprnamespace, oprowner, true, false FROM pg_operator
         UNION ALL SELECT 'pg_opclass', oid, opcnamespace, opcowner, false, false FROM pg_opclass
         UNION ALL SELECT 'pg_opfamily', oid, opfnamespace, opfowner, false, false FROM pg_opfamily
         UNION ALL SELECT 'pg_transform', oid, NULL, NULL, false, false FROM pg_transform
         UNION ALL SELECT 'pg_collation', oid, collnamespace, collowner, true, false FROM pg_collation
         UNION ALL SELECT 'pg_conversion', oid, connamespace, conowner, false, false FROM pg_conversion
         UNION ALL SELECT 'pg_ts_config', oid, cfgnamespace, cfgowner, true, false FROM pg_ts_config
         UNION ALL SELECT 'pg_ts_dict', oid, dictnamespace, dictowner, true, false FROM pg_ts_dict
         UNION ALL SELECT 'pg_ts_parser', oid, prsnamespace, NULL, false, false FROM pg_ts_parser
         UNION ALL SELECT 'pg_ts_template', oid, tmplnamespace, NULL, false, false FROM pg_ts_template
         UNION ALL SELECT 'pg_am', oid, NULL, NULL, false, false FROM pg_am
         UNION ALL SELECT 'pg_language', oid, NULL, NULL, false, false FROM pg_language
         UNION ALL SELECT 'pg_namespace', oid, NULL, nspowner, true, false FROM pg_namespace
         UNION ALL SELECT 'pg_extension', x.oid, NULL, NULL, EXISTS (SELECT FROM pg_available_extension_versions v
           WHERE v.name = x.extname AND v.version = x.extversion AND v.trusted), false FROM pg_extension x
         UNION ALL SELECT 'pg_event_trigger', oid, NULL, NULL, false, true FROM pg_event_trigger
         UNION ALL SELECT 'pg_default_acl', a.oid, NULL, NULL, false, true FROM pg_default_acl a
           WHERE a.defaclnamespace = ANY (%(schemas)s::oid[])
             OR a.defaclnamespace = 0 AND a.defaclrole IN (SELECT relowner FROM pg_class WHERE oid = ANY (%(oids)s::oid[]))
         UNION ALL SELECT 'pg_publication', p.oid, NULL, NULL, false, true FROM pg_publication p
           WHERE p.puballtables OR EXISTS (SELECT FROM pg_depend d JOIN pg_depend t ON t.classid = d.classid AND t.objid = d.objid
             WHERE d.refclassid = 'pg_publication'::regclass AND d.refobjid = p.oid
               AND (t.refclassid = 'pg_class'::regclass AND t.refobjid = ANY (%(oids)s::oid[])
                    OR t.refclassid = 'pg_namespace'::regclass AND t.refobjid = ANY (%(schemas)s::oid[])))
         UNION ALL SELECT 'pg_publication_rel', oid, NULL, NULL, false, true FROM pg_publication_rel
           WHERE prrelid = ANY (%(oids)s::oid[])
         UNION ALL SELECT 'pg_publication_namespace', t.objid, NULL, NULL, false, true FROM pg_depend t
           WHERE t.classid = to_regclass('pg_publication_namespace') AND t.refclassid = 'pg_namespace'::regclass
             AND t.refobjid = ANY (%(schemas)s::oid[])
         UNION ALL SELECT 'pg_subscription', srsubid, NULL, NULL, false, true FROM pg_subscription_rel
           WHERE srrelid = ANY (%(oids)s::oid[])
       ) AS o LEFT JOIN brought b ON b.classid = o.class::regclass AND b.objid = o.oid
       WHERE b.objid IS NULL AND o.oid >= 16384
       ORDER BY 1, 2"""
)

# Objects that only a superuser can create; extensions are queried as such.
MADE_BY_SUPERUSERS = SQL(
    """SELECT a.class, a.id FROM ({}) AS a (class, id, schema, owner, plain, wide)
       JOIN unnest(%(classes)s::bigint[], %(objects)s::bigint[]) AS o (class, id) USING (class, id)
       WHERE NOT plain AND a.class <> 'pg_extension'::regclass::oid::bigint"""
).format(BYSTANDERS)

# Schemas and owners of own relations.
OWN_PLACES = SQL(
    """SELECT DISTINCT relnamespace::bigint, pg_get_userbyid(relowner) FROM pg_class WHERE oid = ANY (%(oids)s::oid[])"""
)

# What roles own of the context, who are superusers, or for whom a login that loads may not act;
# without such a login, who own no table of it.
OWNED_BY_OTHERS = SQL(
    """SELECT r.rolname, r.rolsuper, array_agg(pg_describe_object(o.class::regclass, o.oid, 0) ORDER BY 1) FROM (
         SELECT 'pg_class' AS class, oid, relowner AS owner FROM pg_class WHERE oid = ANY (%(relations)s::oid[])
         UNION ALL SELECT 'pg_proc', oid, proowner FROM pg_proc WHERE oid = ANY (%(functions)s::oid[])
         UNION ALL SELECT 'pg_type', oid, typowner FROM pg_type WHERE oid = ANY (%(types)s::oid[])
       ) AS o JOIN pg_roles r ON r.oid = o.owner LEFT JOIN pg_roles l ON l.rolname = %(loader)s
       WHERE NOT EXISTS (
           SELECT FROM pg_depend d WHERE d.classid = o.class::regclass AND d.objid = o.oid AND d.deptype IN ('i', 'e'))
         AND CASE WHEN r.rolsuper THEN true WHEN l.oid IS NOT NULL THEN NOT pg_has_role(l.oid, r.oid, 'USAGE')
             ELSE r.oid NOT IN (SELECT relowner FROM pg_class WHERE oid = ANY (%(relations)s::oid[]) AND relkind IN ('r', 'p')) END
       GROUP BY r.oid, r.rolname, r.rolsuper ORDER BY 1"""
)

# What goes with relations, and has entries of its own in an archive: indexes, defaults, triggers, partitions …
# A foreign key between two of them is listed for both.
PARTS = SQL(
    """WITH RECURSIVE part (whole, class, id) AS (
         SELECT c.oid, 'pg_class'::regclass::oid, c.oid FROM pg_class c WHERE c.oid = ANY (%(oids)s::oid[])
         UNION SELECT p.whole, d.classid, d.objid FROM part p JOIN pg_depend d ON d.refclassid = p.class AND d.refobjid = p.id
         WHERE d.deptype IN ('a', 'i', 'P', 'S') AND d.classid <> 'pg_publication_rel'::regclass)
       SELECT 'pg_class'::regclass::oid::bigint, whole::bigint, class::bigint, id::bigint FROM part WHERE id <> whole
       UNION SELECT 'pg_class'::regclass::oid::bigint, k.confrelid::bigint, p.class::bigint, p.id::bigint
       FROM part p JOIN pg_constraint k ON p.class = 'pg_constraint'::regclass AND k.oid = p.id AND k.contype = 'f'
       WHERE k.confrelid = ANY (%(oids)s::oid[])"""
)

# A dump of the schema alone does not fill materialized views.
REFRESHES = SQL(
    """SELECT c.oid::bigint, format('REFRESH MATERIALIZED VIEW %%I.%%I;', n.nspname, c.relname)
       FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
       WHERE c.oid = ANY (%(oids)s::oid[]) AND c.relkind = 'm' AND c.relispopulated"""
)

# Members of extensions that objects need, outside the schemas where CREATE EXTENSION puts them.

# Members of extensions that objects need, or that lie in the context's schemas, outside the schemas
# where CREATE EXTENSION puts them; of functions and views with the statement that creates them.
OUTSIDE_MEMBERS = SQL(
    """SELECT pg_describe_object(e.classid, e.objid, 0), x.extname, format('%%s %%s', upper(i.type), i.identity),
              CASE WHEN p.prokind <> 'a' THEN pg_get_functiondef(p.oid)
                   WHEN c.relkind = 'v' THEN format('CREATE VIEW %%s AS%%s', i.identity, pg_get_viewdef(c.oid)) ELSE '' END,
              needed.is_so
       FROM pg_depend e JOIN pg_extension x ON e.refclassid = 'pg_extension'::regclass AND x.oid = e.refobjid
       CROSS JOIN LATERAL pg_identify_object(e.classid, e.objid, 0) AS i
       JOIN pg_namespace n ON quote_ident(n.nspname) = i.schema AND n.oid <> x.extnamespace
       LEFT JOIN pg_proc p ON e.classid = 'pg_proc'::regclass AND p.oid = e.objid
       LEFT JOIN pg_class c ON e.classid = 'pg_class'::regclass AND c.oid = e.objid
       CROSS JOIN LATERAL (
         SELECT EXISTS (SELECT FROM unnest(%(classes)s::oid[], %(objects)s::oid[]) AS o (class, id)
                        JOIN pg_depend d ON d.classid = o.class AND d.objid = o.id
                        WHERE d.refclassid = e.classid AND d.refobjid = e.objid)) AS needed (is_so)
       WHERE e.deptype = 'e' AND NOT EXISTS (
           SELECT FROM pg_depend w WHERE w.classid = e.classid AND w.objid = e.objid AND w.deptype = 'i') AND (
           n.oid IN (SELECT relnamespace FROM pg_class WHERE oid = ANY (%(oids)s::oid[])) OR needed.is_so)
         AND NOT EXISTS (SELECT FROM pg_depend s WHERE s.classid = 'pg_namespace'::regclass AND s.objid = n.oid AND s.deptype = 'e')
       ORDER BY e.classid, e.objid"""
)
MISPLACED_MEMBERS = SQL(
    """SELECT DISTINCT pg_describe_object(d.refclassid, d.refobjid, 0), x.extname
       FROM unnest(%(classes)s::oid[], %(objects)s::oid[]) AS o (class, id)
       JOIN pg_depend d ON d.classid = o.class AND d.objid = o.id
       JOIN pg_depend e ON e.classid = d.refclassid AND e.objid = d.refobjid AND e.deptype = 'e'
       JOIN pg_extension x ON e.refclassid = 'pg_extension'::regclass AND x.oid = e.refobjid
       CROSS JOIN LATERAL pg_identify_object(d.refclassid, d.refobjid, 0) AS i
       JOIN pg_namespace n ON quote_ident(n.nspname) = i.schema AND n.oid <> x.extnamespace
       WHERE NOT EXISTS (SELECT FROM pg_depend s WHERE s.classid = 'pg_namespace'::regclass AND s.objid = n.oid AND s.deptype = 'e')
       ORDER BY 1"""
)

# Independent objects by kind and name, as operators write them.
OBJECTS_BY_NAME = SQL(
    """SELECT o.class::regclass::oid::bigint, o.oid::bigint, i.type, i.identity FROM (
         SELECT 'pg_proc' AS class, oid FROM pg_proc UNION ALL SELECT 'pg_type', oid FROM pg_type
         UNION ALL SELECT 'pg_class', oid FROM pg_class WHERE relkind IN ('v', 'S') UNION ALL SELECT 'pg_cast', oid FROM pg_cast
         UNION ALL SELECT 'pg_operator', oid FROM pg_operator UNION ALL SELECT 'pg_collation', oid FROM pg_collation
         UNION ALL SELECT 'pg_ts_config', oid FROM pg_ts_config UNION ALL SELECT 'pg_ts_dict', oid FROM pg_ts_dict
         UNION ALL SELECT 'pg_namespace', oid FROM pg_namespace UNION ALL SELECT 'pg_extension', oid FROM pg_extension
       ) AS o CROSS JOIN LATERAL pg_identify_object(o.class::regclass, o.oid, 0) AS i
       WHERE o.oid >= 16384 AND i.type = ANY (%(kinds)s)"""
)
