"""Evaluation of whole datasets, with a stand-in model and with a real package."""

import hashlib
import json
import re
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from shipway.dataset import DatasetWriter, read_info
from shipway.errors import DigestMismatchError, InputError, ShipwayError
from shipway.evaluate.evaluate import evaluate, evaluate_package, metric_values
from shipway.evaluate.page import evaluation_page
from shipway.lineage.documents import Evaluation, read_document
from shipway.model.signature import InputColumn, RowReader, frame_from_columns
from shipway.spec import DataSection, EvaluateSection


class StandIn:
    """A model whose prediction is any function of a frame."""

    def __init__(self, function, inputs, task="binary", classes=(False, True), label="late", digest="sha256:one"):
        self.function = function
        self.digest = digest
        self.info = SimpleNamespace(task=task, classes=list(classes), label=label, inputs=inputs)

    def predict(self, frame):
        return self.function(frame)

    def predict_columns(self, columns):
        return self.predict(frame_from_columns(self.info.inputs, columns))

    def columns_from_rows(self, rows):
        return RowReader(self.info.inputs).read(rows)


X = InputColumn(name="x", kind="number", nullable=True)
CARRIER = InputColumn(name="carrier", kind="category", nullable=True)


def logistic(frame, slope=1.0):
    score = 1 / (1 + np.exp(-slope * frame["x"].fill_null(0).to_numpy()))
    return np.column_stack([1 - score, score])


def flights(rows=600, seed=0):
    random = np.random.default_rng(seed)
    x = random.normal(size=rows)
    late = x + random.normal(size=rows) > 0
    carrier = random.choice(["AA", "UA", None], rows, p=[0.5, 0.4, 0.1])
    return pl.DataFrame({"x": x, "carrier": carrier, "distance": random.integers(100, 2000, rows), "late": late})


def dataset(folder, frame, part_rows=250):
    with DatasetWriter(folder, part_rows=part_rows) as writer:
        writer.write(frame)
    return folder


def settings(**values):
    return EvaluateSection(**{"slices": [], "latency_rows": 5, **values})


DATA = DataSection(uri="x", label="late")


def test_binary_evaluation_has_every_metric_slice_and_drawing(tmp_path):
    frame = flights()
    test = dataset(tmp_path / "test", frame)
    result = evaluate(
        StandIn(logistic, [X]), test, settings(slices=["carrier", "distance"], min_slice_rows=20), DATA, None
    )
    assert result.rows == 600
    assert result.model_digest == "sha256:one"
    assert result.data_version == read_info(test).version
    assert {"roc_auc", "pr_auc", "f1", "precision", "recall", "accuracy", "log_loss", "calibration_error"} <= set(
        result.metrics
    )
    assert 0 < result.metrics["latency_p50_ms"] <= result.metrics["latency_p95_ms"] <= result.metrics["latency_p99_ms"]
    by_carrier = {part.value: part for part in result.slices if part.column == "carrier"}
    assert list(by_carrier) == ["AA", "UA", "missing"]
    for value, part in by_carrier.items():
        rows = frame.filter(pl.col("carrier").eq_missing(None if value == "missing" else value))
        assert part.rows == rows.height
        alone = evaluate(StandIn(logistic, [X]), dataset(tmp_path / value, rows), settings(), DATA)
        expected = {name: number for name, number in alone.metrics.items() if not name.startswith("latency")}
        assert part.metrics == pytest.approx(expected, abs=1e-12)
    groups = [part for part in result.slices if part.column == "distance"]
    assert len(groups) == 5
    assert all(100 <= part.rows <= 140 for part in groups)
    assert np.sum(result.details["confusion"]) == 600
    assert sum(result.details["calibration"]["rows"]) == 600
    result.write(tmp_path / "evaluation.json")
    assert read_document(Evaluation, tmp_path / "evaluation.json").content_digest() == result.content_digest()


