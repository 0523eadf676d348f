"""The Vertex AI endpoint, as a subject of the contract: real servers behind a stand-in, packages in a GCS emulator."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Before gcsfs is imported: else it asks Google about each bucket, whatever server it is told of.
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
sys.path.append(str(Path(__file__).parents[1] / "platforms"))

import gcsfs
import pytest
import requests
from contract import Fault
from endpoint_local import ROW
from endpoint_server import SERVER
from gcp_storage_emulator.server import create_server
from serving_process import until
from serving_releases import stand_in_release
from vertex_endpoints_stand_in import EndpointsStandIn
from vertex_stand_in import LOCATION, PROJECT

from shipway.endpoints import vertex_client, vertex_resource
from shipway.endpoints.client import call, json_bytes
from shipway.endpoints.vertex import VertexEndpoint
from shipway.lineage.documents import Release
from shipway.spec.rollout import EndpointSettings

IMAGE = "europe-west4-docker.pkg.dev/shipway-test/shipway/server:1.0"


def settings(**endpoint: object) -> EndpointSettings:
    """Returns settings for the stand-in; sections of `endpoint` may be given."""
    vertex = {"artifacts": "gs://models/shipway", "machine_type": "n1-standard-2"}
    return EndpointSettings.model_validate(
        {
            "endpoint": {"kind": "vertex", "control": "gs://models/control", "vertex": vertex, **endpoint},
            "vertex": {"project": PROJECT, "location": LOCATION},
            "image": IMAGE,
        }
    )


@contextmanager
def surroundings(stand_in: EndpointsStandIn, folder: Path) -> Iterator[pytest.MonkeyPatch]:
    """Lets clients find the stand-in and an empty bucket `models`, and waste no time on waiting."""
    server = create_server("127.0.0.1", 0, in_memory=True)
    server.start()
    url = f"http://127.0.0.1:{server._api._httpd.server_port}"
    gcsfs.GCSFileSystem.clear_instance_cache()
    try:
        with pytest.MonkeyPatch.context() as patched:
            patched.setenv("STORAGE_EMULATOR_HOST", url)
            patched.setenv("SHIPWAY_STATE", str(folder / "state"))
            requests.post(f"{url}/storage/v1/b", json={"name": "models"}, timeout=10).raise_for_status()
            with stand_in:
                patched.setenv(vertex_client.ENDPOINT_VARIABLE, stand_in.endpoint)
                patched.setattr(vertex_client, "PAUSES", (0.01, 0.02, 0.03))
                patched.setattr(vertex_client, "DEADLINE", 10.0)
                patched.setattr(vertex_resource, "POLL_SECONDS", 0.02)
                yield patched
    finally:
        gcsfs.GCSFileSystem.clear_instance_cache()
        server.stop()


def blessed_release(folder: Path, version: str, fault: Fault = "") -> Release:
    release = stand_in_release(folder, version, "misshapen" if fault == "does not load" else "ok")
    if fault == "changed bytes":
        (Path(release.package_uri) / "more.txt").write_text("not blessed")
    update = {"unblessed": {"decision": "rejected"}, "other blessing": {"model_digest": "sha256:" + "0" * 64}}
    blessing = release.blessing.model_copy(update=update.get(fault, {}))
    return release.model_copy(update={"blessing": blessing})


class VertexSubject:
    mirrors = True
    addresses = True
    counts_latency = True
    row = ROW

    def __init__(self, folder: Path, stand_in: EndpointsStandIn) -> None:
        self._folder = folder
        self.stand_in = stand_in

    @property
    def endpoint(self) -> VertexEndpoint:
        return VertexEndpoint("flights", settings(), "production")

    def release(self, version: str, fault: Fault = "") -> Release:
        return blessed_release(self._folder / "packages", version, fault)

    def traffic(self, revision: str, requests: int, errors: int = 0, milliseconds: float = 0.0) -> None:
        url = self.endpoint.status().url
        deployed = self.stand_in.deployed(revision)
        for number in range(requests):
            carrier = "boom" if number < errors else f"sleep-{milliseconds:.0f}" if milliseconds else "AA"
            answer = call("POST", url, json_bytes({"instances": [{**ROW, "carrier": carrier}]}))
            assert answer.headers["x-vertex-ai-deployed-model-id"] == deployed.id

    def break_revision(self, revision: str) -> None:
        self.stand_in.break_down(revision)

        def is_known() -> bool:
            found = self.endpoint.status().revision(revision)
            return found is not None and not found.ready

        until(is_known)

    def restart(self) -> None:
        self.stand_in.power_cut()


@contextmanager
def subject(folder: Path) -> Iterator[VertexSubject]:
    stand_in = EndpointsStandIn(command=SERVER, folder=folder / "servers")
    with surroundings(stand_in, folder):
        yield VertexSubject(folder, stand_in)
