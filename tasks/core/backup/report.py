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
    """Whether a drill proved what a restore of a set makes, or was asked for; and what is left to do if nobody could be asked."""

    said: str
    to_do: str = ""


def relation_rows(relations: Iterable[Relation], seconds: Mapping[str, float] | None = None) -> list[dict[str, object]]:
    """Return one row a relation, for the table artifact."""
    return [
        {
            "relation": one.qualified,
            "rows": one.rows,
            "stored bytes": one.bytes,
            "plain bytes": one.plain_bytes,
            "seconds": round(seconds.get(one.qualified, 0.0) if seconds else one.seconds, 2),
            "digest": one.digest,
        }
        for one in relations
    ]


def relation_table(manifest: Manifest, seconds: Mapping[str, float] | None) -> str:
    """Return the relations of a set as a markdown table, with the seconds of its dump or of the load."""
    rows = [
        (
            one.qualified,
            f"{one.rows:,}",
            f"`{one.digest[:12]}…`",
            size(one.bytes),
            duration(seconds.get(one.qualified, 0.0) if seconds else one.seconds),
        )
        for one in manifest.relations
    ]
    return table(["relation", "rows", "digest", "stored", "time"], rows, right=(1, 3, 4))


def backup_verdict(manifest: Manifest, seconds: float, zone: ZoneInfo) -> str:
    """Return the one line that says whether the backup is there."""
    warned = f", {len(manifest.warnings)} warnings" if manifest.warnings else ""
    lost = f", but rows are gone since the last good full: {'; '.join(manifest.losses[:3])}" if manifest.losses else ""
    aside, own = manifest.aside, bool(manifest.aside and manifest.aside.holds(manifest.number or 0))
    word = "SUSPECT" if lost else "SET ASIDE" if own else "STORED"
    other = "" if not aside else f", but neither `latest` nor a base: {aside.why}" if own else f", but {aside.why}"
    without = f", {short}" if (short := in_short(manifest)) else ""
    return (
        f"{word}: {manifest.id}, {len(manifest.relations)} relations, {manifest.rows:,} rows, {size(manifest.bytes)} "
        f"in {duration(seconds)}, state of {local_time(manifest.snapshot.instant, zone)}{warned}{without}{lost}{other}"
    )


def large_objects(large: LargeObjects) -> str:
    """Return how many large objects a set has, and which columns name them."""
    columns = ", ".join(f"{relation}({', '.join(names)})" for relation, names in large.columns.items())
    same = f", {large.inherited:,} of them as in the full" if large.inherited else ""
    return f"{large.objects:,}{same}, named by {columns or 'no column'}"


ACCEPT = "find out where the rows went; if they went on purpose, say so: `daily_backup` with `accept_losses=true`"


def backup_report(
    manifest: Manifest, path: str, seconds: float, zone: ZoneInfo, *, off_host: bool, local_copy: str | None = None,
    rehearsal: Rehearsal | None = None,
) -> str:  # fmt: skip
    """Return the report of a backup as markdown."""
    place = "" if off_host else "**Not off-host:** the store is a folder; if this machine is lost, so is the backup.\n"
    large = manifest.large_objects
    facts = [
        ("set", f"`{manifest.id}`"), ("path", f"`{path}`"), ("state of", local_time(manifest.snapshot.instant, zone)),
        ("LSN", manifest.snapshot.lsn), ("server", f"PostgreSQL {manifest.versions.server}, database {manifest.database.name}"),
        ("took", duration(seconds)), ("stored", f"{size(manifest.bytes)} ({manifest.bytes:,} bytes), read back and compared"),
        *([("large objects", large_objects(large))] if large else []),
        *([("differential against", f"`{manifest.base}`")] if manifest.base else []),
        *([("a full instead of a differential", manifest.instead)] if manifest.instead else []),
        *([("schema", rehearsal.said)] if rehearsal else []),
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
            section("Suspect: rows are gone since the last good full", manifest.losses), section("Warnings", manifest.warnings),
            section("Of another history", [manifest.aside.why] if manifest.aside else []),
            table(["what", "value"], facts) + "\n", "## Relations\n", relation_table(manifest, None) + "\n",
            section("Keys to other contexts, made after a restore when their tables are there", keys),
            section("Not in the backup: to be made by hand after a recovery", chores(manifest)),
            section("Still to do", to_do, "Nothing.\n"),
        )
        if part
    )  # fmt: skip
