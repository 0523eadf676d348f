"""Windows of time, cut by calendar."""

import calendar
import datetime as dt
from dataclasses import dataclass

from shipway.errors import InputError
from shipway.spec import TimeSplit


@dataclass(frozen=True)
class Window:
    """A stretch of time: `start` belongs to it, `end` does not; without `start` it has no beginning."""

    start: dt.datetime | None
    end: dt.datetime

    def __str__(self) -> str:
        begin = self.start.isoformat(sep=" ") if self.start else "the beginning"
        return f"from {begin} to before {self.end.isoformat(sep=' ')}"


def time_windows(section: TimeSplit, newest: dt.datetime | None = None) -> list[Window]:
    """Returns the windows of the training, validation and test part.

    Args:
        section: The spec's split section.
        newest: The newest row's time, needed when `until` is `latest`: the test part then ends with the period (day,
            week from Monday, month or year, by the unit of the test part's length) in which it lies.

    Raises:
        ValueError: `until` is `latest` and `newest` is missing.
        InputError: A window would begin before the year 1.
    """
    if section.until == "latest":
        if newest is None:
            raise ValueError("until is 'latest': the newest row's time is needed")
        end = _period_end(newest, _unit(section.test))
    else:
        end = dt.datetime.fromisoformat(section.until)
        if end.tzinfo is not None:
            end = end.astimezone(dt.UTC).replace(tzinfo=None)
    try:
        test = _before(end, section.test)
        validation = _before(test, section.validation)
        train = _before(validation, section.train) if section.train else None
    except (OverflowError, ValueError) as error:
        raise InputError(f"split: the parts before {end.isoformat(sep=' ')} begin before the year 1") from error
    return [Window(train, validation), Window(validation, test), Window(test, end)]


def _unit(period: str) -> str:
    return period.lstrip("0123456789")


def _before(moment: dt.datetime, period: str) -> dt.datetime:
    """Returns the moment a period earlier; a day that a month does not have becomes its last."""
    unit = _unit(period)
    count = int(period.removesuffix(unit))
    if unit in ("d", "w"):
        return moment - dt.timedelta(days=count * (7 if unit == "w" else 1))
    months = moment.year * 12 + moment.month - 1 - count * (12 if unit == "y" else 1)
    year, month = divmod(months, 12)
    last = calendar.monthrange(year, month + 1)[1]
    return moment.replace(year=year, month=month + 1, day=min(moment.day, last))


def _period_end(moment: dt.datetime, unit: str) -> dt.datetime:
    day = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    match unit:
        case "d":
            return day + dt.timedelta(days=1)
        case "w":
            return day + dt.timedelta(days=7 - day.weekday())
        case "mo":
            return (day.replace(day=1) + dt.timedelta(days=32)).replace(day=1)
        case _:
            return day.replace(year=day.year + 1, month=1, day=1)
