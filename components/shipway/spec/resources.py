"""What a step may use, and where a pipeline runs: the spec's sections `resources`, `kubeflow` and `vertex`.

None of this changes what a model becomes, so none of it is a pipeline parameter: compiling fixes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

Step = Literal[
    "ingest",
    "validate",
    "admit",
    "split",
    "featurize",
    "train",
    "champion",
    "evaluate",
    "gate",
    "register",
    "deploy",
    "smoke",
    "candidate",
    "approval",
    "rollout",
    "rollback",
    "resolve",
    "screen",
    "predict",
    "gather",
    "observe",
    "monitor",
    "notify",
    "report",
]
Stage = Literal["default", Step]
# Steps that look at or change the world outside; what they do is not undone when their node is taken away.
EFFECTS: tuple[Step, ...] = (
    "admit",
    "champion",
    "register",
    "deploy",
    "smoke",
    "candidate",
    "approval",
    "rollout",
    "rollback",
    "resolve",
    "predict",
    "gather",
    "observe",
    "monitor",
    "notify",
    "report",
)
# Steps that reach for an endpoint; they run in the image that has the platforms' clients.
DEPLOYERS: tuple[Step, ...] = ("deploy", "smoke", "rollout", "rollback", "observe")
# Steps that tell people of something; they get what the spec's section `notify` names.
TELLERS: tuple[Step, ...] = ("approval", "rollout", "rollback", "notify", "report")
# Steps that run in an image of their own.
_OWN_IMAGES: Mapping[Stage, str] = {**dict.fromkeys(DEPLOYERS, "deployer"), "monitor": "monitor"}
AcceleratorType = Literal["T4", "L4", "P100", "V100", "A100", "A100-80GB", "H100"]


def _as_text(value: Any) -> Any:
    return f"{value:g}" if isinstance(value, (int, float)) and not isinstance(value, bool) else value


_CPU = r"^([1-9][0-9]*m?|[0-9]*\.[0-9]*[1-9][0-9]*|[1-9][0-9]*\.[0-9]+)$"
_MEMORY = r"^[1-9][0-9]*(Ki|Mi|Gi|Ti|K|M|G|T)$"
_DURATION = r"^[1-9][0-9]*(s|m|h|d)$"
# What a person is told instead of the pattern; other modules add theirs.
FORMS = {
    _CPU: "cores, as 2, 0.5 or 500m",
    _MEMORY: "a number and Ki, Mi, Gi, Ti, K, M, G or T, as 4Gi",
    _DURATION: "a number and s, m, h or d, as 90m",
}
Cpu = Annotated[str, BeforeValidator(_as_text), Field(pattern=_CPU)]
Memory = Annotated[str, BeforeValidator(_as_text), Field(pattern=_MEMORY)]
Duration = Annotated[str, BeforeValidator(_as_text), Field(pattern=_DURATION)]
EnvironmentName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
KubernetesName = Annotated[str, Field(pattern=r"^[a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?$")]
Label = Annotated[str, Field(pattern=r"^[a-z0-9_-]{0,63}$")]


_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_BYTES = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


def duration_seconds(duration: str) -> int:
    """Returns the seconds of a duration as `90m`."""
    return int(duration[:-1]) * _SECONDS[duration[-1]]


def memory_bytes(memory: str) -> int:
    """Returns the bytes of a size as `4Gi`."""
    digits = memory.rstrip("KMGTi")
    return int(digits) * _BYTES[memory.removeprefix(digits)]


def cpu_cores(cpu: str) -> float:
    """Returns the cores of `500m` or `2`."""
    return float(cpu.removesuffix("m")) / (1000 if cpu.endswith("m") else 1)


class PlatformPart(BaseModel):
    """Unknown keys are refused, and numbers must be numbers."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, populate_by_name=True)

    @model_serializer(mode="wrap")
    def _with_nulls(self, dump: SerializerFunctionWrapHandler, info: SerializationInfo) -> dict[str, Any]:
        """Keeps a null that switches a default off, which `exclude_none` would turn into the default again."""
        dumped: dict[str, Any] = dump(self)
        for name, field in type(self).model_fields.items():
            if getattr(self, name) is None and field.default is not None:
                dumped[(info.by_alias and field.serialization_alias) or name] = None
        return dumped


