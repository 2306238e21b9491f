"""The pieces of reports in Markdown: headlines, sections, tables, durations, sizes and times."""

import re
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta, tzinfo


def duration(seconds: float) -> str:
    """Return seconds as h:mm:ss; below two minutes as seconds with tenths."""
    return f"{seconds:.1f} s" if seconds < 120 else str(timedelta(seconds=round(seconds)))


def clock(seconds: float) -> str:
    """Return seconds as h:mm:ss, with days as hours, as objectives are written."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


def age(seconds: float) -> str:
    """Return seconds as days; below two days as h:mm:ss."""
    days = int(seconds // 86400)
    return f"{days:,} days" if days >= 2 else clock(max(seconds, 0))


def several(count: int, noun: str) -> str:
    """Return a count with its noun, for example `1 drill`, `2 drills`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def size(count: int) -> str:
    """Return a number of bytes in a fitting unit, for example `1.5 GB`."""
    value, units = float(count), ["B", "KB", "MB", "GB", "TB"]
    while value >= 1000 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.0f} {units[0]}" if units[0] == "B" else f"{value:.1f} {units[0]}"


def local_time(instant: datetime, zone: tzinfo) -> str:
    """Return an instant in the context's zone, for example 2025-11-03 02:00:00 JST."""
    return f"{instant.astimezone(zone):%Y-%m-%d %H:%M:%S %Z}"


def table(headers: Sequence[str], rows: Iterable[Sequence[object]], right: Iterable[int] = ()) -> str:
    """Return a markdown table; columns in `right` are aligned to the right."""
    aligned = set(right)
    rule = ["---:" if number in aligned else "---" for number in range(len(headers))]
    lines = [headers, rule, *([str(cell).replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def section(title: str, lines: Iterable[str], empty: str = "") -> str:
    """Return a heading with a list; without lines the heading with the text `empty`, or nothing."""
    items = [f"- {line}" for line in lines]
    if not items and not empty:
        return ""
    return f"## {title}\n\n" + ("\n".join(items) or empty) + "\n"


def sql_block(statements: str) -> str:
    """Return statements as a code block below a list item."""
    fence = "`" * max([3, *(len(backticks) + 1 for backticks in re.findall("`{3,}", statements))])
    lines = "".join(f"  {line}\n" for line in statements.split("\n"))
    return f"  {fence}sql\n{lines}  {fence}"


def promises(groups: Iterable[tuple[Sequence[str], float, float]]) -> str:
    """Return the objectives (RTO and RPO in seconds) of groups of tables, or "" without groups."""
    items = [f"- {', '.join(tables)}: RTO {clock(rto)}, RPO {clock(rpo)}" for tables, rto, rpo in groups]
    heading = "Objectives of single tables; a set has all tables, so the strictest objective applies:\n\n"
    return heading + "\n".join(items) + "\n" if items else ""


def headline(verdict: str) -> str:
    """Return a verdict with its first word as the heading."""
    word, _, text = verdict.partition(": ")
    return f"# {word}\n\n**{text}**\n"
