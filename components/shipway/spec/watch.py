"""How a model in use is watched: the spec's sections `inference`, `monitor` and `notify`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from shipway.spec.metrics import METRICS, Task
from shipway.spec.resources import FORMS, Duration, EnvironmentName, KubernetesName, PlatformPart

Decision = Literal["ok", "alert", "retrain", "rollback"]
Cause = Literal["rejected", "failed", "drift", "rollback", "approval", "live"]
FeatureMeasure = Literal["psi", "js", "wasserstein", "ks", "new_share", "null_share"]

_MONITORED = (
    r"^(drifted_share|prediction_psi|prediction_js|error_rate|latency_p99_ms|rows"
    r"|feature\.(psi|js|wasserstein|ks|new_share|null_share)|performance\.[a-z0-9_]+)$"
)
_REPOSITORY = r"^[\w.-]+/[\w.-]+$"
# Without a user's name and password, which have no place in a spec.
_ADDRESS = r"^https?://[^\s/@?#]+(/[^\s]*)?$"
FORMS.update(
    {
        _MONITORED: "drifted_share, prediction_psi, prediction_js, error_rate, latency_p99_ms, rows, "
        "feature.MEASURE or performance.METRIC",
        _REPOSITORY: "OWNER/REPOSITORY",
        _ADDRESS: "an http:// or https:// address without user name and password",
    }
)


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _causes(*causes: Cause) -> Callable[[], list[Cause]]:
    return lambda: list(causes)


Names = Annotated[list[str], BeforeValidator(_as_list)]
Address = Annotated[str, Field(pattern=_ADDRESS)]
Share = Annotated[float, Field(ge=0, le=1)]


class InferenceSection(PlatformPart):
    """Batch inference: which rows a version scores, and where the predictions go."""

    source: str | None = Field(
        None, description="fsspec URI or glob of the rows to score; default: what `data` names. --data overrides it."
    )
    version: str = Field("champion", description="The version that scores, by number or alias.")
    output: str | None = Field(
        None,
        description="Folder or fsspec URI that gets the predictions, in a folder a batch; default: the run's artifact "
        "only.",
    )
    columns: Names = Field(default_factory=list, description="Raw columns that the predictions carry besides the key.")
    slices: Names = Field(
        default_factory=list, description="Raw columns whose values the report counts; default: evaluate.slices."
    )
    max_quarantine: Share = Field(
        0.0, description="Greatest share of rows that may fail validation and be set aside; more fail the run."
    )
    partitions: int = Field(1, ge=1, le=256, description="Steps that score side by side, each its share of the parts.")
    schedule: str = Field("0 2 * * *", description="Cron of `shipway schedule --pipeline inference`.")


class LabelsSection(PlatformPart):
    """What turned out to be true, joined with the predictions by key."""

    uri: str = Field(description="Parquet (fsspec URI or glob) with a row a key; read anew at each check.")
    key: Names = Field(default_factory=list, description="Columns that hold the key; default: data.key.")
    label: str | None = Field(None, description="Column with the label; default: data.label.")
    late: Duration = Field("30d", description="How long after its prediction a label may still come.")


class FeatureThresholds(PlatformPart):
    """From when on a feature has drifted; a measure without a threshold is reported and counts for nothing."""

    psi: float | None = Field(0.2, ge=0, description="Population stability index.")
    js: float | None = Field(None, ge=0, le=1, description="Jensen-Shannon distance (base 2), 0 to 1.")
    wasserstein: float | None = Field(
        None, ge=0, description="Numeric: Wasserstein distance in standard deviations of the training part."
    )
    ks: float | None = Field(None, ge=0, le=1, description="Numeric: Kolmogorov-Smirnov statistic, 0 to 1.")
    new_share: Share | None = Field(0.05, description="Text: share of values that training never saw.")
    null_share: Share | None = Field(0.1, description="Greatest difference between the shares of nulls.")


class MonitorRule(PlatformPart):
    """A condition of a check, and what follows when it is violated."""

    metric: Annotated[str, Field(pattern=_MONITORED)] = Field(
        description="drifted_share, prediction_psi, prediction_js, error_rate, latency_p99_ms, rows, feature.MEASURE "
        "(the worst feature's), performance.METRIC."
    )
    max: float | None = Field(None, description="The value may not be above it.")
    min: float | None = Field(None, description="Nor below it.")
    max_ratio: float | None = Field(None, gt=0, description="Nor above this many times the baseline's.")
    max_drop: float | None = Field(
        None, ge=0, description="performance: nor worse than the stored test metric by more than this, absolutely."
    )
    floor: float = Field(0.0, ge=0, description="With max_ratio: values up to this one are never too high.")
    checks: int = Field(1, ge=1, description="How many checks in a row must violate it.")
    action: Literal["alert", "retrain", "rollback"] = "alert"

    @model_validator(mode="after")
    def _fits_together(self) -> MonitorRule:
        bounds = [name for name in ("max", "min", "max_ratio", "max_drop") if getattr(self, name) is not None]
        if len(bounds) != 1:
            raise ValueError(f"a rule has one of max, min, max_ratio and max_drop, found {', '.join(bounds) or 'none'}")
        if bounds == ["max_ratio"] and self.metric not in ("error_rate", "latency_p99_ms"):
            raise ValueError(f"{self.metric} has no baseline to be a ratio of; expected max or min")
        if bounds == ["max_drop"] and not self.metric.startswith("performance."):
            raise ValueError(f"{self.metric} has no stored test metric; expected max or min")
        return self


def default_monitor_rules() -> list[MonitorRule]:
    """Returns the rules of a spec that names none."""
    return [
        MonitorRule(metric="feature.psi", max=0.2, action="alert"),
        MonitorRule(metric="drifted_share", max=0.3, action="retrain"),
        MonitorRule(metric="prediction_psi", max=0.2, action="retrain"),
        MonitorRule(metric="error_rate", max=0.01, action="rollback"),
        MonitorRule(metric="latency_p99_ms", max_ratio=2.0, floor=5.0, checks=2, action="alert"),
    ]


class MonitorSection(PlatformPart):
    """How production is compared with training."""

    schedule: str = Field("0 */6 * * *", description="Cron of `shipway schedule --pipeline monitoring`.")
    predictions: str | None = Field(
        None,
        description="Batch predictions to look at, the folder of inference.output; default: the server's log.",
    )
    window: Duration = Field("24h", description="How much of the past a check looks at.")
    least_rows: int = Field(
        500,
        ge=1,
        description="With fewer rows a check draws no conclusion about drift, with fewer labels none on performance.",
    )
    labels: LabelsSection | None = None
    thresholds: FeatureThresholds = Field(default_factory=lambda: FeatureThresholds(psi=0.2))
    columns: dict[str, FeatureThresholds] = Field(
        default_factory=dict, description="Column -> thresholds of its own, instead of `thresholds`."
    )
    ignore: Names = Field(default_factory=list, description="Columns that are not compared.")
    rules: list[MonitorRule] = Field(default_factory=default_monitor_rules)
    history: str | None = Field(
        None, description="Folder or fsspec URI of the past findings; default: the state folder, which a cluster lacks."
    )
    trend: int = Field(60, ge=2, description="How many checks the page of trends shows.")
    sample: int = Field(20_000, ge=100, le=100_000, description="Rows of Evidently's report at most.")
    evidently: bool = Field(True, description="Whether Evidently's report is made too.")


class GitHubIssues(PlatformPart):
    """A GitHub issue for each model and cause, opened once and brought up to date."""

    repository: Annotated[str, Field(pattern=_REPOSITORY)]
    token: EnvironmentName = Field("SHIPWAY_GITHUB_TOKEN", description="Variable that holds a token for issues.")
    labels: Names = Field(default_factory=lambda: ["shipway"])
    on: list[Cause] = Field(default_factory=_causes("rejected", "failed", "drift", "rollback"))
    api: Address = Field("https://api.github.com", description="GitHub Enterprise: https://HOST/api/v3.")


class EventSink(PlatformPart):
    """Where each event goes as a CloudEvent: the trigger service, or any other receiver."""

    url: Address = Field(description="As https://trigger.example.com/hooks/shipway.")
    token: EnvironmentName | None = Field(
        "SHIPWAY_EVENTS_TOKEN", description="Variable that holds the receiver's bearer token; null for none."
    )


class NotifySection(PlatformPart):
    """Whom to tell of what. Addresses with secrets stand in variables, never here."""

    urls: EnvironmentName = Field(
        "SHIPWAY_NOTIFY_URLS", description="Variable that holds Apprise URLs (Slack, Teams, PagerDuty, mail, ...)."
    )
    on: list[Cause] = Field(
        default_factory=_causes("rejected", "failed", "drift", "rollback", "approval"),
        description="What the URLs are told of.",
    )
    github: GitHubIssues | None = None
    events: EventSink | None = None
    secret: KubernetesName | None = Field(
        None, description="Kubeflow: secret whose keys are these variables, for the steps that tell people."
    )

    @property
    def variables(self) -> list[str]:
        """Names of the environment variables that hold its secrets."""
        named = [self.urls, self.github.token if self.github else None, self.events.token if self.events else None]
        return [name for name in named if name]


def watch_problems(monitor: MonitorSection, task: Task, key: Sequence[str]) -> list[str]:
    """Returns what cannot be meant in `monitor`, a message each that begins with its path.

    Args:
        monitor: The section.
        task: The model's task.
        key: The spec's data.key.
    """
    problems: list[str] = []
    if monitor.labels is not None and not (monitor.labels.key or key):
        problems.append("monitor.labels.key: labels are joined with predictions by it; it is missing, as data.key is")
    for name in sorted(set(monitor.columns) & set(monitor.ignore)):
        problems.append(f"monitor.columns.{name}: it has thresholds, and monitor.ignore leaves it out")
    for index, rule in enumerate(monitor.rules):
        metric = rule.metric.removeprefix("performance.")
        if metric == rule.metric:
            continue
        where = f"monitor.rules.{index}.metric"
        if metric not in METRICS[task]:
            problems.append(f"{where}: no metric {metric!r} for {task} tasks; there are {', '.join(METRICS[task])}")
        if monitor.labels is None:
            problems.append(f"{where}: {rule.metric} needs labels; say in monitor.labels where they come")
    return problems
