import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import polars as pl
import pytest
from onnx import TensorProto, helper, numpy_helper

from shipway.errors import DigestMismatchError, InputError, ShipwayError, UserCodeError
from shipway.lineage.digests import digest_tree
from shipway.model.package import Package, build_package
from shipway.model.preprocessor import ModelFacts, NotConvertible
from shipway.model.signature import InputColumn, RequestError
from shipway.model.tabular import CategoryTransform, NumberTransform, TabularPreprocessor
from shipway.model.transformer import TransformerPreprocessor, pandas_frame

FACTS = ModelFacts(name="demo", task="binary", label="late", classes=["no", "yes"])
INPUTS = [
    InputColumn(name="delay", kind="number", nullable=True),
    InputColumn(name="hour", kind="number", nullable=False),
    InputColumn(name="night", kind="boolean", nullable=True),
    InputColumn(name="carrier", kind="category", nullable=True),
]


def raw(rows=100, seed=0):
    draw = np.random.default_rng(seed)
    return pl.DataFrame(
        {
            "id": np.arange(rows),
            "delay": [None if value < -1 else float(value) for value in draw.normal(size=rows)],
            "hour": draw.integers(0, 24, rows),
            "night": [[True, False, None][value] for value in draw.integers(0, 3, rows)],
            "carrier": [["UA", "é", None, "new"][value] for value in draw.integers(0, 4, rows)],
        }
    )


def tabular():
    return TabularPreprocessor(
        FACTS,
        INPUTS,
        [
            NumberTransform(column="delay", impute=0.5, mean=0.1, std=1.3, indicator=True),
            NumberTransform(column="hour", impute=12.0, mean=12.0, std=6.0, indicator=False),
            NumberTransform(column="night", impute=0.0, mean=0.0, std=1.0, indicator=True),
        ],
        [CategoryTransform(column="carrier", values=["UA", "é"], missing=True)],
    )