def test_the_batches_do_not_matter_and_only_the_latency_changes(tmp_path):
    frame = flights()
    package = StandIn(logistic, [X])
    first = evaluate(package, dataset(tmp_path / "one", frame), settings(slices=["carrier"]), DATA)
    second = evaluate(package, dataset(tmp_path / "two", frame, part_rows=7), settings(slices=["carrier"]), DATA)
    for result in (first, second):
        for name in [name for name in result.metrics if name.startswith("latency")]:
            del result.metrics[name]
    assert first == second


def test_rows_without_label_are_dropped_and_counted(tmp_path):
    frame = flights().with_columns(late=pl.when(pl.int_range(pl.len()) < 40).then(None).otherwise("late"))
    whole = evaluate(StandIn(logistic, [X]), dataset(tmp_path / "a", frame), settings(slices=["carrier"]), DATA)
    rest = evaluate(StandIn(logistic, [X]), dataset(tmp_path / "b", frame[40:]), settings(slices=["carrier"]), DATA)
    assert whole.details["dropped_rows"] == 40
    assert whole.metrics["roc_auc"] == rest.metrics["roc_auc"]
    assert whole.slices == rest.slices


@pytest.mark.parametrize("frame", [flights().head(0), flights(5).with_columns(late=pl.lit(None, pl.Boolean))])
def test_nothing_to_evaluate_on_is_refused(tmp_path, frame):
    with pytest.raises(InputError, match="no row to evaluate on"):
        evaluate(StandIn(logistic, [X]), dataset(tmp_path / "t", frame), settings(), DATA)


def test_labels_unseen_in_training_are_named(tmp_path):
    frame = flights(50).with_columns(late=pl.Series(["no", "yes", "perhaps", "never", "no"] * 10))
    package = StandIn(logistic, [X], classes=["no", "yes"])
    with pytest.raises(InputError, match=r"'late'.*'never', 'perhaps'; the model knows 'no', 'yes'"):
        evaluate(package, dataset(tmp_path / "t", frame), settings(), DATA)


@pytest.mark.parametrize("kind", [pl.Boolean, pl.Int8, pl.Float64])
def test_the_labels_dtype_may_differ_from_trainings(tmp_path, kind):
    frame = flights().with_columns(pl.col("late").cast(kind))
    expected = evaluate(StandIn(logistic, [X]), dataset(tmp_path / "a", flights()), settings(), DATA)
    for number, classes in enumerate([[False, True], [0, 1]]):
        test = dataset(tmp_path / str(number), frame)
        found = evaluate(StandIn(logistic, [X], classes=classes), test, settings(), DATA)
        assert found.metrics["roc_auc"] == expected.metrics["roc_auc"]


def test_categorical_labels_and_slices(tmp_path):
    frame = flights().with_columns(
        pl.col("late").cast(pl.String).cast(pl.Categorical), pl.col("carrier").cast(pl.Categorical)
    )
    package = StandIn(logistic, [X], classes=["false", "true"])
    result = evaluate(package, dataset(tmp_path / "t", frame), settings(slices=["carrier"]), DATA)
    assert [part.value for part in result.slices] == ["AA", "UA", "missing"]


def test_unknown_slice_columns_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"no column airport; it has x, carrier, distance, late"):
        evaluate(
            StandIn(logistic, [X]), dataset(tmp_path / "t", flights()), settings(slices=["carrier", "airport"]), DATA
        )


def test_slices_with_too_many_values_are_refused(tmp_path):
    frame = flights().with_columns(tail=pl.int_range(pl.len()).cast(pl.String))
    with pytest.raises(InputError, match="'tail' has 600 distinct values"):
        evaluate(StandIn(logistic, [X]), dataset(tmp_path / "t", frame), settings(slices=["tail"]), DATA)


