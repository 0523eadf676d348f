"""What a step may use, and where a pipeline runs: the spec's sections `resources`, `kubeflow` and `vertex`.

None of this changes what a model becomes, so none of it is a pipeline parameter: compiling fixes it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

Stage = Literal[
    "default",
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
    "report",
]
AcceleratorType = Literal["T4", "L4", "P100", "V100", "A100", "A100-80GB", "H100"]


def _as_text(value: Any) -> Any:
    return f"{value:g}" if isinstance(value, (int, float)) and not isinstance(value, bool) else value


# Kubernetes' own forms: 500m or 2 or 0.5 of a core; bytes with a binary or decimal suffix.
Cpu = Annotated[str, BeforeValidator(_as_text), Field(pattern=r"^([1-9][0-9]*m|[0-9]*\.?[0-9]+)$")]
Memory = Annotated[str, Field(pattern=r"^[1-9][0-9]*(Ki|Mi|Gi|Ti|K|M|G|T)$")]
Duration = Annotated[str, Field(pattern=r"^[1-9][0-9]*(s|m|h|d)$")]
EnvironmentName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
KubernetesName = Annotated[str, Field(pattern=r"^[a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?$")]
Label = Annotated[str, Field(pattern=r"^[a-z0-9_-]{0,63}$")]


class PlatformPart(BaseModel):
    """Unknown keys are refused, and numbers must be numbers."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, populate_by_name=True)


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
    shared_memory: Memory | None = Field(None, description="Kubeflow: size of /dev/shm, for data loaders.")
    spot: bool | None = Field(None, description="Kubeflow: run on spot (preemptible) nodes, and again when preempted.")
    timeout: Duration | None = Field(None, description="Kubeflow: the step is ended after this long, as 90m or 2h.")
    machine_type: str | None = Field(None, description="Vertex: machine type of a step with an accelerator.")
    image: Literal["components", "trainer"] | None = Field(
        None, description="Another of Shipway's images, as trainer for evaluating a package without ONNX graph."
    )


class SecretVariable(PlatformPart):
    """An environment variable of the steps that comes from a Kubernetes secret; the spec never holds its value."""

    variable: EnvironmentName
    secret: KubernetesName
    key: str
    stages: list[Stage] = Field(default_factory=list, description="Default: every step.")


class Volume(PlatformPart):
    """A persistent volume claim for what outlives a step, as checkpoints; it is mounted at /var/shipway."""

    claim: KubernetesName


class KubeflowSection(PlatformPart):
    """Where and how the pipeline runs on Kubeflow."""

    host: str | None = Field(None, description="URL of the KFP API; default: $KFP_HOST, then the cluster's own.")
    namespace: KubernetesName | None = Field(None, description="The profile's namespace, on a multi-user Kubeflow.")
    experiment: str | None = Field(None, description="Default: the model's name.")
    service_account: KubernetesName | None = None
    config_map: KubernetesName | None = Field(
        None,
        description="Config map with MLFLOW_TRACKING_URI or AWS_ENDPOINT_URL, for every step.",
    )
    secrets: list[SecretVariable] = Field(default_factory=list)
    volume: Volume | None = None
    image_pull_secrets: list[KubernetesName] = Field(default_factory=list)
    retries: int = Field(3, ge=0, le=10, description="How often a step with an outside effect is tried again.")
    ttl: Duration | None = Field("7d", description="How long a finished run's pods are kept.")


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
