"""Puts a released package into Vertex AI's Model registry: a Model per Shipway model, a version per way to serve it.

A version is found again by a label that is made from all that its container is started with, so that the same upload
twice is one.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shipway.endpoints.control import control_uri
from shipway.endpoints.vertex_resource import POLL_SECONDS, follow
from shipway.endpoints.vertex_state import MODEL_LABEL, bounded, model_id
from shipway.errors import InputError, ShipwayError
from shipway.lineage import storage
from shipway.lineage.digests import digest_json
from shipway.spec.resources import duration_seconds

if TYPE_CHECKING:
    from google.cloud.aiplatform_v1.types import Model

    from shipway.endpoints.vertex_client import Vertex
    from shipway.lineage.documents import Release
    from shipway.spec.rollout import EndpointSettings

CONTENT_LABEL, DIGEST_LABEL, VERSION_LABEL = "shipway-content", "shipway-digest", "shipway-version"
PORT, HEALTH_ROUTE, PREDICT_ROUTE = 8080, "/shipway/health", "/shipway/predict"


@dataclass(frozen=True)
class Served:
    """A release as a revision is to serve it.

    Attributes:
        release: The release.
        revision: The revision's id.
        environment: The environment.
        edges: Inner edges of the histogram of its predictions; () for none.
    """

    release: Release
    revision: str
    environment: str
    edges: tuple[float, ...]

    @property
    def what(self) -> str:
        """Model and version, to begin an error message."""
        return f"{self.release.name} version {self.release.version}"


def upload(vertex: Vertex, settings: EndpointSettings, served: Served, package: Path) -> str:
    """Returns the resource name, version included, of the model in the registry; uploads it where it is not there.

    Args:
        vertex: Where.
        settings: Image, artifacts, log and all else that the server is told.
        served: What is served.
        package: A verified local copy of the package.

    Raises:
        InputError: There is no image, or no place in Google Cloud Storage for the package.
        ShipwayError: Vertex AI refused, or did not answer, or the upload failed.
    """
    what = f"uploading {served.what} to Vertex AI's model registry"
    model = _model(settings, served, _artifacts(settings, served, package))
    content = model["labels"][CONTENT_LABEL]
    deadline = time.monotonic() + duration_seconds(settings.endpoint.vertex.ready_timeout)
    name = f"{vertex.parent}/models/{model_id(served.release.name)}"
    while (found := _find(vertex, what, name, content)) is None:
        _upload(vertex, what, name, model, deadline)
        if time.monotonic() > deadline:
            raise ShipwayError(f"{what}: Vertex AI has not ended it in time; the same again finds it")
    return f"{name}@{found.version_id}"


def _artifacts(settings: EndpointSettings, served: Served, package: Path) -> str:
    """Returns where Vertex AI takes the package from: where it lies in Google Cloud Storage, else a copy there."""
    uri = served.release.package_uri.rstrip("/")
    if uri.startswith("gs://"):
        return uri
    folder = settings.endpoint.vertex.artifacts
    if not folder or not folder.startswith("gs://"):
        raise InputError(
            f"{served.what}: Vertex AI takes packages from Google Cloud Storage alone, and this one lies at {uri}; "
            f"set endpoint.vertex.artifacts to a folder, as gs://bucket/models, found {folder!r}"
        )
    target = storage.join(folder, "packages", served.release.digest.removeprefix("sha256:"))
    # Written last: a folder with it is whole.
    mark = storage.join(target + ".complete")
    if not storage.exists(mark):
        storage.upload(package, target)
        storage.write_bytes(mark, served.release.digest.encode())
    return target


def _model(settings: EndpointSettings, served: Served, artifacts: str) -> dict[str, Any]:
    """Returns the Model to upload."""
    release, image = served.release, settings.endpoint.vertex.image or settings.image
    if not image:
        raise InputError(
            f"{served.what}: no image of the model server; set endpoint.vertex.image to one in Artifact Registry, as "
            "europe-west4-docker.pkg.dev/my-project/shipway/server:1.0"
        )
    container = {
        "image_uri": image,
        "args": _arguments(served),
        "env": [{"name": name, "value": value} for name, value in _variables(settings, served).items()],
        "ports": [{"container_port": PORT}],
        "health_route": HEALTH_ROUTE,
        "predict_route": PREDICT_ROUTE,
        "deployment_timeout": {"seconds": min(7200, duration_seconds(settings.endpoint.vertex.ready_timeout))},
    }
    content = digest_json({"container": container, "artifacts": artifacts}).removeprefix("sha256:")[:40]
    key = settings.vertex.encryption_key
    return {
        "display_name": release.name,
        "description": f"Shipway model {release.name}",
        "version_description": f"{release.name} version {release.version}, {release.digest}",
        "version_aliases": [served.revision],
        "artifact_uri": artifacts,
        "container_spec": container,
        "labels": {
            **settings.vertex.labels,
            MODEL_LABEL: release.name,
            VERSION_LABEL: bounded(release.version),
            # A label has 63 characters, a digest 64.
            DIGEST_LABEL: release.digest.removeprefix("sha256:")[:63],
            CONTENT_LABEL: content,
        },
        **({"encryption_spec": {"kms_key_name": key}} if key else {}),
    }


def _arguments(served: Served) -> list[str]:
    release = served.release
    return [
        *("--name", release.name),
        *("--version", release.version),
        *("--digest", release.digest),
        *("--revision", served.revision),
    ]


def _variables(settings: EndpointSettings, served: Served) -> dict[str, str]:
    """Returns the server's settings as its environment variables; those without a value are left out."""
    endpoint = settings.endpoint
    found = {
        "SHIPWAY_BLESSING": served.release.blessing.model_dump_json(),
        "SHIPWAY_EDGES": ",".join(map(repr, served.edges)),
        "SHIPWAY_STICKY": endpoint.sticky or "",
        "SHIPWAY_LOG_URI": endpoint.log.uri or "",
        "SHIPWAY_LOG_SHARE": str(endpoint.log.share) if endpoint.log.uri else "",
        "SHIPWAY_CONTROL": control_uri(endpoint.control, served.release.name, served.environment)
        if endpoint.control
        else "",
    }
    return {name: value for name, value in found.items() if value}