class Linear:
    """A linear softmax classifier with a graph of its own, or without one, or with a wrong one."""

    def __init__(self, features, graph="right"):
        self.weights = np.random.default_rng(1).normal(size=(features, 2)).astype(np.float32)
        self.graph = graph

    def predict(self, features):
        logits = np.exp(features @ self.weights)
        return logits / logits.sum(axis=1, keepdims=True)

    def save(self, folder):
        (folder / "estimator.json").write_text(json.dumps({"kind": "linear", "weights": self.weights.tolist()}))

    def to_onnx(self, n_features):
        if self.graph == "none":
            raise NotConvertible("a linear model of this kind has no graph")
        shift = 0.01 if self.graph == "wrong" else 0.0
        nodes = [
            helper.make_node("MatMul", ["features", "weights"], ["carrier"], doc_string="at /home/me/train.py"),
            helper.make_node("Softmax", ["carrier"], ["shipway/pre/hot"], axis=1),
            helper.make_node("Add", ["shipway/pre/hot", "shift"], ["prediction"]),
        ]
        graph = helper.make_graph(
            nodes,
            f"linear at {time.time()}",
            [helper.make_tensor_value_info("features", TensorProto.FLOAT, [None, n_features])],
            [helper.make_tensor_value_info("prediction", TensorProto.FLOAT, [None, 2])],
            [
                numpy_helper.from_array(self.weights, "weights"),
                numpy_helper.from_array(np.array(shift, dtype=np.float32), "shift"),
            ],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        helper.set_model_props(model, {"trace": str(time.time())})
        return model


def build(folder, preprocessor=None, estimator=None, rows=None, trainer="test", predictions=None):
    folder = Path(folder)
    preprocessor = preprocessor or tabular()
    preprocessor.save(folder / "preprocessor")
    (folder / "statistics.json").write_text("{}\n")
    return build_package(
        folder / "package",
        preprocessor_folder=folder / "preprocessor",
        estimator=estimator or Linear(len(preprocessor.features)),
        statistics_path=folder / "statistics.json",
        check_rows=raw() if rows is None else rows,
        trainer=trainer,
        predictions=predictions,
    )


def native(rows, estimator=None):
    preprocessor = tabular()
    return (estimator or Linear(len(preprocessor.features))).predict(preprocessor.transform(rows))


def test_a_package_predicts_from_raw_rows(tmp_path):
    package = build(tmp_path)
    assert package.info.onnx
    assert package.info.onnx_note == ""
    assert package.runs_onnx
    rows = raw(70_000, seed=2)
    found = package.predict(rows)
    assert found.shape == (70_000, 2)
    assert np.allclose(found, native(rows), atol=1e-6)
    assert package.predict(rows.head(0)).shape == (0, 2)
    assert package.info.classes == ["no", "yes"]
    assert package.info.inputs == INPUTS
    with pytest.raises(InputError, match="missing columns delay, carrier"):
        package.predict(rows.drop("delay", "carrier"))


def test_requests_go_without_a_frame(tmp_path):
    package = build(tmp_path)
    rows = raw().drop("id")
    columns = package.columns_from_rows(rows.to_dicts())
    assert np.array_equal(package.predict_columns(columns), package.predict(rows))
    flat = {name: values.reshape(-1) for name, values in columns.items()}
    assert np.array_equal(package.predict_columns(flat), package.predict(rows))
    with pytest.raises(RequestError, match="unknown feature 'id'"):
        package.columns_from_rows(raw().to_dicts())


def test_golden_rows_come_from_the_check_rows(tmp_path):
    golden = build(tmp_path).golden()
    assert golden.equals(raw().drop("id").gather_every(5))
    assert build(tmp_path / "few", rows=raw(3)).golden().height == 3
    with pytest.raises(InputError, match="no rows"):
        build(tmp_path / "none", rows=raw(0))


def test_the_same_parts_give_the_same_digest_elsewhere(tmp_path):
    one, two = build(tmp_path / "one"), build(tmp_path / "two" / "deeper")
    assert one.digest == two.digest == digest_tree(tmp_path / "one" / "package")
    content = (one.path / "model.onnx").read_bytes()
    assert b"/home/me" not in content
    assert b"trace" not in content
    onnx.checker.check_model(onnx.load(one.path / "model.onnx"), full_check=True)


def test_loading_in_another_process_leaves_the_digest_alone(tmp_path):
    package = build(tmp_path)
    code = (
        "import sys; from shipway.model.package import Package; import polars as pl; "
        "package = Package.load(sys.argv[1], digest=sys.argv[2]); print(package.predict(package.golden()).shape); "
        "assert not {'sklearn', 'torch', 'mlflow', 'pandas', 'onnx'} & set(sys.modules)"
    )
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", code, str(package.path), package.digest], capture_output=True, text=True, check=False
        )
        assert (done.stdout, done.stderr) == ("(20, 2)\n", "")


def test_another_digest_is_refused(tmp_path):
    package = build(tmp_path)
    with pytest.raises(DigestMismatchError, match=f"digest is {package.digest}, expected sha256:0"):
        Package.load(package.path, digest="sha256:0")
    with (package.path / "statistics.json").open("a") as file:
        file.write(" ")
    with pytest.raises(DigestMismatchError):
        Package.load(package.path, digest=package.digest)


@pytest.mark.parametrize(("graph", "note"), [("none", "has no graph"), ("wrong", "differs from the native form by up")])
def test_what_has_no_true_graph_ships_without_and_says_why(tmp_path, monkeypatch, graph, note):
    estimator = Linear(len(tabular().features), graph)
    monkeypatch.setattr("shipway.model.estimator.load_estimator", lambda _: estimator)
    package = build(tmp_path, estimator=estimator)
    assert not package.info.onnx
    assert note in package.info.onnx_note
    assert not (package.path / "model.onnx").exists()
    assert not package.runs_onnx
    rows = raw(50, seed=3).drop("id")
    assert np.allclose(package.predict(rows), native(rows))
    assert np.allclose(package.predict_columns(package.columns_from_rows(rows.to_dicts())), native(rows))


def damage(package, name, content):
    path = package.path / name
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content(path.read_bytes()))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("package.json", None, "not a model package"),
        ("package.json", lambda raw: raw[:-20], "package.json: damaged"),
        ("package.json", lambda raw: raw.replace(b'"number"', b'"tensor"'), "package.json: damaged: inputs.0.kind"),
        (
            "package.json",
            lambda raw: raw.replace(b'"hour"', b'"year"'),
            "model.onnx: takes delay, hour, night, carrier",
        ),
        ("model.onnx", None, "model.onnx: no such file"),
        ("model.onnx", lambda raw: raw[: len(raw) // 2], "model.onnx: damaged"),
        ("model.onnx", lambda _: b"", "model.onnx: damaged"),
        ("model.onnx", lambda _: b"not a graph" * 50, "model.onnx: damaged"),
    ],
)
def test_a_damaged_package_is_told(tmp_path, name, content, message):
    package = build(tmp_path)
    damage(package, name, content)
    with pytest.raises(ShipwayError, match=message):
        Package.load(package.path)


