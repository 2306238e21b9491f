"""The reports that operators read: verdict first, then what was done, then what a human still has to do."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo

from tasks.core.checks import Finding, Verdict, failures, summary
from tasks.core.manifest import Manifest, Relation
from tasks.core.progress import Look


def duration(seconds: float) -> str:
    """Return seconds as h:mm:ss, as seconds with tenths below two minutes."""
    return f"{seconds:.1f} s" if seconds < 120 else str(timedelta(seconds=round(seconds)))


def clock(seconds: float) -> str:
    """Return seconds as h:mm:ss, days as hours: how objectives are written."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


def age(seconds: float) -> str:
    """Return seconds in days, below two of them as h:mm:ss: what lies long back needs no seconds."""
    days = int(seconds // 86400)
    return f"{days:,} days" if days >= 2 else clock(max(seconds, 0))


def several(count: int, what: str) -> str:
    """Return a number of things, for example `1 drill`, `2 drills`."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def size(count: int) -> str:
    """Return bytes in a unit that fits."""
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
    """Return a heading with a list; without lines the text for that, or nothing at all."""
    items = [f"- {line}" for line in lines]
    if not items and not empty:
        return ""
    return f"## {title}\n\n" + ("\n".join(items) or empty) + "\n"


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


def headline(verdict: str) -> str:
    """Return a verdict such that its first word is what the eye meets."""
    word, _, rest = verdict.partition(": ")
    return f"# {word}\n\n**{rest}**\n"


def backup_verdict(manifest: Manifest, seconds: float, zone: ZoneInfo) -> str:
    """Return the one line that says whether the backup is there."""
    warned = f", {len(manifest.warnings)} warnings" if manifest.warnings else ""
    lost = f", but rows are gone since the last good full: {'; '.join(manifest.losses[:3])}" if manifest.losses else ""
    aside, own = manifest.aside, bool(manifest.aside and manifest.aside.holds(manifest.number or 0))
    word = "SUSPECT" if lost else "SET ASIDE" if own else "STORED"
    other = "" if not aside else f", but neither `latest` nor a base: {aside.why}" if own else f", but {aside.why}"
    return (
        f"{word}: {manifest.id}, {len(manifest.relations)} relations, {manifest.rows:,} rows, {size(manifest.bytes)} "
        f"in {duration(seconds)}, state of {local_time(manifest.snapshot.instant, zone)}{warned}{lost}{other}"
    )


ACCEPT = "find out where the rows went; if they went on purpose, say so: `daily_backup` with `accept_losses=true`"


def backup_report(
    manifest: Manifest, path: str, seconds: float, zone: ZoneInfo, *, off_host: bool, local_copy: str | None = None
) -> str:
    """Return the report of a backup as markdown."""
    place = "" if off_host else "**Not off-host:** the store is a folder; if this machine is lost, so is the backup.\n"
    facts = [
        ("set", f"`{manifest.id}`"), ("path", f"`{path}`"), ("state of", local_time(manifest.snapshot.instant, zone)),
        ("LSN", manifest.snapshot.lsn), ("server", f"PostgreSQL {manifest.versions.server}, database {manifest.database.name}"),
        ("took", duration(seconds)), ("stored", f"{size(manifest.bytes)} ({manifest.bytes:,} bytes), read back and compared"),
        *([("differential against", f"`{manifest.base}`")] if manifest.base else []),
        *([("a full instead of a differential", manifest.instead)] if manifest.instead else []),
        *([("local copy", local_copy)] if local_copy else []),
        *([("label", manifest.label)] if manifest.label else []),
        *([("kept until", local_time(manifest.keep_until, zone))] if manifest.keep_until else []),
    ]  # fmt: skip
    keys = [f"{key.name} of {key.table} to {key.references}" for key in manifest.outbound_keys]
    return "\n".join(
        part
        for part in (
            headline(backup_verdict(manifest, seconds, zone)), place,
            section("Suspect: rows are gone since the last good full", manifest.losses), section("Warnings", manifest.warnings),
            section("Of another history", [manifest.aside.why] if manifest.aside else []),
            table(["what", "value"], facts) + "\n", "## Relations\n", relation_table(manifest, None) + "\n",
            section("Keys to other contexts, made after a restore when their tables are there", keys),
            section("What a human still has to do", [*([ACCEPT] if manifest.losses else []), *manifest.warnings], "Nothing.\n"),
        )
        if part
    )  # fmt: skip


def verification_verdict(manifest: Manifest, seconds: float, differences: Sequence[str]) -> str:
    """Return the one line that says whether a set is what it was when it was taken."""
    if differences:
        return f"FAIL: {manifest.id} is damaged in {len(differences)} relations"
    return f"PASS: {manifest.id} decoded in {duration(seconds)}, {manifest.rows:,} rows and every digest as in its manifest"


def checks_verdict(database: str, findings: Sequence[Finding]) -> str:
    """Return the one line that says whether a database keeps its own rules."""
    failed = failures(findings)
    return f'{"FAIL" if failed else "PASS"}: database "{database}", {len(findings)} integrity checks: {summary(findings)}'


def finding_line(finding: Finding) -> str:
    """Return a finding as a sentence."""
    if finding.verdict in (Verdict.BROKEN, Verdict.NOT_RUN):
        return f"{finding.check} ({finding.verdict}): {finding.note}"
    samples = "".join(f"\n    - `{sample}`" for sample in finding.sample)
    more = "\n    - …" if finding.offending > len(finding.sample) else ""
    return f"**{finding.check}** ({finding.verdict}): {finding.offending:,} offending. {finding.note}{samples}{more}"


def checks_report(verdict: str, findings: Sequence[Finding]) -> str:
    """Return the report of an integrity check as markdown."""
    failed = failures(findings)
    remarkable = [one for one in findings if one.is_remarkable and not one.fails]
    rows = [(one.check, one.severity, f"{one.offending:,}", one.verdict) for one in findings]
    return "\n".join(
        part
        for part in (
            headline(verdict), section("Failed", map(finding_line, failed)),
            section("Worth knowing", map(finding_line, remarkable)),
            "## All checks\n", table(["check", "severity", "offending", "verdict"], rows, right=(2,)) + "\n",
        )
        if part
    )  # fmt: skip


def progress_line(seen: Look, now: datetime, zone: tzinfo, *, about: bool) -> str:
    """Return how far a phase is that goes on: bytes, share, rate and expected end, as far as they are known.

    With `about` the whole is not known before the end.
    """
    if seen.share is None:
        return f"for {duration(seen.seconds)} by now; how much is left cannot be measured"
    whole = f"{'about ' if about else ''}{size(round(seen.expected))}"
    parts = [f"{size(round(seen.moved))} of {whole}", f"{seen.share:.1%}", f"{size(round(seen.rate))}/s"]
    if seen.seconds_left is not None:
        parts.append(f"expected end {local_time(now + timedelta(seconds=seen.seconds_left), zone)}")
    return ", ".join(parts)


def progress_outcome(seen: Look, failure: str | None) -> str:
    """Return how a phase ended: what was moved, or where it stopped and why."""
    if failure is not None:
        stopped = f" at {size(round(seen.moved))} of {size(round(seen.expected))}" if seen.share is not None else ""
        return f"stopped{stopped} after {duration(seen.seconds)}: {failure}"
    moved = f"{size(round(seen.moved))}, {size(round(seen.rate))}/s, " if seen.expected else ""
    return f"done: {moved}{duration(seen.seconds)}"
