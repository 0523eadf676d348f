import numpy as np
import polars as pl
import pytest

from shipway.endpoints.window import Window
from shipway.lineage.documents import Evaluation, MonitorFindings, Statistics
from shipway.model.package import PackageInfo
from shipway.model.profile import Profiler, describe_predictions
from shipway.model.scoring import Scorer
from shipway.model.signature import InputColumn
from shipway.model.statistics import describe_categories, describe_numbers
from shipway.monitor.gather import Watched
from shipway.monitor.measure import measure
from shipway.monitor.observation import Observation
from shipway.monitor.performance import Performance, performance_of
from shipway.spec import EvaluateSection, MonitorSection
from shipway.spec.watch import MonitorRule

DRAW = np.random.default_rng(0)
INFO = PackageInfo(
    name="m", task="binary", label="late", classes=["no", "yes"], features=[], trainer="sklearn", onnx=False,
    onnx_note="", libraries={},
    inputs=[
        InputColumn(name="size", kind="number", nullable=True),
        InputColumn(name="carrier", kind="category", nullable=True),
    ],
)  # fmt: skip
COLUMNS = {
    "size": describe_numbers(np.sort(DRAW.normal(size=5_000))),
    "carrier": describe_categories({"AA": 3_000, "UA": 2_000}),
}
WATCHED = Watched(
    info=INFO,
    statistics=Statistics(rows=5_000, label=COLUMNS["carrier"], columns=COLUMNS),
    predictions=describe_predictions("binary", ["no", "yes"], DRAW.dirichlet([3, 1], 2_000)),
)
EVALUATION = Evaluation(
    task="binary", model_digest="sha256:m", data_version="v", rows=900,
    metrics={"roc_auc": 0.9, "accuracy": 0.95, "latency_p99_ms": 3.0}, details={"slice_edges": {"size": [-1.0, 1.0]}},
)  # fmt: skip
SETTINGS = EvaluateSection(slices=["carrier", "size"])


def rows(count, move=0.0):
    draw = np.random.default_rng(1)
    return pl.DataFrame(
        {"size": draw.normal(move, 1, count), "carrier": draw.choice(["AA", "UA"], count, p=[0.6, 0.4])}
    )


def profile(frame, odds):
    profiler = Profiler(WATCHED.statistics, INFO, WATCHED.predictions)
    profiler.update(frame, odds)
    return profiler.profile()


def observation(count, **changes):
    values = {
        "name": "m", "version": "3", "digest": "sha256:m", "since": "2026-01-01T00:00:00+00:00",
        "until": "2026-01-02T00:00:00+00:00", "source": "log", "place": "log", "rows": count, "evaluation": EVALUATION,
    }  # fmt: skip
    return Observation(**{**values, **changes})


def labelled(count):
    draw = np.random.default_rng(2)
    probability = draw.random(count)
    return pl.DataFrame(
        {
            "truth": (draw.random(count) < probability).astype(np.int64),
            "outputs": np.stack([1 - probability, probability], axis=1).tolist(),
            "slice.carrier": draw.choice(["AA", "UA"], count),
            "slice.size": draw.normal(size=count),
        }
    )


def measured(count=3_000, move=0.0, labels=None, section=None, past=(), **changes):
    odds = np.random.default_rng(3).dirichlet([3, 1 + 4 * move], count)
    return measure(
        observation(count, **changes), WATCHED, profile(rows(count, move), odds), labels, past,
        section or MonitorSection(window="24h"), SETTINGS,
    )  # fmt: skip


def test_a_quiet_day_is_ok(tmp_path):
    found = measured()
    assert (found.decision, found.drifted, found.drifted_share) == ("ok", [], 0.0)
    assert 0 < found.prediction.psi < 0.05
    assert (found.model, found.version, found.rows, found.source) == ("m", "3", 3_000, "log")
    assert (found.performance, found.slices, found.labelled_rows, found.service) == ({}, [], 0, {})
    assert [result.rule for result in found.rules if result.value is None] == [
        "error_rate <= 0.01", "latency_p99_ms <= 2 x baseline, or 5",
    ]  # fmt: skip
    found.write(tmp_path / "findings.json")
    assert MonitorFindings.model_validate_json((tmp_path / "findings.json").read_text()) == found


