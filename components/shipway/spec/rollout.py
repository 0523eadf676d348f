"""Where a model is served and how a new version takes over: the spec's sections `endpoint` and `rollout`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from shipway.spec.resources import (
    FORMS,
    Cpu,
    Duration,
    KubernetesName,
    Memory,
    PlatformPart,
    VertexSection,
    duration_seconds,
)

EndpointKind = Literal["local", "kserve", "vertex"]
Strategy = Literal["canary", "blue_green", "shadow"]
Action = Literal["rollback", "halt", "hold", "alert"]

_STICKY = r"^(header|parameter|column):[A-Za-z0-9_.-]{1,128}$"
_METRIC = r"^(error_rate|latency_p99_ms|psi|auc|business\.[A-Za-z_][A-Za-z0-9_]*)$"
_HELD = r"^(0s|[1-9][0-9]*(s|m|h|d))$"
_ENVIRONMENT = r"^[\w.-]+/[\w.-]+:[\w.-]+$"
FORMS.update(
    {
        _STICKY: "header:NAME, parameter:NAME or column:NAME",
        _METRIC: "error_rate, latency_p99_ms, psi, auc or business.NAME",
        _HELD: "a number and s, m, h or d, as 5m, or 0s",
        _ENVIRONMENT: "OWNER/REPOSITORY:ENVIRONMENT",
    }
)


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Names = Annotated[list[str], BeforeValidator(_as_list)]
Percent = Annotated[int, Field(ge=1, le=100)]


class KServeSettings(PlatformPart):
    """A KServe InferenceService."""

    namespace: KubernetesName = "shipway"
    mode: Literal["raw", "serverless"] = Field(
        "raw", description="raw: a Deployment a revision and spec.canary (KServe 0.20); serverless: Knative."
    )
    runtime: str = Field("shipway-server", description="The ServingRuntime of manifests/.")
    service_account: str = "shipway-server"
    artifacts: str | None = Field(
        None, description="Where the object store has what MLflow calls mlflow-artifacts:/, as s3://bucket/mlflow."
    )
    prometheus: str | None = Field(None, description="URL of the Prometheus that scrapes the model servers.")
    min_replicas: int = Field(1, ge=1)
    max_replicas: int = Field(3, ge=1)
    cpu: Cpu | None = None
    memory: Memory | None = None
    ready_timeout: Duration = Field("10m", description="How long a revision may take to become ready.")


class VertexServing(PlatformPart):
    """A Vertex AI Endpoint; project, region and service account are those of the section `vertex`."""

    image: str | None = Field(None, description="The server image in Artifact Registry; default: the compiled one's.")
    artifacts: str | None = Field(None, description="Where the packages lie, as gs://bucket/mlflow.")
    machine_type: str = "n1-standard-2"
    min_replicas: int = Field(1, ge=1)
    max_replicas: int = Field(3, ge=1)
    ready_timeout: Duration = "30m"


class LogSection(PlatformPart):
    """The server's prediction log."""

    share: float = Field(1.0, ge=0, le=1, description="Share of the requests that are logged; 0 switches it off.")
    uri: str | None = Field(None, description="Folder or fsspec URI of its Parquet; local endpoints have one.")
    keep: Duration = Field("7d", description="How long a local endpoint keeps it.")


class EndpointSection(PlatformPart):
    """Where the model is served."""

    kind: EndpointKind | None = Field(
        None, description="Default: local for local runs; on a cluster nothing is deployed."
    )
    isolation: Literal["process", "slot"] = Field(
        "process",
        description="local: where a candidate runs until it is live, in a process of its own or the server's.",
    )
    sticky: Annotated[str, Field(pattern=_STICKY)] | None = Field(
        None, description="header:NAME, parameter:NAME or column:NAME: requests with equal values get one revision."
    )
    flag: str | None = Field(None, description="OpenFeature flag (text) whose value names a version for a request.")
    flag_provider: str | None = Field(
        None, description="MODULE:FUNCTION or FILE.py:FUNCTION returning an OpenFeature provider."
    )
    flag_attributes: Names = Field(
        default_factory=list, description="Request headers handed to the flag provider as attributes."
    )
    control: str | None = Field(
        None, description="kserve, vertex: object-store folder through which the servers are told what to mirror."
    )
    log: LogSection = Field(default_factory=lambda: LogSection(share=1.0))
    kserve: KServeSettings = Field(default_factory=lambda: KServeSettings(mode="raw"))
    vertex: VertexServing = Field(default_factory=lambda: VertexServing(machine_type="n1-standard-2"))

    @model_validator(mode="after")
    def _fits_together(self) -> EndpointSection:
        if (self.flag is None) != (self.flag_provider is None):
            raise ValueError("flag and flag_provider belong together")
        if self.kserve.max_replicas < self.kserve.min_replicas:
            raise ValueError("kserve.max_replicas is below kserve.min_replicas")
        if self.vertex.max_replicas < self.vertex.min_replicas:
            raise ValueError("vertex.max_replicas is below vertex.min_replicas")
        return self


