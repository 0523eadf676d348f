"""What KServe's controller and its webhook do with an InferenceService, as its source has it (0.20 and 0.21).

Read from kserve/kserve: pkg/controller/v1beta1/inferenceservice/components/predictor.go (`reconcileRawDeployment`,
`reconcileCanaryDeployments`), reconcilers/ingress/httproute_reconciler.go (`applyCanaryWeights`, with readiness since
pull request 5984), reconcilers/knative/ksvc_reconciler.go, and `PropagateStatus` of apis/serving/v1beta1. Of note:
annotations and labels of the InferenceService go to its pods.
"""

import copy
import re
from typing import Any

from kserve_workloads import Object, Workloads

NOT_COPIED = ("kubectl.kubernetes.io/last-applied-configuration", "autoscaling.knative.dev/min-scale")
SERVICE = "serving.kserve.io/inferenceservice"
AUTOSCALING = ("maxReplicas", "scaleTarget", "scaleMetric", "autoScaling")


class Refused(Exception):  # noqa: N818 - an answer, no fault of the stand-in's
    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status, self.reason = status, reason


def admit(body: Object) -> None:
    """Refuses what the validating webhook refuses."""

    def refuse(message: str) -> None:
        raise Refused(
            403,
            "Forbidden",
            'admission webhook "inferenceservice.kserve-webhook-server.validator" denied the request: ' + message,
        )

    name, spec = body["metadata"]["name"], body["spec"]
    if not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name):
        refuse(f'the InferenceService "{name}" is invalid: it must consist of lower case characters')
    canaries = spec.get("canary") or []
    if canaries and _mode(body) != "Standard":
        refuse("canary is only supported in Standard deployment mode")
    names = [entry["predictor"].get("name", "") for entry in canaries]
    if not all(names) or len({*names, spec["predictor"].get("name", "")}) != len(names) + 1:
        refuse("canary predictor.name must be set, unique and different from the stable predictor's")
    percents = [entry["trafficPercent"] for entry in canaries]
    if any(not 0 <= percent <= 100 for percent in percents) or sum(percents) > 100:
        refuse(f"the sum of canary trafficPercent must be <= 100, got {sum(percents)}")
    if any(field in entry["predictor"] for entry in canaries for field in AUTOSCALING):
        refuse("autoscaling fields are not allowed on canary predictors")
    if canaries and "canaryTrafficPercent" in spec["predictor"]:
        refuse("canary and canaryTrafficPercent are mutually exclusive")
    stable = spec["predictor"]
    if stable.get("maxReplicas") and stable.get("minReplicas", 1) > stable["maxReplicas"]:
        refuse("MinReplicas cannot be greater than MaxReplicas")
    if "model" in stable and "name" in stable["model"]:
        refuse("the 'name' field is not allowed in standard predictor")


class Controller:
    """Brings workloads and statuses to what specs ask for, one step at each look."""

    def __init__(self, workloads: Workloads) -> None:
        self.workloads = workloads
        self.stopped = False
        self.routes: dict[str, dict[str, int]] = {}
        self.services: dict[str, Object] = {}
        self._knative: dict[str, list[Object]] = {}

    def look(self, body: Object) -> Object:
        """Returns an InferenceService's new status."""
        status: Object = copy.deepcopy(body.get("status") or {})
        if self.stopped:
            return status
        if _mode(body) == "Standard":
            self._raw(body, status)
        else:
            self._serverless(body, status)
        status["observedGeneration"] = body["metadata"]["generation"]
        status["url"] = f"http://{body['metadata']['name']}.example.com"
        return status

    def forget(self, name: str) -> None:
        for workload in [found for found in self.workloads.pods if found.startswith(f"{name}-")]:
            self.workloads.remove(workload)
            self.services.pop(workload, None)
        self._knative.pop(name, None)
        self.routes.pop(name, None)

    # --- Standard -----------------------------------------------------------------------------------------------------

    def _raw(self, body: Object, status: Object) -> None:
        name, stable = body["metadata"]["name"], body["spec"]["predictor"]
        canaries = body["spec"].get("canary") or []
        expected = {_workload(name, stable)}
        told = []
        for entry in canaries:
            merged = _merged(stable, entry["predictor"])
            workload = _workload(name, merged)
            expected.add(workload)
            self._deploy(workload, body, merged, _replicas(stable, entry))
            ready = self.workloads.ready(workload)
            told.append({"name": merged["name"], "ready": ready, "trafficPercent": entry["trafficPercent"]})
        taken = sum(_replicas(stable, entry) for entry, one in zip(canaries, told, strict=True) if one["ready"])
        self._deploy(_workload(name, stable), body, stable, max(stable.get("minReplicas", 1) - taken, 1))
        for workload in [found for found in self.workloads.pods if found.startswith(f"{name}-")]:
            if workload not in expected:
                self.workloads.remove(workload)
                self.services.pop(workload, None)
        status["canaryStatuses"] = told
        ready = self.workloads.ready(_workload(name, stable))
        conditions = [_condition("PredictorReady", ready, "MinimumReplicasUnavailable")]
        if canaries:
            conditions.append(_condition("CanaryPredictorReady", all(one["ready"] for one in told), "CanariesNotReady"))
        conditions += [_condition("IngressReady", ready, ""), _condition("Ready", ready, "")]
        status["conditions"] = conditions
        weights = {_workload(name, {"name": one["name"]}): one["trafficPercent"] for one in told if one["ready"]}
        weights = {workload: weight for workload, weight in weights.items() if weight}
        self.routes[name] = {_workload(name, stable): 100 - sum(weights.values()), **weights}

    def _deploy(self, workload: str, body: Object, predictor: Object, replicas: int) -> None:
        self.workloads.apply(workload, _template(body, predictor), replicas, body["metadata"]["name"])
        self.services[workload] = {
            "metadata": {"name": workload},
            "spec": {"clusterIP": "10.96.0.7", "ports": [{"port": 80, "targetPort": 8080}]},
        }

    # --- Knative ------------------------------------------------------------------------------------------------------

    def _serverless(self, body: Object, status: Object) -> None:
        name, predictor = body["metadata"]["name"], body["spec"]["predictor"]
        revisions = self._knative.setdefault(name, [])
        template = _template(body, predictor)
        if not revisions or revisions[-1]["template"] != template:
            revisions.append({"name": f"{name}-predictor-{len(revisions) + 1:05d}", "template": template})
        for revision in revisions:
            self.workloads.apply(revision["name"], revision["template"], 1, name)
        told = status.setdefault("components", {}).setdefault("predictor", {})
        created = revisions[-1]["name"]
        ready = [revision["name"] for revision in revisions if self.workloads.ready(revision["name"])]
        told["latestCreatedRevision"] = created
        if ready:
            told["latestReadyRevision"] = ready[-1]
        traffic = self._traffic(predictor, told)
        told["traffic"] = traffic
        self.routes[name] = {one["revisionName"]: one["percent"] for one in traffic if one["percent"]}
        _propagate(told, traffic)
        routed = {one["revisionName"] for one in traffic} | {told.get("latestRolledoutRevision")}
        for revision in revisions[:-1]:
            if revision["name"] not in routed | {told.get("previousRolledoutRevision")}:
                self.workloads.remove(revision["name"])
        is_ready = told.get("latestReadyRevision") == created
        status["conditions"] = [
            _condition("PredictorReady", is_ready, "RevisionFailed"),
            _condition("Ready", is_ready, ""),
        ]

    def _traffic(self, predictor: Object, told: Object) -> list[Object]:
        latest = told.get("latestReadyRevision")
        if latest is None:
            return []
        percent, back = predictor.get("canaryTrafficPercent"), told.get("latestRolledoutRevision")
        split = percent is not None and back is not None
        found = [self._target(latest, percent if split else 100, "latest", latestRevision=True)]
        if split and percent < 100:
            found.append(self._target(back, 100 - percent, "prev", latestRevision=False))
        return found

    def _target(self, revision: str, percent: int, tag: str, **more: Any) -> Object:
        url = f"http://127.0.0.1:{self.workloads.port(revision)}"
        return {"revisionName": revision, "percent": percent, "tag": tag, "url": url, **more}


