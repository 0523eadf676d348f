"""From the endpoint's counts to a verdict for each rule.

A phase is cut into stretches of equal length; a test mixes over the stretch in which trouble may have begun, so that
both slow and sudden troubles are found (see sequential.py). The stretches are a function of the phase's beginning
alone: a controller that starts anew asks the endpoint again and judges as the one before it.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from shipway.endpoints.window import LATENCY_EDGES_MS, Window
from shipway.rollout.machine import Look
from shipway.rollout.memory import LookCount
from shipway.rollout.plan import Phase, Plan
from shipway.rollout.rules import AGREEMENT, REQUESTS, RuleSetting, State, Verdict
from shipway.rollout.sequential import (
    Psi,
    Trial,
    is_due,
    log_e_above,
    log_e_below,
    log_e_ratios,
    log_mean,
    log_sum,
    psi,
    rate_upper,
    spent,
    start_weight,
)
from shipway.spec.rollout import Rule

_MOST_STRETCHES = 32
_STRETCHES_OF_BAKE = 10
_LEAST_ROWS = 100
_LEAST_BASELINE = 100
_BEYOND_P99 = 0.01
_NOTHING = Window(revision="", since=0.0, until=0.0)


@dataclass(frozen=True, slots=True)
class Stretch:
    """A stretch of time.

    Attributes:
        start: Its number, in units of the shortest stretch, from the phase's beginning.
        since: Beginning, seconds since the epoch, whole.
        candidate: What the candidate did; a mirrored one too.
        baseline: What it is compared with; None where there is nothing.
    """

    start: int
    since: float
    candidate: Window
    baseline: Window | None


class Evidence:
    """What is known of a phase.

    Args:
        stretches: In order of time.
        reference: What the baseline did before the phase, where it has no traffic during it.
        missing: Why the counts cannot be had; "" when they can.
    """

    def __init__(self, stretches: Sequence[Stretch] = (), reference: Window | None = None, missing: str = "") -> None:
        self.stretches = tuple(stretches)
        self.reference = reference
        self.missing = missing
        self._candidate = _from_each([stretch.candidate for stretch in self.stretches])
        self._baseline = _from_each([stretch.baseline for stretch in self.stretches])

    def candidate(self, place: int = 0) -> Window:
        """Returns the candidate's counts from a stretch on."""
        return (self._candidate[place] if self._candidate else None) or _NOTHING

    def baseline(self, place: int = 0) -> Window | None:
        """Returns the baseline's counts from a stretch on, or those before the phase; None without a baseline."""
        if self.reference is not None:
            return self.reference
        return self._baseline[place] if self._baseline else None


def _from_each(windows: Sequence[Window | None]) -> list[Window | None]:
    """Returns for each place what comes from there on, added up."""
    sums: list[Window | None] = []
    for window in reversed(windows):
        total = sums[-1] if sums else None
        sums.append(window if total is None else total if window is None else total.plus(window))
    return sums[::-1]


def stretch_length(bake: float, lag: float) -> int:
    """Returns the length of the shortest stretch: a tenth of the bake time, whole seconds, no shorter than the lag."""
    return max(1, math.ceil(bake / _STRETCHES_OF_BAKE), math.ceil(lag))


def stretches(since: float, until: float, length: int) -> list[tuple[int, float, float]]:
    """Returns number, beginning and end of the stretches between two moments.

    Counts are kept by the second, so the first begins with the first whole second. Where there would be more than 32,
    they get twice as long until there are not; their numbers stay in units of the shortest, so that a beginning keeps
    its weight.
    """
    begin = math.ceil(since)
    size = 1
    while (until - begin) / (length * size) > _MOST_STRETCHES:
        size *= 2
    found = []
    place = 0
    while begin + place * length < until:
        start = begin + place * length
        found.append((place, float(start), min(float(start + size * length), until)))
        place += size
    return found


