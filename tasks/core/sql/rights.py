"""Privileges that a merge into a live database needs and a login lacks.

Each query returns an object, the privilege, and the GRANT to the tables' owner, for whom the login
acts.
"""

from psycopg.sql import SQL

# To read and stage rows.
READING = SQL(
    """SELECT DISTINCT * FROM (
         SELECT format('schema %%I', n.nspname), 'USAGE',
                format('GRANT USAGE ON SCHEMA %%I TO %%I;', n.nspname, pg_get_userbyid(c.relowner))
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE c.oid = ANY (%(oids)s::oid[]) AND NOT has_schema_privilege(n.oid, 'USAGE')
         UNION ALL SELECT format('table %%I.%%I', n.nspname, c.relname), 'SELECT',
                          format('GRANT SELECT ON %%I.%%I TO %%I;', n.nspname, c.relname, pg_get_userbyid(c.relowner))
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE c.oid = ANY (%(oids)s::oid[]) AND NOT has_table_privilege(c.oid, 'SELECT')
         UNION ALL SELECT format('type %%s', t.oid::regtype), 'USAGE',
                          format('GRANT USAGE ON TYPE %%s TO %%I;', t.oid::regtype, pg_get_userbyid(c.relowner))
         FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
         JOIN pg_type own ON own.oid = a.atttypid
         JOIN pg_type t ON t.oid = CASE WHEN own.typcategory = 'A' AND own.typelem <> 0 THEN own.typelem ELSE own.oid END
         WHERE c.oid = ANY (%(oids)s::oid[]) AND NOT has_type_privilege(t.oid, 'USAGE')) AS lacking (object, privilege, remedy)
       ORDER BY 1"""
)
# One of several privileges on tables, the first of which is granted.
ON_TABLES = SQL(
    """SELECT DISTINCT format('table %%I.%%I', n.nspname, c.relname), wanted.granted,
              format('GRANT %%s ON %%I.%%I TO %%I;', wanted.granted, n.nspname, c.relname, pg_get_userbyid(c.relowner))
       FROM unnest(%(oids)s::oid[], %(asked)s::text[], %(granted)s::text[]) AS wanted (oid, asked, granted)
       JOIN pg_class c ON c.oid = wanted.oid JOIN pg_namespace n ON n.oid = c.relnamespace
       WHERE NOT has_table_privilege(c.oid, wanted.asked) ORDER BY 1, 2"""
)
# EXECUTE on functions that indexes, checks and generated columns call for written rows.
CALLED_BY_ROWS = SQL(
    """WITH called (function, relation) AS (
         SELECT d.refobjid, i.indrelid FROM pg_depend d
         JOIN pg_index i ON d.classid = 'pg_class'::regclass AND i.indexrelid = d.objid
         WHERE d.refclassid = 'pg_proc'::regclass
         UNION SELECT d.refobjid, k.conrelid FROM pg_depend d
         JOIN pg_constraint k ON d.classid = 'pg_constraint'::regclass AND k.oid = d.objid AND k.contype = 'c'
         WHERE d.refclassid = 'pg_proc'::regclass
         UNION SELECT d.refobjid, a.attrelid FROM pg_depend d
         JOIN pg_constraint k ON d.classid = 'pg_constraint'::regclass AND k.oid = d.objid AND k.contypid <> 0
         JOIN pg_attribute a ON a.atttypid = k.contypid WHERE d.refclassid = 'pg_proc'::regclass
         UNION SELECT d.refobjid, f.adrelid FROM pg_depend d
         JOIN pg_attrdef f ON d.classid = 'pg_attrdef'::regclass AND f.oid = d.objid
         JOIN pg_attribute a ON a.attrelid = f.adrelid AND a.attnum = f.adnum AND a.attgenerated <> ''
         WHERE d.refclassid = 'pg_proc'::regclass)
       SELECT DISTINCT format('function %%s', function::regprocedure), 'EXECUTE',
              format('GRANT EXECUTE ON FUNCTION %%s TO %%I;', function::regprocedure, pg_get_userbyid(c.relowner))
       FROM called JOIN pg_class c ON c.oid = called.relation
       WHERE c.oid = ANY (%(oids)s::oid[]) AND NOT has_function_privilege(function, 'EXECUTE') ORDER BY 1"""
)
# EXECUTE on functions of triggers to create, each with its table.
CALLED_BY_TRIGGERS = SQL(
    """SELECT DISTINCT format('function %%s', p.oid::regprocedure), 'EXECUTE',
              format('GRANT EXECUTE ON FUNCTION %%s TO %%I;', p.oid::regprocedure, pg_get_userbyid(c.relowner))
       FROM unnest(%(functions)s::text[], %(tables)s::text[]) AS wanted (function, relation)
       JOIN pg_proc p ON p.oid::regprocedure::text = wanted.function JOIN pg_class c ON c.oid::regclass::text = wanted.relation
       WHERE NOT has_function_privilege(p.oid, 'EXECUTE') ORDER BY 1"""
)
# To advance sequences.
# To read the positions of sequences, which may belong to somebody else than the tables.
READING_SEQUENCES = SQL(
    """SELECT format('sequence %%I.%%I', n.nspname, c.relname), 'SELECT, UPDATE',
              format('GRANT SELECT, UPDATE ON SEQUENCE %%I.%%I TO %%I;', n.nspname, c.relname,
                     CASE WHEN pg_has_role(c.relowner, 'USAGE') THEN pg_get_userbyid(c.relowner) ELSE session_user END)
       FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
       WHERE c.oid = ANY (%(oids)s::oid[]) AND CASE WHEN c.relkind = 'S' THEN NOT has_sequence_privilege(c.oid, 'SELECT') END
       ORDER BY 1"""
)
ON_SEQUENCES = SQL(
    """SELECT format('sequence %%I.%%I', n.nspname, c.relname), 'UPDATE',
              format('GRANT UPDATE ON SEQUENCE %%I.%%I TO %%I;', n.nspname, c.relname,
                     CASE WHEN pg_has_role(c.relowner, 'USAGE') THEN pg_get_userbyid(c.relowner) ELSE session_user END)
       FROM unnest(%(schemas)s::text[], %(names)s::text[]) AS wanted (schema, name)
       JOIN pg_namespace n ON n.nspname = wanted.schema
       JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = wanted.name
       -- Restricted to sequences, whatever the plan's order: for others it is an error.
       WHERE CASE WHEN c.relkind = 'S' THEN NOT has_sequence_privilege(c.oid, 'UPDATE') END ORDER BY 1"""
)
# To alter or refresh what is not part of a table, which needs the owner's rights.
OWNED_BY_OTHERS = SQL(
    """SELECT DISTINCT kind || ' ' || name, 'ownership', format('GRANT %%I TO %%I;', pg_get_userbyid(owner), session_user)
       FROM (SELECT 'function', oid::regprocedure::text, proowner FROM pg_proc
             UNION ALL SELECT 'relation', oid::regclass::text, relowner FROM pg_class WHERE relkind IN ('v', 'm', 'S')
             UNION ALL SELECT 'schema', quote_ident(nspname), nspowner FROM pg_namespace) AS objects (kind, name, owner)
       WHERE name = ANY (%(names)s::text[]) AND NOT pg_has_role(owner, 'USAGE') ORDER BY 1"""
)
# What materialized views read and call, and use when refreshed concurrently: their owners may lack
# it.
READ_BY_VIEWS = SQL(
    """WITH read (owner, class, oid) AS (
         SELECT DISTINCT v.relowner, d.refclassid, d.refobjid FROM pg_class v JOIN pg_rewrite r ON r.ev_class = v.oid
         JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid AND d.refobjid <> v.oid
         WHERE v.oid::regclass::text = ANY (%(names)s::text[]))
       SELECT format('table %%I.%%I', n.nspname, c.relname), 'SELECT',
              format('GRANT SELECT ON %%I.%%I TO %%I;', n.nspname, c.relname, pg_get_userbyid(owner))
       FROM read JOIN pg_class c ON class = 'pg_class'::regclass AND c.oid = read.oid AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
       JOIN pg_namespace n ON n.oid = c.relnamespace WHERE NOT has_any_column_privilege(owner, c.oid, 'SELECT')
       UNION SELECT format('schema %%I', n.nspname), 'USAGE',
                    format('GRANT USAGE ON SCHEMA %%I TO %%I;', n.nspname, pg_get_userbyid(owner))
       FROM read JOIN pg_class c ON class = 'pg_class'::regclass AND c.oid = read.oid
       JOIN pg_namespace n ON n.oid = c.relnamespace WHERE NOT has_schema_privilege(owner, n.oid, 'USAGE')
       UNION SELECT format('database %%I', current_database()), 'TEMPORARY',
                    format('GRANT TEMPORARY ON DATABASE %%I TO %%I;', current_database(), pg_get_userbyid(v.relowner))
       FROM pg_class v WHERE v.oid::regclass::text = ANY (%(names)s::text[])
         AND EXISTS (SELECT FROM pg_index i WHERE i.indrelid = v.oid AND i.indisunique)
         AND NOT has_database_privilege(v.relowner, current_database(), 'TEMPORARY')
       UNION SELECT format('function %%s', read.oid::regprocedure), 'EXECUTE',
                        format('GRANT EXECUTE ON FUNCTION %%s TO %%I;', read.oid::regprocedure, pg_get_userbyid(owner))
       FROM read WHERE class = 'pg_proc'::regclass AND NOT has_function_privilege(owner, read.oid, 'EXECUTE') ORDER BY 1"""
)
# Tables' columns that a key may not refer to: table, and the GRANT to a role.
NO_REFERENCES = SQL(
    """SELECT c.oid::regclass::text, format('GRANT REFERENCES (%%I) ON %%s TO %%I;', a.attname, c.oid::regclass, %(role)s::text)
       FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
       WHERE c.oid::regclass::text = %(table)s AND a.attname = ANY (%(columns)s)
         AND NOT has_column_privilege(c.oid, a.attnum, 'REFERENCES')
       UNION ALL SELECT c.oid::regclass::text, format('GRANT USAGE ON SCHEMA %%I TO %%I;', n.nspname, %(role)s::text)
       FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
       WHERE c.oid::regclass::text = %(table)s AND NOT has_schema_privilege(n.oid, 'USAGE')"""
)
# CREATE on schemas, with the GRANT.
CREATING = SQL(
    """SELECT DISTINCT format('schema %%I', n.nspname), 'CREATE', format('GRANT CREATE ON SCHEMA %%I TO %%I;', n.nspname, r.rolname)
       FROM unnest(%(schemas)s::text[], %(roles)s::text[]) AS asked (schema, role)
       JOIN pg_namespace n ON n.nspname = asked.schema JOIN pg_roles r ON r.rolname = asked.role
       WHERE NOT has_schema_privilege(r.oid, n.oid, 'CREATE') ORDER BY 1, 3"""
)
