"""KFP component: smoke."""

from kfp.dsl import HTML, Artifact, Input, Output

from shipway.component import component


@component("deployer")
def smoke(release: Input[Artifact], deployment: Input[Artifact], endpoint: str, report: Output[HTML]) -> None:
    """Asks the deployed model what it must be able to answer; a failure puts the earlier version back.

    Args:
        release: The registered version and where its package lies.
        deployment: What the endpoint serves, and what it served before.
        endpoint: The endpoint's settings as JSON.
        report: Every check with what was expected and found.
    """
    from shipway.lineage.steps import step
    from shipway.smoke.smoke import smoke as run

    with step("smoke", report.path) as record:
        record.reports["Smoke test"] = report.path
        result = run(release.path, deployment.path, endpoint, report.path)
        record.show(endpoint=result.deployment.url, smoke_checks=len(result.checks))
