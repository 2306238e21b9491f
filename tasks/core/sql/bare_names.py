"""Objects that PostgreSQL 17 and later cannot compute, because code for them uses bare names.

Indexes are built, ANALYZE runs and materialized views are refreshed with the search_path
`pg_catalog, pg_temp` (https://www.postgresql.org/docs/17/release-17.html), in which a function
finds its names only if they are qualified or it sets its own search_path. Bodies are read as text:
pg_depend does not have them.
"""

from psycopg.sql import SQL

# Unqualified words of a body: called, read from or written to, cast to.
_CALLED = r"(?<![\w$.\"])([a-z_][\w$]*)\s*\("
_READ = r"\m(?:from|join|into|update)\s+(?:only\s+)?([a-z_][\w$]*)(?![\w$.(\"])"
_CAST = r"::\s*([a-z_][\w$]*)(?![\w$.\"])"
_ANY_CALL = r"([a-z_][\w$]*)\s*\("


def _words(pattern: str) -> str:
    return f"regexp_matches(lower(b.body), '{pattern}', 'g') AS matched (words) CROSS JOIN LATERAL (SELECT words[1] AS name) AS w"


_BARE = f"""
SELECT b.class, b.oid, w.name FROM body b CROSS JOIN LATERAL {_words(_CALLED)}
WHERE EXISTS (SELECT FROM pg_proc p WHERE p.proname = w.name AND p.oid >= 16384)
  AND NOT EXISTS (SELECT FROM pg_proc p WHERE p.proname = w.name AND p.pronamespace = 'pg_catalog'::regnamespace)
UNION SELECT b.class, b.oid, w.name FROM body b CROSS JOIN LATERAL {_words(_READ)}
WHERE EXISTS (SELECT FROM pg_class c WHERE c.relname = w.name AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND c.oid >= 16384)
  AND NOT EXISTS (SELECT FROM pg_class c WHERE c.relname = w.name AND c.relnamespace = 'pg_catalog'::regnamespace)
UNION SELECT b.class, b.oid, w.name FROM body b CROSS JOIN LATERAL {_words(_CAST)}
WHERE EXISTS (SELECT FROM pg_type t WHERE t.typname = w.name AND t.oid >= 16384)
  AND NOT EXISTS (SELECT FROM pg_type t WHERE t.typname = w.name AND t.typnamespace = 'pg_catalog'::regnamespace)"""  # noqa: S608

# Returns for each object to fix: kind, name, its bare name, what is computed of it. A function's
# search_path also holds for what it calls, so only outermost functions are listed; a view itself if
# its text has a quoted query.
_CALLED_BARE = rf"""WITH RECURSIVE body (class, oid, body) AS MATERIALIZED (
           SELECT 'function', p.oid, regexp_replace(p.prosrc, '--[^\n]*|/\*.*?\*/', ' ', 'g') FROM pg_proc p
           JOIN pg_language l ON l.oid = p.prolang
           WHERE p.oid >= 16384 AND l.lanname NOT IN ('c', 'internal') AND p.prosqlbody IS NULL
             AND NOT EXISTS (SELECT FROM unnest(p.proconfig) AS setting WHERE starts_with(setting, 'search_path='))
             AND NOT EXISTS (SELECT FROM pg_depend d
                             WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype IN ('e', 'i'))
           UNION ALL SELECT 'view', c.oid, pg_get_viewdef(c.oid) FROM pg_class c
           WHERE c.oid = ANY (%(relations)s::oid[]) AND c.relkind = 'm'
             AND pg_get_viewdef(c.oid) ~ '\m(ts_stat|ts_rewrite|query_to_xml\w*|cursor_to_xml\w*)\('),
         bare AS MATERIALIZED ({_BARE}),
         -- Views below a materialized one are computed with it.
         reads (view, relation) AS (
           SELECT c.oid, c.oid FROM pg_class c WHERE c.oid = ANY (%(relations)s::oid[]) AND c.relkind = 'm'
           UNION SELECT s.view, d.refobjid FROM reads s JOIN pg_rewrite r ON r.ev_class = s.relation
           JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid AND d.refclassid = 'pg_class'::regclass
           JOIN pg_class c ON c.oid = d.refobjid AND c.relkind = 'v'),
         computed (kind, name, class, oid) AS (
           SELECT 'index', i.indexrelid::regclass::text, 'pg_class'::regclass, i.indexrelid FROM pg_index i
           WHERE i.indrelid = ANY (%(relations)s::oid[])
             -- Those of partitions are computed as that of the whole.
             AND NOT EXISTS (SELECT FROM pg_inherits h WHERE h.inhrelid = i.indexrelid)
           UNION ALL SELECT 'statistics', format('%%I.%%I', n.nspname, s.stxname), 'pg_statistic_ext'::regclass, s.oid
           FROM pg_statistic_ext s JOIN pg_namespace n ON n.oid = s.stxnamespace WHERE s.stxrelid = ANY (%(relations)s::oid[])
           UNION ALL SELECT 'materialized view', s.view::regclass::text, 'pg_rewrite'::regclass, r.oid
           FROM reads s JOIN pg_rewrite r ON r.ev_class = s.relation),
         used (kind, name, function) AS (
           SELECT c.kind, c.name, coalesce(o.oprcode::oid, d.refobjid) FROM computed c
           JOIN pg_depend d ON d.classid = c.class AND d.objid = c.oid
             AND d.refclassid IN ('pg_proc'::regclass, 'pg_operator'::regclass)
           LEFT JOIN pg_operator o ON d.refclassid = 'pg_operator'::regclass AND o.oid = d.refobjid),
         reaches (top, function) AS (
           SELECT DISTINCT u.function, u.function FROM used u JOIN body b ON b.class = 'function' AND b.oid = u.function
           UNION SELECT r.top, p.oid FROM reaches r JOIN body b ON b.class = 'function' AND b.oid = r.function
           CROSS JOIN LATERAL regexp_matches(lower(b.body), '{_ANY_CALL}', 'g') AS matched (words)
           JOIN pg_proc p ON p.proname = matched.words[1] JOIN body below ON below.class = 'function' AND below.oid = p.oid)
         SELECT 'function', r.top::regprocedure::text,
                (SELECT string_agg(DISTINCT b.name, ', ' ORDER BY b.name) FROM reaches also
                 JOIN bare b ON b.class = 'function' AND b.oid = also.function WHERE also.top = r.top),
                (SELECT string_agg(DISTINCT concat_ws(' ', u.kind, u.name), ', ') FROM used u WHERE u.function = r.top)
         FROM reaches r JOIN bare b ON b.class = 'function' AND b.oid = r.function GROUP BY r.top
         UNION ALL SELECT 'view', b.oid::regclass::text, string_agg(DISTINCT b.name, ', ' ORDER BY b.name), '' FROM bare b
         WHERE b.class = 'view' GROUP BY b.oid ORDER BY 1, 2"""  # noqa: S608
CALLED_BARE = SQL(_CALLED_BARE)
