"""Small real packages and batches, and the three steps between them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from shipway.dataset import DatasetWriter
from shipway.featurize.fit import featurize
from shipway.lineage.batches import BatchInfo
from shipway.lineage.documents import Blessing, Release, read_document
from shipway.model.package import Package, build_package
from shipway.model.preprocessor import load_preprocessor
from shipway.model.sklearn_estimator import SklearnEstimator
from shipway.predict.gather import GatheredBatch, gather_shares
from shipway.predict.stage import Share, predict_share
from shipway.spec import DataSection, FeaturesSection, SchemaSection, Task
from shipway.validate.screen import Screening, screen_rows

SCHEMA = """
columns:
  id: {dtype: int64, unique: true}
  day: {dtype: date}
  distance: {dtype: float64, nullable: true, in_range: {min_value: -10, max_value: 10}}
  seats: {dtype: int64, nullable: true}
  night: {dtype: bool, nullable: true}
  carrier: {dtype: str, nullable: true, str_length: {max_value: 4}}
  %s
"""
LABELS = {
    "binary": "late: {dtype: bool}",
    "multiclass": "late: {dtype: str}",
    "regression": "late: {dtype: float64}",
}
DATA = {"loader": "loader.py:load", "label": "late", "key": ["id"]}
PART_ROWS = 500


def rows(count: int, seed: int = 0) -> pl.DataFrame:
    """Returns raw rows without a label."""
    draw = np.random.default_rng(seed)
    return pl.DataFrame(
        {
            "id": np.arange(count) + 1000,
            "day": pl.Series(draw.integers(15_000, 16_000, count), dtype=pl.Int32).cast(pl.Date),
            "distance": [None if value < -1.5 else float(value) for value in draw.normal(size=count)],
            "seats": draw.integers(20, 300, count),
            "night": [[True, False, None][value] for value in draw.integers(0, 3, count)],
            "carrier": [["UA", "é", None, "AA"][value] for value in draw.integers(0, 4, count)],
        }
    )


def labelled(count: int, task: Task, seed: int = 1) -> pl.DataFrame:
    """Returns raw rows with a label."""
    frame = rows(count, seed)
    score = frame["distance"].fill_null(0.0).to_numpy() + np.random.default_rng(seed).normal(size=count) * 0.5
    label: Any = score
    if task == "binary":
        label = score > 0.5
    elif task == "multiclass":
        label = np.array(["early", "in time", "late"])[np.digitize(score, [-0.5, 0.5])].tolist()
    return frame.with_columns(late=pl.Series(label))


def write(folder: Path, frame: pl.DataFrame, part_rows: int = PART_ROWS) -> Path:
    """Writes rows as a dataset."""
    with DatasetWriter(folder, part_rows=part_rows) as writer:
        writer.write(frame)
    return folder


def section(body: dict[str, Any]) -> str:
    """Returns a section as a pipeline parameter."""
    return json.dumps({"section": body, "code": ""})


def make_package(folder: Path, project: Path, task: Task = "binary", scale: float = 1.0) -> Package:
    """Featurizes some rows, trains a linear model on them, scales its coefficients and packages it."""
    from sklearn.linear_model import LinearRegression, LogisticRegression

    (project / "schema.yaml").write_text(SCHEMA % LABELS[task])
    parts = {name: write(folder / name, labelled(400, task, seed)) for name, seed in (("train", 1), ("validation", 2))}
    outputs = {name: folder / name for name in ("train_features", "validation_features", "preprocessor")}
    featurize(
        parts["train"],
        parts["validation"],
        **outputs,
        statistics=folder / "statistics.json",
        name="flights",
        task=task,
        data=DataSection.model_validate(DATA),
        schema=SchemaSection(pandera="schema.yaml"),
        features=FeaturesSection(drop=["day"]),
    )
    preprocessor = load_preprocessor(outputs["preprocessor"])
    fitted = {
        name: (preprocessor.transform(frame), frame["late"].to_numpy())
        for name, frame in ((name, pl.read_parquet(path / "*.parquet")) for name, path in parts.items())
    }
    model = (LinearRegression() if task == "regression" else LogisticRegression()).fit(*fitted["train"])
    model.coef_ = model.coef_ * scale
    classes = len(preprocessor.facts.classes) or 1
    estimator = SklearnEstimator(model, task, len(preprocessor.features), classes)
    return build_package(
        folder / "package",
        preprocessor_folder=outputs["preprocessor"],
        estimator=estimator,
        statistics_path=folder / "statistics.json",
        check_rows=labelled(400, task, 2),
        trainer="sklearn",
        predictions=estimator.predict(fitted["validation"][0]),
    )


@dataclass
class Batch:
    """A batch of rows, and what the steps make of it.

    Attributes:
        folder: Where everything goes.
        package: What scores.
        inference: The spec's section.
        evaluate: The spec's section.
    """

    folder: Path
    package: Package
    inference: dict[str, Any] = field(default_factory=dict)
    evaluate: dict[str, Any] = field(default_factory=dict)
    version: str = "3"

    def release(self) -> Path:
        """Writes the Release document of the version that scores."""
        path = self.folder / "release.json"
        Release(
            name="flights",
            version=self.version,
            digest=self.package.digest,
            package_uri=str(self.package.path),
            tracking_uri="",
            created=False,
            blessing=Blessing(decision="blessed", model_digest=self.package.digest, evaluation_digest=""),
        ).write(path)
        return path

    def screen(self, frame: pl.DataFrame, part_rows: int = PART_ROWS) -> Screening:
        """Writes the rows and screens them."""
        dataset = write(self.folder / "rows", frame, part_rows)
        found = screen_rows(
            dataset, self.folder / "quarantine", section({"pandera": "schema.yaml"}), section(DATA), self._inference
        )
        found.write(self.folder / "findings.json", self.folder / "screen.html")
        return found

    def predict(self, partition: str = "0/1", run_id: str = "run-1") -> Share:
        """Scores a share."""
        name = partition.replace("/", "of")
        inputs = self.folder / "rows", self.folder / "quarantine", self.release()
        outputs = self.folder / f"share-{name}", self.folder / f"profile-{name}.json"
        return predict_share(*inputs, *outputs, self._inference, section(DATA), partition, run_id)

    def gather(self, *partitions: str) -> GatheredBatch:
        """Puts the shares together."""
        names = [partition.replace("/", "of") for partition in partitions or ("0/1",)]
        return gather_shares(
            self.release(),
            self.folder / "quarantine",
            [self.folder / f"share-{name}" for name in names],
            [self.folder / f"profile-{name}.json" for name in names],
            self.folder / "predictions",
            self.folder / "profile.json",
            self.folder / "report.html",
            self._inference,
            section(self.evaluate),
            section(DATA),
        )

    def score(self, frame: pl.DataFrame, run_id: str = "run-1") -> pl.DataFrame:
        """Takes rows through all three steps and returns the predictions."""
        self.screen(frame).require()
        self.predict(run_id=run_id)
        self.gather()
        return self.predictions()

    def predictions(self) -> pl.DataFrame:
        """Returns the gathered predictions."""
        return pl.read_parquet(self.folder / "predictions" / "part-*.parquet")

    def info(self) -> BatchInfo:
        """Returns the gathered batch's description."""
        return read_document(BatchInfo, self.folder / "predictions" / "batch.json")

    @property
    def _inference(self) -> str:
        return section(self.inference)
