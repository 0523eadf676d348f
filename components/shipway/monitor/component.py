"""The `observe` and `monitor` components."""

from kfp.dsl import HTML, Artifact, Dataset, Input, Metrics, Output

from shipway.component import component


@component("deployer")
def observe(
    release: Input[Artifact],
    observation: Output[Dataset],
    name: str,
    monitor: str,
    endpoint: str,
    data: str,
    evaluate: str,
    predictions: str = "",
    until: str = "",
) -> None:
    """Gathers what a version did: its predictions, the labels that have come, the service's figures, past checks.

    Args:
        release: The version that is watched.
        observation: Counts of the predictions, labelled rows, a sample, and the past checks: all that `monitor` needs.
        name: The registered model's name.
        monitor: The spec's monitor section.
        endpoint: The endpoint's settings as JSON.
        data: The spec's data section.
        evaluate: The spec's evaluate section.
        predictions: Batch predictions to look at instead of what the section names.
        until: End of the window, as 2026-01-31T12:00; empty for now.
    """
    from shipway.lineage.steps import step
    from shipway.monitor.observe import observe as run

    with step("observe", observation.path) as record:
        seen = run(release.path, observation.path, name, monitor, endpoint, data, evaluate, predictions, until)
        observation.metadata.update(seen.facts)
        record.show(**seen.facts)


@component("monitor")
def monitor(
    observation: Input[Dataset],
    findings: Output[Artifact],
    metrics: Output[Metrics],
    report: Output[HTML],
    drift: Output[HTML],
    name: str,
    monitor: str,
    evaluate: str,
) -> str:
    """Compares what a version did with its training and its test, and returns ok, alert, retrain or rollback.

    Args:
        observation: What `observe` gathered.
        findings: The measures, the rules and the decision.
        metrics: The same figures, flat.
        report: The findings and the trends over the last checks, as a page.
        drift: Evidently's report over a sample.
        name: The registered model's name.
        monitor: The spec's monitor section.
        evaluate: The spec's evaluate section.
    """
    from shipway.lineage.steps import step
    from shipway.monitor.stage import monitor as run

    with step("monitor", report.path) as record:
        check = run(observation.path, findings.path, report.path, drift.path, name, monitor, evaluate)
        check.log(metrics)
        record.show(**check.facts)
        record.reports.update(check.reports)
        return check.findings.decision
