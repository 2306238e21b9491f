"""Statements about logins: their rights, and those created for one run."""

from psycopg.sql import SQL, Composed, Identifier, Literal

# Rights of a login beyond those of some roles: attributes, or roles that it is a member of,
# directly or not. A login that is one of the roles has that role's rights.
BEYOND = SQL(
    """WITH RECURSIVE held (oid) AS (
         SELECT oid FROM pg_roles WHERE rolname = session_user
         UNION SELECT m.roleid FROM pg_auth_members m JOIN held h ON m.member = h.oid),
       allowed (oid) AS (
         SELECT oid FROM pg_roles WHERE rolname = ANY (%(owners)s)
         UNION SELECT m.roleid FROM pg_auth_members m JOIN allowed a ON m.member = a.oid)
       SELECT attribute FROM pg_roles r CROSS JOIN LATERAL (VALUES
         ('SUPERUSER', r.rolsuper), ('CREATEDB', r.rolcreatedb), ('CREATEROLE', r.rolcreaterole), ('BYPASSRLS', r.rolbypassrls),
         ('REPLICATION', r.rolreplication)) AS attributes (attribute, has)
       WHERE r.rolname = session_user AND has AND r.rolname <> ALL (%(owners)s)
       UNION ALL SELECT * FROM (
         SELECT concat('member of ', r.rolname) FROM held h JOIN pg_roles r ON r.oid = h.oid
         WHERE r.rolname <> session_user AND NOT EXISTS (SELECT FROM allowed a WHERE a.oid = h.oid) ORDER BY 1) AS memberships"""
)
# Roles that a login may not act as, and create objects for.
NOT_MEMBER = SQL(
    """SELECT rolname FROM pg_roles WHERE rolname = ANY (%(owners)s)
       AND NOT (pg_has_role(session_user, oid, 'USAGE') AND pg_has_role(session_user, oid, 'MEMBER')) ORDER BY 1"""
)
NOT_MEMBER_16 = SQL(
    """SELECT rolname FROM pg_roles WHERE rolname = ANY (%(owners)s)
       AND NOT (pg_has_role(session_user, oid, 'USAGE') AND pg_has_role(session_user, oid, 'SET')) ORDER BY 1"""
)
ROLES_THERE = SQL("SELECT rolname, rolsuper FROM pg_roles WHERE rolname = ANY (%(names)s) ORDER BY 1")
# Whether a login may create roles, and grant existing ones. Before 16 CREATEROLE alone allows both.
MAY_GRANT = SQL(
    """SELECT rolsuper OR rolcreaterole AND (current_setting('server_version_num')::int < 160000 OR NOT EXISTS (
         SELECT FROM pg_roles o WHERE o.rolname = ANY (%(owners)s) AND NOT pg_has_role(o.oid, 'MEMBER WITH ADMIN OPTION')))
       FROM pg_roles WHERE rolname = session_user"""
)
IS_SUPERUSER = SQL("SELECT rolsuper FROM pg_roles WHERE rolname = session_user")
HAS_ROLE = SQL("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = %(name)s)")
MAY_CREATE_ROLES = SQL("SELECT rolsuper OR rolcreaterole FROM pg_roles WHERE rolname = session_user")
MAY_CREATE_DATABASES = SQL("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = %(name)s AND rolcreatedb AND rolcanlogin)")
# Schemas and extensions that a database lacks and this login may not create there.
CANNOT_BE_MADE = SQL(
    """SELECT * FROM (
         SELECT 'schema', name FROM unnest(%(schemas)s::text[]) AS name
         WHERE NOT EXISTS (SELECT FROM pg_namespace WHERE nspname = name)
           AND NOT has_database_privilege(current_database(), 'CREATE')
         UNION ALL SELECT 'extension', wanted FROM unnest(%(extensions)s::text[]) AS wanted
         WHERE NOT EXISTS (SELECT FROM pg_extension WHERE extname = wanted)
           AND NOT current_setting('is_superuser')::boolean
           AND NOT (has_database_privilege(current_database(), 'CREATE') AND EXISTS (
             SELECT FROM pg_available_extension_versions v WHERE v.name = wanted AND v.trusted))) AS missing (kind, name)
       ORDER BY 1 DESC, 2"""
)
# The roles that own objects, by class and oid.
OWNERS = SQL(
    """SELECT DISTINCT pg_get_userbyid(owner) FROM (
         SELECT relowner AS owner FROM pg_class WHERE oid = ANY (%(relations)s::oid[])
         UNION SELECT proowner FROM pg_proc p WHERE p.oid = ANY (%(functions)s::oid[]) AND NOT EXISTS (
           SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype IN ('i', 'e'))
         UNION SELECT typowner FROM pg_type t WHERE t.oid = ANY (%(types)s::oid[]) AND NOT EXISTS (
           SELECT FROM pg_depend d WHERE d.classid = 'pg_type'::regclass AND d.objid = t.oid AND d.deptype IN ('i', 'e'))) AS owned
       ORDER BY 1"""
)
# The owner of a schema; the database's owner if the schema is missing, or belongs to
# pg_database_owner.
OWNER_OF_SCHEMA = SQL(
    """SELECT pg_get_userbyid(CASE WHEN n.oid IS NULL OR n.nspowner = to_regrole('pg_database_owner') THEN d.datdba
                                ELSE n.nspowner END)
       FROM pg_database d LEFT JOIN pg_namespace n ON n.nspname = %(schema)s WHERE d.datname = current_database()"""
)

