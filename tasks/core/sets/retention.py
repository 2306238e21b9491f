"""The plan of pruning: which of the existing backup sets are past retention.

It is made before anything is changed.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from itertools import pairwise
from statistics import median

from tasks.core.calendar import before
from tasks.core.sets.manifest_file import MANIFEST_FILE
from tasks.core.sets.name import LEGACY, RULES, Kind, sort_of

EXPIRED_FILE = "expired.json"
# Files beside a manifest: damage that a verification found; the mark by which an operator keeps the
# set.
DAMAGED_FILE = "damaged.json"
PINNED_FILE = "pinned.json"
# Further files beside a manifest: when a thaw was requested; that the rows of a clean-up set were
# deleted.
THAW_FILE = "thaw.json"
CLEANED_FILE = "cleaned-up.json"
# In a folder without manifest: the mark that the set was found unfinished, and will be deleted
# later.
SWEPT_FILE = "unfinished.json"
MARKS = frozenset({EXPIRED_FILE, MANIFEST_FILE, DAMAGED_FILE, "decoded.json", "drilled.json", THAW_FILE, CLEANED_FILE, SWEPT_FILE})
HOLD = re.compile(r"hold-[0-9a-f]{4}\.json")
# The names that a backup writes into the folder of its set; other objects there are left alone.
WRITTEN = re.compile(r"(data|context)/[^/]+|schema\.dump\.zst|schema\.list|restore\.sh|block-rows\.json\.zst")
# How long an expired set is kept, so that it can be put back.
GRACE = timedelta(hours=24)
# Unfinished sets of this age are dead: no backup and no restore takes a week.
DEAD = timedelta(days=7)
# Fulls are taken daily, or as rarely as the existing ones were; one may fail, and the next run
# makes up for it.
FULL_EVERY = timedelta(days=1)
SLACK = timedelta(days=1)


@dataclass(frozen=True)
class StoredSet:
    """A set as the plan needs it; `instant` is None if its manifest cannot be read."""

    id: str
    kind: Kind
    instant: datetime | None
    base: str | None = None
    keep_until: datetime | None = None
    restorable: bool = True
    proven: bool = False
    suspect: bool = False
    held: bool = False
    pinned: bool = False
    disputed: bool = False

    @property
    def sort(self) -> str:
        """The key of its retention period: its kind, or the name of its long-term job."""
        return sort_of(self.id) if self.kind is Kind.LONG_TERM else self.kind


@dataclass(frozen=True)
class Decision:
    """The decision whether a set expires, and the reason."""

    set: StoredSet
    expires: bool
    why: str


def plan(
    newest_first: Sequence[StoredSet], now: datetime, zone: tzinfo, periods: Mapping[str, str], suspended: str | None = None
) -> list[Decision]:
    """Decide for every set, in the given order, whether it expires.

    A set expires when the data in it is older than the retention period of its kind; a kind
    without a period never expires. Kept in any case are the newest set that can be restored, the
    newest full backup, the newest full backup that was proven by decoding all its rows or by a
    drill, full backups that a kept differential needs, and sets that are being read, pinned, or
    kept until a later date. Nothing expires while the newest set is suspect, or pruning is
    `suspended`.
    """
    alarm = suspended or suspicion(newest_first)
    newest = _newest(newest_first)
    unreadable_ids = [stored.id for stored in newest_first if stored.kind is Kind.DIFFERENTIAL and stored.instant is None]
    unreadable = max(unreadable_ids, key=_stamp, default="")
    decisions = dict[str, Decision]()
    # Differentials first: fulls that kept ones need are kept.
    for stored in sorted(newest_first, key=lambda stored: stored.kind is Kind.FULL):
        needed = next(
            (decision.set.id for decision in decisions.values() if decision.set.base == stored.id and not decision.expires), None
        )
        young = _is_young(stored, now, zone, periods)
        reason = (
            alarm or young or _protection(stored, now) or newest.get(stored.id) or (f"{needed} needs this set" if needed else None)
        )
        if stored.kind is Kind.FULL and _stamp(stored.id) < _stamp(unreadable):
            reason = reason or f"{unreadable} may need this set, and cannot be read: delete or repair {unreadable} by hand"
        decisions[stored.id] = Decision(stored, reason is None, reason or f"older than {periods[stored.sort]}")
    return [decisions[stored.id] for stored in newest_first]


def _stamp(set_id: str) -> str:
    """Return date and time of an id, so that ids of all kinds can be compared."""
    return set_id[-20:]


def suspicion(newest_first: Sequence[StoredSet]) -> str | None:
    """Return why nothing is pruned, if so: a suspect newest set, or two undecided histories."""
    if disputed := next((stored.id for stored in newest_first if stored.disputed), None):
        return f"it is not decided yet to which history {disputed} belongs: nothing is pruned"
    newest = next((stored for stored in newest_first if stored.instant and RULES[stored.kind].may_be_latest), None)
    return f"the newest set {newest.id} is suspect: nothing is pruned" if newest and newest.suspect else None


def missing_full(newest_first: Sequence[StoredSet], now: datetime, rpo: timedelta) -> str | None:
    """Return why nothing is pruned, if there is no new full backup, or a clock is wrong.

    None otherwise. The newest restorable full may be as old as the usual interval between fulls
    (their median, at least a day), plus a day or the recovery point objective, whichever is longer.
    """
    taken = sorted(stored.instant for stored in newest_first if stored.kind is Kind.FULL and stored.instant and stored.restorable)
    if not taken:
        return "no full backup can be restored: nothing is pruned"
    distances = [(later - earlier).total_seconds() for earlier, later in pairwise(taken)]
    every = max(FULL_EVERY, timedelta(seconds=median(distances))) if distances else FULL_EVERY
    allowed, age = every + max(SLACK, rpo), now - taken[-1]
    if age <= allowed:
        return None
    return (
        f"no new full backup for {_days(age)}, and at most {_days(allowed)} are allowed between "
        "two: nothing is pruned; find out why the backups fail, or who set the clock ahead, and "
        "take a full backup: python -m flows.backup daily_backup"
    )


def _days(span: timedelta) -> str:
    return f"{span / timedelta(days=1):.1f} days"


def _newest(newest_first: Sequence[StoredSet]) -> dict[str, str]:
    """Return by id the newest sets of each kind, which are never pruned, with the reason."""
    restorable = [stored for stored in newest_first if stored.restorable and RULES[stored.kind].may_be_latest]
    fulls = [stored for stored in restorable if stored.kind is Kind.FULL]
    sorts = {
        "the newest full that was decoded or drilled": [full for full in fulls if full.proven],
        "the newest full": fulls,
        "the newest state that can be restored": restorable,
    }
    return {sets[0].id: f"it is {sort}" for sort, sets in sorts.items() if sets}


def _is_young(stored: StoredSet, now: datetime, zone: tzinfo, periods: Mapping[str, str]) -> str | None:
    if stored.sort not in periods:
        return f"sets of kind {stored.sort} are kept for ever"
    if stored.instant is None:
        return "its manifest cannot be read, so that its age is not known"
    return f"younger than {periods[stored.sort]}" if stored.instant >= before(now, periods[stored.sort], zone) else None


def _protection(stored: StoredSet, now: datetime) -> str | None:
    if stored.keep_until and stored.keep_until > now:
        return f"to be kept until {stored.keep_until:%Y-%m-%d %H:%M %Z}"
    if stored.pinned:
        return f"{PINNED_FILE} is in its folder"
    return "it is being read" if stored.held else None


def is_written_by_a_backup(path: str) -> bool:
    """Return whether a path in the folder of a set is one that backups or restores write."""
    return HOLD.fullmatch(path) is not None or (WRITTEN.fullmatch(path) is not None and not LEGACY.search(path))


def is_ours(path: str, stored: Iterable[str]) -> bool:
    """Return whether an expired set's manifest names an object, or the object is a mark."""
    return path in {*stored, *MARKS} or HOLD.fullmatch(path) is not None
