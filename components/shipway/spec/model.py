"""ModelSpec: what a user may write in `shipway.yaml`."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from shipway.spec.metrics import LATENCY, Task, metric_names
from shipway.spec.resources import (
    KubeflowSection,
    Stage,
    StageResources,
    Step,
    VertexSection,
    check_resources,
    duration_seconds,
    resources_of,
)
from shipway.spec.rollout import EndpointSection, RolloutSection, rollout_problems
from shipway.spec.watch import InferenceSection, MonitorSection, NotifySection, watch_problems

_NAME = r"^[a-z]([a-z0-9-]{0,48}[a-z0-9])?$"
_PERIOD = r"^[1-9][0-9]*(d|w|mo|y)$"


class Section(BaseModel):
    """A part of the spec: unknown keys are refused, and numbers must be numbers."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, populate_by_name=True)


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _as_date_text(value: Any) -> Any:
    # YAML turns an unquoted 2013-11-01 into a date of its own accord.
    return value.isoformat() if isinstance(value, (dt.date, dt.datetime)) else value


Names = Annotated[list[str], BeforeValidator(_as_list)]
Period = Annotated[str, Field(pattern=_PERIOD)]
Share = Annotated[float, Field(ge=0, le=1)]


class DataSection(Section):
    """Where the rows come from and which columns have a role."""

    uri: str | None = Field(
        None, description="fsspec URI or glob of Parquet or CSV files; a relative path starts at the project folder."
    )
    loader: str | None = Field(
        None, description="FILE.py:FUNCTION returning (or yielding) Polars or pandas frames, instead of a URI."
    )
    format: Literal["auto", "parquet", "csv"] = Field("auto", description="auto goes by the file's ending.")
    null_values: Names = Field(
        default_factory=list,
        description="CSV: texts that mean a missing value in any column, as NA; an empty cell does.",
    )
    label: str = Field(description="The column to predict.")
    positive: str | int | bool | None = Field(
        None, description="Binary tasks: the label that counts as positive; default: true, 1 or the greater one."
    )
    key: Names = Field(
        default_factory=list, description="Columns that together identify a row; never features, never in two parts."
    )
    time: str | None = Field(None, description="Column with the time of the event; never a feature.")

    @model_validator(mode="after")
    def _one_source(self) -> DataSection:
        if (self.uri is None) == (self.loader is None):
            raise ValueError("give either uri or loader")
        return self


class RowBounds(Section):
    """How many rows a batch may have."""

    min: int = Field(1, ge=0)
    max: int | None = Field(None, ge=1)


class SchemaSection(Section):
    """What a batch must look like."""

    pandera: str = Field(description="Pandera's YAML, or FILE.py:NAME of a DataFrameModel or DataFrameSchema.")
    rows: RowBounds = Field(default_factory=lambda: RowBounds(min=1), description="Bounds of the row count.")
    nulls: dict[str, Share] = Field(default_factory=dict, description="Column -> greatest share of nulls allowed.")


class TimeSplit(Section):
    """Parts by time: ... train | validation | test, the test part ending (exclusive) at `until`."""

    by: Literal["time"]
    column: str | None = Field(None, description="Default: data.time.")
    until: Annotated[str, BeforeValidator(_as_date_text)] = Field(
        "latest",
        description="ISO date or time where the test part ends, or latest: the end of the newest row's period.",
    )
    test: Period = Field(description="Length of the test part: a number and d, w, mo or y.")
    validation: Period = Field(description="Length of the validation part.")
    train: Period | None = Field(None, description="Length of the training part; default: all earlier rows.")

    @model_validator(mode="after")
    def _readable_until(self) -> TimeSplit:
        if self.until != "latest":
            try:
                dt.datetime.fromisoformat(self.until)
            except ValueError as error:
                raise ValueError(f"until: expected an ISO date, time or 'latest', found {self.until!r}") from error
        return self


