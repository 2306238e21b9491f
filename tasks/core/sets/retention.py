"""Which backup sets have had their time: a pure plan over what exists, made before anything is touched."""

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
# Beside a manifest: what a look at the data found, and what people say of a set.
DAMAGED_FILE = "damaged.json"
PINNED_FILE = "pinned.json"
# Beside it too: when a cold set was asked for; that the rows of a clean-up set were deleted.
THAW_FILE = "thaw.json"
CLEANED_FILE = "cleaned-up.json"
# In a folder without manifest: that it was found unfinished and dead, and goes when nothing speaks for it until then.
SWEPT_FILE = "unfinished.json"
MARKS = frozenset({EXPIRED_FILE, MANIFEST_FILE, DAMAGED_FILE, "decoded.json", "drilled.json", THAW_FILE, CLEANED_FILE, SWEPT_FILE})
HOLD = re.compile(r"hold-[0-9a-f]{4}\.json")
# What a backup writes into the folder of its set; anything else there is somebody else's.
WRITTEN = re.compile(r"(data|context)/[^/]+|schema\.dump\.zst|schema\.list|restore\.sh|block-rows\.json\.zst")
# An expired set is a set no more, but for so long it can be made one again.
GRACE = timedelta(hours=24)
# What lies unfinished for so long is dead: no backup and no restore takes a week.
DEAD = timedelta(days=7)
# Fulls come every day, or as seldom as those that are there did; one may fail, and is taken again by the next.
FULL_EVERY = timedelta(days=1)
SLACK = timedelta(days=1)


@dataclass(frozen=True)
class StoredSet:
    """What the plan has to know of a set; without an instant its manifest cannot be read."""

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
        """What periods are given for: its kind, or the name of its long-term job."""
        return sort_of(self.id) if self.kind is Kind.LONG_TERM else self.kind


@dataclass(frozen=True)
class Decision:
    """What becomes of a set, and why."""

    set: StoredSet
    expires: bool
    why: str


def plan(
    newest_first: Sequence[StoredSet], now: datetime, zone: tzinfo, periods: Mapping[str, str], suspended: str | None = None
) -> list[Decision]:  # fmt: skip
    """Decide for every set, in the order given, whether it expires; kinds without a period never do.

    A set expires when its state is older than its kind's period, and nothing speaks for it: it is not the newest that can be
    restored, nor the newest full, nor the newest full that was decoded or drilled, no differential that is kept needs it, and
    nobody holds, pinned or labelled it. Nothing expires while the newest set is suspect, or pruning is `suspended`.
    """
    alarm = suspended or suspicion(newest_first)
    newest = _newest(newest_first)
    unread = [one.id for one in newest_first if one.kind is Kind.DIFFERENTIAL and one.instant is None]
    unreadable = max(unread, key=_stamp, default="")
    decided = dict[str, Decision]()
    # Differentials first: what they need follows from which of them are kept.
    for one in sorted(newest_first, key=lambda one: one.kind is Kind.FULL):
        needed = next((other.set.id for other in decided.values() if other.set.base == one.id and not other.expires), None)
        young = _is_young(one, now, zone, periods)
        why = alarm or young or _protection(one, now) or newest.get(one.id) or (f"{needed} needs it" if needed else None)
        if one.kind is Kind.FULL and _stamp(one.id) < _stamp(unreadable):
            why = why or f"{unreadable} may need it, and cannot be read: delete that by hand, or mend it"
        decided[one.id] = Decision(one, why is None, why or f"older than {periods[one.sort]}")
    return [decided[one.id] for one in newest_first]


def _stamp(set_id: str) -> str:
    """Return date and time of an id, such that ids of all kinds compare."""
    return set_id[-20:]


def suspicion(newest_first: Sequence[StoredSet]) -> str | None:
    """Say why nothing is pruned while the newest set is suspect, or it is not decided which history sets are of."""
    if disputed := next((one.id for one in newest_first if one.disputed), None):
        return f"whose history {disputed} is of is not decided: nothing is pruned"
    newest = next((one for one in newest_first if one.instant and RULES[one.kind].may_be_latest), None)
    return f"the newest set {newest.id} is suspect: nothing is pruned" if newest and newest.suspect else None


def drought(newest_first: Sequence[StoredSet], now: datetime, rpo: timedelta) -> str | None:
    """Say why nothing is pruned while no new full came: old sets may be the last ones, or a clock is wrong.

    The newest full that can be restored may be as old as fulls are apart, which is at least a day and else the median of those
    that are there, and a day more, or the recovery point objective where that is longer.
    """
    taken = sorted(one.instant for one in newest_first if one.kind is Kind.FULL and one.instant and one.restorable)
    if not taken:
        return "no full can be restored: nothing is pruned"
    distances = [(later - earlier).total_seconds() for earlier, later in pairwise(taken)]
    every = max(FULL_EVERY, timedelta(seconds=median(distances))) if distances else FULL_EVERY
    allowed, age = every + max(SLACK, rpo), now - taken[-1]
    if age <= allowed:
        return None
    return (
        f"no new full came for {_days(age)}, of {_days(allowed)} that may lie between two: nothing is pruned; find out why the "
        "backups fail, or what set the clock ahead, and take one: python -m flows.backup daily_backup"
    )


def _days(span: timedelta) -> str:
    return f"{span / timedelta(days=1):.1f} days"


def _newest(newest_first: Sequence[StoredSet]) -> dict[str, str]:
    """Return what is never pruned for being the newest of its sort."""
    whole = [one for one in newest_first if one.restorable and RULES[one.kind].may_be_latest]
    fulls = [one for one in whole if one.kind is Kind.FULL]
    sorts = {
        "the newest full that was decoded or drilled": [one for one in fulls if one.proven],
        "the newest full": fulls,
        "the newest state that can be restored": whole,
    }
    return {sets[0].id: f"it is {sort}" for sort, sets in sorts.items() if sets}


def _is_young(one: StoredSet, now: datetime, zone: tzinfo, periods: Mapping[str, str]) -> str | None:
    if one.sort not in periods:
        return f"sets of kind {one.sort} are kept for ever"
    if one.instant is None:
        return "its manifest cannot be read: nobody knows what it is"
    return f"younger than {periods[one.sort]}" if one.instant >= before(now, periods[one.sort], zone) else None


def _protection(one: StoredSet, now: datetime) -> str | None:
    if one.keep_until and one.keep_until > now:
        return f"to be kept until {one.keep_until:%Y-%m-%d %H:%M %Z}"
    if one.pinned:
        return f"{PINNED_FILE} lies in its folder"
    return "it is being read" if one.held else None


def is_written_by_a_backup(path: str) -> bool:
    """Say whether an object in the folder of a set is one that a backup, or a restore that read it, leaves there."""
    return HOLD.fullmatch(path) is not None or (WRITTEN.fullmatch(path) is not None and not LEGACY.search(path))


def is_ours(path: str, stored: Iterable[str]) -> bool:
    """Say whether an object of an expired set is the set's: its manifest names it, or it is one of the marks beside that."""
    return path in {*stored, *MARKS} or HOLD.fullmatch(path) is not None
