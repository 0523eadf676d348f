"""Online quality and business metrics: outcomes joined with the prediction log, judged look by look."""

from __future__ import annotations

from collections.abc import Mapping

from shipway.endpoints.log_windows import RevisionOutcomes, join_outcomes
from shipway.errors import ShipwayError
from shipway.rollout.machine import Look
from shipway.rollout.memory import LookCount, Memory
from shipway.rollout.plan import Phase, Plan
from shipway.rollout.rules import RuleSetting, State, Verdict
from shipway.rollout.sequential import Difference, auc_drop, is_due, mean_drop, spent, z_bound
from shipway.spec.rollout import OutcomesSection, Rule

_LEAST_CLASS = 50
_LEAST_VALUES = 200
_LOOKS_OF_BAKE = 20


class LogOutcomes:
    """Judges the rules about labels and business metrics by the prediction log.

    Outcomes come late, so that each look counts all of the candidate's traffic so far, and the baseline's of the
    same time.

    Args:
        section: Where the outcomes are.
        log_uri: The prediction log; "" without one.
    """

    def __init__(self, section: OutcomesSection, log_uri: str) -> None:
        self._section, self._log_uri = section, log_uri
        self._last: tuple[float, Look] | None = None

    def look(self, plan: Plan, memory: Memory, phase: Phase, baseline: str, now: float) -> Look:
        """Returns a verdict for each rule about outcomes; reads them again every twentieth of the bake time."""
        if self._last is not None and 0 <= now - self._last[0] < max(1.0, phase.bake / _LOOKS_OF_BAKE):
            return self._last[1]
        since = memory.timings.traffic if memory.timings.traffic is not None else memory.since
        stable = memory.stable.revision if memory.stable is not None else ""
        note, found = "", dict[str, RevisionOutcomes]()
        if not self._log_uri:
            note = "the endpoint has no prediction log to join outcomes with"
        else:
            try:
                found = join_outcomes(self._log_uri, self._section, since or now, now)
            except ShipwayError as error:
                note = f"outcomes cannot be had: {error}"
        look = judge_outcomes(plan, found, memory.candidate.revision, baseline or stable, memory.looks, note)
        self._last = (now, look)
        return look


def judge_outcomes(
    plan: Plan,
    outcomes: Mapping[str, RevisionOutcomes],
    candidate: str,
    baseline: str,
    looks: Mapping[str, LookCount],
    note: str = "",
) -> Look:
    """Returns a verdict for each rule about labels and business metrics.

    Args:
        plan: The rollout's plan.
        outcomes: By revision.
        candidate: Its revision id.
        baseline: Revision id of what it is compared with.
        looks: Looks so far.
        note: Why there are no outcomes.
    """
    verdicts, later = [], dict[str, LookCount]()
    for setting in plan.rules:
        rule = setting.rule
        if rule is None or not rule.metric.startswith(("auc", "business.")):
            continue
        mine, theirs = outcomes.get(candidate), outcomes.get(baseline)
        verdict = Verdict(key=setting.key, state="unclear", needed=False, note=note or "no outcomes yet")
        if mine is not None and theirs is not None:
            before = looks.get(setting.key)
            rows = min(_rows(rule, mine), _rows(rule, theirs))
            least = _LEAST_CLASS if rule.metric == "auc" else _LEAST_VALUES
            if is_due(rows, before.rows if before else 0, least):
                number = before.number + 1 if before else 1
                verdict = _verdict(setting, rule, mine, theirs, spent(plan.alpha, number), f"look {number}")
                later[setting.key] = LookCount(number=number, rows=rows, verdict=verdict)
            elif before is not None:
                verdict = before.verdict
            else:
                verdict.note = f"{rows} rows with an outcome (of the rarer class), {least} are needed"
        verdicts.append(verdict)
    return Look(verdicts, looks=later)


def _rows(rule: Rule, outcomes: RevisionOutcomes) -> int:
    if rule.metric == "auc":
        return min(len(outcomes.positive), len(outcomes.negative))
    return len(outcomes.business.get(rule.metric.removeprefix("business."), ()))


def _verdict(
    setting: RuleSetting, rule: Rule, mine: RevisionOutcomes, theirs: RevisionOutcomes, alpha: float, note: str
) -> Verdict:
    drop = rule.max_drop or 0.0
    if rule.metric == "auc":
        found = auc_drop((mine.positive, mine.negative), (theirs.positive, theirs.negative), drop)
    else:
        name = rule.metric.removeprefix("business.")
        found = mean_drop(mine.business[name], theirs.business[name], drop)
    bound = (1 - drop) * found.baseline
    if found.baseline <= 0:
        return Verdict(key=setting.key, state="unclear", needed=False, note="the baseline's mean is not above 0")
    wanted = z_bound(alpha)
    return Verdict(
        key=setting.key,
        state=_state(found, bound, wanted),
        value=found.candidate,
        bound=bound,
        baseline=found.baseline,
        evidence=max(min(found.z, 1e9), -1e9),
        wanted=wanted,
        note=note,
    )


def _state(found: Difference, bound: float, wanted: float) -> State:
    if found.z >= wanted:
        return "violated"
    return "ok" if found.candidate >= bound else "unclear"
