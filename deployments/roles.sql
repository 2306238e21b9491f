-- The roles the project works with, each with no more than its work needs.
-- Run by a superuser, once per server, before anything else; running it again changes nothing.
-- PostgreSQL 14 or newer. Passwords are not set here: use "ALTER ROLE ... PASSWORD" (psql: \password),
-- certificates or peer authentication, and allow the roles in pg_hba.conf.

DO $roles$
DECLARE
    wanted text;
BEGIN
    FOREACH wanted IN ARRAY ARRAY['consulting_owner', 'consulting_app', 'backup_reader', 'backup_restorer'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = wanted) THEN
            EXECUTE format('CREATE ROLE %I NOLOGIN', wanted);
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

-- Restores, partitions, retention, refreshing of views.
-- CREATEDB: a restore goes into a new database beside the live one.
-- CREATEROLE: on a new, empty server the owner roles are missing and are created NOLOGIN.
-- Member of the owner: merges into live tables, switches their triggers off and on, makes partitions, refreshes views.
-- Member of the application's role: makes restored grants and objects what they were.
-- pg_read_all_data: takes the safety copy before it changes anything, which again reads every table's definition.
ALTER ROLE backup_restorer LOGIN INHERIT NOSUPERUSER CREATEDB CREATEROLE NOREPLICATION NOBYPASSRLS;
COMMENT ON ROLE backup_restorer IS
    'Restores and maintenance: creates databases and missing owner roles, acts as the owner of the tables';
GRANT consulting_owner, consulting_app, pg_read_all_data TO backup_restorer;

DO $membership$
BEGIN
    -- Since 16 the creator of a role may administer it but neither inherits from it nor may become it;
    -- both are needed to make restored objects belong to a role that had to be created first.
    IF current_setting('server_version_num')::int >= 160000 THEN
        EXECUTE 'GRANT consulting_owner, consulting_app TO backup_restorer WITH INHERIT TRUE';
        EXECUTE 'GRANT consulting_owner, consulting_app TO backup_restorer WITH SET TRUE';
        EXECUTE 'ALTER ROLE backup_restorer SET createrole_self_grant = ''set, inherit''';
    END IF;
END
$membership$;

-- pg_control_system() and pg_control_checkpoint(), which identify the cluster and its timeline in each backup, may be
-- run by PUBLIC in 14 to 18. Where that was revoked, grant EXECUTE to both roles in each database they connect to.
