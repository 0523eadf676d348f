"""The alerting rules as they are installed, under Prometheus' own tests; and that what is asked for is told.

`rules/*.yaml` are unit tests in promtool's language (https://prometheus.io/docs/prometheus/latest/configuration/
unit_testing_rules/).
"""

import copy
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from manifests_build import Object, installation, named
from prometheus_client.parser import text_string_to_metric_families
from telemetry_traffic import info, prediction, rows

from shipway.serving.prediction_log import PredictionLog
from shipway.serving.telemetry import Telemetry
from shipway.spec import METRICS
from shipway.spec.watch import default_monitor_rules
from shipway.triggers import exposition
from shipway.triggers.incoming import Incoming
from shipway.triggers.store import Delivery, Fact, Store

TESTS = sorted((Path(__file__).parent / "rules").glob("*.yaml"))
INSTALLATION = "production+monitoring"
PROMTOOL = shutil.which("promtool")

needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="no promtool here (apt-get install prometheus)")


def rule_groups() -> list[Object]:
    kinds = [thing for thing in installation(INSTALLATION) if thing["kind"] == "PrometheusRule"]
    return [group for thing in kinds for group in copy.deepcopy(thing["spec"]["groups"])]


GROUPS = rule_groups()
ALERTS = {rule["alert"]: rule for group in GROUPS for rule in group["rules"] if "alert" in rule}


def promtool(folder: Path, groups: list[Object], *arguments: str) -> subprocess.CompletedProcess[str]:
    (folder / "rules.yaml").write_text(yaml.safe_dump({"groups": groups}))
    return subprocess.run([str(PROMTOOL), *arguments], cwd=folder, capture_output=True, text=True)


def unit_tests(folder: Path, groups: list[Object], *files: Path) -> subprocess.CompletedProcess[str]:
    for path in files:
        shutil.copy(path, folder)
    return promtool(folder, groups, "test", "rules", *(path.name for path in files))


# --- The rules --------------------------------------------------------------------------------------------------------


@needs_promtool
def test_the_rules_are_well_formed(tmp_path: Path) -> None:
    done = promtool(tmp_path, GROUPS, "check", "rules", "rules.yaml")
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_the_rules_pass_their_tests(tmp_path: Path, path: Path) -> None:
    done = unit_tests(tmp_path, GROUPS, path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tested_to_fire_and_not_to_fire() -> None:
    fires, silent = set(), set()
    for path in TESTS:
        for test in yaml.safe_load(path.read_text())["tests"]:
            for case in test["alert_rule_test"]:
                (fires if case.get("exp_alerts") else silent).add(case["alertname"])
    assert fires == silent == set(ALERTS)


@needs_promtool
@pytest.mark.parametrize(
    "damage",
    [{"expr": "vector(0) > 1"}, {"expr": 'label_replace(vector(1), "model", "m", "", "")'}, {"for": "5h"}],
    ids=["never", "always", "late"],
)
def test_no_test_of_an_alert_is_one_that_cannot_fail(tmp_path: Path, damage: dict[str, str]) -> None:
    groups = copy.deepcopy(GROUPS)
    for rule in (rule for group in groups for rule in group["rules"] if "alert" in rule):
        rule.update(damage)
    done = unit_tests(tmp_path, groups, *TESTS)
    assert done.returncode != 0
    assert set(re.findall(r"alertname: (\w+)", done.stdout + done.stderr)) == set(ALERTS)


def test_the_thresholds_are_those_of_the_spec() -> None:
    limits = {rule.metric: rule for rule in default_monitor_rules()}
    for alert, metric in (
        ("ShipwayFeatureDrift", "feature.psi"),
        ("ShipwayDriftedShare", "drifted_share"),
        ("ShipwayPredictionDrift", "prediction_psi"),
        ("ShipwayErrorRate", "error_rate"),
    ):
        assert f"> {limits[metric].max:g}" in ALERTS[alert]["expr"], alert
        assert ALERTS[alert]["labels"]["action"] == limits[metric].action, alert
    latency = limits["latency_p99_ms"]
    assert f"{latency.max_ratio:g} * max" in ALERTS["ShipwayLatency"]["expr"]
    assert f"> {latency.floor / 1000:g}" in ALERTS["ShipwayLatency"]["expr"]


def test_the_better_way_of_every_metric_is_known() -> None:
    named_less = set(re.findall(r'metric!~"([^"]*)"', ALERTS["ShipwayPerformanceDrop"]["expr"]))
    less = {metric for metrics in METRICS.values() for metric, more in metrics.items() if not more}
    assert {frozenset(names.split("|")) for names in named_less} == {frozenset(less)}
    compared = set(re.findall(r'metric=~"([^"]*)"', ALERTS["ShipwayPerformanceDrop"]["expr"]))
    assert {frozenset(names.split("|")) for names in compared} == {frozenset(less - {"calibration_error"})}


# --- What they ask for is told ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """Returns the labels of every metric that the model server and the trigger service tell, by its name."""
    folder = tmp_path_factory.mktemp("told")
    texts = [server_tells(folder, task) for task in ("binary", "multiclass", "regression")]
    store = Store(f"sqlite:///{folder}/trigger.db")
    figures = {"drift_share": 0.5, "prediction_psi": 0.3, "checked_timestamp_seconds": 1.0, "drift_psi": {"x": 0.4}}
    figures |= {"performance": {"roc_auc": 0.7}, "performance_baseline": {"roc_auc": 0.8}}
    event = Incoming("shipway", "alert", "1", {}, {}, "drift")
    live = {"latency_p99_ms": 4.0, "error_rate": 0.0}
    facts = [("check", figures), ("live", {}), ("baseline 7", live)]
    store.add([Delivery(event, [Fact("m", kind, "7", data, 1) for kind, data in facts])])
    telemetry = exposition.Telemetry()
    telemetry.alerts("shipway", "stored")
    telemetry.decided("retrain", "started")
    texts.append(exposition.expose(telemetry, store)[0].decode())
    store.close()
    found: dict[str, set[str]] = {}
    for text in texts:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                found.setdefault(sample.name, set()).update(sample.labels)
    return found


def server_tells(folder: Path, task: str) -> str:
    telemetry = Telemetry("flights", log=PredictionLog(str(folder / task)))
    try:
        draw = np.random.default_rng(0)
        counter = telemetry.revision("v1", "1", info(task), (0.0, 1.0) if task == "regression" else ())
        counter.answered(0.001, prediction(draw, 3, task), rows(draw, 3), "")
        return telemetry.exposition()[0].decode()
    finally:
        telemetry.close()


def asked(expressions: list[str]) -> dict[str, set[str]]:
    """Returns the labels that expressions select by, by metric; those of recorded metrics are their own."""
    found: dict[str, set[str]] = {}
    for text in expressions:
        for metric, selector in re.findall(r"(?<![\w:])(shipway_\w+)(?:\{([^}]*)\})?", text):
            names = re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selector)
            found.setdefault(metric, set()).update(names)
    return found