class EndpointSettings(PlatformPart):
    """What a step that reaches for an endpoint is told, as one JSON parameter.

    Attributes:
        endpoint: The spec's section; `kind` is set.
        vertex: The spec's section `vertex`.
        image: Full name of the server's image, for the clusters.
    """

    endpoint: EndpointSection
    vertex: VertexSection = Field(default_factory=lambda: VertexSection(location="us-central1"))
    image: str = ""


class Rule(PlatformPart):
    """A condition that ends or holds a rollout, once it has held for a while.

    A condition counts only as far as the requests bear it out: by a sequential test whose false-alarm rate over the
    whole rollout is `rollout.false_alarm`.
    """

    metric: Annotated[str, Field(pattern=_METRIC)] = Field(
        description="error_rate, latency_p99_ms, psi (of the predictions), auc (once labels come), business.NAME."
    )
    max: float | None = Field(None, ge=0, description="The candidate's value may not be above it.")
    max_ratio: float | None = Field(None, gt=0, description="Nor above this many times the baseline's.")
    max_drop: float | None = Field(None, ge=0, lt=1, description="Nor below the baseline's by more than this share.")
    floor: float = Field(0.0, ge=0, description="With max_ratio: values up to this one are never too high.")
    for_: Annotated[str, Field(pattern=_HELD)] = Field(
        "0s", alias="for", description="How long the condition has to hold, as 5m."
    )
    action: Action = Field(
        "rollback",
        description="rollback: all traffic back, the version is marked; halt: all traffic back, not marked; "
        "hold: stop here until a person decides; alert: say so and go on.",
    )
    incident: bool = Field(False, description="Whether its alert is an incident.")
    dry_run: bool = Field(False, description="Measure and report, do nothing.")

    @model_validator(mode="after")
    def _fits_together(self) -> Rule:
        bounds = [name for name in ("max", "max_ratio", "max_drop") if getattr(self, name) is not None]
        if len(bounds) != 1:
            raise ValueError(f"a rule has one of max, max_ratio and max_drop, found {', '.join(bounds) or 'none'}")
        takes = {"error_rate": ("max", "max_ratio"), "latency_p99_ms": ("max", "max_ratio"), "psi": ("max",)}
        allowed = takes.get(self.metric, ("max_drop",))
        if bounds[0] not in allowed:
            raise ValueError(f"{self.metric} takes {' or '.join(allowed)}, found {bounds[0]}")
        return self

    @property
    def seconds(self) -> int:
        """How long the condition has to hold, seconds."""
        return duration_seconds(self.for_)


def default_rules() -> list[Rule]:
    """Returns the rules of a rollout whose spec names none."""
    return [
        Rule(metric="error_rate", max=0.01, for_="5m", action="rollback"),
        Rule(metric="error_rate", max_ratio=2.0, floor=0.001, action="rollback"),
        Rule(metric="latency_p99_ms", max_ratio=2.0, floor=5.0, for_="10m", action="rollback"),
        Rule(metric="psi", max=0.2, action="hold"),
        Rule(metric="auc", max_drop=0.03, action="rollback", incident=True),
        Rule(metric="business.value", max_drop=0.05, action="halt"),
    ]


class ShadowSection(PlatformPart):
    """The candidate is asked too and never answered from."""

    percent: Percent = Field(100, description="Share of the requests that are mirrored to it.")
    bake: Duration = "10m"
    min_requests: int = Field(500, ge=1)
    min_agreement: float | None = Field(None, ge=0, le=1, description="Least share of rows on which both agree.")


class OutcomesSection(PlatformPart):
    """What became of the predictions, joined with the prediction log by key."""

    uri: str = Field(description="Parquet (fsspec URI or glob) with a row a key; read again at each look.")
    key: str = Field("key", description="Column with the key that the request carried (see endpoint.sticky).")
    label: str | None = Field(None, description="Column with the true label: gives online AUC.")
    business: dict[str, str] = Field(default_factory=dict, description="Metric name -> column; its mean is compared.")


