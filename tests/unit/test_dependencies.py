"""Which objects are a context's, and which entries of an archive restore them."""

from collections.abc import Iterable, Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.core.database.dependencies import Catalogue, Dependency, Graph, NamedObject, choose_objects
from tasks.core.postgres.archive_script import Chunk, parse_chunks, tablespace_of
from tasks.core.postgres.archive_toc import (
    choose_entries,
    failed_entries,
    parse_dependencies,
    parse_list,
    render_list,
    some_of_list,
    statements_of,
)

CLASSES = {"pg_class": 1, "pg_proc": 2, "pg_type": 3, "pg_namespace": 4, "pg_extension": 5, "pg_publication_rel": 6}
TRIGGER, CONSTRAINT, REWRITE, DEFAULT = 7, 8, 9, 10


def relation(oid: int) -> tuple[int, int]:
    return (CLASSES["pg_class"], oid)


def function(oid: int) -> tuple[int, int]:
    return (CLASSES["pg_proc"], oid)


OURS, OTHERS, OUR_INDEX, OTHERS_INDEX, OUR_VIEW, SEQUENCE = map(relation, (10, 20, 11, 21, 12, 13))


def graph_of(
    *edges: tuple[tuple[int, int], tuple[int, int], str], named: Sequence[NamedObject] = (), inline: Iterable[tuple[int, int]] = ()
) -> Graph:  # fmt: skip
    kinds: Mapping[int, str] = {10: "r", 20: "r", 11: "i", 21: "i", 12: "m", 13: "S"}
    return Graph(Catalogue([Dependency(*edge) for edge in edges], kinds, [*named], CLASSES, frozenset(inline)), [10, 12])


def choose(
    *edges: tuple[tuple[int, int], tuple[int, int], str], named: Sequence[NamedObject] = ()
) -> tuple[set[tuple[int, int]], set[tuple[int, int]]]:
    choice = choose_objects(graph_of(*edges, named=named))
    return set(choice.objects) - {OURS, OUR_VIEW}, set(choice.left_out)


def test_what_belongs_to_a_table_comes_with_it() -> None:
    trigger = (TRIGGER, 1)
    assert choose((OUR_INDEX, OURS, "a"), (SEQUENCE, OURS, "a"), (trigger, OURS, "a")) == ({OUR_INDEX, SEQUENCE, trigger}, set())


def test_what_is_needed_comes_too_and_what_that_needs() -> None:
    enum, schema, trigger = (CLASSES["pg_type"], 5), (CLASSES["pg_namespace"], 6), (TRIGGER, 1)
    edges = [(OURS, enum, "n"), (enum, schema, "n"), (trigger, OURS, "a"), (trigger, function(7), "n")]
    assert choose(*edges) == ({enum, schema, trigger, function(7)}, set())


def test_what_a_schema_or_an_extension_holds_is_not_ours_for_that() -> None:
    schema, extension = (CLASSES["pg_namespace"], 6), (CLASSES["pg_extension"], 8)
    edges = [
        (OURS, schema, "n"),
        (OTHERS, schema, "n"),
        (OURS, function(7), "n"),
        (function(7), extension, "e"),
        (function(9), extension, "e"),
    ]
    # A function of an extension comes as the extension; neither dump nor inventory has the function itself.
    assert choose(*edges) == ({schema, extension}, set())


def test_a_key_to_another_contexts_table_is_left_out_alone() -> None:
    key, check = (CONSTRAINT, 1), (CONSTRAINT, 2)
    edges = [(key, OURS, "a"), (key, OTHERS, "n"), (key, OTHERS_INDEX, "n"), (OTHERS_INDEX, OTHERS, "i"), (check, OURS, "a")]
    assert choose(*edges) == ({check}, {key})


def test_what_hangs_on_something_left_out_is_left_out_and_not_named_twice() -> None:
    key, internal = (CONSTRAINT, 1), (TRIGGER, 2)
    edges = [(key, OURS, "a"), (key, OTHERS, "n"), (internal, key, "i"), (internal, OURS, "n")]
    assert choose(*edges) == (set(), {key})


def test_another_contexts_view_on_our_table_is_not_ours() -> None:
    rule = (REWRITE, 1)
    assert choose((rule, OTHERS, "i"), (rule, OURS, "n")) == (set(), set())


def test_a_publication_of_ours_is_not_the_contexts() -> None:
    assert choose(((CLASSES["pg_publication_rel"], 1), OURS, "a")) == (set(), set())


