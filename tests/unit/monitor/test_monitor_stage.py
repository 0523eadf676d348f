"""From an observation to findings, pages and the history of checks."""

import importlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest
from monitor_world import HOUR, NAME, NOW, UNTIL, World, data_of, parcels, register_parcels

from shipway.endpoints.client import call, json_bytes
from shipway.endpoints.local import LocalEndpoint
from shipway.endpoints.protocol import revision_id
from shipway.errors import InputError
from shipway.lineage.documents import MonitorFindings, read_document
from shipway.lineage.steps import read_record
from shipway.model.promotion import RegistryLedger
from shipway.monitor.component import monitor as monitor_component
from shipway.monitor.component import observe as observe_component
from shipway.monitor.observation import HISTORY, LABELLED, OBSERVATION, PROFILE, STATISTICS, iso
from shipway.spec import EvaluateSection, dump_section
from shipway.spec.metrics import Task

RULES = [
    {"metric": "drifted_share", "max": 0.3, "action": "retrain"},
    {"metric": "prediction_psi", "max": 0.2, "checks": 3, "action": "rollback"},
    {"metric": "performance.roc_auc", "max_drop": 0.05, "action": "alert"},
]


def check(world: World, hours: float = 0.0, slices: list[str] | None = None, **settings: Any) -> MonitorFindings:
    settings = {"evidently": False, "rules": RULES, "least_rows": 100, **settings}
    world.observe(iso(NOW + hours * HOUR), slices=slices, **settings)
    return world.monitor(slices, **settings).findings


def test_no_drift_is_ok_and_a_shift_is_found(world: World) -> None:
    same, heavy = parcels(400, 80), parcels(400, 81, shift=2.0, depots="ABX")
    world.serve(same, NOW - HOUR)
    world.serve(heavy, NOW + 5 * HOUR)
    found = check(world, window="4h")
    assert (found.decision, found.drifted, found.rows) == ("ok", [], 400)
    labels = {"uri": world.labels(heavy)}
    found = check(world, 6, ["depot"], window="4h", labels=labels)
    assert found.decision == "retrain"
    assert set(found.drifted) == {"weight", "depot"}
    assert found.measures["depot"].new_values == {"X": heavy.filter(pl.col("depot") == "X").height}
    assert found.labelled_rows == 400
    assert found.performance["roc_auc"].baseline == pytest.approx(0.85, abs=0.05)
    assert {part.value for part in found.slices} == {"A", "B", "X"}
    assert read_document(MonitorFindings, world.path / "findings.json") == found
    assert json.loads((world.path / "findings.json").read_text())["until"] == iso(NOW + 6 * HOUR)


