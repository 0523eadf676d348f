"""Stated false-alarm rates hold under peeking, and real trouble is found soon: simulated with fixed seeds."""

import math
from itertools import pairwise

import numpy as np
import pytest
from rollout_memory_endpoint import Behaviour
from scipy import stats

from shipway.endpoints.window import LATENCY_EDGES_MS, PROBABILITY_EDGES, PredictionCounts, Window
from shipway.rollout.evidence import Evidence, Stretch, judge, p99_upper, stretches
from shipway.rollout.memory import LookCount
from shipway.rollout.plan import Phase, Plan
from shipway.rollout.rules import rule_settings
from shipway.rollout.sequential import (
    Trial,
    auc_drop,
    chi_square_tail,
    is_due,
    log_e_above,
    log_e_below,
    mean_drop,
    psi,
    rate_upper,
    spent,
    start_weight,
    z_bound,
)
from shipway.spec.rollout import Rule

RUNS = 400


@pytest.mark.parametrize("degrees", [1, 2, 5, 19, 60])
@pytest.mark.parametrize("value", [0.1, 1.0, 7.5, 30.0, 80.0])
def test_the_chi_square_tail_is_the_published_one(degrees: int, value: float) -> None:
    assert chi_square_tail(value, degrees) == pytest.approx(stats.chi2.sf(value, degrees), rel=1e-9)


def test_what_is_spent_and_weighed_adds_up_to_the_whole() -> None:
    assert sum(spent(0.01, look) for look in range(1, 100_000)) == pytest.approx(0.01, rel=1e-4)
    assert sum(start_weight(start) for start in range(100_000)) == pytest.approx(1.0, rel=1e-4)


def test_a_rate_is_below_its_upper_bound_as_often_as_stated() -> None:
    rng = np.random.default_rng(1)
    wrong = 0
    for _ in range(RUNS):
        bad = np.cumsum(rng.binomial(50, 0.02, size=60))
        wrong += any(
            log_e_below(Trial(50 * (i + 1), int(count)), 0.02) >= -math.log(0.05) for i, count in enumerate(bad)
        )
    assert wrong / RUNS <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / RUNS)
    assert 0.01 < rate_upper(Trial(10_000, 100), 0.01) < 0.02
    assert rate_upper(Trial(0, 0), 0.01) == 1.0


def test_peeking_after_every_batch_keeps_the_false_alarm_rate_of_an_error_rate_at_its_bound() -> None:
    rng = np.random.default_rng(2)
    wrong = 0
    for _ in range(RUNS):
        bad = np.cumsum(rng.binomial(20, 0.01, size=300))
        wrong += any(
            log_e_above(Trial(20 * (i + 1), int(count)), 0.01) >= -math.log(0.05) for i, count in enumerate(bad)
        )
    assert wrong / RUNS <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / RUNS)


def test_an_error_rate_above_its_bound_is_found_soon() -> None:
    level = -math.log(1e-4)
    assert log_e_above(Trial(6, 6), 0.01) >= level
    assert log_e_above(Trial(150, 15), 0.01) >= level
    assert log_e_above(Trial(30, 1), 0.01) < level
    assert log_e_above(Trial(10_000, 100), 0.01) < 0


def window(
    rng: np.random.Generator, count: int, *, errors: float, scale: float, bins: np.ndarray | None = None
) -> Window:
    """Returns a second of a revision: log-normal latencies, errors, predictions."""
    bad = int(rng.binomial(count, errors))
    times = scale * rng.lognormal(0.0, 0.5, size=count - bad)
    latency = np.bincount(np.searchsorted(LATENCY_EDGES_MS, times), minlength=len(LATENCY_EDGES_MS) + 1)
    shares = np.array(Behaviour().bins if bins is None else bins)
    counts = rng.multinomial(count - bad, shares / shares.sum())
    return Window(
        revision="r",
        since=0.0,
        until=1.0,
        requests=count,
        errors=bad,
        latency=latency.tolist(),
        predictions=PredictionCounts(kind="number", edges=list(PROBABILITY_EDGES), counts=counts.tolist()),
    )


