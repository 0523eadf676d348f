"""The `rollout` and `rollback` components."""

from kfp.dsl import HTML, Artifact, Input, Output

from shipway.component import component


@component("deployer")
def rollout(
    release: Input[Artifact],
    stable: Input[Artifact],
    report: Output[HTML],
    rollout: str,
    endpoint: str,
    notify: str = "",
) -> str:
    """Takes a version to all of production's traffic, judged by what it does there, and returns the endpoint's URL.

    A version that turns out worse has its traffic taken back, and the step fails with the reason.

    Args:
        release: The version to roll out, with its blessing.
        stable: The version to go back to; an empty file when there is none.
        report: What happened, step by step, with the evidence.
        rollout: The spec's section rollout.
        endpoint: The endpoint's settings as JSON.
        notify: The spec's section notify, as JSON; empty to tell nobody.
    """
    from dataclasses import asdict

    from shipway.lineage.steps import step
    from shipway.rollout.stage import rollout as run

    with step("rollout", report.path) as record:
        record.reports["Rollout"] = report.path
        served = run(release.path, stable.path, rollout, endpoint, report.path, notify)
        record.show(endpoint=served.url, model_digest=served.digest, **asdict(served))
        return served.url


@component("deployer")
def rollback(report: Output[HTML], name: str, endpoint: str, reason: str = "", to: str = "", notify: str = "") -> str:
    """Puts an earlier version back into production, ends a rollout that is under way, and returns the version.

    Args:
        report: What was served, and what is now.
        name: The registered model's name.
        endpoint: The endpoint's settings as JSON.
        reason: Why, for the record.
        to: The version to go back to, by number or alias; empty for the one before.
        notify: The spec's section notify, as JSON; empty to tell nobody.
    """
    from dataclasses import asdict

    from shipway.lineage.steps import step
    from shipway.rollout.stage import rollback as run

    with step("rollback", report.path) as record:
        record.reports["Rollback"] = report.path
        served = run(name, endpoint, reason, to, report.path, notify)
        record.show(endpoint=served.url, model_digest=served.digest, **asdict(served))
        return served.version
