"""The table of backup sets, for the terminal and for the UI."""

from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from prefect.artifacts import create_table_artifact
from rich.console import Console, JustifyMethod
from rich.measure import Measurement
from rich.table import Table

from tasks.core.report import markdown
from tasks.core.sets.manifest_file import MANIFEST_FILE
from tasks.core.sets.retention import EXPIRED_FILE, GRACE
from tasks.run.run import step
from tasks.sets.listing import ExpiredSet, LegacyFile, ListedSet, Listing, UnfinishedSet


def listing_rows(listing: Listing, instant: datetime, zone: ZoneInfo) -> list[dict[str, object]]:
    """Return one row a set, then the unfinished and the expired ones and the legacy files, as plain values."""
    sets = [_set_row(one, instant, zone) for one in listing.sets]
    unfinished: list[dict[str, object]] = [
        {"id": one.name.id, "kind": str(one.name.kind), "state": "unfinished", "note": _unfinished_note(one, zone)}
        for one in listing.unfinished
    ]
    expired = [_expired_row(one, zone) for one in listing.expired]
    return [*sets, *unfinished, *expired, *(_legacy_row(one, instant, zone) for one in listing.legacy)]


def _set_row(one: ListedSet, instant: datetime, zone: ZoneInfo) -> dict[str, object]:
    row: dict[str, object] = {"id": one.name.id, "kind": str(one.name.kind), "state": one.state, "class": one.storage_class}
    if one.manifest:
        taken = one.manifest.snapshot.instant
        row |= {
            "instant": markdown.local_time(taken, zone), "age": _age(taken, instant), "rows": one.manifest.rows,
            "bytes": one.manifest.bytes, "base": one.manifest.base or "-",
        }  # fmt: skip
    return row | {"note": one.damage or one.aside or _warned(one)}


def _warned(one: ListedSet) -> str:
    if one.manifest is None:
        return ""
    kept = f"keep until {markdown.local_time(one.manifest.keep_until, one.manifest.zone)}" if one.manifest.keep_until else ""
    lost = f"lost since the last good full: {'; '.join(one.manifest.losses)}" if one.manifest.losses else ""
    warned = f"{len(one.manifest.warnings)} warnings, see its report" if one.manifest.warnings else ""
    return ", ".join(filter(None, (one.manifest.label, one.manifest.instead, kept, lost, warned)))


def _unfinished_note(one: UnfinishedSet, zone: ZoneInfo) -> str:
    return f"no manifest; swept after {markdown.local_time(one.since + GRACE, zone)}" if one.since else "no manifest"


def _expired_row(one: ExpiredSet, zone: ZoneInfo) -> dict[str, object]:
    until = markdown.local_time(one.since + GRACE, zone)
    return {
        "id": one.name.id, "kind": str(one.name.kind), "state": "expired", "class": one.storage_class, "bytes": one.bytes,
        "note": f"its data are deleted after {until}; to have it back, rename its {EXPIRED_FILE} to {MANIFEST_FILE}",
    }  # fmt: skip


def _legacy_row(one: LegacyFile, instant: datetime, zone: ZoneInfo) -> dict[str, object]:
    return {
        "id": one.key, "kind": "legacy", "state": "legacy", "class": one.storage_class, "bytes": one.bytes,
        "instant": markdown.local_time(one.modified, zone), "age": _age(one.modified, instant),
        "note": "a file of the old scripts; never touched",
    }  # fmt: skip


def _age(then: datetime, instant: datetime) -> str:
    return markdown.duration(max(0, (instant - then).total_seconds()))


COLUMNS: dict[str, JustifyMethod] = {
    "id": "left", "instant": "left", "age": "right", "rows": "right", "size": "right",
    "state": "left", "base": "left", "class": "left",
}  # fmt: skip
WIDE = Console(width=1000)


def print_listing(context: str, rows: list[dict[str, object]]) -> None:
    """Print the table, and below it what has to be said about single sets."""
    shown = Table(title=f"Backups of {context}, newest first")
    for name, justify in COLUMNS.items():
        shown.add_column(name, justify=justify, no_wrap=True, overflow="fold")
    for row in rows:
        shown.add_row(*_cells(row))
    # Ids are for copying: a narrow terminal may wrap the line, but never breaks an id into pieces.
    console = Console(highlight=False, width=Measurement.get(WIDE, WIDE.options, shown).maximum)
    console.print(shown)
    for row in rows:
        if row["note"]:
            console.print(f"{row['id']}: {row['note']}")


def _cells(row: dict[str, object]) -> list[str]:
    rows, size = row.get("rows"), row.get("bytes")
    spelled = {"rows": f"{rows:,}" if isinstance(rows, int) else "", "size": markdown.size(size) if isinstance(size, int) else ""}
    return [spelled.get(name) or str(row.get(name, "")) for name in COLUMNS]


@step
def publish_listing(context: str, listing: Listing, rows: list[dict[str, Any]], instant: datetime) -> None:
    """Publish the table of backup sets."""
    description = f"{len(listing.sets)} sets, {len(listing.legacy)} legacy files, {len(listing.unfinished)} unfinished"
    create_table_artifact(key=f"{context}-backups", table=rows, description=f"{description}, {instant:%Y-%m-%d %H:%M}Z")
