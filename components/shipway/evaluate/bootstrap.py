"""How much worse than another a model may be, given the rows at hand: a paired bootstrap bound."""

from __future__ import annotations

import numpy as np

from shipway.model.scoring import F64, Scorer
from shipway.spec.metrics import METRICS, Task

RESAMPLES = 500
# Fewer resamples do for many rows, whose bound lies close to the difference itself: time stays within bounds.
_FEWEST = 200
_WORK = 30_000_000
# Weights of one chunk of resamples: small enough to stay in the processor's cache.
_CHUNK = 200_000


def worse_by(
    task: Task,
    challenger: Scorer,
    champion: Scorer,
    *,
    resamples: int | None = None,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, float]:
    """Returns, for each metric, the upper bound of how much worse the challenger is than the champion.

    One-sided percentile bootstrap (Efron, Tibshirani: "An Introduction to the Bootstrap", 1993, chapter 13), paired:
    both models are scored on the same resampled rows, so that what makes rows hard for both cancels. A positive bound
    of 0.01 says: at `level` confidence the challenger is at most 0.01 worse; a negative one that it is better.

    Args:
        task: Gives the metrics, and for each which way is better.
        challenger: Scorer of the new model.
        champion: Scorer of the old model on the same rows in the same order.
        resamples: How many bootstrap resamples; by default 500, from 60,000 rows on fewer, never under 200.
        level: Confidence of the bound.
        seed: Of the random numbers; the same seed gives the same bounds.

    Returns:
        Metric -> bound. A metric undefined for more than half of the resamples is left out.
    """
    rows = challenger.rows
    count = resamples or int(np.clip(_WORK // rows, _FEWEST, RESAMPLES))
    generator = np.random.default_rng(seed)
    chunk = max(1, _CHUNK // rows)
    losses: dict[str, list[F64]] = {name: [] for name in METRICS[task]}
    for start in range(0, count, chunk):
        weights = _resample(generator, min(chunk, count - start), rows)
        new, old = challenger.weighted(weights), champion.weighted(weights)
        for name, higher_is_better in METRICS[task].items():
            losses[name].append(old[name] - new[name] if higher_is_better else new[name] - old[name])
    bounds: dict[str, float] = {}
    for name, pieces in losses.items():
        values = np.concatenate(pieces)
        values = values[np.isfinite(values)]
        if len(values) * 2 > count:
            bounds[name] = float(np.quantile(values, level))
    return bounds


def _resample(generator: np.random.Generator, resamples: int, rows: int) -> F64:
    """Returns (resamples, rows): how often each row was drawn with replacement."""
    draws = (np.bincount(generator.integers(0, rows, size=rows), minlength=rows) for _ in range(resamples))
    return np.stack([counts.astype(np.float64) for counts in draws])
