"""Which set is meant: the newest good one, one by instant or id, those that are due for a look."""

import math
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo

from prefect import get_run_logger

from tasks.core.backup.row_loss import CleanedUp
from tasks.core.calendar import is_instant, parse_instant
from tasks.core.errors import BadInput, DamagedSet
from tasks.core.sets.manifest import Manifest
from tasks.core.sets.name import RULES, Kind, SetName, parse_set_reference
from tasks.sets.listing import ListedSet, Listing, list_sets
from tasks.sets.manifest import fetch_manifest
from tasks.sets.owner import require_store
from tasks.store.address import StoreAddress

RECENT = timedelta(days=30)


@dataclass(frozen=True)
class Candidate:
    """A set to try; `damage` is what its listing already shows to be wrong; if it was `named`, no other will do.

    Why it is `aside` is told of one that was not named: it is passed over then.

    `storage_class` is the one that its data lie in; of a set that was named nobody looked.
    """

    name: SetName
    damage: str | None = None
    named: bool = False
    storage_class: str = ""
    aside: str | None = None


def candidates(address: StoreAddress, context: str, backup: str, now: datetime) -> Iterator[Candidate]:
    """Yield the sets to try: the named one, or, newest first, every one that may be `latest`, or was taken by an instant.

    What cannot be read comes before all others, because it may be the newest: nobody is to believe it was not there.

    Raises:
        BadInput: the reference is none, the instant is yet to come, or there is no set at all.
    """
    named = None if is_instant(backup) else parse_set_reference(backup, context, address.url)
    if named:
        require_store(address, context)
        yield Candidate(named, named=True)
        return
    listing = list_sets(address, context)
    usable = [one for one in listing.sets if RULES[one.name.kind].may_be_latest]
    if not usable:
        legacy = f" ({len(listing.legacy)} legacy files are there)" if listing.legacy else ""
        raise BadInput(
            f'no backup set of context "{context}" in {address.url}{legacy}; correct the context or BACKUP_STORE, '
            "or make one: python -m flows.backup daily_backup"
        )
    if is_instant(backup):
        usable = _taken_by(usable, _past(backup, zone_of(listing), now))
    for one in sorted(usable, key=lambda one: one.manifest is not None):
        yield Candidate(one.name, one.damage, storage_class=one.storage_class, aside=one.aside)


def _past(backup: str, zone: tzinfo, now: datetime) -> datetime:
    """Return an instant that has passed: nobody means the state of a time to come, and `latest` is what would be restored.

    Raises:
        BadInput: it has not.
    """
    instant = parse_instant(backup, zone)
    if instant > now:
        raise BadInput(
            f'backup "{backup}" is an instant to come: by the clock of this machine it is '
            f"{now.astimezone(instant.tzinfo):%Y-%m-%d %H:%M:%S %Z}; name one that has passed, latest, or a set by its id"
        )
    return instant


def _taken_by(sets: list[ListedSet], instant: datetime) -> list[ListedSet]:
    """Return the sets whose state is not newer than an instant, and those of which nobody can say.

    Raises:
        BadInput: every state is newer.
    """
    states = {one.name: one.manifest.snapshot.instant for one in sets if one.manifest}
    if not any(taken <= instant for taken in states.values()):
        oldest = min(states.values(), default=None)
        there = f"the oldest is of {oldest.astimezone(instant.tzinfo):%Y-%m-%d %H:%M:%S %Z}" if oldest else "none can be read"
        raise BadInput(f"no backup at or before {instant:%Y-%m-%d %H:%M:%S %Z}: {there}; name a later instant, or a set")
    return [one for one in sets if one.name not in states or states[one.name] <= instant]


def zone_of(listing: Listing) -> ZoneInfo:
    """Return the zone of the newest readable set, UTC if there is none."""
    return ZoneInfo(next((one.manifest.time_zone for one in listing.sets if one.manifest), "UTC"))


