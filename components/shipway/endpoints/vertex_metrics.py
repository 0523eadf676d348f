"""What Cloud Monitoring knows of the deployed models of Vertex AI Endpoints, as counts that can be added up.

Vertex AI writes a point a minute and deployed model (DELTA metrics). A point counts in the window in which it ends, so
that adjoining windows count each once. Of the three latencies the model's own is taken, the time in the container.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from shipway.endpoints.window import LATENCY_EDGES_MS
from shipway.errors import ShipwayError

if TYPE_CHECKING:
    from google.api.distribution_pb2 import Distribution
    from google.cloud.monitoring_v3.types import TimeSeries

    from shipway.endpoints.vertex_client import Monitoring

RESPONSES = "aiplatform.googleapis.com/prediction/online/response_count"
LATENCIES = "aiplatform.googleapis.com/prediction/online/prediction_latencies"
LAG_SECONDS = 60.0 + 360.0
"""The longest that Google's list of metrics states for online prediction: a sample a minute, visible after 360 s."""

_RESOURCE = "aiplatform.googleapis.com/Endpoint"


@dataclass
class Counts:
    """What a deployed model did.

    Attributes:
        requests: Responses, whatever their code.
        errors: Those of the model's fault, 5xx.
        refused: Those of the caller's fault, 4xx.
        latency: See `Window`.
    """

    requests: int = 0
    errors: int = 0
    refused: int = 0
    latency: list[int] = field(default_factory=lambda: [0] * (len(LATENCY_EDGES_MS) + 1))

    def add(self, other: Counts) -> None:
        """Adds what another one did."""
        self.requests += other.requests
        self.errors += other.errors
        self.refused += other.refused
        self.latency = [mine + theirs for mine, theirs in zip(self.latency, other.latency, strict=True)]


def read_counts(
    monitoring: Monitoring, endpoints: Sequence[str], since: float, until: float
) -> dict[tuple[str, str], Counts]:
    """Returns what each deployed model did, by ids of its Endpoint and of its own.

    Args:
        monitoring: Where.
        endpoints: The ids of the Endpoints.
        since: Beginning, seconds since the epoch.
        until: End.

    Raises:
        ShipwayError: Cloud Monitoring refused, or did not answer.
    """
    found: dict[tuple[str, str], Counts] = {}
    for series in _series(monitoring, RESPONSES, endpoints, since, until):
        counts = found.setdefault(_place(series), Counts())
        number = sum(int(point.value.int64_value) for point in series.points)
        # The class of the HTTP status, written `5xx` or `503`.
        kind = str(series.metric.labels.get("response_code", ""))[:1]
        counts.requests += number
        counts.errors += number if kind == "5" else 0
        counts.refused += number if kind == "4" else 0
    by_type: dict[tuple[str, str], dict[str, list[int]]] = {}
    for series in _series(monitoring, LATENCIES, endpoints, since, until):
        kinds = by_type.setdefault(_place(series), {})
        buckets = kinds.setdefault(series.metric.labels.get("latency_type", ""), [0] * (len(LATENCY_EDGES_MS) + 1))
        for point in series.points:
            _add_distribution(buckets, point.value.distribution_value)
    for place, kinds in by_type.items():
        counts = found.setdefault(place, Counts())
        counts.latency = kinds.get("model") or kinds.get("total") or counts.latency
    return found


def read_lag(monitoring: Monitoring) -> float:
    """Returns how old the newest points are at most, seconds: what the metrics' descriptors say, else `LAG_SECONDS`."""
    from google.api_core.exceptions import GoogleAPICallError

    lags = []
    for metric in (RESPONSES, LATENCIES):
        name = f"projects/{monitoring.project}/metricDescriptors/{metric}"
        try:
            described: Any = monitoring.ask(
                f"describing {metric}", monitoring.metrics.get_metric_descriptor, {"name": name}
            ).metadata
        except (GoogleAPICallError, ShipwayError):
            # Whoever reads the metrics themselves is told what is wrong.
            return LAG_SECONDS
        if not described.HasField("ingest_delay"):
            return LAG_SECONDS
        lags.append(described.sample_period.ToTimedelta() + described.ingest_delay.ToTimedelta())
    return max(float(lag.total_seconds()) for lag in lags)