RULES = [
    Rule(metric="error_rate", max=0.01),
    Rule(metric="error_rate", max_ratio=1.5, floor=0.001),
    Rule(metric="latency_p99_ms", max_ratio=1.0),
    Rule(metric="psi", max=0.02),
]
PHASE = Phase("25 %", 25, bake=20.0, patience=100.0, min_requests=100)


def plan(false_alarm: float, phases: int = 1) -> Plan:
    return Plan("canary", (PHASE,) * phases, rule_settings(RULES), false_alarm=false_alarm)


def watch(
    rng: np.random.Generator,
    plan: Plan,
    seconds: int,
    *,
    errors: float = 0.005,
    scale: float = 2.0,
    bins: np.ndarray | None = None,
    from_second: int = 0,
) -> tuple[int, str] | None:
    """Watches a candidate with a quarter of 100 requests a second, with a look each second.

    Returns:
        When a rule was first violated, and which; None where none was.
    """
    found: list[Stretch] = []
    looks: dict[str, LookCount] = {}
    for second in range(seconds):
        is_bad = second >= from_second
        mine = window(
            rng,
            25,
            errors=errors if is_bad else 0.005,
            scale=scale if is_bad else 2.0,
            bins=bins if is_bad else None,
        )
        theirs = window(rng, 75, errors=0.005, scale=2.0)
        if second % 4 == 0 and len(found) < 30:
            found.append(Stretch(len(found), float(second), mine, theirs))
        else:
            last = found[-1]
            assert last.baseline is not None
            found[-1] = Stretch(last.start, last.since, last.candidate.plus(mine), last.baseline.plus(theirs))
        look = judge(plan, PHASE, Evidence(found), looks)
        looks = look.looks
        for verdict in look.verdicts:
            if verdict.state == "violated":
                return second, verdict.key
    return None


@pytest.mark.slow
def test_an_equal_version_is_ended_no_more_often_than_stated() -> None:
    """All rules together, at bounds that are tight or barely met, with a look each second."""
    rng = np.random.default_rng(3)
    alarms = [found for found in (watch(rng, plan(0.1), 60) for _ in range(100)) if found is not None]
    assert len(alarms) / 100 <= 0.1


@pytest.mark.parametrize(
    ("trouble", "rules", "within"),
    [
        ({"errors": 1.0}, {"0:error_rate", "1:error_rate"}, 1),
        ({"errors": 0.2}, {"0:error_rate", "1:error_rate"}, 6),
        ({"errors": 0.05}, {"0:error_rate", "1:error_rate"}, 60),
        ({"scale": 20.0}, {"2:latency_p99_ms"}, 25),
        ({"bins": np.arange(1.0, 21.0)}, {"3:psi"}, 20),
    ],
)
def test_trouble_is_found_soon(trouble: dict, rules: set[str], within: int) -> None:
    rng = np.random.default_rng(4)
    found = [watch(rng, plan(0.01, phases=5), 90, **trouble) for _ in range(5)]
    assert all(one is not None and one[0] <= within and one[1] in rules for one in found), found


def test_trouble_that_begins_after_long_good_service_is_found_as_well() -> None:
    rng = np.random.default_rng(5)
    found = watch(rng, plan(0.01, phases=5), 110, errors=0.5, from_second=90)
    assert found is not None
    assert 90 <= found[0] <= 94


def test_a_slowdown_of_both_versions_is_not_the_candidates_fault() -> None:
    rng = np.random.default_rng(6)
    found = []
    for second in range(30):
        scale = 40.0 if second >= 10 else 2.0
        mine, theirs = (window(rng, count, errors=0.0, scale=scale) for count in (25, 75))
        found.append(Stretch(second, float(second), mine, theirs))
        look = judge(plan(0.01), PHASE, Evidence(found), {})
        assert [verdict.key for verdict in look.verdicts if verdict.state == "violated"] == []


