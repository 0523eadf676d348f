import pytest

from shipway.endpoints.window import LATENCY_EDGES_MS, Window
from shipway.lineage.documents import Compared, FeatureDrift, MonitorFindings, PredictionDrift
from shipway.monitor.decide import decide
from shipway.monitor.health import service_of
from shipway.spec.watch import MonitorRule, default_monitor_rules


def findings(until="2026-01-02T00:00:00+00:00", **changes):
    values = {
        "model": "m", "version": "3", "since": "2026-01-01T00:00:00+00:00", "until": until, "rows": 10_000,
        "decision": "ok", "drifted_share": 0.0, "prediction": PredictionDrift(psi=0.01, js=0.02),
        "measures": {"calm": FeatureDrift(kind="number", psi=0.05), "text": FeatureDrift(kind="category", psi=0.1)},
        "performance": {
            "roc_auc": Compared(value=0.80, baseline=0.86), "log_loss": Compared(value=0.5, baseline=0.4),
            "f1": Compared(value=0.7),
        },
        "labelled_rows": 5_000, "service": service(requests=1000, errors=1, p99=20.0),
    }  # fmt: skip
    return MonitorFindings(**{**values, **changes})


def service(requests, errors, p99, baseline_p99=10.0):
    return {
        "requests": Compared(value=requests),
        "errors": Compared(value=errors),
        "error_rate": Compared(value=errors / requests, baseline=0.001),
        "latency_p99_ms": Compared(value=p99, baseline=baseline_p99),
    }


def rule(metric, **bounds):
    return MonitorRule(metric=metric, **bounds)


def judged(rules, found=None, past=(), task="binary", least_rows=500):
    return decide(found or findings(), rules, task, least_rows, past)


def only(result):
    (one,) = result.rules
    return one


@pytest.mark.parametrize(
    ("bounds", "violated", "words"),
    [
        (rule("drifted_share", max=0.3), False, "drifted_share <= 0.3"),
        (rule("prediction_psi", max=0.005), True, "prediction_psi <= 0.005"),
        (rule("prediction_js", max=0.01), True, "prediction_js <= 0.01"),
        (rule("rows", min=10_000), False, "rows >= 10000"),
        (rule("rows", min=10_001), True, "rows >= 10001"),
        (rule("feature.psi", max=0.1), False, "feature.psi <= 0.1"),
        (rule("feature.psi", max=0.09), True, "feature.psi <= 0.09"),
        (rule("error_rate", max=0.01), False, "error_rate <= 0.01"),
        (rule("latency_p99_ms", max_ratio=2.0), False, "latency_p99_ms <= 2 x baseline"),
        (rule("latency_p99_ms", max_ratio=1.5), True, "latency_p99_ms <= 1.5 x baseline"),
        (rule("latency_p99_ms", max_ratio=1.5, floor=20), False, "latency_p99_ms <= 1.5 x baseline, or 20"),
        (rule("performance.roc_auc", min=0.8), False, "performance.roc_auc >= 0.8"),
        (rule("performance.roc_auc", max_drop=0.05), True, "performance.roc_auc >= test - 0.05"),
        (rule("performance.roc_auc", max_drop=0.07), False, "performance.roc_auc >= test - 0.07"),
        (rule("performance.log_loss", max_drop=0.05), True, "performance.log_loss <= test + 0.05"),
        (rule("performance.log_loss", max_drop=0.15), False, "performance.log_loss <= test + 0.15"),
    ],
)
def test_a_bound_is_judged(bounds, violated, words):
    result = judged([bounds])
    found = only(result)
    assert (found.rule, found.violated, found.acts) == (words, violated, violated)
    assert result.decision == ("alert" if violated else "ok")
    assert len(result.reasons) == violated


