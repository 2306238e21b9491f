"""Cold storage: AWS's usual thaw times (their upper ends), and which retrieval tier to choose.

https://docs.aws.amazon.com/AmazonS3/latest/userguide/restoring-objects-retrieval-options.html
"""

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Literal

Tier = Literal["Expedited", "Standard", "Bulk"]
TIERS: tuple[Tier, ...] = ("Bulk", "Standard", "Expedited")
# By storage class: the usual time of each tier; DEEP_ARCHIVE has no Expedited tier.
USUAL = {
    "GLACIER": {"Bulk": timedelta(hours=12), "Standard": timedelta(hours=5), "Expedited": timedelta(minutes=5)},
    "DEEP_ARCHIVE": {"Bulk": timedelta(hours=48), "Standard": timedelta(hours=12)},
}
# How long a thawed copy stays readable: time enough to try a restore again.
DAYS = 7


def usual_time(classes: Collection[str], tier: Tier) -> timedelta:
    """Return how long a thaw of these classes usually takes, by this or the next slower tier."""
    return max((_times(storage_class)[_possible(storage_class, tier)] for storage_class in classes), default=timedelta())


def possible_tier(classes: Collection[str], tier: Tier) -> Tier:
    """Return the tier if all classes have it, else the next slower tier that all of them have."""
    return min((_possible(storage_class, tier) for storage_class in classes), key=TIERS.index, default=tier)


def fitting_tier(classes: Collection[str], limit: timedelta) -> Tier:
    """Return the cheapest (slowest) tier that usually thaws within a limit, else the fastest."""
    fitting = [tier for tier in TIERS if usual_time(classes, tier) <= limit and possible_tier(classes, tier) == tier]
    return fitting[0] if fitting else possible_tier(classes, "Expedited")


def slower_tier(tier: Tier) -> Tier | None:
    """Return the next slower tier, if there is one."""
    place = TIERS.index(tier)
    return TIERS[place - 1] if place else None


def deadline(requested: datetime, classes: Collection[str], tier: Tier) -> datetime:
    """Return when to stop waiting for a thaw: after twice the usual time, and an hour."""
    return requested + 2 * usual_time(classes, tier) + timedelta(hours=1)


def _times(storage_class: str) -> dict[Tier, timedelta]:
    return {tier: time for tier, time in USUAL[storage_class].items() if tier in TIERS}


def _possible(storage_class: str, tier: Tier) -> Tier:
    return tier if tier in USUAL[storage_class] else "Standard"
