"""Cron expressions: the five fields people write, checked, and the six that Kubeflow Pipelines reads.

KFP parses with robfig/cron 1.2: seconds first, Sunday is 0 (7 is refused), names in any case, `*`, `?`, lists, ranges
and steps, and no `L`, `W` or `#`. Given five fields it takes the first for seconds and runs sixty times as often as
was meant, so that what is sent always has six.
"""

import datetime as dt
import re
from dataclasses import dataclass, field
from typing import Never

from shipway.errors import InputError

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_MACROS = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_UTC = ("UTC", "Etc/UTC", "GMT", "Z")
_PART = re.compile(r"(\*|\?|[0-9a-z]+)(?:-([0-9a-z]+))?(?:/([0-9]+))?")


@dataclass(frozen=True)
class _Field:
    """One field of an expression: its name, its bounds, and the words that stand for numbers."""

    name: str
    low: int
    high: int
    words: dict[str, int] = field(default_factory=dict)


_FIELDS = (
    _Field("second", 0, 59),
    _Field("minute", 0, 59),
    _Field("hour", 0, 23),
    _Field("day of month", 1, 31),
    _Field("month", 1, 12, {word: number for number, word in enumerate(_MONTHS, 1)}),
    # 7 is Sunday too where people write cron; it becomes 0.
    _Field("day of week", 0, 7, {word: number for number, word in enumerate(_DAYS)}),
)


def kubeflow_cron(expression: str) -> str:
    """Returns a cron expression as KFP reads it: six fields, seconds first.

    Args:
        expression: Five fields (`0 3 * * 1-5`), six with seconds first, or a word as `@daily`.

    Raises:
        InputError: The expression is wrong or never comes true; the message names the field.
    """
    fields = _MACROS.get(expression.strip().lower(), expression).split()
    if len(fields) == 5:
        fields = ["0", *fields]
    if len(fields) != 6:
        raise InputError(
            f"cron {expression!r}: expected five fields (minute, hour, day of month, month, day of week), six with "
            f"seconds first, or one of {', '.join(_MACROS)}, found {len(fields)} field{'s' * (len(fields) != 1)}"
        )
    read = [_read(expression, bounds, text) for bounds, text in zip(_FIELDS, fields, strict=True)]
    _check_days(expression, read[3], read[5])
    cron = " ".join(read)
    next_fire(cron, dt.datetime.now(dt.UTC), expression)
    return cron


def next_fire(cron: str, after: dt.datetime, shown: str = "") -> dt.datetime:
    """Returns when a six-field expression comes true next, in UTC.

    Args:
        cron: The six fields, seconds first.
        after: The moment after which to look.
        shown: The expression as the user wrote it, for the message.

    Raises:
        InputError: It is no cron expression, or never comes true, as the 31st of February.
    """
    from croniter import CroniterError, croniter

    try:
        moment: dt.datetime = croniter(cron.replace("?", "*"), after, second_at_beginning=True).get_next(dt.datetime)
    except CroniterError as error:
        raise InputError(
            f"cron {shown or cron!r}: it never comes true ({error}); expected a day that exists"
        ) from error
    return moment


def check_utc(timezone: str) -> None:
    """Refuses a time zone that KFP cannot honour.

    KFP has one zone for the whole cluster (CRON_SCHEDULE_TIMEZONE of its scheduler, UTC where it is not set).

    Raises:
        InputError: The zone is not UTC.
    """
    if timezone not in _UTC:
        raise InputError(
            f"time zone {timezone!r}: Kubeflow reads every schedule in its cluster's one time zone, UTC unless its "
            "scheduler was given another; expected UTC: write the hours of the cron expression in UTC"
        )


def _read(expression: str, bounds: _Field, text: str) -> str:
    """Checks one field and returns it as robfig/cron takes it."""
    parts = [_part(expression, bounds, part) for part in text.lower().split(",")]
    return ",".join(parts)


def _part(expression: str, bounds: _Field, text: str) -> str:
    match = _PART.fullmatch(text)
    if match is None:
        _refuse(expression, bounds, text, _hint(text))
    first, last, step = match.groups()
    if step is not None and int(step) == 0:
        _refuse(expression, bounds, text, "a step is at least 1")
    suffix = f"/{step}" if step is not None else ""
    if first in ("*", "?"):
        if last is not None:
            _refuse(expression, bounds, text, "a range is between two numbers")
        return first + suffix
    low = _number(expression, bounds, text, first)
    if last is None:
        # Sunday as 7 with a step would start beyond KFP's last day.
        return f"{low % 7 if bounds.high == 7 else low}{suffix}"
    high = _number(expression, bounds, text, last)
    if low > high:
        _refuse(expression, bounds, text, f"{first} comes after {last}; write the range as two parts, with a comma")
    if bounds.high == 7 and high == 7:
        return ",".join(str(day % 7) for day in range(low, 8, int(step or 1)))
    return f"{low}-{high}{suffix}"


def _number(expression: str, bounds: _Field, text: str, word: str) -> int:
    number = bounds.words.get(word, int(word) if word.isdecimal() else -1)
    if number < 0:
        _refuse(expression, bounds, text, _hint(word))
    if not bounds.low <= number <= bounds.high:
        _refuse(expression, bounds, text, f"{number} is out of range")
    return number


def _hint(text: str) -> str:
    if "#" in text or re.fullmatch(r"[0-9]*[lw]+", text):
        return "Kubeflow knows no L, W or #"
    return "it is no number, name, range or step"


def _refuse(expression: str, bounds: _Field, text: str, why: str) -> Never:
    names = f" or {', '.join(bounds.words)}" if bounds.words else ""
    raise InputError(
        f"cron {expression!r}: {bounds.name}: found {text!r}: {why}; expected {bounds.low} to {bounds.high}{names}, *, "
        "lists with commas, ranges with - and steps with /"
    )


def _check_days(expression: str, month_day: str, week_day: str) -> None:
    """Refuses what cron programs read differently: both day fields set, one of them by a step over all days."""
    stepped = [day for day in (month_day, week_day) if re.search(r"[*?]/", day)]
    if stepped and not {"*", "?"} & {month_day, week_day}:
        raise InputError(
            f"cron {expression!r}: day of month {month_day!r} with day of week {week_day!r}: cron programs disagree on "
            f"whether one or both must hold beside {stepped[0]!r}; expected * in one of the two fields"
        )
