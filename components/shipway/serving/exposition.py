"""What a server tells Prometheus, at /metrics.

Every family has the labels `model`, `revision` and `version` (but for the last group: `model` alone), and these:

    shipway_requests_total{outcome}             answered | error (the revision's) | refused (4xx); mirrored ones as well
    shipway_request_seconds_bucket{le}, _sum, _count
                                                answered requests by the model's own time; `le` is in LATENCY_LE, which
                                                are `LATENCY_EDGES_MS` in seconds, and +Inf
    shipway_predictions_bucket{le}, _count      rows by the positive class' probability (binary; `le` from
                                                `PROBABILITY_EDGES`) or by value (regression; `le` from the revision's
                                                edges), and +Inf. A row that is exactly an edge counts as above it, just
                                                as in `PredictionCounts`
    shipway_predicted_rows_total{label}         rows by predicted class, for multiclass models
    shipway_feature_rows_total{feature}         rows, nulls included
    shipway_feature_nulls_total{feature}        of these, nulls
    shipway_feature_sum_total{feature,sign}     sum of the values above zero (sign="positive"), and of those below
                                                without their sign (sign="negative"): the sum is their difference. A
                                                counter may not fall, so there are two. 0 for categories
    shipway_feature_squares_total{feature}      sum of the squares; 0 for categories
    shipway_mirror_requests_total{outcome}      sent | dropped (queue full, not sent) | failed (sent, without an answer)
    shipway_mirror_rows_total{outcome}          compared (answered by both) | agreed (of these)
    shipway_mirror_difference_total             sum over the compared rows of the absolute difference
    shipway_revision_info{edges}                1; `edges` is the JSON list of a regression model's edges

    shipway_statistics_rows_lost_total          rows left out of statistics and log, because the queue was full
    shipway_log_rows_total{outcome}             rows of the prediction log: written | lost
    shipway_access_log_lines_lost_total         lines left out of the access log

Sums over servers and over time are right for all of them: `sum by (revision, outcome) (increase(...))`.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from typing import TYPE_CHECKING

from shipway.endpoints.window import LATENCY_EDGES_MS

if TYPE_CHECKING:
    from prometheus_client import Metric

    from shipway.serving.telemetry import RevisionCounter, Telemetry

LATENCY_LE: tuple[str, ...] = tuple(repr(round(edge / 1000, 9)) for edge in LATENCY_EDGES_MS)
"""The label `le` of the latency buckets, but for the last one, `+Inf`."""

_REVISION = ("model", "revision", "version")


def expose(telemetry: "Telemetry") -> tuple[bytes, str]:
    """Returns the exposition and its content type."""
    from prometheus_client import CollectorRegistry
    from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(telemetry))
    return generate_latest(registry), CONTENT_TYPE_LATEST


class _Collector:
    """Reads our own counters at each scrape, so that a request counts once and not twice."""

    def __init__(self, telemetry: "Telemetry") -> None:
        self._telemetry = telemetry

    def describe(self) -> "Iterable[Metric]":
        """Returns nothing: the families are known once they are collected."""
        return ()

    def collect(self) -> "Iterator[Metric]":
        """Yields every family."""
        name = self._telemetry.name
        revisions = [_Totals(name, counter) for counter in self._telemetry.exposed()]
        yield from _traffic(revisions)
        yield from _predictions(revisions)
        yield from _features(revisions)
        yield from _mirror(revisions)
        yield from _losses(self._telemetry)


class _Totals:
    """One revision's counts since the server started."""

    def __init__(self, model: str, counter: "RevisionCounter") -> None:
        self.labels = [model, counter.id, counter.version]
        self.summary = counter.summary
        self.traffic = counter.traffic.total()
        self.counts = counter.statistics.total()


def _traffic(revisions: list[_Totals]) -> "Iterator[Metric]":
    from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

    requests = CounterMetricFamily("shipway_requests", "Requests.", labels=[*_REVISION, "outcome"])
    seconds = HistogramMetricFamily("shipway_request_seconds", "The model's own time.", labels=_REVISION)
    for one in revisions:
        traffic = one.traffic
        answered = traffic.requests - traffic.errors - traffic.refused
        for outcome, count in (("answered", answered), ("error", traffic.errors), ("refused", traffic.refused)):
            requests.add_metric([*one.labels, outcome], count)
        seconds.add_metric(one.labels, _buckets(LATENCY_LE, traffic.latency), traffic.seconds)
    yield from (requests, seconds)


