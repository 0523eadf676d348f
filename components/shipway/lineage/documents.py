"""The JSON documents that stages hand to one another as artifacts."""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shipway.errors import InputError
from shipway.lineage.digests import digest_json
from shipway.lineage.files import write_text


class Document(BaseModel):
    """A JSON document with a schema version."""

    model_config = ConfigDict(extra="forbid")

    schema_version: int = 1

    def write(self, path: str | Path) -> None:
        """Writes the document atomically.

        Raises:
            ValueError: A value is NaN or infinite.
        """
        write_text(path, self.model_dump_json(indent=2) + "\n")

    def content_digest(self) -> str:
        """Returns the digest of the document's content."""
        return digest_json(self.model_dump(mode="json"))


D = TypeVar("D", bound=Document)


def read_document(kind: type[D], path: str | Path) -> D:
    """Reads a document.

    Raises:
        InputError: The file is missing, or no document of this kind.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(f"{file}: no such {kind.__name__} document")
    try:
        return kind.model_validate_json(file.read_text())
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"])) or "document"
        raise InputError(f"{file}: not a {kind.__name__} document: {where}: {fault['msg']}") from error


def read_optional(kind: type[D], path: str | Path) -> D | None:
    """Reads a document, None where the file is empty: an artifact is always there, also when it has nothing to say."""
    file = Path(path)
    return None if file.is_file() and file.stat().st_size == 0 else read_document(kind, file)


class Breach(BaseModel):
    """One rule of the schema that a batch broke.

    Attributes:
        column: The column, or "" for a rule about the whole batch.
        rule: The rule, as the schema states it.
        rows: How many rows break it (None where rows do not count, as for a missing column).
        samples: A few of the offending values, as text.
        message: The whole breach in one sentence.
    """

    column: str
    rule: str
    rows: int | None
    samples: list[str] = Field(default_factory=list)
    message: str


class Findings(Document):
    """What validation found in a batch; warnings are breaches of rules that the schema itself marks as no more."""

    verdict: str
    rows: int
    breaches: list[Breach]
    warnings: list[Breach] = Field(default_factory=list)


class Grid(BaseModel):
    """Narrow bins of numbers, about 200: what drift is measured in.

    Attributes:
        edges: Rising bounds; bin i holds `edges[i - 1] <= value < edges[i]`.
        counts: How many values each bin holds, `len(edges) + 1` of them.
        sums: The sum of their distances from the column's mean, bin by bin.
    """

    edges: list[float]
    counts: list[int]
    sums: list[float]


class NumberStatistics(BaseModel):
    """A numeric column of the training part. Quantiles are at 0, 1, 5, 10, 25, 50, 75, 90, 95, 99 and 100 %.

    The histogram has `len(edges) + 1` counts: below the first edge, between each two, from the last upwards. The grid
    is one with more bins, None in an older package.
    """

    kind: str = "number"
    rows: int
    nulls: int
    mean: float | None
    std: float | None
    quantiles: list[float]
    edges: list[float]
    counts: list[int]
    grid: Grid | None = None


class CategoryStatistics(BaseModel):
    """A text or boolean column of the training part: the most frequent values with their counts, and all others.

    Attributes:
        kind: `category`.
        rows: Rows, those without a value included.
        nulls: Rows without a value.
        counts: The 100 most frequent values with their rows, by falling count.
        others: Rows with any other value.
        rare: Those other values, as far as 10,000 values in all go.
        distinct: How many distinct values there are; None in an older package.
    """

    kind: str = "category"
    rows: int
    nulls: int
    counts: dict[str, int]
    others: int
    rare: list[str] = Field(default_factory=list)
    distinct: int | None = None

    @property
    def complete(self) -> bool:
        """Whether all distinct values are listed, so that a new one can be told."""
        known = len(self.counts) + len(self.rare)
        return self.others == 0 if self.distinct is None else known == self.distinct


class Statistics(Document):
    """The training part, column by column: the baseline that drift is measured against."""

    rows: int
    label: NumberStatistics | CategoryStatistics
    columns: dict[str, NumberStatistics | CategoryStatistics]


class PredictionStatistics(Document):
    """A model's predictions of the validation part: what later predictions are compared with.

    Binary tasks: the probability of the positive class; multiclass: the label; regression: the value.
    """

    values: NumberStatistics | CategoryStatistics


class SliceMetrics(BaseModel):
    """The metrics of the rows where a column has one value."""

    column: str
    value: str
    rows: int
    metrics: dict[str, float]


class ChampionComparison(BaseModel):
    """The champion scored on the same rows.

    Attributes:
        version: Its registry version.
        digest: Its model digest.
        metrics: Its metrics on these rows.
        difference: Challenger minus champion, by metric.
        worse_by: Upper 95 % bound, by paired bootstrap, of how much worse the challenger is (negative: surely better).
    """

    version: str
    digest: str
    metrics: dict[str, float]
    difference: dict[str, float]
    worse_by: dict[str, float]


class Evaluation(Document):
    """A model's metrics on the raw rows of the test part."""

    task: str
    model_digest: str
    data_version: str
    rows: int
    metrics: dict[str, float]
    slices: list[SliceMetrics] = Field(default_factory=list)
    min_slice_rows: int = 1
    champion: ChampionComparison | None = None
    details: dict[str, Any] = Field(default_factory=dict)


