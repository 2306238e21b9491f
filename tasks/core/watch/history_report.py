"""The report on the backups of the last days: the verdict, the anomalies, then the evidence."""

from collections.abc import Sequence
from datetime import datetime
from statistics import median

from tasks.core.report.charts import Points, over_time
from tasks.core.report.markdown import age, clock, duration, headline, local_time, promises, section, several, size, table
from tasks.core.restore.report import past_drills
from tasks.core.sets.facts import SetFacts
from tasks.core.sets.name import RULES, Kind
from tasks.core.watch.anomalies import Anomaly
from tasks.core.watch.history import Day, Overview

CHANGES_SHOWN, DECODED_SHOWN = 40, 5
HOUR, MEGABYTE = 3600, 1_000_000


def overview_verdict(overview: Overview, anomalies: Sequence[Anomaly]) -> str:
    """Return the verdict on the backups in one line."""
    if not overview.sets:
        legacy = f" ({several(overview.legacy, 'legacy file')} there)" if overview.legacy else ""
        return f'EMPTY: no backup set of context "{overview.context}" in {overview.url}{legacy}; take one: `daily_backup`'
    other_sets = sum(not RULES[facts.kind].may_be_latest for facts in overview.taken)
    taken = [
        several(overview.count(Kind.FULL), "full"), several(overview.count(Kind.DIFFERENTIAL), "differential"),
        *([several(other_sets, "other set")] if other_sets else []), size(sum(facts.bytes for facts in overview.taken)),
    ]  # fmt: skip
    to_review = several(len(anomalies), "thing") if anomalies else "nothing"
    parts = [", ".join(taken), _recovery_point(overview), _drilled(overview), f"{to_review} to look at"]
    return f"{several(overview.days, 'day')}: {'; '.join(parts)}"


def _recovery_point(overview: Overview) -> str:
    if not overview.can_be_restored:
        return "RPO MISSED, nothing can be restored"
    if not (worst := overview.worst) or not (since := overview.known_since):
        return "RPO not known yet"
    missed = f"MISSED {several(len(overview.missed), 'time')}" if overview.missed else "kept"
    since_day = f" since {since.astimezone(overview.zone):%Y-%m-%d}" if (since - overview.since).days else ""
    return f"RPO {missed}{since_day}, worst gap {clock(worst.age.total_seconds())}"


def _drilled(overview: Overview) -> str:
    passed = sum(drill.passed for drill in overview.drills)
    failed = len(overview.drills) - passed
    if not overview.drills:
        return "no drill"
    return ", ".join([f"{several(passed, 'drill')} passed"] * bool(passed) + [f"{several(failed, 'drill')} FAILED"] * bool(failed))


def overview_report(overview: Overview, verdict: str, anomalies: Sequence[Anomaly]) -> str:
    """Return the report in Markdown, below its verdict."""
    if not overview.sets:
        return headline(verdict)
    since, until = local_time(overview.since, overview.zone), local_time(overview.instant, overview.zone)
    period = f"From {since} to {until}, context {overview.context}, {overview.url}\n"
    parts = [
        headline(verdict),
        period,
        section("What to look at", (anomaly.line for anomaly in anomalies), "Nothing.\n"),
        _objectives(overview),
        _points_over_time(overview),
        _sets(overview),
        past_drills("Drills", overview.drills, overview.objectives.rto, overview.zone),
        _decoded(overview),
        _checks(overview),
        _days(overview),
    ]
    return "\n".join(part for part in parts if part)


def _objectives(overview: Overview) -> str:
    rpo, rto = (clock(limit.total_seconds()) for limit in (overview.objectives.rpo, overview.objectives.rto))
    times = [drill.rto_seconds for drill in overview.drills if drill.proven]
    points = [drill.rpo_seconds for drill in overview.drills if drill.rpo_seconds is not None]
    worst = overview.worst
    rows = [
        ("most that would have been lost (RPO)", rpo, clock(worst.age.total_seconds()) if worst else "-",
         f"at {local_time(worst.until, overview.zone)}" if worst else ""),
        ("age of the newest state now", rpo, clock(overview.gaps[-1].age.total_seconds()) if overview.gaps else "-", ""),
        ("longest recovery of a drill (RTO)", rto, clock(max(times)) if times else "-", several(len(times), "proven drill")),
        ("oldest state in a drill (RPO)", rpo, clock(max(points)) if points else "-", several(len(points), "drill")),
    ]  # fmt: skip
    group_promises = promises(overview.objectives.group_promises)
    objectives = table(["what", "promised", "reached", ""], rows, right=(1, 2))
    return "\n".join(["## Objectives\n", f"{objectives}\n", *([group_promises] if group_promises else [])])


def _points_over_time(overview: Overview) -> str:
    since = overview.known_since
    if since is None:
        return ""
    spans = [(max(gap.stored, since), gap) for gap in overview.gaps]
    points = [
        (instant.astimezone(overview.zone), (instant - gap.taken).total_seconds() / HOUR)
        for begun, gap in spans
        for instant in (begun, gap.until)
    ]
    limit = overview.objectives.rpo.total_seconds() / HOUR
    chart = over_time("age of the newest restorable state against the limit", {"age": points}, "hours", limit)
    explanation = "\n\n" + _why_since(overview, since) if since > overview.since else ""
    return f"## Recovery point\n\nThe age of the newest restorable state in the store at each time.{explanation}\n\n{chart}\n"


def _why_since(overview: Overview, since: datetime) -> str:
    reason = "expired before then are not recorded" if since == overview.states_since else "there was no state before"
    sets = "sets that " if since == overview.states_since else ""
    return f"Known since {local_time(since, overview.zone)}: {sets}{reason}."


