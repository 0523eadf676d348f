"""A schedule as a platform keeps it, in one form for all of them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ScheduleInfo:
    """A schedule on a platform.

    Attributes:
        name: The schedule's name, unique within the model's pipelines on that platform.
        cron: When it fires, as the platform keeps it.
        timezone: The time zone in which `cron` is read, as `UTC`.
        enabled: Whether it fires; a paused one does not.
        next_run: When it fires next, in ISO 8601, or "" where the platform does not say.
        link: Where a person can look at it.
        id: The platform's own id of it.
    """

    name: str
    cron: str
    timezone: str
    enabled: bool
    next_run: str
    link: str
    id: str
