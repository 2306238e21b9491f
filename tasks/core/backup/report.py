"""The report of a backup."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from zoneinfo import ZoneInfo

from tasks.core.report.markdown import duration, headline, local_time, section, size, table
from tasks.core.sets.large_objects import LargeObjects
from tasks.core.sets.left_out import chores, in_short
from tasks.core.sets.manifest import Manifest, Relation


@dataclass(frozen=True)
class Rehearsal:
    """Whether a drill proved a set's schema or was requested; `to_do` if the request failed."""

    outcome: str
    to_do: str = ""


def relation_rows(relations: Iterable[Relation], seconds: Mapping[str, float] | None = None) -> list[dict[str, object]]:
    """Return one row per relation, for the table artifact."""
    return [
        {
            "relation": relation.qualified,
            "rows": relation.rows,
            "stored bytes": relation.bytes,
            "plain bytes": relation.plain_bytes,
            "seconds": round(seconds.get(relation.qualified, 0.0) if seconds else relation.seconds, 2),
            "digest": relation.digest,
        }
        for relation in relations
    ]


def relation_table(manifest: Manifest, seconds: Mapping[str, float] | None) -> str:
    """Return the relations of a set as a Markdown table, with the seconds of their dump or load."""
    rows = [
        (
            relation.qualified,
            f"{relation.rows:,}",
            f"`{relation.digest[:12]}…`",
            size(relation.bytes),
            duration(seconds.get(relation.qualified, 0.0) if seconds else relation.seconds),
        )
        for relation in manifest.relations
    ]
    return table(["relation", "rows", "digest", "stored", "time"], rows, right=(1, 3, 4))


def backup_verdict(manifest: Manifest, seconds: float, zone: ZoneInfo) -> str:
    """Return the verdict on a backup, in one line."""
    warned = f", {len(manifest.warnings)} warnings" if manifest.warnings else ""
    lost = f", but tables lost rows since the last good full backup: {'; '.join(manifest.losses[:3])}" if manifest.losses else ""
    aside, own = manifest.aside, bool(manifest.aside and manifest.aside.holds(manifest.number or 0))
    word = "SUSPECT" if lost else "SET ASIDE" if own else "STORED"
    other = (
        ""
        if not aside
        else f", but set aside, so that it is neither `latest` nor a base: {aside.why}"
        if own
        else f", but {aside.why}"
    )
    without = f", {short}" if (short := in_short(manifest)) else ""
    return (
        f"{word}: {manifest.id}, {len(manifest.relations)} relations, {manifest.rows:,} rows, "
        f"{size(manifest.bytes)} in {duration(seconds)}, state of "
        f"{local_time(manifest.snapshot.instant, zone)}{warned}{without}{lost}{other}"
    )


def large_objects(large: LargeObjects) -> str:
    """Return how many large objects a set has, and which columns reference them."""
    columns = ", ".join(f"{relation}({', '.join(names)})" for relation, names in large.columns.items())
    same = f", {large.inherited:,} of them unchanged since the full backup" if large.inherited else ""
    return f"{large.objects:,}{same}, referenced by {columns or 'no column'}"


ACCEPT = "find out why rows are missing; if they were deleted on purpose, run `daily_backup` with `accept_losses=true`"


def backup_report(
    manifest: Manifest,
    path: str,
    seconds: float,
    zone: ZoneInfo,
    *,
    off_host: bool,
    local_copy: str | None = None,
    rehearsal: Rehearsal | None = None,
) -> str:
    """Return the report of a backup as Markdown."""
    place = "" if off_host else "**Not off-host:** the store is a folder; if this machine is lost, so is the backup.\n"
    large = manifest.large_objects
    facts = [
        ("set", f"`{manifest.id}`"), ("path", f"`{path}`"), ("state of", local_time(manifest.snapshot.instant, zone)),
        ("LSN", manifest.snapshot.lsn), ("server", f"PostgreSQL {manifest.versions.server}, "
                                                   f"database {manifest.database.name}"),
        ("took", duration(seconds)), ("stored", f"{size(manifest.bytes)} ({manifest.bytes:,} "
                                                "bytes), read back and compared"),
        *([("large objects", large_objects(large))] if large else []),
        *([("differential against", f"`{manifest.base}`")] if manifest.base else []),
        *([("full backup instead of a differential", manifest.instead)] if manifest.instead else []),
        *([("schema", rehearsal.outcome)] if rehearsal else []),
        *([("local copy", local_copy)] if local_copy else []),
        *([("label", manifest.label)] if manifest.label else []),
        *([("kept until", local_time(manifest.keep_until, zone))] if manifest.keep_until else []),
    ]  # fmt: skip
    to_do = [*([ACCEPT] if manifest.losses else []), *manifest.warnings]
    to_do += [rehearsal.to_do] if rehearsal and rehearsal.to_do else []
    keys = [f"{key.name} of {key.table} to {key.references}" for key in manifest.outbound_keys]
    return "\n".join(
        part
        for part in (
            headline(backup_verdict(manifest, seconds, zone)), place,
            section("Suspect: tables lost rows since the last good full backup", manifest.losses),
        section("Warnings", manifest.warnings),
            section("Another history", [manifest.aside.why] if manifest.aside else []),
            table(["what", "value"], facts) + "\n", "## Relations\n", relation_table(manifest, None) + "\n",
            section("Foreign keys to other contexts, to be created after a restore once their "
                    "tables exist", keys),
            section("Not in the backup: to be created by hand after a recovery", chores(manifest)),
            section("Still to do", to_do, "Nothing.\n"),
        )
        if part
    )  # fmt: skip
