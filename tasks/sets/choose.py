"""Choosing sets: the newest good one, a set by timestamp or id, the sets to verify next."""

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
    """A set that may be restored.

    `damage` is what the listing shows to be wrong with it. A set that was `named` is the only
    candidate. `aside` is why the set is set aside, so that it is passed over; `storage_class` is
    the class of its data; both are not known for a named set.
    """

    name: SetName
    damage: str | None = None
    named: bool = False
    storage_class: str = ""
    aside: str | None = None


def candidates(address: StoreAddress, context: str, backup: str, now: datetime) -> Iterator[Candidate]:
    """Yield the sets that may be restored, newest first: the named one, or all up to an instant.

    Unreadable sets come before all others: one of them may be the newest, and must not be passed
    over silently.

    Raises:
        BadInput: the reference is not valid, the instant is in the future, or there is no set at
            all.
    """
    named = None if is_instant(backup) else parse_set_reference(backup, context, address.url)
    if named:
        require_store(address, context)
        yield Candidate(named, named=True)
        return
    listing = list_sets(address, context)
    usable = [entry for entry in listing.sets if RULES[entry.name.kind].may_be_latest]
    if not usable:
        legacy = f" ({len(listing.legacy)} legacy files exist)" if listing.legacy else ""
        raise BadInput(
            f'no backup set of context "{context}" in {address.url}{legacy}; correct the context '
            "or BACKUP_STORE, "
            "or take one: python -m flows.backup daily_backup"
        )
    if is_instant(backup):
        usable = _taken_by(usable, _past(backup, zone_of(listing), now))
    for entry in sorted(usable, key=lambda entry: entry.manifest is not None):
        yield Candidate(entry.name, entry.damage, storage_class=entry.storage_class, aside=entry.aside)


def _past(backup: str, zone: tzinfo, now: datetime) -> datetime:
    """Return the instant that `backup` names.

    An instant in the future is refused, because it would mean the same as `latest`.

    Raises:
        BadInput: the instant is in the future.
    """
    instant = parse_instant(backup, zone)
    if instant > now:
        raise BadInput(
            f'backup "{backup}" is in the future: by the clock of this machine it is '
            f"{now.astimezone(instant.tzinfo):%Y-%m-%d %H:%M:%S %Z}; pass a timestamp in the past, "
            "latest, or the id of a set"
        )
    return instant


def _taken_by(sets: list[ListedSet], instant: datetime) -> list[ListedSet]:
    """Return the sets whose state is not newer than an instant, and those whose date is not known.

    Raises:
        BadInput: every state is newer.
    """
    states = {entry.name: entry.manifest.snapshot.instant for entry in sets if entry.manifest}
    if not any(taken <= instant for taken in states.values()):
        oldest = min(states.values(), default=None)
        available = f"the oldest is of {oldest.astimezone(instant.tzinfo):%Y-%m-%d %H:%M:%S %Z}" if oldest else "no set can be read"
        raise BadInput(
            f"no backup was taken at or before {instant:%Y-%m-%d %H:%M:%S %Z}: {available}; pass a "
            "later timestamp, or the id of a set"
        )
    return [entry for entry in sets if entry.name not in states or states[entry.name] <= instant]


def zone_of(listing: Listing) -> ZoneInfo:
    """Return the time zone of the newest readable set, UTC if there is none."""
    return ZoneInfo(next((entry.manifest.time_zone for entry in listing.sets if entry.manifest), "UTC"))


def newest_manifest(address: StoreAddress, context: str, backup: str, now: datetime) -> Manifest:
    """Return the manifest of the named set, or for `latest` of the newest set that looks complete.

    Raises:
        BadInput: there is no set of that name. DamagedSet: the named set is damaged, or every set
            is.
    """
    for candidate in candidates(address, context, backup, now):
        if not (candidate.damage or candidate.aside):
            return fetch_manifest(address, candidate.name)
    raise DamagedSet(f'every backup set of context "{context}" in {address.url} is damaged or set aside; see list_backups')