@pytest.mark.parametrize(("task", "metric"), [("multiclass", "accuracy"), ("regression", "rmse")])
def test_other_tasks_are_watched_too(
    tmp_path: Path, registered: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch, task: Task, metric: str
) -> None:
    state, _ = registered
    monkeypatch.setenv("SHIPWAY_STATE", str(state))
    monkeypatch.setenv("SHIPWAY_PROJECT", str(state.parent))
    release = register_parcels(state.parent, f"parcels-{task}", task)
    world = World(tmp_path, release, state, data_of(task))
    rows = parcels(600, 84, shift=3.0)
    world.serve(rows, NOW - HOUR, size=10)
    keys = rows.with_columns(pl.col("parcel") // 10 * 10)
    labels = {"uri": world.labels(keys, row=pl.Series(range(600)) % 10), "key": ["parcel", "row"]}
    rules = [{"metric": "prediction_psi", "max": 0.2, "action": "retrain"}]
    found = check(world, labels=labels, slices=["depot"], rules=rules)
    assert found.decision == "retrain"
    assert found.labelled_rows == 600
    prediction = world.package.predict(rows)
    if task == "multiclass":
        labels_now = [world.package.info.classes[place] for place in prediction.argmax(axis=1)]
        expected = (rows["size"] == pl.Series(labels_now)).mean()
    else:
        expected = ((prediction[:, 0] - rows["cost"].to_numpy()) ** 2).mean() ** 0.5
    assert found.performance[metric].value == pytest.approx(expected, abs=1e-4)
    assert found.performance[metric].baseline is not None
    assert len(found.slices) == 3
    assert "Wasserstein" in world.page()


def test_few_rows_draw_no_conclusion(world: World) -> None:
    world.serve(parcels(90, 81, shift=5.0), NOW - HOUR)
    found = check(world)
    assert (found.decision, found.drifted_share) == ("ok", None)
    assert any("90 rows, monitor.least_rows is 100" in reason for reason in found.reasons)


def test_a_rule_waits_for_its_checks_and_a_check_counts_once(world: World) -> None:
    for hour in range(4):
        world.serve(parcels(200, 82 + hour, shift=2.0), NOW + (hour - 0.9) * HOUR)
    settings: dict[str, Any] = {"window": "1h", "rules": RULES[1:2]}
    decisions = []
    for hour in range(4):
        # Each step is made twice, as a retried one is.
        check(world, hour, **settings)
        decisions.append(check(world, hour, **settings).decision)
    assert decisions == ["ok", "ok", "rollback", "rollback"]
    kept = sorted((world.path / "history" / NAME).iterdir())
    assert [file.name for file in kept] == [f"20270115T{8 + hour:02}0000Z-v1.json" for hour in range(4)]
    # An earlier window is judged by what was known before it.
    assert check(world, 1, **settings).rules[0].in_a_row == 2
    assert "4 checks" not in world.page()
    assert "2 checks, 2027-01-15 to 2027-01-15" in world.page()


def test_history_is_bounded_and_survives_a_damaged_file(world: World) -> None:
    world.serve(parcels(200, 82, shift=2.0), NOW - HOUR)
    for hour in range(4):
        check(world, hour, trend=3)
    assert len(world.file(HISTORY)) == 2
    # A rule may count further back than the page shows.
    far: dict[str, Any] = {"trend": 2, "rules": [{"metric": "rows", "min": 1, "checks": 4}], "evidently": False}
    world.observe(iso(NOW + 4 * HOUR), **far)
    world.monitor(**far)
    assert len(world.file(HISTORY)) == 3
    assert "2 checks, 2027" in world.page()
    (world.path / "history" / NAME / "20270115T120000Z-v1.json").unlink()
    kept = sorted((world.path / "history" / NAME).iterdir())
    kept[-1].write_text('{"half": ')
    (kept[0].parent / "notes.txt").write_text("not ours")
    found = check(world, 5)
    assert any(kept[-1].name in reason and "no past check" in reason for reason in found.reasons)
    assert len(world.file(HISTORY)) == 3


def test_history_on_another_filesystem(world: World) -> None:
    world.serve(parcels(200, 82, shift=2.0), NOW - HOUR)
    history = f"memory://{world.path.name}/checks"
    for hour in (0, 0, 1):
        check(world, hour, history=history, rules=RULES[1:2])
    assert [past["rules"][0]["in_a_row"] for past in world.file(HISTORY)] == [1]


def test_in_a_container_without_a_lasting_place_nothing_is_kept(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.serve(parcels(200, 82), NOW - HOUR)
    world.observe(history=None, evidently=False)
    assert world.monitor(history=None, evidently=False).findings.decision == "ok"
    monkeypatch.setenv("SHIPWAY_IMAGE", "sha256:0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{world.state / 'mlflow.db'}")
    monkeypatch.delenv("SHIPWAY_STATE")
    monkeypatch.chdir(world.path)
    seen = world.observe(history=None, evidently=False)
    assert any("past checks are not kept" in note for note in seen.notes)
    world.monitor(history=None, evidently=False)
    assert not (world.path / ".shipway" / "monitoring").exists()


def test_an_observation_that_is_none_is_refused(world: World) -> None:
    world.serve(parcels(200, 82), NOW - HOUR)
    world.observe()
    folder = world.path / "observation"
    for name in (PROFILE, STATISTICS, HISTORY, OBSERVATION):
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(InputError, match="observation"):
            world.monitor()
        (folder / name).unlink()
        with pytest.raises(InputError, match="observation"):
            world.monitor()
        (folder / name).write_bytes(whole)
    (folder / LABELLED).write_bytes(b"PAR1")
    with pytest.raises(InputError, match="damaged observation"):
        world.monitor()
    (folder / LABELLED).unlink()
    seen = json.loads((folder / OBSERVATION).read_text())
    (folder / OBSERVATION).write_text(json.dumps(seen | {"name": "letters"}))
    with pytest.raises(InputError, match="an observation of 'letters', expected one of 'parcels'"):
        world.monitor()


def test_evidently_compares_a_sample_with_rebuilt_rows(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DO_NOT_TRACK", "")
    monkeypatch.delenv("DO_NOT_TRACK")
    rows = parcels(600, 83, shift=2.0).with_columns(
        depot=pl.when(pl.col("parcel") % 3 == 0).then(pl.lit("</script><b>x")).otherwise("depot")
    )
    world.serve(rows, NOW - HOUR)
    world.observe(sample=500)
    found = world.monitor(sample=500)
    text = world.page("drift.html")
    assert not importlib.import_module("evidently.telemetry").event_logger.is_enabled()
    assert "500 rows, an even sample of the window" in text
    assert "rebuilt from the statistics of the training part" in text
    assert "</script><b>x" not in text
    assert "depot" in text
    assert set(found.reports) == {"Monitoring", "Drift (Evidently)"}
    world.monitor(sample=500, evidently=False)
    assert "evidently: false" in world.page("drift.html")


def test_a_report_that_evidently_cannot_make_loses_no_finding(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    world.serve(parcels(200, 83, shift=2.0), NOW - HOUR)
    world.observe()
    monkeypatch.setitem(sys.modules, "evidently", None)
    assert world.monitor(least_rows=100).findings.decision == "retrain"
    assert "Evidently could not make its report: ModuleNotFoundError" in world.page("drift.html")
    assert "no report by Evidently" in capsys.readouterr().err


def test_the_components_leave_their_records(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.serve(parcels(200, 83, shift=2.0), NOW - HOUR)
    monkeypatch.setattr(sys, "argv", ["step"])

    def artifact(name: str) -> Any:
        path = world.path / name
        logged: dict[str, float] = {}
        return SimpleNamespace(path=str(path), metadata={}, logged=logged, log_metric=logged.__setitem__)

    section = world.section(evidently=False)
    evaluate = dump_section(EvaluateSection(slices=[]))
    observation, metrics = artifact("seen/observation"), artifact("metrics")
    observe_component.python_func(
        release=artifact("release.json"),
        observation=observation,
        name=NAME,
        monitor=section,
        endpoint=world.endpoint,
        data=dump_section(world.data),
        evaluate=evaluate,
        until=UNTIL,
    )
    assert observation.metadata["rows"] == 200
    decision = monitor_component.python_func(
        observation=observation,
        findings=artifact("checked/findings"),
        metrics=metrics,
        report=artifact("checked/report.html"),
        drift=artifact("checked/drift.html"),
        name=NAME,
        monitor=section,
        evaluate=evaluate,
    )
    assert decision == "ok"
    assert metrics.logged["psi.weight"] > 0.2
    record = read_record(world.path / "checked")
    assert record is not None
    assert (record.status, record.facts["decision"]) == ("succeeded", "ok")
    assert set(record.reports) == {"Monitoring", "Drift (Evidently)"}


@pytest.mark.usefixtures("ended")
@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks for processes in /proc")
def test_the_service_is_compared_with_the_time_after_its_rollout(world: World) -> None:
    endpoint = LocalEndpoint(NAME, environment="production", section=world.local)
    revision = revision_id(world.release.version, world.release.digest)
    endpoint.stage(world.release)
    url = endpoint.shift({revision: 100}).url
    baseline = {"requests": 500, "errors": 0, "error_rate": 0.0, "p50_ms": 0.1, "p95_ms": 0.2, "p99_ms": 0.3}
    RegistryLedger().baseline(world.release, baseline)
    rows = parcels(30, 90)
    for row in rows.select(world.inputs).to_dicts():
        answer = call("POST", f"{url}/v1/models/{NAME}:predict", json_bytes({"instances": [row]}))
        assert answer.status == 200
    seen = world.observe(until="")
    assert seen.service is not None
    assert (seen.service.requests, seen.service.errors) == (30, 0)
    found = world.monitor(evidently=False).findings
    assert found.service["requests"].value == 30
    assert found.service["latency_p99_ms"].baseline == 0.3
    # The server's own log says the same once it is ended, which writes what waits.
    endpoint.stop()
    assert world.observe(until="").rows == 30
