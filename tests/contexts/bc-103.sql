-- A made-up encyclopedia of music in three hundred tables, most of them made by a loop: keys from everything to everything, also in
-- circles, identifiers that a function of another schema makes, collations, views that unite tables with NULLs. Run by a superuser in an
-- empty database; the rows are the same each time. Extensions that the server does not have are done without.

CREATE SCHEMA music AUTHORIZATION consulting_owner;
CREATE SCHEMA shared AUTHORIZATION consulting_app;
GRANT USAGE ON SCHEMA shared TO PUBLIC;
DO $$ BEGIN
    IF EXISTS (SELECT FROM pg_available_extensions WHERE name = 'uuid-ossp') THEN
        CREATE EXTENSION "uuid-ossp" SCHEMA shared;
    END IF;
    IF EXISTS (SELECT FROM pg_available_extensions WHERE name = 'citext') THEN
        CREATE EXTENSION citext SCHEMA shared;
        CREATE EXTENSION unaccent SCHEMA shared;
    ELSE
        CREATE DOMAIN shared.citext AS text;
        ALTER DOMAIN shared.citext OWNER TO consulting_owner;
    END IF;
END $$;
SET ROLE consulting_owner;
SET timezone = 'UTC';
SET search_path = music, shared;

CREATE FUNCTION new_id() RETURNS uuid LANGUAGE plpgsql AS $$ BEGIN RETURN gen_random_uuid(); END $$;
DO $$ BEGIN
    IF to_regproc('shared.uuid_generate_v4') IS NOT NULL THEN
        CREATE OR REPLACE FUNCTION music.new_id() RETURNS uuid LANGUAGE sql AS 'SELECT shared.uuid_generate_v4()';
    END IF;
