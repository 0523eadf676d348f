"""The last checks as small charts: inline SVG, no scripts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from shipway.lineage.documents import MonitorFindings
from shipway.lineage.html import Markup, section, text
from shipway.monitor.observation import moment

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 330, 130, 46, 10, 10, 22
_INK, _SOFT, _BLUE, _RED = "#1c2733", "#9aa7b4", "#245ea8", "#b3261e"
_COLOURS = {"ok": "#1a7f4b", "alert": "#b26a00", "retrain": "#b3261e", "rollback": "#b3261e"}
_SHOWN_FEATURES = 6

Value = Callable[[MonitorFindings], float | None]


@dataclass(frozen=True)
class Trend:
    """One chart.

    Attributes:
        title: What it shows.
        value: Where a check has it.
        bound: A rule's bound, drawn as a line; None for none.
        baseline: Where a check has what it is compared with, drawn dashed.
        style: How its numbers are written.
        from_zero: Whether the axis begins with zero; else with the least value.
    """

    title: str
    value: Value
    bound: float | None = None
    baseline: Value | None = None
    style: str = ".3g"
    from_zero: bool = True


def trends_section(checks: Sequence[MonitorFindings]) -> Markup:
    """Returns the charts of checks, the oldest first and the one that the page is about last."""
    shown = [trend for trend in _trends(checks) if any(trend.value(check) is not None for check in checks)]
    charts = "".join(f"<figure style='margin:0'>{_caption(trend)}{_chart(trend, checks)}</figure>" for trend in shown)
    count = f"{len(checks)} checks" if len(checks) > 1 else "This is the first check"
    span = f", {_day(checks[0])} to {_day(checks[-1])}" if len(checks) > 1 else ""
    legend = " ".join(
        f'<span style="color:{colour}">&#9679;</span> {text(name)}'
        for name, colour in _COLOURS.items()
        if name != "rollback"
    )
    note = f"<p>{text(count + span)}. {legend} or rollback; red line: the rule's bound; dashed: the baseline.</p>"
    grid = (
        f'<div style="display:grid;grid-template-columns:repeat(auto-fill,minmax(320px,1fr));gap:12px">{charts}</div>'
    )
    return section("Trends", note, grid)


def _trends(checks: Sequence[MonitorFindings]) -> list[Trend]:
    last = checks[-1]
    bounds = {rule.metric: rule.bound for rule in last.rules if rule.bound is not None}
    found = [
        Trend("predictions in the window", lambda check: float(check.rows), bounds.get("rows"), style=",.0f"),
        Trend("share of drifted features", lambda check: check.drifted_share, bounds.get("drifted_share"), style=".0%"),
        Trend("prediction PSI", lambda check: check.prediction.psi, bounds.get("prediction_psi")),
        Trend("greatest feature PSI", _greatest_psi, bounds.get("feature.psi")),
    ]
    found += [_performance(name, bounds) for name in last.performance]
    found += [_service(name, bounds) for name in ("error_rate", "latency_p99_ms")]
    return found + [_feature(name) for name in last.measures if name in last.drifted][:_SHOWN_FEATURES]


def _greatest_psi(check: MonitorFindings) -> float | None:
    return max((found.psi for found in check.measures.values() if found.psi is not None), default=None)


def _performance(name: str, bounds: Mapping[str, float]) -> Trend:
    def value(check: MonitorFindings) -> float | None:
        return check.performance[name].value if name in check.performance else None

    def baseline(check: MonitorFindings) -> float | None:
        return check.performance[name].baseline if name in check.performance else None

    return Trend(f"{name} on labelled rows", value, bounds.get(f"performance.{name}"), baseline, from_zero=False)


def _service(name: str, bounds: Mapping[str, float]) -> Trend:
    def value(check: MonitorFindings) -> float | None:
        return check.service[name].value if name in check.service else None

    def baseline(check: MonitorFindings) -> float | None:
        return check.service[name].baseline if name in check.service else None

    return Trend(name.replace("_", " "), value, bounds.get(name), baseline)


def _feature(name: str) -> Trend:
    def value(check: MonitorFindings) -> float | None:
        return check.measures[name].psi if name in check.measures else None

    return Trend(f"PSI of {name}", value)


def _caption(trend: Trend) -> str:
    return f'<figcaption style="font-size:13px;font-weight:600">{text(trend.title)}</figcaption>'


def _chart(trend: Trend, checks: Sequence[MonitorFindings]) -> str:
    times = [moment(check.until) for check in checks]
    values = [trend.value(check) for check in checks]
    base = [trend.baseline(check) if trend.baseline else None for check in checks]
    present = [value for value in (*values, *base, trend.bound) if value is not None]
    xs, scale = _places(times), _scale(present, from_zero=trend.from_zero)
    parts = [
        _axis(scale, trend.style, checks),
        _version_changes(checks, xs),
        _lines(xs, [None if value is None else scale(value) for value in base], _SOFT, dash="4 3"),
        _bound(trend.bound, scale),
        _lines(xs, [None if value is None else scale(value) for value in values], _BLUE),
    ]
    for x, value, check in zip(xs, values, checks, strict=True):
        if value is not None:
            label = f"{check.until}: {format(value, trend.style)}, {check.decision}, version {check.version}"
            parts.append(
                f'<circle cx="{x}" cy="{scale(value)}" r="3" fill="{_COLOURS.get(check.decision, _INK)}">'
                f"<title>{text(label)}</title></circle>"
            )
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" role="img" aria-label="{text(trend.title)}" '
        f'font-size="10" fill="{_INK}" font-family="system-ui,sans-serif" style="background:#fff">'
        f"{''.join(parts)}</svg>"
    )


class _Scale:
    """Where a value is on the vertical axis."""

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = low, high

    def __call__(self, value: float) -> float:
        return round(_HEIGHT - _BOTTOM - (value - self.low) / (self.high - self.low) * (_HEIGHT - _BOTTOM - _TOP), 2)


def _scale(values: Sequence[float], *, from_zero: bool) -> _Scale:
    low, high = min(values), max(values)
    low = min(0.0, low) if from_zero else low
    room = 0.08 * (high - low) or abs(high) * 0.08 or 1.0
    return _Scale(low if from_zero else low - room, high + room)


def _places(times: Sequence[float]) -> list[float]:
    span = times[-1] - times[0]
    width = _WIDTH - _LEFT - _RIGHT - 8
    return [round(_LEFT + 4 + ((time - times[0]) / span * width if span else width / 2), 2) for time in times]


def _axis(scale: _Scale, style: str, checks: Sequence[MonitorFindings]) -> str:
    lines = "".join(
        f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{scale(value)}" y2="{scale(value)}" stroke="#e3e8ee"/>'
        f'<text x="{_LEFT - 5}" y="{scale(value) + 3}" text-anchor="end">{text(format(value, style))}</text>'
        for value in (scale.low, (scale.low + scale.high) / 2, scale.high)
    )
    if len(checks) == 1:
        return lines
    return (
        f'{lines}<text x="{_LEFT}" y="{_HEIGHT - 6}">{_day(checks[0])}</text>'
        f'<text x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 6}" text-anchor="end">{_day(checks[-1])}</text>'
    )


def _version_changes(checks: Sequence[MonitorFindings], xs: Sequence[float]) -> str:
    found = []
    for (before, after), (left, right) in zip(pairwise(checks), pairwise(xs), strict=True):
        if before.version != after.version:
            x = round((left + right) / 2, 2)
            found.append(
                f'<line x1="{x}" x2="{x}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}" stroke="{_SOFT}"/>'
                f'<text x="{x + 2}" y="{_TOP + 8}" fill="{_SOFT}">v{text(after.version)}</text>'
            )
    return "".join(found)


def _bound(bound: float | None, scale: _Scale) -> str:
    if bound is None:
        return ""
    y = scale(bound)
    return f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y}" y2="{y}" stroke="{_RED}"/>'


def _lines(xs: Sequence[float], ys: Sequence[float | None], colour: str, dash: str = "") -> str:
    """Returns a line through the points that are there, broken where one is missing."""
    drawn = []
    for run in _runs(zip(xs, ys, strict=True)):
        points = " ".join(f"{x},{y}" for x, y in run)
        style = f' stroke-dasharray="{dash}"' if dash else ""
        drawn.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"{style}/>')
    return "".join(drawn)


def _runs(points: Iterable[tuple[float, float | None]]) -> list[list[tuple[float, float]]]:
    runs: list[list[tuple[float, float]]] = [[]]
    for x, y in points:
        if y is not None:
            runs[-1].append((x, y))
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def _day(check: MonitorFindings) -> str:
    return check.until[:10]
