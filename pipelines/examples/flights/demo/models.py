"""The models of the rollout demonstration: a champion, a good candidate, and three that only live traffic finds out.

Each goes the whole way through the stages' own logic, gates included, and is registered as any version is. The bad ones
pass their gates honestly: their rows lack what goes wrong later.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from shipway.evaluate.evaluate import evaluate
from shipway.featurize.fit import featurize
from shipway.gate.rules import judge_model
from shipway.ingest.read import ingest
from shipway.lineage.documents import Release
from shipway.model.package import Package
from shipway.register.register import register_model
from shipway.spec import ModelSpec, dump_section
from shipway.split.split import split_dataset
from shipway.train.run import train_model

_OLD_CARRIERS = ("UA", "EV", "DL", "AA", "US", "9E")


@dataclass(frozen=True)
class Variant:
    """A model of the demonstration.

    Attributes:
        about: What it is, in a few words.
        features: The spec's section `features`, where it differs.
        rows: Makes its rows of the loader's.
    """

    about: str
    features: dict[str, str] = field(default_factory=dict)
    rows: Callable[[pl.DataFrame], pl.DataFrame] = lambda rows: rows


def _first_half(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.filter(pl.col("scheduled_departure").dt.day() <= 15)


def _known_carriers(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.filter(pl.col("carrier").is_in(_OLD_CARRIERS))


def _seconds(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.with_columns(departure_delay=pl.col("departure_delay") * 60)


VARIANTS = {
    "champion": Variant("trained on half of the rows", rows=_first_half),
    "good": Variant("trained on all rows"),
    "slow": Variant("waits for a feature store", {"transformer": "demo/slow.py:transformer"}),
    "erroring": Variant(
        "fails on carriers it has not seen", {"transformer": "demo/strict.py:transformer"}, _known_carriers
    ),
    "shifted": Variant("trained on delays in seconds, asked in minutes", rows=_seconds),
}


def build(spec: ModelSpec, rows: pl.DataFrame, variant: Variant) -> Release:
    """Trains, judges and registers a variant; the same rows and spec give the same version.

    Raises:
        NotBlessedError: A gate does not hold.
    """
    with tempfile.TemporaryDirectory(prefix="shipway-demo-") as scratch:
        work = Path(scratch)
        variant.rows(rows).write_parquet(work / "rows.parquet")
        dataset = ingest(spec.data, str(work / "rows.parquet"), work / "dataset")
        parts: dict[str, str | Path] = {name: work / name for name in ("train", "validation", "test")}
        split_dataset(work / "dataset", parts, spec.split, spec.data)
        made = {name: work / name for name in ("train_features", "validation_features", "preprocessor", "statistics")}
        section = spec.features.model_copy(update=dict(variant.features))
        featurize(
            parts["train"],
            parts["validation"],
            **made,
            name=spec.name,
            task=spec.task,
            data=spec.data,
            schema=spec.data_schema,
            features=section,
        )
        trained = train_model(
            **made, validation=parts["validation"], model=work / "model", section=dump_section(spec.train)
        )
        package = Package.load(work / "model")
        evaluation = evaluate(package, parts["test"], spec.evaluate, spec.data)
        blessing = judge_model(spec.gates, evaluation, work / "model")
        return register_model(
            work / "model", evaluation, blessing, spec.name, dataset.version, "", trained.mlflow_run_id
        )
