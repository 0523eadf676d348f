"""How the service does, beside what it did just after the version went live."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from shipway.endpoints.window import LATENCY_EDGES_MS
from shipway.lineage.documents import Compared

if TYPE_CHECKING:
    from shipway.endpoints.window import Window

_QUANTILES = {"latency_p50_ms": (0.5, "p50_ms"), "latency_p95_ms": (0.95, "p95_ms"), "latency_p99_ms": (0.99, "p99_ms")}


def service_of(window: Window | None, baseline: Mapping[str, Any] | None) -> dict[str, Compared]:
    """Returns `requests`, `errors`, `error_rate` and latencies, now and then; {} where nothing was counted.

    Args:
        window: What the version did; None where nobody counts it.
        baseline: What a rollout kept with the version, as `shipway.model.promotion.baseline_of` gives it.
    """
    if window is None or not window.requests:
        return {}
    known = baseline or {}
    # A rollout that saw no requests knows no rate.
    counted = known.get("requests")
    found = {
        "requests": Compared(value=window.requests, baseline=_number(counted)),
        "errors": Compared(value=window.errors, baseline=_number(known.get("errors"))),
        "error_rate": Compared(value=window.error_rate, baseline=_number(known.get("error_rate")) if counted else None),
    }
    for name, (share, key) in _QUANTILES.items():
        milliseconds = window.quantile_ms(share)
        if milliseconds is not None:
            # Beyond the last bucket nobody knows by how much.
            value = min(milliseconds, LATENCY_EDGES_MS[-1])
            found[name] = Compared(value=value, baseline=_number(known.get(key)))
    return found


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None
