"""How far rows have moved from those that a model was trained on, from counts alone.

The training part is known by its statistics, the rows by a profile that counted them in the same bins. All measures
are of the rows that have a value; nulls have a measure of their own.
"""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from shipway.errors import ShipwayError
from shipway.lineage.documents import CategoryStatistics, FeatureDrift, NumberStatistics, PredictionDrift, Statistics
from shipway.model.profile import CategoryCounts, Counts, NumberCounts, Profile, Reference, reference_digest
from shipway.model.statistics import GRID_SHARE

if TYPE_CHECKING:
    from shipway.spec.watch import FeatureThresholds, MonitorSection

F64 = npt.NDArray[np.float64]

MEASURES = ("psi", "js", "wasserstein", "ks", "new_share", "null_share")
_NEVER_ZERO = 1e-4
# 5 %, but for half a bin of the grid.
_LEAST_SHARE = 0.05 - GRID_SHARE / 2
_LEAST_ROWS = 25


def drift_of(
    statistics: Statistics, predictions: Reference | None, profile: Profile, section: MonitorSection
) -> tuple[dict[str, FeatureDrift], PredictionDrift]:
    """Returns the drift of each feature, that of the worst first, and that of the predictions.

    Args:
        statistics: The training part's.
        predictions: Those of the predictions of the validation part; None for an older package.
        profile: Counts of the rows against these.
        section: The spec's monitor section: thresholds, and which columns are left aside.

    Raises:
        ShipwayError: The profile is one against other statistics.
    """
    expected = reference_digest(statistics, predictions)
    if profile.reference != expected:
        raise ShipwayError(
            f"the profile is counted against the statistics {profile.reference}, the model's are {expected}: these are "
            "rows of another model, or of another Shipway"
        )
    found: dict[str, tuple[float, FeatureDrift]] = {}
    for name, counts in profile.columns.items():
        if name not in section.ignore:
            thresholds = section.columns.get(name, section.thresholds)
            drift = feature_drift(statistics.columns[name], counts, thresholds)
            found[name] = (_excess(drift, thresholds), drift)
    worst_first = sorted(found, key=lambda name: -found[name][0])
    prediction = PredictionDrift()
    if predictions is not None and profile.predictions is not None:
        prediction = PredictionDrift(
            psi=stability_index(predictions, profile.predictions),
            js=jensen_shannon(predictions, profile.predictions),
        )
    return {name: found[name][1] for name in worst_first}, prediction


def feature_drift(reference: Reference, counts: Counts, thresholds: FeatureThresholds) -> FeatureDrift:
    """Returns every measure that applies to a feature, and which of them are beyond their thresholds."""
    nulls = _null_share(counts)
    before = reference.nulls / reference.rows if reference.rows else None
    drift = FeatureDrift(
        kind=counts.kind,
        psi=stability_index(reference, counts),
        js=jensen_shannon(reference, counts),
        wasserstein=wasserstein(reference, counts),
        ks=kolmogorov_smirnov(reference, counts),
        new_share=new_share(counts),
        null_share=None if nulls is None or before is None else abs(nulls - before),
        nulls=nulls,
        new_values=counts.new_values if isinstance(counts, CategoryCounts) else {},
    )
    for measure in MEASURES:
        value, threshold = getattr(drift, measure), getattr(thresholds, measure)
        if value is not None and threshold is not None and value > threshold:
            drift.exceeded.append(measure)
    return drift


def stability_index(reference: Reference, counts: Counts) -> float | None:
    """Returns the population stability index, None without values on either side.

    The sum over cells of (q - p) ln(q / p), with p the training part's share of a cell and q the share now (Siddiqi,
    "Credit Risk Scorecards", 2006; it is the symmetric Kullback-Leibler divergence of Jeffreys, 1946). A share under
    0.0001 counts as that, as in Evidently. Cells are those of `cells`; given the same cells, the value is that of
    `scipy.special.rel_entr` both ways, to the rounding.
    """
    shares = cells(reference, counts)
    if shares is None:
        return None
    before, now = (np.maximum(part, _NEVER_ZERO) for part in shares)
    return float(np.sum((now - before) * np.log(now / before)))


def jensen_shannon(reference: Reference, counts: Counts) -> float | None:
    """Returns the Jensen-Shannon distance with logarithms to base 2, from 0 to 1; None without values on either side.

    The square root of the divergence (Lin, "Divergence measures based on the Shannon entropy", 1991; a distance by
    Endres and Schindelin, 2003) between the shares of the cells of `cells`; there it is
    `scipy.spatial.distance.jensenshannon(p, q, base=2)` to the rounding.
    """
    shares = cells(reference, counts)
    if shares is None:
        return None
    before, now = shares
    middle = (before + now) / 2
    return float(np.sqrt(max(0.0, (_bits(before, middle) + _bits(now, middle)) / 2)))


def kolmogorov_smirnov(reference: Reference, counts: Counts) -> float | None:
    """Returns the two-sample Kolmogorov-Smirnov statistic of numbers: the widest gap between the distributions.

    It is looked for at the edges of the grid. Between two edges the gap can be wider by the smaller of the two shares
    that lie there, at most; a value with a bin of its own hides nothing. So it is never above that of
    `scipy.stats.ks_2samp`, and below it by at most 1/200 where the training part's values are its own.
    None without values on either side, and for text.
    """
    found = _numbers(reference, counts)
    if found is None:
        return None
    before, now, _ = found
    return float(np.abs(np.cumsum(before - now)).max())


