"""What of an archive's list is made by the login that makes the database: schemas and extensions, which have no owner's code."""

from tasks.core.postgres.archive_toc import split_list

LIST = """4; 2615 2200 SCHEMA - app consulting_owner
9; 0 0 ACL - SCHEMA app consulting_owner
2; 3079 16385 EXTENSION - ltree
10; 0 0 COMMENT - EXTENSION ltree
215; 1259 16400 TABLE app things consulting_owner
3301; 0 0 COMMENT app TABLE things consulting_owner
3302; 0 0 ACL app TABLE things consulting_owner
216; 1255 16401 FUNCTION app SCHEMA() consulting_owner
"""


def test_a_list_is_split_and_nothing_of_it_is_lost() -> None:
    frame, rest = split_list(LIST)
    assert [line.split("; ")[0] for line in frame.splitlines()] == ["4", "9", "2", "10"]
    assert sorted((frame + rest).splitlines()) == sorted(LIST.splitlines())
    assert split_list("") == ("", "")
