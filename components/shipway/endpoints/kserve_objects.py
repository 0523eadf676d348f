"""The Kubernetes objects of an endpoint on KServe: what a revision looks like, and what is kept beside it.

KServe copies the annotations and labels of an InferenceService to its pods, so that a change of one would start every
pod anew. So what changes while pods run is kept in an object of its own, a Lease (`Ledger`, and the record).
A predictor says everything of its revision by itself and never changes.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shipway.errors import InputError, ShipwayError
from shipway.lineage.documents import Release
from shipway.lineage.storage import join
from shipway.spec import EndpointSettings

Object = dict[str, Any]

REVISION_LABEL = "shipway.dev/revision"
SERVICE_LABEL = "serving.kserve.io/inferenceservice"
MANAGED_LABEL = "app.kubernetes.io/managed-by"
MANAGER = "shipway"
LEDGER_ANNOTATION = "shipway.dev/endpoint"
RECORD_ANNOTATION = "shipway.dev/record"
ATTEMPT_ANNOTATION = "shipway.dev/attempt"
PORT = 8080

_SERVICE_NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_LONGEST_NAME = 63
_USER = 65532
_STORES = ("s3://", "gs://", "hf://", "pvc://", "https://", "http://", "file://", "oci://", "hdfs://", "webhdfs://")
_SCALE_TARGET = 70
_GRACE_SECONDS = 60


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class Known(_Part):
    """A revision that was staged.

    Attributes:
        version: The registry's version.
        digest: The digest of its package.
    """

    version: str
    digest: str


class MirrorOrder(_Part):
    """Where requests are mirrored to."""

    revision: str
    percent: int


class Ledger(_Part):
    """What is known of an endpoint beside its InferenceService.

    Attributes:
        serial: Rises with every change.
        opened: Whether a revision was ever given traffic. KServe sends all of it to the first one from the beginning.
        edges: Inner edges of the prediction histogram of a regression model.
        mirror: What the servers mirror.
        unsaid: Whether the servers have yet to be told of it.
        revisions: What was staged, by id.
        previous: serverless: the revision that KServe calls the previous one; "" for none.
        gone: serverless: the revision that was taken away while it is still the InferenceService's; "" for none.
    """

    schema_version: int = 1
    serial: int = 0
    opened: bool = False
    edges: tuple[float, ...] = ()
    mirror: MirrorOrder | None = None
    unsaid: bool = False
    revisions: dict[str, Known] = Field(default_factory=dict)
    previous: str = ""
    gone: str = ""

    def with_revision(self, revision: str, release: Release) -> Ledger:
        """Returns it with a revision more."""
        known = Known(version=release.version, digest=release.digest)
        return self.model_copy(update={"revisions": {**self.revisions, revision: known}})

    def only(self, revisions: Sequence[str]) -> Ledger:
        """Returns it with no other revisions than these, mirroring to none that is gone."""
        kept = {name: known for name, known in self.revisions.items() if name in revisions}
        return self.model_copy(update={"revisions": kept}).mirroring_only(revisions)

    def mirroring_only(self, revisions: Sequence[str]) -> Ledger:
        """Returns it without the mirror, unless that is to one of these."""
        if self.mirror is None or self.mirror.revision in revisions:
            return self
        return self.model_copy(update={"mirror": None, "unsaid": True})


def service_name(name: str, environment: str) -> str:
    """Returns the InferenceService's name: the model's in production, with the environment behind it elsewhere.

    Raises:
        InputError: KServe would not take it.
    """
    found = name if environment == "production" else f"{name}-{environment}"
    if not _SERVICE_NAME.fullmatch(found):
        raise InputError(
            f"endpoint {found!r}: KServe takes lower-case letters, digits and dashes, beginning with a letter; "
            "rename the model (`name` in the spec)"
        )
    return found


def workload(service: str, revision: str) -> str:
    """Returns the name that KServe gives the Deployment and the Service of a predictor.

    Raises:
        InputError: It is longer than Kubernetes takes.
    """
    found = f"{service}-{revision}-predictor"
    if len(found) > _LONGEST_NAME:
        raise InputError(
            f"{found}: {len(found)} characters, Kubernetes takes {_LONGEST_NAME}; choose a shorter `name` in the spec"
        )
    return found


def storage_uri(release: Release, artifacts: str | None) -> str:
    """Returns where KServe's storage initializer finds a release's package.

    Raises:
        InputError: The cluster cannot read it from there.
    """
    uri = release.package_uri
    what = f"{release.name} version {release.version}"
    if uri.startswith("mlflow-artifacts:"):
        if not artifacts:
            raise InputError(
                f"{what}: KServe cannot read {uri}; set endpoint.kserve.artifacts in the spec to the place where the "
                "MLflow server keeps its artifacts, as s3://bucket/mlflow"
            )
        path = re.sub(r"^mlflow-artifacts:(//[^/]*)?/*", "", uri)
        return join(artifacts, path)
    address = uri.replace("minio://", "s3://")
    if not address.startswith(_STORES):
        raise InputError(
            f"{what}: its package is at {uri}, which pods of the cluster cannot read; register it with an MLflow "
            "server that keeps artifacts in an object store"
        )
    return address


def predictor(
    service: str,
    revision: str,
    release: Release,
    settings: EndpointSettings,
    edges: Sequence[float],
    control: str,
    attempt: int,
) -> Object:
    """Returns a revision's predictor, without what depends on its part (replicas, autoscaling).

    Args:
        service: The InferenceService's name.
        revision: The revision's id.
        release: What it serves.
        settings: The endpoint's settings.
        edges: Inner edges of the prediction histogram of a regression model; () for others.
        control: URI of the control document; "" for none.
        attempt: Tells this staging from an earlier one of the same revision, so that its pods are made anew.

    Raises:
        InputError: The cluster cannot read the package, or a name is too long.
    """
    kserve, log = settings.endpoint.kserve, settings.endpoint.log
    workload(service, revision)
    arguments = [f"--version={release.version}", f"--digest={release.digest}", f"--revision={revision}"]
    if edges:
        arguments.append("--edges=" + json.dumps(list(edges)))
    if control:
        arguments.append(f"--control={control}")
    if settings.endpoint.sticky:
        arguments.append(f"--sticky={settings.endpoint.sticky}")
    if log.uri and log.share > 0:
        arguments += [f"--log-uri={log.uri}", f"--log-share={log.share:g}"]
    blessing = release.blessing.model_dump(mode="json", include={"decision", "model_digest", "evaluation_digest"})
    model: Object = {
        "modelFormat": {"name": "shipway", "version": "1"},
        "runtime": kserve.runtime,
        "protocolVersion": "v2",
        "storageUri": storage_uri(release, kserve.artifacts),
        "args": arguments,
        "env": [{"name": "SHIPWAY_BLESSING", "value": json.dumps(blessing, sort_keys=True)}],
    }
    amounts = {name: value for name, value in (("cpu", kserve.cpu), ("memory", kserve.memory)) if value}
    if amounts:
        model["resources"] = {"requests": dict(amounts), "limits": dict(amounts)}
    return {
        "name": revision,
        "labels": {REVISION_LABEL: revision},
        "annotations": {
            "prometheus.io/scrape": "true",
            "prometheus.io/port": str(PORT),
            "prometheus.io/path": "/metrics",
            ATTEMPT_ANNOTATION: str(attempt),
        },
        "serviceAccountName": kserve.service_account,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": _USER,
            "runAsGroup": _USER,
            "fsGroup": _USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationGracePeriodSeconds": _GRACE_SECONDS,
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "topology.kubernetes.io/zone",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": {SERVICE_LABEL: service}},
            }
        ],
        "model": model,
    }


def scaled(found: Object, settings: EndpointSettings, added: int = 0) -> Object:
    """Returns a predictor with autoscaling, as the one that KServe calls stable.

    Args:
        found: The predictor.
        settings: The endpoint's settings.
        added: Replicas that KServe will take off again, as it does for each canary that is ready.
    """
    kserve = settings.endpoint.kserve
    fewest = kserve.min_replicas + added
    return {
        **unscaled(found),
        "minReplicas": fewest,
        "maxReplicas": max(kserve.max_replicas, fewest),
        "scaleMetric": "cpu",
        "scaleTarget": _SCALE_TARGET,
    }


def unscaled(found: Object) -> Object:
    """Returns a copy of a predictor without replicas and autoscaling."""
    parts = ("minReplicas", "maxReplicas", "scaleMetric", "scaleTarget", "canaryTrafficPercent")
    return {name: copy.deepcopy(value) for name, value in found.items() if name not in parts}


def inference_service(name: str, namespace: str, mode: str, spec: Object) -> Object:
    """Returns an InferenceService. Its labels and annotations never change: KServe copies them to the pods."""
    annotations = (
        {"serving.kserve.io/deploymentMode": "Standard"}
        if mode == "raw"
        else {"serving.kserve.io/deploymentMode": "Serverless", "serving.kserve.io/enable-tag-routing": "true"}
    )
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": {MANAGED_LABEL: MANAGER},
            "annotations": annotations,
        },
        "spec": spec,
    }


def lease(name: str, namespace: str, ledger: Ledger, record: str, holder: str, found: Object | None) -> Object:
    """Returns the Lease with a ledger and a record in it, as a new one or in place of the one found."""
    metadata: Object = {
        "name": name,
        "namespace": namespace,
        "labels": {MANAGED_LABEL: MANAGER},
        "annotations": {LEDGER_ANNOTATION: ledger.model_dump_json(), RECORD_ANNOTATION: record},
    }
    if found is not None:
        metadata["resourceVersion"] = found["metadata"]["resourceVersion"]
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": metadata,
        "spec": {"holderIdentity": holder},
    }


def read_ledger(found: Object | None) -> tuple[Ledger, str]:
    """Returns the ledger and the record out of a Lease.

    Raises:
        ShipwayError: Somebody else wrote there.
    """
    if found is None:
        return Ledger(), ""
    annotations: Mapping[str, str] = found["metadata"].get("annotations") or {}
    try:
        ledger = Ledger.model_validate_json(annotations[LEDGER_ANNOTATION])
    except (KeyError, ValidationError) as error:
        name = found["metadata"]["name"]
        raise ShipwayError(
            f"Lease {name}: its annotation {LEDGER_ANNOTATION} is missing or was changed by something else than "
            "Shipway; delete the Lease to begin anew (what is served stays)"
        ) from error
    return ledger, annotations.get(RECORD_ANNOTATION, "")