@pytest.mark.parametrize("content", [None, lambda raw: raw[:40]])
def test_damaged_golden_rows_are_told(tmp_path, content):
    package = build(tmp_path)
    damage(package, "golden.parquet", content)
    with pytest.raises(ShipwayError, match=r"golden.parquet: (no such file|damaged)"):
        Package.load(package.path).golden()


def test_a_damaged_native_form_is_told_when_it_is_asked_for(tmp_path):
    package = build(tmp_path)
    with pytest.raises(ShipwayError, match=r"estimator.json"):
        Package.load(package.path, onnx=False)
    shutil.rmtree(package.path / "estimator")
    with pytest.raises(ShipwayError, match="no estimator"):
        Package.load(package.path, onnx=False)
    shutil.rmtree(package.path / "preprocessor")
    with pytest.raises(ShipwayError, match="no preprocessor"):
        Package.load(package.path, onnx=False)
    with pytest.raises(ShipwayError, match="not a model package"):
        Package.load(tmp_path / "nowhere")


def test_mlflow_loads_and_runs_the_package(tmp_path):
    import mlflow.pyfunc

    package = build(tmp_path)
    model = mlflow.pyfunc.load_model(str(package.path))
    rows = raw()
    whole = pl.DataFrame({"delay": [1, 2], "hour": [3, 4], "night": [True, False], "carrier": ["UA", "é"], "x": [0, 0]})
    for frame in (rows, rows.head(1), whole.cast({"delay": pl.Float64})):
        found = model.predict(frame.to_pandas())
        assert isinstance(found, np.ndarray)
        assert np.array_equal(found, package.predict(frame))
    assert [column.name for column in model.metadata.signature.inputs] == ["delay", "hour", "night", "carrier"]
    with pytest.raises(mlflow.exceptions.MlflowException, match="missing inputs"):
        model.predict(rows.drop("carrier").to_pandas())


def test_a_nullable_integer_column_passes_mlflow_both_ways(tmp_path):
    import mlflow.pyfunc

    inputs = [InputColumn(name="n", kind="number", nullable=True)]
    numbers = [NumberTransform(column="n", impute=0.0, mean=0.0, std=1.0, indicator=True)]
    package = build(
        tmp_path, TabularPreprocessor(FACTS, inputs, numbers, []), rows=pl.DataFrame({"n": pl.Series([1, None, 3])})
    )
    model = mlflow.pyfunc.load_model(str(package.path))
    for values in ([1, None, 3], [1, 2, 3]):
        frame = pl.DataFrame({"n": pl.Series(values, dtype=pl.Int64)})
        assert np.array_equal(model.predict(frame.to_pandas()), package.predict(frame))


TRANSFORMERS = """\
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler


def columns():
    return ColumnTransformer([
        ("n", make_pipeline(SimpleImputer(), StandardScaler()), ["delay", "hour"]),
        ("c", OneHotEncoder(handle_unknown="ignore"), ["carrier"]),
    ])


def scaler():
    return make_pipeline(SimpleImputer(), StandardScaler())


def hours(frame):
    return frame[["hour"]]


def function():
    return FunctionTransformer(hours)
"""


def transformer(folder, monkeypatch, name, inputs):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "features.py").write_text(TRANSFORMERS)
    monkeypatch.setenv("SHIPWAY_PROJECT", str(folder))
    from shipway.lineage.project import load_object

    values = {"number": 0.0, "boolean": False, "category": "UA"}
    rows = raw().with_columns(
        pl.col(column.name).fill_null(values[column.kind]) for column in inputs if not column.nullable
    )
    built = load_object(f"features.py:{name}", "features.transformer")()
    built.fit(pandas_frame(inputs, rows))
    return TransformerPreprocessor.fitted(FACTS, inputs, built, f"features.py:{name}", rows), rows


