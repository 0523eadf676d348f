"""What each revision did in a window, out of the Prometheus that scrapes the servers; see `shipway.serving.exposition`.

A counter's rise over a window is its last value less the one just before the window, or less 0 where the counter began
within it. Prometheus' own `increase` extrapolates to the window's edges, and misses what a counter began with; it is
used only for counters that were reset by a restart within the window.
"""

from __future__ import annotations

import bisect
import json
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shipway.endpoints.window import LATENCY_EDGES_MS, FeatureCounts, MirrorCounts, PredictionCounts, Window
from shipway.errors import InputError, ShipwayError

if TYPE_CHECKING:
    from urllib3 import PoolManager

TOKEN_VARIABLE = "SHIPWAY_PROMETHEUS_TOKEN"  # noqa: S105 - the variable's name, not its value
CA_VARIABLE = "SHIPWAY_PROMETHEUS_CA"

_SECONDS = 20.0
_CONNECT_SECONDS = 5.0
_TRIES = 3
_LOOK_BACK = 300
_COUNTERS = {
    "shipway_requests_total": ("outcome",),
    "shipway_request_seconds_bucket": ("le",),
    "shipway_predictions_bucket": ("le",),
    "shipway_predicted_rows_total": ("label",),
    "shipway_feature_rows_total": ("feature",),
    "shipway_feature_nulls_total": ("feature",),
    "shipway_feature_sum_total": ("feature", "sign"),
    "shipway_feature_squares_total": ("feature",),
    "shipway_mirror_requests_total": ("outcome",),
    "shipway_mirror_rows_total": ("outcome",),
    "shipway_mirror_difference_total": (),
}
"""Metric -> the labels that tell its series of one revision apart."""

Rises = dict[str, dict[tuple[str, ...], float]]
"""Metric -> values of those labels -> rise, of one revision."""


class Prometheus:
    """Asks a Prometheus about the servers of one model.

    A bearer token is taken from $SHIPWAY_PROMETHEUS_TOKEN, the CA's certificates from the file that
    $SHIPWAY_PROMETHEUS_CA names.

    Args:
        url: Where it answers.
        model: The servers' `--name`.
        namespace: The servers' namespace; metrics without such a label count as theirs.
    """

    def __init__(self, url: str, model: str, namespace: str) -> None:
        self.url = url.rstrip("/")
        self._labels = f'model="{model}",namespace=~"{namespace}|"'

    def windows(self, revisions: Sequence[str], since: float, until: float) -> dict[str, Window]:
        """Returns the windows of those of the revisions that there are metrics of.

        Raises:
            ShipwayError: Prometheus does not answer, or refuses.
        """
        if not revisions or until <= since:
            return {}
        chosen = f'revision=~"{"|".join(revisions)}",{self._labels}'
        milliseconds = max(1, round((until - since) * 1000))
        query = " or ".join(_rise(name, by, chosen, milliseconds) for name, by in _COUNTERS.items())
        rises: dict[str, Rises] = defaultdict(lambda: defaultdict(dict))
        for labels, value in self._ask(query, until):
            by = tuple(labels.get(label, "") for label in _COUNTERS[labels["metric"]])
            rises[labels.get("revision", "")][labels["metric"]][by] = value
        return {revision: _window(revision, since, until, found) for revision, found in rises.items()}

    def knows(self) -> bool:
        """Tells whether it has scraped a server of the model within the last minutes."""
        return bool(self._ask(f"count(shipway_revision_info{{{self._labels}}})", None))

    def _ask(self, query: str, moment: float | None) -> list[tuple[dict[str, str], float]]:
        """Returns an instant query's series, labels and value.

        Raises:
            ShipwayError: Prometheus does not answer, or refuses.
        """
        from urllib3.exceptions import HTTPError

        fields = {"query": query, **({} if moment is None else {"time": f"{moment:.3f}"})}
        try:
            found = self._pool.request_encode_body(
                "POST", f"{self.url}/api/v1/query", fields=fields, encode_multipart=False, headers=self._headers()
            )
        except HTTPError as error:
            reason = getattr(error, "reason", None) or error
            raise ShipwayError(
                f"no metrics: Prometheus at {self.url} does not answer ({str(reason).rpartition('>: ')[2]}); check "
                "endpoint.kserve.prometheus in the spec and the network policy of the steps"
            ) from error
        return self._series(found.status, found.data)

    def _series(self, status: int, data: bytes) -> list[tuple[dict[str, str], float]]:
        try:
            answer = json.loads(data)
        except ValueError:
            answer = None
        if status in (401, 403):
            raise InputError(
                f"no metrics: Prometheus at {self.url} refuses the credentials ({status}); set {TOKEN_VARIABLE} to a "
                "bearer token (kubeflow.secrets in the spec)"
            )
        if not isinstance(answer, dict) or answer.get("status") != "success":
            said = answer.get("error") if isinstance(answer, dict) else data[:200].decode(errors="replace")
            raise ShipwayError(f"no metrics: Prometheus at {self.url} answers {status}: {said}")
        try:
            return [(entry["metric"], float(entry["value"][1])) for entry in answer["data"]["result"]]
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise ShipwayError(
                f"no metrics: {self.url} answers, but not as Prometheus does; check endpoint.kserve.prometheus"
            ) from error

    @cached_property
    def _pool(self) -> PoolManager:
        from urllib3 import PoolManager, Retry, Timeout

        retries = Retry(
            total=_TRIES,
            backoff_factor=0.3,
            status_forcelist=(429, 502, 503, 504),
            allowed_methods=("POST",),
            redirect=0,
            raise_on_status=False,
        )
        authority = os.environ.get(CA_VARIABLE) or None
        if authority and not Path(authority).is_file():
            raise InputError(f"{CA_VARIABLE}: no such file: {authority}")
        return PoolManager(
            retries=retries, timeout=Timeout(connect=_CONNECT_SECONDS, read=_SECONDS), ca_certs=authority
        )

    def _headers(self) -> dict[str, str]:
        token = os.environ.get(TOKEN_VARIABLE, "").strip()
        return {"authorization": f"Bearer {token}"} if token else {}


