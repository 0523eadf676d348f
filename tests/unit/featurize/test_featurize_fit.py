import datetime as dt
import json
import math

import numpy as np
import polars as pl
import pytest

from shipway.dataset import DatasetWriter, read_info, scan
from shipway.errors import InputError, UserCodeError
from shipway.featurize import profile
from shipway.featurize.fit import featurize
from shipway.lineage.digests import digest_file, digest_tree
from shipway.lineage.documents import Statistics, read_document
from shipway.model.preprocessor import load_preprocessor
from shipway.spec import DataSection, FeaturesSection, SchemaSection

SCHEMA = """\
columns:
  id: {dtype: int64}
  delay: {dtype: float64, nullable: true}
  hour: {dtype: int64}
  constant: {dtype: float64}
  empty: {dtype: float64, nullable: true}
  night: {dtype: bool, nullable: true}
  carrier: {dtype: str}
  gate: {dtype: str, nullable: true}
  at: {dtype: "datetime64[ns]"}
  seats: {dtype: int64, required: false}
  late: {dtype: str, nullable: true}
"""


def raw(rows=200, seed=0):
    draw = np.random.default_rng(seed)
    return pl.DataFrame(
        {
            "id": np.arange(rows),
            "delay": [None if value < -1 else float(value) for value in draw.normal(size=rows)],
            "hour": draw.integers(0, 24, rows),
            "constant": [0.1] * rows,
            "empty": pl.Series([None] * rows, dtype=pl.Float64),
            "night": [[True, False, None][value] for value in draw.integers(0, 3, rows)],
            "carrier": [["UA", "AA", "B6", "rare"][value] for value in np.minimum(draw.geometric(0.5, rows) - 1, 3)],
            "gate": [[None, "é", ""][value] for value in draw.integers(0, 3, rows)],
            "at": [dt.datetime(2013, 1, 1)] * rows,
            "late": [["no", "yes"][value] for value in draw.integers(0, 2, rows)],
        }
    )


class Project:
    """Raw parts and a schema in a folder, and a way to featurize them."""

    def __init__(self, folder, monkeypatch):
        self.folder = folder
        monkeypatch.setenv("SHIPWAY_PROJECT", str(folder))
        (folder / "schema.yaml").write_text(SCHEMA)
        self.part("train", raw())
        self.part("validation", raw(80, seed=1))

    def part(self, name, frame, part_rows=64):
        with DatasetWriter(self.folder / name, part_rows=part_rows) as writer:
            writer.write(frame)

    def run(self, out="out", task="binary", features=None, **data):
        target = self.folder / out
        section = {"uri": "x", "label": "late", "key": ["id"], "time": "at", **data}
        return featurize(
            self.folder / "train",
            self.folder / "validation",
            train_features=target / "train",
            validation_features=target / "validation",
            preprocessor=target / "preprocessor",
            statistics=target / "statistics.json",
            name="demo",
            task=task,
            data=DataSection(**section),
            schema=SchemaSection(pandera="schema.yaml"),
            features=FeaturesSection(**(features or {})),
        )

    def features(self, part="train", out="out"):
        return scan(self.folder / out / part).collect()


@pytest.fixture
def project(tmp_path, monkeypatch):
    return Project(tmp_path, monkeypatch)


def test_features_follow_from_the_schema(project):
    result = project.run(features={"max_categories": 3})
    assert result.features == [
        "delay", "hour", "constant", "empty", "night", "delay__missing", "empty__missing", "night__missing",
        "carrier=UA", "carrier=AA", "carrier=B6", "carrier=other", "gate=", "gate=é", "gate=other", "gate=missing",
    ]  # fmt: skip
    assert result.left_out == {"seats": "not in the data"}
    frame = project.features()
    assert frame.columns == [*result.features, "__label__"]
    assert set(frame.dtypes[:-1]) == {pl.Float32}
    assert frame.schema["__label__"] == pl.Int64
    train = raw()
    assert frame["__label__"].to_list() == [int(value == "yes") for value in train["late"]]
    delays = train["delay"].fill_null(train["delay"].median())
    expected = (delays - train["delay"].mean()) / train["delay"].std(ddof=0)
    assert np.allclose(frame["delay"], expected, atol=1e-6)
    assert frame["delay__missing"].to_list() == train["delay"].is_null().cast(pl.Float32).to_list()
    assert frame["constant"].unique().to_list() == [0.0]
    assert frame["empty"].unique().to_list() == [0.0]
    assert frame["empty__missing"].unique().to_list() == [1.0]
    assert frame["carrier=other"].to_list() == (train["carrier"] == "rare").cast(pl.Float32).to_list()
    assert project.features("validation").height == 80
    assert read_info(project.folder / "out/train").rows == 200