def test_the_gravest_action_decides():
    rules = [
        rule("feature.psi", max=0.01, action="alert"),
        rule("prediction_psi", max=0.001, action="retrain"),
        rule("drifted_share", max=0.5, action="rollback"),
    ]
    assert judged(rules).decision == "retrain"
    assert judged([*rules, rule("rows", min=1e9, action="rollback")]).decision == "rollback"
    assert judged(rules[2:]).decision == "ok"
    assert judged([]).decision == "ok"


def test_reasons_name_rule_value_and_worst_feature():
    result = judged([rule("feature.psi", max=0.01, action="retrain")], findings(reasons=["no labels"]))
    assert result.reasons == ["no labels", "feature.psi <= 0.01: found 0.1 (the worst is text): retrain"]


@pytest.mark.parametrize(
    ("metric", "changes", "note"),
    [
        ("drifted_share", {"rows": 499}, "499 rows, monitor.least_rows is 500"),
        ("feature.psi", {"rows": 0}, "0 rows, monitor.least_rows is 500"),
        ("feature.ks", {}, "feature.ks was not measured"),
        ("prediction_psi", {"prediction": PredictionDrift()}, "prediction_psi was not measured"),
        ("performance.roc_auc", {"performance": {}}, "performance.roc_auc was not measured"),
        ("performance.roc_auc", {"labelled_rows": 20}, "20 labelled rows, monitor.least_rows is 500"),
        ("error_rate", {"service": {}}, "error_rate was not measured"),
        ("latency_p99_ms", {"service": service(99, 0, 900.0)}, "99 requests are too few for a 99th percentile"),
    ],
)
def test_what_was_not_measured_is_not_judged(metric, changes, note):
    result = judged([rule(metric, max=0.0, action="rollback")], findings(**changes))
    assert result.decision == "ok"
    assert (only(result).value, only(result).note) == (None, note)
    assert result.reasons == [f"{metric} <= 0: not judged: {note}"]


@pytest.mark.parametrize("bounds", [rule("performance.f1", max_drop=0.0), rule("latency_p99_ms", max_ratio=1.0)])
def test_without_a_baseline_there_is_no_bound(bounds):
    result = judged([bounds], findings(service=service(1000, 0, 900.0, baseline_p99=None)))
    assert result.decision == "ok"
    assert only(result).note == f"no baseline of {bounds.metric} is kept with version 3"


@pytest.mark.parametrize(
    ("requests", "errors", "violated"),
    [(1, 1, False), (3, 1, False), (3, 3, True), (1000, 11, False), (1000, 30, True), (1_000_000, 10_600, True)],
)
def test_a_few_errors_may_be_chance(requests, errors, violated):
    found = only(judged([rule("error_rate", max=0.01)], findings(service=service(requests, errors, 1.0))))
    assert found.violated == violated
    assert bool(found.note) != violated


def test_any_error_is_too_many_where_none_is_allowed():
    assert only(judged([rule("error_rate", max=0.0)], findings(service=service(10_000, 1, 1.0)))).violated
    assert not only(judged([rule("error_rate", max=1.0)], findings(service=service(10, 10, 1.0)))).violated


def test_an_error_rate_that_is_too_low_is_no_chance():
    assert only(judged([rule("error_rate", min=0.5)], findings(service=service(1000, 0, 1.0)))).violated


def history(*rates, version="3", rules):
    checks = []
    for day, share in enumerate(rates, start=1):
        found = findings(f"2025-12-{day:02}T00:00:00+00:00", drifted_share=share, version=version)
        checks.append(judged(rules, found, checks))
    return checks


def test_several_checks_in_a_row_must_violate_a_rule():
    rules = [rule("drifted_share", max=0.3, checks=3, action="retrain")]
    now = findings(drifted_share=0.5)
    past = history(0.5, 0.1, 0.5, rules=rules)
    assert [only(check).in_a_row for check in past] == [1, 0, 1]
    result = judged(rules, now, past)
    assert (only(result).in_a_row, result.decision) == (2, "ok")
    assert result.reasons == ["drifted_share <= 0.3: found 0.5, 2 of 3 checks in a row before retrain"]
    past = history(0.5, 0.5, rules=rules)
    assert judged(rules, now, past).decision == "retrain"
    # One that could not be judged neither counts nor breaks the row.
    past = history(0.5, None, 0.5, rules=rules)
    assert judged(rules, now, past).decision == "retrain"