class RolloutSection(PlatformPart):
    """How a version goes from staging to all of production's traffic."""

    strategy: Strategy = Field(
        "canary",
        description="canary: step by step; blue_green: all at once, the old one kept warm; shadow: mirrored only, "
        "then all at once.",
    )
    shadow: ShadowSection | None = Field(None, description="A shadow before the first step.")
    steps: list[Percent] = Field(default_factory=lambda: [1, 5, 25, 100], description="canary: percent of traffic.")
    bake: Duration = Field("10m", description="How long each step is watched at least.")
    min_requests: int = Field(500, ge=1, description="Requests of the candidate that each step needs.")
    patience: Duration = Field("1h", description="How long a step waits for evidence before it pauses and alerts.")
    hold: Duration = Field("24h", description="How long a paused rollout waits for a person before it rolls back.")
    keep_warm: Duration = Field("10m", description="How long the old revision stays after all traffic has moved.")
    warm_up: int = Field(50, ge=0, description="Requests from the package's golden rows before a revision is judged.")
    baseline: Literal["live", "fresh"] = Field(
        "live", description="fresh: the old version is started anew with as much traffic as the candidate, to compare."
    )
    replay: bool = Field(False, description="Whether logged requests are sent again as load while traffic is thin.")
    false_alarm: float = Field(0.01, gt=0, lt=0.5, description="Chance that a rollout of an equal version is ended.")
    rules: list[Rule] = Field(default_factory=default_rules)
    outcomes: OutcomesSection | None = None
    approval: Literal["required", "none"] = Field("none", description="Whether somebody must say yes beforehand.")
    approvers: Names = Field(default_factory=list, description="Accounts that may approve, with shipway approve.")
    environment: str | None = Field(
        None,
        pattern=_ENVIRONMENT,
        description="OWNER/REPOSITORY:ENVIRONMENT, a protected GitHub environment whose jobs may approve.",
    )

    @model_validator(mode="after")
    def _fits_together(self) -> RolloutSection:
        if self.steps != sorted(set(self.steps)) or not self.steps or self.steps[-1] != 100:
            raise ValueError(f"steps: expected rising percents that end with 100, found {self.steps}")
        if self.strategy == "shadow" and self.shadow is None:
            raise ValueError("strategy shadow needs the section shadow")
        if duration_seconds(self.patience) < duration_seconds(self.bake):
            raise ValueError("patience is shorter than bake")
        if self.approval == "required" and not (self.approvers or self.environment):
            raise ValueError("approval is required, but approvers and environment are both empty")
        named = {rule.metric.removeprefix("business.") for rule in self.rules if rule.metric.startswith("business.")}
        offered = set(self.outcomes.business) if self.outcomes else set()
        if self.rules != default_rules() and (missing := sorted(named - offered)):
            raise ValueError(f"rules: business.{missing[0]} is not among outcomes.business")
        return self

    @property
    def least_seconds(self) -> int:
        """The shortest time in which a rollout can end live, seconds: what is baked, and how long the old one stays."""
        steps = len(self.steps) if self.strategy == "canary" else 1
        shadow = duration_seconds(self.shadow.bake) if self.shadow else 0
        return shadow + steps * duration_seconds(self.bake) + duration_seconds(self.keep_warm)


def rollout_problems(endpoint: EndpointSection, rollout: RolloutSection) -> list[str]:
    """Returns what the endpoint cannot give the rollout as it is set up, a message each that begins with its path.

    Args:
        endpoint: The section `endpoint`; without a kind only what holds for every kind is looked at.
        rollout: The section `rollout`.
    """
    problems: list[str] = []
    kind, shadow = endpoint.kind, rollout.shadow
    if kind == "kserve" and endpoint.kserve.mode == "serverless" and rollout.baseline == "fresh":
        problems.append(
            "rollout.baseline: fresh needs three revisions at once, and endpoint.kserve.mode serverless has two; "
            "expected live, or mode raw"
        )
    if kind in ("kserve", "vertex") and shadow is not None and endpoint.control is None:
        problems.append(
            f"endpoint.control: missing, and on {kind} the servers learn through it what rollout.shadow mirrors; "
            "expected a folder in an object store, as s3://bucket/control"
        )
    if kind == "kserve" and endpoint.kserve.prometheus is None:
        problems.append(
            "endpoint.kserve.prometheus: missing, and a rollout on kserve is judged by what Prometheus has; expected "
            "its URL, as http://prometheus.monitoring:9090"
        )
    if rollout.outcomes is not None and endpoint.sticky is None:
        problems.append(
            "endpoint.sticky: missing, and rollout.outcomes are joined by the key that it names; expected "
            f"{FORMS[_STICKY]}"
        )
    reader = "rollout.outcomes" if rollout.outcomes is not None else "rollout.replay" if rollout.replay else ""
    if reader and endpoint.log.share == 0:
        problems.append(f"endpoint.log.share: 0, and {reader} needs the prediction log; expected more")
    if reader and kind in ("kserve", "vertex") and endpoint.log.uri is None:
        problems.append(
            f"endpoint.log.uri: missing, and {reader} needs the prediction log, which on {kind} has no place of its own"
        )
    return problems
