"""Statements about materialized views."""

from psycopg.sql import SQL, Composed, Identifier

from tasks.core.sql.source_path import under_source_path


@under_source_path
def refresh_view(schema: str, name: str, *, concurrently: bool = False) -> Composed:
    """Refresh a materialized view; concurrently, without blocking readers."""
    return SQL("REFRESH MATERIALIZED VIEW {}{}").format(SQL("CONCURRENTLY " if concurrently else ""), Identifier(schema, name))


# Additional and missing rows of every materialized view compared with its query, by its unique key.
# Rows are compared as text: some types have no equality (json, xml, point), and equal values may
# change (1.0, 1.00; Alpha, ALPHA).
STALE_VIEW_ROWS = SQL(
    """SELECT c.relname, format(
         'SELECT ''gone from its tables'' AS why%%1$s FROM (%%2$s EXCEPT ALL %%3$s) AS v UNION ALL '
         'SELECT ''not in it yet''%%1$s FROM (%%3$s EXCEPT ALL %%2$s) AS v',
         key.shown, format(row_text, key.columns, c.oid::regclass),
         format(row_text, key.columns, format('(%%s)', rtrim(pg_get_viewdef(c.oid), ';'))))
       FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
       CROSS JOIN (SELECT 'SELECT ROW(r.*)::pg_catalog.text COLLATE pg_catalog."C" AS "r: text"%%s FROM %%s AS r') AS t (row_text)
       CROSS JOIN LATERAL (
         SELECT coalesce(string_agg(format(', v.%%I', a.attname), '' ORDER BY a.attnum), ''),
                coalesce(string_agg(format(', r.%%I', a.attname), '' ORDER BY a.attnum), '') FROM pg_attribute a
         WHERE a.attrelid = c.oid AND a.attnum = ANY (
           (SELECT i.indkey::smallint[] FROM pg_index i WHERE i.indrelid = c.oid AND i.indisunique AND i.indpred IS NULL
              AND i.indexprs IS NULL ORDER BY i.indexrelid LIMIT 1)::smallint[])) AS key (shown, columns)
       WHERE n.nspname = %(schema)s AND c.relname = ANY (%(views)s) AND c.relkind = 'm' AND c.relispopulated ORDER BY 1"""
)

VIEW_OIDS = SQL(
    """SELECT c.oid::bigint FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
       WHERE n.nspname = %(schema)s AND c.relname = ANY (%(views)s) AND c.relkind = 'm'"""
)

WHY_NOT_CONCURRENTLY = SQL(
    """SELECT CASE WHEN NOT c.relispopulated THEN 'it was never populated'
                   WHEN NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid
                                    AND i.indimmediate AND i.indpred IS NULL AND 0 <> ALL (i.indkey::smallint[]))
                   THEN 'it has no unique index over all its rows' ELSE '' END
       FROM pg_class c WHERE c.oid = %(name)s::regclass"""
)
