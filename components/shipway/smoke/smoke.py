"""Asks a fresh deployment what it must be able to answer, and takes it back when it cannot."""

from dataclasses import dataclass
from pathlib import Path

from shipway.endpoints.open import open_endpoint
from shipway.endpoints.packages import local_package
from shipway.endpoints.protocol import ConflictError, Endpoint, EndpointStatus
from shipway.endpoints.trial import Trial, read_trial
from shipway.errors import RejectedError, ShipwayError
from shipway.lineage.documents import Deployment, Release, read_document
from shipway.lineage.files import write_text
from shipway.model.package import Package
from shipway.smoke.checks import Check, run_checks
from shipway.smoke.page import smoke_page
from shipway.spec.parameters import load_endpoint

VERIFIED = "staging-verified"
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
    settings: str,
    report_path: str | Path,
    endpoint: Endpoint | None = None,
) -> SmokeResult:
    """Checks a deployment; where a check fails, what was served before is served again.

    A deployment that passes is the only one left on the endpoint, and has the alias `staging-verified` in the registry.

    Args:
        release_path: The Release document.
        deployment_path: The Deployment document.
        settings: The endpoint's settings, as `shipway.spec.parameters.dump_endpoint` writes them.
        report_path: Where the HTML report goes, whatever the outcome.
        endpoint: The endpoint, instead of the one that the settings name.

    Raises:
        RejectedError: A check failed; the message lists which, and what is served now.
        ShipwayError: The checks could not be made, or their outcome could not be noted.
    """
    release = read_document(Release, release_path)
    deployment = read_document(Deployment, deployment_path)
    endpoint = endpoint or open_endpoint(release.name, load_endpoint(settings), deployment.environment)
    package = Package.load(local_package(release), digest=release.digest)
    checks = run_checks(deployment, package, endpoint)
    failed = [check for check in checks if not check.passed]
    outcome = _take_back(endpoint, deployment) if failed else f"version {deployment.version} is served"
    write_text(report_path, smoke_page(deployment, checks, outcome))
    if failed:
        told = [f"{check.name}: {check.found}" for check in failed[:_TOLD]]
        if len(failed) > _TOLD:
            told.append(f"and {len(failed) - _TOLD} more, see the report")
        head = f"{len(failed)} of {len(checks)} smoke checks failed for {deployment.name} version {deployment.version}"
        raise RejectedError("\n".join([f"{head}; {outcome}", *told]))
    _confirm(endpoint, deployment, release)
    return SmokeResult(deployment, checks)


def _confirm(endpoint: Endpoint, deployment: Deployment, release: Release) -> None:
    status = endpoint.status()
    if _is_served(status, deployment):
        verified = Trial(verified=deployment.revision, candidate=deployment.revision)
        if read_trial(status.record) != verified:
            status = endpoint.write_record(verified.model_dump_json(), expect=status.generation)
        _retire_others(endpoint, status, deployment.revision)
    if release.tracking_uri:
        from shipway.model.registry import set_alias

        set_alias(release.name, VERIFIED, release.version)


def _take_back(endpoint: Endpoint, deployment: Deployment) -> str:
    """Gives the traffic back, and returns what is served then in a sentence."""
    try:
        status = endpoint.status()
        if status.live is not None and not _is_served(status, deployment):
            return f"version {status.live.version} was deployed since, and is served"
        if not deployment.previous_revision:
            endpoint.stop()
            return "nothing was served before it, and nothing is now"
        status = endpoint.shift({deployment.previous_revision: 100}, expect=status.generation)
    except ConflictError as error:
        return f"somebody else is changing the endpoint, and it was left as it is: {error}"
    except ShipwayError as error:
        return f"the earlier version could not be put back: {error}"
    return f"version {deployment.previous_version} is served again{_take_away(endpoint, status, deployment)}"


def _take_away(endpoint: Endpoint, status: EndpointStatus, deployment: Deployment) -> str:
    """Retires all but the earlier revision, and returns what is left to tell of that."""
    back, trial = deployment.previous_revision, read_trial(status.record)
    left = Trial(verified=back if trial.verified == back else "")
    try:
        status = endpoint.write_record(left.model_dump_json(), expect=status.generation)
        _retire_others(endpoint, status, back)
    except ShipwayError as error:
        return f", but the failed one could not be taken away: {error}"
    return ""


def _is_served(status: EndpointStatus, deployment: Deployment) -> bool:
    return status.live is not None and status.live.id == deployment.revision


def _retire_others(endpoint: Endpoint, status: EndpointStatus, kept: str) -> None:
    for revision in status.revisions:
        if revision.id != kept:
            status = endpoint.retire(revision.id, expect=status.generation)