class Gatherer:
    """Collects the evidence of a phase; finished stretches are asked for once.

    Args:
        windows: `Endpoint.windows`.
        length: Of the shortest stretch, seconds.
    """

    def __init__(self, windows: Callable[[float, float], Mapping[str, Window]], length: int) -> None:
        self._windows = windows
        self._length = length
        self._finished: dict[tuple[float, float], Mapping[str, Window]] = {}

    def evidence(
        self, since: float, until: float, candidate: str, baseline: str, reference: Window | None = None
    ) -> Evidence:
        """Returns what is known between two moments.

        Args:
            since: The phase's beginning, seconds since the epoch.
            until: The newest moment that the counts reach.
            candidate: Revision id.
            baseline: Revision id of what it is compared with; "" for nothing.
            reference: What the baseline did before the phase, where it has no traffic during it.
        """
        found = []
        slots = stretches(since, until, self._length)
        for start, begin, end in slots:
            counts = self._finished.get((begin, end))
            if counts is None:
                counts = self._windows(begin, end)
                if end < slots[-1][2]:
                    self._finished[(begin, end)] = counts
            mine = counts.get(candidate) or Window(revision=candidate, since=begin, until=end)
            theirs = counts.get(baseline) if baseline and reference is None else None
            found.append(Stretch(start, begin, mine, theirs))
        return Evidence(found, reference)


def judge(
    plan: Plan, phase: Phase, evidence: Evidence, looks: Mapping[str, LookCount], outcomes: Look | None = None
) -> Look:
    """Returns a verdict for each rule of the plan, and whether there were enough requests.

    Args:
        plan: The rollout's plan.
        phase: The phase that is watched.
        evidence: Its counts.
        looks: Looks at rules that spend their false-alarm rate look by look.
        outcomes: Verdicts on the rules about labels and business metrics.
    """
    candidate, baseline = evidence.candidate(), evidence.baseline()
    later = dict(looks)
    verdicts = [_requests(phase, candidate, evidence.missing)]
    known = {verdict.key: verdict for verdict in outcomes.verdicts} if outcomes else {}
    if outcomes is not None:
        later.update(outcomes.looks)
    for setting in plan.rules:
        if setting.key == AGREEMENT:
            found = _agreement(setting, phase, candidate, evidence, plan.alpha)
        elif setting.rule is None or setting.rule.metric.startswith(("auc", "business.")):
            found = known.get(setting.key) or _aside(setting, "no outcomes yet")
        elif evidence.missing:
            found = Verdict(key=setting.key, state="unclear", note=evidence.missing)
        elif setting.rule.metric == "error_rate":
            found = _error_rate(setting, setting.rule, evidence, plan.alpha)
        elif setting.rule.metric == "latency_p99_ms":
            found = _latency(setting, setting.rule, evidence, plan.alpha)
        else:
            found, look = _psi(setting, setting.rule, candidate, baseline, plan.alpha, looks.get(setting.key))
            if look is not None:
                later[setting.key] = look
        verdicts.append(found if setting.decides else found.model_copy(update={"needed": False}))
    return Look(verdicts, candidate.requests, baseline.requests if baseline else 0, later)


def without_evidence(plan: Plan, phase: Phase, reason: str, looks: Mapping[str, LookCount]) -> Look:
    """Returns the look of somebody who could not get the counts."""
    return judge(plan, phase, Evidence(missing=reason), looks)


def _requests(phase: Phase, candidate: Window, missing: str) -> Verdict:
    enough = candidate.requests >= phase.min_requests and not missing
    return Verdict(
        key=REQUESTS,
        state="ok" if enough else "unclear",
        value=float(candidate.requests),
        bound=float(phase.min_requests),
        note=missing or ("" if enough else "too few requests of the candidate"),
    )


def _error_rate(setting: RuleSetting, rule: Rule, evidence: Evidence, alpha: float) -> Verdict:
    candidate, baseline = evidence.candidate(), evidence.baseline()
    if rule.max is not None:
        found = _mixed(evidence, alpha, lambda start: log_e_above(_errors(evidence.candidate(start)), rule.max or 0.0))
        within = candidate.error_rate <= rule.max
        return _verdict(setting, found, candidate.error_rate, rule.max, within=within, enough=candidate.requests > 0)
    if baseline is None:
        return _aside(setting, "there is no baseline to compare with")
    ratio = rule.max_ratio or 1.0
    if evidence.reference is not None:
        limit = max(ratio * rate_upper(_errors(baseline), alpha / 2), rule.floor)
        found = _mixed(evidence, alpha / 2, lambda start: log_e_above(_errors(evidence.candidate(start)), limit))
    else:
        # Above the ratio, and above the floor: both have to be borne out.
        above = _mixed(evidence, alpha, lambda start: log_e_above(_errors(evidence.candidate(start)), rule.floor))
        found = _mixed_ratios(evidence, ratio, alpha)
        if rule.floor and above.log_e < above.wanted:
            found = replace(found, log_e=min(found.log_e, above.log_e))
    bound = max(ratio * baseline.error_rate, rule.floor)
    enough = candidate.requests > 0 and baseline.requests >= _LEAST_BASELINE
    within = candidate.error_rate <= bound
    return _verdict(
        setting, found, candidate.error_rate, bound, within=within, enough=enough, baseline=baseline.error_rate
    )


