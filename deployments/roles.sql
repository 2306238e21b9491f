-- The roles the project works with, each with no more than its work needs.
-- Run by a superuser, once per server, before anything else; run again, it brings an older installation to this state.
-- PostgreSQL 14 or newer. Passwords are not set here: use "ALTER ROLE ... PASSWORD" (psql: \password),
-- certificates or peer authentication, and allow the roles in pg_hba.conf.

DO $roles$
DECLARE
    wanted text;
    names text[] := ARRAY['consulting_owner', 'consulting_app', 'backup_reader', 'backup_restorer', 'backup_loader'];
BEGIN
    -- Before 16 a role with CREATEROLE may hand out any role but superusers, pg_execute_server_program among them, which is
    -- a shell on the server: no login of ours has it there. Roles that a new server lacks are then made by a superuser.
    IF pg_catalog.current_setting('server_version_num')::int >= 160000 THEN
        names := names || ARRAY['backup_roles'];
    END IF;
    FOREACH wanted IN ARRAY names LOOP
        IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = wanted) THEN
            EXECUTE pg_catalog.format('CREATE ROLE %I NOLOGIN', wanted);
        END IF;
    END LOOP;
END
$roles$;

-- Owns tables, functions and views. Nobody logs in as it: migrations and restores reach it by membership.
ALTER ROLE consulting_owner NOLOGIN INHERIT NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS;
COMMENT ON ROLE consulting_owner IS
    'Owner of the objects of consulting_tool; used by migrations and restores through membership';

-- The application's rights, granted table by table; the application's login is a member of it.
ALTER ROLE consulting_app NOLOGIN INHERIT NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS;
COMMENT ON ROLE consulting_app IS
    'Rights of the application: reads and writes rows; used through membership';

-- Takes and checks backups, watches the recovery point. Reads every table (pg_dump locks, therefore must be able
-- to read, every table of the database, other contexts' too), changes nothing.
ALTER ROLE backup_reader LOGIN INHERIT NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS;
COMMENT ON ROLE backup_reader IS
    'Backups, verification and monitoring: reads everything, writes nothing';
GRANT pg_read_all_data TO backup_reader;
-- Names the session whose transaction has been open for so long that differentials grow.
GRANT pg_read_all_stats TO backup_reader;

-- In its sessions runs what belongs to the owner of the tables: checks, triggers, defaults, index expressions, views, repairs.
-- SET ROLE keeps no such code from what its session's login may do, so this login may do what the owner may, and nothing else:
-- each run looks, and refuses one that may more.
ALTER ROLE backup_loader LOGIN INHERIT NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS;
COMMENT ON ROLE backup_loader IS
    'Loads rows and makes objects for the owner of the tables, whose code runs in its sessions: has no rights but the owner''s';
REVOKE pg_read_all_data FROM backup_loader;
GRANT consulting_owner TO backup_loader;

-- Restores, partitions, retention, refreshing of views, together with backup_loader.
-- CREATEDB: a restore goes into a new database beside the live one.
-- Member of the owner: hands a new database to its owner, and renames it.
-- Member of the application's role: grants on the database what was granted in the source.
-- Member of backup_loader: ends its sessions in a database that is to be dropped.
-- pg_read_all_data: takes the safety copy before anything is changed, which again reads every table's definition.
-- It also reads back what large objects hold, whatever their own privileges are, to compare them with the backup.
ALTER ROLE backup_restorer LOGIN INHERIT NOSUPERUSER CREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS;
COMMENT ON ROLE backup_restorer IS
    'Restores and maintenance: creates, names and drops databases, takes safety copies';
GRANT consulting_owner, consulting_app, backup_loader, pg_read_all_data TO backup_restorer;
ALTER ROLE backup_restorer RESET createrole_self_grant;

DO $membership$
BEGIN
    IF pg_catalog.current_setting('server_version_num')::int >= 160000 THEN
        -- To make objects belong to a role takes SET, to act for it INHERIT.
        EXECUTE 'GRANT consulting_owner TO backup_loader, backup_restorer WITH INHERIT TRUE, SET TRUE';
        EXECUTE 'GRANT consulting_app, backup_loader TO backup_restorer WITH INHERIT TRUE, SET TRUE';
        -- Makes the roles that a new, empty server lacks, NOLOGIN, and grants them to the two logins above. Since 16 it may hand
        -- out what it made itself, and no other role.
        EXECUTE 'ALTER ROLE backup_roles LOGIN INHERIT NOSUPERUSER NOCREATEDB CREATEROLE NOREPLICATION NOBYPASSRLS';
        EXECUTE 'COMMENT ON ROLE backup_roles IS ''Creates the roles that a recovery onto an empty server lacks''';
    END IF;
END
$membership$;

-- pg_control_system() and pg_control_checkpoint(), which identify the cluster and its timeline in each backup, may be
-- run by PUBLIC in 14 to 18. Where that was revoked, grant EXECUTE to both roles in each database they connect to.
