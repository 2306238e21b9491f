"""Statements about foreign keys: which exist, whether rows violate them, and creating them."""

from collections.abc import Sequence

from psycopg.sql import SQL, Composed, Identifier, Literal

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
    """Lock tables that are to be filled, with their partitions, exclusively."""
    names = SQL(", ").join(Identifier(schema, table) for table in tables)
    return SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(names)


def comment_on_constraint(table: str, name: str, comment: str) -> Composed:
    """Set the comment of a constraint; table and name are quoted as needed."""
    return SQL("COMMENT ON CONSTRAINT {} ON {} IS {}").format(SQL(name), SQL(table), Literal(comment))


# Keys are named and defined as in the catalog or a manifest, quoted as needed.


def add_key(table: str, name: str, definition: str, *, proven: bool = True) -> SQL:
    """Create a foreign key; unproven, as NOT VALID."""
    return SQL(f"ALTER TABLE {table} ADD CONSTRAINT {name} {definition}{'' if proven else ' NOT VALID'}")


def drop_key(table: str, name: str) -> SQL:
    """Drop a foreign key."""
    return SQL(f"ALTER TABLE {table} DROP CONSTRAINT {name}")


def validate_key(table: str, name: str) -> SQL:
    """Validate a NOT VALID foreign key."""
    return SQL(f"ALTER TABLE {table} VALIDATE CONSTRAINT {name}")


# For each foreign key of the given relations, without inherited ones: the anti-join that finds
# violating rows.
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
# Of keys of other tables to these: which table, as SQL names it, and whether the key was ever
# proven.
INBOUND_KEY_ORPHANS = SQL(
    f"""SELECT k.conrelid::regclass::text, k.conname::text, k.convalidated, found.query
        FROM ({_ORPHANS.replace("<which>", "k.confrelid = ANY (%(oids)s::oid[]) AND k.conrelid <> ALL (%(oids)s::oid[])")})
          AS found (oid, table_name, key_name, query) JOIN pg_constraint k ON k.oid = found.oid ORDER BY 1, 2"""  # noqa: S608
)
FOREIGN_KEY_ORPHANS = SQL(_ORPHANS.replace("<which>", "k.conrelid = ANY (%(oids)s::oid[])"))
ORPHANS_OF_KEY = SQL(_ORPHANS.replace("<which>", "k.conrelid = %(table)s::regclass AND k.conname = (parse_ident(%(name)s))[1]"))

LEAVES = SQL(
    """WITH RECURSIVE member (oid) AS (
         SELECT %(table)s::regclass::oid UNION SELECT i.inhrelid FROM pg_inherits i JOIN member m ON i.inhparent = m.oid
         WHERE EXISTS (SELECT FROM pg_class c WHERE c.oid = m.oid AND c.relkind = 'p'))
       SELECT c.oid::regclass::text FROM member m JOIN pg_class c ON c.oid = m.oid WHERE c.relkind = 'r' ORDER BY 1"""
)
