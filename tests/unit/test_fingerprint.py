"""When a drill is asked for: what a restore makes has a digest that nothing else changes, and is compared with what was proven."""

from datetime import timedelta
from zoneinfo import ZoneInfo

import pytest

from tasks.core.postgres.archive_toc import parse_chunks
from tasks.core.postgres.schema_text import digest_of
from tasks.core.restore.drill import last_proven, why_unproven
from tasks.core.sets.fingerprint import fingerprint_of
from tasks.core.sets.manifest import Scope
from tests.support.samples import INSTANT, drill, manifest

HEAD = """--
-- PostgreSQL database dump
--

\\restrict 3kq

-- Dumped from database version 18.4
-- Dumped by pg_dump version 18.4

SET statement_timeout = 0;

"""
END = """-- Completed on 2026-11-29 15:20:13 UTC

--
-- PostgreSQL database dump complete
--

\\unrestrict 3kq

"""
ROOM = "SET default_tablespace = '';\n\nSET default_table_access_method = heap;\n\n"
TABLE = "CREATE TABLE public.t (\n    id integer NOT NULL\n);\n\n\nALTER TABLE public.t OWNER TO o;"
FUNCTION = "CREATE FUNCTION public.f() RETURNS integer\n    LANGUAGE sql\n    AS $$\n-- A remark.\nSELECT 1;\n$$;"
GRANTS = "REVOKE ALL ON TABLE public.t FROM o;\nGRANT SELECT ON TABLE public.t TO a;\nGRANT SELECT ON TABLE public.t TO b;"


def entry(number: int, statements: str, oid: int = 16400, kind: str = "TABLE") -> str:
    needs = f"-- Dependencies: {number + 1}\n"
    return f"--\n-- TOC entry {number} (class 1259 OID {oid})\n{needs}-- Name: t; Type: {kind}; Owner: o\n--\n\n{statements}\n\n\n"


ENTRIES = [entry(1, FUNCTION) + ROOM, entry(2, TABLE), entry(3, GRANTS), entry(4, "CREATE INDEX i ON public.t USING btree (id);")]


def elsewhere(text: str) -> str:
    """Return an entry whose head says that its table lies in a tablespace of its own."""
    return text.replace("; Owner: o\n", "; Owner: o; Tablespace: fast\n")


def digest(*entries: str, head: str = HEAD, end: str = END, chosen: set[int] | None = None) -> str:
    return digest_of(parse_chunks((head + "".join(entries) + end).encode())[1], chosen or {1, 2, 3, 4})


@pytest.mark.parametrize(
    "again",
    [
        digest(*ENTRIES, head=HEAD.replace("18.4", "18.9"), end=END.replace("15:20", "16:00")),
        digest(*ENTRIES, head=HEAD.replace("3kq", "zzz"), end=END.replace("3kq", "zzz")),
        digest(*ENTRIES, head=HEAD.replace("\\restrict 3kq\n\n", ""), end=END.partition("\\unrestrict")[0]),
        digest(*ENTRIES, end=""),
        digest(*(text.replace("16400", "99999").replace("Dependencies: 2", "Dependencies: 7 8") for text in ENTRIES)),
        digest(*(text.replace("Owner: o\n", "Owner: o; Titled: otherwise\n-- Data Pos: 0\n") for text in ENTRIES)),
        # Whichever entry comes first is told with the settings before it.
        digest(ENTRIES[3], ENTRIES[2], ENTRIES[1], entry(1, FUNCTION), head=HEAD + ROOM),
        digest(ENTRIES[0], ENTRIES[1], entry(3, "\n".join(reversed(GRANTS.splitlines()))), ENTRIES[3]),
        digest(*ENTRIES, entry(9, "CREATE TABLE other.t ();")),
    ],
    ids=["versions", "restrict", "no restrict", "no end", "ids", "titles", "order", "order of grants", "another's table"],
)  # fmt: skip
def test_what_changes_no_digest(again: str) -> None:
    assert again == digest(*ENTRIES)


@pytest.mark.parametrize(
    "entries",
    [
        ENTRIES[:3],
        [*ENTRIES[:3], ENTRIES[3].replace("(id)", "(id DESC)")],
        [ENTRIES[0].replace("-- A remark.", "-- Another."), *ENTRIES[1:]],
        [ENTRIES[0], ENTRIES[1], ENTRIES[2].replace("TO b", "TO c"), ENTRIES[3]],
        [ENTRIES[0].replace("tablespace = ''", "tablespace = fast"), *map(elsewhere, ENTRIES[1:])],
        [*ENTRIES[:2], ENTRIES[2] + "SET default_tablespace = fast;\n\n", elsewhere(ENTRIES[3])],
        [ENTRIES[0].replace("heap", "columnar"), *ENTRIES[1:]],
    ],
    ids=["an object less", "another index", "another body", "another grant", "all elsewhere", "index elsewhere", "method"],
)  # fmt: skip
def test_what_changes_the_digest(entries: list[str]) -> None:
    assert digest(*entries) != digest(*ENTRIES)


def test_what_else_a_restore_makes_is_told_by_the_fingerprint() -> None:
    one = manifest()

    def told(**changes: object) -> str | None:
        return fingerprint_of(one.model_copy(update=changes), "d", {"citext": "1.6"})

    def of_database(**changes: object) -> str | None:
        return told(database=one.database.model_copy(update=changes))

    same = told()
    assert [told(id="x", relations=[], sequences=[], fingerprint="g"), of_database(oid=2, role_settings=["r: x=1"])] == [same] * 2
    assert of_database(settings=["a=1", "b=2"]) == of_database(settings=["b=2", "a=1"]) != same
    others = [told(roles=[]), told(outbound_keys=[]), told(views=[]), of_database(comment="c"), of_database(connection_limit=3)]
    others += [
        fingerprint_of(one, "e", {"citext": "1.6"}),
        fingerprint_of(one, "d", {"citext": "1.7"}),
        fingerprint_of(one, "d", {}),
    ]
    assert same not in others and len({*others}) == len(others)
    assert told(only=Scope(schema="public", tables=["teams"])) is None


A, B = "a" * 64, "b" * 64


def test_the_drill_of_the_newest_set_that_passed_is_the_last() -> None:
    later = INSTANT + timedelta(days=1)
    older, newer = drill(number=3, schema_fingerprint=A), drill(number=4, schema_fingerprint=B)
    # Whoever drills an old set again proves nothing about the new ones.
    again = drill(number=3, schema_fingerprint=A, instant=later)
    failed = drill(number=5, schema_fingerprint=A, instant=later, passed=False)
    assert last_proven([again, failed, newer, older]) == newer
    assert last_proven([again, older]) == again
    assert last_proven([failed, drill(instant=later)]) is None


@pytest.mark.parametrize(
    ("records", "why"),
    [
        ([], "schema not proven: no drill has run yet"),
        ([drill(passed=False)], "schema not proven: none of 1 drills passed"),
        ([drill()], "schema not proven: the drills that passed did not record which schema they restored"),
        ([drill(schema_fingerprint=A)],
         "schema changed since the last drill (bc-004_full_20251103_020000_3f9c, 2025-11-03 02:00:00 JST)"),
    ],
)  # fmt: skip
def test_why_a_drill_is_asked_for(records: list, why: str) -> None:
    assert why_unproven(records, last_proven(records), ZoneInfo("Asia/Tokyo")) == why