def newest_manifest(address: StoreAddress, context: str, backup: str, now: datetime) -> Manifest:
    """Return the manifest of the named set, or for `latest` of the newest one that looks whole.

    Raises:
        BadInput: there is no such set.
        DamagedSet: the named one, or every one, is damaged.
    """
    for one in candidates(address, context, backup, now):
        if not (one.damage or one.aside):
            return fetch_manifest(address, one.name)
    raise DamagedSet(f'every backup set of context "{context}" in {address.url} is damaged or set aside; see list_backups')


def why_aside(address: StoreAddress, name: SetName) -> str | None:
    """Return why a set is neither `latest` nor a base, though it is whole; None if it may be both."""
    return next((one.aside for one in list_sets(address, name.context).sets if one.name == name), None)


def newest_full(address: StoreAddress, context: str) -> Manifest | None:
    """Return the manifest of the newest full set that looks whole: what a differential is taken against."""
    fulls = [one for one in list_sets(address, context).sets if one.name.kind is Kind.FULL]
    for one in fulls:
        if one.damage:
            get_run_logger().warning("passed over as base: %s", one.damage)
    return next((one.usable for one in fulls if one.usable), None)


def newest_trusted(address: StoreAddress, context: str) -> Manifest | None:
    """Return the manifest of the newest full set that looks whole and lost no rows: what the next one is measured against."""
    listed = (one.usable for one in list_sets(address, context).sets)
    return next((manifest for manifest in listed if manifest and manifest.kind is Kind.FULL and not manifest.losses), None)


def archive_sets(address: StoreAddress, context: str) -> list[Manifest]:
    """Return the archive sets that look whole, the newest first."""
    return departed_sets(address, context)[0]


def departed_sets(address: StoreAddress, context: str) -> tuple[list[Manifest], list[CleanedUp]]:
    """Return what left the database on purpose, as far as its sets look whole: archived partitions, cleaned-up rows."""
    whole = [one for one in list_sets(address, context).sets if one.manifest and not one.damage]
    archives = [one.manifest for one in whole if one.manifest and one.name.kind is Kind.ARCHIVE]
    cleaned = [(one.manifest, one.cleaned) for one in whole if one.manifest and one.cleaned]
    return archives, [CleanedUp(one.snapshot.instant, rows, one.number) for one, rows in cleaned]


def unfinished_clean_ups(address: StoreAddress, context: str, table: str) -> tuple[list[Manifest], list[str]]:
    """Return the clean-up sets of a rule's table whose rows may not all be deleted, because the run died; the oldest first.

    Those that are damaged are returned by their ids, also where their manifest does not say of which table they are.
    """
    listed = [one for one in list_sets(address, context).sets if one.name.kind is Kind.CLEAN_UP and one.cleaned is None]
    mine = [one.manifest for one in reversed(listed) if one.manifest and not one.damage]
    damaged = [one.name.id for one in listed if one.damage and (one.manifest is None or one.manifest.cleaned_table == table)]
    return [one for one in mine if one.cleaned_table == table], damaged


def longest_unverified(address: StoreAddress, context: str, fraction: float) -> tuple[list[str], int]:
    """Return the ids of all sets, those never decoded first, then those longest ago, and how many a share of them is, rounded up.

    Raises:
        BadInput: there is no set.
    """
    sets = list_sets(address, context).sets
    if not sets:
        raise BadInput(f'no backup set of context "{context}" in {address.url}; make one: python -m flows.backup daily_backup')
    waiting = sorted(sets, key=lambda one: (one.verified or datetime.min.replace(tzinfo=UTC), one.name.id))
    return [one.name.id for one in waiting], math.ceil(fraction * len(sets))


def random_recent(address: StoreAddress, context: str, instant: datetime) -> str:
    """Return the id of one of the sets of the last 30 days that look whole, whichever chance names.

    Raises:
        BadInput: there is none.
    """
    listed = [(one, one.usable.snapshot.instant) for one in list_sets(address, context).sets if one.usable]
    recent = [one.name.id for one, taken in listed if RULES[one.name.kind].may_be_latest and instant - taken <= RECENT]
    if not recent:
        raise BadInput(f'no whole backup set of context "{context}" of the last {RECENT.days} days in {address.url}; name one')
    return secrets.choice(recent)