END $$;
CREATE FUNCTION is_code(char) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$ SELECT $1 ~ '^[A-Z]+$' $$;
CREATE FUNCTION folded(name text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN trimmed(lower(name)); END $$;
CREATE FUNCTION trimmed(name text) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT btrim($1) $$;
CREATE COLLATION by_bytes (locale = 'C');
DO $$ BEGIN
    CREATE COLLATION music.music (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
EXCEPTION WHEN feature_not_supported THEN
    CREATE COLLATION music.music (locale = 'POSIX');
END $$;
CREATE DOMAIN partial_year AS smallint CHECK (VALUE BETWEEN -3000 AND 3000);
CREATE TYPE partial_date AS (year partial_year, month smallint, day smallint);
CREATE TYPE cover_art AS ENUM ('absent', 'present', 'darkened');

-- What the kinds are, and who edits

CREATE TABLE area_types (id serial PRIMARY KEY, name varchar(255) NOT NULL, parent integer REFERENCES area_types, gid uuid NOT NULL DEFAULT new_id());
CREATE TABLE editors (id serial PRIMARY KEY, name varchar(64) COLLATE music NOT NULL, email shared.citext, area integer, ha1 char(32), UNIQUE (name));
CREATE TABLE edits (id bigserial PRIMARY KEY, editor integer NOT NULL REFERENCES editors DEFERRABLE, type smallint NOT NULL, opened timestamptz DEFAULT now(), data jsonb NOT NULL DEFAULT '{}');
CREATE TABLE languages (id serial PRIMARY KEY, code char(3) CHECK (is_code(code)), name text COLLATE by_bytes NOT NULL);
CREATE TABLE gids_of_the_dead (gid uuid PRIMARY KEY DEFAULT new_id(), said text DEFAULT folded(' X '));

DO $make$
DECLARE
    kinds text[] := ARRAY['area', 'artist', 'event', 'genre', 'instrument', 'label', 'place', 'recording', 'release', 'group', 'series', 'url', 'work', '楽団'];
    one text;
    other text;
BEGIN
    FOREACH one IN ARRAY kinds LOOP
        EXECUTE format($$CREATE TABLE %1$I (id serial PRIMARY KEY, gid uuid NOT NULL UNIQUE DEFAULT new_id(), name varchar COLLATE "C" NOT NULL,
            sort_name text COLLATE music, began partial_date, ended partial_date, type integer REFERENCES area_types, comment varchar(255) NOT NULL DEFAULT '',
            edits_pending integer NOT NULL DEFAULT 0 CHECK (edits_pending >= 0), last_updated timestamptz DEFAULT '2026-01-01', is_ended boolean NOT NULL DEFAULT false,
            part_of integer, newest_edit bigint REFERENCES edits DEFERRABLE INITIALLY DEFERRED,
            found_by text GENERATED ALWAYS AS (folded(name)) STORED,
            CONSTRAINT %2$I CHECK (comment <> ' ' AND (is_ended OR (ended).year IS NULL)))$$, one, one || ': ended');
        EXECUTE format('ALTER TABLE %I ADD FOREIGN KEY (part_of) REFERENCES %I', one, one);
        EXECUTE format('CREATE INDEX ON %I (lower(name) COLLATE by_bytes, gid) WHERE type IS NOT NULL', one);
        EXECUTE format('CREATE TABLE %I (id serial PRIMARY KEY, %I integer NOT NULL REFERENCES %I, name text COLLATE music NOT NULL, locale text, is_primary boolean,'
            ' EXCLUDE USING btree (%2$I WITH =) WHERE (is_primary))', one || ' alias', one, one);
        EXECUTE format('CREATE TABLE %I (%I integer REFERENCES %I, editor integer REFERENCES editors ON DELETE CASCADE, rating smallint CHECK (rating BETWEEN 0 AND 100),'
            ' PRIMARY KEY (%2$I, editor))', one || ' rating', one, one);
        EXECUTE format('CREATE TABLE %I (gid uuid PRIMARY KEY, new_id integer REFERENCES %I ON DELETE SET NULL, at timestamptz)', one || ' redirect', one);
        EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING GENERATED)', one || ' deleted', one);
        EXECUTE format('ALTER TABLE %I ADD PRIMARY KEY (id)', one || ' deleted');
        -- From 18 on NOT NULL has a name, and a copy has the original's: made after it, the original would get another.
        EXECUTE coalesce((SELECT string_agg(format('ALTER TABLE %I RENAME CONSTRAINT %I TO %I;', one || ' deleted', conname, 'deleted ' || conname), ' ')
            FROM pg_constraint WHERE conrelid = format('%I', one || ' deleted')::regclass AND contype = 'n'), 'SELECT');
        EXECUTE format('CREATE TABLE %I (edit bigint REFERENCES edits, %I integer, PRIMARY KEY (edit, %2$I))', one || ' edit', one);
        EXECUTE format('ALTER TABLE %I ADD CONSTRAINT %I FOREIGN KEY (%I) REFERENCES %I NOT VALID', one || ' edit', one || ' fk', one, one);
    END LOOP;
    ALTER TABLE editors ADD FOREIGN KEY (area) REFERENCES area DEFERRABLE INITIALLY DEFERRED;
    FOREACH one IN ARRAY kinds LOOP
        FOREACH other IN ARRAY kinds LOOP
            EXECUTE format($$CREATE TABLE %1$I (id serial PRIMARY KEY, entity0 integer NOT NULL REFERENCES %2$I, entity1 integer NOT NULL REFERENCES %3$I ON UPDATE CASCADE,
                link_order integer NOT NULL DEFAULT 0, art cover_art DEFAULT 'absent', UNIQUE (entity0, entity1, link_order))$$, one || '–' || other, one, other);
        END LOOP;
    END LOOP;
    FOR n IN 1..15 LOOP
        EXECUTE format('CREATE TABLE medium_%s (id integer PRIMARY KEY, release integer REFERENCES release, tracks text[] DEFAULT ''{}'', length interval, bought money)', n);
    END LOOP;
END $make$;

-- All kinds in one view, of which each lacks something; another over it; a materialized one of both

DO $make$
DECLARE
    parts text;
BEGIN
    SELECT string_agg(format('SELECT %L AS kind, id, gid, name, %s AS began, %s AS comment FROM music.%I', k, CASE WHEN n % 2 = 0 THEN 'began' ELSE 'NULL' END,
                             CASE WHEN n % 3 = 0 THEN 'comment' ELSE 'NULL' END, k), E'\nUNION ALL ' ORDER BY n)
        INTO parts FROM unnest(ARRAY['artist', 'area', 'label', 'work', 'url', '楽団']) WITH ORDINALITY AS u (k, n);
    EXECUTE 'CREATE VIEW everything AS ' || parts || ' UNION ALL SELECT NULL, NULL, NULL, NULL, NULL, NULL';
    EXECUTE 'CREATE VIEW everything_once AS ' || replace(parts, 'UNION ALL', 'UNION');
END $make$;
CREATE VIEW named AS SELECT name, kind FROM everything EXCEPT SELECT NULL, 'area' INTERSECT SELECT 'x', NULL;
CREATE MATERIALIZED VIEW counted AS SELECT kind, count(*) AS n, NULL AS remark, max(name COLLATE music) AS last FROM everything GROUP BY kind;
CREATE UNIQUE INDEX ON counted (kind);
CREATE MATERIALIZED VIEW recounted AS SELECT sum(n) AS n FROM counted UNION SELECT NULL;
CREATE VIEW closed AS WITH RECURSIVE parts (id, top) AS (SELECT id, id FROM area WHERE part_of IS NULL UNION SELECT a.id, p.top FROM area a JOIN parts p ON a.part_of = p.id) TABLE parts;
CREATE FUNCTION fires() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' THEN
        NEW.last_updated := now();
    END IF;
    RETURN NEW;
END $$;
DO $make$
DECLARE
    one text;
BEGIN
    FOREACH one IN ARRAY ARRAY['area', 'artist', 'label', '楽団'] LOOP
        EXECUTE format('CREATE TRIGGER fires BEFORE UPDATE ON %I FOR EACH ROW WHEN (OLD.name IS DISTINCT FROM NEW.name) EXECUTE FUNCTION fires()', one);
    END LOOP;
    IF to_regprocedure('shared.unaccent(text)') IS NOT NULL THEN
        CREATE FUNCTION music.plain() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.sort_name := unaccent(NEW.name); RETURN NEW; END';
        CREATE TRIGGER plain BEFORE INSERT ON label FOR EACH ROW EXECUTE FUNCTION plain();
    END IF;
END $make$;
GRANT SELECT ON ALL TABLES IN SCHEMA music TO consulting_app;

INSERT INTO area_types (name, parent, gid) SELECT 'type ' || n, NULLIF(n - 1, 0), md5(n::text)::uuid FROM generate_series(1, 4) n;
INSERT INTO languages (code, name) VALUES ('JPN', '日本語'), ('ENG', 'English'), (NULL, '');
BEGIN;
INSERT INTO editors (name, email, area) SELECT 'Editor ' || n, 'E' || n || '@Example.org', n FROM generate_series(1, 5) n;
INSERT INTO edits (editor, type, opened) SELECT n, n, '2026-01-01' FROM generate_series(1, 5) n;
INSERT INTO edits (editor, type, opened) SELECT n, 900 + n, '2024-01-01' FROM generate_series(1, 3) n;
DO $make$
DECLARE
    one text;
BEGIN
    FOREACH one IN ARRAY ARRAY['area', 'artist', 'event', 'genre', 'instrument', 'label', 'place', 'recording', 'release', 'group', 'series', 'url', 'work', '楽団'] LOOP
        EXECUTE format($$INSERT INTO %1$I (gid, name, sort_name, began, type, part_of, newest_edit) SELECT md5(%1$L || n)::uuid, 'Ä ' || %1$L || n, 'é' || n,
            ROW (1900 + n, NULL, n)::partial_date, 1 + n %% 4, CASE WHEN n > 1 THEN n - 1 END, 1 + n %% 5 FROM generate_series(1, 8) n$$, one);
        EXECUTE format('UPDATE %I SET part_of = 8 WHERE id = 1', one);
        EXECUTE format('INSERT INTO %I (%I, name, is_primary) SELECT n, ''alias '' || n, NULLIF(n %% 2 = 0, false) FROM generate_series(1, 8) n', one || ' alias', one);
        EXECUTE format('INSERT INTO %I SELECT n, 1 + n %% 5, n FROM generate_series(1, 8) n', one || ' rating');
        EXECUTE format('INSERT INTO %I (id, name, gid) VALUES (99, ''dead'', md5(''d'')::uuid)', one || ' deleted');
    END LOOP;
    FOREACH one IN ARRAY ARRAY['area', 'artist', '楽団'] LOOP
        EXECUTE format('INSERT INTO %I (entity0, entity1, art) SELECT n, 1 + n %% 8, ''present'' FROM generate_series(1, 4) n', one || '–artist');
    END LOOP;
END $make$;
COMMIT;
INSERT INTO medium_1 VALUES (1, 1, '{a,NULL,""}', '-1 mon 3 days', 12.34), (2, NULL, NULL, NULL, NULL);
INSERT INTO gids_of_the_dead (gid) VALUES (md5('x')::uuid);
REFRESH MATERIALIZED VIEW counted;
REFRESH MATERIALIZED VIEW recounted;
RESET ROLE;
ALTER DATABASE encyclopedia SET search_path = music, shared, public;