def test_only_earlier_checks_of_the_same_version_and_rule_count():
    rules = [rule("drifted_share", max=0.3, checks=2)]
    now = findings(drifted_share=0.5)
    assert judged(rules, now, history(0.5, rules=rules)).decision == "alert"
    assert judged(rules, now, history(0.5, version="2", rules=rules)).decision == "ok"
    assert judged(rules, now, history(0.5, rules=[rule("drifted_share", max=0.2, checks=2)])).decision == "ok"
    # The check itself, made before, is no earlier one.
    assert judged(rules, now, [judged(rules, now)]).decision == "ok"


def test_the_default_rules_leave_a_healthy_model_alone():
    assert judged(default_monitor_rules()).decision == "ok"
    assert judged(default_monitor_rules(), findings(drifted_share=0.4)).decision == "retrain"
    assert judged(default_monitor_rules(), findings(service=service(1000, 50, 1.0))).decision == "rollback"


def window(requests, errors=0, latency=None):
    counts = [0] * (len(LATENCY_EDGES_MS) + 1)
    for place, count in (latency or {}).items():
        counts[place] = count
    return Window(revision="r", since=0, until=1, requests=requests, errors=errors, latency=counts)


def test_the_service_is_compared_with_its_first_days():
    baseline = {"requests": 50, "errors": 1, "error_rate": 0.02, "p50_ms": 1.0, "p95_ms": 2.0, "p99_ms": float("inf")}
    found = service_of(window(200, 10, {30: 150, 40: 40}), baseline)
    assert found["requests"] == Compared(value=200, baseline=50)
    assert found["error_rate"] == Compared(value=0.05, baseline=0.02)
    assert found["latency_p50_ms"] == Compared(value=LATENCY_EDGES_MS[30], baseline=1.0)
    assert found["latency_p99_ms"] == Compared(value=LATENCY_EDGES_MS[40], baseline=None)
    assert service_of(window(5, 0, {64: 5}), None)["latency_p99_ms"].value == LATENCY_EDGES_MS[-1]
    assert "latency_p99_ms" not in service_of(window(5, 5), None)
    # A rollout that saw no request knows no rate to compare with.
    assert service_of(window(5), {"requests": 0, "error_rate": 0.0})["error_rate"].baseline is None
    assert service_of(window(0), baseline) == service_of(None, baseline) == {}


def test_gauges_say_nothing_of_too_few_rows():
    few = findings(rows=499, labelled_rows=499, least_rows=500, drifted_share=None).gauges()
    assert list(few) == ["drift_psi", "performance", "performance_baseline", "checked_timestamp_seconds"]
    assert not any(few[name] for name in ("drift_psi", "performance", "performance_baseline"))
    enough = findings(rows=500, labelled_rows=499, least_rows=500).gauges()
    assert (enough["drift_psi"], enough["prediction_psi"]) == ({"calm": 0.05, "text": 0.1}, 0.01)
    assert enough["performance"] == {}


def test_gauges_leave_out_what_is_not_known():
    measures = {"a": FeatureDrift(kind="number"), "b": FeatureDrift(kind="number", psi=0.3)}
    found = findings(drifted_share=None, measures=measures)
    assert found.gauges() == {
        "drift_psi": {"b": 0.3},
        "prediction_psi": 0.01,
        "performance": {"roc_auc": 0.80, "log_loss": 0.5, "f1": 0.7},
        "performance_baseline": {"roc_auc": 0.86, "log_loss": 0.4},
        "checked_timestamp_seconds": 1767312000.0,
    }
