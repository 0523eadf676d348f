"""A model that was trained, tested and registered by the real steps, and what it did in production since."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl

from shipway.dataset import DatasetWriter
from shipway.endpoints.protocol import revision_id
from shipway.evaluate.evaluate import evaluate_package
from shipway.featurize.fit import featurize
from shipway.lineage.documents import Blessing, Release
from shipway.model.package import Package
from shipway.monitor.observe import observe
from shipway.monitor.stage import Check, monitor
from shipway.register.register import register_model
from shipway.serving.prediction_log import PredictionLog
from shipway.serving.telemetry import Telemetry
from shipway.spec import (
    DataSection,
    EndpointSection,
    EndpointSettings,
    EvaluateSection,
    FeaturesSection,
    SchemaSection,
    SklearnTrain,
    dump_endpoint,
    dump_section,
)
from shipway.spec.metrics import Task
from shipway.spec.rollout import LogSection
from shipway.spec.watch import MonitorSection
from shipway.train.run import train_model

NAME = "parcels"
NOW = 1_800_000_000.0
UNTIL = "2027-01-15T08:00:00+00:00"
HOUR = 3600.0
DATA = DataSection(uri="rows.parquet", label="lost", key=["parcel"], positive="yes")
LABELS = {"binary": "lost", "multiclass": "size", "regression": "cost"}
SCHEMA = """\
columns:
  parcel: {dtype: int64}
  weight: {dtype: float64, nullable: true}
  pieces: {dtype: int64}
  express: {dtype: bool}
  depot: {dtype: str, nullable: true}
  lost: {dtype: str, nullable: true}
  size: {dtype: str}
  cost: {dtype: float64}
"""


def parcels(rows: int, seed: int, shift: float = 0.0, depots: str = "ABC") -> pl.DataFrame:
    """Returns made-up rows; with a shift they are heavier, and more of them are lost."""
    draw = np.random.default_rng(seed)
    weight, pieces = draw.normal(5 + shift, 2, rows), draw.integers(1, 9, rows)
    chance = 1 / (1 + np.exp(-(weight - 6 + 0.2 * pieces)))
    frame = pl.DataFrame(
        {
            "parcel": np.arange(rows) + seed * 1_000_000,
            "weight": weight,
            "pieces": pieces,
            "express": draw.random(rows) < 0.3,
            "depot": draw.choice(list(depots), rows),
            "lost": np.where(draw.random(rows) < chance, "yes", "no"),
            "size": np.array(["small", "fair", "large"])[np.digitize(weight + draw.normal(size=rows), [4, 6])],
            "cost": weight * 10 + pieces + draw.normal(size=rows),
        }
    )
    few = pl.col("parcel") % 50 == 0
    return frame.with_columns(pl.when(few).then(None).otherwise(pl.col("weight")).alias("weight"))


def data_of(task: Task) -> DataSection:
    """Returns the section data for a task."""
    return DATA if task == "binary" else DataSection(uri="rows.parquet", label=LABELS[task], key=["parcel"])


def register_parcels(folder: Path, name: str = NAME, task: Task = "binary") -> Release:
    """Trains, tests and registers a version, as the training pipeline does; `$SHIPWAY_PROJECT` is the folder."""
    (folder / "schema.yaml").write_text(SCHEMA)
    work, data = folder / f"run-{name}", data_of(task)
    others = [label for label in LABELS.values() if label != data.label]
    for number, (part, rows) in enumerate({"train": 3000, "validation": 800, "test": 1500}.items()):
        with DatasetWriter(work / part) as writer:
            writer.write(parcels(rows, 10 + number).drop(others))
    schema = SchemaSection(pandera="schema.yaml")
    featurize(
        work / "train",
        work / "validation",
        train_features=work / "train_features",
        validation_features=work / "validation_features",
        preprocessor=work / "preprocessor",
        statistics=work / "statistics.json",
        features=FeaturesSection(drop=others),
        schema=schema,
        data=data,
        task=task,
        name=name,
    )
    model = "LinearRegression" if task == "regression" else "LogisticRegression"
    train_model(
        train_features=work / "train_features",
        validation_features=work / "validation_features",
        validation=work / "validation",
        preprocessor=work / "preprocessor",
        statistics=work / "statistics.json",
        model=work / "model",
        section=dump_section(SklearnTrain(trainer="sklearn", estimator=f"sklearn.linear_model:{model}")),
    )
    evaluation = evaluate_package(
        work / "model", work / "test", EvaluateSection(slices=["depot"], latency_rows=2), data
    )
    blessing = Blessing(
        decision="blessed",
        model_digest=evaluation.model_digest,
        evaluation_digest=evaluation.content_digest(),
        rules=[],
    )
    return register_model(work / "model", evaluation, blessing, name, "sha256:data", "sha256:spec")


@dataclass
class World:
    """A version in production."""

    path: Path
    release: Release
    state: Path
    data: DataSection = DATA

    def __post_init__(self) -> None:
        self.release.write(self.path / "release.json")
        self.name = self.release.name
        self.log = str(self.path / "log")
        self.local = EndpointSection(kind="local", log=LogSection(uri=self.log))
        self.endpoint = dump_endpoint(EndpointSettings(endpoint=self.local))
        self.package = Package.load(self.release.package_uri)
        self.inputs = [column.name for column in self.package.info.inputs]

    def serve(
        self, rows: pl.DataFrame, first: float, *, apart: float = 1.0, size: int = 1, release: Release | None = None
    ) -> None:
        """Writes rows to production's log as a server does: so many rows a request, so many seconds apart."""
        served = release or self.release
        clock = SimpleNamespace(now=first)
        telemetry = Telemetry(self.name, log=PredictionLog(self.log), clock=lambda: clock.now)
        info: Any = self.package.info
        counter = telemetry.revision(revision_id(served.version, served.digest), served.version, info, ())
        prediction, asked = self.package.predict(rows), rows.select(self.inputs).to_dicts()
        for number, at in enumerate(range(0, rows.height, size)):
            clock.now = first + number * apart
            key = str(rows["parcel"][at])
            counter.answered(0.001, prediction[at : at + size], asked[at : at + size], key)
        telemetry.close()

    def labels(self, rows: pl.DataFrame, name: str = "labels.parquet", **columns: Any) -> str:
        """Writes what became of rows, and returns where."""
        path = self.path / "labels" / name
        path.parent.mkdir(exist_ok=True)
        rows.select("parcel", self.data.label, **columns).write_parquet(path)
        return str(path.parent)

    def section(self, **settings: Any) -> str:
        found = {"history": str(self.path / "history"), **settings}
        return dump_section(MonitorSection.model_validate(found))

    def observe(
        self, until: str = UNTIL, predictions: str = "", slices: list[str] | None = None, **settings: Any
    ) -> Any:
        return observe(
            self.path / "release.json",
            self.path / "observation",
            self.name,
            self.section(**settings),
            self.endpoint,
            dump_section(self.data),
            dump_section(EvaluateSection(slices=slices or [])),
            predictions,
            until,
        )

    def monitor(self, slices: list[str] | None = None, **settings: Any) -> Check:
        return monitor(
            self.path / "observation",
            self.path / "findings.json",
            self.path / "report.html",
            self.path / "drift.html",
            self.name,
            self.section(**settings),
            dump_section(EvaluateSection(slices=slices or [])),
        )

    def page(self, name: str = "report.html") -> str:
        return (self.path / name).read_text()

    def file(self, name: str) -> Any:
        return json.loads((self.path / "observation" / name).read_text())
