"""What a context's relations need, what needs them and what lives beside them: it is in the set, or named with its statement."""

import re

import psycopg
import pytest

from deployments.local import LocalServer
from flows.checks import integrity_check
from flows.restore import full_restore
from tasks.core.errors import BadInput, OperationError
from tasks.core.sets.manifest_file import MANIFEST_FILE, render_manifest
from tests.support.database import ask, execute
from tests.support.oracle import capture, statements_of_all
from tests.support.reports import report
from tests.support.restores import restore_by_hand
from tests.support.servers import CONTRIB, drop_databases
from tests.support.surroundings import (
    AS_OWNER,
    CONTEXT,
    NEIGHBOURS,
    ask_target,
    newest,
    rehearsed,
    run_on_target,
    stored_and_recovered,
    surround,
    to_do,
)
from tests.support.variants import first_quick
from tests.support.world import World


def statements_named(text: str) -> list[str]:
    """Return the statements that a list of chores quotes."""
    return re.findall(r"^ +```+sql\n(.*?)^ +```+$", text, re.MULTILINE | re.DOTALL)


NEEDED = {
    "a policy": "CREATE POLICY p ON t AS RESTRICTIVE USING (u IN (SELECT id FROM beside.users))",
    "a rule": "CREATE RULE r AS ON DELETE TO t DO ALSO INSERT INTO beside.log (id) VALUES (OLD.id)",
    "a trigger by its condition": """
        CREATE FUNCTION any_user() RETURNS bool LANGUAGE sql BEGIN ATOMIC SELECT EXISTS (SELECT FROM beside.users); END;
        CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
        CREATE TRIGGER watch BEFORE UPDATE ON t FOR EACH ROW WHEN (any_user()) EXECUTE FUNCTION touch()""",
    "a check that is not proven": """
        CREATE FUNCTION any_user() RETURNS bool LANGUAGE sql BEGIN ATOMIC SELECT NOT EXISTS (SELECT FROM beside.users); END;
        ALTER TABLE t ADD CONSTRAINT no_user CHECK (any_user()) NOT VALID""",
    "an index": """
        CREATE FUNCTION of_log(int) RETURNS int IMMUTABLE LANGUAGE sql BEGIN ATOMIC SELECT max(id) FROM beside.log; END;
        CREATE INDEX by_log ON t (of_log(id))""",
    "a function behind a function": """
        CREATE FUNCTION behind() RETURNS int LANGUAGE sql AS 'SELECT 1';
        CREATE FUNCTION users_now() RETURNS SETOF beside.users LANGUAGE plpgsql
            AS 'BEGIN PERFORM odd.behind(); RETURN QUERY SELECT * FROM beside.users; END';
        CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM odd.users_now(); RETURN NEW; END';
        CREATE TRIGGER watch BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION touch()""",
}


WRITES_FAIL = {"a function behind a function": r"function odd\.users_now\(\) does not exist"}


