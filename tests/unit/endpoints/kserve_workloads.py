"""Pods of a cluster that is none: each is a real server process around a stand-in of a package."""

import contextlib
import datetime as dt
import json
import os
import subprocess
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from endpoint_server import SERVER

from shipway.endpoints.claim import claimant
from shipway.endpoints.client import UnreachableError, call

Object = dict[str, Any]


def now() -> str:
    return dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass
class Pod:
    """One pod of a workload, made from its template.

    Attributes:
        workload: The Deployment's, or the Knative revision's, name.
        template: Labels, annotations, args, env and storageUri.
        folder: Where its process keeps its files.
        trouble: A state that the test asked for instead of a process; see `pod_status`.
    """

    workload: str
    template: Object
    folder: Path
    trouble: str = ""
    uid: str = field(default_factory=lambda: uuid.uuid4().hex)
    since: str = ""
    process: subprocess.Popen[bytes] | None = None

    @property
    def name(self) -> str:
        return f"{self.workload}-{self.uid[:10]}"

    def start(self, service: str) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        package = self.template["storageUri"].removeprefix("file://")
        arguments = ["--package", package, "--name", service, "--host", "127.0.0.1", "--port", "0"]
        arguments += ["--state-file", str(self._claim), *self.template["args"]]
        with self._log.open("wb") as output:
            self.process = subprocess.Popen(
                [*SERVER, *arguments],
                stdout=output,
                stderr=output,
                env={**os.environ, **{entry["name"]: entry["value"] for entry in self.template["env"]}},
            )

    def end(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    @property
    def port(self) -> int:
        found = claimant(self._claim)
        return found.port if found else 0

    @property
    def ready(self) -> bool:
        if self.trouble or self.process is None or self.process.poll() is not None or not self.port:
            return False
        with contextlib.suppress(UnreachableError):
            if call("GET", f"http://127.0.0.1:{self.port}/v2/health/ready").status == 200:
                self.since = self.since or now()
                return True
        return False

    @property
    def log(self) -> str:
        return self._log.read_text() if self._log.is_file() else ""

    @property
    def _claim(self) -> Path:
        return self.folder / f"{self.uid}.claim"

    @property
    def _log(self) -> Path:
        return self.folder / f"{self.uid}.log"

    def as_object(self, namespace: str) -> Object:
        ready = self.ready
        conditions = [
            {"type": "PodScheduled", "status": "True"},
            {"type": "Ready", "status": "True" if ready else "False", "lastTransitionTime": self.since or now()},
        ]
        ended = self.process.poll() if self.process is not None else None
        container: Object = {"name": "kserve-container", "ready": ready, "restartCount": 0, "state": {"running": {}}}
        if ended is not None:
            container["state"] = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 5m0s restarting"}}
            container["lastState"] = {"terminated": {"exitCode": ended, "reason": "Error"}}
            container["restartCount"] = 3
        status: Object = {"phase": "Running", "conditions": conditions, "containerStatuses": [container]}
        if self.trouble:
            status = pod_status(self.trouble)
        return {
            "metadata": {
                "name": self.name,
                "namespace": namespace,
                "uid": self.uid,
                "labels": self.template["labels"],
                "annotations": self.template["annotations"],
            },
            "spec": {"containers": [{"name": "kserve-container"}]},
            "status": status,
        }


def pod_status(trouble: str) -> Object:
    """Returns what a kubelet or the scheduler says of a pod in some trouble."""
    main: Object = {"name": "kserve-container", "ready": False, "restartCount": 0}
    scheduled: Object = {"type": "PodScheduled", "status": "True"}
    unready: Object = {"type": "Ready", "status": "False", "reason": "ContainersNotReady"}
    match trouble:
        case "unschedulable":
            scheduled = {
                "type": "PodScheduled",
                "status": "False",
                "reason": "Unschedulable",
                "message": "0/3 nodes are available: 3 Insufficient memory.",
            }
            return {"phase": "Pending", "conditions": [scheduled]}
        case "image":
            main["state"] = {
                "waiting": {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "shipway/server:0"'}
            }
        case "initializer":
            main["state"] = {"waiting": {"reason": "PodInitializing"}}
            init: Object = {"name": "storage-initializer", "ready": False, "restartCount": 4}
            init["state"] = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 2m40s"}}
            init["lastState"] = {"terminated": {"exitCode": 1, "reason": "Error"}}
            return {
                "phase": "Pending",
                "conditions": [scheduled, unready],
                "initContainerStatuses": [init],
                "containerStatuses": [main],
            }
        case "killed":
            main["state"] = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}}
            main["lastState"] = {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}
            main["restartCount"] = 5
    return {"phase": "Running", "conditions": [scheduled, unready], "containerStatuses": [main]}


class Workloads:
    """Deployments or Knative revisions with a pod each, whatever replicas they ask for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.pods: dict[str, list[Pod]] = {}
        self.replicas: dict[str, int] = {}
        self.troubles: dict[str, str] = {}

    def apply(self, name: str, template: Object, replicas: int, service: str) -> None:
        """Makes a workload's pod, or makes it anew because its template changed; the old one goes when it is ready."""
        self.replicas[name] = replicas
        pods = self.pods.setdefault(name, [])
        if not replicas:
            self._end(pods)
            return
        same = [pod for pod in pods if _digest(pod.template) == _digest(template)]
        if not same:
            trouble = next((word for part, word in self.troubles.items() if part in name), "")
            pod = Pod(name, json.loads(json.dumps(template)), self._folder, trouble)
            if not trouble:
                pod.start(service)
            pods.append(pod)
        elif same[-1].ready:
            self._end([pod for pod in pods if pod is not same[-1]])
            self.pods[name] = [same[-1]]

    def remove(self, name: str) -> None:
        self._end(self.pods.pop(name, []))
        self.replicas.pop(name, None)

    def ready(self, name: str) -> bool:
        return any(pod.ready for pod in self.pods.get(name, []))

    def port(self, name: str) -> int:
        return next((pod.port for pod in self.pods.get(name, []) if pod.ready), 0)

    def all(self) -> list[Pod]:
        return [pod for pods in self.pods.values() for pod in pods]

    def power_cut(self, service: str) -> None:
        """Ends every process; Kubernetes starts the containers again, in the same pods."""
        for pod in self.all():
            pod.end()
            if not pod.trouble:
                pod.since = ""
                pod.start(service)

    def close(self) -> None:
        self._end(self.all())

    def _end(self, pods: list[Pod]) -> None:
        for pod in pods:
            pod.end()


def _digest(template: Mapping[str, Any]) -> str:
    return json.dumps(template, sort_keys=True)