def test_a_shift_is_found_and_retrains():
    found = measured(move=1.0)
    assert found.decision == "retrain"
    assert (found.drifted, found.drifted_share) == (["size"], 0.5)
    assert list(found.measures) == ["size", "carrier"]
    assert found.measures["size"].exceeded == ["psi"]
    assert found.measures["size"].wasserstein == pytest.approx(1, abs=0.1)
    assert any(reason.startswith("prediction_psi <= 0.2: found") for reason in found.reasons)


def test_too_few_rows_measure_but_conclude_nothing():
    found = measured(count=400, move=1.0, notes=["a note"])
    assert (found.decision, found.drifted, found.drifted_share) == ("ok", [], None)
    assert found.measures["size"].psi > 0.2
    assert not found.gauges()["drift_psi"]
    assert found.reasons[0] == "a note"
    assert measured(count=0).decision == "ok"


def test_performance_is_that_of_evaluate_with_the_same_slices():
    labels = labelled(2_000)
    found = measured(labels=labels)
    truth, odds = labels["truth"].to_numpy(), np.array(labels["outputs"].to_list())
    expected = Scorer("binary", truth, odds).metrics()
    assert {name: pair.value for name, pair in found.performance.items()} == expected
    assert found.performance["roc_auc"].baseline == 0.9
    assert found.performance["f1"].baseline is None
    assert "latency_p99_ms" not in found.performance
    assert found.labelled_rows == 2_000
    names = [(part.column, part.value) for part in found.slices]
    assert names == [("carrier", "AA"), ("carrier", "UA"), ("size", "<= -1"), ("size", "(-1, 1]"), ("size", "> 1")]
    assert sum(part.rows for part in found.slices if part.column == "size") == 2_000


def test_a_drop_of_performance_acts():
    section = MonitorSection(rules=[MonitorRule(metric="performance.accuracy", max_drop=0.05, action="retrain")])
    assert measured(labels=labelled(2_000), section=section).decision == "retrain"
    assert measured(labels=labelled(100), section=section).decision == "ok"
    assert measured(labels=labelled(2_000), section=section, evaluation=None).decision == "ok"


def test_errors_of_the_service_roll_back():
    window = Window(revision="3", since=0, until=1, requests=400, errors=40)
    found = measured(service=window, baseline={"requests": 100, "error_rate": 0.0})
    assert found.decision == "rollback"
    assert (found.service["error_rate"].value, found.service["error_rate"].baseline) == (0.1, 0.0)


def test_labels_alone_are_enough_for_performance():
    found = performance_of(INFO, labelled(300).select("truth", "outputs"), None, SETTINGS)
    assert found.metrics["roc_auc"].baseline is None
    assert found.slices == []
    for nothing in (labelled(0), None):
        assert performance_of(INFO, nothing, EVALUATION, SETTINGS) == Performance()


def test_a_column_that_cannot_be_sliced_by_fails_no_check():
    labels = labelled(300).with_columns(pl.Series("slice.carrier", [f"c{place}" for place in range(300)]))
    found = measured(labels=labels)
    assert {part.column for part in found.slices} == {"size"}
    assert "no slices by carrier: evaluate.slices: column 'carrier' has 300 distinct values" in found.reasons[0]
    text = labelled(300).with_columns(pl.Series("slice.size", ["small", "large"] * 150))
    assert {part.value for part in measured(labels=text).slices} == {"AA", "UA", "small", "large"}


def test_whole_numbers_have_one_name_as_floats_too():
    labels = labelled(300).with_columns(pl.Series("slice.carrier", [1.0, 2.0, None] * 100))
    assert [part.value for part in measured(labels=labels).slices][:3] == ["1", "2", "missing"]


def test_regression_is_scored_by_its_values():
    info = INFO.model_copy(update={"task": "regression", "classes": []})
    frame = pl.DataFrame({"truth": [1.0, 2.0, 4.0], "outputs": [[1.0], [2.0], [3.0]]})
    found = performance_of(info, frame, None, EvaluateSection(slices=[]))
    assert found.metrics["mae"].value == pytest.approx(1 / 3)
