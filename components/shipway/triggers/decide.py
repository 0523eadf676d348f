"""What follows from an alert: pure functions of the alert, the routes and what happened before."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from shipway.errors import InputError
from shipway.lineage.digests import digest_json
from shipway.triggers.expression import Plain, expression, tame
from shipway.triggers.incoming import Incoming
from shipway.triggers.match import mismatch
from shipway.triggers.routes import Route, Routes, Start, Value

DAY = 86400.0
# A debounce that is renewed for ever never ends in a start.
_LONGEST_DEBOUNCE = 10
_MOST_REASON = 1000
_MOST_URI = 1000

State = Literal["waiting", "skipped", "failed"]


@dataclass(frozen=True, slots=True)
class Decision:
    """What a route makes of an alert.

    Attributes:
        route: The route's name; "" where no route is for the alert.
        key: The run's idempotency key: one for each route and event.
        state: `waiting` (it is to be done when it is due), `skipped` or `failed` (the payload lacks what it needs).
        reason: Why, in words.
        action: What is to be done, as `actions.perform` takes it; nothing of the payload is needed any more.
        due: When, in seconds since the epoch.
    """

    route: str
    key: str
    state: State
    reason: str
    action: dict[str, Any] = field(default_factory=dict)
    due: float = 0.0


@dataclass(frozen=True, slots=True)
class History:
    """What a route has done before.

    Attributes:
        last_begun: When it last began something, in seconds since the epoch; 0 for never.
        today: When it began what it began in the last 24 hours.
        running: How many of its runs have not ended.
        starting: Whether a run of the same spec and pipeline is being started this moment.
    """

    last_begun: float = 0.0
    today: Sequence[float] = ()
    running: int = 0
    starting: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether what is due may be done.

    Attributes:
        kind: `go`, `wait` or `skip`.
        reason: Why not now, or not at all.
        until: When to ask again, in seconds since the epoch.
    """

    kind: Literal["go", "wait", "skip"]
    reason: str = ""
    until: float = 0.0


def run_key(route: str, source: str, fingerprint: str) -> str:
    """Returns the key of what a route does about an event: t and 15 hexadecimal digits."""
    return "t" + digest_json([route, source, fingerprint]).removeprefix("sha256:")[:15]


def decide(alert: Incoming, routes: Routes, now: float) -> list[Decision]:
    """Decides what follows from an alert.

    Args:
        alert: The alert.
        routes: The routes.
        now: Seconds since the epoch.

    Returns:
        One decision for each route that is for it; a single one of no route, with the reason, where none is.
    """
    if alert.resolved:
        return [_nothing(alert, "it says that something is over, which starts nothing")]
    reasons = {route.name: mismatch(alert, route) for route in routes.routes}
    decided = [_decision(alert, route, now) for route in routes.routes if not reasons[route.name]]
    if decided:
        return decided
    told = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
    return [_nothing(alert, f"no route is for it: {told}" if told else "there are no routes")]


def admit(route: Route, history: History, now: float) -> Verdict:
    """Decides whether a route may do now what is due.

    Args:
        route: The route.
        history: What it has done before.
        now: Seconds since the epoch.
    """
    cooldown = route.seconds("cooldown")
    if history.last_begun and now < history.last_begun + cooldown:
        ago = _span(now - history.last_begun)
        return Verdict("skip", f"cooldown: the route was last at work {ago} ago, which is less than {route.cooldown}")
    if route.quota is not None and len(history.today) >= route.quota:
        return Verdict("skip", f"quota: the route was at work {len(history.today)} times in the last 24 hours")
    if (end := route.quiet_until(now)) is not None:
        return Verdict("wait", f"waits for the end of the quiet hours {', '.join(route.quiet)} {route.timezone}", end)
    if route.concurrent is not None and history.running >= route.concurrent:
        return Verdict("wait", f"waits: {history.running} of its runs go on, at most {route.concurrent} may", now + 5)
    if history.starting:
        return Verdict("wait", "waits: another run of the same pipeline is being started", now + 1)
    return Verdict("go")


def debounced_until(route: Route, since: float, now: float) -> float:
    """Returns when a debounced decision is due.

    Args:
        route: The route.
        since: When the first alert came of those that this one stands for, in seconds since the epoch.
        now: When this one came.
    """
    wait = route.seconds("debounce")
    return min(now + wait, max(now, since + _LONGEST_DEBOUNCE * wait))


def _decision(alert: Incoming, route: Route, now: float) -> Decision:
    key = run_key(route.name, alert.source, alert.fingerprint)
    try:
        action = _start(alert, route, route.start) if route.start else _deed(alert, route)
    except InputError as error:
        return Decision(route.name, key, "failed", _short(str(error)))
    wait = route.seconds("debounce")
    reason = f"waits {route.debounce} for more to come" if wait else "is to be done"
    return Decision(route.name, key, "waiting", reason, action, now + wait)


def _start(alert: Incoming, route: Route, start: Start) -> dict[str, Any]:
    settings = [
        # JSON is YAML: what is text stays text.
        f"{name}={json.dumps(_value(alert, value, f'set.{name}'), ensure_ascii=False)}"
        for name, value in start.set.items()
    ]
    parameters = {
        name: _parameter(_value(alert, value, f"parameters.{name}")) for name, value in start.parameters.items()
    }
    skips = route.unchanged == "skip" or (route.unchanged is None and alert.kind == "data")
    return {
        "do": "start",
        "spec": start.spec,
        "pipeline": start.pipeline,
        "settings": settings,
        "parameters": parameters,
        "source": _uri(alert, start),
        "unchanged": "skip" if skips else "start",
    }


def _deed(alert: Incoming, route: Route) -> dict[str, Any]:
    return {
        "do": route.do,
        "spec": route.spec,
        "title": _short(alert.title),
        "severity": alert.labels.get("severity", ""),
        # A rollback is about the version that is live now; an alert about another one comes too late.
        "version": alert.labels.get("version", "")[:64],
    }


def _value(alert: Incoming, written: Value, where: str) -> Plain:
    if not isinstance(written, str):
        return written
    parsed = expression(written)
    try:
        found = parsed.find(alert.payload)
        if parsed.is_literal and isinstance(found, (str, int, float)):
            return found
        return tame(found, written)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def _parameter(value: Plain) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _uri(alert: Incoming, start: Start) -> str:
    """Returns the URI of the rows, which the payload may name within the bounds that the route sets."""
    if not start.source:
        return ""
    parsed = expression(start.source)
    try:
        found = parsed.find(alert.payload)
    except InputError as error:
        raise InputError(f"source: {error}") from error
    if not isinstance(found, str) or not found or len(found) > _MOST_URI or not found.isprintable():
        raise InputError(f"source: {start.source!r} gives no URI of up to {_MOST_URI} characters")
    # `..` would lead out of the bounds, `::` chains another file system before them.
    bounded = any(found.startswith(prefix) for prefix in start.within)
    if not parsed.is_literal and (not bounded or ".." in found or "::" in found or "%" in found):
        raise InputError(
            f"source: {start.source!r} gives {_short(found)!r}; expected a URI that begins with "
            f"{' or '.join(start.within)}, without '..', '::' and '%'"
        )
    return found


def _nothing(alert: Incoming, reason: str) -> Decision:
    return Decision("", run_key("", alert.source, alert.fingerprint), "skipped", _short(reason))


def _short(text: str) -> str:
    """Returns text on one line, for a reason that people read."""
    line = " ".join(text.split())
    return line if len(line) <= _MOST_REASON else line[: _MOST_REASON - 3] + "..."


def _span(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f}{unit}"
    return f"{max(seconds, 0):.0f}s"
