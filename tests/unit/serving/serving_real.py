"""Real packages, through `build_package` and scikit-learn."""

from pathlib import Path

import numpy as np
import polars as pl
from serving_releases import release_of

from shipway.lineage.documents import CategoryStatistics, Release, Statistics
from shipway.model.package import build_package
from shipway.model.preprocessor import ModelFacts
from shipway.model.signature import InputColumn
from shipway.model.sklearn_estimator import SklearnEstimator
from shipway.model.tabular import CategoryTransform, NumberTransform, TabularPreprocessor

CLASSES = {"binary": ["on time", "late"], "multiclass": ["a", "b", "c"], "regression": []}
INPUTS = [
    InputColumn(name="delay", kind="number", nullable=True),
    InputColumn(name="holiday", kind="boolean", nullable=True),
    InputColumn(name="carrier", kind="category", nullable=True),
]


def real_release(folder: Path, version: str, task: str = "binary") -> Release:
    """Builds a package that differs by its version, and returns its release."""
    from sklearn.linear_model import LinearRegression, LogisticRegression

    draw = np.random.default_rng(int(version))
    rows = pl.DataFrame(
        {
            "delay": [None if value < -1 else float(value) for value in draw.normal(size=60)],
            "holiday": [[True, False, None][value] for value in draw.integers(0, 3, 60)],
            "carrier": [["AA", "B'6 \"é$`\\", None][value] for value in draw.integers(0, 3, 60)],
        }
    )
    classes = CLASSES[task]
    preprocessor = TabularPreprocessor(
        ModelFacts(name="flights", task=task, label="late", classes=classes),
        INPUTS,
        [
            NumberTransform(column="delay", impute=0.5, mean=0.1, std=1.3, indicator=True),
            NumberTransform(column="holiday", impute=0.0, mean=0.0, std=1.0, indicator=True),
        ],
        [CategoryTransform(column="carrier", values=["AA", "B'6 \"é$`\\"], missing=True)],
    )
    work = folder / f"parts-{version}-{task}"
    (work / "preprocessor").mkdir(parents=True)
    preprocessor.save(work / "preprocessor")
    label = CategoryStatistics(rows=60, nulls=0, counts={}, others=0)
    Statistics(rows=60, label=label, columns={}).write(work / "statistics.json")
    features = preprocessor.transform(rows)
    if task == "regression":
        model = LinearRegression().fit(features, draw.normal(size=60))
    else:
        model = LogisticRegression().fit(features, np.arange(60) % len(classes))
    package = build_package(
        folder / f"package-{version}-{task}",
        preprocessor_folder=work / "preprocessor",
        estimator=SklearnEstimator(model, task, features.shape[1], len(classes) or 1),
        statistics_path=work / "statistics.json",
        check_rows=rows,
        trainer="sklearn",
    )
    assert package.info.onnx, package.info.onnx_note
    return release_of(package.path, package.digest, version)
