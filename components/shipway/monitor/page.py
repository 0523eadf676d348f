"""The findings of a check as one HTML page: findings first, then the rules, features worst first, then the trends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from shipway.lineage.documents import CategoryStatistics, FeatureDrift, MonitorFindings, NumberStatistics
from shipway.lineage.html import Markup, page, section, table, text, verdict
from shipway.model.profile import CategoryCounts, NumberCounts
from shipway.monitor.observation import Observation
from shipway.monitor.trends import trends_section

_BADGES = {"ok": "ok", "alert": "info", "retrain": "bad", "rollback": "bad"}
_MEASURES = ("psi", "js", "wasserstein", "ks", "new_share", "null_share")
_TITLES = {
    "psi": "PSI",
    "js": "JS distance",
    "wasserstein": "Wasserstein (sd)",
    "ks": "KS",
    "new_share": "new share",
    "null_share": "nulls differ by",
}
_SHOWN_NEW = 5
_SHOWN_BARS = 20
_BEFORE, _NOW = "#9aa7b4", "#245ea8"
_WIDTH, _HEIGHT = 150, 40

Reference = NumberStatistics | CategoryStatistics
Counts = NumberCounts | CategoryCounts


def check_page(
    findings: MonitorFindings,
    observation: Observation,
    past: Sequence[MonitorFindings],
    references: Mapping[str, Reference],
    counts: Mapping[str, Counts],
    prediction: str,
) -> str:
    """Returns the page of a check.

    Args:
        findings: What the check found.
        observation: What it looked at.
        past: The checks before it that are shown, the oldest first.
        references: Column -> the training part's statistics; the predictions among them.
        counts: Column -> the window's counts.
        prediction: What the predictions are called among these.
    """
    body = [
        _findings(findings, observation),
        _rules(findings),
        _features(findings, references, counts),
        _predictions(findings, references.get(prediction), counts.get(prediction)),
        _performance(findings, observation),
        _service(findings),
        trends_section([*past, findings]),
        _notes(observation),
        _facts(findings, observation),
    ]
    return page(
        f"Monitoring of {findings.model}",
        "".join(body),
        status=_BADGES.get(findings.decision, "info"),
        badge=findings.decision,
        lead=f"Version {findings.version}, {_moment(findings.since)} to {_moment(findings.until)} UTC, "
        f"{findings.rows:,} predictions",
    )


def _findings(findings: MonitorFindings, observation: Observation) -> Markup:
    # The notes have a section of their own.
    reasons = [reason for reason in findings.reasons if reason not in observation.notes]
    if not reasons:
        return section("Findings", "<p>Every rule held.</p>")
    items = "".join(f"<li>{text(reason)}</li>" for reason in reasons)
    return section("Findings", f"<ul>{items}</ul>")


def _rules(findings: MonitorFindings) -> Markup:
    rows = [
        (
            rule.rule,
            _number(rule.value),
            _number(rule.bound),
            "not judged"
            if rule.value is None or rule.bound is None
            else verdict(not rule.violated, "held", "violated"),
            f"{rule.in_a_row} of {rule.checks}" if rule.checks > 1 else "",
            Markup(f"<b>{text(rule.action)}</b>") if rule.acts else rule.action,
            rule.note,
        )
        for rule in findings.rules
    ]
    heads = ["rule", "value", "bound", "verdict", "checks in a row", "then", "note"]
    return section("Decision", table(heads, rows) if rows else "<p>The spec has no rules.</p>")


def _features(findings: MonitorFindings, references: Mapping[str, Reference], counts: Mapping[str, Counts]) -> Markup:
    if not findings.measures:
        return section("Features", "<p>No feature was compared.</p>")
    used = [name for name in _MEASURES if any(getattr(found, name) is not None for found in findings.measures.values())]
    rows, share = [], findings.drifted_share
    for name, found in findings.measures.items():
        rows.append(
            (
                name,
                "too few rows" if share is None else verdict(name not in findings.drifted, "no", "drifted"),
                *(_measure(found, measure) for measure in used),
                _share(found.nulls),
                _new_values(found),
                _bars(references.get(name), counts.get(name)),
            )
        )
    lead = (
        f"{len(findings.drifted)} of {len(findings.measures)} have drifted ({share:.0%}). " if share is not None else ""
    )
    note = f"<p>{lead}Grey: the training part; blue: now. Bold: beyond its threshold.</p>"
    heads = ["feature", "drift", *(_TITLES[name] for name in used), "nulls now", "new values", "distribution"]
    return section("Features, worst first", note, table(heads, rows))


def _predictions(findings: MonitorFindings, reference: Reference | None, counts: Counts | None) -> Markup:
    found = findings.prediction
    if reference is None:
        return section(
            "Predictions", "<p>The package holds no statistics of its predictions: an older Shipway made it.</p>"
        )
    rows = [("PSI", _number(found.psi)), ("Jensen-Shannon distance", _number(found.js))]
    chart = _bars(reference, counts, 2.4)
    return section("Predictions, beside those over the validation part", f"<p>{chart}</p>", table(["", ""], rows))


def _performance(findings: MonitorFindings, observation: Observation) -> Markup:
    labels = observation.labels
    if labels is None:
        return section("Performance", "<p>Not measured: the spec has no monitor.labels.</p>")
    said = (
        f"<p>{labels.labelled:,} of {labels.predicted:,} predictions since {_moment(labels.since)} UTC have a label "
        "by now.</p>"
    )
    rows = [(name, _number(found.value), _number(found.baseline)) for name, found in findings.performance.items()]
    parts = [said]
    if rows:
        parts.append(table(["metric", "now", "on the test part"], rows))
    return section("Performance", *parts, _slices(findings, observation))


def _slices(findings: MonitorFindings, observation: Observation) -> str:
    if not findings.slices:
        return ""
    names = list(dict.fromkeys(name for part in findings.slices for name in part.metrics))
    tested = observation.evaluation.slices if observation.evaluation is not None else []
    before = {(part.column, part.value): part.metrics for part in tested}
    rows = []
    for part in findings.slices:
        test = before.get((part.column, part.value), {})
        cells = (_beside(part.metrics.get(name), test.get(name)) for name in names)
        rows.append((part.column, part.value, part.rows, *cells))
    note = "<p>In brackets: on the test part.</p>" if before else ""
    return f"<h2>Slices</h2>{note}{table(['column', 'value', 'rows', *names], rows)}"


def _service(findings: MonitorFindings) -> Markup:
    rows = [
        (name.replace("_", " "), _number(found.value), _number(found.baseline))
        for name, found in findings.service.items()
    ]
    if not rows:
        return Markup("")
    return section("Service", table(["", "now", "after the deployment"], rows))


def _notes(observation: Observation) -> Markup:
    if not observation.notes:
        return Markup("")
    items = "".join(f"<li>{text(note)}</li>" for note in observation.notes)
    return section("What could not be looked at", f"<ul>{items}</ul>")


def _facts(findings: MonitorFindings, observation: Observation) -> Markup:
    rows = [
        ("version", findings.version),
        ("model digest", findings.digest),
        ("predictions from", f"{observation.source}: {observation.place}"),
        ("window", f"{findings.since} to {findings.until}"),
    ]
    return section("What was looked at", table(["", ""], rows))


def _measure(found: FeatureDrift, measure: str) -> Markup:
    value = _number(getattr(found, measure))
    return Markup(f'<b class="failed">{value}</b>') if measure in found.exceeded else text(value)


def _new_values(found: FeatureDrift) -> str:
    shown = list(found.new_values.items())[:_SHOWN_NEW]
    more = ", ..." if len(found.new_values) > _SHOWN_NEW else ""
    return ", ".join(f"{value!r} ({rows:,})" for value, rows in shown) + more


def _bars(reference: Reference | None, counts: Counts | None, scale: float = 1.0) -> Markup:
    """Returns two histograms, one over the other, each by its own share of rows."""
    pair = _shares(reference, counts)
    if pair is None:
        return Markup("")
    before, now, names = pair
    width, height = _WIDTH * scale, _HEIGHT * scale
    top = max(*before, *now) or 1.0
    step = width / len(before)
    bars = []
    for shares, colour in ((before, _BEFORE), (now, _NOW)):
        for place, share in enumerate(shares):
            tall = round(share / top * height, 2)
            bars.append(
                f'<rect x="{place * step:.2f}" y="{height - tall:.2f}" width="{max(step - 1, 1):.2f}" height="{tall}" '
                f'fill="{colour}" fill-opacity="0.6"><title>{text(names[place])}: {share:.1%}</title></rect>'
            )
    return Markup(
        f'<svg viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}" role="img" '
        f'aria-label="distribution">{"".join(bars)}</svg>'
    )


def _shares(reference: Reference | None, counts: Counts | None) -> tuple[list[float], list[float], list[str]] | None:
    """Returns the shares of the training part's and the window's rows in each bin, and the bins' names."""
    if isinstance(reference, NumberStatistics) and isinstance(counts, NumberCounts):
        edges, grid = reference.edges, reference.grid or reference
        middles = [(low + high) / 2 for low, high in pairwise(grid.edges)]
        # Each bin of the grid goes to the wider one that it lies in, before and now.
        bins = np.searchsorted(edges, [-np.inf, *middles, np.inf][: len(grid.counts)], side="right")
        before, now = (
            np.bincount(bins, weights=each, minlength=len(edges) + 1).tolist() for each in (grid.counts, counts.counts)
        )
        names = [f"below {edges[0]:.4g}", *(f"from {edge:.4g}" for edge in edges)] if edges else ["all"]
        return _of_all(before), _of_all(now), names
    if isinstance(reference, CategoryStatistics) and isinstance(counts, CategoryCounts):
        values = list(reference.counts)[:_SHOWN_BARS]
        mine = [counts.counts.get(value, 0) for value in values]
        theirs = [reference.counts[value] for value in values]
        rest = reference.rows - reference.nulls - sum(theirs), counts.rows - counts.nulls - sum(mine)
        return _of_all([*theirs, rest[0]]), _of_all([*mine, rest[1]]), [*values, "any other"]
    return None


def _of_all(counts: Sequence[float]) -> list[float]:
    total = sum(counts)
    return [count / total if total else 0.0 for count in counts]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _beside(value: float | None, test: float | None) -> str:
    return _number(value) if test is None else f"{_number(value)} ({_number(test)})"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


def _moment(iso: str) -> str:
    return iso[:16].replace("T", " ")