def why_aside(address: StoreAddress, name: SetName) -> str | None:
    """Return why a complete set is set aside (neither `latest` nor a base), or None."""
    return next((entry.aside for entry in list_sets(address, name.context).sets if entry.name == name), None)


def newest_full(address: StoreAddress, context: str) -> Manifest | None:
    """Return the manifest of the newest full backup that looks complete, as a base."""
    fulls = [entry for entry in list_sets(address, context).sets if entry.name.kind is Kind.FULL]
    for entry in fulls:
        if entry.damage:
            get_run_logger().warning("passed over as base: %s", entry.damage)
    return next((entry.usable for entry in fulls if entry.usable), None)


def newest_trusted(address: StoreAddress, context: str) -> Manifest | None:
    """Return the newest complete full without row loss: the next backup is compared with it."""
    listed = (entry.usable for entry in list_sets(address, context).sets)
    return next((manifest for manifest in listed if manifest and manifest.kind is Kind.FULL and not manifest.losses), None)


def good_sets(address: StoreAddress, context: str) -> list[Manifest]:
    """Return manifests of fulls and differentials, complete and without row loss, newest first."""
    entries = (entry for entry in list_sets(address, context).sets if RULES[entry.name.kind].may_be_latest)
    return [entry.usable for entry in entries if entry.usable and not entry.usable.losses]


def archive_sets(address: StoreAddress, context: str) -> list[Manifest]:
    """Return the archive sets that look complete, the newest first."""
    return departed_sets(address, context)[0]


def departed_sets(address: StoreAddress, context: str) -> tuple[list[Manifest], list[CleanedUp]]:
    """Return the complete-looking sets of archived partitions, and of cleaned-up rows."""
    complete = [entry for entry in list_sets(address, context).sets if entry.manifest and not entry.damage]
    archives = [entry.manifest for entry in complete if entry.manifest and entry.name.kind is Kind.ARCHIVE]
    cleaned = [(entry.manifest, entry.cleaned) for entry in complete if entry.manifest and entry.cleaned]
    return archives, [CleanedUp(manifest.snapshot.instant, rows, manifest.number) for manifest, rows in cleaned]


def unfinished_clean_ups(address: StoreAddress, context: str, table: str) -> tuple[list[Manifest], list[str]]:
    """Return the clean-up sets of a rule's table whose run was interrupted: rows may be left.

    The oldest first. Damaged sets are returned by their ids, also if it cannot be read from which
    table their rows are.
    """
    listed = [entry for entry in list_sets(address, context).sets if entry.name.kind is Kind.CLEAN_UP and entry.cleaned is None]
    manifests = [entry.manifest for entry in reversed(listed) if entry.manifest and not entry.damage]
    damaged = [
        entry.name.id for entry in listed if entry.damage and (entry.manifest is None or entry.manifest.cleaned_table == table)
    ]
    return [manifest for manifest in manifests if manifest.cleaned_table == table], damaged


def longest_unverified(address: StoreAddress, context: str, fraction: float) -> tuple[list[str], int]:
    """Return the ids of all sets, those never decoded first, then those decoded longest ago.

    Also return the number of sets in a share, rounded up.

    Raises:
        BadInput: the store has no set of the context.
    """
    sets = list_sets(address, context).sets
    if not sets:
        raise BadInput(f'no backup set of context "{context}" in {address.url}; take one: python -m flows.backup daily_backup')
    waiting = sorted(sets, key=lambda entry: (entry.verified or datetime.min.replace(tzinfo=UTC), entry.name.id))
    return [entry.name.id for entry in waiting], math.ceil(fraction * len(sets))


def random_recent(address: StoreAddress, context: str, instant: datetime) -> str:
    """Return the id of a randomly chosen set of the last 30 days that looks complete.

    Raises:
        BadInput: there is no such set.
    """
    listed = [(entry, entry.usable.snapshot.instant) for entry in list_sets(address, context).sets if entry.usable]
    recent = [entry.name.id for entry, taken in listed if RULES[entry.name.kind].may_be_latest and instant - taken <= RECENT]
    if not recent:
        raise BadInput(f'no complete backup set of context "{context}" of the last {RECENT.days} days in {address.url}; name one')
    return secrets.choice(recent)
