"""SklearnEstimator and its trainer."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from train_inputs import data, run_graph

from shipway.errors import InputError, ShipwayError, UserCodeError
from shipway.lineage.digests import digest_tree
from shipway.model.estimator import load_estimator
from shipway.model.preprocessor import NotConvertible
from shipway.model.sklearn_estimator import SklearnEstimator
from shipway.spec import SklearnTrain
from shipway.train.checkpoints import hold
from shipway.train.data import FeatureData
from shipway.train.sklearn_trainer import SklearnTrainer
from shipway.train.trainers import Fitted, TrainContext

pytestmark = pytest.mark.slow

CLASSIFIERS = [
    "sklearn.ensemble:HistGradientBoostingClassifier",
    "sklearn.linear_model:LogisticRegression",
    "sklearn.ensemble:RandomForestClassifier",
    "sklearn.ensemble:GradientBoostingClassifier",
    "sklearn.neighbors:KNeighborsClassifier",
    "sklearn.naive_bayes:GaussianNB",
    "sklearn.neural_network:MLPClassifier",
]
REGRESSORS = [
    "sklearn.ensemble:HistGradientBoostingRegressor",
    "sklearn.linear_model:Ridge",
    "sklearn.ensemble:RandomForestRegressor",
    "sklearn.svm:SVR",
]

USER_CODE = """
import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from shared import offset

class Prior(ClassifierMixin, BaseEstimator):
    def __init__(self, shift=0.0):
        self.shift = shift
    def fit(self, X, y):
        self.classes_ = np.unique(y)
        self.shares_ = np.bincount(y) / len(y) + offset()
        return self
    def predict_proba(self, X):
        return np.tile(self.shares_, (len(X), 1))
    def predict(self, X):
        return self.predict_proba(X).argmax(axis=1)

class Broken(Prior):
    def fit(self, X, y):
        raise KeyError("no such thing")
