"""What the trigger service tells Prometheus, at /metrics.

    shipway_trigger_alerts_total{source,outcome}    stored | folded (known already) | refused (4xx)
    shipway_trigger_decisions_total{route,outcome}  what the engine made of alerts since this process started
    shipway_trigger_runs{state}                     decisions that do something, by where they are
    shipway_trigger_queue                           alerts without a decision, and decisions that wait or are starting

and, of every model that was checked, what its last check found:

    shipway_drift_psi{model,version,feature}, shipway_drift_share{model,version}
    shipway_prediction_psi{model,version}
    shipway_performance{model,version,metric}, shipway_performance_baseline{model,version,metric}
    shipway_checked_timestamp_seconds{model,version}

and of the version that is live, with the figures just after its deployment:

    shipway_live_info{model,version}                1
    shipway_baseline_latency_p99_seconds{model,version}, shipway_baseline_error_rate{model,version}

Counters are this process's own. All other figures come out of the store, and are the same whichever replica is asked.
"""

import math
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from shipway.triggers.store import Fact, Store

if TYPE_CHECKING:
    from prometheus_client import Metric

_STATES = ("waiting", "starting", "started", "succeeded", "failed", "done")
_ALERT_OUTCOMES = ("stored", "folded", "refused")
_DECISION_OUTCOMES = ("matched", "skipped", "started", "succeeded", "failed", "done")
_MODEL = ("model", "version")
# Name in a check's figures -> the label of what it has by name, and what it is.
_CHECK = {
    "drift_psi": ("feature", "Population stability index of a feature, at the last check"),
    "drift_share": ("", "Share of the features that have drifted, at the last check"),
    "prediction_psi": ("", "Population stability index of the predictions, at the last check"),
    "performance": ("metric", "Metric on labelled rows, at the last check"),
    "performance_baseline": ("metric", "The same metric on the test part"),
    "checked_timestamp_seconds": ("", "End of the window of the last check"),
}


class Telemetry:
    """Counts what came in and what was decided, since the process started.

    Args:
        sources: Names of the sources, and
        routes: of the routes: their counters are there from the beginning, so that the first one counts as an increase.
    """

    def __init__(self, sources: Iterable[str] = (), routes: Iterable[str] = ()) -> None:
        self._changing = threading.Lock()
        self._alerts = Counter({(source, outcome): 0 for source in sources for outcome in _ALERT_OUTCOMES})
        self._decisions = Counter({(route, outcome): 0 for route in routes for outcome in _DECISION_OUTCOMES})

    def alerts(self, source: str, outcome: str, count: int = 1) -> None:
        """Counts alerts of a source: stored, folded or refused."""
        with self._changing:
            self._alerts[source, outcome] += count

    def decided(self, route: str, outcome: str) -> None:
        """Counts a decision of a route."""
        with self._changing:
            self._decisions[route, outcome] += 1

    def totals(self) -> tuple[dict[tuple[str, str], int], dict[tuple[str, str], int]]:
        """Returns alerts by source and outcome, and decisions by route and outcome."""
        with self._changing:
            return dict(self._alerts), dict(self._decisions)


def expose(telemetry: Telemetry, store: Store) -> tuple[bytes, str]:
    """Returns the exposition and its content type.

    Raises:
        StoreError: The database failed.
    """
    from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
    from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

    registry = CollectorRegistry(auto_describe=False)
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    registry.register(_Collector([*_service(telemetry, store), *_models(store.facts())]))
    return generate_latest(registry), CONTENT_TYPE_LATEST


class _Collector:
    def __init__(self, families: "Iterable[Metric]") -> None:
        self._families = families

    def describe(self) -> "Iterable[Metric]":
        """Returns nothing: the families are known once they are collected."""
        return ()

    def collect(self) -> "Iterable[Metric]":
        """Returns every family."""
        return self._families


def _service(telemetry: Telemetry, store: Store) -> "Iterator[Metric]":
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    came, decided = telemetry.totals()
    alerts = CounterMetricFamily("shipway_trigger_alerts", "Alerts that came in", labels=("source", "outcome"))
    decisions = CounterMetricFamily("shipway_trigger_decisions", "Decisions of routes", labels=("route", "outcome"))
    for family, counts in ((alerts, came), (decisions, decided)):
        for labels, count in sorted(counts.items()):
            family.add_metric(labels, count)
        yield family
    new, states = store.counts()
    runs = GaugeMetricFamily("shipway_trigger_runs", "Decisions that do something", labels=("state",))
    for state in _STATES:
        runs.add_metric([state], states.get(state, 0))
    yield runs
    waiting = new + states.get("waiting", 0) + states.get("starting", 0)
    yield GaugeMetricFamily("shipway_trigger_queue", "Alerts and decisions that wait", value=waiting)


def _models(facts: Iterable[Fact]) -> "Iterator[Metric]":
    from prometheus_client.core import GaugeMetricFamily

    known = {(fact.model, fact.kind): fact for fact in facts}
    checks, lives = ([fact for fact in known.values() if fact.kind == kind] for kind in ("check", "live"))
    for name, (label, text) in _CHECK.items():
        labels = (*_MODEL, label) if label else _MODEL
        family = GaugeMetricFamily(f"shipway_{name}", text, labels=labels)
        for fact in checks:
            found = fact.data.get(name)
            for key, value in _numbers(found if label else {"": found}):
                family.add_metric([fact.model, fact.version, *([key] if label else [])], value)
        yield family
    live = GaugeMetricFamily("shipway_live_info", "The version that is live", labels=_MODEL)
    latency = GaugeMetricFamily(
        "shipway_baseline_latency_p99_seconds", "P99 just after the deployment of the live version", labels=_MODEL
    )
    errors = GaugeMetricFamily(
        "shipway_baseline_error_rate", "Share of errors just after the deployment of the live version", labels=_MODEL
    )
    for fact in lives:
        live.add_metric([fact.model, fact.version], 1)
        baseline = known.get((fact.model, f"baseline {fact.version}"))
        figures = dict(_numbers(baseline.data)) if baseline else {}
        if "latency_p99_ms" in figures:
            latency.add_metric([fact.model, fact.version], figures["latency_p99_ms"] / 1000)
        if "error_rate" in figures:
            errors.add_metric([fact.model, fact.version], figures["error_rate"])
    yield from (live, latency, errors)


def _numbers(found: Any) -> Iterator[tuple[str, float]]:
    """Yields what is a number; figures come over the wire, and one that is none is nobody's gauge."""
    for key, value in found.items() if isinstance(found, Mapping) else ():
        if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
            yield str(key), float(value)
