"""Statements about large objects: columns that name them, their content, and creating them.

What a large object holds are rows of pg_largeobject, one a page, each with the transaction that
wrote it. Who has pg_read_all_data reads them as rows, whatever the privileges of each object, which
bind lo_get() alone (https://www.postgresql.org/docs/current/predefined-roles.html,
https://www.postgresql.org/docs/current/catalog-pg-largeobject.html).
"""

from collections.abc import Sequence

from psycopg.sql import SQL, Composed, Identifier, Literal

from tasks.core.sql.rows import is_old

# Columns of type oid, domains over it (lo) and arrays of them; and those that contain an oid in a
# composite value.
REFERENCE_COLUMNS = SQL(
    """WITH RECURSIVE part (relation, number, name, type, whole) AS (
         SELECT attrelid, attnum, attname, atttypid, true FROM pg_attribute
         WHERE attrelid = ANY (%(oids)s::oid[]) AND attnum > 0 AND NOT attisdropped AND attgenerated = ''
         UNION SELECT p.relation, p.number, p.name, inner_part.type, p.whole AND inner_part.whole
         FROM part p JOIN pg_type t ON t.oid = p.type CROSS JOIN LATERAL (
           SELECT unnest(ARRAY[t.typelem, t.typbasetype]), true
           UNION ALL SELECT r.rngsubtype, false FROM pg_range r WHERE t.oid IN (r.rngtypid, r.rngmultitypid)
           UNION ALL SELECT a.atttypid, false FROM pg_attribute a WHERE a.attrelid = t.typrelid AND a.attnum > 0
             AND NOT a.attisdropped) AS inner_part (type, whole) WHERE inner_part.type <> 0)
       SELECT relation::bigint, coalesce(array_agg(name::text ORDER BY number) FILTER (WHERE whole), '{}'),
              coalesce(array_agg(name::text ORDER BY number) FILTER (WHERE NOT whole), '{}')
       FROM part WHERE type = 'oid'::regtype GROUP BY relation"""
)
MAY_READ = SQL("SELECT has_table_privilege('pg_catalog.pg_largeobject', 'SELECT')")
MAY_READ_ANYWHERE = SQL("SELECT rolsuper OR pg_has_role('pg_read_all_data', 'USAGE') FROM pg_roles WHERE rolname = current_user")
ARE_THERE = SQL("SELECT EXISTS (SELECT FROM pg_largeobject_metadata)")

# Without an ACL (NULL) an object is accessible only to its owner.
FACTS = SQL(
    """SELECT m.oid::bigint AS oid, pg_get_userbyid(m.lomowner) AS owner, obj_description(m.oid, 'pg_largeobject') AS comment,
              CASE WHEN m.lomacl IS NOT NULL THEN coalesce((
                SELECT json_agg(json_build_object('role', role, 'privilege', privilege, 'grantable', grantable)
                                ORDER BY role NULLS FIRST, privilege)
                FROM (SELECT CASE WHEN x.grantee <> 0 THEN pg_get_userbyid(x.grantee) END, x.privilege_type, bool_or(x.is_grantable)
                      FROM aclexplode(m.lomacl) x GROUP BY 1, 2) AS granted (role, privilege, grantable)), '[]') END AS grants
       FROM pg_largeobject_metadata m WHERE m.oid = ANY (%(oids)s::oid[]) ORDER BY m.oid"""
)

# The index has the pages in order: the server need not sort on disk.
BY_INDEX = SQL(
    "SELECT set_config(name, 'off', false) FROM unnest('{enable_seqscan,enable_bitmapscan,enable_sort}'::text[]) AS name"
)


def copy_pages_out(oids: Sequence[int]) -> Composed:
    """COPY objects' pages out, by object: oid, first byte, content; none for holes."""
    return SQL(
        """COPY (SELECT p.* FROM unnest({}::oid[]) AS wanted (oid) CROSS JOIN LATERAL (
             SELECT loid, pageno::bigint * (current_setting('block_size')::bigint / 4), data FROM pg_largeobject
             WHERE loid = wanted.oid ORDER BY pageno) AS p) TO STDOUT"""
    ).format(Literal(list(oids)))


def count_pages(oids: Sequence[int], since: int) -> Composed:
    """Count each object's pages, and those written before a transaction (a full transaction id)."""
    return SQL(
        "SELECT loid::bigint, count(*), count(*) FILTER (WHERE {}) FROM pg_largeobject WHERE loid = ANY ({}::oid[]) GROUP BY loid"
    ).format(is_old(since), Literal(list(oids)))


def act_as(role: str | None) -> Composed:
    """Act as a role, which then owns what is created, until the transaction ends; no code runs."""
    return SQL("SET LOCAL ROLE {}").format(Identifier(role) if role else SQL("NONE"))


CREATE = SQL("SELECT lo_create(oid) FROM unnest(%(oids)s::oid[]) AS oid")
PUT = SQL(
    "SELECT lo_put(p.oid, p.first, p.data) FROM unnest(%(oids)s::oid[], %(firsts)s::bigint[], "
    "%(contents)s::bytea[]) AS p (oid, first, data)"
)
# Writes an empty page, as lo_truncate leaves at a page boundary; 131072 is INV_WRITE.
CUT = SQL("SELECT lo_truncate64(lo_open(%(oid)s::oid, 131072), %(first)s)")
UNLINK = SQL("SELECT lo_unlink(oid) FROM pg_largeobject_metadata WHERE oid = ANY (%(oids)s::oid[])")


def revoke_all(oid: int, role: str) -> Composed:
    """Revoke an owner's implicit privileges on an object."""
    return SQL("REVOKE ALL ON LARGE OBJECT {} FROM {}").format(Literal(oid), Identifier(role))


def grant(oid: int, privilege: str, role: str | None, *, grantable: bool) -> Composed:
    """Grant a privilege on an object to a role, or to PUBLIC."""
    to, option = Identifier(role) if role else SQL("PUBLIC"), SQL(" WITH GRANT OPTION" if grantable else "")
    return SQL("GRANT {} ON LARGE OBJECT {} TO {}{}").format(SQL(privilege), Literal(oid), to, option)


def comment_on(oid: int, comment: str) -> Composed:
    """Comment on an object."""
    return SQL("COMMENT ON LARGE OBJECT {} IS {}").format(Literal(oid), Literal(comment))


def let_read(login: str) -> Composed:
    """Let a login read every large object, and every table."""
    return SQL("GRANT pg_read_all_data TO {}").format(Identifier(login))


def give(oids: Sequence[int], role: str) -> Composed:
    """Give objects to a role, as a statement to be run by hand."""
    return SQL(
        "DO $$ DECLARE large_object oid; BEGIN FOREACH large_object IN ARRAY {}::oid[] LOOP "
        "EXECUTE format('ALTER LARGE OBJECT %s OWNER TO %I', large_object, {}); END LOOP; END $$;"
    ).format(Literal(list(oids)), Literal(role))