class RuleResult(BaseModel):
    """One gate rule, judged.

    Attributes:
        rule: The rule in words, as `roc_auc >= 0.84`.
        metric: The metric it is about.
        value: What was measured (None where there was nothing to measure).
        bound: What was asked for.
        passed: Whether it held.
        note: Why it failed or was left aside, where value and bound do not say it.
    """

    rule: str
    metric: str
    value: float | None = None
    bound: float
    passed: bool
    note: str = ""


class Blessing(Document):
    """The gate's verdict on one model: its digest, the evaluation's digest, and every rule."""

    decision: str
    model_digest: str
    evaluation_digest: str
    rules: list[RuleResult] = Field(default_factory=list)
    reasons: list[str] = Field(default_factory=list)


class Release(Document):
    """A registered version and where its package lies."""

    name: str
    version: str
    digest: str
    package_uri: str
    tracking_uri: str
    created: bool
    blessing: Blessing


class Deployment(Document):
    """What an endpoint serves after a deploy, and what it served before.

    Attributes:
        name: The model.
        endpoint: The kind of the endpoint.
        environment: `staging` or `production`.
        url: Where it answers.
        served_as: The model's name in URLs and headers.
        revision: The revision that has all the traffic.
        version: Its version in the registry.
        digest: The digest of its package.
        changed: Whether the traffic moved.
        previous_revision: The revision to come back to, which is still there without traffic; "" where none is.
        previous_version: Its version.
        previous_digest: The digest of its package.
    """

    name: str
    endpoint: str
    environment: str = "staging"
    url: str
    served_as: str
    revision: str
    version: str
    digest: str
    changed: bool
    previous_revision: str = ""
    previous_version: str = ""
    previous_digest: str = ""


class FeatureDrift(BaseModel):
    """How far a feature has moved from the training part; None where a measure does not apply or cannot be told.

    Attributes:
        kind: `number` or `category`.
        psi: Population stability index.
        js: Jensen-Shannon distance, base 2.
        wasserstein: Numbers: Wasserstein distance in standard deviations of the training part.
        ks: Numbers: Kolmogorov-Smirnov statistic.
        new_share: Text: share of the values that training never saw.
        null_share: Absolute difference between the shares of nulls.
        nulls: Share of nulls now.
        new_values: A few of the new values, with their rows.
        exceeded: The measures that are beyond their thresholds; with any the feature has drifted.
    """

    kind: str
    psi: float | None = None
    js: float | None = None
    wasserstein: float | None = None
    ks: float | None = None
    new_share: float | None = None
    null_share: float | None = None
    nulls: float | None = None
    new_values: dict[str, int] = Field(default_factory=dict)
    exceeded: list[str] = Field(default_factory=list)