def test_the_upper_bound_of_a_p99_is_above_it() -> None:
    rng = np.random.default_rng(7)
    times = rng.exponential(10.0, size=20_000)
    latency = np.bincount(np.searchsorted(LATENCY_EDGES_MS, times), minlength=len(LATENCY_EDGES_MS) + 1).tolist()
    true = -10.0 * math.log(0.01)
    assert true <= p99_upper(latency, 1e-4) < 2 * true
    few = np.bincount(np.searchsorted(LATENCY_EDGES_MS, times[:200]), minlength=len(LATENCY_EDGES_MS) + 1).tolist()
    assert p99_upper(few, 1e-4) == math.inf


def test_psi_is_that_of_the_formula_and_says_nothing_of_too_little() -> None:
    mine, theirs = [200_000, 300_000, 500_000], [300_000, 300_000, 400_000]
    shares = [(0.2, 0.3), (0.3, 0.3), (0.5, 0.4)]
    found = psi(mine, theirs)
    assert found is not None
    assert found.value == pytest.approx(sum((p - q) * math.log(p / q) for p, q in shares), rel=1e-3)
    assert found.p_value == pytest.approx(stats.chi2_contingency([mine, theirs])[1], abs=1e-12)
    small = psi([40, 60], [55, 45])
    assert small is not None
    assert small.p_value == pytest.approx(stats.chi2_contingency([[40, 60], [55, 45]], correction=False)[1], rel=1e-9)
    assert psi([3, 1], [2, 2]) is None
    assert psi([], []) is None


def test_means_and_areas_are_compared_as_their_authors_say() -> None:
    rng = np.random.default_rng(8)
    mine, theirs = rng.normal(9.0, 2.0, 400), rng.normal(10.0, 3.0, 500)
    found = mean_drop(mine, theirs, 0.0)
    assert found.z == pytest.approx(stats.ttest_ind(theirs, mine, equal_var=False).statistic)
    positive, negative = rng.normal(1.0, 1.0, 300), rng.normal(0.0, 1.0, 300)
    area = auc_drop((positive, negative), (positive, negative), 0.1)
    assert area.candidate == pytest.approx(stats.mannwhitneyu(positive, negative).statistic / 90_000)
    assert area.z < 0
    assert auc_drop((negative, positive), (positive, negative), 0.03).z > 10


@pytest.mark.parametrize("metric", ["mean", "auc"])
def test_looking_again_and_again_at_outcomes_keeps_the_false_alarm_rate(metric: str) -> None:
    rng = np.random.default_rng(9)
    wrong, alpha = 0, 0.05
    for _ in range(RUNS):
        mine, theirs = rng.exponential(1.0, (2, 3000)), rng.exponential(1.0, (2, 3000))
        mine[1] += 1.0
        theirs[1] += 1.0
        number = last = 0
        for rows in range(50, 3001, 50):
            if not is_due(rows, last, 200):
                continue
            number, last = number + 1, rows
            if metric == "mean":
                found = mean_drop(mine[0][:rows], theirs[0][:rows], 0.0)
            else:
                found = auc_drop((mine[1][:rows], mine[0][:rows]), (theirs[1][:rows], theirs[0][:rows]), 0.0)
            if found.z >= z_bound(spent(alpha, number)):
                wrong += 1
                break
    assert wrong / RUNS <= alpha + 2 * math.sqrt(alpha * (1 - alpha) / RUNS)


def test_stretches_cover_a_phase_without_gaps_and_stay_few() -> None:
    for until in (100.2, 103.7, 130.0, 5000.0, 86_400.0):
        found = stretches(99.3, until, 2)
        assert len(found) <= 33
        assert found[0][1] == 100.0
        assert found[-1][2] == until
        assert all(one[2] == other[1] for one, other in pairwise(found))
        assert all(begin == 100.0 + 2 * start for start, begin, _ in found)
    assert stretches(99.3, 99.9, 2) == []