def _predictions(revisions: list[_Totals]) -> "Iterator[Metric]":
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

    numbers = HistogramMetricFamily("shipway_predictions", "Rows by probability or value.", labels=_REVISION)
    classes = CounterMetricFamily("shipway_predicted_rows", "Rows by predicted class.", labels=[*_REVISION, "label"])
    info = GaugeMetricFamily("shipway_revision_info", "A revision is there.", labels=[*_REVISION, "edges"])
    for one in revisions:
        counts = one.counts.predictions.tolist()
        if one.summary.labels:
            for label, count in zip(one.summary.labels, counts, strict=True):
                classes.add_metric([*one.labels, label], count)
        elif one.summary.edges:
            numbers.add_metric(one.labels, _buckets([repr(edge) for edge in one.summary.edges], counts), None)
        info.add_metric([*one.labels, json.dumps(one.summary.edges)], 1)
    yield from (numbers, classes, info)


def _features(revisions: list[_Totals]) -> "Iterator[Metric]":
    from prometheus_client.core import CounterMetricFamily

    labels = [*_REVISION, "feature"]
    rows = CounterMetricFamily("shipway_feature_rows", "Rows, nulls included.", labels=labels)
    nulls = CounterMetricFamily("shipway_feature_nulls", "Nulls.", labels=labels)
    total = CounterMetricFamily("shipway_feature_sum", "Sum of the values, by sign.", labels=[*labels, "sign"])
    squares = CounterMetricFamily("shipway_feature_squares", "Sum of the squares.", labels=labels)
    for one in revisions:
        for feature, counts in zip(one.summary.features, one.counts.features.tolist(), strict=True):
            names = [*one.labels, feature]
            rows.add_metric(names, counts[0])
            nulls.add_metric(names, counts[1])
            total.add_metric([*names, "positive"], counts[2])
            total.add_metric([*names, "negative"], counts[3])
            squares.add_metric(names, counts[4])
    yield from (rows, nulls, total, squares)


def _mirror(revisions: list[_Totals]) -> "Iterator[Metric]":
    from prometheus_client.core import CounterMetricFamily

    requests = CounterMetricFamily("shipway_mirror_requests", "Mirrored requests.", labels=[*_REVISION, "outcome"])
    rows = CounterMetricFamily("shipway_mirror_rows", "Mirrored rows.", labels=[*_REVISION, "outcome"])
    difference = CounterMetricFamily("shipway_mirror_difference", "Sum of differences.", labels=_REVISION)
    for one in revisions:
        for outcome in ("sent", "dropped", "failed"):
            requests.add_metric([*one.labels, outcome], getattr(one.traffic, outcome))
        compared, agreed, gap = one.counts.agreement.tolist()
        rows.add_metric([*one.labels, "compared"], compared)
        rows.add_metric([*one.labels, "agreed"], agreed)
        difference.add_metric(one.labels, gap)
    yield from (requests, rows, difference)


def _losses(telemetry: "Telemetry") -> "Iterator[Metric]":
    from prometheus_client.core import CounterMetricFamily

    def counter(name: str, text: str, value: Callable[[], float]) -> "Metric":
        family = CounterMetricFamily(name, text, labels=["model"])
        family.add_metric([telemetry.name], value())
        return family

    yield counter("shipway_statistics_rows_lost", "Rows in no statistics.", lambda: telemetry.rows_lost)
    if telemetry.log:
        rows = CounterMetricFamily("shipway_log_rows", "Rows of the prediction log.", labels=["model", "outcome"])
        rows.add_metric([telemetry.name, "written"], telemetry.log.written)
        rows.add_metric([telemetry.name, "lost"], telemetry.log.lost)
        yield rows
    if telemetry.access:
        access = telemetry.access
        yield counter("shipway_access_log_lines_lost", "Lines not written.", lambda: access.lost)


def _buckets(edges: Iterable[str], counts: Iterable[int]) -> list[tuple[str, float]]:
    return list(zip((*edges, "+Inf"), accumulate(counts), strict=True))