@pytest.mark.parametrize("what", first_quick(1, sorted(NEEDED, key=lambda what: what not in WRITES_FAIL)))
def test_what_another_contexts_table_is_needed_for_is_left_out_and_named(
    world: World, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    surround(world, monkeypatch, NEEDED[what])
    before = capture(world.source.conninfo(world.database), bin_dir=world.source.bin, tables=["odd.t"])
    left = stored_and_recovered(world, writes_fail=WRITES_FAIL.get(what, ""))
    set_of_it = newest(world)
    assert {one.name for one in set_of_it.by_hand} >= {*set_of_it.left_out} != set()
    # The statements that are told make the rest of it, where the neighbours are.
    assert left.count("```sql") == len(set_of_it.by_hand)
    run_on_target(world, "RESET ROLE", *NEIGHBOURS, AS_OWNER)
    run_on_target(world, *[text.replace("\n  ", "\n") for text in statements_named(left)])
    after = capture(world.target.conninfo(world.database), bin_dir=world.target.bin, tables=["odd.t"])
    assert before.differences(after) == []
    run_on_target(world, "INSERT INTO odd.t VALUES (3)", "UPDATE odd.t SET v = 'c'", "DELETE FROM odd.t WHERE id = 3")


@pytest.mark.long
def test_a_set_of_an_older_release_restores(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says what is left out, but not how it is made."""
    surround(world, monkeypatch, NEEDED["a policy"], NEEDED["a rule"])
    world.backup(context=CONTEXT)
    (folder,) = world.store_folder.glob(f"{CONTEXT}/daily/*")
    older = newest(world).model_copy(update={"by_hand": []})
    (folder / MANIFEST_FILE).write_bytes(render_manifest(older))
    assert world.recover(context=CONTEXT).startswith("PASS")
    assert "policy p on table odd.t is not in the backup" in to_do(report(world, f"{CONTEXT}-recovery"))


TORN = {
    "a default": ("ALTER TABLE t ADD COLUMN n bigint DEFAULT how_many()", "default value for column n of table odd.t", "users"),
    "a check": ("ALTER TABLE t ADD CONSTRAINT few CHECK (how_many() < 9)", "constraint few on table odd.t", "users"),
    "a domain": ("CREATE DOMAIN few AS int CHECK (how_many() < 9); ALTER TABLE t ADD COLUMN n few", "table odd.t", "users"),
    "a parent": ("CREATE TABLE beside.root (id int NOT NULL); ALTER TABLE t INHERIT beside.root", "table odd.t", "root"),
}  # fmt: skip


@pytest.mark.parametrize("what", TORN)
def test_a_table_that_cannot_be_made_without_anothers_is_refused(world: World, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    how_many = "CREATE FUNCTION how_many() RETURNS bigint LANGUAGE sql BEGIN ATOMIC SELECT count(*) FROM beside.users; END"
    statement, name, other = TORN[what]
    surround(world, monkeypatch, how_many, statement)
    with pytest.raises(BadInput, match=f"{name} needs table beside.{other}"):
        world.backup(context=CONTEXT)
    assert list(world.store_folder.rglob("manifest.json")) == []


# --- what is part of no relation ------------------------------------------------------------------------------------------

ALONG = (
    "CREATE TYPE status AS ENUM ('open', 'closed'); ALTER TABLE t ADD COLUMN s status DEFAULT 'open'",
    "CREATE CAST (varchar AS status) WITH INOUT AS IMPLICIT",
    "CREATE FUNCTION is_open(status) RETURNS bool IMMUTABLE LANGUAGE sql AS $$SELECT $1 = 'open'::odd.status$$",
    "CREATE CAST (status AS bool) WITH FUNCTION is_open(status)",
    "CREATE FUNCTION differ(status, text) RETURNS bool LANGUAGE sql AS 'SELECT $1::text <> $2'",
    "CREATE OPERATOR beside.<!> (FUNCTION = differ, LEFTARG = status, RIGHTARG = text)",
    "CREATE SEQUENCE numbers START 40; ALTER TABLE t ADD COLUMN n bigint DEFAULT nextval('odd.numbers'::text::regclass)",
    "CREATE TEXT SEARCH DICTIONARY words (TEMPLATE = simple, STOPWORDS = english)",
    "CREATE TEXT SEARCH CONFIGURATION search (COPY = simple)",
    "ALTER TEXT SEARCH CONFIGURATION search ALTER MAPPING FOR asciiword WITH words",
    "ALTER TABLE t ADD COLUMN tsv tsvector",
    "CREATE TRIGGER tsv BEFORE INSERT OR UPDATE ON t FOR EACH ROW EXECUTE FUNCTION tsvector_update_trigger(tsv, 'odd.search', v)",
    "CREATE FUNCTION beside.tax(int) RETURNS int LANGUAGE sql AS 'SELECT $1 / 10'",
    "CREATE FUNCTION report() RETURNS SETOF t LANGUAGE sql AS 'SELECT * FROM odd.t WHERE beside.tax(id) = 0'",
    "CREATE FUNCTION beside.how_many() RETURNS bigint LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT count(*) FROM odd.t); END'",
    "CREATE VIEW beside.shown AS SELECT id, v FROM t; CREATE VIEW shown_again AS SELECT id FROM beside.shown",
    "COMMENT ON VIEW shown_again IS 'ids'; GRANT SELECT ON shown_again TO consulting_app",
    "CREATE DOMAIN word AS text CHECK (VALUE <> ''); CREATE TYPE pair AS (a word, b int)",
    # The catalogue keeps the text of a domain's default as it was said, under whatever path.
    "CREATE DOMAIN pairs AS pair DEFAULT ROW('x', 1)::pair", "ALTER TABLE t ADD COLUMN p pairs",
    "CREATE TYPE span AS RANGE (subtype = numeric)",
    "CREATE AGGREGATE smallest(int) (SFUNC = int4smaller, STYPE = int, SORTOP = <)",
    'CREATE PROCEDURE "Work"(a int) LANGUAGE plpgsql AS $$BEGIN UPDATE odd.t SET v = v WHERE id = a; END$$',
    "CREATE COLLATION odd_order (locale = 'C')",
)  # fmt: skip
ALONE = ("CREATE FUNCTION beside.theirs() RETURNS int LANGUAGE sql AS 'SELECT 7'", "CREATE DOMAIN beside.unused AS int")


def odd_statements(world: World, server: LocalServer) -> dict[str, str]:
    """Return what pg_dump prints of the schemas that the test made, but for what is others'."""
    found = statements_of_all(server.conninfo(world.database), bin_dir=server.bin)
    others = ("theirs", "unused", "users", "log", "DATABASE")
    return {
        name: text for name, text in found.items()
        if re.search(r"\b(odd|beside)\b", name + text) and not any(word in name for word in others)
    }  # fmt: skip


def test_what_lives_beside_the_relations_comes_back(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    surround(world, monkeypatch, *ALONG, *ALONE)
    before = odd_statements(world, world.source)
    left = stored_and_recovered(world)
    assert "Nothing" in left
    assert newest(world).by_hand == []
    after = odd_statements(world, world.target)
    assert before == after
    assert ask_target(world, "SELECT to_regprocedure('beside.theirs()'), to_regtype('beside.unused')") == [(None, None)]
    run_on_target(
        world, "INSERT INTO odd.t (id, v, s) VALUES (9, 'Schmidt the', 'closed'::varchar)", "CALL odd.\"Work\"(9)",
        "SELECT odd.report(), beside.how_many(), s OPERATOR(beside.<!>) 'x'::text, s::bool FROM odd.t",
    )  # fmt: skip
    assert ask_target(world, "SELECT n, tsv::text FROM odd.t WHERE id = 9") == [(42, "'schmidt':1")]
    assert rehearsed(world).startswith("PASS")
    # Nothing differs from the set, neither for the witness nor for a restore in place; and what is dropped is missed.
    assert world.run(integrity_check, "backup_reader", context=CONTEXT).startswith("PASS")
    plan = {"context": CONTEXT, "in_place": True}
    assert "nothing differs" in world.run(full_restore, "backup_restorer", **plan)
    execute(world, "DROP FUNCTION odd.report()", "DROP VIEW odd.shown_again")
    with pytest.raises(OperationError, match="objects of the newest backup: 2 offending"):
        world.run(integrity_check, "backup_reader", context=CONTEXT)
    sure = plan | {"dry_run": False, "confirm_database": world.database}
    assert world.run(full_restore, "backup_restorer", **sure).startswith("RESTORED")
    assert odd_statements(world, world.source) == before


NAMED = {
    "publication everything": "RESET ROLE; CREATE PUBLICATION everything FOR ALL TABLES; " + AS_OWNER,
    "publication of table odd.t in publication ours": "RESET ROLE; CREATE PUBLICATION ours FOR TABLE t; " + AS_OWNER,
    "default privileges on new relations belonging to role consulting_owner in schema odd":
        "ALTER DEFAULT PRIVILEGES IN SCHEMA odd GRANT SELECT ON TABLES TO consulting_app",
    "event trigger noticed": """CREATE FUNCTION noticed() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
        RESET ROLE; CREATE EVENT TRIGGER noticed ON ddl_command_end EXECUTE FUNCTION odd.noticed(); SET ROLE consulting_owner""",
    "view beside.mixed": """CREATE VIEW beside.mixed AS SELECT t.id FROM t JOIN beside.users ON t.u = users.id;
        ALTER VIEW beside.mixed ALTER id SET DEFAULT 5; CREATE RULE quiet AS ON DELETE TO beside.mixed DO INSTEAD NOTHING;
        CREATE FUNCTION put() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
        CREATE TRIGGER put INSTEAD OF INSERT ON beside.mixed FOR EACH ROW EXECUTE FUNCTION put()""",
    "function app_report()": """RESET ROLE; CREATE FUNCTION app_report() RETURNS int LANGUAGE sql AS 'SELECT 1';
        ALTER FUNCTION app_report() OWNER TO consulting_app; SET ROLE consulting_owner""",
    "table beside.log": """CREATE FUNCTION logged() RETURNS trigger LANGUAGE plpgsql
            AS 'BEGIN INSERT INTO beside.log (id) VALUES (NEW.id); RETURN NEW; END';
        CREATE TRIGGER logged BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION logged()""",
    "cast from text to integer": "RESET ROLE; CREATE CAST (text AS integer) WITH INOUT; " + AS_OWNER,
    "operator family whole for access method btree": "RESET ROLE; CREATE OPERATOR FAMILY whole USING btree; " + AS_OWNER,
    "materialized view beside.kept": "CREATE MATERIALIZED VIEW beside.kept AS SELECT id FROM t",
}  # fmt: skip


def test_what_is_not_the_contexts_own_is_named_with_its_statement(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    surround(world, monkeypatch, *NAMED.values())
    left = stored_and_recovered(world, writes_fail='relation "beside.log" does not exist')
    found = {one.name: one for one in newest(world).by_hand}
    assert newest(world).forgotten_tables == []
    unqualified = {name.replace("odd.", ""): one for name, one in found.items()}
    assert [name for name in NAMED if name.replace("odd.", "") not in unqualified] == [], [*found]
    assert [name for name, one in found.items() if not one.statements] == []
    for text in (left, to_do(report(world, f"{CONTEXT}-recovery")), report(world, f"{CONTEXT}-backup")):
        assert [name for name in found if f"{name} is not in the backup" not in text] == []
    assert f"{len(found)} objects not in the set" in report(world, f"{CONTEXT}-recovery").partition("\n## ")[0]
    before = odd_statements(world, world.source)
    with world.connect(world.target) as connection:
        connection.execute(NEIGHBOURS[1].replace("CREATE TABLE", "CREATE SCHEMA beside; CREATE TABLE").encode())
        for text in statements_named(left):
            if "CREATE SCHEMA" not in text:
                connection.execute(text.encode())
    after = odd_statements(world, world.target)
    assert before.keys() - after.keys() == set()


UNLISTED = (
    "CREATE FUNCTION doubled(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT 2 * $1'",
    "CREATE FUNCTION halved(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1 / 2'",
    "CREATE MATERIALIZED VIEW sums AS SELECT odd.doubled(id) AS n FROM t; CREATE UNIQUE INDEX sums_n ON sums (n)",
    "CREATE MATERIALIZED VIEW empty AS SELECT odd.halved(n) AS n FROM sums WITH NO DATA",
    "CREATE INDEX ON empty ((n + 1)); CLUSTER sums USING sums_n; CREATE STATISTICS both_n ON (n + 1) FROM sums",
    "CREATE VIEW over_them AS SELECT count(*) FROM sums; COMMENT ON MATERIALIZED VIEW sums IS 'sums'",
    "COMMENT ON COLUMN sums.n IS 'twice'; GRANT SELECT ON sums TO consulting_app; ALTER TABLE sums ALTER n SET STATISTICS 7",
    "CREATE TYPE mood AS ENUM ('good', 'bad'); CREATE DOMAIN short AS text CHECK (length(VALUE) < 9); CREATE SEQUENCE numbers",
    "CREATE FUNCTION first_mood() RETURNS mood LANGUAGE sql AS $$SELECT 'good'::odd.mood$$",
    "CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
    """CREATE TABLE forgotten (id serial, n bigint DEFAULT nextval('numbers'), m mood DEFAULT first_mood(), s short,
        t int REFERENCES t, at date, PRIMARY KEY (id, at)) PARTITION BY RANGE (at)""",
    "CREATE TABLE forgotten_rest PARTITION OF forgotten DEFAULT; CREATE INDEX ON forgotten (m); CREATE INDEX ON forgotten_rest (s)",
    "CREATE TRIGGER touch BEFORE INSERT ON forgotten FOR EACH ROW EXECUTE FUNCTION touch()",
    "CREATE POLICY p ON forgotten USING (id > 0); CREATE RULE r AS ON UPDATE TO forgotten DO ALSO NOTHING",
    "GRANT INSERT (n) ON forgotten TO consulting_app; COMMENT ON COLUMN forgotten.n IS 'n'",
    "CREATE TABLE last (id int PRIMARY KEY, f int, at date, FOREIGN KEY (f, at) REFERENCES forgotten)",
    "ALTER TABLE forgotten ADD l int REFERENCES last",
)  # fmt: skip


def test_plain_views_that_relations_need_come_along_unlisted(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    surround(
        world, monkeypatch, "CREATE VIEW seen AS SELECT id, v FROM t", "CREATE VIEW beside.allowed AS SELECT id FROM seen",
        "CREATE MATERIALIZED VIEW sums AS SELECT count(*) AS n FROM seen",
        "CREATE POLICY p ON t USING (id IN (SELECT id FROM beside.allowed))",
        "CREATE RULE r AS ON DELETE TO t WHERE OLD.id IN (SELECT id FROM seen) DO ALSO NOTHING", views=["sums"],
    )  # fmt: skip
    before = odd_statements(world, world.source)
    assert "Nothing" in stored_and_recovered(world)
    assert newest(world).by_hand == []
    assert odd_statements(world, world.target) == before
    assert ask_target(world, "SELECT n FROM odd.sums") == [(2,)]
    assert rehearsed(world).startswith("PASS")


REFERRING = {
    "a policy": "CREATE POLICY p ON beside.users USING (id IN (SELECT u FROM t))",
    "a rule": "CREATE RULE r AS ON DELETE TO beside.users DO ALSO DELETE FROM t WHERE u = OLD.id",
    "a column of its type": "ALTER TABLE beside.users ADD COLUMN odd odd.t[]",
    "a key": "ALTER TABLE beside.users ADD COLUMN odd int REFERENCES t",
}


@pytest.mark.parametrize("what", first_quick(1, REFERRING))
def test_tables_elsewhere_that_need_the_context_are_named(world: World, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    surround(world, monkeypatch, REFERRING[what])
    before = odd_statements(world, world.source)
    left = stored_and_recovered(world)
    assert [item.name for item in newest(world).by_hand] == ["schema beside", "table beside.users"]
    assert newest(world).forgotten_tables == ["beside.users (refers to this context)"]
    run_on_target(world, "RESET ROLE", *[text.replace("\n  ", "\n") for text in statements_named(left)])
    assert odd_statements(world, world.target) == before


LEFT_UNLISTED = (
    "table odd.forgotten", "table odd.last", "materialized view odd.sums", "materialized view odd.empty", "view odd.over_them",
)  # fmt: skip


@pytest.mark.parametrize("any_version", [16, pytest.param(18, marks=pytest.mark.long)], indirect=True)
def test_relations_that_no_context_lists_are_named_with_their_statements(
    any_version: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What they alone need comes along: it lives in the schema of the context, and is no other context's."""
    world = any_version
    surround(world, monkeypatch, *UNLISTED)
    before = odd_statements(world, world.source)
    left = stored_and_recovered(world)
    assert sorted(item.name for item in newest(world).by_hand) == sorted(LEFT_UNLISTED)
    made = "SELECT odd.doubled(2), odd.halved(2), odd.first_mood(), 'a'::odd.short, to_regproc('odd.touch') IS NOT NULL"
    assert ask_target(world, made) == [(4, 1, "good", "a", True)]
    for text in (left, to_do(report(world, f"{CONTEXT}-recovery")), report(world, f"{CONTEXT}-backup")):
        assert [name for name in LEFT_UNLISTED if f"{name} is not in the backup" not in text] == []
        assert not re.search(r"\btable odd\.(sums|empty)", text)
    assert "5 objects not in the set" in report(world, f"{CONTEXT}-recovery").partition("\n## ")[0]
    run_on_target(world, *[text.replace("\n  ", "\n") for text in statements_named(left)])
    assert {"SCHEMA beside": before["SCHEMA beside"], **odd_statements(world, world.target)} == before
    assert ask_target(world, "SELECT n FROM odd.sums ORDER BY n") == [(2,), (4,)]
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
        ask_target(world, "SELECT n FROM odd.empty")


CODE = (
    "ALTER TABLE t ADD COLUMN h text",
    "CREATE FUNCTION hashed() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.h := metaphone(NEW.v, 9); RETURN NEW; END'",
    "CREATE TRIGGER hashed BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION hashed()",
    # The extension has this function as well, and is needed by nothing of the context.
    "CREATE FUNCTION given() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.u := gen_random_uuid(); RETURN NEW; END'",
    "CREATE TRIGGER given BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION given()",
    "CREATE FUNCTION pages() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM public.pg_freespace(1); RETURN NEW; END'",
    "CREATE TRIGGER pages BEFORE DELETE ON t FOR EACH ROW EXECUTE FUNCTION pages()",
    "CREATE TABLE words (word public.citext PRIMARY KEY)",
)


@pytest.mark.long
@pytest.mark.parametrize("any_version", [15], indirect=True)
def test_extensions_that_only_code_names(any_version: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world, extensions = any_version, ("fuzzystrmatch", "pgcrypto", "pg_freespacemap", "citext")
    execute(world, *(f"CREATE EXTENSION {name} SCHEMA public" for name in extensions))
    surround(world, monkeypatch, *CODE, tables=["t", "words"])
    assert "superuser" not in world.backup(context=CONTEXT) + report(world, f"{CONTEXT}-backup")
    found = newest(world)
    assert sorted(found.extensions) == ["citext", "fuzzystrmatch"]
    assert [(one.name, one.why) for one in found.by_hand] == [
        ("extension pg_freespacemap", "the code of function odd.pages() names it")
    ]
    drop_databases(world.source)
    with pytest.raises(
        OperationError, match=r"^RECOVERED, WRITES FAIL: odd.t: function public.pg_freespace\(integer\) does not exist"
    ):
        world.recover(context=CONTEXT)
    (statement,) = statements_named(to_do(report(world, f"{CONTEXT}-recovery")))
    execute(world, "INSERT INTO odd.t (id, v) VALUES (9, 'Schmidt')", statement, "DELETE FROM odd.t WHERE id = 1")
    assert ask(world, "SELECT h FROM odd.t WHERE id = 9") == [("SKMTT",)]


@pytest.mark.long
@pytest.mark.parametrize("any_version", [15, CONTRIB], ids=["15", "18"], indirect=True)
def test_members_of_extensions_that_these_do_not_bring(any_version: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world = any_version
    execute(world, "CREATE EXTENSION citext SCHEMA public")
    surround(
        world, monkeypatch, "RESET ROLE", "ALTER FUNCTION public.translate(public.citext, public.citext, text) SET SCHEMA odd",
        "CREATE FUNCTION odd.positive(int) RETURNS bool IMMUTABLE LANGUAGE sql AS 'SELECT $1 > 0'",
        "ALTER EXTENSION citext ADD FUNCTION odd.positive(int)", AS_OWNER, "ALTER TABLE t ADD CHECK (odd.positive(id))",
        "ALTER TABLE t ADD COLUMN w public.citext CHECK (odd.translate(w, 'a'::public.citext, 'b') <> '')",
        "RESET ROLE", "CREATE VIEW odd.seen AS SELECT 1 AS a",
        "CREATE FUNCTION odd.resident() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "ALTER EXTENSION citext ADD FUNCTION odd.resident(); ALTER EXTENSION citext ADD VIEW odd.seen",
    )  # fmt: skip
    stored = world.backup(context=CONTEXT)
    by_hand = {item.name.replace("public.", ""): item for item in newest(world).by_hand}
    needed = ["function odd.positive(integer)", "function odd.translate(citext,citext,text)"]
    assert sorted(by_hand) == [*needed[:1], "function odd.resident()", *needed[1:], "view odd.seen"]
    assert "4 objects not in the set" in stored
    assert 'run ALTER EXTENSION "citext" DROP VIEW odd.seen' in report(world, f"{CONTEXT}-backup")
    assert [name for name, item in by_hand.items() if not item.statements.startswith("CREATE ")] == []
    names = ["function odd.positive(integer)", "function odd.translate(citext,citext,text)"]
    assert [one.partition(" is a member of extension citext")[0].replace("public.", "") for one in newest(world).warnings] == names


@pytest.mark.long
@pytest.mark.parametrize("any_version", [15, CONTRIB], ids=["15", "18"], indirect=True)
def test_a_member_that_the_context_needs_is_asked_for_before_anything_is_made(
    any_version: World, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    world = any_version
    execute(world, "CREATE EXTENSION citext SCHEMA public")
    surround(
        world, monkeypatch, "CREATE FUNCTION odd.positive(int) RETURNS bool IMMUTABLE LANGUAGE sql AS 'SELECT $1 > 0'",
        "RESET ROLE", "ALTER EXTENSION citext ADD FUNCTION odd.positive(int)", AS_OWNER,
        "ALTER TABLE t ADD CHECK (odd.positive(id))",
    )  # fmt: skip
    world.backup(context=CONTEXT)
    drop_databases(world.source)
    with pytest.raises(
        BadInput, match=r"function odd\.positive\(integer\), which the context needs, it is a member of extension citext"
    ):
        world.recover(context=CONTEXT)
    assert not world.source.has_database(world.database)
    (item,) = newest(world).by_hand
    assert item.statements.startswith("CREATE ")
    world.source.create_database(world.database, "consulting_owner")
    execute(
        world,
        "CREATE EXTENSION citext SCHEMA public",
        "CREATE SCHEMA odd AUTHORIZATION consulting_owner",
        item.statements,
    )
    assert world.recover(context=CONTEXT).startswith("PASS")
    assert ask(world, "SELECT count(*) FROM odd.t") == [(2,)]


def test_what_superusers_own_is_named(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    surround(world, monkeypatch, "CREATE TABLE r (id int)", "RESET ROLE", "ALTER TABLE r OWNER TO postgres", tables=["t", "r"])
    world.backup(context=CONTEXT)
    assert "superuser postgres owns table odd.r: a recovery fails unless" in report(world, f"{CONTEXT}-backup")


@pytest.mark.long
def test_what_a_login_has_to_act_for_is_named_the_same_night(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A function of another owner comes along where the context's code names it."""
    surround(
        world, monkeypatch, "RESET ROLE", "CREATE FUNCTION odd.by_app() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "ALTER FUNCTION by_app() OWNER TO consulting_app", AS_OWNER,
        "CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.v := odd.by_app(); RETURN NEW; END'",
        "CREATE TRIGGER touch BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION touch()",
    )  # fmt: skip
    grant = 'GRANT "consulting_app" TO "backup_loader"'
    world.backup(context=CONTEXT)
    (warning,) = newest(world).warnings
    assert (
        warning.startswith(
            'consulting_app owns function odd.by_app(), and login "backup_loader", which loads recoveries, is not a member'
        )
        and grant in warning
    )
    assert warning in report(world, f"{CONTEXT}-backup")
    with pytest.raises(BadInput, match=grant):
        world.recover(context=CONTEXT)
    assert not world.target.has_database(world.database)
    try:
        for server in (world.source, world.target):
            with server.connect() as connection:
                connection.execute(grant.encode())
        assert "Nothing" in stored_and_recovered(world)
        assert newest(world).warnings == []
    finally:
        for server in (world.source, world.target):
            with server.connect() as connection:
                connection.execute("REVOKE consulting_app FROM backup_loader")


@pytest.mark.long
def test_a_dictionary_that_names_one_that_is_dumped_after_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    surround(
        world, monkeypatch, "CREATE TEXT SEARCH DICTIONARY stems (TEMPLATE = snowball, LANGUAGE = english)",
        "CREATE TEXT SEARCH DICTIONARY phrases (TEMPLATE = thesaurus, DICTFILE = thesaurus_sample, DICTIONARY = odd.stems)",
        "CREATE TEXT SEARCH CONFIGURATION search (COPY = english)",
        "ALTER TEXT SEARCH CONFIGURATION search ALTER MAPPING FOR asciiword WITH phrases, stems",
        "ALTER TABLE t ADD COLUMN w tsvector GENERATED ALWAYS AS (to_tsvector('odd.search', v)) STORED",
    )  # fmt: skip
    stored_and_recovered(world)
    assert ask_target(world, "SELECT count(w) FROM odd.t") == [(2,)]


@pytest.mark.long
@pytest.mark.parametrize("is_there", [False, True])
def test_what_an_owner_took_from_himself_stays_taken(world: World, monkeypatch: pytest.MonkeyPatch, is_there: bool) -> None:
    """Rows are loaded before that, and sequences set."""
    sequence = () if is_there else (
        "REVOKE ALL ON SEQUENCE log_id_seq FROM consulting_owner", "GRANT USAGE ON SEQUENCE log_id_seq TO consulting_owner",
    )  # fmt: skip
    surround(
        world, monkeypatch, "CREATE TABLE log (id serial, v text)", "INSERT INTO log (v) VALUES ('a')",
        "REVOKE INSERT, UPDATE, TRUNCATE ON log FROM consulting_owner", *sequence, tables=["t", "log"],
    )  # fmt: skip
    before = odd_statements(world, world.source)
    world.backup(context=CONTEXT)
    if is_there:
        world.target.create_database(world.database, "consulting_owner")
    # Whether others could write there cannot be tried in the owner's name.
    assert re.match(r"PASS: .*; 1 writes could not be tried", world.recover(context=CONTEXT))
    assert {name: text for name, text in before.items() if "SCHEMA beside" not in name} == odd_statements(world, world.target)
    assert ask_target(world, "SELECT v FROM odd.log") == [("a",)]


ONLY_SUPERUSERS = {
    "an index by an operator class": ("operator class odd.down for access method btree", """RESET ROLE;
        CREATE OPERATOR CLASS down FOR TYPE int USING btree AS OPERATOR 1 >, OPERATOR 2 >=, OPERATOR 3 =, OPERATOR 4 <=,
            OPERATOR 5 <, FUNCTION 1 reversed(int, int);
        ALTER OPERATOR CLASS down USING btree OWNER TO consulting_owner; SET ROLE consulting_owner;
        CREATE INDEX down ON t (id odd.down)"""),
    "a type with functions of the server": ("type odd.word", """RESET ROLE; CREATE TYPE word;
        CREATE FUNCTION word_in(cstring) RETURNS word IMMUTABLE STRICT LANGUAGE internal AS 'textin';
        CREATE FUNCTION word_out(word) RETURNS cstring IMMUTABLE STRICT LANGUAGE internal AS 'textout';
        CREATE TYPE word (INPUT = word_in, OUTPUT = word_out, LIKE = text);
        ALTER FUNCTION word_in(cstring) OWNER TO consulting_owner; ALTER FUNCTION word_out(word) OWNER TO consulting_owner;
        ALTER TYPE word OWNER TO consulting_owner; SET ROLE consulting_owner; ALTER TABLE t ADD COLUMN w word DEFAULT 'x'"""),
    "a way to keep rows": ("access method kept", """RESET ROLE; CREATE ACCESS METHOD kept TYPE TABLE HANDLER heap_tableam_handler;
        SET ROLE consulting_owner; ALTER TABLE t SET ACCESS METHOD kept"""),
    "a parser of texts": ("text search parser odd.words", """RESET ROLE;
        CREATE TEXT SEARCH PARSER words (START = prsd_start, GETTOKEN = prsd_nexttoken, END = prsd_end, LEXTYPES = prsd_lextype);
        SET ROLE consulting_owner; CREATE TEXT SEARCH CONFIGURATION search (PARSER = words);
        ALTER TABLE t ADD COLUMN w tsvector GENERATED ALWAYS AS (to_tsvector('odd.search', v)) STORED"""),
}  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("what", ONLY_SUPERUSERS)
def test_what_only_a_superuser_makes_is_named_the_same_night(world: World, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    name, statement = ONLY_SUPERUSERS[what]
    backwards = "CREATE FUNCTION reversed(int, int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT btint4cmp($2, $1)'"
    surround(world, monkeypatch, backwards, statement)
    before = odd_statements(world, world.source)
    assert world.backup(context=CONTEXT).startswith("STORED")
    made = newest(world).only_superusers
    assert name in made and all(text.startswith("CREATE ") for text in made.values())
    assert f"{name} can be created by a superuser only" in report(world, f"{CONTEXT}-backup")
    with pytest.raises(BadInput, match=f"only a superuser can create .*{name}.*BACKUP_LOAD_AS_SUPERUSER"):
        world.recover(context=CONTEXT)
    assert not world.target.has_database(world.database)
    with pytest.raises(AssertionError, match=f"only a superuser can make .*{name}"):
        restore_by_hand(world, "by_hand", context=CONTEXT)
    restore_by_hand(world, "by_hand", context=CONTEXT, BACKUP_LOAD_AS_SUPERUSER="yes")
    world.extra["BACKUP_LOAD_AS_SUPERUSER"] = "postgres"
    assert world.recover("postgres", context=CONTEXT).startswith("PASS")
    assert {name: text for name, text in before.items() if "SCHEMA beside" not in name} == odd_statements(world, world.target)


def test_what_the_context_file_includes_comes_along(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    included = [
        {"kind": "function", "name": "beside.theirs()"}, {"kind": "type", "name": "beside.unused"},
        {"kind": "function", "name": "beside.\"By App\"(integer)"},
    ]  # fmt: skip
    by_app = (
        "RESET ROLE", "CREATE FUNCTION beside.\"By App\"(int) RETURNS int LANGUAGE sql AS 'SELECT 8'",
        'ALTER FUNCTION beside."By App"(int) OWNER TO consulting_app; GRANT consulting_app TO backup_loader',
    )  # fmt: skip
    with world.target.connect() as connection:
        connection.execute("GRANT consulting_app TO backup_loader")
    surround(world, monkeypatch, *ALONE, *by_app, include=included)
    try:
        assert "Nothing" in stored_and_recovered(world)
        assert ask_target(world, 'SELECT beside.theirs(), 5::beside.unused, beside."By App"(1)') == [(7, 5, 8)]
    finally:
        for server in (world.source, world.target):
            with server.connect() as connection:
                connection.execute("REVOKE consulting_app FROM backup_loader")


WRONG = {
    'there is no function "beside.theirs" in database .* \\(the database has beside.theirs\\(\\)\\)': ("function", "beside.theirs"),
    'view "beside.mixed" cannot be included: it needs table beside.users of another context': ("view", "beside.mixed"),
}


@pytest.mark.parametrize("said", WRONG)
def test_what_cannot_be_included_is_refused(world: World, monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    kind, name = WRONG[said]
    surround(world, monkeypatch, *ALONE, NAMED["view beside.mixed"], include=[{"kind": kind, "name": name}])
    with pytest.raises(BadInput, match=f"include: .*{said}"):
        world.backup(context=CONTEXT)
    assert list(world.store_folder.rglob("manifest.json")) == []