class PredictionDrift(BaseModel):
    """How far the predictions have moved from those of the validation part; None where that cannot be told."""

    psi: float | None = None
    js: float | None = None


class Compared(BaseModel):
    """A figure and what it was before: on the test part, or just after the deployment. None: not known."""

    value: float | None = None
    baseline: float | None = None


class MonitorResult(BaseModel):
    """One monitor rule, judged.

    Attributes:
        rule: The rule in words, as `prediction_psi <= 0.2`.
        metric: The metric it is about.
        value: What was measured; None where there was nothing to measure.
        bound: The greatest, or least, value allowed.
        violated: Whether this check violates it.
        in_a_row: How many checks in a row have violated it, this one included.
        checks: How many must, before the action follows.
        acts: Whether the action follows.
        action: alert, retrain or rollback.
        note: What value and bound do not say, as which feature is the worst.
    """

    rule: str
    metric: str
    value: float | None = None
    bound: float | None = None
    violated: bool
    in_a_row: int = 0
    checks: int = 1
    acts: bool = False
    action: str = "alert"
    note: str = ""


class MonitorFindings(Document):
    """What a check of a model in use found.

    Attributes:
        model: The model's name.
        version: The version that was looked at.
        digest: Its package's digest.
        since: Beginning of the window (inclusive), ISO 8601, UTC.
        until: End of the window (exclusive), likewise.
        rows: Predictions in the window.
        source: `log` or `batch`.
        decision: ok, alert, retrain or rollback.
        reasons: Why, a sentence each; also why a check could not conclude.
        measures: Feature -> its drift.
        drifted: The features that have drifted, worst first.
        drifted_share: Their share of the features that are compared; None with too few rows.
        prediction: The drift of the predictions.
        performance: Metric -> its value on labelled rows, and on the test part.
        slices: The metrics of slices of the labelled rows.
        labelled_rows: Predictions whose labels are known.
        least_rows: Rows, or labelled rows, of which fewer say nothing about drift, or about performance.
        service: `error_rate`, `latency_p99_ms`, ... now and just after the deployment.
        rules: Every rule, judged.
    """

    model: str
    version: str
    digest: str = ""
    since: str
    until: str
    rows: int
    source: str = "log"
    decision: str
    reasons: list[str] = Field(default_factory=list)
    measures: dict[str, FeatureDrift] = Field(default_factory=dict)
    drifted: list[str] = Field(default_factory=list)
    drifted_share: float | None = None
    prediction: PredictionDrift = Field(default_factory=PredictionDrift)
    performance: dict[str, Compared] = Field(default_factory=dict)
    slices: list[SliceMetrics] = Field(default_factory=list)
    labelled_rows: int = 0
    least_rows: int = 1
    service: dict[str, Compared] = Field(default_factory=dict)
    rules: list[MonitorResult] = Field(default_factory=list)

    def gauges(self) -> dict[str, Any]:
        """Returns what Prometheus shows, by the metric's name without `shipway_`.

        What is not known is left out, and so is what too few rows say: alerts are raised by these figures.

        Returns:
            `drift_psi` (by feature), `drift_share`, `prediction_psi`, `performance` and `performance_baseline` (by
            metric), `checked_timestamp_seconds`.
        """
        performance = self.performance if self.labelled_rows >= self.least_rows else {}
        enough = self.rows >= self.least_rows
        values = {name: found.value for name, found in performance.items()}
        baselines = {name: found.baseline for name, found in performance.items()}
        gauges: dict[str, Any] = {
            "drift_psi": _known({name: found.psi for name, found in self.measures.items()} if enough else {}),
            "performance": _known(values),
            "performance_baseline": _known(baselines),
            "checked_timestamp_seconds": datetime.fromisoformat(self.until).timestamp(),
        }
        prediction = self.prediction.psi if enough else None
        return {**gauges, **_known({"drift_share": self.drifted_share, "prediction_psi": prediction})}


def _known(values: Mapping[str, float | None]) -> dict[str, float]:
    return {name: value for name, value in values.items() if value is not None}
