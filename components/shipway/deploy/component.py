"""KFP component: deploy."""

from kfp.dsl import Artifact, Input, Output

from shipway.component import component


@component("deployer")
def deploy(release: Input[Artifact], endpoint: str, deployment: Output[Artifact]) -> str:
    """Serves a blessed release on the staging endpoint.

    Args:
        release: The registered version and where its package lies.
        endpoint: The endpoint's settings as JSON.
        deployment: What the endpoint serves now, and what it served before.

    Returns:
        The endpoint's URL.
    """
    from shipway.deploy.deploy import deploy as run
    from shipway.lineage.metadata import safe_metadata
    from shipway.lineage.steps import step

    with step("deploy", deployment.path) as record:
        result = run(release.path, endpoint, deployment.path)
        deployment.metadata.update(safe_metadata(result.deployment.model_dump()))
        record.show(endpoint=result.deployment.url, version=result.deployment.version, example=result.example)
        return result.deployment.url
