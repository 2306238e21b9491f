"""Instants as operators write them, and periods as retention rules do: months and years are the calendar's, in a zone."""

import calendar
import re
from datetime import datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from tasks.core.errors import BadInput

PERIOD = re.compile(r"(?P<count>\d+) (?P<unit>hour|day|month|year)s?")
LOOKS_LIKE_AN_INSTANT = re.compile(r"\d{4}-\d\d-\d\d")
MONTHS = {"month": 1, "year": 12}


def is_instant(text: str) -> bool:
    """Say whether somebody meant an instant: it begins with a date."""
    return LOOKS_LIKE_AN_INSTANT.match(text) is not None


def parse_instant(text: str, zone: tzinfo) -> datetime:
    """Return an instant such as `2025-11-03 14:00`, in the zone given, or with an offset, or followed by a zone's name.

    A date alone is its first moment.

    Raises:
        BadInput: it is none.
    """
    spelled, _, named = text.partition(" ")[2].partition(" ")
    place = text.removesuffix(f" {named}") if named else text
    try:
        instant = datetime.fromisoformat(place)
        if instant.tzinfo and named:
            raise ValueError("an offset and a zone")
        return instant if instant.tzinfo else instant.replace(tzinfo=_zone_named(named, instant, zone) if named else zone)
    except (ValueError, ZoneInfoNotFoundError) as error:
        said = f' (after "{spelled}" only the name of a zone may come)' if named else ""
        raise BadInput(
            f'"{text}" is no instant{said}; write for example "2025-11-03 14:00", "2025-11-03T14:00+09:00" '
            f'or "2025-11-03 14:00 Asia/Tokyo"'
        ) from error


def _zone_named(name: str, instant: datetime, zone: tzinfo) -> tzinfo:
    """Return the zone of a name; an abbreviation such as JST is taken if it is what the context's own zone is called then."""
    return zone if name == instant.replace(tzinfo=zone).tzname() else ZoneInfo(name)


def before(instant: datetime, period: str, zone: tzinfo) -> datetime:
    """Return the instant that lies a period such as `3 years` before another, at the same time of day in a zone.

    A day that its month does not have becomes the month's last: a year before 29 February is 28 February.
    """
    found = PERIOD.fullmatch(period)
    if not found:
        raise BadInput(f'"{period}" is no period; write for example "30 days", "36 months" or "3 years"')
    count, unit = int(found["count"]), found["unit"]
    if unit == "hour":
        return instant - timedelta(hours=count)
    local = instant.astimezone(zone)
    earlier = local - timedelta(days=count) if unit == "day" else _months_before(local, count * MONTHS[unit])
    return earlier.astimezone(instant.tzinfo)


def _months_before(local: datetime, months: int) -> datetime:
    year, month = divmod(local.year * 12 + local.month - 1 - months, 12)
    last = calendar.monthrange(year, month + 1)[1]
    return local.replace(year=year, month=month + 1, day=min(local.day, last))