def complaints(expressions: list[str], told: dict[str, set[str]]) -> list[str]:
    # Prometheus adds the namespace; `le` and the rest are the metrics' own.
    found = []
    for metric, names in asked(expressions).items():
        if metric not in told:
            found.append(f"nobody tells {metric}")
        else:
            found += [f"{metric} has no label {name}" for name in names - told[metric] - {"namespace"}]
    return found


def panels() -> list[dict[str, Any]]:
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def dashboard() -> dict[str, Any]:
    data = named(installation(INSTALLATION), "ConfigMap", "shipway-dashboard")["data"]
    (text,) = data.values()
    found: dict[str, Any] = json.loads(text)
    return found


QUERIES = [target["expr"] for panel in panels() for target in panel["targets"]]


def test_the_rules_ask_for_what_is_told(told: dict[str, set[str]]) -> None:
    expressions = [rule["expr"] for group in GROUPS for rule in group["rules"]]
    assert len(asked(expressions)) > 10
    assert complaints(expressions, told) == []


def test_a_slip_in_a_name_is_seen(told: dict[str, set[str]]) -> None:
    assert complaints(['rate(shipway_request_total{outcome="error"}[5m])'], told) == [
        "nobody tells shipway_request_total"
    ]
    assert complaints(['shipway_requests_total{result="error"}'], told) == [
        "shipway_requests_total has no label result"
    ]


# --- The dashboard ----------------------------------------------------------------------------------------------------


def test_the_dashboard_asks_for_what_is_told(told: dict[str, set[str]]) -> None:
    assert complaints(QUERIES, told) == []
    shown = set(asked(QUERIES))
    # Requests, errors, latency with its baseline, drift, versions.
    assert {
        "shipway_requests_total",
        "shipway_request_seconds_bucket",
        "shipway_drift_psi",
        "shipway_live_info",
    } <= shown
    assert {"shipway_baseline_latency_p99_seconds", "shipway_baseline_error_rate"} <= shown


@needs_promtool
def test_the_dashboards_queries_are_promql(tmp_path: Path) -> None:
    fixed = [
        query.replace("$__rate_interval", "5m").replace("$namespace", "ns").replace("$model", "m") for query in QUERIES
    ]
    assert not any("$" in query for query in fixed)
    rules = [{"record": f"panel:{number}", "expr": query} for number, query in enumerate(fixed)]
    done = promtool(tmp_path, [{"name": "panels", "rules": rules}], "check", "rules", "rules.yaml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_dashboard_is_one_that_grafana_loads() -> None:
    found = dashboard()
    config = named(installation(INSTALLATION), "ConfigMap", "shipway-dashboard")
    assert config["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert (found["uid"], found["title"]) == ("shipway", "Shipway")
    ids = [panel["id"] for panel in found["panels"]]
    assert len(ids) == len(set(ids))
    variables = {variable["name"] for variable in found["templating"]["list"]}
    assert set(re.findall(r"\$(\w+)", " ".join(QUERIES))) - {"__rate_interval"} <= variables
    taken: set[tuple[int, int]] = set()
    for panel in found["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert max(x for x, _ in cells) < 24, panel["title"]
        assert not cells & taken, panel["title"]
        taken |= cells
        if panel["type"] != "row":
            assert panel["title"]
            assert panel["description"]
            references = [target["refId"] for target in panel["targets"]]
            assert len(references) == len(set(references))