def wasserstein(reference: Reference, counts: Counts) -> float | None:
    """Returns the first Wasserstein distance of numbers, in standard deviations of the training part.

    The area between the two distribution functions F and G (Vallender, 1974). In a bin from a to b the integral of F is
    b F(b) - a F(a) less the sum of the values there over n, so that counts and sums give that of F - G exactly, in the
    outermost bins too. The distance is the sum of the absolute integrals: that of `scipy.stats.wasserstein_distance`
    less what cancels in the bins where F and G cross, usually under 0.01 deviations. A constant has no deviation, and
    the distance is then in the column's own unit.
    None without values on either side, for text, and for an older package, which holds no sums.
    """
    found = _numbers(reference, counts)
    if found is None or not isinstance(reference, NumberStatistics) or not isinstance(counts, NumberCounts):
        return None
    grid = reference.grid
    if grid is None:
        return None
    before, now, (total_before, total_now) = found
    sums = np.array(grid.sums) / total_before - np.array(counts.sums) / total_now
    gaps = np.cumsum(before - now)[:-1]
    corners = (np.array(grid.edges) - (reference.mean or 0.0)) * gaps
    areas = np.diff(corners, prepend=0.0, append=0.0) - sums
    return float(np.abs(areas).sum()) / (reference.std or 1.0)


def new_share(counts: Counts) -> float | None:
    """Returns the share of the values that training never saw; None for numbers, and where that cannot be told."""
    if not isinstance(counts, CategoryCounts) or counts.new is None or counts.rows == counts.nulls:
        return None
    return counts.new / (counts.rows - counts.nulls)


def cells(reference: Reference, counts: Counts) -> tuple[F64, F64] | None:
    """Returns the shares of the values in each cell, before and now; None without values on either side.

    Numbers: neighbouring bins of the grid, together until they hold 5 % of the training part; a value that is as
    frequent by itself has a cell of its own. Text: a cell a value, and one for all that are not listed. With few rows
    on either side the cells are larger: in each of them 25 rows are expected, because an index over many sparse cells
    is large by chance alone, by about a cell over the rows (Yurdakul, "Statistical properties of the population
    stability index", 2018).
    """
    if isinstance(reference, CategoryStatistics) and isinstance(counts, CategoryCounts):
        before = np.array([*reference.counts.values(), reference.others], dtype=np.float64)
        now = np.array([*(counts.counts[value] for value in reference.counts), counts.others], dtype=np.float64)
        if not before.sum() or not now.sum():
            return None
        rows = min(before.sum(), now.sum())
        before, now = before / before.sum(), now / now.sum()
        # What is not listed stays apart: it holds the new values.
        starts = np.append(_starts(before[:-1], _LEAST_ROWS / rows), len(before) - 1)
    else:
        found = _numbers(reference, counts)
        if found is None:
            return None
        before, now, totals = found
        starts = _starts(before, max(_LEAST_SHARE, _LEAST_ROWS / min(totals)))
    return np.add.reduceat(before, starts), np.add.reduceat(now, starts)


def _numbers(reference: Reference, counts: Counts) -> tuple[F64, F64, tuple[float, float]] | None:
    """Returns the shares of each bin of the grid, before and now, and how many values there are."""
    if not isinstance(reference, NumberStatistics) or not isinstance(counts, NumberCounts):
        return None
    before = np.array((reference.grid or reference).counts, dtype=np.float64)
    now = np.array(counts.counts, dtype=np.float64)
    totals = float(before.sum()), float(now.sum())
    return (before / totals[0], now / totals[1], totals) if all(totals) else None


def _starts(shares: F64, least: float) -> npt.NDArray[np.int64]:
    """Returns where the cells begin: bins that are large enough by themselves, and runs of smaller ones between them.

    A run is cut where it has become large enough; what is left of it joins its last cell, if it has one.
    """
    starts: list[int] = []
    for large, run in groupby(range(len(shares)), key=lambda place: bool(shares[place] >= least)):
        places = list(run)
        if large:
            starts += places
            continue
        begins, held = [places[0]], 0.0
        for place in places:
            if held >= least:
                begins.append(place)
                held = 0.0
            held += float(shares[place])
        starts += begins[:-1] if held < least and len(begins) > 1 else begins
    return np.array(starts, dtype=np.int64)


def _bits(share: F64, middle: F64) -> float:
    """Returns the Kullback-Leibler divergence in bits; a share of zero adds nothing."""
    filled = share > 0
    return float(np.sum(share[filled] * np.log2(share[filled] / middle[filled])))


def _null_share(counts: Counts) -> float | None:
    return counts.nulls / counts.rows if counts.rows else None


def _excess(drift: FeatureDrift, thresholds: FeatureThresholds) -> float:
    """Returns how many times its threshold the worst measure is: what features are ordered by."""
    ratios = [
        value / threshold if threshold else (np.inf if value else 0.0)
        for measure in MEASURES
        if (value := getattr(drift, measure)) is not None and (threshold := getattr(thresholds, measure)) is not None
    ]
    return float(max(ratios, default=0.0))
