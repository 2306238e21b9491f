"""Partition columns that hold periods as text or numbers, '2024-03' or 202403, by range or list."""

import re
from collections.abc import Sequence
from datetime import datetime, tzinfo
from itertools import pairwise

from tasks.core.calendar import name_of_period, next_start, start_of, starts_between
from tasks.core.context_keys import PartitionRule

VALUE = r"(?:'[^']+'|\d+)"
RANGE = re.compile(rf"FOR VALUES FROM \((?P<lower>MINVALUE|{VALUE})\) TO \((?P<upper>MAXVALUE|{VALUE})\)")
LIST = re.compile(rf"FOR VALUES IN \((?P<values>{VALUE}(?:, {VALUE})*)\)")
PLACE = re.compile(r"\{(?P<name>year|month|quarter)(?::0?(?P<width>[1-9])d?)?\}")
WIDTHS = {"year": "4", "month": "1,2", "quarter": "1"}
PER_YEAR = {"month": 12, "quarter": 4}


def spell_period(start: datetime, template: str, zone: tzinfo) -> str:
    """Return the column's value for the period that begins at an instant."""
    return name_of_period(template, start.astimezone(zone))


def spell_instant(rule: PartitionRule, instant: datetime, zone: tzinfo) -> str:
    """Return the column's value for a row of an instant: the instant, or its period's spelling."""
    return spell_period(start_of(rule.period, instant, zone), rule.values, zone) if rule.values else instant.isoformat()


def spelled_between(lower: datetime, upper: datetime, template: str, period: str, zone: tzinfo) -> list[str]:
    """Return the column's values for the periods from one instant to another."""
    starts = starts_between(period, lower.astimezone(zone), next_start(period, upper.astimezone(zone), -1))
    return [spell_period(start, template, zone) for start in starts]


def parse_spelled_bound(text: str, template: str, period: str, zone: tzinfo) -> tuple[datetime | None, datetime | None]:
    """Return the ends of a range, or of a list of consecutive periods, spelled as in the catalog.

    Raises:
        ValueError: the bound is neither a range nor such a list, or its values are not periods.
    """
    if match := RANGE.fullmatch(text):
        lower, upper = match["lower"], match["upper"]
        return (
            None if lower == "MINVALUE" else _start_of(lower, template, zone),
            None if upper == "MAXVALUE" else _start_of(upper, template, zone, is_end=True),
        )
    if match := LIST.fullmatch(text):
        starts = sorted(_start_of(value, template, zone) for value in match["values"].split(", "))
        _require_consecutive(text, starts, period)
        return starts[0], next_start(period, starts[-1])
    raise ValueError(f"{text} is neither a range nor a list of one column that spells periods as {template}")


def _require_consecutive(text: str, starts: Sequence[datetime], period: str) -> None:
    if any(next_start(period, start) != following for start, following in pairwise(starts)):
        raise ValueError(f"{text} lists periods that are not consecutive")


def _start_of(value: str, template: str, zone: tzinfo, *, is_end: bool = False) -> datetime:
    """Return the start of a spelled period; as an end also of month 13 or quarter 5."""
    plain = value.strip("'")
    match = re.fullmatch(PLACE.sub(_digits, re.sub(r"([.])", r"\\\1", template)), plain)
    if not match:
        raise ValueError(f"{value} is not a period spelled as {template}")
    numbers = {name: int(digits) for name, digits in match.groupdict().items()}
    unit = next((name for name in PER_YEAR if name in numbers), None)
    number, count = (numbers[unit], PER_YEAR[unit]) if unit else (1, 1)
    if not 1 <= number <= count + is_end or not 1 <= numbers["year"] <= 9998:
        raise ValueError(f"{value} is not a period spelled as {template}")
    years, place = divmod(number - 1, count)
    return datetime(numbers["year"] + years, place * (12 // count) + 1, 1, tzinfo=zone)


def _digits(place: re.Match[str]) -> str:
    return rf"(?P<{place['name']}>\d{{{place['width'] or WIDTHS[place['name']]}}})"
