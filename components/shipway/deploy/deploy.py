"""Puts a registered release on the staging endpoint."""

import shlex
from dataclasses import dataclass
from pathlib import Path

from shipway.endpoints.client import json_bytes
from shipway.endpoints.local import LocalEndpoint
from shipway.endpoints.packages import golden_rows, local_package
from shipway.endpoints.protocol import Endpoint
from shipway.lineage.documents import Deployment, Release, read_document


@dataclass(frozen=True, slots=True)
class Deployed:
    """What a deploy came to.

    Attributes:
        deployment: What the endpoint serves now, and what it served before.
        example: A shell command that asks for a prediction of one golden row.
    """

    deployment: Deployment
    example: str


def deploy(release_path: str | Path, deployment_path: str | Path, endpoint: Endpoint | None = None) -> Deployed:
    """Serves a release on an endpoint; doing it again changes nothing.

    Args:
        release_path: The Release document.
        deployment_path: Where the Deployment document goes.
        endpoint: The endpoint; default: this machine's, for the release's model.

    Raises:
        NotBlessedError: No blessing names the release's digest.
        DigestMismatchError: The package's bytes are not the release's.
        ShipwayError: The release cannot be served; what was served before still is.
    """
    release = read_document(Release, release_path)
    deployment = (endpoint or LocalEndpoint(release.name)).stage(release)
    deployment.write(deployment_path)
    return Deployed(deployment, example_request(deployment.url, release.name, local_package(release)))


def example_request(url: str, name: str, package: Path) -> str:
    """Returns a `curl` command for a prediction of a package's first golden row, safe to paste into a shell."""
    body = json_bytes({"instances": golden_rows(package)[:1]}).decode()
    words = ["curl", "-si", f"{url}/v1/models/{name}:predict", "-H", "content-type: application/json", "-d", body]
    return shlex.join(words)