def test_odd_slice_columns(tmp_path):
    frame = flights().with_columns(
        empty=pl.lit(None, pl.String),
        word=pl.when(pl.int_range(pl.len()) < 300).then(pl.lit("missing")),
        few=pl.int_range(pl.len()) % 3,
        mostly=pl.when(pl.int_range(pl.len()) < 550).then(0.0).otherwise(pl.int_range(pl.len()).cast(pl.Float64)),
        day=pl.date(2013, 10, 1 + pl.int_range(pl.len()) % 2),
    )
    columns = ["empty", "word", "few", "mostly", "day", "late"]
    result = evaluate(StandIn(logistic, [X]), dataset(tmp_path / "t", frame), settings(slices=columns), DATA)
    found = {name: [(part.value, part.rows) for part in result.slices if part.column == name] for name in columns}
    assert found["empty"] == [("missing", 600)]
    assert found["word"] == [("missing", 300), ("missing (null)", 300)]
    assert found["few"] == [("0", 200), ("1", 200), ("2", 200)]
    assert found["mostly"] == [("<= 0", 550), ("> 0", 50)]
    assert found["day"] == [("2013-10-01", 300), ("2013-10-02", 300)]
    assert [value for value, _ in found["late"]] == ["false", "true"]
    assert all("roc_auc" not in part.metrics for part in result.slices if part.column == "late")


def test_missing_model_inputs_are_named(tmp_path):
    package = StandIn(logistic, [X, InputColumn(name="wind", kind="number", nullable=True)])
    with pytest.raises(InputError, match="wind"):
        evaluate(package, dataset(tmp_path / "t", flights()), settings(), DATA)


def test_predictions_that_are_no_numbers_are_refused(tmp_path):
    def broken(frame):
        prediction = logistic(frame)
        prediction[3] = np.nan
        return prediction

    with pytest.raises(ShipwayError, match="the model gives NaN or infinite predictions for 1 of the 250 test rows"):
        evaluate(StandIn(broken, [X]), dataset(tmp_path / "t", flights()), settings(), DATA)


def test_multiclass_and_regression(tmp_path):
    random = np.random.default_rng(0)
    frame = pl.DataFrame({"x": random.normal(size=300), "late": random.choice(["a", "b", "c"], 300)})
    package = StandIn(lambda part: random.dirichlet(np.ones(3), part.height), [X], "multiclass", ["a", "b", "c"])
    result = evaluate(package, dataset(tmp_path / "m", frame), settings(), DATA)
    assert {"roc_auc", "pr_auc", "f1", "log_loss"} <= set(result.metrics)
    assert "<svg" not in evaluation_page(result)
    frame = frame.with_columns(late=pl.col("x") * 2)
    package = StandIn(lambda part: part["x"].to_numpy()[:, None], [X], "regression", [])
    result = evaluate(package, dataset(tmp_path / "r", frame), settings(), DATA)
    assert {"rmse", "mae", "r2"} <= set(result.metrics)
    assert "confusion" not in result.details
    assert "Residuals" in evaluation_page(result)
    with pytest.raises(InputError, match="regression needs numbers"):
        evaluate(package, dataset(tmp_path / "s", frame.with_columns(late=pl.lit("much"))), settings(), DATA)


