"""Whether a route is for an alert, and if not, why not."""

import re
from collections.abc import Sequence
from functools import lru_cache

from shipway.errors import InputError
from shipway.triggers.changes import changed_paths, what_counts
from shipway.triggers.incoming import Incoming
from shipway.triggers.routes import On, Paths, Route, is_pattern

# Longer labels match no pattern: a pattern that backtracks must not be fed by a payload.
MOST_CHARACTERS = 1000


def mismatch(alert: Incoming, route: Route) -> str:
    """Returns why a route is not for an alert, or "" where it is.

    Args:
        alert: The alert.
        route: The route.
    """
    if reason := _other(alert, route.on):
        return reason
    return _nothing_changed(alert, route.paths) if route.paths is not None and alert.kind == "code" else ""


def _other(alert: Incoming, on: On) -> str:
    if on.source and alert.source not in on.source:
        return f"source is {alert.source}, not {_choice(on.source)}"
    if on.kind and alert.kind not in on.kind:
        return f"kind is {alert.kind}, not {_choice(on.kind)}"
    for label, wanted in on.labels.items():
        found = alert.labels.get(label, "")
        if not any(_fits(matcher, found) for matcher in wanted):
            return f"label {label} is {_shown(found)}, not {_choice(wanted)}"
    return ""


def _nothing_changed(alert: Incoming, paths: Paths) -> str:
    """Where an event does not say what it changed, everything may have."""
    try:
        changed = changed_paths(alert.payload, paths.changed)
    except InputError as error:
        return f"paths.changed: {error}"
    if changed is None or what_counts(changed, paths):
        return ""
    shown = ", ".join(changed[:3]) + (f" and {len(changed) - 3} more" if len(changed) > 3 else "")
    return f"only files that do not count were changed: {shown or 'none'}"


def _fits(matcher: str, found: str) -> bool:
    if not is_pattern(matcher):
        return matcher == found
    return len(found) <= MOST_CHARACTERS and _compiled(matcher[1:-1]).fullmatch(found) is not None


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


def _choice(wanted: Sequence[str]) -> str:
    return " or ".join(str(entry) for entry in wanted)


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