def _latency(setting: RuleSetting, rule: Rule, evidence: Evidence, alpha: float) -> Verdict:
    candidate, baseline = evidence.candidate(), evidence.baseline()
    value = _finite(candidate.quantile_ms(0.99))
    if rule.max is not None:
        limit = rule.max
        found = _mixed(
            evidence, alpha, lambda start: log_e_above(_slower(evidence.candidate(start), limit), _BEYOND_P99)
        )
        within = value is not None and candidate.slower_than(limit) <= _BEYOND_P99 * sum(candidate.latency)
        return _verdict(setting, found, value, limit, within=within, enough=value is not None)
    if baseline is None:
        return _aside(setting, "there is no baseline to compare with")
    ratio = rule.max_ratio or 1.0

    def log_e(start: int) -> float:
        theirs = evidence.baseline(start)
        upper = (
            p99_upper(theirs.latency, alpha / 2 * start_weight(evidence.stretches[start].start)) if theirs else math.inf
        )
        bound = max(ratio * upper, rule.floor)
        return log_e_above(_slower(evidence.candidate(start), bound), _BEYOND_P99)

    found = _mixed(evidence, alpha / 2, log_e)
    p99 = _finite(baseline.quantile_ms(0.99))
    bound = max(ratio * p99, rule.floor) if p99 is not None else None
    enough = value is not None and baseline.requests >= _LEAST_BASELINE
    within = value is not None and bound is not None and value <= bound
    return _verdict(setting, found, value, bound, within=within, enough=enough, baseline=p99)


def p99_upper(latency: Sequence[int], alpha: float) -> float:
    """Returns a bound in milliseconds that a revision's true P99 is below, at any time, except with probability alpha.

    The lowest bucket edge c for which "1 % or more take longer than c" is rejected. The statistic falls as c grows, so
    that the highest edge below the true P99 decides, and no correction for the number of edges is needed.

    Args:
        latency: Counts by `LATENCY_EDGES_MS`.
        alpha: Probability of being wrong.
    """
    count, beyond, wanted = sum(latency), sum(latency), -math.log(alpha)
    for edge, here in zip(LATENCY_EDGES_MS, latency, strict=False):
        beyond -= here
        if beyond <= _BEYOND_P99 * count and log_e_below(Trial(count, beyond), _BEYOND_P99) >= wanted:
            return edge
    return math.inf


def _psi(
    setting: RuleSetting,
    rule: Rule,
    candidate: Window,
    baseline: Window | None,
    alpha: float,
    look: LookCount | None,
) -> tuple[Verdict, LookCount | None]:
    if baseline is None:
        return _aside(setting, "there is no baseline to compare with"), None
    if candidate.predictions is None or baseline.predictions is None:
        counted = candidate.requests > candidate.errors and baseline.requests > 0
        note = "the endpoint does not count predictions" if counted else "no predictions yet"
        return Verdict(key=setting.key, state="unclear", bound=rule.max, note=note), None
    mine, theirs = candidate.predictions, baseline.predictions
    if (mine.edges, mine.labels) != (theirs.edges, theirs.labels):
        note = "the two versions' predictions are counted in different bins"
        return Verdict(key=setting.key, state="unclear", bound=rule.max, note=note), None
    rows = sum(mine.counts)
    if min(rows, sum(theirs.counts)) < _LEAST_ROWS or not is_due(rows, look.rows if look else 0, _LEAST_ROWS):
        return (look.verdict, look) if look else (_few(setting, rule.max, rows), None)
    found = psi(mine.counts, theirs.counts) or Psi(0.0, 1.0)
    number = look.number + 1 if look else 1
    level = spent(alpha, number)
    beyond = found.value > (rule.max or 0.0)
    state: State = "ok" if not beyond else "violated" if found.p_value < level else "unclear"
    verdict = Verdict(
        key=setting.key,
        state=state,
        value=found.value,
        bound=rule.max,
        evidence=found.p_value,
        wanted=level,
        since=candidate.since if state == "violated" else None,
        note=f"{rows} rows, look {number}",
    )
    return verdict, LookCount(number=number, rows=rows, verdict=verdict)


