"""Asks a fresh deployment what it must be able to answer, and takes it back when it cannot."""

from dataclasses import dataclass
from pathlib import Path

from shipway.endpoints.local import LocalEndpoint
from shipway.endpoints.packages import local_package
from shipway.endpoints.protocol import Endpoint
from shipway.errors import RejectedError, ShipwayError
from shipway.lineage.documents import Deployment, Release, read_document
from shipway.lineage.files import write_text
from shipway.model.package import Package
from shipway.smoke.checks import Check, run_checks
from shipway.smoke.page import smoke_page

_TOLD = 20


@dataclass(frozen=True, slots=True)
class SmokeResult:
    """What a smoke test came to.

    Attributes:
        deployment: What was asked.
        checks: Every check.
    """

    deployment: Deployment
    checks: list[Check]


def smoke(
    release_path: str | Path,
    deployment_path: str | Path,
    report_path: str | Path,
    endpoint: Endpoint | None = None,
) -> SmokeResult:
    """Checks a deployment; where a check fails, what was served before is served again.

    Args:
        release_path: The Release document.
        deployment_path: The Deployment document.
        report_path: Where the HTML report goes, whatever the outcome.
        endpoint: The endpoint; default: this machine's, for the release's model.

    Raises:
        RejectedError: A check failed; the message lists which, and what is served now.
        ShipwayError: The checks could not be made.
    """
    release = read_document(Release, release_path)
    deployment = read_document(Deployment, deployment_path)
    endpoint = endpoint or LocalEndpoint(release.name)
    package = Package.load(local_package(release), digest=release.digest)
    checks = run_checks(deployment, package)
    failed = [check for check in checks if not check.passed]
    if not failed:
        endpoint.confirm(deployment)
        outcome = f"version {deployment.version} is served"
    else:
        outcome = _take_back(endpoint, deployment)
    write_text(report_path, smoke_page(deployment, checks, outcome))
    if failed:
        told = [f"{check.name}: {check.found}" for check in failed[:_TOLD]]
        if len(failed) > _TOLD:
            told.append(f"and {len(failed) - _TOLD} more, see the report")
        head = f"{len(failed)} of {len(checks)} smoke checks failed for {deployment.name} version {deployment.version}"
        raise RejectedError("\n".join([f"{head}; {outcome}", *told]))
    return SmokeResult(deployment, checks)


def _take_back(endpoint: Endpoint, deployment: Deployment) -> str:
    try:
        status = endpoint.restore(deployment)
    except ShipwayError as error:
        return f"the earlier version could not be put back: {error}"
    if not status.version:
        return "nothing was served before it, and nothing is now"
    return f"version {status.version} is served {'again' if status.ready else 'but not ready'}"