class HashSplit(Section):
    """Parts by a stable hash of key columns: rows with equal keys always share a part."""

    by: Literal["hash"]
    columns: Names = Field(default_factory=list, description="Default: data.key.")
    train: Share = 0.7
    validation: Share = 0.15
    test: Share = 0.15
    seed: int = 0

    @model_validator(mode="after")
    def _whole(self) -> HashSplit:
        total = self.train + self.validation + self.test
        if abs(total - 1) > 1e-9:
            raise ValueError(f"train + validation + test must be 1, found {total:g}")
        return self


class ColumnSplit(Section):
    """Parts by the values of a column; rows with other values are left out and counted."""

    by: Literal["column"]
    column: str
    train: list[str | int | bool]
    validation: list[str | int | bool]
    test: list[str | int | bool]


SplitSection = Annotated[TimeSplit | HashSplit | ColumnSplit, Field(discriminator="by")]


class FeaturesSection(Section):
    """How raw columns become features; the defaults fit most tables."""

    drop: Names = Field(
        default_factory=list, description="Columns that are no features; label, key and time never are."
    )
    impute: Literal["median", "mean"] = Field("median", description="What replaces a missing number.")
    scale: Literal["standard", "none"] = Field("standard", description="standard: zero mean, unit variance.")
    max_categories: int = Field(
        100,
        ge=1,
        le=10_000,
        description="The most frequent values of a text column get a column each, the rest share one.",
    )
    transformer: str | None = Field(
        None, description="FILE.py:FUNCTION returning an unfitted scikit-learn transformer, instead of the defaults."
    )


class TorchTrain(Section):
    """A multilayer perceptron, or a network of one's own, trained with AdamW."""

    trainer: Literal["torch"]
    seed: int = Field(0, ge=0)
    hidden: list[Annotated[int, Field(ge=1)]] = Field(
        default_factory=lambda: [64, 32], description="Widths of the hidden layers."
    )
    dropout: float = Field(0.0, ge=0, lt=1)
    epochs: int = Field(10, ge=1)
    batch_size: int = Field(1024, ge=1)
    lr: float = Field(1e-3, gt=0)
    weight_decay: float = Field(1e-4, ge=0)
    patience: int = Field(3, ge=1, description="Epochs without a better validation loss before training stops.")
    network: str | None = Field(
        None, description="FILE.py:FUNCTION(inputs, outputs) returning a torch.nn.Module that gives logits or values."
    )


class SklearnTrain(Section):
    """Any scikit-learn estimator by import path."""

    trainer: Literal["sklearn"]
    seed: int = Field(0, ge=0)
    estimator: str | None = Field(
        None, description="Import path, as sklearn.linear_model:LogisticRegression; default: HistGradientBoosting."
    )
    params: dict[str, Any] = Field(default_factory=dict, description="Keyword arguments of the estimator.")


TrainSection = Annotated[TorchTrain | SklearnTrain, Field(discriminator="trainer")]


class EvaluateSection(Section):
    """What is measured on the test part besides the task's metrics."""

    slices: Names = Field(default_factory=list, description="Raw columns whose values are measured one by one.")
    min_slice_rows: int = Field(50, ge=1, description="Slices with fewer rows are reported but never gated on.")
    threshold: float = Field(0.5, gt=0, lt=1, description="Binary tasks: probability from which a row is positive.")
    latency_rows: int = Field(200, ge=1, description="Single-row predictions timed for the latency percentiles.")


class GateRule(Section):
    """One condition a model must meet to be blessed."""

    metric: str
    min: float | None = None
    max: float | None = None
    champion_margin: float | None = Field(
        None, ge=0, description="Not worse than the champion by more than this (95 % paired bootstrap bound)."
    )
    slice: str | None = Field(None, description="With max_gap: the column whose slices are compared.")
    max_gap: float | None = Field(None, ge=0, description="Greatest difference between the best and the worst slice.")

    @model_validator(mode="after")
    def _has_bound(self) -> GateRule:
        if self.min is None and self.max is None and self.champion_margin is None and self.max_gap is None:
            raise ValueError("a rule needs min, max, champion_margin, or slice with max_gap")
        if (self.slice is None) != (self.max_gap is None):
            raise ValueError("slice and max_gap belong together")
        return self