def test_times_are_left_out_and_said_so(project):
    assert "at" in project.run(time=None).left_out
    assert not [name for name in project.features().columns if name.startswith("at")]


def test_mean_and_no_scaling(project):
    project.run(features={"impute": "mean", "scale": "none", "drop": ["carrier", "gate", "night"]})
    train = raw()
    assert np.allclose(project.features()["delay"], train["delay"].fill_null(train["delay"].mean()), atol=1e-6)
    assert project.features()["hour"].to_list() == train["hour"].to_list()


def test_fitting_never_sees_validation_rows(project):
    project.run("one")
    wild = raw(50, seed=5).with_columns(delay=pl.lit(1e6), carrier=pl.lit("unseen"), night=pl.lit(True))
    project.part("validation", wild)
    project.run("two")
    for name in ("preprocessor", "train"):
        assert digest_tree(project.folder / "one" / name) == digest_tree(project.folder / "two" / name)
    assert digest_file(project.folder / "one/statistics.json") == digest_file(project.folder / "two/statistics.json")
    assert project.features("validation", "two")["carrier=other"].unique().to_list() == [1.0]


def test_the_same_rows_give_the_same_bytes_elsewhere(project, tmp_path_factory, monkeypatch):
    project.run()
    other = Project(tmp_path_factory.mktemp("elsewhere"), monkeypatch)
    other.run()
    assert digest_tree(project.folder / "out") == digest_tree(other.folder / "out")


def test_statistics_describe_the_training_part(project):
    project.run()
    found = read_document(Statistics, project.folder / "out/statistics.json")
    train = raw()
    delay = found.columns["delay"]
    assert found.rows == delay.rows == 200
    assert delay.nulls == train["delay"].null_count()
    assert delay.mean == pytest.approx(train["delay"].mean())
    assert delay.quantiles[0] == train["delay"].min()
    assert delay.quantiles[5] == pytest.approx(train["delay"].median())
    assert len(delay.edges) == 19
    assert len(delay.counts) == 20
    assert sum(delay.counts) == delay.rows - delay.nulls
    assert delay.counts[0] == (train["delay"] < delay.edges[0]).sum()
    assert found.columns["constant"].edges == [0.1]
    assert found.columns["constant"].counts == [0, 200]
    assert found.columns["empty"].model_dump() == {
        "kind": "number", "rows": 200, "nulls": 200, "mean": None, "std": None, "quantiles": [], "edges": [],
        "counts": [0], "grid": {"edges": [], "counts": [0], "sums": [0.0]},
    }  # fmt: skip
    assert found.columns["night"].kind == "category"
    assert set(found.columns["night"].counts) == {"true", "false"}
    assert list(found.columns["carrier"].counts) == ["UA", "AA", "B6", "rare"]
    assert found.columns["carrier"].others == 0
    assert set(found.label.counts) == {"no", "yes"}
    assert list(found.columns) == ["delay", "hour", "constant", "empty", "night", "carrier", "gate"]


def test_many_rows_take_their_quantiles_from_a_sample(project, monkeypatch):
    project.run("exact")
    monkeypatch.setattr(profile, "EXACT_ROWS", 50)
    project.run("sampled")
    exact, sampled = (
        read_document(Statistics, project.folder / name / "statistics.json").columns["hour"]
        for name in ("exact", "sampled")
    )
    assert sampled.mean == exact.mean
    assert sampled.quantiles[0] == exact.quantiles[0]
    assert sampled.quantiles[5] == pytest.approx(exact.quantiles[5], abs=4)
    assert sum(sampled.counts) == 200
    assert sampled.counts[0] == (raw()["hour"] < sampled.edges[0]).sum()


def test_categories_beyond_the_hundredth_are_others(project):
    frame = raw(400).with_columns(carrier=pl.Series([f"c{position % 150:03}" for position in range(400)]))
    project.part("train", frame)
    result = project.run(features={"max_categories": 120})
    assert sum(name.startswith("carrier=") for name in result.features) == 121
    assert result.features[result.features.index("carrier=c000") + 1] == "carrier=c001"
    carrier = read_document(Statistics, project.folder / "out/statistics.json").columns["carrier"]
    assert len(carrier.counts) == 100
    assert sum(carrier.counts.values()) + carrier.others == 400


def test_rows_without_a_label_are_dropped_and_counted(project):
    blank = pl.when(pl.int_range(pl.len()) % 4 == 0).then(None).otherwise(pl.col("late")).alias("late")
    project.part("train", raw().with_columns(blank, delay=pl.when(blank.is_null()).then(1e9).otherwise(0.0)))
    project.part("validation", raw(80).with_columns(blank))
    result = project.run()
    assert (result.train.rows, result.train_dropped) == (150, 50)
    assert (result.validation.rows, result.validation_dropped) == (60, 20)
    assert read_document(Statistics, project.folder / "out/statistics.json").columns["delay"].mean == 0.0
    project.part("validation", raw(80).with_columns(late=pl.lit(None, dtype=pl.String)))
    with pytest.raises(InputError, match="the validation part has no rows with a label"):
        project.run()
    project.part("train", raw(80).with_columns(late=pl.lit(None, dtype=pl.String)))
    with pytest.raises(InputError, match="the training part has no rows with a label"):
        project.run()


