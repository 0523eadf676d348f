"""The JSON documents that stages hand to one another as artifacts."""

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


class NumberStatistics(BaseModel):
    """A numeric column of the training part. Quantiles are at 0, 1, 5, 10, 25, 50, 75, 90, 95, 99 and 100 %.

    The histogram has `len(edges) + 1` counts: below the first edge, between each two, from the last upwards.
    """

    kind: str = "number"
    rows: int
    nulls: int
    mean: float | None
    std: float | None
    quantiles: list[float]
    edges: list[float]
    counts: list[int]


class CategoryStatistics(BaseModel):
    """A text or boolean column of the training part: the most frequent values with their counts, and all others."""

    kind: str = "category"
    rows: int
    nulls: int
    counts: dict[str, int]
    others: int


class Statistics(Document):
    """The training part, column by column: the baseline that drift is measured against."""

    rows: int
    label: NumberStatistics | CategoryStatistics
    columns: dict[str, NumberStatistics | CategoryStatistics]


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