# Whether planning a query of a relation runs its owner's code: the planner evaluates constant
# expressions of indexes, statistics and partition keys (eval_const_expressions in plancat.c,
# relcache.c), and of checks only for a WHERE, which our queries do not have. COPY of a table plans
# nothing.
CODE_WHEN_PLANNED = SQL(
    """WITH RECURSIVE below (oid) AS (
         SELECT %(name)s::regclass::oid UNION SELECT i.inhrelid FROM pg_inherits i JOIN below b ON b.oid = i.inhparent),
       planned (oid) AS (SELECT oid FROM below UNION SELECT relid FROM pg_partition_ancestors(%(name)s::regclass))
       SELECT EXISTS (
         SELECT FROM pg_depend d WHERE d.refclassid IN ('pg_proc'::regclass, 'pg_operator'::regclass) AND (
           d.classid = 'pg_class'::regclass AND d.objid IN (
             SELECT oid FROM planned UNION SELECT i.indexrelid FROM pg_index i JOIN planned p ON p.oid = i.indrelid)
           OR d.classid = 'pg_statistic_ext'::regclass AND d.objid IN (
             SELECT s.oid FROM pg_statistic_ext s JOIN planned p ON p.oid = s.stxrelid)))"""
)
IS_EMPTY_ON_DISK = SQL(
    """WITH RECURSIVE below (oid) AS (
         SELECT %(name)s::regclass::oid UNION SELECT i.inhrelid FROM pg_inherits i JOIN below b ON b.oid = i.inhparent)
       SELECT sum(pg_relation_size(oid::regclass)) = 0 FROM below"""
)


def view_of_check(query: str) -> Composed:
    """Create a view of a check's query: it is parsed and shows its references, but never runs."""
    return SQL("CREATE TEMP VIEW check_read AS SELECT count(*) AS rows FROM (\n{}\n) AS offending").format(SQL(query))