@pytest.mark.parametrize(
    ("values", "positive", "classes"),
    [
        (["no", "yes"], None, ["no", "yes"]),
        (["no", "yes"], "no", ["yes", "no"]),
        ([0, 1], None, [0, 1]),
        ([0, 1], 0, [1, 0]),
        ([False, True], None, [False, True]),
        ([0.0, 1.0], None, [0, 1]),
    ],
)
def test_classes_of_a_binary_task(project, values, positive, classes):
    for part, rows in (("train", 200), ("validation", 80)):
        project.part(part, raw(rows).with_columns(late=pl.Series([values[row % 2] for row in range(rows)])))
    project.run(positive=positive)
    state = json.loads((project.folder / "out/preprocessor/preprocessor.json").read_text())
    assert state["classes"] == classes
    assert [type(value) for value in state["classes"]] == [type(value) for value in classes]
    first = classes.index(values[0])
    assert project.features()["__label__"].to_list()[:2] == [first, 1 - first]
    assert (state["name"], state["task"], state["label"]) == ("demo", "binary", "late")


def test_labels_that_do_not_fit_are_refused(project):
    with pytest.raises(InputError, match=r"data.positive: 'maybe' is no label .* 'no', 'yes'"):
        project.run(positive="maybe")
    with pytest.raises(InputError, match="a regression task needs numbers, found String"):
        project.run(task="regression")
    project.part("validation", raw(80).with_columns(late=pl.lit("never")))
    with pytest.raises(InputError, match="label 'late': the validation part has 'never', which the training part"):
        project.run()
    project.part("train", raw().with_columns(late=pl.Series([["a", "b", "c"][row % 3] for row in range(200)])))
    with pytest.raises(InputError, match="exactly 2 classes in the training part, found 3: 'a', 'b', 'c'"):
        project.run()
    project.part("train", raw().with_columns(late=pl.lit("a")))
    with pytest.raises(InputError, match="one class only, 'a'"):
        project.run(task="multiclass")
    project.part("train", raw().with_columns(late=pl.int_range(pl.len()) / 3))
    with pytest.raises(InputError, match="class labels are text, integers or booleans, found Float64"):
        project.run(task="multiclass")
    project.part("train", raw().with_columns(late=pl.lit(math.inf)))
    with pytest.raises(InputError, match="NaN or infinite"):
        project.run(task="regression")


def test_regression_keeps_the_values(project):
    for part, rows in (("train", 200), ("validation", 80)):
        project.part(part, raw(rows).with_columns(late=pl.int_range(pl.len()) / 7))
    project.run(task="regression")
    assert project.features().schema["__label__"] == pl.Float64
    assert project.features()["__label__"].to_list() == (pl.int_range(200, eager=True) / 7).to_list()
    assert read_document(Statistics, project.folder / "out/statistics.json").label.kind == "number"


def test_columns_that_cannot_work_are_refused(project):
    with pytest.raises(InputError, match=r"features.drop: no column 'carier' in the data"):
        project.run(features={"drop": ["carier"]})
    with pytest.raises(InputError, match=r"data.label: no column 'lat' in the data, which has id, delay"):
        project.run(label="lat")
    with pytest.raises(InputError, match="no feature columns are left"):
        project.run(features={"drop": ["delay", "hour", "constant", "empty", "night", "carrier", "gate"]})
    project.part("train", raw().with_columns(hour=pl.lit("noon")))
    with pytest.raises(InputError, match="column 'hour': expected numbers, found String"):
        project.run()
    project.part("train", raw().with_columns(delay=pl.lit(math.inf)))
    with pytest.raises(InputError, match=r"infinite numbers, in columns \(rows\): 'delay' \(200\)"):
        project.run()
    project.part("train", raw().with_columns(delay=pl.Series([1.7e308, -1.7e308] * 100)))
    with pytest.raises(InputError, match="too large to be averaged, in columns 'delay'"):
        project.run()
    project.part("train", raw().drop("hour"))
    with pytest.raises(InputError, match="the training part has no column 'hour', which the schema requires"):
        project.run()
    project.part("train", raw())
    project.part("validation", raw(80).drop("gate"))
    with pytest.raises(InputError, match="no columns gate"):
        project.run()