class ModelSpec(Section):
    """One model: its data, schema, split, features, training, evaluation, gates, where it runs and is served."""

    name: str = Field(pattern=_NAME, description="Lower-case letters, digits and dashes; names the registry entry too.")
    task: Task
    data: DataSection
    data_schema: SchemaSection = Field(alias="schema")
    split: SplitSection
    features: FeaturesSection = Field(default_factory=lambda: FeaturesSection(drop=[]))
    train: TrainSection = Field(default_factory=lambda: SklearnTrain(trainer="sklearn"))
    evaluate: EvaluateSection = Field(default_factory=lambda: EvaluateSection(slices=[]))
    gates: list[GateRule] = Field(
        default_factory=list, description="All must hold for a blessing; without any there is no blessing."
    )
    resources: dict[Stage, StageResources] = Field(
        default_factory=dict, description="Step -> what its container gets; `default` is for every step."
    )
    kubeflow: KubeflowSection = Field(default_factory=lambda: KubeflowSection(ttl=None))
    vertex: VertexSection = Field(default_factory=lambda: VertexSection(location="us-central1"))
    endpoint: EndpointSection = Field(default_factory=lambda: EndpointSection(kind=None))
    rollout: RolloutSection = Field(default_factory=lambda: RolloutSection(strategy="canary"))
    inference: InferenceSection = Field(default_factory=lambda: InferenceSection(version="champion"))
    monitor: MonitorSection = Field(default_factory=lambda: MonitorSection(window="24h"))
    notify: NotifySection = Field(default_factory=lambda: NotifySection(github=None))

    @model_validator(mode="after")
    def _fits_together(self) -> ModelSpec:
        problems: list[str] = []
        if self.data.positive is not None and self.task != "binary":
            problems.append(f"data.positive: only for binary tasks, this one is {self.task}")
        if isinstance(self.split, TimeSplit) and not (self.split.column or self.data.time):
            problems.append("split.column: a split by time needs it, or data.time")
        if isinstance(self.split, HashSplit) and not (self.split.columns or self.data.key):
            problems.append("split.columns: a split by hash needs them, or data.key")
        if self.data.label in (*self.data.key, self.data.time, *self.features.drop):
            problems.append(f"data.label: {self.data.label!r} cannot also be key, time or dropped")
        for index, rule in enumerate(self.gates):
            where = f"gates.{index}"
            if rule.metric not in metric_names(self.task):
                problems.append(
                    f"{where}.metric: no metric {rule.metric!r} for {self.task} tasks; "
                    f"there are {', '.join(metric_names(self.task))}"
                )
            if rule.metric in LATENCY and (rule.slice or rule.champion_margin is not None):
                problems.append(f"{where}: a latency takes min or max only")
            if rule.slice is not None and rule.slice not in self.evaluate.slices:
                problems.append(f"{where}.slice: {rule.slice!r} is not one of evaluate.slices {self.evaluate.slices}")
        image = self.resources_of("train").image
        if isinstance(self.train, TorchTrain) and image not in (None, "trainer"):
            problems.append(f"resources.train.image: trainer torch needs image trainer, found {image!r}")
        problems += check_resources(self.resources, self.kubeflow.retries)
        problems += watch_problems(self.monitor, self.task, self.data.key)
        if "rollout" in self.model_fields_set:
            problems += rollout_problems(self.endpoint, self.rollout)
        patience = self.resources["rollout"].timeout if "rollout" in self.resources else None
        if patience and duration_seconds(patience) < self.rollout.least_seconds:
            problems.append(
                f"resources.rollout.timeout: {patience} would cut off the rollout, which bakes and keeps warm for "
                f"{self.rollout.least_seconds} s at least"
            )
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def resources_of(self, step: Step) -> StageResources:
        """Returns what a step's container gets: its own settings over the default's."""
        return resources_of(self.resources, step)

    def excluded_columns(self) -> list[str]:
        """Returns the columns that can never be features: label, key, time and those dropped."""
        names = [self.data.label, *self.data.key, *([self.data.time] if self.data.time else []), *self.features.drop]
        return list(dict.fromkeys(names))
