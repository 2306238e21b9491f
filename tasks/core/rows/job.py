"""What to stream of one relation, and what came of it: what passes between a run and its streaming process."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from tasks.core.rows.file_blocks import BaseBlocks, BlockRows


@dataclass(frozen=True)
class RowKeys:
    """Rows by their key: its columns, their types, by what operators they are equal, and for each column the values as text."""

    columns: list[str]
    types: list[str]
    equal: list[str]
    values: list[list[str]]


@dataclass(frozen=True)
class StreamJob:
    """What to read, under which snapshot, and where to; without a file the rows are only counted and hashed.

    With `count_blocks` the rows of each block are counted too; with a `base` only rows of blocks that changed are written; with
    `only` no other rows than those are read.
    """

    database: str
    application_name: str
    schema: str
    name: str
    columns: list[str]
    encoding: str
    snapshot: str | None = None
    file: str | None = None
    count_blocks: bool = False
    base: BaseBlocks | None = None
    only: RowKeys | None = None

    @classmethod
    def parse(cls, plain: Mapping[str, Any]) -> Self:
        """Return the job that another process was given."""
        base, only = plain["base"], plain["only"]
        blocks = base and BaseBlocks(base["xmin"], BlockRows.parse(base["counted"]))
        return cls(**{**plain, "base": blocks, "only": only and RowKeys(**only)})


@dataclass(frozen=True)
class StreamFacts:
    """What went by: rows, digest (32 hex digits), bytes before and after compression, SHA-256 of the file.

    Where they were asked for: rows by block (none of a table that is no heap), how many rows were written of blocks that
    changed, and which lines of the base they replace (as render_lines writes them).
    """

    rows: int
    digest: str
    plain_bytes: int
    bytes: int
    sha256: str
    blocks: BlockRows | None = None
    taken: int = 0
    left_out: str = ""

    @classmethod
    def parse(cls, plain: Mapping[str, Any]) -> Self:
        """Return the facts that another process told."""
        return cls(**{**plain, "blocks": plain["blocks"] and BlockRows.parse(plain["blocks"])})


@dataclass(frozen=True)
class StreamFault:
    """Why a stream ended early; `moved` when another snapshot may do better."""

    message: str
    moved: bool
