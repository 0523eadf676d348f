"""What follows from a check: each rule judged, and the gravest action of those that are violated often enough."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from shipway.lineage.documents import Compared, MonitorFindings, MonitorResult
from shipway.spec import higher_is_better

if TYPE_CHECKING:
    from shipway.spec import Task
    from shipway.spec.watch import MonitorRule

GRAVITY = ("ok", "alert", "retrain", "rollback")

# Of fewer requests the slowest one is the 99th percentile.
_LEAST_REQUESTS = 100
# How seldom so many errors may come by chance at the rate allowed, before the rule counts as violated.
_CHANCE = 0.001


def decide(
    findings: MonitorFindings, rules: Sequence[MonitorRule], task: str, least_rows: int, past: Sequence[MonitorFindings]
) -> MonitorFindings:
    """Returns findings with every rule judged, the decision and its reasons.

    A rule whose metric was not measured, or on too few rows, is not violated; a note says so, and such a check neither
    counts nor breaks a row of violations.

    Args:
        findings: What was measured.
        rules: The spec's rules.
        task: binary, multiclass or regression.
        least_rows: Rows, or labelled rows, without which drift, or performance, is not judged.
        past: Earlier checks, the oldest first; only those of the same version count.
    """
    earlier = [check for check in past if check.version == findings.version and check.until < findings.until]
    results = [_judge(rule, findings, cast("Task", task), least_rows, earlier) for rule in rules]
    acting = [result.action for result in results if result.acts]
    return findings.model_copy(
        update={
            "rules": results,
            "decision": max(acting, key=GRAVITY.index, default="ok"),
            "reasons": [*findings.reasons, *filter(None, map(_reason, results))],
        }
    )


@dataclass(frozen=True)
class _Measured:
    """A rule's metric: its value, what it was before, and what is to be said of it."""

    value: float | None
    baseline: float | None = None
    note: str = ""


def _judge(
    rule: MonitorRule, findings: MonitorFindings, task: Task, least_rows: int, past: Sequence[MonitorFindings]
) -> MonitorResult:
    measured = _measured(rule.metric, findings, least_rows)
    words, bound, least = _bound(rule, task, measured)
    note = measured.note
    if measured.value is None:
        note = note or f"{rule.metric} was not measured"
    elif bound is None:
        note = f"no baseline of {rule.metric} is kept with version {findings.version}"
    violated = False
    if measured.value is not None and bound is not None:
        violated = measured.value < bound if least else measured.value > bound
    if violated and rule.metric == "error_rate" and _by_chance(findings, bound or 0.0):
        violated = False
        note = "so few errors may be chance"
    in_a_row = 1 + _violations(words, rule, past) if violated else 0
    return MonitorResult(
        rule=words,
        metric=rule.metric,
        value=measured.value,
        bound=bound,
        violated=violated,
        in_a_row=in_a_row,
        checks=rule.checks,
        acts=in_a_row >= rule.checks,
        action=rule.action,
        note=note,
    )


def _measured(metric: str, findings: MonitorFindings, least_rows: int) -> _Measured:
    """Returns a metric's value, None where it was not measured or on too few rows."""
    kind, _, name = metric.partition(".")
    if kind == "performance":
        found = findings.performance.get(name, Compared())
        few = _few(findings.labelled_rows, "labelled rows", least_rows) if found.value is not None else None
        return few or _Measured(found.value, found.baseline)
    if metric in ("error_rate", "latency_p99_ms"):
        return _service(metric, findings)
    if metric == "rows":
        return _Measured(float(findings.rows))
    few = _few(findings.rows, "rows", least_rows)
    if few is not None:
        return few
    if kind == "feature":
        return _worst(name, findings)
    values = {
        "drifted_share": findings.drifted_share,
        "prediction_psi": findings.prediction.psi,
        "prediction_js": findings.prediction.js,
    }
    return _Measured(values[metric])


def _few(rows: int, what: str, least_rows: int) -> _Measured | None:
    return _Measured(None, note=f"{rows:,} {what}, monitor.least_rows is {least_rows:,}") if rows < least_rows else None


def _worst(measure: str, findings: MonitorFindings) -> _Measured:
    values = {feature: getattr(drift, measure) for feature, drift in findings.measures.items()}
    known = {feature: float(value) for feature, value in values.items() if value is not None}
    worst = max(known, key=known.__getitem__, default=None)
    return _Measured(known[worst], note=f"the worst is {worst}") if worst is not None else _Measured(None)


def _service(metric: str, findings: MonitorFindings) -> _Measured:
    found = findings.service.get(metric)
    if found is None:
        return _Measured(None)
    requests = findings.service["requests"].value or 0.0
    if metric == "latency_p99_ms" and requests < _LEAST_REQUESTS:
        return _Measured(None, note=f"{requests:g} requests are too few for a 99th percentile")
    return _Measured(found.value, found.baseline)


def _bound(rule: MonitorRule, task: Task, measured: _Measured) -> tuple[str, float | None, bool]:
    """Returns the rule in words, its bound (None without the baseline it needs), and whether that is the least."""
    metric, baseline = rule.metric, measured.baseline
    if rule.max is not None:
        return f"{metric} <= {rule.max:g}", rule.max, False
    if rule.min is not None:
        return f"{metric} >= {rule.min:g}", rule.min, True
    if rule.max_ratio is not None:
        floor = f", or {rule.floor:g}" if rule.floor else ""
        bound = None if baseline is None else max(rule.max_ratio * baseline, rule.floor)
        return f"{metric} <= {rule.max_ratio:g} x baseline{floor}", bound, False
    drop = rule.max_drop or 0.0
    up = higher_is_better(task, metric.partition(".")[2])
    words = f"{metric} {'>=' if up else '<='} test {'-' if up else '+'} {drop:g}"
    return words, None if baseline is None else baseline - drop if up else baseline + drop, up


def _by_chance(findings: MonitorFindings, allowed: float) -> bool:
    """Tells whether so many errors may come more often than once in a thousand at the rate allowed.

    By Chernoff's bound of the binomial tail, exp(-n KL(errors / n, allowed)) (Hoeffding, "Probability inequalities for
    sums of bounded random variables", 1963, theorem 1).
    """
    requests, errors = (findings.service[name].value or 0.0 for name in ("requests", "errors"))
    rate = errors / requests if requests else 0.0
    if allowed <= 0 or rate <= allowed:
        return False
    divergence = rate * math.log(rate / allowed)
    if rate < 1:
        divergence += (1 - rate) * math.log((1 - rate) / (1 - allowed))
    return math.exp(-requests * divergence) >= _CHANCE


def _violations(words: str, rule: MonitorRule, past: Sequence[MonitorFindings]) -> int:
    """Returns how many checks up to now violated a rule, without one between them that kept it."""
    count = 0
    for check in reversed(past):
        found = [result for result in check.rules if (result.rule, result.action) == (words, rule.action)]
        if not found or found[0].value is None or found[0].bound is None:
            continue
        if not found[0].violated:
            break
        count += 1
    return count


def _reason(result: MonitorResult) -> str:
    note = f" ({result.note})" if result.note else ""
    if result.value is None or result.bound is None:
        return f"{result.rule}: not judged: {result.note}"
    if not result.violated:
        return ""
    found = f"{result.rule}: found {result.value:.4g}{note}"
    if result.acts:
        return f"{found}: {result.action}"
    return f"{found}, {result.in_a_row} of {result.checks} checks in a row before {result.action}"
