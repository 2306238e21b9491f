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
    """Return a row per set, then unfinished and expired ones and legacy files, as plain values."""
    sets = [_set_row(entry, instant, zone) for entry in listing.sets]
    unfinished: list[dict[str, object]] = [
        {
            "id": unfinished_set.name.id,
            "kind": str(unfinished_set.name.kind),
            "state": "unfinished",
            "note": _unfinished_note(unfinished_set, zone),
        }
        for unfinished_set in listing.unfinished
    ]
    expired = [_expired_row(expired_set, zone) for expired_set in listing.expired]
    return [*sets, *unfinished, *expired, *(_legacy_row(file, instant, zone) for file in listing.legacy)]


def _set_row(entry: ListedSet, instant: datetime, zone: ZoneInfo) -> dict[str, object]:
    row: dict[str, object] = {"id": entry.name.id, "kind": str(entry.name.kind), "state": entry.state, "class": entry.storage_class}
    if entry.manifest:
        taken = entry.manifest.snapshot.instant
        row |= {
            "instant": markdown.local_time(taken, zone), "age": _age(taken, instant), "rows": entry.manifest.rows,
            "bytes": entry.manifest.bytes, "base": entry.manifest.base or "-",
        }  # fmt: skip
    return row | {"note": entry.damage or entry.aside or _warned(entry)}


def _warned(entry: ListedSet) -> str:
    if entry.manifest is None:
        return ""
    keep_until = (
        f"keep until {markdown.local_time(entry.manifest.keep_until, entry.manifest.zone)}" if entry.manifest.keep_until else ""
    )
    losses = f"lost since the last good full backup: {'; '.join(entry.manifest.losses)}" if entry.manifest.losses else ""
    warnings = f"{len(entry.manifest.warnings)} warnings, see its report" if entry.manifest.warnings else ""
    return ", ".join(filter(None, (entry.manifest.label, entry.manifest.instead, keep_until, losses, warnings)))


def _unfinished_note(unfinished: UnfinishedSet, zone: ZoneInfo) -> str:
    return (
        f"no manifest, so that it is deleted after {markdown.local_time(unfinished.since + GRACE, zone)}"
        if unfinished.since
        else "no manifest"
    )


def _expired_row(expired: ExpiredSet, zone: ZoneInfo) -> dict[str, object]:
    until = markdown.local_time(expired.since + GRACE, zone)
    return {
        "id": expired.name.id,
        "kind": str(expired.name.kind),
        "state": "expired",
        "class": expired.storage_class,
        "bytes": expired.bytes,
        "note": f"its data are deleted after {until}; to put it back, rename its {EXPIRED_FILE} to {MANIFEST_FILE}",
    }


def _legacy_row(file: LegacyFile, instant: datetime, zone: ZoneInfo) -> dict[str, object]:
    return {
        "id": file.key, "kind": "legacy", "state": "legacy", "class": file.storage_class, "bytes": file.bytes,
        "instant": markdown.local_time(file.modified, zone), "age": _age(file.modified, instant),
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
    """Print the table, and below it the notes on single sets."""
    table = Table(title=f"Backups of {context}, newest first")
    for name, justify in COLUMNS.items():
        table.add_column(name, justify=justify, no_wrap=True, overflow="fold")
    for row in rows:
        table.add_row(*_cells(row))
    # Ids are copied: a narrow terminal may wrap the line, but must not break an id.
    console = Console(highlight=False, width=Measurement.get(WIDE, WIDE.options, table).maximum)
    console.print(table)
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