"""


def fit(tmp_path: Path, classes: int, part: FeatureData | None = None, **settings: Any) -> Fitted:
    task: Any = {0: "regression", 2: "binary"}.get(classes, "multiclass")
    with hold(tmp_path / "store") as store:
        context = TrainContext(task, max(classes, 1), store, lambda _epoch, _metrics: None)
        trainer = SklearnTrainer(SklearnTrain(trainer="sklearn", **settings))
        return trainer.fit(part or data(classes), data(classes, seed=1), context)


@pytest.mark.parametrize(
    ("estimator", "classes"),
    [*((name, 2) for name in CLASSIFIERS), *((name, 3) for name in CLASSIFIERS), *((name, 0) for name in REGRESSORS)],
)
def test_saved_loaded_and_converted_forms_agree(tmp_path: Path, estimator: str, classes: int) -> None:
    fitted = fit(tmp_path, classes, estimator=estimator).estimator
    features = data(classes, seed=2).features
    native = fitted.predict(features)
    assert native.shape == (400, max(classes, 1))
    for name in ("one", "two"):
        fitted.save(tmp_path / name)
    assert digest_tree(tmp_path / "one") == digest_tree(tmp_path / "two")
    loaded = load_estimator(tmp_path / "one")
    np.testing.assert_array_equal(loaded.predict(features), native)
    graph = loaded.to_onnx(4)
    np.testing.assert_allclose(run_graph(graph, features), native, atol=1e-5, rtol=1e-5)
    assert graph.SerializeToString(deterministic=True) == fitted.to_onnx(4).SerializeToString(deterministic=True)
    assert fitted.predict(features[:0]).shape == (0, max(classes, 1))


@pytest.mark.parametrize("classes", [0, 2])
def test_boosted_trees_agree_at_their_very_thresholds(tmp_path: Path, classes: int) -> None:
    fitted = fit(tmp_path, classes, params={"max_iter": 30})
    assert isinstance(fitted.estimator, SklearnEstimator)
    stages = fitted.estimator.model._predictors
    thresholds = np.unique(
        np.concatenate([tree.nodes["num_threshold"][tree.nodes["is_leaf"] == 0] for stage in stages for tree in stage])
    )
    nearest = thresholds.astype(np.float32)
    steps = [np.nextafter(nearest, np.float32(side)) for side in (-np.inf, np.inf)]
    values = np.concatenate([nearest, *steps, [np.nan, np.inf, -np.inf]]).astype(np.float32)
    rng = np.random.default_rng(0)
    features = rng.choice(values, size=(20_000, 4))
    before = [tree.nodes["num_threshold"].copy() for stage in stages for tree in stage]
    found = run_graph(fitted.estimator.to_onnx(4), features)
    np.testing.assert_allclose(found, fitted.estimator.predict(features), atol=1e-5, rtol=1e-5)
    after = [tree.nodes["num_threshold"] for stage in stages for tree in stage]
    assert all(np.array_equal(one, other) for one, other in zip(before, after, strict=True))


def test_boosted_trees_with_missing_values_agree(tmp_path: Path) -> None:
    part = data(2)
    part.features[::3, 0] = np.nan
    fitted = fit(tmp_path, 2, part).estimator
    features = data(2, seed=5).features
    features[::2, 0] = np.nan
    np.testing.assert_allclose(run_graph(fitted.to_onnx(4), features), fitted.predict(features), atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"estimator": "sklearn.dummy:DummyClassifier"}, "no converter for DummyClassifier"),
        ({"params": {"categorical_features": [0]}}, "categorical_features"),
    ],
)
def test_what_does_not_convert_says_why(tmp_path: Path, settings: dict[str, Any], reason: str) -> None:
    part = data(2)
    part.features[:, 0] = np.round(np.abs(part.features[:, 0]) * 3)
    fitted = fit(tmp_path, 2, part, **settings).estimator
    with pytest.raises(NotConvertible, match=reason):
        fitted.to_onnx(4)
    fitted.save(tmp_path / "saved")
    features = part.features[:5]
    np.testing.assert_array_equal(load_estimator(tmp_path / "saved").predict(features), fitted.predict(features))


def test_seed_decides_and_can_be_overridden(tmp_path: Path) -> None:
    def model(**settings: Any) -> Any:
        fitted = fit(tmp_path, 2, estimator="sklearn.ensemble:RandomForestClassifier", **settings).estimator
        assert isinstance(fitted, SklearnEstimator)
        return fitted.model

    assert model(seed=7).random_state == 7
    assert model(seed=2**40 + 3).random_state == 3
    assert model(params={"random_state": 5}).random_state == 5


@pytest.mark.parametrize(
    ("settings", "classes", "message"),
    [
        ({"params": {"max_itr": 3}}, 2, r"no parameter 'max_itr'; there are .*max_iter"),
        ({"params": {"max_iter": "many"}}, 2, r"train\.params: .*max_iter"),
        ({"estimator": "sklearn.linear_model:RidgeClassifier"}, 2, "no predict_proba"),
        ({"estimator": "sklearn.svm:SVC"}, 2, "no predict_proba"),
        ({"estimator": "sklearn.linear_model:LogisticRegression"}, 0, "a classifier, but the task is regression"),
        ({"estimator": "sklearn.linear_model:NoSuch"}, 2, "has no 'NoSuch'"),
        ({"estimator": "sklearn_nowhere:X"}, 2, "no module 'sklearn_nowhere'"),
        ({"estimator": "model.py:Missing"}, 2, r"no file .*model\.py"),
        ({"estimator": "math:floor"}, 2, "math:floor"),
    ],
)
def test_wrong_settings_are_named(tmp_path: Path, settings: dict[str, Any], classes: int, message: str) -> None:
    with pytest.raises((InputError, UserCodeError), match=message):
        fit(tmp_path, classes, **settings)


def test_class_without_rows_is_named(tmp_path: Path) -> None:
    part = data(3)
    part.target[part.target == 1] = 0
    with pytest.raises(InputError, match=r"\[0, 2\] of 0 to 2"):
        fit(tmp_path, 3, part)


def test_user_class_travels_with_its_code(tmp_path: Path) -> None:
    project = Path(os.environ["SHIPWAY_PROJECT"])
    (project / "own_prior.py").write_text(USER_CODE)
    (project / "shared.py").write_text("def offset():\n    return 0.0\n")
    fitted = fit(tmp_path, 2, estimator="own_prior.py:Prior", params={"shift": 1.0}).estimator
    fitted.save(tmp_path / "saved")
    assert sorted(path.name for path in (tmp_path / "saved/code").iterdir()) == ["own_prior.py", "shared.py"]
    for name in ("own_prior", "shared"):
        (project / f"{name}.py").unlink()
        sys.modules.pop(name)
    loaded = load_estimator(tmp_path / "saved")
    np.testing.assert_array_equal(loaded.predict(data(2).features), fitted.predict(data(2).features))
    loaded.save(tmp_path / "again")
    assert digest_tree(tmp_path / "again") == digest_tree(tmp_path / "saved")
    with pytest.raises(NotConvertible, match="Prior"):
        loaded.to_onnx(4)


def test_user_class_that_raises_is_told_with_its_line(tmp_path: Path) -> None:
    project = Path(os.environ["SHIPWAY_PROJECT"])
    (project / "own_broken.py").write_text(USER_CODE.replace("from shared import offset", ""))
    with pytest.raises(UserCodeError, match=r"KeyError: 'no such thing' \(at .*own_broken\.py:\d+ in fit\)"):
        fit(tmp_path, 2, estimator="own_broken.py:Broken")


def test_foreign_types_are_not_loaded(tmp_path: Path) -> None:
    project = Path(os.environ["SHIPWAY_PROJECT"])
    (project / "own_other.py").write_text(USER_CODE.replace("from shared import offset", "def offset(): return 0.0"))
    fit(tmp_path, 2, estimator="own_other.py:Prior").estimator.save(tmp_path / "saved")
    path = tmp_path / "saved/estimator.json"
    path.write_text(path.read_text().replace('"own_other.py"', ""))
    with pytest.raises(ShipwayError, match=r"own_other\.Prior"):
        load_estimator(tmp_path / "saved")


@pytest.mark.parametrize("damage", ["no json", "bad json", "kind", "no model", "cut model"])
def test_damaged_folder_is_named(tmp_path: Path, damage: str) -> None:
    fit(tmp_path, 2, estimator="sklearn.linear_model:LogisticRegression").estimator.save(tmp_path / "saved")
    state, model = tmp_path / "saved/estimator.json", tmp_path / "saved/estimator.skops"
    if damage == "no json":
        state.unlink()
    elif damage == "bad json":
        state.write_text("{")
    elif damage == "kind":
        state.write_text(state.read_text().replace('"sklearn"', '"other"'))
    elif damage == "no model":
        model.unlink()
    else:
        model.write_bytes(model.read_bytes()[:100])
    with pytest.raises(ShipwayError, match="saved"):
        load_estimator(tmp_path / "saved")


def test_features_of_another_width_are_refused(tmp_path: Path) -> None:
    fitted = fit(tmp_path, 2).estimator
    with pytest.raises(InputError, match=r"\(rows, 4\)"):
        fitted.predict(np.zeros((2, 5), dtype=np.float32))
