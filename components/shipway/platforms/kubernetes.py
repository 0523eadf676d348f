"""What only Kubernetes knows of a step and of a run: the compiled pipeline's second document.

None of these calls changes the first document, which Vertex AI and the local runners read; a test holds that.
"""

from typing import TYPE_CHECKING, Any

from shipway.spec.resources import TELLERS, KubeflowSection, StageResources, duration_seconds
from shipway.spec.watch import NotifySection

if TYPE_CHECKING:
    from kfp import dsl

STATE_PATH = "/var/shipway"
_SHARED_MEMORY = "/dev/shm"  # noqa: S108 - where Linux has it
_REQUIRED_KEYS = ("MLFLOW_TRACKING_URI",)
_OPTIONAL_KEYS = ("MLFLOW_S3_ENDPOINT_URL", "AWS_ENDPOINT_URL")
# The label that each kind of cluster gives its spot nodes, and whether it taints them with the same. A node has one.
_SPOT_LABELS = {
    "cloud.google.com/gke-spot": "true",
    "cloud.google.com/gke-preemptible": "true",
    "karpenter.sh/capacity-type": "spot",
    "eks.amazonaws.com/capacityType": "SPOT",
    "kubernetes.azure.com/scalesetpriority": "spot",
}


def use_on_kubernetes(
    task: Any, step: str, resources: StageResources, section: KubeflowSection, notify: NotifySection
) -> None:
    """Gives a step what the spec asks of Kubernetes for it.

    Args:
        task: kfp's task.
        step: The step's name, by which secrets choose.
        resources: What the step gets.
        section: The spec's section `kubeflow`.
        notify: The spec's section `notify`.
    """
    from kfp import kubernetes

    _choose_nodes(task, resources)
    if resources.shared_memory:
        kubernetes.empty_dir_mount(
            task, "shared-memory", _SHARED_MEMORY, medium="Memory", size_limit=resources.shared_memory
        )
    if resources.timeout:
        kubernetes.set_timeout(task, duration_seconds(resources.timeout))
    for entry in section.secrets:
        if not entry.stages or step in entry.stages:
            kubernetes.use_secret_as_env(task, entry.secret, {entry.key: entry.variable})
    if notify.secret and step in TELLERS:
        given = {entry.variable for entry in section.secrets if not entry.stages or step in entry.stages}
        wanted = {name: name for name in notify.variables if name not in given}
        # Optional: a key that is missing leaves a receiver untold, it does not keep the step from running.
        kubernetes.use_secret_as_env(task, notify.secret, wanted, optional=True)
    if section.config_map:
        # Without the registry's address a step would register in a file of its own that is gone with its pod; so a map
        # that is missing, or lacks it, keeps the pod from starting.
        kubernetes.use_config_map_as_env(task, section.config_map, {key: key for key in _REQUIRED_KEYS})
        kubernetes.use_config_map_as_env(task, section.config_map, {key: key for key in _OPTIONAL_KEYS}, optional=True)
    if section.volume:
        kubernetes.mount_pvc(task, section.volume.claim, STATE_PATH)
    if section.image_pull_secrets:
        kubernetes.set_image_pull_secrets(task, list(section.image_pull_secrets))
    if section.security_context:
        kubernetes.set_security_context(task, **section.security_context.model_dump())


def _choose_nodes(task: Any, resources: StageResources) -> None:
    from kfp import kubernetes

    for label, value in resources.node_selector.items():
        kubernetes.add_node_selector(task, label, value)
    for entry in resources.tolerations:
        kubernetes.add_toleration(task, entry.key, entry.operator, entry.value, entry.effect, entry.seconds)
    if resources.spot:
        for label, value in _SPOT_LABELS.items():
            # Kubernetes takes a node that meets any one of the required terms.
            kubernetes.add_node_affinity(task, [{"key": label, "operator": "In", "values": [value]}])
            kubernetes.add_toleration(task, label, "Equal", value, "NoSchedule")


def run_settings(section: KubeflowSection, *, deadline: bool) -> "dsl.PipelineConfig | None":
    """Returns what holds for the run as a whole, or None where the spec asks for nothing.

    Args:
        section: The spec's section `kubeflow`.
        deadline: Whether its deadline holds for the pipeline; a rollout that is cut off leaves the traffic split.
    """
    from kfp import dsl

    ends = duration_seconds(section.deadline) if deadline and section.deadline else None
    if not (section.ttl or ends):
        return None
    return dsl.PipelineConfig(
        ttl_seconds_after_finished=duration_seconds(section.ttl) if section.ttl else None,
        active_deadline_seconds=ends,
    )