def rebucketed(bounds: Sequence[float], counts: Sequence[int], most: float = 0.0) -> list[int]:
    """Returns counts between other bounds as counts of `LATENCY_EDGES_MS`.

    Within a bucket of theirs the values are taken as evenly spread, as Prometheus' `histogram_quantile` takes them;
    those beyond the last bound as just above it, or up to the greatest value where that is known.

    Args:
        bounds: Ascending; count i lies between bound i - 1 and bound i.
        counts: One more than bounds at most.
        most: The greatest value; 0 for unknown.
    """
    into = [0] * (len(LATENCY_EDGES_MS) + 1)
    for index, count in enumerate(counts):
        low = max(0.0, bounds[index - 1]) if index else 0.0
        high = bounds[index] if index < len(bounds) else max(most, math.nextafter(low, math.inf))
        _spread(into, low, high, count)
    return into


def _spread(into: list[int], low: float, high: float, count: int) -> None:
    """Adds evenly spread values; whole numbers that add up to their count."""
    if not count or high <= 0:
        into[0] += count
        return
    first, last = bisect.bisect_right(LATENCY_EDGES_MS, low), bisect.bisect_left(LATENCY_EDGES_MS, high)
    placed = 0
    for index in range(first, last):
        upto = round(count * (LATENCY_EDGES_MS[index] - low) / (high - low))
        into[index] += upto - placed
        placed = upto
    into[last] += count - placed


def _add_distribution(into: list[int], distribution: Distribution) -> None:
    counts = list(distribution.bucket_counts)
    most = distribution.range.max if distribution.HasField("range") else 0.0
    # Trailing zeros are left out on the wire.
    for index, count in enumerate(rebucketed(_bounds(distribution, len(counts)), counts, most)):
        into[index] += count


def _bounds(distribution: Distribution, buckets: int) -> list[float]:
    """Returns the bounds between a distribution's buckets, as its options give them.

    Source: google.api.Distribution.BucketOptions.
    """
    options = distribution.bucket_options
    match options.WhichOneof("options"):
        case "explicit_buckets":
            return list(options.explicit_buckets.bounds)
        case "exponential_buckets":
            growing = options.exponential_buckets
            number = growing.num_finite_buckets or max(0, buckets - 2)
            return [growing.scale * growing.growth_factor**index for index in range(number + 1)]
        case "linear_buckets":
            even = options.linear_buckets
            number = even.num_finite_buckets or max(0, buckets - 2)
            return [even.offset + even.width * index for index in range(number + 1)]
    return []


def _series(
    monitoring: Monitoring, metric: str, endpoints: Sequence[str], since: float, until: float
) -> Iterable[TimeSeries]:
    from google.api_core.exceptions import Conflict, NotFound

    what = f"reading {metric.rpartition('/')[2]} from Cloud Monitoring"
    token = ""
    while True:
        request = {
            "name": f"projects/{monitoring.project}",
            "filter": _filter(metric, endpoints),
            "interval": {"start_time": _moment(since), "end_time": _moment(until)},
            "view": "FULL",
            "page_token": token,
        }
        try:
            page = monitoring.ask(what, monitoring.metrics.list_time_series, request)
        except (NotFound, Conflict) as error:
            raise monitoring.refusal(what, error) from error
        answer = next(iter(page.pages))
        yield from answer.time_series
        token = answer.next_page_token
        if not token:
            return


def _filter(metric: str, endpoints: Sequence[str]) -> str:
    ids = ", ".join(f'"{one}"' for one in endpoints)
    return f'metric.type = "{metric}" AND resource.type = "{_RESOURCE}" AND resource.labels.endpoint_id = one_of({ids})'


def _moment(seconds: float) -> Mapping[str, int]:
    whole = math.floor(seconds)
    return {"seconds": whole, "nanos": int((seconds - whole) * 1e9)}


def _place(series: TimeSeries) -> tuple[str, str]:
    return series.resource.labels.get("endpoint_id", ""), series.metric.labels.get("deployed_model_id", "")