TRANSFORMERS = """\
import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.compose import ColumnTransformer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler
from sklearn.impute import SimpleImputer

from helpers import double


def columns():
    return ColumnTransformer([
        ("n", make_pipeline(SimpleImputer(), StandardScaler()), ["delay", "hour"]),
        ("c", OneHotEncoder(handle_unknown="ignore"), ["carrier"]),
    ], verbose_feature_names_out=False)


def function():
    return FunctionTransformer(double)


class Hours(TransformerMixin, BaseEstimator):
    def fit(self, X):
        self.mean_ = float(X["hour"].mean())
        return self

    def transform(self, X):
        return (X[["hour"]] - self.mean_).to_numpy()


def own():
    return Hours()


def unnamed_lambda():
    return FunctionTransformer(lambda X: X[["hour"]])


def broken():
    return FunctionTransformer(lambda X: X["nothing"])


def with_nulls():
    return FunctionTransformer(lambda X: X[["delay", "hour"]])


def texts():
    return FunctionTransformer(lambda X: X[["carrier"]])


def short():
    return FunctionTransformer(lambda X: X[["hour"]].head(3))


def flat():
    return FunctionTransformer(lambda X: X["hour"])


def nothing():
    return None
"""


@pytest.fixture
def own(project):
    (project.folder / "features.py").write_text(TRANSFORMERS)
    (project.folder / "helpers.py").write_text("def double(X):\n    return X[['hour']] * 2\n")
    (project.folder / "unrelated.py").write_text("1 / 0\n")
    return project


def test_a_users_column_transformer(own):
    result = own.run(features={"transformer": "features.py:columns"})
    assert result.features == ["delay", "hour", "carrier_AA", "carrier_B6", "carrier_UA", "carrier_rare"]
    train = raw()
    assert own.features()["carrier_AA"].to_list() == (train["carrier"] == "AA").cast(pl.Float32).to_list()
    loaded = load_preprocessor(own.folder / "out/preprocessor")
    assert np.array_equal(loaded.transform(train), own.features().drop("__label__").to_numpy())
    files = sorted(path.name for path in (own.folder / "out/preprocessor/code").iterdir() if path.is_file())
    assert files == ["features.py", "helpers.py"]
    own.run("again", features={"transformer": "features.py:columns"})
    assert digest_tree(own.folder / "again") == digest_tree(own.folder / "out")


@pytest.mark.parametrize(("name", "features"), [("function", ["hour"]), ("own", ["f0"])])
def test_users_functions_and_classes(own, name, features):
    assert own.run(features={"transformer": f"features.py:{name}"}).features == features
    loaded = load_preprocessor(own.folder / "out/preprocessor")
    assert np.array_equal(loaded.transform(raw()), own.features().drop("__label__").to_numpy())


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("unnamed_lambda", UserCodeError, "lambdas are not"),
        ("broken", UserCodeError, r"features.transformer features.py:broken: KeyError: 'nothing' .*features.py:\d+"),
        ("with_nulls", UserCodeError, r"NaN or infinite: delay \(\d+ of "),
        ("texts", UserCodeError, "feature 'carrier' is not numeric"),
        ("short", UserCodeError, "transform gave 3 rows for"),
        ("flat", UserCodeError, r"must give a matrix \(rows, features\), found shape"),
        ("nothing", InputError, "must return a scikit-learn transformer with fit and transform, found NoneType"),
        ("absent", InputError, "features.py has no 'absent'"),
    ],
)
def test_transformers_that_cannot_work_are_told(own, name, error, message):
    with pytest.raises(error, match=message):
        own.run(features={"transformer": f"features.py:{name}"})


def test_the_component_leaves_features_and_a_record(project):
    from kfp.dsl import Artifact, Dataset

    from shipway.featurize.component import featurize as component
    from shipway.lineage.steps import read_record
    from shipway.spec import dump_section

    outputs = {
        name: kind(uri=str(project.folder / "step" / name))
        for name, kind in {
            "train_features": Dataset,
            "validation_features": Dataset,
            "preprocessor": Artifact,
            "statistics": Artifact,
        }.items()
    }
    component.python_func(
        train=Dataset(uri=str(project.folder / "train")),
        validation=Dataset(uri=str(project.folder / "validation")),
        name="demo",
        task="binary",
        data=dump_section(DataSection(uri="x", label="late", key=["id"], time="at")),
        data_schema=dump_section(SchemaSection(pandera="schema.yaml")),
        features=dump_section(FeaturesSection()),
        **outputs,
    )
    facts = read_record(project.folder / "step").facts
    assert facts["train_rows"] == 200
    assert facts["raw_columns"] == 7
    assert facts["left_out"] == {"seats": "not in the data"}
    assert outputs["preprocessor"].metadata["features"] == facts["features"]
    assert load_preprocessor(project.folder / "step/preprocessor").facts.name == "demo"
