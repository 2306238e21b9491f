"""Statements about databases, and about roles that a restore creates for them."""

import re
from collections.abc import Sequence

from psycopg.sql import SQL, Composed, Identifier, Literal

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
DATABASE_EXISTS = SQL("SELECT EXISTS (SELECT FROM pg_database WHERE datname = %(name)s)")
# By name as well: a database renamed by hand may be in use, whatever its comment says.
MARKED_DATABASES = SQL(
    """SELECT d.datname, shobj_description(d.oid, 'pg_database') FROM pg_database d
       WHERE starts_with(shobj_description(d.oid, 'pg_database'), %(mark)s)
         AND d.datname ~ '_(restoring|drill)_[0-9a-f]{4}$' ORDER BY 1"""
)
EXISTING_ROLES = SQL("SELECT rolname FROM pg_roles WHERE rolname = ANY (%(names)s)")
# Roles that this login may become; creating an object for a role needs SET ROLE to it.
MAY_BECOME = SQL("SELECT rolname FROM pg_roles WHERE rolname = ANY (%(names)s) AND pg_has_role(oid, 'MEMBER')")
MAY_BECOME_16 = SQL("SELECT rolname FROM pg_roles WHERE rolname = ANY (%(names)s) AND pg_has_role(oid, 'SET')")
MY_RIGHTS = SQL("SELECT rolsuper, rolcreatedb, rolcreaterole, rolbypassrls FROM pg_roles WHERE rolname = current_user")
SCHEMA_CREATORS = SQL(
    """SELECT rolname FROM pg_roles WHERE rolname = ANY (%(owners)s)
       AND NOT has_schema_privilege(oid, %(schema)s, 'CREATE') ORDER BY 1"""
)
SCHEMA_EXISTS = SQL("SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = %(schema)s)")


def create_role(name: str) -> Composed:
    """Create a role that owns objects or has grants, NOLOGIN."""
    return SQL("CREATE ROLE {} NOLOGIN").format(Identifier(name))


def drop_role(name: str) -> Composed:
    """Drop a role that owns nothing."""
    return SQL("DROP ROLE {}").format(Identifier(name))


def create_database(name: str, options: Sequence[tuple[str, str]]) -> Composed:
    """Create a database from template0, which alone allows another encoding and locale."""
    chosen = SQL(" ").join(SQL("{} {}").format(SQL(key), Literal(value)) for key, value in options)
    return SQL("CREATE DATABASE {} TEMPLATE template0 {}").format(Identifier(name), chosen)


# WITH (FORCE) also terminates autovacuum workers, which only a superuser may, and so fails
# sometimes for others; a plain DROP cancels those itself, and waits 5 s for sessions that are
# ending.
END_SESSIONS = SQL("""
    SELECT pg_terminate_backend(a.pid) FROM pg_stat_activity a JOIN pg_roles r ON r.oid = a.usesysid
    JOIN pg_database d ON d.oid = a.datid
    WHERE d.datname = %(name)s AND pg_has_role(d.datdba, 'USAGE') AND a.backend_type = 'client backend'
      AND (r.rolsuper <= current_setting('is_superuser')::boolean)
      AND (pg_has_role(r.oid, 'USAGE') OR pg_has_role('pg_signal_backend', 'USAGE'))
""")


def create_extension(name: str) -> Composed:
    """Create an extension if it is missing."""
    return SQL("CREATE EXTENSION IF NOT EXISTS {}").format(Identifier(name))


def drop_database(name: str) -> Composed:
    """Drop a database without sessions."""
    return SQL("DROP DATABASE IF EXISTS {}").format(Identifier(name))


def rename_database(name: str, new_name: str) -> Composed:
    """Give a database its final name."""
    return SQL("ALTER DATABASE {} RENAME TO {}").format(Identifier(name), Identifier(new_name))


def set_database_owner(name: str, owner: str) -> Composed:
    """Hand a database to a role."""
    return SQL("ALTER DATABASE {} OWNER TO {}").format(Identifier(name), Identifier(owner))


def comment_on_database(name: str, comment: str | None) -> Composed:
    """Set or remove the comment of a database."""
    return SQL("COMMENT ON DATABASE {} IS {}").format(Identifier(name), Literal(comment))


LISTS_OF_NAMES = frozenset({"search_path", "temp_tablespaces", "local_preload_libraries", "session_preload_libraries"})
LIST_ELEMENT = re.compile(r'"((?:[^"]|"")*)"|([^\s,"]+)')


def set_for_database(name: str, setting: str, value: str) -> Composed:
    """Set a database's own default of a setting."""
    # The catalog stores a list of names as written; as one literal it would be one name.
    listed = [(match[2] or match[1]).replace('""', '"') for match in LIST_ELEMENT.finditer(value)]
    values = SQL(", ").join(map(Literal, listed if setting in LISTS_OF_NAMES else [value]))
    return SQL("ALTER DATABASE {} SET {} TO {}").format(Identifier(name), Identifier(*setting.split(".")), values)


def revoke_public(name: str) -> Composed:
    """Revoke PUBLIC's default privileges on a database."""
    return SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(Identifier(name))


def grant_on_database(name: str, privilege: str, role: str | None, *, grantable: bool) -> Composed:
    """Grant CONNECT, CREATE or TEMPORARY to a role or to PUBLIC."""
    if privilege not in ("CONNECT", "CREATE", "TEMPORARY"):
        raise ValueError(f"{privilege} is no privilege on a database")
    return SQL("GRANT {} ON DATABASE {} TO {}{}").format(
        SQL(privilege),
        Identifier(name),
        Identifier(role) if role else SQL("PUBLIC"),
        SQL(" WITH GRANT OPTION") if grantable else SQL(""),
    )


def limit_connections(name: str, limit: int) -> Composed:
    """Limit the connections to a database."""
    return SQL("ALTER DATABASE {} CONNECTION LIMIT {}").format(Identifier(name), Literal(limit))


def grant_create(schema: str, role: str) -> Composed:
    """Grant a role CREATE on a schema, for the time of the restore."""
    return SQL("GRANT CREATE ON SCHEMA {} TO {}").format(Identifier(schema), Identifier(role))


def grant_on_schema(schema: str, role: str, privilege: str, *, grantable: bool) -> Composed:
    """Grant a role its privilege on a schema as in the source."""
    return SQL("GRANT {} ON SCHEMA {} TO {}{}").format(
        SQL(privilege), Identifier(schema), Identifier(role), SQL(" WITH GRANT OPTION" if grantable else "")
    )


def revoke_create(schema: str, role: str) -> Composed:
    """Revoke what was granted for the restore."""
    return SQL("REVOKE CREATE ON SCHEMA {} FROM {}").format(Identifier(schema), Identifier(role))


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

WITHOUT_PARTITIONS = SQL(
    """SELECT c.oid::regclass::text FROM pg_class c
       WHERE c.relkind = 'p' AND NOT EXISTS (SELECT FROM pg_inherits i WHERE i.inhparent = c.oid) ORDER BY 1"""
)
DATABASE_BYTES = SQL("SELECT pg_database_size(current_database())")
