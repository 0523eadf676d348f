"""Tests that may be looked at after every request, with a stated false-alarm rate.

Two ways of peeking without paying for it later:

*E-processes.* A likelihood ratio of an alternative against a null hypothesis, mixed over a fixed grid of alternatives,
is a non-negative supermartingale that starts at 1 under every member of the null. By Ville's inequality it ever
exceeds 1/alpha with probability at most alpha, whenever one looks (Ville 1939; Robbins 1970; Howard, Ramdas, McAuliffe,
Sekhon 2021, "Time-uniform, nonparametric, nonasymptotic confidence sequences"). Mixing also over the moment at which
the trouble may have begun, with weights that add up to 1, keeps that bound and finds a revision that went bad after
long good service (Shin, Ramdas, Rinaldo 2022, "E-detectors").

*Alpha spending.* Look number k is tested at alpha / (k (k + 1)); these add up to alpha.

Counts are of requests (error rate, latency) or rows (predictions, outcomes). All logarithms are natural.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

_GRID_STEP = 1.5
_GRID_TOP = 0.95
_RATIO_POINTS = 16
_LOWEST_RATE = 1e-6
_BELOW = (0.0, 0.125, 0.25, 0.5)
_BISECTIONS = 50
_GROWTH = 1.25


class Trial(NamedTuple):
    """Counts of a stretch of time: how many, and how many of them bad."""

    total: int
    bad: int

    def plus(self, other: "Trial") -> "Trial":
        """Returns both together."""
        return Trial(self.total + other.total, self.bad + other.bad)


def log_sum(values: Sequence[float]) -> float:
    """Returns log(sum(exp(values))) without overflow; minus infinity of nothing."""
    top = max(values, default=-math.inf)
    if math.isinf(top):
        return top
    return top + math.log(sum(math.exp(value - top) for value in values))


def log_e_above(trial: Trial, bound: float) -> float:
    """Returns the log e-value of "the rate is above the bound" against "at most the bound".

    Mixture over rates q whose odds are 1.5^j times the bound's, of the likelihood ratio
    (q / p)^bad ((1 - q) / (1 - p))^good. For q > p, each factor's mean rises with the true rate and is 1 at p, so the
    ratio is a supermartingale for every rate up to p.

    Args:
        trial: Requests and how many are bad.
        bound: The highest rate that is allowed.
    """
    bound = max(bound, _LOWEST_RATE)
    if bound >= _GRID_TOP:
        return -math.inf
    return _log_mixture(trial, bound, _rates_above(bound))


def log_e_below(trial: Trial, bound: float) -> float:
    """Returns the log e-value of "the rate is below the bound" against "at least the bound"; see `log_e_above`."""
    return _log_mixture(trial, bound, [bound * part for part in _BELOW])


def rate_upper(trial: Trial, alpha: float) -> float:
    """Returns a bound that a rate stays below, at any time, except with probability alpha.

    The smallest p that `log_e_below` rejects at level alpha, by bisection; 1 where nothing is rejected.
    """
    wanted = -math.log(alpha)
    low, high = (trial.bad / trial.total if trial.total else 1.0), 1.0 - 1e-9
    if log_e_below(trial, high) < wanted:
        return 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (low, middle) if log_e_below(trial, middle) >= wanted else (middle, high)
    return high


def log_e_ratios(candidate: Trial, baseline: Trial, ratio: float) -> list[float]:
    """Returns log e-values of "the candidate's rate is above `ratio` times the baseline's", one for each alternative.

    Given that a request failed, it is the candidate's with probability n_c r / (n_c r + n_b) when its rate is r times
    the baseline's: a Bernoulli trial for each error's origin, in which the unknown rate has dropped out (Przyborowski
    and Wilenski 1940, for two Poisson counts). Add the lists of successive stretches, each with its own n_c and n_b,
    and mix with `log_mean`.
    """
    if not candidate.total or not baseline.total:
        return [0.0] * _RATIO_POINTS
    null = _origin(candidate.total, baseline.total, ratio)
    values = []
    for step in range(1, _RATIO_POINTS + 1):
        other = _origin(candidate.total, baseline.total, ratio * _GRID_STEP**step)
        mine = math.log(other / null)
        theirs = math.log((1 - other) / (1 - null))
        values.append(candidate.bad * mine + baseline.bad * theirs)
    return values


def log_mean(values: Sequence[float]) -> float:
    """Returns the log of the mean of e-values: their mixture with equal weights."""
    return log_sum(values) - math.log(len(values))


def start_weight(start: int) -> float:
    """Returns the weight of the supposition that trouble began in stretch `start` (0, 1, ...); all of them add to 1."""
    return 1.0 / ((start + 1) * (start + 2))


class Psi(NamedTuple):
    """A comparison of two histograms.

    Attributes:
        value: Population stability index, corrected for its bias of (bins - 1)(1/n + 1/m); 0 at least.
        p_value: Of Pearson's chi-square test that both come from one distribution.
    """

    value: float
    p_value: float


def psi(candidate: Sequence[int], baseline: Sequence[int]) -> Psi | None:
    """Compares two histograms; None where bins with enough expected rows (5) are fewer than two.

    PSI = sum (p - q) ln(p / q), estimated with half a row added to each bin so that an empty one does not make it
    infinite. Under equality it has the mean (bins - 1)(1/n + 1/m) (Yurdakul 2018, "Statistical properties of the
    population stability index"), which is subtracted. Neighbouring bins are put together until both histograms expect
    at least 5 rows in each (Cochran 1954), so that the chi-square distribution holds.
    """
    mine, theirs = _merge(candidate, baseline)
    if len(mine) < 2:
        return None
    n, m, bins = sum(mine), sum(theirs), len(mine)
    value = chi_square = 0.0
    for ours, others in zip(mine, theirs, strict=True):
        p, q = (ours + 0.5) / (n + 0.5 * bins), (others + 0.5) / (m + 0.5 * bins)
        value += (p - q) * math.log(p / q)
        pooled = (ours + others) / (n + m)
        chi_square += (ours - n * pooled) ** 2 / (n * pooled) + (others - m * pooled) ** 2 / (m * pooled)
    bias = (bins - 1) * (1 / n + 1 / m)
    return Psi(max(value - bias, 0.0), chi_square_tail(chi_square, bins - 1))


def chi_square_tail(value: float, degrees: int) -> float:
    """Returns the probability that a chi-square variable exceeds a value.

    The regularised upper incomplete gamma function Q(degrees / 2, value / 2): series and continued fraction
    (Abramowitz and Stegun 6.5.29 and 6.5.31).
    """
    a, x = degrees / 2, value / 2
    if x <= 0:
        return 1.0
    scale = math.exp(-x + a * math.log(x) - math.lgamma(a))
    if x < a + 1:
        term = total = 1 / a
        place = a
        while term > total * 1e-15:
            place += 1
            term *= x / place
            total += term
        return max(1 - total * scale, 0.0)
    tiny = 1e-300
    b = x + 1 - a
    c, d = 1 / tiny, 1 / b
    fraction = d
    for i in range(1, 1000):
        numerator = -i * (i - a)
        b += 2
        d = 1 / _away_from_zero(numerator * d + b, tiny)
        c = _away_from_zero(b + numerator / c, tiny)
        fraction *= d * c
        if abs(d * c - 1) < 1e-15:
            break
    return scale * fraction


class Difference(NamedTuple):
    """A drop of the candidate against the baseline.

    Attributes:
        candidate: The candidate's value.
        baseline: The baseline's value.
        z: Standard errors by which the candidate is below what is allowed; negative when it is above.
    """

    candidate: float
    baseline: float
    z: float


def mean_drop(candidate: Any, baseline: Any, max_drop: float) -> Difference:
    """Compares two means with unequal variances (Welch 1947): is the candidate's below (1 - max_drop) of the other's?

    Args:
        candidate: Values, one-dimensional array; hundreds of them, so that the normal distribution serves.
        baseline: Values of the baseline.
        max_drop: The share of the baseline's mean that may be lost.
    """
    keep = 1 - max_drop
    mean, other = float(candidate.mean()), float(baseline.mean())
    variance = float(candidate.var(ddof=1)) / len(candidate) + keep**2 * float(baseline.var(ddof=1)) / len(baseline)
    return Difference(mean, other, _z(keep * other - mean, variance))


def auc_drop(candidate: tuple[Any, Any], baseline: tuple[Any, Any], max_drop: float) -> Difference:
    """Compares two areas under ROC curves of different rows.

    Each area's variance is DeLong's (DeLong, DeLong, Clarke-Pearson 1988), from the ranks of each class among the
    other; the rows differ, so the variances add up.

    Args:
        candidate: Scores of the positive rows and of the negative ones, one-dimensional arrays.
        baseline: The same of the baseline.
        max_drop: The share of the baseline's area that may be lost.
    """
    keep = 1 - max_drop
    area, variance = _auc(*candidate)
    other, other_variance = _auc(*baseline)
    return Difference(area, other, _z(keep * other - area, variance + keep**2 * other_variance))


def spent(alpha: float, look: int) -> float:
    """Returns what look number `look` (1, 2, ...) may use of alpha."""
    return alpha / (look * (look + 1))


def z_bound(alpha: float) -> float:
    """Returns the standard normal quantile that is exceeded with probability alpha."""
    return -NormalDist().inv_cdf(alpha)


def is_due(count: int, last: int, least: int) -> bool:
    """Tells whether another look is due: at `least` rows, and then whenever there are a quarter more."""
    return count >= (math.ceil(last * _GROWTH) if last else least)


def _rates_above(bound: float) -> list[float]:
    odds, rates = bound / (1 - bound), []
    while True:
        odds *= _GRID_STEP
        rate = odds / (1 + odds)
        rates.append(min(rate, _GRID_TOP))
        if rate >= _GRID_TOP:
            return rates


def _log_mixture(trial: Trial, null: float, rates: Sequence[float]) -> float:
    good = trial.total - trial.bad
    values = []
    for rate in rates:
        if rate <= 0 and trial.bad:
            continue
        bad = trial.bad * math.log(rate / null) if trial.bad else 0.0
        values.append(bad + good * math.log((1 - rate) / (1 - null)))
    return log_sum(values) - math.log(len(rates))


def _origin(mine: int, theirs: int, ratio: float) -> float:
    return mine * ratio / (mine * ratio + theirs)


def _merge(candidate: Sequence[int], baseline: Sequence[int]) -> tuple[list[int], list[int]]:
    n, m = sum(candidate), sum(baseline)
    if not n or not m:
        return [], []
    least = 5 * (n + m) / min(n, m)
    mine, theirs = [0], [0]
    for ours, others in zip(candidate, baseline, strict=True):
        if mine[-1] + theirs[-1] >= least:
            mine.append(0)
            theirs.append(0)
        mine[-1] += ours
        theirs[-1] += others
    if len(mine) > 1 and mine[-1] + theirs[-1] < least:
        mine[-2:] = [sum(mine[-2:])]
        theirs[-2:] = [sum(theirs[-2:])]
    return mine, theirs


def _auc(positive: Any, negative: Any) -> tuple[float, float]:
    """Returns the area and DeLong's variance of it."""
    import numpy as np

    above = _placements(np.sort(negative), positive)
    below = 1 - _placements(np.sort(positive), negative)
    return float(above.mean()), float(above.var(ddof=1) / len(positive) + below.var(ddof=1) / len(negative))


def _placements(others: Any, scores: Any) -> Any:
    """Returns the share of `others` (sorted) below each score, ties counting half."""
    import numpy as np

    return (np.searchsorted(others, scores, "left") + np.searchsorted(others, scores, "right")) / (2 * len(others))


def _z(shortfall: float, variance: float) -> float:
    if variance <= 0:
        return math.copysign(math.inf, shortfall) if shortfall else 0.0
    return shortfall / math.sqrt(variance)


def _away_from_zero(value: float, tiny: float) -> float:
    return value if abs(value) > tiny else tiny