def nothing(revision: str, since: float, until: float) -> Window:
    """Returns the window of a revision that nobody asked."""
    return Window(revision=revision, since=since, until=until)


def _rise(name: str, by: Sequence[str], chosen: str, milliseconds: int) -> str:
    """Returns the query for a metric's rise, with the metric's name in the label `metric`."""
    series, window = f"{name}{{{chosen}}}", f"{milliseconds}ms"
    last = f"last_over_time({series}[{window}])"
    before = f"last_over_time({series}[{_LOOK_BACK}s] offset {window})"
    reset = f"resets({series}[{milliseconds + _LOOK_BACK * 1000}ms]) > 0"
    rise = f"({last} - ({before} or {last} * 0)) unless ({reset}) or (increase({series}[{window}]) and ({reset}))"
    return f'label_replace(sum by ({",".join(("revision", *by))}) ({rise}), "metric", "{name}", "", "")'


def _window(revision: str, since: float, until: float, rises: Rises) -> Window:
    requests = _by_label(rises, "shipway_requests_total")
    return Window(
        revision=revision,
        since=since,
        until=until,
        requests=sum(requests.values()),
        errors=requests.get("error", 0),
        refused=requests.get("refused", 0),
        latency=_latency(rises.get("shipway_request_seconds_bucket", {})),
        predictions=_predictions(rises),
        features=_features(rises),
        mirror=_mirror(rises),
    )


def _by_label(rises: Rises, name: str) -> dict[str, int]:
    return {labels[0]: max(0, round(value)) for labels, value in rises.get(name, {}).items()}


def _between(cumulative: Mapping[tuple[str, ...], float]) -> tuple[list[float], list[int]]:
    """Returns a histogram's inner edges and its counts between them, out of cumulative counts by `le`."""
    pairs = sorted((float(le), value) for (le,), value in cumulative.items())
    counts, below = [], 0
    for _, value in pairs:
        total = max(below, round(value))
        counts.append(total - below)
        below = total
    return [edge for edge, _ in pairs[:-1]], counts


def _latency(cumulative: Mapping[tuple[str, ...], float]) -> list[int]:
    """Returns the counts in the buckets of `LATENCY_EDGES_MS`, whatever edges an older server has."""
    found = [0] * (len(LATENCY_EDGES_MS) + 1)
    edges, counts = _between(cumulative)
    for edge, count in zip((*edges, float("inf")), counts, strict=False):
        # The edges went through seconds and back; a hair's breadth must not move a bucket.
        found[bisect.bisect_left(LATENCY_EDGES_MS, edge * 1000 * (1 - 1e-9))] += count
    return found


def _predictions(rises: Rises) -> PredictionCounts | None:
    if numbers := rises.get("shipway_predictions_bucket"):
        edges, counts = _between(numbers)
        return PredictionCounts(kind="number", edges=edges, counts=counts)
    if classes := _by_label(rises, "shipway_predicted_rows_total"):
        labels = sorted(classes)
        return PredictionCounts(kind="class", labels=labels, counts=[classes[label] for label in labels])
    return None


def _features(rises: Rises) -> dict[str, FeatureCounts]:
    nulls = _by_label(rises, "shipway_feature_nulls_total")
    sums, squares = rises.get("shipway_feature_sum_total", {}), rises.get("shipway_feature_squares_total", {})
    return {
        name: FeatureCounts(
            rows=rows,
            nulls=nulls.get(name, 0),
            total=sums.get((name, "positive"), 0.0) - sums.get((name, "negative"), 0.0),
            squares=squares.get((name,), 0.0),
        )
        for name, rows in _by_label(rises, "shipway_feature_rows_total").items()
    }


def _mirror(rises: Rises) -> MirrorCounts:
    requests = _by_label(rises, "shipway_mirror_requests_total")
    rows = _by_label(rises, "shipway_mirror_rows_total")
    counts: dict[str, Any] = {name: requests.get(name, 0) for name in ("sent", "dropped", "failed")}
    counts |= {name: rows.get(name, 0) for name in ("compared", "agreed")}
    return MirrorCounts(**counts, difference=rises.get("shipway_mirror_difference_total", {}).get((), 0.0))
