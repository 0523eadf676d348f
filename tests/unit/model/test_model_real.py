"""Packages of the real estimators, native against ONNX."""

import numpy as np
import polars as pl
import pytest

from shipway.lineage.digests import digest_tree
from shipway.model.package import Package, build_package
from shipway.model.preprocessor import ModelFacts
from shipway.model.signature import InputColumn
from shipway.model.tabular import CategoryTransform, NumberTransform, TabularPreprocessor

INPUTS = [
    InputColumn(name="dep delay", kind="number", nullable=True),
    InputColumn(name="night", kind="boolean", nullable=False),
    InputColumn(name="carrier", kind="category", nullable=True),
]


def raw(rows=300):
    draw = np.random.default_rng(0)
    return pl.DataFrame(
        {
            "dep delay": [None if value < -1 else float(value) for value in draw.normal(size=rows)],
            "night": draw.integers(0, 2, rows).astype(bool),
            "carrier": [["UA", "é", None][value] for value in draw.integers(0, 3, rows)],
        }
    )


def preprocessor(task):
    return TabularPreprocessor(
        ModelFacts(name="demo", task=task, label="y", classes=[] if task == "regression" else [0, 1]),
        INPUTS,
        [
            NumberTransform(column="dep delay", impute=0.5, mean=0.1, std=1.3, indicator=True),
            NumberTransform(column="night", impute=0.0, mean=0.0, std=1.0, indicator=False),
        ],
        [CategoryTransform(column="carrier", values=["UA", "é"], missing=True)],
    )


def sklearn_estimator(task, features):
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    from shipway.model.sklearn_estimator import SklearnEstimator

    target = features[:, 0] * 1e5 + features[:, 1]
    if task == "regression":
        model = HistGradientBoostingRegressor(max_iter=5, random_state=0).fit(features, target)
        return SklearnEstimator(model, task, features.shape[1], 1)
    model = HistGradientBoostingClassifier(max_iter=5, random_state=0).fit(features, target > 0)
    return SklearnEstimator(model, task, features.shape[1], 2)


def torch_estimator(task, features):
    import torch

    from shipway.model.torch_estimator import TorchEstimator, TorchState, build_network

    outputs = 1 if task == "regression" else 2
    state = TorchState(task=task, inputs=features.shape[1], outputs=outputs, hidden=[8], target_std=1e5)
    torch.manual_seed(0)
    return TorchEstimator(state, build_network(state).state_dict())


@pytest.mark.parametrize("make", [sklearn_estimator, torch_estimator])
@pytest.mark.parametrize("task", ["binary", "regression"])
def test_real_estimators_give_the_same_through_both_forms(tmp_path, make, task):
    rows = raw()
    digests = set()
    for place in ("one", "two"):
        folder = tmp_path / place
        fitted = preprocessor(task)
        fitted.save(folder / "preprocessor")
        (folder / "statistics.json").write_text("{}\n")
        package = build_package(
            folder / "package",
            preprocessor_folder=folder / "preprocessor",
            estimator=make(task, np.ascontiguousarray(fitted.transform(rows))),
            statistics_path=folder / "statistics.json",
            check_rows=rows,
            trainer=make.__name__.removesuffix("_estimator"),
        )
        digests.add(package.digest)
    assert digests == {digest_tree(tmp_path / "two" / "package")}
    assert package.info.onnx_note == ""
    native = Package.load(package.path, onnx=False)
    assert not native.runs_onnx
    assert np.allclose(native.predict(rows), package.predict(rows), rtol=1e-4, atol=1e-4)
    columns = package.columns_from_rows(rows.to_dicts())
    assert np.allclose(native.predict_columns(columns), package.predict_columns(columns), rtol=1e-4, atol=1e-4)
    assert digest_tree(package.path) == package.digest