class TestChampion:
    def compare(self, tmp_path, champion, **package):
        challenger = StandIn(logistic, [X], **package)
        test = dataset(tmp_path / "test", flights())
        return evaluate(challenger, test, settings(), DATA, champion=champion, champion_version="3")

    def test_is_scored_on_the_same_rows(self, tmp_path):
        old = StandIn(lambda frame: 1 - logistic(frame), [X], digest="sha256:old")
        result = self.compare(tmp_path, old).champion
        assert (result.version, result.digest) == ("3", "sha256:old")
        assert result.metrics["roc_auc"] < 0.5
        assert result.difference["roc_auc"] > 0
        assert result.worse_by["roc_auc"] < 0

    def test_may_order_its_classes_otherwise(self, tmp_path):
        old = StandIn(lambda frame: logistic(frame)[:, ::-1], [X], classes=[True, False], digest="sha256:old")
        result = self.compare(tmp_path, old)
        assert result.champion.difference["roc_auc"] == 0

    def test_that_is_the_challenger_itself_is_not_worse(self, tmp_path):
        same = StandIn(logistic, [X])
        assert set(self.compare(tmp_path, same).champion.worse_by.values()) == {0.0}

    @pytest.mark.parametrize(
        ("champion", "why"),
        [
            (StandIn(logistic, [InputColumn(name="gone", kind="number", nullable=True)], digest="o"), "gone"),
            (StandIn(logistic, [X], classes=["no", "yes"], digest="o"), "its classes are"),
            (StandIn(logistic, [X], task="multiclass", digest="o"), "it is a multiclass model"),
            (StandIn(logistic, [X], label="delay", digest="o"), "it predicts 'delay'"),
            (StandIn(lambda frame: logistic(frame) * np.nan, [X], digest="o"), "NaN"),
        ],
    )
    def test_that_cannot_score_these_rows_is_refused_with_the_reason(self, tmp_path, champion, why):
        with pytest.raises(ShipwayError, match=f"champion version 3 cannot score the test rows: .*{why}"):
            self.compare(tmp_path, champion)


def test_flat_metrics_hold_at_most_fifty_slices(tmp_path):
    frame = flights(3000).with_columns(code=pl.int_range(pl.len()) % 80)
    frame = frame.with_columns(pl.col("code").cast(pl.String))
    result = evaluate(StandIn(logistic, [X]), dataset(tmp_path / "t", frame), settings(slices=["code"]), DATA)
    values = metric_values(result)
    slices = [name for name in values if name.startswith("slice.")]
    assert len(slices) == 50
    assert "slice.code=0.roc_auc" in slices
    assert all(np.isfinite(value) for value in values.values())


def test_the_page_escapes_and_stands_alone(tmp_path):
    frame = flights().with_columns(carrier=pl.lit("<script>alert(1)</script>"))
    old = StandIn(lambda part: 1 - logistic(part), [X], digest="sha256:old")
    test = dataset(tmp_path / "t", frame)
    html = evaluation_page(evaluate(StandIn(logistic, [X]), test, settings(slices=["carrier"]), DATA, old, "3"))
    assert "<script" not in html
    assert not re.search(r"(src|href)=", html)
    for title in ("Metrics", "Latency", "Confusion matrix", "ROC curve", "Calibration", "Slices", "champion 3"):
        assert title in html


def real_package(folder, frame, seed=0):
    from sklearn.linear_model import LogisticRegression

    from shipway.lineage.documents import CategoryStatistics, Statistics
    from shipway.model.package import build_package
    from shipway.model.preprocessor import ModelFacts
    from shipway.model.sklearn_estimator import SklearnEstimator
    from shipway.model.tabular import CategoryTransform, NumberTransform, TabularPreprocessor

    facts = ModelFacts(name="flights", task="binary", label="late", classes=[False, True])
    numbers = [NumberTransform(column="x", impute=0.0, mean=0.0, std=1.0, indicator=True)]
    categories = [CategoryTransform(column="carrier", values=["AA", "UA"], missing=True)]
    preprocessor = TabularPreprocessor(facts, [X, CARRIER], numbers, categories)
    folder.mkdir()
    (folder / "pre").mkdir()
    preprocessor.save(folder / "pre")
    rows = frame.sample(300, seed=seed)
    model = LogisticRegression().fit(preprocessor.transform(rows), rows["late"].cast(pl.Int64).to_numpy())
    label = CategoryStatistics(rows=300, nulls=0, counts={"true": 150, "false": 150}, others=0)
    Statistics(rows=300, label=label, columns={}).write(folder / "statistics.json")
    estimator = SklearnEstimator(model, "binary", len(preprocessor.features), 2)
    return build_package(
        folder / "package",
        preprocessor_folder=folder / "pre",
        estimator=estimator,
        statistics_path=folder / "statistics.json",
        check_rows=rows,
        trainer="sklearn",
    )


