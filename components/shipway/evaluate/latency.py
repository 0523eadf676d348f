"""How long one row takes, through the path that a server's request takes."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from shipway.model.package import Package

_WARM_UP = 20


def measure_latency(package: Package, rows: Sequence[Mapping[str, Any]], count: int) -> dict[str, float]:
    """Returns the percentiles of single-row predictions, in milliseconds.

    A prediction is what a server does between its JSON parser and its JSON writer: check the row, make columns of it,
    predict. The first 20, which warm caches up, do not count.

    Args:
        package: The model.
        rows: Raw rows with the model's inputs; taken in turn.
        count: How many predictions to time.

    Raises:
        RequestError: The request path refuses a row.
    """
    nanoseconds = np.empty(count)
    for turn in range(-_WARM_UP, count):
        row = rows[turn % len(rows)]
        started = time.perf_counter_ns()
        package.predict_columns(package.columns_from_rows([row]))
        if turn >= 0:
            nanoseconds[turn] = time.perf_counter_ns() - started
    return {f"latency_p{q}_ms": round(float(np.percentile(nanoseconds, q)) / 1e6, 6) for q in (50, 95, 99)}
