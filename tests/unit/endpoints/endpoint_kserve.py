"""The endpoint on KServe, as a subject of the contract: a stand-in of the cluster, real servers, a real Prometheus."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Literal

import pytest
from contract import Fault
from kserve_stand_in import NAMESPACE, StandIn, cluster
from prometheus_real import MISSING, PROGRAM, prometheus, value
from serving_process import until
from serving_releases import stand_in_release

from shipway.endpoints.client import call, json_bytes
from shipway.endpoints.kserve import KServeEndpoint
from shipway.lineage.documents import Release
from shipway.spec.rollout import EndpointSection, EndpointSettings, KServeSettings

Mode = Literal["raw", "serverless"]
ROW: dict[str, object] = {"delay": 0.0, "holiday": True, "carrier": "AA"}


class KServeSubject:
    addresses = True
    counts_latency = True
    row = ROW

    def __init__(self, folder: Path, state: StandIn, metrics: str, mode: Mode) -> None:
        self.folder, self.cluster, self._metrics = folder, state, metrics
        self._mode = mode
        self._asked: dict[str, int] = {}

    @property
    def mirrors(self) -> bool:
        return self._mode == "raw"

    def settings(self, **kserve: object) -> EndpointSettings:
        section = EndpointSection(
            kind="kserve",
            control=f"{self.folder}/control" if self.mirrors else None,
            kserve=KServeSettings.model_validate(
                {
                    "namespace": NAMESPACE,
                    "prometheus": self._metrics,
                    "mode": self._mode,
                    "ready_timeout": "20s",
                    **kserve,
                }
            ),
        )
        return EndpointSettings(endpoint=section)

    @property
    def endpoint(self) -> KServeEndpoint:
        return KServeEndpoint("flights", self.settings(), "production", poll_seconds=0.05)

    def release(self, version: str, fault: Fault = "") -> Release:
        mode = "misshapen" if fault == "does not load" else "ok"
        release = stand_in_release(self.folder / "packages", version, mode)
        if fault == "changed bytes":
            (Path(release.package_uri) / "more.txt").write_text("not blessed")
        update = {"unblessed": {"decision": "rejected"}, "other blessing": {"model_digest": "sha256:" + "0" * 64}}
        blessing = release.blessing.model_copy(update=update.get(fault, {}))
        # KServe's storage initializer takes this kind, too.
        return release.model_copy(update={"blessing": blessing, "package_uri": f"file://{release.package_uri}"})

    def workload(self, revision: str) -> str:
        """Returns the name of what runs a revision's pods."""
        pods = self.cluster.workloads.all()
        return next(pod.workload for pod in pods if pod.template["labels"]["shipway.dev/revision"] == revision)

    def traffic(self, revision: str, requests: int, errors: int = 0, milliseconds: float = 0.0) -> None:
        if PROGRAM is None:
            pytest.skip(MISSING)
        with self.cluster.lock:
            self.cluster.look()
            workload = self.workload(revision)
            assert self.cluster.controller.routes["flights"] == {workload: 100}
            port = self.cluster.workloads.port(workload)
        for number in range(requests):
            carrier = "boom" if number < errors else f"sleep-{milliseconds:.0f}" if milliseconds else "AA"
            body = json_bytes({"instances": [{**ROW, "carrier": carrier}]})
            answer = call("POST", f"http://127.0.0.1:{port}/v1/models/flights:predict", body)
            assert answer.headers["x-shipway-revision"] == revision
        self._asked[revision] = self._asked.get(revision, 0) + requests
        query = f'shipway_requests_total{{revision="{revision}"}}'
        until(lambda: value(self._metrics, query) == self._asked[revision])

    def break_revision(self, revision: str) -> None:
        with self.cluster.lock:
            for pod in self.cluster.workloads.pods[self.workload(revision)]:
                pod.end()

    def restart(self) -> None:
        with self.cluster.lock:
            self.cluster.workloads.power_cut("flights")
        until(lambda: all(pod.ready for pod in self.cluster.workloads.all()))


@contextmanager
def subject(folder: Path, mode: Mode = "raw") -> Iterator[KServeSubject]:
    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        state = stack.enter_context(cluster(folder / "cluster"))
        patch.setenv("KUBECONFIG", str(folder / "cluster" / "kubeconfig"))
        patch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
        patch.setenv("SHIPWAY_STATE", str(folder / "state"))
        os.environ.pop("SHIPWAY_PROMETHEUS_TOKEN", None)
        if PROGRAM is not None:
            metrics = stack.enter_context(prometheus(folder / "prometheus", f"{state.url}/targets"))
        else:
            metrics = f"{state.url}/no-prometheus"
        yield KServeSubject(folder, state, metrics, mode)