SURE = [column.model_copy(update={"nullable": False}) for column in INPUTS]


@pytest.mark.parametrize(
    ("name", "inputs"),
    [
        ("columns", [INPUTS[0], *SURE[1:]]),
        ("scaler", INPUTS[:3]),
    ],
)
def test_a_users_transformer_gets_a_graph(tmp_path, monkeypatch, name, inputs):
    preprocessor, rows = transformer(tmp_path / "project", monkeypatch, name, inputs)
    package = build(tmp_path, preprocessor, rows=rows)
    assert package.info.onnx_note == ""
    expected = Linear(len(preprocessor.features)).predict(preprocessor.transform(rows))
    assert np.allclose(package.predict(rows), expected, atol=1e-5)


def test_a_users_function_ships_without_a_graph_and_loads_elsewhere(tmp_path, monkeypatch):
    preprocessor, rows = transformer(tmp_path / "project", monkeypatch, "function", SURE)
    estimator = Linear(1)
    monkeypatch.setattr("shipway.model.estimator.load_estimator", lambda _: estimator)
    package = build(tmp_path, preprocessor, estimator, rows)
    assert "skl2onnx cannot convert FunctionTransformer" in package.info.onnx_note
    shutil.rmtree(tmp_path / "project")
    moved = shutil.move(package.path, tmp_path / "moved")
    monkeypatch.setenv("SHIPWAY_PROJECT", "/nowhere")
    again = Package.load(moved, digest=package.digest)
    assert np.allclose(again.predict(rows), estimator.predict(rows["hour"].to_numpy().reshape(-1, 1)))


def test_nulls_that_the_graph_sees_differently_are_found(tmp_path, monkeypatch):
    preprocessor, rows = transformer(tmp_path / "project", monkeypatch, "columns", INPUTS)
    estimator = Linear(len(preprocessor.features))
    monkeypatch.setattr("shipway.model.estimator.load_estimator", lambda _: estimator)
    package = build(tmp_path, preprocessor, estimator, rows=rows)
    assert "for a null in 'carrier'" in package.info.onnx_note or "differs from the native" in package.info.onnx_note
    with_nulls = raw()
    assert np.allclose(package.predict(with_nulls), estimator.predict(preprocessor.transform(with_nulls)), atol=1e-5)


def test_two_packages_with_modules_of_one_name_keep_their_own_code(tmp_path, monkeypatch):
    loaded = []
    monkeypatch.setattr("shipway.model.estimator.load_estimator", lambda _: Linear(1))
    for name, column in (("one", "hour"), ("two", "delay")):
        monkeypatch.setattr(
            sys.modules[__name__], "TRANSFORMERS", TRANSFORMERS.replace('[["hour"]]', f'[["{column}"]]')
        )
        preprocessor, rows = transformer(tmp_path / name / "project", monkeypatch, "function", SURE)
        package = build(tmp_path / name, preprocessor, Linear(1), rows)
        loaded.append((Package.load(package.path), column))
    for package, column in loaded:
        expected = Linear(1).predict(rows[column].to_numpy().reshape(-1, 1).astype(np.float32))
        assert np.allclose(package.predict(rows), expected, atol=1e-5)


def test_a_users_transformer_that_raises_is_told(tmp_path, monkeypatch):
    preprocessor, rows = transformer(tmp_path / "project", monkeypatch, "function", SURE)
    preprocessor.transformer.set_params(func=len)
    with pytest.raises(UserCodeError, match=r"features.transformer features.py:function"):
        preprocessor.transform(rows)


def test_an_older_package_has_no_statistics_of_its_predictions(tmp_path):
    package = build(tmp_path)
    assert package.prediction_statistics() is None
    with pytest.raises(InputError, match=r"statistics\.json: not a Statistics document: rows"):
        package.statistics()


def test_damaged_statistics_of_predictions_are_told(tmp_path):
    package = build(tmp_path, predictions=np.array([[0.2, 0.8], [0.7, 0.3]]))
    assert package.prediction_statistics().quantiles[0] == 0.3
    path = package.path / "predictions.json"
    path.write_text(path.read_text()[:50])
    with pytest.raises(InputError, match=r"predictions\.json: not a PredictionStatistics document"):
        package.prediction_statistics()