# Objects that a query uses, except PostgreSQL's own and plain columns of tables.
CODE_OF_CHECK = SQL(
    """SELECT DISTINCT pg_describe_object(d.refclassid, d.refobjid, d.refobjsubid) FROM pg_rewrite r
       JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
       LEFT JOIN pg_class c ON d.refclassid = 'pg_class'::regclass AND c.oid = d.refobjid
       LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = d.refobjsubid
       LEFT JOIN pg_type t ON d.refclassid = 'pg_type'::regclass AND t.oid = d.refobjid
       WHERE r.ev_class = 'pg_temp.check_read'::regclass AND c.oid IS DISTINCT FROM r.ev_class
         -- A query that groups by a primary key depends on it, which runs nothing.
         AND d.refclassid <> 'pg_constraint'::regclass AND CASE
         WHEN c.oid IS NOT NULL THEN c.relkind NOT IN ('r', 'p', 'm') OR a.attgenerated = 'v'
         WHEN t.oid IS NOT NULL THEN t.typtype NOT IN ('b', 'e') ELSE true END
       ORDER BY 1"""
)
RELATIONS_OF_CHECK = SQL(
    """SELECT DISTINCT format('%%I.%%I', n.nspname, c.relname), has_table_privilege(%(login)s, c.oid, 'SELECT')
       FROM pg_rewrite r
       JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid AND d.refclassid = 'pg_class'::regclass
       JOIN pg_class c ON c.oid = d.refobjid JOIN pg_namespace n ON n.oid = c.relnamespace
       WHERE r.ev_class = 'pg_temp.check_read'::regclass AND c.oid <> r.ev_class ORDER BY 1"""
)
MAY_USE_TEMPORARY = SQL("SELECT has_database_privilege(current_database(), 'TEMPORARY')")


BE_ONESELF = SQL("SET LOCAL ROLE none")


def become(role: str) -> Composed:
    """Act as a role for the rest of the transaction."""
    return SQL("SET LOCAL ROLE {}").format(Identifier(role))


def give_table(schema: str, name: str, owner: str) -> Composed:
    """Give a table to another owner."""
    return SQL("ALTER TABLE {} OWNER TO {}").format(Identifier(schema, name), Identifier(owner))


# Tables with forced row-level security, which would hide rows from a comparison.
FORCED = SQL(
    """SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
       WHERE c.relforcerowsecurity AND (%(oids)s::oid[] IS NULL OR c.oid = ANY (%(oids)s::oid[])) ORDER BY 1, 2"""
)


def force_row_security(schema: str, name: str, *, forced: bool) -> Composed:
    """Set or lift FORCE ROW LEVEL SECURITY."""
    return SQL("ALTER TABLE {} {}FORCE ROW LEVEL SECURITY").format(Identifier(schema, name), SQL("" if forced else "NO "))


LIFETIME_HOURS = 48
# Logins created by runs, each with a lock for as long as its run lives.
OF_RUNS = SQL("SELECT rolname FROM pg_roles WHERE rolname ~ '^backup_loader_[0-9a-f]{4}_[0-9a-f]{8}$' ORDER BY 1")
LOCK = SQL("SELECT pg_advisory_lock(%(space)s, %(key)s)")
TRY_LOCK = SQL("SELECT pg_try_advisory_lock(%(space)s, %(key)s)")
UNLOCK = SQL("SELECT pg_advisory_unlock(%(space)s, %(key)s)")
VALID_UNTIL = SQL("SELECT (now() + make_interval(hours => %(hours)s))::text")


def create_login(name: str, verifier: str, until: str) -> Composed:
    """Create a login without rights, valid until a timestamp, with a SCRAM verifier as password."""
    return SQL(
        "CREATE ROLE {} LOGIN INHERIT NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS PASSWORD {} VALID UNTIL {}"
    ).format(Identifier(name), Literal(verifier), Literal(until))


def grant_role(role: str, member: str, major: int) -> Composed:
    """Grant a role to a login that acts and creates objects for it."""
    options = SQL(" WITH INHERIT TRUE, SET TRUE") if major >= 16 else SQL("")
    return SQL("GRANT {} TO {}{}").format(Identifier(role), Identifier(member), options)


def drop_login(name: str) -> Composed:
    """Drop a login."""
    return SQL("DROP ROLE IF EXISTS {}").format(Identifier(name))


def take_over(login: str) -> Composed:
    """Take over what a login owns in this database."""
    return SQL("REASSIGN OWNED BY {} TO CURRENT_USER").format(Identifier(login))


def end_sessions_of(login: str) -> Composed:
    """Terminate the sessions of a login."""
    return SQL("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = {}").format(Literal(login))


# Terminates this login's sessions in a database, whoever owns it.
END_OWN_SESSIONS = SQL(
    """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
       WHERE usename = session_user AND datname = %(name)s AND pid <> pg_backend_pid()"""
)