def _find(vertex: Vertex, what: str, name: str, content: str) -> Model | None:
    """Returns the oldest version with that content, None where there is none."""
    from google.api_core.exceptions import Conflict, NotFound

    token = ""
    found: list[Model] = []
    while True:
        request = {"name": name, "filter": f'labels.{CONTENT_LABEL}="{content}"', "page_size": 100, "page_token": token}
        try:
            page = vertex.ask(what, vertex.models.list_model_versions, request)
        except NotFound as error:
            if "Location" in str(error.message):
                raise vertex.refusal(what, error) from error
            return None
        except Conflict as error:
            raise vertex.refusal(what, error) from error
        answer = next(iter(page.pages))
        # The label is looked at again, should a filter be of no avail.
        found += [one for one in answer.models if one.labels.get(CONTENT_LABEL) == content]
        token = answer.next_page_token
        if not token:
            return min(found, key=lambda one: int(one.version_id), default=None)


def _upload(vertex: Vertex, what: str, name: str, model: Mapping[str, Any], deadline: float) -> None:
    """Uploads a version of the model, the first one under the id that its name gives it."""
    from google.api_core.exceptions import Conflict, NotFound

    place = {"parent_model": name} if _exists(vertex, what, name) else {"model_id": name.rpartition("/")[2]}
    request = {"parent": vertex.parent, "model": dict(model), **place}
    try:
        operation = vertex.ask(what, vertex.models.upload_model, request).operation
    except NotFound as error:
        raise vertex.refusal(what, error) from error
    except Conflict:
        # The model was made meanwhile, by somebody else or by a call whose answer was lost: it is looked for again.
        time.sleep(POLL_SECONDS)
        return
    try:
        follow(vertex, vertex.models, what, operation, deadline)
    except ShipwayError as error:
        raise ShipwayError(str(error)) from error


def _exists(vertex: Vertex, what: str, name: str) -> bool:
    from google.api_core.exceptions import Conflict, NotFound

    try:
        vertex.ask(what, vertex.models.get_model, {"name": name})
    except NotFound:
        return False
    except Conflict as error:
        raise vertex.refusal(what, error) from error
    return True
