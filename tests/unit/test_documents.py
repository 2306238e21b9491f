"""The documents: short paragraphs, files that exist, and commands that are written twice agree."""

import re
from pathlib import Path

import pytest
import yaml

from tests.support import PROJECT

DOCUMENTS = sorted([*PROJECT.glob("*.md"), *(PROJECT / "docs").glob("*.md")])
FENCED = re.compile(r"^( *)```.*?^\1```$", re.MULTILINE | re.DOTALL)
# What begins a paragraph within a list or below a heading.
ITEM = re.compile(r"^ *(?:[-*]|\d+\.) ", re.MULTILINE)
LINK = re.compile(r"\]\([^)]*\)")
# A Japanese word has about two characters.
WORD = re.compile(r"[ぁ-んァ-ヶー一-龠々]{1,2}|[^\sぁ-んァ-ヶー一-龠々。、（）「」・:]+")
MOST_WORDS = 80
FILE = re.compile(r"`((?:tasks|flows|blocks|deployments|tests|docs)/[\w/.-]+\.\w+|test_\w+\.py)`")


def paragraphs(text: str) -> list[str]:
    """Return the paragraphs and list items of a document, without code blocks and tables."""
    text = re.sub(r"^(?: *\||#).*$", "", LINK.sub("]", FENCED.sub("\n", text)), flags=re.MULTILINE)
    return [part.strip() for part in re.split(r"\n\s*\n", ITEM.sub(r"\n\n\g<0>", text)) if part.strip()]


def test_what_a_paragraph_is() -> None:
    text = (
        "# Title\nOne\ntwo.\n- three\n  four\n- five\n\n   ```sh\n   # a b c\n   ```\n| a | b |\n| - | - |\n6. six [seven](eight)\n"
    )
    assert paragraphs(text) == ["One\ntwo.", "- three\n  four", "- five", "6. six [seven]"]
    assert len(WORD.findall("`a b` を復元します。cd, e")) == 7


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(PROJECT).as_posix())
def test_paragraphs_are_short(path: Path) -> None:
    counted = [(len(WORD.findall(part)), part) for part in paragraphs(path.read_text(encoding="utf-8"))]
    assert [f"{words} words: {part[:70]}" for words, part in counted if words > MOST_WORDS] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(PROJECT).as_posix())
def test_files_that_are_named_exist(path: Path) -> None:
    names = {*FILE.findall(path.read_text(encoding="utf-8"))}
    tests = {file.name for file in (PROJECT / "tests").rglob("test_*.py")}
    assert sorted(name for name in names if name not in tests and not (PROJECT / name).exists()) == []


def test_hooks_before_a_commit_run_what_make_check_runs() -> None:
    makefile = (PROJECT / "Makefile").read_text(encoding="utf-8").replace("$(BIN)", ".venv/bin")
    (rule,) = re.findall(r"^check: install\n((?:\t.*\n)+)", makefile, re.MULTILINE)
    hooks = yaml.safe_load((PROJECT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    assert [repository["repo"] for repository in hooks] == ["local"]
    assert [hook["entry"] for hook in hooks[0]["hooks"]] == rule.replace("\t", "").splitlines()
