"""Puts a registered release on the staging endpoint and gives it all the traffic."""

import shlex
from dataclasses import dataclass
from pathlib import Path

from shipway.endpoints.client import json_bytes
from shipway.endpoints.open import open_endpoint
from shipway.endpoints.packages import golden_rows, local_package
from shipway.endpoints.protocol import Endpoint, EndpointStatus, revision_id
from shipway.endpoints.trial import Trial, read_trial
from shipway.lineage.documents import Deployment, Release, read_document
from shipway.spec.parameters import load_endpoint

ENVIRONMENT = "staging"


@dataclass(frozen=True, slots=True)
class Deployed:
    """What a deploy came to.

    Attributes:
        deployment: What the endpoint serves now, and what it served before.
        example: A shell command that asks for a prediction of one golden row; "" where no URL answers one.
    """

    deployment: Deployment
    example: str


def deploy(
    release_path: str | Path, settings: str, deployment_path: str | Path, endpoint: Endpoint | None = None
) -> Deployed:
    """Serves a release on the staging endpoint; doing it again changes nothing.

    What was served before stays there without traffic until the smoke test has passed.

    Args:
        release_path: The Release document.
        settings: The endpoint's settings, as `shipway.spec.parameters.dump_endpoint` writes them.
        deployment_path: Where the Deployment document goes.
        endpoint: The endpoint, instead of the one that the settings name.

    Raises:
        InputError: The settings name no endpoint.
        NotBlessedError: No blessing names the release's digest.
        DigestMismatchError: The package's bytes are not the release's.
        ShipwayError: The release cannot be served; what was served before still is.
    """
    release = read_document(Release, release_path)
    asked = load_endpoint(settings)
    endpoint = endpoint or open_endpoint(release.name, asked, ENVIRONMENT)
    revision = revision_id(release.version, release.digest)
    # Staged before anything is noted: a release that is refused leaves no trace.
    before = endpoint.stage(release)
    back = _back(before, revision)
    trial = read_trial(before.record)
    noted = Trial(verified=trial.verified, candidate=revision, previous=back)
    after = endpoint.write_record(noted.model_dump_json()) if noted != trial else before
    changed = after.live is None or after.live.id != revision or after.live.share != 100
    if changed:
        after = endpoint.shift({revision: 100}, expect=after.generation)
    previous = after.revision(back)
    deployment = Deployment(
        name=release.name,
        endpoint=str(asked.endpoint.kind),
        environment=ENVIRONMENT,
        url=after.url,
        served_as=after.served_as or release.name,
        revision=revision,
        version=release.version,
        digest=release.digest,
        changed=changed,
        previous_revision=back,
        previous_version=previous.version if previous else "",
        previous_digest=previous.digest if previous else "",
    )
    deployment.write(deployment_path)
    return Deployed(deployment, _example(deployment, release))


def example_request(url: str, name: str, package: Path) -> str:
    """Returns a `curl` command for a prediction of a package's first golden row, safe to paste into a shell."""
    body = json_bytes({"instances": golden_rows(package)[:1]}).decode()
    words = ["curl", "-si", f"{url}/v1/models/{name}:predict", "-H", "content-type: application/json", "-d", body]
    return shlex.join(words)


def _back(status: EndpointStatus, revision: str) -> str:
    """Returns the revision to come back to when this one turns out bad: one that has passed its checks, if any."""
    trial, live = read_trial(status.record), status.live
    if trial.candidate == revision and trial.previous and status.revision(trial.previous):
        # Decided before, by a deploy that did not come to its end.
        return trial.previous
    if trial.verified != revision and status.revision(trial.verified):
        return trial.verified
    return live.id if live is not None and live.id != revision else ""


def _example(deployment: Deployment, release: Release) -> str:
    if deployment.endpoint == "vertex":
        return ""
    return example_request(deployment.url, deployment.served_as, local_package(release))