def test_functions_named_in_the_source_of_a_chosen_function_come_too() -> None:
    trigger = (TRIGGER, 1)
    named = [
        NamedObject(function(7), "check_team", "BEGIN PERFORM member_count(NEW.id); END"),
        NamedObject(function(8), "member_count", "SELECT count(*)"),
        NamedObject(function(9), "count_all", "SELECT 1"),
    ]
    assert choose((trigger, OURS, "a"), (trigger, function(7), "n"), named=named) == ({trigger, function(7), function(8)}, set())


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("Score of", 'NEW.score := reviews."Score of"(NEW.id);'), ('say "x"', 'PERFORM "say ""x"""(1);'),
        ("評価の点", "RETURN 評価の点(1);"), ("score$v2", "RETURN Score$V2(1);"), ("score", "EXECUTE $q$SELECT score(1)$q$;"),
        ("Score of", """RAISE 'it is 5"'; RETURN "Score of"(1);"""),
    ],
)  # fmt: skip
def test_functions_of_any_name_are_found(name: str, source: str) -> None:
    named = [NamedObject(function(7), "caller", source), NamedObject(function(8), name, "")]
    assert choose((OURS, function(7), "n"), named=named)[0] == {function(7), function(8)}


def test_a_function_that_names_another_contexts_sequence_comes_all_the_same() -> None:
    trigger, theirs = (TRIGGER, 1), SEQUENCE
    named = [NamedObject(function(7), "caller", "SELECT nextval('others_id_seq')"), NamedObject(theirs, "others_id_seq", "")]
    edges = [(trigger, OURS, "a"), (trigger, function(7), "n"), (theirs, OTHERS, "i")]
    assert choose(*edges, named=named) == ({trigger, function(7)}, set())


@pytest.mark.parametrize(
    ("name", "source", "is_named"),
    [
        ("count$all", "PERFORM count$all(1)", True),
        ("$1", "RETURN $1", False),
        ("a b", 'PERFORM "x"."a b"(1)', True),
        ("a b", "PERFORM a b", False),
        ("-", 'PERFORM "-"(1)', True),
        ("-", "RETURN a - b", False),
        ('say "x"', 'PERFORM "say ""x"""()', True),
        ("a.b", "PERFORM a.b()", False),
    ],
)
def test_names_that_need_quotes_are_found_in_quotes(name: str, source: str, is_named: bool) -> None:
    trigger = (TRIGGER, 1)
    named = [NamedObject(function(7), "check_team", source), NamedObject(function(8), name, "")]
    objects, _ = choose((trigger, OURS, "a"), (trigger, function(7), "n"), named=named)
    assert (function(8) in objects) is is_named


def test_circles_end() -> None:
    assert choose((OURS, function(7), "n"), (function(7), OURS, "n")) == ({function(7)}, set())


def test_what_only_a_left_out_object_needs_is_left_out_with_it() -> None:
    trigger, touch, lost, behind, shared = (TRIGGER, 1), function(16401), function(16402), function(16403), function(16404)
    edges = [(trigger, OURS, "a"), (trigger, touch, "n"), (lost, OTHERS, "n")]
    named = [
        NamedObject(touch, "touch", "PERFORM lost(), shared()"), NamedObject(lost, "lost", "RETURN behind() + shared()"),
        NamedObject(behind, "behind", "RETURN 1"), NamedObject(shared, "shared", "RETURN 1"),
    ]  # fmt: skip
    choice = choose_objects(graph_of(*edges, named=named))
    assert choice.objects - {OURS, OUR_VIEW} == {trigger, touch, shared}
    assert choice.left_out == {lost: OTHERS}
    assert choice.with_them == {behind: lost}


def test_a_table_whose_default_is_lost_is_torn() -> None:
    default, key = (DEFAULT, 1), (CONSTRAINT, 1)
    edges = [(default, OURS, "a"), (default, function(7), "n"), (function(7), OTHERS, "n"), (key, OURS, "a"), (key, OTHERS, "n")]
    assert choose_objects(graph_of(*edges)).torn == {}
    assert choose_objects(graph_of(*edges, inline=[default])).torn == {default: OTHERS}
    # A domain is made with its check, so whoever needs the domain is lost, too.
    domain = (CLASSES["pg_type"], 16400)
    edges = [(key, domain, "a"), (key, function(7), "n"), (function(7), OTHERS, "n"), (OURS, domain, "n")]
    assert choose_objects(graph_of(*edges, inline=[key])).torn == {OURS: OTHERS}
    assert choose_objects(graph_of((OURS, OTHERS, "n"))).torn == {OURS: OTHERS}


def test_what_an_extension_brings_is_no_other_contexts() -> None:
    extension = (CLASSES["pg_extension"], 16400)
    edges = [(OTHERS, extension, "e"), (function(7), extension, "e"), (function(7), OTHERS, "n"), (OURS, function(7), "n")]
    assert choose(*edges) == ({extension}, set())


