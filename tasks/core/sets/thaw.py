"""Cold storage: how fast it can be thawed, and which way of thawing fits (AWS's figures, as upper ends of what is usual).

https://docs.aws.amazon.com/AmazonS3/latest/userguide/restoring-objects-retrieval-options.html
"""

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Literal

Tier = Literal["Expedited", "Standard", "Bulk"]
TIERS: tuple[Tier, ...] = ("Bulk", "Standard", "Expedited")
# By storage class: within which time a tier usually is done; DEEP_ARCHIVE has none that is fast.
USUAL = {
    "GLACIER": {"Bulk": timedelta(hours=12), "Standard": timedelta(hours=5), "Expedited": timedelta(minutes=5)},
    "DEEP_ARCHIVE": {"Bulk": timedelta(hours=48), "Standard": timedelta(hours=12)},
}
# How long a thawed copy stays readable: time enough to try a restore again.
DAYS = 7


def usual_time(classes: Collection[str], tier: Tier) -> timedelta:
    """Return how long objects of some classes usually take to be thawed; what a class does not have is the next slower tier."""
    return max((_times(one)[_possible(one, tier)] for one in classes), default=timedelta())


def possible_tier(classes: Collection[str], tier: Tier) -> Tier:
    """Return the tier that all classes have, the wanted one or a slower one."""
    return min((_possible(one, tier) for one in classes), key=TIERS.index, default=tier)


def fitting_tier(classes: Collection[str], limit: timedelta) -> Tier:
    """Return the slowest tier, which is the cheapest, that usually is done within a limit; else the fastest there is."""
    fitting = [one for one in TIERS if usual_time(classes, one) <= limit and possible_tier(classes, one) == one]
    return fitting[0] if fitting else possible_tier(classes, "Expedited")


def slower_tier(tier: Tier) -> Tier | None:
    """Return the next slower tier, if there is one."""
    place = TIERS.index(tier)
    return TIERS[place - 1] if place else None


def deadline(asked: datetime, classes: Collection[str], tier: Tier) -> datetime:
    """Return when a thaw has taken so long that nobody should wait on: twice the usual time, and an hour."""
    return asked + 2 * usual_time(classes, tier) + timedelta(hours=1)


def _times(storage_class: str) -> dict[Tier, timedelta]:
    return {tier: time for tier, time in USUAL[storage_class].items() if tier in TIERS}


def _possible(storage_class: str, tier: Tier) -> Tier:
    return tier if tier in USUAL[storage_class] else "Standard"
