"""Nothing of BC-004 is in the project's own Python: what the flows know of a context, its folder says."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.core.context import CONTEXT_FILE, parse_context
from tests.support import PROJECT

FOLDER = PROJECT / "deployments" / "contexts" / "bc-004"
EXAMPLE = PROJECT / "deployments" / "example"
MODULES = sorted(path for package in ("flows", "tasks", "blocks") for path in (PROJECT / package).rglob("*.py"))
# What any schema may have, others than BC-004 look after, or libpq calls so as well.
GENERIC = {"created_at", "updated_at", "deleted_at", "start_date", "end_date", "users", "error_message"}
MADE = re.compile(r"^CREATE (?:TABLE|MATERIALIZED VIEW|FUNCTION|TRIGGER) (\w+)(?!\w*\.)", re.MULTILINE)
CHECK = re.compile(r"^-- check: (\w+)", re.MULTILINE)
# A column of one word is a word of the language.
COLUMN = re.compile(r"^    ([a-z]+(?:_[a-z]+)+) (?:uuid|varchar|int|text|numeric|timestamp|date|boolean|jsonb)\b", re.MULTILINE)


def identifiers() -> Iterator[str]:
    """Yield what is named in the context's folder and in the example's schema."""
    context = parse_context((FOLDER / CONTEXT_FILE).read_text(encoding="utf-8"), CONTEXT_FILE)
    yield from (*context.tables, *context.views, *(rule.column for rule in context.partitions))
    yield from (rule.name.partition("{")[0].rstrip("_") for rule in context.partitions)
    yield from CHECK.findall((FOLDER / "checks.sql").read_text(encoding="utf-8"))
    for name in ("tables.sql", "triggers.sql", "views.sql"):
        yield from MADE.findall((EXAMPLE / name).read_text(encoding="utf-8"))
    yield from COLUMN.findall((EXAMPLE / "tables.sql").read_text(encoding="utf-8"))


NAMES = sorted({*identifiers()} - GENERIC)
# `teams` is in `teams_restored_…` too, but not in `steams`.
NAMED = re.compile(rf"(?<![a-z0-9])(?:{'|'.join(NAMES)})(?![a-z0-9])", re.IGNORECASE)


def test_the_names_are_found() -> None:
    assert {
        "organizations", "policy_violations", "mv_unit_statistics", "is_last_leader", "team_members_count", "team_has_leader",
        "detected_at", "parent_unit_id",
    } < {*NAMES}  # fmt: skip
    assert len(NAMES) > 80


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PROJECT).as_posix())
def test_no_module_names_anything_of_bc_004(path: Path) -> None:
    lines = enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
    assert [f"{path.name}:{number}: {found[0]}" for number, line in lines if (found := NAMED.search(line))] == []