def _agreement(setting: RuleSetting, phase: Phase, candidate: Window, evidence: Evidence, alpha: float) -> Verdict:
    if phase.min_agreement is None:
        return _aside(setting, "asked for in the shadow only")
    least, mirror = phase.min_agreement, candidate.mirror
    if evidence.missing or not mirror.compared:
        note = evidence.missing or "nothing was compared yet"
        return Verdict(key=setting.key, state="unclear", bound=least, note=note)

    def log_e(start: int) -> float:
        counts = evidence.candidate(start).mirror
        return log_e_above(Trial(counts.compared, counts.compared - counts.agreed), 1 - least)

    found = _mixed(evidence, alpha, log_e)
    value = mirror.agreed / mirror.compared
    return _verdict(setting, found, value, least, within=value >= least, enough=True)


@dataclass(frozen=True, slots=True)
class _Found:
    """A log e-value, what it has to reach, and when the trouble seems to have begun."""

    log_e: float
    wanted: float
    since: float | None


def _mixed(evidence: Evidence, alpha: float, log_e: Callable[[int], float]) -> _Found:
    """Mixes the e-values of trouble that began with each stretch."""
    places = range(len(evidence.stretches))
    values = [math.log(start_weight(evidence.stretches[place].start)) + log_e(place) for place in places]
    return _found(evidence, values, alpha)


def _mixed_ratios(evidence: Evidence, ratio: float, alpha: float) -> _Found:
    sums: list[float] = []
    values: list[float] = []
    for stretch in reversed(evidence.stretches):
        theirs = stretch.baseline or _NOTHING
        here = log_e_ratios(_errors(stretch.candidate), _errors(theirs), ratio)
        sums = [one + other for one, other in zip(sums, here, strict=True)] if sums else here
        values.insert(0, math.log(start_weight(stretch.start)) + log_mean(sums))
    return _found(evidence, values, alpha)


def _found(evidence: Evidence, values: Sequence[float], alpha: float) -> _Found:
    since = None
    if values:
        since = evidence.stretches[max(range(len(values)), key=values.__getitem__)].since
    return _Found(max(log_sum(values), -1e9), -math.log(alpha), since)


def _verdict(
    setting: RuleSetting,
    found: _Found,
    value: float | None,
    bound: float | None,
    *,
    within: bool,
    enough: bool,
    baseline: float | None = None,
) -> Verdict:
    violated = found.log_e >= found.wanted
    state: State = "violated" if violated else "ok" if within and enough else "unclear"
    note = "" if state != "unclear" else "beyond the bound, but not surely" if enough else "too little to compare"
    return Verdict(
        key=setting.key,
        state=state,
        value=value,
        bound=bound,
        baseline=baseline,
        evidence=round(found.log_e, 3),
        wanted=round(found.wanted, 3),
        since=found.since if violated else None,
        note=note,
    )


def _aside(setting: RuleSetting, note: str) -> Verdict:
    """Returns the verdict on a rule that cannot be judged here, which is said and holds nothing up."""
    return Verdict(key=setting.key, state="unclear", needed=False, note=note)


def _few(setting: RuleSetting, bound: float | None, rows: int) -> Verdict:
    return Verdict(key=setting.key, state="unclear", bound=bound, note=f"{rows} rows, {_LEAST_ROWS} are needed")


def _errors(window: Window) -> Trial:
    return Trial(window.requests, min(window.errors, window.requests))


def _slower(window: Window, milliseconds: float) -> Trial:
    beyond = 0 if math.isinf(milliseconds) else window.slower_than(milliseconds)
    return Trial(sum(window.latency), beyond)


def _finite(value: float | None) -> float | None:
    return value if value is None or math.isfinite(value) else 1e9
