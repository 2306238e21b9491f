"""Timestamps as operators write them, periods as retention rules do, and the periods of partitions.

Months, quarters and years are calendar periods of a time zone: they begin at its midnight.
"""

import calendar
import re
from datetime import datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from tasks.core.errors import BadInput

PERIOD = re.compile(r"(?P<count>\d{1,6}) (?P<unit>hour|day|month|year)s?")
LOOKS_LIKE_AN_INSTANT = re.compile(r"\d{4}-\d\d-\d\d")
MONTHS = {"month": 1, "quarter": 3, "year": 12}
EXAMPLES = {"year": "2023", "month": "2023-05", "quarter": "2023-Q2"}
CALENDAR_PERIOD = re.compile(r"(?P<year>(?!0000)\d{4})(-(?P<month>\d\d)|-?[Qq](?P<quarter>[1-4]))?")


def is_instant(text: str) -> bool:
    """Return whether a text is meant as a timestamp: it begins with a date."""
    return LOOKS_LIKE_AN_INSTANT.match(text) is not None


def parse_instant(text: str, zone: tzinfo) -> datetime:
    """Parse `2025-11-03 14:00`, in the zone unless an offset or a zone's name follows it.

    A date alone is its midnight.

    Raises:
        BadInput: the text is not a valid timestamp.
    """
    spelled, _, zone_name = text.partition(" ")[2].partition(" ")
    place = text.removesuffix(f" {zone_name}") if zone_name else text
    try:
        instant = datetime.fromisoformat(place)
        if instant.tzinfo and zone_name:
            raise ValueError("an offset and a zone")
        return instant if instant.tzinfo else instant.replace(tzinfo=_zone_named(zone_name, instant, zone) if zone_name else zone)
    except (ValueError, ZoneInfoNotFoundError) as error:
        hint = f' (after "{spelled}" only the name of a time zone may follow)' if zone_name else ""
        raise BadInput(
            f'"{text}" is not a valid timestamp{hint}; write for example "2025-11-03 14:00", '
            '"2025-11-03T14:00+09:00" or "2025-11-03 14:00 Asia/Tokyo"'
        ) from error


def _zone_named(name: str, instant: datetime, zone: tzinfo) -> tzinfo:
    """Return the zone of a name, or of an abbreviation (JST) that the context's zone has then."""
    return zone if name == instant.replace(tzinfo=zone).tzname() else ZoneInfo(name)


def before(instant: datetime, period: str, zone: tzinfo) -> datetime:
    """Return the instant a period such as `3 years` before another, at the same local time.

    If the month lacks that day, its last day counts: a year before 29 February is 28 February.
    """
    match = PERIOD.fullmatch(period)
    if not match:
        raise BadInput(f'"{period}" is not a valid period; write for example "30 days", "36 months" or "3 years"')
    count, unit = int(match["count"]), match["unit"]
    if unit == "hour":
        return instant - timedelta(hours=count)
    local = instant.astimezone(zone)
    try:
        earlier = local - timedelta(days=count) if unit == "day" else _months_before(local, count * MONTHS[unit])
        return earlier.astimezone(instant.tzinfo)
    except (ValueError, OverflowError) as error:
        raise BadInput(f'"{period}" before {instant:%Y-%m-%d} is before the year 1; write a shorter period') from error


def _months_before(local: datetime, months: int) -> datetime:
    year, month = divmod(local.year * 12 + local.month - 1 - months, 12)
    last = calendar.monthrange(year, month + 1)[1]
    return local.replace(year=year, month=month + 1, day=min(local.day, last))


def start_of(period: str, instant: datetime, zone: tzinfo) -> datetime:
    """Return the start of the month, quarter or year of an instant."""
    local, months = instant.astimezone(zone), MONTHS[period]
    return datetime(local.year, (local.month - 1) // months * months + 1, 1, tzinfo=zone)


def start_of_day(instant: datetime, zone: tzinfo) -> datetime:
    """Return the start of the day of an instant."""
    local = instant.astimezone(zone)
    return datetime(local.year, local.month, local.day, tzinfo=zone)


def next_start(period: str, start: datetime, count: int = 1) -> datetime:
    """Return the start of the next period, or of the period `count` periods later."""
    return _months_before(start, -count * MONTHS[period])


def starts_between(period: str, first: datetime, last: datetime) -> list[datetime]:
    """Return the starts of all periods from the one at `first` to the one at `last`, inclusive."""
    starts = [first]
    while starts[-1] < last:
        starts.append(next_start(period, starts[-1]))
    return starts if first <= last else []


def parse_period(text: str, period: str, zone: tzinfo) -> datetime:
    """Return the start of a period written as `2023`, `2023-05` or `2023-Q2`.

    Raises:
        BadInput: the text is not a month, quarter or year, as required.
    """
    match = CALENDAR_PERIOD.fullmatch(text)
    parts = {"year": True, "month": bool(match and match["month"]), "quarter": bool(match and match["quarter"])}
    if not match or not parts[period] or sum(parts.values()) > (period != "year") + 1 or not 1 <= int(match["month"] or 1) <= 12:
        raise BadInput(f'"{text}" is not a {period}; write for example {EXAMPLES[period]}')
    month = int(match["month"]) if match["month"] else int(match["quarter"] or 1) * 3 - 2
    return datetime(int(match["year"]), month, 1, tzinfo=zone)


def name_of_period(template: str, start: datetime) -> str:
    """Return a partition's name: the template with the start's {year}, {month:02} and {quarter}."""
    return template.format(year=start.year, month=start.month, quarter=(start.month + 2) // 3)
