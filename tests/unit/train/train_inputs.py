"""Small parts of a made-up table, as featurize leaves them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from shipway.dataset import DatasetWriter
from shipway.lineage.documents import NumberStatistics, Statistics
from shipway.model.preprocessor import LABEL_COLUMN, ModelFacts
from shipway.model.signature import InputColumn
from shipway.model.tabular import CategoryTransform, NumberTransform, TabularPreprocessor
from shipway.spec import SklearnTrain, TorchTrain, dump_section
from shipway.train.data import FeatureData

CLASSES: dict[str, list[Any]] = {"binary": [0, 1], "multiclass": ["a", "b", "c"], "regression": []}

PROGRAM = """
import json, sys
from dataclasses import asdict
from shipway.errors import ShipwayError
from shipway.train.run import train_model
try:
    print(json.dumps(asdict(train_model(**json.loads(sys.argv[1])))))
except ShipwayError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
"""


@dataclass
class Inputs:
    """The arguments of `train_model`, but for the section."""

    folder: Path

    def arguments(self, section: str, model: Path) -> dict[str, str]:
        names = ("train_features", "validation_features", "validation", "preprocessor", "statistics")
        return {**{name: str(self.folder / name) for name in names}, "model": str(model), "section": section}

    def command(self, section: str, model: Path) -> list[str]:
        return [sys.executable, "-c", PROGRAM, json.dumps(self.arguments(section, model))]


def torch_section(**settings: Any) -> str:
    return dump_section(TorchTrain(trainer="torch", **settings))


def sklearn_section(**settings: Any) -> str:
    return dump_section(SklearnTrain(trainer="sklearn", **settings))


def raw_rows(rows: int, task: str, seed: int) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=rows), rng.normal(size=rows)
    kind = rng.choice(["red", "green", "blue"], size=rows)
    score = x - 2 * y + 1.5 * (kind == "red") + rng.normal(size=rows) * 0.3
    label: Any = score * 1000 + 50_000
    if task == "binary":
        label = (score > 0).astype(np.int64)
    elif task == "multiclass":
        label = np.array(CLASSES[task])[np.digitize(score, [-1, 1])]
    frame = pl.DataFrame({"x": x, "y": y, "kind": kind, "label": label})
    return frame.with_columns(pl.when(pl.col("x") > 1.8).then(None).otherwise(pl.col("x")).alias("x"))


def preprocessor_for(task: str) -> TabularPreprocessor:
    return TabularPreprocessor(
        ModelFacts(name="thing", task=task, label="label", classes=CLASSES[task]),
        [
            InputColumn(name="x", kind="number", nullable=True),
            InputColumn(name="y", kind="number", nullable=False),
            InputColumn(name="kind", kind="category", nullable=False),
        ],
        [
            NumberTransform(column="x", impute=0.1, mean=0.0, std=1.1, indicator=True),
            NumberTransform(column="y", impute=0.0, mean=0.05, std=0.9, indicator=False),
        ],
        [CategoryTransform(column="kind", values=["blue", "green", "red"], missing=False)],
    )


def make_inputs(folder: Path, task: str = "binary", rows: int = 600, shuffle: int | None = None) -> Inputs:
    """Writes the inputs of the train step; `shuffle` puts the same rows in another order and other parts."""
    preprocessor = preprocessor_for(task)
    preprocessor.save(folder / "preprocessor")
    for position, (part, size) in enumerate([("train", rows), ("validation", rows // 3)]):
        raw = raw_rows(size, task, seed=position)
        if shuffle is not None:
            raw = raw.sample(fraction=1.0, shuffle=True, seed=shuffle)
        features = pl.DataFrame(preprocessor.transform(raw), schema=preprocessor.features)
        label = raw["label"]
        if CLASSES[task]:
            label = label.replace_strict(CLASSES[task], list(range(len(CLASSES[task]))), return_dtype=pl.Int64)
        features = features.with_columns(label.alias(LABEL_COLUMN))
        step = rows if shuffle is None else 7
        for name, frame in [(f"{part}_features", features), (part, raw)]:
            with DatasetWriter(folder / name, part_rows=step * 10) as writer:
                for piece in frame.iter_slices(step):
                    writer.write(piece)
    numbers = NumberStatistics(rows=rows, nulls=0, mean=0.0, std=1.0, quantiles=[0.0] * 11, edges=[0.0], counts=[1, 1])
    Statistics(rows=rows, label=numbers, columns={"x": numbers}).write(folder / "statistics")
    return Inputs(folder)


def run_training(inputs: Inputs, section: str, model: Path, **variables: str) -> dict[str, Any]:
    """Trains in a process of its own and returns the result."""
    done = subprocess.run(
        inputs.command(section, model),
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def run_graph(graph: Any, features: np.ndarray) -> np.ndarray:
    """Checks an estimator's graph and returns its prediction."""
    import onnx
    import onnxruntime

    onnx.checker.check_model(graph, full_check=True)
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    assert [value.name for value in session.get_inputs()] == ["features"]
    assert [value.name for value in session.get_outputs()] == ["prediction"]
    result: np.ndarray = session.run(None, {"features": features})[0]
    return result


def data(classes: int, rows: int = 400, seed: int = 0) -> FeatureData:
    """Returns features and the target that follows from them, for a trainer alone."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(rows, 4)).astype(np.float32)
    score = features[:, 0] - features[:, 1] + rng.normal(size=rows) * 0.2
    target: Any = score.astype(np.float64)
    if classes:
        target = np.digitize(score, np.quantile(score, np.arange(1, classes) / classes))
    return FeatureData(features, target, list("abcd"), "sha256:0")