@pytest.mark.parametrize(
    ("source", "is_named"),
    [
        ("NEW.h := metaphone(NEW.v)", True), ("NEW.h := metaphone", False), ('RETURN ext."metaphone" (v)', True),
        ("RETURN x::metaphone", True), ("RETURN gen_random_uuid()", False), ("RETURN ext.gen_random_uuid()", True),
    ],
)  # fmt: skip
def test_what_extensions_bring_is_named_where_it_is_called(source: str, is_named: bool) -> None:
    trigger, extension = (TRIGGER, 1), (CLASSES["pg_extension"], 16400)
    edges = [(trigger, OURS, "a"), (trigger, function(7), "n"), (function(8), extension, "e"), (function(9), extension, "e")]
    named = [
        NamedObject(function(7), "f", source), NamedObject(function(8), "metaphone", schema="ext", called=True),
        NamedObject(function(9), "gen_random_uuid", schema="ext", called=True, shadowed=True),
    ]  # fmt: skip
    assert (extension in choose(*edges, named=named)[0]) is is_named


def test_texts_of_defaults_name_sequences_alone() -> None:
    default = (DEFAULT, 1)
    named = [
        NamedObject(default, "", "nextval('app.numbers'::text) + f", literal=True), NamedObject(SEQUENCE, "numbers"),
        NamedObject(function(7), "f", "RETURN 1"),
    ]  # fmt: skip
    assert choose((default, OURS, "a"), named=named)[0] == {default, SEQUENCE}


NODES = st.sampled_from([OURS, OTHERS, OUR_INDEX, OTHERS_INDEX, OUR_VIEW, function(7), (CONSTRAINT, 1), (TRIGGER, 1)])


@given(st.lists(st.tuples(NODES, NODES, st.sampled_from("naiPS")), max_size=12))
def test_another_contexts_table_is_never_chosen(edges: list[tuple[tuple[int, int], tuple[int, int], str]]) -> None:
    chosen, left_out = choose(*edges)
    assert OTHERS not in chosen
    assert not chosen & left_out


# --- the table of contents --------------------------------------------------------------------------------------------------

LIST = """;
; Archive created at 2025-11-03 02:00:00 JST
;     dbname: consulting_tool
;
2; 0 0 ENCODING - ENCODING
3; 0 0 STDSTRINGS - STDSTRINGS
4; 0 0 SEARCHPATH - SEARCHPATH
5; 2615 2200 SCHEMA - public pg_database_owner
220; 1259 10 TABLE public teams owner with space
221; 1259 20 TABLE public users owner
3500; 0 0 COMMENT public TABLE teams owner
3501; 0 0 COMMENT public TABLE users owner
3502; 0 0 ACL public TABLE teams owner
3503; 0 0 ACL - SCHEMA public pg_database_owner
3504; 0 0 ACL - SCHEMA public_too pg_database_owner
3505; 0 0 INDEX ATTACH public teams_pkey owner
"""
SCRIPT = """--
-- TOC entry 220 (class 1259 OID 10)
-- Name: teams; Type: TABLE; Schema: public; Owner: owner
--

CREATE TABLE teams ();
-- Dependencies: 221
-- TOC entry 3500 (class 0 OID 0)
-- Dependencies: 220
-- TOC entry 3501 (class 0 OID 0)
-- Dependencies: 221
-- TOC entry 3502 (class 0 OID 0)
-- Dependencies: 220 999
-- TOC entry 3505 (class 0 OID 0)
-- Dependencies: 220 221
"""


def test_the_list_is_read_line_by_line() -> None:
    entries = parse_list(LIST)
    assert [entry.dump_id for entry in entries] == [2, 3, 4, 5, 220, 221, 3500, 3501, 3502, 3503, 3504, 3505]
    assert entries[4].object_id == (1259, 10)
    assert entries[4].rest == "TABLE public teams owner with space"
    assert parse_list(render_list(entries)) == entries


def test_dependencies_are_those_of_the_comment_above_the_statement() -> None:
    assert parse_dependencies(SCRIPT) == {
        220: frozenset(), 3500: frozenset({220}), 3501: frozenset({221}), 3502: frozenset({220, 999}), 3505: frozenset({220, 221}),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("objects", "chosen"),
    [
        ([(1259, 10)], [2, 3, 4, 220, 3500, 3502, 3503]),
        ([(1259, 20)], [2, 3, 4, 221, 3501, 3503]),
        ([(1259, 10), (1259, 20)], [2, 3, 4, 220, 221, 3500, 3501, 3502, 3503, 3505]),
        ([], [2, 3, 4, 3503]),
    ],
)
def test_entries_are_chosen_with_what_is_said_about_them(objects: list[tuple[int, int]], chosen: list[int]) -> None:
    found = choose_entries(parse_list(LIST), parse_dependencies(SCRIPT), objects, ["public"])
    assert [entry.dump_id for entry in found] == chosen