class Accelerator(PlatformPart):
    """GPUs of one kind; the name is translated to what each platform calls it."""

    type: AcceleratorType
    count: int = Field(1, ge=1, le=16)


class Toleration(PlatformPart):
    """A taint of a node that a step's pod may stand."""

    key: str | None = Field(None, description="Default: every key, with operator Exists.")
    operator: Literal["Exists", "Equal"] = "Exists"
    value: str | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    seconds: int | None = Field(None, ge=0, description="With NoExecute: how long the pod may stay.")

    @model_validator(mode="after")
    def _fits_together(self) -> Toleration:
        if (self.operator == "Equal") != (self.value is not None):
            raise ValueError("value belongs to operator Equal, and only to it")
        if self.key is None and self.operator == "Equal":
            raise ValueError("operator Equal needs a key")
        if self.seconds is not None and self.effect != "NoExecute":
            raise ValueError("seconds belongs to effect NoExecute")
        return self


class StageResources(PlatformPart):
    """What a step's container gets; what is left out comes from `default`."""

    cpu: Cpu | None = Field(None, description="Cores, as 2 or 500m: request and limit.")
    memory: Memory | None = Field(None, description="As 4Gi: request and limit.")
    accelerator: Accelerator | None = None
    node_selector: dict[str, str] = Field(default_factory=dict, description="Kubeflow: labels of the node pool.")
    tolerations: list[Toleration] = Field(default_factory=list, description="Kubeflow: taints of the node pool.")
    shared_memory: Memory | None = Field(
        None, description="Kubeflow: size of /dev/shm, for data loaders; it counts as memory."
    )
    spot: bool | None = Field(
        None,
        description="Kubeflow: run on spot (preemptible) nodes, and again when preempted; "
        "in `default` it is for the steps without effect outside.",
    )
    timeout: Duration | None = Field(
        None,
        description="Kubeflow: the step is ended after this long, as 90m or 2h; in `default` it is not for rollout.",
    )
    machine_type: str | None = Field(
        None, description="Vertex: the machine to ask for, of a step with an accelerator, instead of cpu and memory."
    )
    image: Literal["components", "trainer"] | None = Field(
        None, description="Another of Shipway's images, as trainer for evaluating a package without ONNX graph."
    )

    @model_validator(mode="after")
    def _fits(self) -> StageResources:
        if self.shared_memory and self.memory and memory_bytes(self.shared_memory) >= memory_bytes(self.memory):
            raise ValueError(f"shared_memory {self.shared_memory} counts as memory, of which there is {self.memory}")
        return self

    def over(self, default: StageResources) -> StageResources:
        """Returns these settings, with `default` for what they leave out."""
        return default.model_copy(update={name: getattr(self, name) for name in self.model_fields_set})


class SecretVariable(PlatformPart):
    """An environment variable of the steps that comes from a Kubernetes secret; the spec never holds its value."""

    variable: EnvironmentName
    secret: KubernetesName
    key: str
    stages: list[Step] = Field(default_factory=list, description="Default: every step.")


class Volume(PlatformPart):
    """A persistent volume claim for what outlives a step, as checkpoints; it is mounted at /var/shipway."""

    claim: KubernetesName


class SecurityContext(PlatformPart):
    """As whom the steps' containers run; Shipway's images are never root of themselves."""

    run_as_non_root: Literal[True] = True
    run_as_user: int | None = Field(None, ge=1, description="Default: the image's own user.")
    run_as_group: int | None = Field(None, ge=1)


