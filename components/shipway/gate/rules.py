"""Judges a model by the spec's rules; the verdict is a Blessing that names the model and the evaluation it rests on."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from shipway.errors import DigestMismatchError
from shipway.lineage.digests import digest_tree
from shipway.lineage.documents import Blessing, Evaluation, RuleResult

if TYPE_CHECKING:
    from shipway.spec import GateRule

BLESSED = "blessed"
REJECTED = "rejected"


def judge_model(rules: Sequence[GateRule], evaluation: Evaluation, model: str | Path) -> Blessing:
    """Judges the model in a folder, once it is sure that the evaluation is of that very model.

    Raises:
        DigestMismatchError: The evaluation is of another model.
    """
    digest = digest_tree(model)
    if digest != evaluation.model_digest:
        raise DigestMismatchError(
            f"the evaluation is of model {evaluation.model_digest}, but the model to judge is {digest} ({model})"
        )
    return judge(rules, evaluation)


def judge(rules: Sequence[GateRule], evaluation: Evaluation) -> Blessing:
    """Judges an evaluation by rules, all of which must hold; without any rule nothing is blessed.

    A rule that cannot be checked fails, because a check that cannot fail is none: its metric was not measured or is no
    number, or it compares slices and fewer than two can be compared. There is one exception: with no champion, "not
    worse than the champion" passes with a note, as otherwise no first model could ever ship.

    Args:
        rules: The spec's gates; one with several bounds is judged bound by bound.
        evaluation: What was measured.

    Returns:
        The verdict, with every bound's result and a line for each that failed.
    """
    results = [result for rule in rules for result in _judge_rule(rule, evaluation)]
    reasons = [_reason(result) for result in results if not result.passed]
    if not results:
        reasons = ["no gates are configured: nothing is blessed by default"]
    return Blessing(
        decision=REJECTED if reasons else BLESSED,
        model_digest=evaluation.model_digest,
        evaluation_digest=evaluation.content_digest(),
        rules=results,
        reasons=reasons,
    )


def _judge_rule(rule: GateRule, evaluation: Evaluation) -> Iterator[RuleResult]:
    value = evaluation.metrics.get(rule.metric)
    if rule.min is not None:
        yield _judge_bound(f"{rule.metric} >= {rule.min:g}", rule.metric, value, rule.min, least=True)
    if rule.max is not None:
        yield _judge_bound(f"{rule.metric} <= {rule.max:g}", rule.metric, value, rule.max, least=False)
    if rule.champion_margin is not None:
        yield _judge_champion(rule.metric, rule.champion_margin, evaluation)
    if rule.slice is not None and rule.max_gap is not None:
        yield _judge_gap(rule.metric, rule.slice, rule.max_gap, evaluation)


def _judge_bound(
    rule: str, metric: str, value: float | None, bound: float, *, least: bool, note: str = ""
) -> RuleResult:
    if value is None:
        return RuleResult(
            rule=rule, metric=metric, value=None, bound=bound, passed=False, note=note or f"{metric} was not measured"
        )
    if not math.isfinite(value):
        return RuleResult(
            rule=rule, metric=metric, value=None, bound=bound, passed=False, note=f"{metric} is no finite number"
        )
    passed = value >= bound if least else value <= bound
    return RuleResult(rule=rule, metric=metric, value=value, bound=bound, passed=passed, note=note)


def _judge_champion(metric: str, margin: float, evaluation: Evaluation) -> RuleResult:
    champion = evaluation.champion
    if champion is None:
        return RuleResult(
            rule=f"{metric} not worse than the champion's by more than {margin:g}",
            metric=metric,
            value=None,
            bound=margin,
            passed=True,
            note="no champion to compare with",
        )
    rule = f"{metric} not worse than that of champion {champion.version} by more than {margin:g}"
    value = champion.worse_by.get(metric)
    if value is None:
        note = f"{metric} was not compared with the champion's"
    else:
        note = (
            f"upper 95 % bound; {metric} is {_shown(evaluation, metric)}, the champion's {champion.metrics[metric]:.4f}"
        )
    return _judge_bound(rule, metric, value, margin, least=False, note=note)


def _judge_gap(metric: str, column: str, bound: float, evaluation: Evaluation) -> RuleResult:
    rule = f"gap of {metric} across {column} <= {bound:g}"
    compared = {
        part.value: part.metrics[metric]
        for part in evaluation.slices
        if part.column == column and part.rows >= evaluation.min_slice_rows and metric in part.metrics
    }
    if len(compared) < 2:
        note = (
            f"nothing to compare: {len(compared)} slices of {column} have at least {evaluation.min_slice_rows} rows "
            f"and a defined {metric}"
        )
        return _judge_bound(rule, metric, None, bound, least=False, note=note)
    if not all(math.isfinite(value) for value in compared.values()):
        return _judge_bound(rule, metric, math.nan, bound, least=False)
    low, high = min(compared, key=compared.__getitem__), max(compared, key=compared.__getitem__)
    note = f"{low}: {compared[low]:.4f}, {high}: {compared[high]:.4f}"
    return _judge_bound(rule, metric, compared[high] - compared[low], bound, least=False, note=note)


def _reason(result: RuleResult) -> str:
    if result.value is None:
        return f"{result.rule}: {result.note}"
    note = f" ({result.note})" if result.note else ""
    return f"{result.rule}: found {result.value:.6g}, allowed {result.bound:g}{note}"


def _shown(evaluation: Evaluation, metric: str) -> str:
    value = evaluation.metrics.get(metric)
    return "undefined" if value is None else f"{value:.4f}"