VERBOSE = """--
-- TOC entry 220 (class 1259 OID 10)
-- Name: teams; Type: TABLE; Schema: public; Owner: owner
-- Data Pos: 0
--

SET default_tablespace = '';

CREATE TABLE public.teams (
    "-- Name" text DEFAULT '日本'
);


--
-- TOC entry 3502 (class 0 OID 0)
-- Dependencies: 220
-- Name: TABLE teams; Type: ACL; Schema: public; Owner: owner
--

GRANT SELECT ON TABLE public.teams TO app;


-- Completed on 2025-11-03 02:00:00 JST

--
-- PostgreSQL database dump complete
--
"""


@pytest.mark.parametrize(("encoding", "codec"), [("UTF8", "utf-8"), ("EUC_JP", "euc-jp"), ("SJIS", "sjis")])
def test_statements_are_those_of_an_object_with_what_is_said_about_it(encoding: str, codec: str) -> None:
    found = statements_of(VERBOSE.encode(codec), encoding, parse_list(LIST), dict.fromkeys([(1259, 10), (1259, 99)], ()))
    table = """CREATE TABLE public.teams (\n    "-- Name" text DEFAULT '日本'\n);"""
    assert found == {(1259, 10): f"{table}\nGRANT SELECT ON TABLE public.teams TO app;"}


def test_an_empty_list() -> None:
    assert parse_list("") == []
    assert render_list([]) == ""


# What jobs of pg_restore 18 said: without the entries, which one job alone would name.
SAID = """\
pg_restore: error: could not execute query: ERROR:  deadlock detected
Command was: CREATE INDEX a_b_idx ON public.a USING btree (b);


pg_restore: error: could not execute query: ERROR:  cannot attach index "a_2025_b_idx" as a partition of index "a
b_idx"
DETAIL:  Index "a_2025_b_idx" is not an index on any partition of table "t1".
Command was: ALTER INDEX public."a
b_idx" ATTACH PARTITION public.a_2025_b_idx;


pg_restore: warning: errors ignored on restore: 2
"""
PLACED = """SET default_tablespace = '';

SET default_table_access_method = heap;

--
-- TOC entry 1 (class 1259 OID 10)
-- Name: t; Type: TABLE; Schema: s; Owner: o
--

CREATE TABLE s.t ();


SET default_tablespace = "She'lf";

--
-- TOC entry 2 (class 1259 OID 11)
-- Dependencies: 1
-- Name: u; Type: TABLE; Schema: s; Owner: o; Tablespace: She'lf
--

CREATE TABLE s.u ();


--
-- TOC entry 3 (class 1255 OID 12)
-- Name: f(); Type: FUNCTION; Schema: s; Owner: o
--

CREATE FUNCTION s.f() RETURNS void LANGUAGE sql AS '
SET default_tablespace = other;

';


--
-- TOC entry 4 (class 1259 OID 13)
-- Name: i; Type: INDEX; Schema: s; Owner: o; Tablespace: She'lf
--

CREATE INDEX i ON s.t USING btree (a);


"""


def test_each_entry_says_where_its_table_lies() -> None:
    settings, chunks = parse_chunks(PLACED.encode())
    assert settings == b""
    assert [tablespace_of(one) for one in chunks] == [b"''", b'"She\'lf"', b"''", b'"She\'lf"']
    assert all(b"SET default_table_access_method = heap;\n" in one.statements for one in chunks)
    assert b"default_tablespace = other" in chunks[2].statements
    listed = parse_list("2; 1259 11 TABLE s u o\n")
    assert statements_of(PLACED.encode(), "UTF8", listed, {(1259, 11): ()}) == {(1259, 11): "CREATE TABLE s.u ();"}


QUOTED = {
    3435: "CREATE INDEX a_b_idx ON public.a USING btree (b) WHERE (b > 0);",
    3436: "CREATE INDEX a_b_idx ON public.a USING btree (b);",
    3440: 'ALTER INDEX public."a\nb_idx" ATTACH PARTITION public.a_2025_b_idx;',
    34360: "CREATE INDEX a_c_idx ON public.a USING btree (c);",
}


def test_what_failed_side_by_side_is_listed_for_another_try() -> None:
    listing = "".join(f"{number}; 1259 {number} INDEX public i{number} owner\n" for number in QUOTED)
    settings = "SET default_tablespace = '';\n\n"
    chunks = [Chunk(number, True, frozenset(), f"{settings}{text}\n\n\n".encode()) for number, text in QUOTED.items()]
    assert failed_entries(SAID, chunks) == {3436, 3440}
    again = some_of_list(f";\n; Archive\n{listing}", failed_entries(SAID, chunks))
    assert again == "3436; 1259 3436 INDEX public i3436 owner\n3440; 1259 3440 INDEX public i3440 owner\n"
    assert not failed_entries("pg_restore: error: no such file", chunks)
