"""The job of streaming a relation, and its result: what run and streaming process exchange."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from tasks.core.rows.file_blocks import BaseBlocks, BlockRows
from tasks.core.rows.pages import Pages


@dataclass(frozen=True)
class RowKeys:
    """Rows selected by key: the columns, their types and equality operators, the values as text."""

    columns: list[str]
    types: list[str]
    equal: list[str]
    values: list[list[str]]


@dataclass(frozen=True)
class StreamJob:
    """A job: which relation to read, under which snapshot, into which file.

    Without a file the rows are only counted and hashed. With `count_blocks` the rows of each block
    are counted too; with a `base` only rows of changed blocks are written; with `only` only these
    rows are read; with `pages` only those pages of a heap.
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
    pages: Pages | None = None

    @property
    def title(self) -> str:
        """The name of what is read, for the names of runs."""
        return f"{self.name} from page {self.pages.first:,}" if self.pages else self.name

    @classmethod
    def parse(cls, plain: Mapping[str, Any]) -> Self:
        """Return the job that another process sent."""
        base, only, pages = plain["base"], plain["only"], plain["pages"]
        blocks = base and BaseBlocks(base["xmin"], BlockRows.parse(base["counted"]))
        return cls(**{**plain, "base": blocks, "only": only and RowKeys(**only), "pages": pages and Pages.parse(pages)})


@dataclass(frozen=True)
class StreamFacts:
    """A job's result: rows, digest (32 hex digits), plain and compressed bytes, the file's SHA-256.

    If the job requests them, also the row counts by block (none for a table that is not a heap),
    the number of rows of changed blocks that were written, and the lines of the base that they
    replace (as render_lines writes them).
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
        """Return the facts that another process sent."""
        return cls(**{**plain, "blocks": plain["blocks"] and BlockRows.parse(plain["blocks"])})


@dataclass(frozen=True)
class StreamFault:
    """The reason why a job failed.

    `moved` if the schema changed, so that another snapshot may succeed; `lost` if the session was
    lost, so that another session may succeed.
    """

    message: str
    moved: bool
    lost: bool = False
