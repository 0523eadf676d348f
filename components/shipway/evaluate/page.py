"""The evaluation as one HTML page; charts are inline SVG."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from shipway.lineage.documents import Evaluation
from shipway.lineage.html import Markup, page, section, table, text
from shipway.spec.metrics import LATENCY, METRICS

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 460, 320, 48, 38, 12
_INK, _SOFT, _BLUE, _RED = "#1c2733", "#c9d1da", "#245ea8", "#c2571a"


def evaluation_page(evaluation: Evaluation) -> str:
    """Returns the report of an evaluation as a whole HTML page."""
    details = evaluation.details
    body = [_metrics(evaluation), _latency(evaluation)]
    if "confusion" in details:
        body.append(_confusion(details))
    if "roc" in details:
        roc = details["roc"]
        chart = _line_chart(roc["false_positive_rate"], roc["true_positive_rate"], dots=False)
        body.append(section("ROC curve", _chart(chart, "false positive rate", "true positive rate", diagonal=True)))
    if "calibration" in details:
        bins = details["calibration"]
        chart = _line_chart(bins["probability"], bins["observed"], dots=True)
        body.append(section("Calibration", _chart(chart, "mean probability", "observed share", diagonal=True)))
    if "scores" in details:
        scores = details["scores"]
        classes = details["classes"]
        series = [(classes[0], scores["negative"], _BLUE), (classes[1], scores["positive"], _RED)]
        body.append(section("Predicted probabilities", _histogram(scores["edges"], series, "probability")))
    if "residuals" in details:
        residuals = details["residuals"]
        series = [("rows", residuals["counts"], _BLUE)]
        body.append(section("Residuals (label - prediction)", _histogram(residuals["edges"], series, "residual")))
    body.append(_slices(evaluation))
    body.append(_facts(evaluation))
    versus = f", beside champion version {evaluation.champion.version}" if evaluation.champion else ""
    return page("Evaluation", "".join(body), lead=f"{evaluation.task}, {evaluation.rows:,} test rows{versus}")


def _metrics(evaluation: Evaluation) -> Markup:
    names = [name for name in METRICS[_task(evaluation)] if name in evaluation.metrics]
    champion = evaluation.champion
    if champion is None:
        return section("Metrics", table(["metric", "value"], [(name, evaluation.metrics[name]) for name in names]))
    rows = [
        (
            name,
            evaluation.metrics[name],
            champion.metrics.get(name),
            champion.difference.get(name),
            champion.worse_by.get(name),
        )
        for name in names
    ]
    heads = ["metric", "this model", f"champion {champion.version}", "difference", "worse by at most (95 %)"]
    return section("Metrics", table(heads, rows))


def _latency(evaluation: Evaluation) -> Markup:
    rows = [(name, evaluation.metrics[name]) for name in LATENCY if name in evaluation.metrics]
    timed = evaluation.details.get("latency_rows", "")
    return section(f"Latency of one row ({timed} timed)", table(["percentile", "milliseconds"], rows))


def _confusion(details: dict[str, Any]) -> Markup:
    classes = details["classes"]
    heads = ["actual \\ predicted", *classes, "rows"]
    rows = [(name, *counts, sum(counts)) for name, counts in zip(classes, details["confusion"], strict=True)]
    return section("Confusion matrix", table(heads, rows))


def _slices(evaluation: Evaluation) -> Markup:
    if not evaluation.slices:
        return Markup("")
    names = list(METRICS[_task(evaluation)])
    rows = [
        (part.column, part.value, part.rows, *(part.metrics.get(name) for name in names)) for part in evaluation.slices
    ]
    note = f"<p>Slices of fewer than {evaluation.min_slice_rows} rows are shown, but no gate looks at them.</p>"
    return section("Slices", note, table(["column", "value", "rows", *names], rows))


def _facts(evaluation: Evaluation) -> Markup:
    rows = [
        ("model digest", evaluation.model_digest),
        ("test data version", evaluation.data_version),
        ("rows without a label, left out", evaluation.details.get("dropped_rows", 0)),
    ]
    if evaluation.task == "binary":
        rows.append(("counted as positive from probability", evaluation.details.get("threshold", "")))
    if evaluation.champion:
        rows.append(("champion digest", evaluation.champion.digest))
    return section("What was evaluated", table(["", ""], rows))


def _task(evaluation: Evaluation) -> Any:
    return evaluation.task


def _x(value: float, low: float = 0.0, high: float = 1.0) -> float:
    return round(_LEFT + (value - low) / (high - low) * (_WIDTH - _LEFT - 12), 2)


def _y(value: float, high: float = 1.0) -> float:
    return round(_HEIGHT - _BOTTOM - value / high * (_HEIGHT - _BOTTOM - _TOP), 2)


def _line_chart(xs: Sequence[float], ys: Sequence[float], *, dots: bool) -> str:
    points = " ".join(f"{_x(x)},{_y(y)}" for x, y in zip(xs, ys, strict=True))
    line = f'<polyline points="{points}" fill="none" stroke="{_BLUE}" stroke-width="2"/>'
    if not dots:
        return line
    marks = "".join(f'<circle cx="{_x(x)}" cy="{_y(y)}" r="3.5" fill="{_BLUE}"/>' for x, y in zip(xs, ys, strict=True))
    return line + marks


def _chart(content: str, x_title: str, y_title: str, *, diagonal: bool) -> Markup:
    """Returns a chart with both axes from 0 to 1."""
    ticks = [step / 5 for step in range(6)]
    grid = "".join(
        f'<line x1="{_x(0)}" x2="{_x(1)}" y1="{_y(tick)}" y2="{_y(tick)}" stroke="#e3e8ee"/>'
        f'<text x="{_LEFT - 6}" y="{_y(tick) + 4}" text-anchor="end">{tick:.1f}</text>'
        f'<text x="{_x(tick)}" y="{_HEIGHT - _BOTTOM + 15}" text-anchor="middle">{tick:.1f}</text>'
        for tick in ticks
    )
    if diagonal:
        grid += f'<line x1="{_x(0)}" y1="{_y(0)}" x2="{_x(1)}" y2="{_y(1)}" stroke="{_SOFT}" stroke-dasharray="5 4"/>'
    return _svg(grid + content, x_title, y_title)


def _histogram(edges: Sequence[float], series: Sequence[tuple[str, Sequence[int], str]], x_title: str) -> Markup:
    """Returns a histogram; each series is drawn as its share of its own rows, so that rare classes show."""
    shares = [[count / max(sum(counts), 1) for count in counts] for _, counts, _ in series]
    top = max(max(values) for values in shares) or 1.0
    low, high = edges[0], edges[-1]
    bars = []
    for values, (_, _, colour) in zip(shares, series, strict=True):
        for place, value in enumerate(values):
            left, right = _x(edges[place], low, high), _x(edges[place + 1], low, high)
            bars.append(
                f'<rect x="{left}" y="{_y(value, top)}" width="{round(max(right - left - 1, 1), 2)}" '
                f'height="{round(_y(0) - _y(value, top), 2)}" fill="{colour}" fill-opacity="0.5"/>'
            )
    bars.append(
        f'<text x="{_LEFT}" y="{_HEIGHT - _BOTTOM + 15}">{low:.3g}</text>'
        f'<text x="{_WIDTH - 12}" y="{_HEIGHT - _BOTTOM + 15}" text-anchor="end">{high:.3g}</text>'
        f'<text x="{_LEFT - 6}" y="{_TOP + 8}" text-anchor="end">{top:.0%}</text>'
    )
    legend = "".join(
        f'<span style="margin-right:16px"><span style="background:{colour};opacity:.5;display:inline-block;'
        f'width:12px;height:12px;margin-right:5px"></span>{text(name)}</span>'
        for name, _, colour in series
    )
    chart = _svg("".join(bars), x_title, "share of the rows")
    return Markup(f"<p>{legend}</p>{chart}" if len(series) > 1 else chart)


def _svg(content: str, x_title: str, y_title: str) -> Markup:
    bottom = _HEIGHT - _BOTTOM
    middle = (bottom + _TOP) // 2
    return Markup(
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" role="img" '
        f'aria-label="{text(y_title)} by {text(x_title)}" font-size="11" fill="{_INK}" '
        'font-family="system-ui,sans-serif">'
        f"{content}"
        f'<path d="M{_LEFT},{_TOP}V{bottom}H{_WIDTH - 12}" fill="none" stroke="{_INK}"/>'
        f'<text x="{(_WIDTH + _LEFT) // 2}" y="{_HEIGHT - 6}" text-anchor="middle">{text(x_title)}</text>'
        f'<text transform="translate(12,{middle}) rotate(-90)" text-anchor="middle">{text(y_title)}</text></svg>'
    )