def _propagate(told: Object, traffic: list[Object]) -> None:
    """Keeps track of what was rolled out, as `PropagateStatus` does."""
    whole: dict[str, int] = {}
    for one in traffic:
        whole[one["revisionName"]] = whole.get(one["revisionName"], 0) + one["percent"]
    for one in traffic:
        if one["revisionName"] != told.get("latestReadyRevision") or not one["latestRevision"]:
            continue
        if told.get("latestRolledoutRevision") != one["revisionName"]:
            if one["percent"] == 100:
                told["previousRolledoutRevision"] = told.get("latestRolledoutRevision", "")
                told["latestRolledoutRevision"] = one["revisionName"]
        elif (
            # Rolled out and then back: the split is over one and the same revision.
            told["latestReadyRevision"] == told["latestCreatedRevision"]
            and one["percent"] < whole[one["revisionName"]] == 100
            and told.get("previousRolledoutRevision")
        ):
            told["latestRolledoutRevision"] = told["previousRolledoutRevision"]


def _mode(body: Object) -> str:
    annotations = body["metadata"].get("annotations") or {}
    found = str(annotations.get("serving.kserve.io/deploymentMode", "Serverless"))
    return {"RawDeployment": "Standard", "Serverless": "Knative"}.get(found, found)


def _workload(service: str, predictor: Object) -> str:
    return "-".join(part for part in (service, predictor.get("name", ""), "predictor") if part)


def _replicas(stable: Object, entry: Object) -> int:
    if entry["predictor"].get("minReplicas") is not None:
        return int(entry["predictor"]["minReplicas"])
    return -(-stable.get("minReplicas", 1) * entry["trafficPercent"] // 100)


def _merged(stable: Object, canary: Object) -> Object:
    """Lays what a canary says over the stable predictor, maps within maps, lists as a whole."""
    found = {name: copy.deepcopy(value) for name, value in stable.items() if name not in AUTOSCALING}
    for name, value in canary.items():
        if isinstance(value, dict) and isinstance(found.get(name), dict):
            found[name] = _merged(found[name], value)
        elif value not in (None, "", [], 0):
            found[name] = copy.deepcopy(value)
    return found


def _template(body: Object, predictor: Object) -> Object:
    """Returns what makes pods anew when it changes."""
    metadata, model = body["metadata"], predictor["model"]
    annotations = {name: value for name, value in (metadata.get("annotations") or {}).items() if name not in NOT_COPIED}
    keys = ("securityContext", "serviceAccountName", "topologySpreadConstraints", "terminationGracePeriodSeconds")
    return {
        "labels": {
            **(metadata.get("labels") or {}),
            **(predictor.get("labels") or {}),
            SERVICE: metadata["name"],
            "component": "predictor",
        },
        "annotations": {**annotations, **(predictor.get("annotations") or {})},
        "args": model.get("args") or [],
        "env": model.get("env") or [],
        "storageUri": model["storageUri"],
        "resources": model.get("resources") or {},
        "spec": {name: predictor.get(name) for name in keys},
    }


def _condition(kind: str, holds: bool, reason: str) -> Object:
    found: Object = {"type": kind, "status": "True" if holds else "False"}
    return found if holds else {**found, "reason": reason}