class KubeflowSection(PlatformPart):
    """Where and how the pipeline runs on Kubeflow."""

    host: str | None = Field(None, description="URL of the KFP API; default: $KFP_HOST, then the cluster's own.")
    namespace: KubernetesName | None = Field(None, description="The profile's namespace, on a multi-user Kubeflow.")
    experiment: str | None = Field(None, description="Default: the model's name.")
    service_account: KubernetesName | None = None
    config_map: KubernetesName | None = Field(
        None,
        description="Config map with MLFLOW_TRACKING_URI and, if wanted, MLFLOW_S3_ENDPOINT_URL and AWS_ENDPOINT_URL, "
        "for every step.",
    )
    secrets: list[SecretVariable] = Field(default_factory=list)
    volume: Volume | None = None
    image_pull_secrets: list[KubernetesName] = Field(default_factory=list)
    security_context: SecurityContext | None = None
    retries: int = Field(
        3,
        ge=0,
        le=10,
        description="How often steps that ask a service which may be away (champion, register, deploy, resolve, "
        "observe, ...) and steps on spot nodes are tried again.",
    )
    deadline: Duration | None = Field(None, description="The run is ended after this long.")
    ttl: Duration | None = Field(None, description="How long a finished run's pods are kept; default: the cluster's.")


class VertexSection(PlatformPart):
    """Where and how the pipeline runs on Vertex AI."""

    project: str | None = Field(None, description="Default: $GOOGLE_CLOUD_PROJECT.")
    location: str = "us-central1"
    pipeline_root: str | None = Field(None, pattern=r"^gs://.+", description="gs:// folder of the artifacts.")
    service_account: str | None = None
    network: str | None = Field(None, description="projects/NUMBER/global/networks/NAME, for private access.")
    encryption_key: str | None = Field(None, description="Cloud KMS key of everything the run stores (CMEK).")
    labels: dict[str, Label] = Field(default_factory=dict)
    experiment: str | None = Field(None, description="Vertex Experiment of the runs; default: the model's name.")
    variables: dict[EnvironmentName, str] = Field(
        default_factory=dict, description="Environment variables of the steps, as MLFLOW_TRACKING_URI; no secrets."
    )
    retries: int = Field(
        3,
        ge=0,
        le=10,
        description="How often steps that ask a service which may be away (champion, register, deploy, resolve, "
        "observe, ...) are tried again.",
    )


def check_resources(resources: dict[Stage, StageResources], retries: int) -> list[str]:
    """Returns what cannot be meant in `resources`, a message each that begins with its path.

    Args:
        resources: The section.
        retries: Kubeflow's retries, on which spot nodes rest.
    """
    problems: list[str] = []
    if "default" in resources and resources["default"].accelerator:
        problems.append("resources.default.accelerator: every step would get it; give it to train, or to evaluate")
    for stage, own in resources.items():
        where = f"resources.{stage}"
        if own.machine_type and not own.accelerator:
            problems.append(f"{where}.machine_type: belongs to an accelerator; without one, give cpu and memory")
        if own.spot and stage in EFFECTS:
            problems.append(f"{where}.spot: {stage} acts on the world outside and must not be cut off; leave it out")
        if own.spot and not retries:
            problems.append(f"{where}.spot: a preempted step needs kubeflow.retries, which is 0")
        if own.image and (image := _OWN_IMAGES.get(stage)):
            problems.append(f"{where}.image: {stage} runs in image {image} alone, found {own.image!r}; leave it out")
    return problems


def resources_of(resources: dict[Stage, StageResources], step: Step) -> StageResources:
    """Returns what one step gets: its own settings over the default's."""
    own = resources.get(step, StageResources())
    merged = own.over(resources.get("default", StageResources()))
    update: dict[str, Any] = {"spot": None} if step in EFFECTS else {}
    if step in _OWN_IMAGES:
        update["image"] = None
    if step == "rollout":
        # What ends other steps that hang would leave the traffic split.
        update["timeout"] = own.timeout
    return merged.model_copy(update=update)