def artifact(path, kind):
    return kind(name=path.name, uri=str(path), metadata={})


def test_the_component_scores_a_real_package_beside_a_real_champion(tmp_path):
    from kfp import dsl

    from shipway.evaluate.component import evaluate as component
    from shipway.spec import dump_section

    frame = flights(2000)
    package, old = real_package(tmp_path / "new", frame), real_package(tmp_path / "old", frame, seed=1)
    assert package.digest != old.digest
    test = dataset(tmp_path / "test", flights(500, seed=5))
    champion = {"version": "2", "digest": old.digest, "package_uri": old.path.as_uri()}
    outputs = {
        "evaluation": artifact(tmp_path / "evaluation", dsl.Artifact),
        "metrics": artifact(tmp_path / "metrics", dsl.Metrics),
        "classification": artifact(tmp_path / "classification", dsl.ClassificationMetrics),
        "report": artifact(tmp_path / "report.html", dsl.HTML),
    }
    component.python_func(
        model=artifact(package.path, dsl.Model),
        test=artifact(test, dsl.Dataset),
        settings=dump_section(settings(slices=["carrier"], latency_rows=50)),
        data=dump_section(DATA),
        champion=json.dumps(champion),
        **outputs,
    )
    result = read_document(Evaluation, tmp_path / "evaluation")
    assert result.model_digest == package.digest
    assert result.champion.digest == old.digest
    assert outputs["metrics"].metadata["roc_auc"] == result.metrics["roc_auc"] > 0.7
    assert outputs["metrics"].metadata["slice.carrier=AA.roc_auc"] > 0.5
    assert outputs["classification"].metadata["confusionMatrix"]
    assert outputs["classification"].metadata["confidenceMetrics"]
    json.dumps([value.metadata for value in outputs.values()], allow_nan=False)
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")
    record = json.loads((tmp_path / "step.json").read_text())
    assert record["facts"]["metrics"]["roc_auc"] == result.metrics["roc_auc"]
    assert record["reports"] == {"Evaluation": str(tmp_path / "report.html")}


def test_a_champion_whose_bytes_changed_is_refused(tmp_path):
    frame = flights(1000)
    package, old = real_package(tmp_path / "new", frame), real_package(tmp_path / "old", frame, seed=1)
    champion = {"version": "2", "digest": old.digest, "package_uri": str(old.path)}
    test = dataset(tmp_path / "test", frame)
    with open(old.path / "package.json", "a") as file:
        file.write(" ")
    with pytest.raises(DigestMismatchError, match="champion version 2"):
        evaluate_package(package.path, test, settings(), DATA, json.dumps(champion))
    champion["package_uri"] = str(tmp_path / "nowhere")
    with pytest.raises(ShipwayError, match=r"champion version 2 cannot score the test rows: .*nowhere"):
        evaluate_package(package.path, test, settings(), DATA, json.dumps(champion))


def test_a_champion_that_is_the_same_package_needs_no_fetching(tmp_path):
    frame = flights(1000)
    package = real_package(tmp_path / "new", frame)
    champion = {"version": "2", "digest": package.digest, "package_uri": "file:///gone"}
    result = evaluate_package(package.path, dataset(tmp_path / "t", frame), settings(), DATA, json.dumps(champion))
    assert set(result.champion.worse_by.values()) == {0.0}


def test_evaluating_leaves_the_package_as_it_was(tmp_path):
    frame = flights(1000)
    package = real_package(tmp_path / "new", frame)
    before = {path: hashlib.sha256(path.read_bytes()).digest() for path in package.path.rglob("*") if path.is_file()}
    evaluate_package(package.path, dataset(tmp_path / "t", frame), settings(), DATA)
    after = {path: hashlib.sha256(path.read_bytes()).digest() for path in package.path.rglob("*") if path.is_file()}
    assert after == before
