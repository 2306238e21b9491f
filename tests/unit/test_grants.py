"""Grants of an archive that others than an object's owner made: found, taken out, and nothing else."""

import pytest

from tasks.core.postgres.archive_script import Chunk
from tasks.core.postgres.grants import Grant, grants_by_others, takes_from_owner, without_grants_by_others

HEAD = "-- Name: TABLE t; Type: ACL; Schema: s; Owner: o\n--\n\n"
OWN = "GRANT SELECT ON TABLE s.t TO a WITH GRANT OPTION;\n"
BY_A = 'SET SESSION AUTHORIZATION a;\nGRANT SELECT ON TABLE s.t TO b;\nGRANT ALL("c;\nd"),UPDATE(e) ON TABLE s.t TO PUBLIC;\n'
END = "RESET SESSION AUTHORIZATION;\n"


def entry(text: str, *, has_class: bool = False) -> Chunk:
    return Chunk(1, has_class, frozenset({2}), text.encode())


def test_they_are_found_and_taken_out() -> None:
    odd = 'SET SESSION AUTHORIZATION "x ""y"";";\nGRANT ALL ON FUNCTION s.f(integer, "T") TO "r;" WITH GRANT OPTION;\n'
    chunk = entry(HEAD + OWN + BY_A + END + odd + END)
    assert grants_by_others(chunk, "UTF8") == [
        Grant("a", "GRANT SELECT ON TABLE s.t TO b;"),
        Grant("a", 'GRANT ALL("c;\nd"),UPDATE(e) ON TABLE s.t TO PUBLIC;'),
        Grant('x "y";', 'GRANT ALL ON FUNCTION s.f(integer, "T") TO "r;" WITH GRANT OPTION;'),
    ]
    assert without_grants_by_others(chunk).statements.decode() == HEAD + OWN


@pytest.mark.parametrize(
    "text",
    [
        "SET SESSION AUTHORIZATION a;\nGRANT owner TO b;\n",
        "SET SESSION AUTHORIZATION a;\nDROP TABLE s.t;\n",
        "SET SESSION AUTHORIZATION a;\nSELECT 1;\nGRANT SELECT ON TABLE s.t TO b;\n",
        "SET SESSION AUTHORIZATION a;\nGRANT SELECT ON TABLE 'x' TO b;\n",
    ],
)
def test_what_grants_no_privilege_is_none(text: str) -> None:
    assert grants_by_others(entry(HEAD + text + END), "UTF8") == []


def test_what_stands_after_something_else_is_none() -> None:
    text = "SET SESSION AUTHORIZATION a;\nGRANT SELECT ON TABLE s.t TO b;\nSELECT 1;\nGRANT SELECT ON TABLE s.t TO c;\n"
    assert [one.statement for one in grants_by_others(entry(HEAD + text + END), "UTF8")] == ["GRANT SELECT ON TABLE s.t TO b;"]


def test_the_body_of_a_function_is_left_alone() -> None:
    head = "-- Name: f(); Type: FUNCTION; Schema: s; Owner: o\n--\n\n"
    for chunk in (entry(head + BY_A + END, has_class=True), entry(head + BY_A + END), entry(HEAD + BY_A + END, has_class=True)):
        assert grants_by_others(chunk, "UTF8") == []
        assert without_grants_by_others(chunk) == chunk


@pytest.mark.parametrize(
    ("text", "is_so"),
    [
        (OWN, False),
        ("REVOKE ALL ON FUNCTION s.f() FROM PUBLIC;\nGRANT ALL ON FUNCTION s.f() TO a;\n", False),
        ("REVOKE ALL ON TABLE s.t FROM o;\nGRANT SELECT ON TABLE s.t TO o;\n", True),
        ('REVOKE ALL ON TABLE s."t\n" FROM "PUBLIC";\n', True),
        ("REVOKE ALL ON FUNCTION s.f() FROM PUBLIC;\nREVOKE ALL ON FUNCTION s.f() FROM o;\n", True),
    ],
)
def test_what_takes_from_the_owner(text: str, is_so: bool) -> None:
    assert takes_from_owner(entry(HEAD + text)) is is_so
