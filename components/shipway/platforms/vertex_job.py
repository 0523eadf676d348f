"""What Vertex AI is handed: the pipeline job's message, and what of a spec it cannot carry out."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from shipway.errors import InputError
from shipway.notify.secrets import REFERENCE
from shipway.platforms.pipelines import endpoint_notes

if TYPE_CHECKING:
    from google.cloud.aiplatform_v1.types import PipelineJob

    from shipway.platforms.submission import Submission
    from shipway.spec import ModelSpec

KEY_LABEL = "shipway-key"
MODEL_LABEL = "shipway-model"
VERSION_LABEL = "shipway-version"
ATTEMPT_LABEL = "shipway-attempt"

_JOB_ID = re.compile(r"[a-z][-a-z0-9]{0,127}")
_LABEL_KEY = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_NETWORK = re.compile(r"projects/[^/]+/global/networks/[^/]+")
_ENCRYPTION_KEY = re.compile(r"projects/[^/]+/locations/[^/]+/keyRings/[^/]+/cryptoKeys/[^/]+")
_REGISTRY = "MLFLOW_TRACKING_URI"
_RESERVED = "shipway-"
_MOST_LABELS = 60
# Settings of a stage that only Kubernetes has a form for, and what happens without it.
_STAGE_SETTINGS = {
    "node_selector": "Vertex AI picks the machine from cpu, memory and accelerator",
    "tolerations": "Vertex AI's machines have no taints",
    "shared_memory": "Vertex AI fixes the size of /dev/shm; if a data loader fails, give it fewer workers",
    "spot": "Vertex AI runs steps on standard machines only",
    "timeout": "Vertex AI ends a step after seven days only",
}
_KUBEFLOW_SETTINGS = {
    "service_account": "use vertex.service_account",
    "volume": "there is no volume, so a step that is run again starts without its checkpoints",
    "image_pull_secrets": "let the service agents of Vertex AI read the Artifact Registry repository",
    "security_context": "Vertex AI runs a container as its image's user",
    "deadline": "Vertex AI lets a run go on until its steps have ended; cancel it in the console",
    "ttl": "Vertex AI keeps runs until they are deleted",
}


def warnings(spec: ModelSpec, pipeline: str = "training") -> list[str]:
    """Returns one line for each setting that Vertex AI cannot carry out and that is dropped.

    What a run would go wrong without is no warning: submitting refuses it.
    """
    lines = []
    for setting, instead in _STAGE_SETTINGS.items():
        stages = [stage for stage, resources in spec.resources.items() if getattr(resources, setting)]
        if stages:
            where = ", ".join(f"resources.{stage}.{setting}" for stage in stages)
            lines.append(f"{where}: dropped on Vertex AI: {instead}")
    for setting, instead in _KUBEFLOW_SETTINGS.items():
        if setting in spec.kubeflow.model_fields_set and getattr(spec.kubeflow, setting):
            lines.append(f"kubeflow.{setting}: dropped on Vertex AI: {instead}")
    if spec.kubeflow.config_map:
        lines.append("kubeflow.config_map: dropped on Vertex AI: its variables come from vertex.variables")
    if spec.kubeflow.secrets:
        names = ", ".join(secret.variable for secret in spec.kubeflow.secrets)
        lines.append(f"kubeflow.secrets: dropped on Vertex AI: {names} come from vertex.variables")
    lines += _untold(spec)
    if _REGISTRY not in spec.vertex.variables:
        lines.append(
            f"vertex.variables: no {_REGISTRY}: unless the image sets it, train fails, as a registry on a step's own "
            "disk would be gone when the step ends"
        )
    return lines + endpoint_notes(pipeline, spec)


def _untold(spec: ModelSpec) -> list[str]:
    """Returns a line for the receivers of `notify` that a step on Vertex AI has no address or token for."""
    named = "notify" in spec.model_fields_set
    missing = [name for name in spec.notify.variables if name not in spec.vertex.variables] if named else []
    if not missing:
        return []
    return [
        f"notify: Vertex AI gives a step no Kubernetes secret, so that {', '.join(missing)} will not be set; keep each "
        f"in Secret Manager and set vertex.variables.{missing[0]}: "
        f"{REFERENCE}projects/PROJECT/secrets/NAME, which the run's service account may read"
    ]


def check(submission: Submission) -> None:
    """Refuses what a run on Vertex AI would go wrong with.

    Raises:
        InputError: A setting is malformed, an accelerator is none that Vertex AI knows, or a step needs what only
            Kubernetes has.
    """
    _check_variables(submission.spec)
    _check_section(submission.spec)
    document = pipeline_document(submission)
    executors = document.get("deploymentSpec", {}).get("executors", {})
    for name, executor in executors.items():
        accelerator = executor.get("container", {}).get("resources", {}).get("accelerator")
        if accelerator:
            _check_accelerator(name.removeprefix("exec-"), accelerator)
    if not _JOB_ID.fullmatch(submission.run_name):
        raise InputError(
            f"run name {submission.run_name!r}: Vertex AI expects a lower-case letter first, then at most 127 "
            "lower-case letters, digits and dashes"
        )


def pipeline_document(submission: Submission) -> dict[str, Any]:
    """Returns the compiled pipeline's first document, the one that Vertex AI reads.

    Raises:
        InputError: It is no compiled pipeline.
    """
    document = next(iter(submission.documents), None)
    if not isinstance(document, dict) or not {"schemaVersion", "pipelineInfo", "root"} <= set(document):
        raise InputError(
            f"{submission.pipeline}: expected a compiled pipeline, found YAML without schemaVersion and root"
        )
    return document


def make_job(
    submission: Submission, pipeline_root: str | None, *, labels: Mapping[str, str] | None = None
) -> PipelineJob:
    """Returns the message that starts a run.

    Args:
        submission: What to run; checked already.
        pipeline_root: The gs:// folder of the artifacts, instead of the spec's.
        labels: More labels.

    Raises:
        InputError: There is no pipeline root, or it is not in Cloud Storage.
    """
    from google.cloud.aiplatform_v1.types import PipelineJob
    from google.protobuf import json_format

    section = submission.spec.vertex
    root = pipeline_root or section.pipeline_root
    if not root:
        raise InputError("vertex.pipeline_root: where do the artifacts go? Expected a folder as gs://bucket/shipway")
    if not re.fullmatch(r"gs://[^/]+(/.*)?", root):
        raise InputError(f"pipeline root: expected a folder in Cloud Storage as gs://bucket/shipway, found {root!r}")
    own = {
        MODEL_LABEL: submission.spec.name,
        KEY_LABEL: submission.key,
        VERSION_LABEL: submission.version,
        **(labels or {}),
    }
    message: dict[str, Any] = {
        "displayName": submission.run_name,
        "pipelineSpec": pipeline_document(submission),
        "runtimeConfig": {"gcsOutputDirectory": root, "parameterValues": dict(submission.arguments)},
        "labels": {**section.labels, **own},
    }
    if section.service_account:
        message["serviceAccount"] = section.service_account
    if section.network:
        message["network"] = section.network
    if section.encryption_key:
        message["encryptionSpec"] = {"kmsKeyName": section.encryption_key}
    job = PipelineJob()
    json_format.ParseDict(message, PipelineJob.pb(job))
    return job


def attempt_label() -> dict[str, str]:
    """Returns a label that tells the job of this very call from one that another call started."""
    return {ATTEMPT_LABEL: uuid.uuid4().hex}


def _check_variables(spec: ModelSpec) -> None:
    given = spec.vertex.variables
    missing = [secret for secret in spec.kubeflow.secrets if secret.variable not in given]
    if missing:
        raise InputError(
            f"kubeflow.secrets: variable {missing[0].variable} comes from a Kubernetes secret, which Vertex AI cannot "
            "give to a step; let vertex.service_account have the access instead and submit with --set "
            f"kubeflow.secrets=[], or set vertex.variables.{missing[0].variable} if it is no secret"
        )
    if spec.kubeflow.config_map and _REGISTRY not in given:
        raise InputError(
            f"kubeflow.config_map: the variables of config map {spec.kubeflow.config_map} do not reach a step on "
            f"Vertex AI; write them into vertex.variables, as {{{_REGISTRY}: https://mlflow.example.com}}"
        )


def _check_section(spec: ModelSpec) -> None:
    section = spec.vertex
    for key in section.labels:
        if not _LABEL_KEY.fullmatch(key) or key.startswith(_RESERVED):
            raise InputError(
                f"vertex.labels: expected keys of lower-case letters, digits, _ and -, a letter first, none that "
                f"begins with {_RESERVED}, found {key!r}"
            )
    if len(section.labels) > _MOST_LABELS:
        raise InputError(
            f"vertex.labels: Vertex AI takes 64, {_MOST_LABELS} of them yours, found {len(section.labels)}"
        )
    if section.network and not _NETWORK.fullmatch(section.network):
        raise InputError(f"vertex.network: expected projects/NUMBER/global/networks/NAME, found {section.network!r}")
    if section.encryption_key and not _ENCRYPTION_KEY.fullmatch(section.encryption_key):
        raise InputError(
            "vertex.encryption_key: expected projects/PROJECT/locations/REGION/keyRings/RING/cryptoKeys/KEY, "
            f"found {section.encryption_key!r}"
        )


def _check_accelerator(step: str, accelerator: Mapping[str, Any]) -> None:
    from google.cloud.aiplatform_v1.types import AcceleratorType

    kind = str(accelerator.get("resourceType") or accelerator.get("type") or "")
    known = [name for name in AcceleratorType.__members__ if name != "ACCELERATOR_TYPE_UNSPECIFIED"]
    if kind not in known:
        raise InputError(
            f"resources.{step}.accelerator: Vertex AI knows no accelerator {kind!r}; it has {', '.join(sorted(known))}"
        )
    count = str(accelerator.get("resourceCount") or accelerator.get("count") or "")
    if not count.isdecimal() or int(count) < 1:
        raise InputError(f"resources.{step}.accelerator: expected a count from 1, found {count!r}")