def _sets(overview: Overview) -> str:
    rows = [_kind_row(kind, [facts for facts in overview.taken if facts.kind is kind], overview.listed) for kind in Kind]
    heads = ["kind", "taken", "stored", "median", "longest run", "in the store now", "of size"]
    drawn_kinds = {"fulls": Kind.FULL, "differentials": Kind.DIFFERENTIAL}
    series = {
        name: _sizes(overview, [facts for facts in overview.taken if facts.kind is kind]) for name, kind in drawn_kinds.items()
    }
    other_sets = [facts for facts in overview.taken if facts.kind not in drawn_kinds.values()]
    drawn = {name: points for name, points in (series | {"others": _sizes(overview, other_sets)}).items() if points}
    chart = over_time("stored size of each set", drawn, "MB") + "\n\n" if drawn else ""
    kind_table = table(heads, [row for row in rows if row], right=range(1, 7))
    return f"## Sets\n\n{chart}{kind_table}\n\n{_growth(overview)}"


def _sizes(overview: Overview, sets: Sequence[SetFacts]) -> Points:
    return [(facts.instant.astimezone(overview.zone), facts.bytes / MEGABYTE) for facts in sets if facts.instant]


def _kind_row(kind: Kind, taken: Sequence[SetFacts], listed: Sequence[SetFacts]) -> tuple[object, ...] | None:
    stored_bytes = [facts.bytes for facts in listed if facts.kind is kind]
    if not taken and not stored_bytes:
        return None
    sizes, took = [facts.bytes for facts in taken], [facts.took.total_seconds() for facts in taken if facts.took]
    return (
        kind, len(taken), size(sum(sizes)), size(round(median(sizes))) if sizes else "-", duration(max(took)) if took else "-",
        len(stored_bytes), size(sum(stored_bytes)),
    )  # fmt: skip


def _growth(overview: Overview) -> str:
    fulls = [facts for facts in overview.restorable_sets(Kind.FULL) if overview.is_recent(facts)]
    if len(fulls) < 2 or not fulls[0].bytes:
        return ""
    first, last = fulls[0], fulls[-1]
    grown = 100 * (last.bytes / first.bytes - 1)
    return f"A full was {size(first.bytes)} (`{first.id}`) and is {size(last.bytes)} (`{last.id}`): {grown:+.1f} %.\n"


def _decoded(overview: Overview) -> str:
    latest = [
        (f"`{facts.id}`", facts.state, local_time(instant, overview.zone), _ago(overview, instant))
        for instant, facts in overview.verified_sets[:DECODED_SHOWN]
    ]
    never = len(overview.listed) - len(overview.verified_sets)
    drilled = overview.drill_records[:1]
    last = [
        f"the last drill was {_ago(overview, drill.instant)}, of `{drill.set or 'no set'}`: {drill.verdict}" for drill in drilled
    ]
    lines = [
        f"decoded or drilled: {len(overview.verified_sets)} of {several(len(overview.listed), 'set')} in the store, {never} never",
        *last,
    ]
    latest_table = table(["set", "state", "last checked", ""], latest) + "\n" if latest else ""
    return section("Decoded and drilled", lines) + ("\n" + latest_table if latest_table else "")


def _ago(overview: Overview, instant: datetime) -> str:
    return f"{age((overview.instant - instant).total_seconds())} ago"


def _checks(overview: Overview) -> str:
    if not overview.checks:
        return section("Integrity checks", [], "No check is recorded in these days.\n")
    last, changed = overview.checks[0], overview.changed_checks
    lines = [f"{several(len(overview.checks), 'run')}, the last at {local_time(last.instant, overview.zone)}: {last.verdict}"]
    if not changed:
        return section("Integrity checks", [*lines, "no check changed its result"])
    rows = [(local_time(change.instant, overview.zone), change.check, change.line) for change in changed[:CHANGES_SHOWN]]
    more = f"\n… and {len(changed) - CHANGES_SHOWN} changes before.\n" if len(changed) > CHANGES_SHOWN else ""
    return section("Integrity checks", lines) + "\n" + table(["when", "check that changed", "how"], rows) + "\n" + more


def _days(overview: Overview) -> str:
    heads = ["day", "fulls", "differentials", "others", "stored", "most that would have been lost", "at", ""]
    return "## Each day\n\n" + table(heads, [_day_row(overview, day) for day in overview.by_day], right=(1, 2, 3, 4, 5)) + "\n"


def _day_row(overview: Overview, day: Day) -> tuple[object, ...]:
    kinds = [row.kind for row in day.sets]
    fulls, differentials = kinds.count(Kind.FULL), kinds.count(Kind.DIFFERENTIAL)
    counts = f"{day.start:%Y-%m-%d}", fulls, differentials, len(kinds) - fulls - differentials, size(day.bytes)
    if day.worst is None:
        return *counts, "-", "", ""
    until = day.worst.until.astimezone(overview.zone)
    at = f"{until:%H:%M}" if until.date() == day.start.date() else "24:00"
    result = "kept" if day.worst.age <= overview.objectives.rpo else "**MISSED**"
    return *counts, clock(day.worst.age.total_seconds()), at, result


def set_rows(overview: Overview) -> list[dict[str, object]]:
    """Return one row a set of these days, newest first, as plain values."""
    return [
        {
            "id": facts.id,
            "verdict": facts.verdict,
            "state of": local_time(facts.instant, overview.zone) if facts.instant else "-",
            "stored bytes": facts.bytes,
            "seconds": round(facts.took.total_seconds(), 1) if facts.took else None,
            "kind": str(facts.kind),
            "last checked": f"{facts.state} {local_time(facts.verified, overview.zone)}" if facts.verified else "never",
            "note": facts.note,
        }
        for facts in overview.taken
    ]
