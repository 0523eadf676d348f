"""The monitoring pipeline: what a version in use did, beside what it was trained and tested on."""

from kfp import dsl

from shipway import components
from shipway_pipelines.tasks import effect


@dsl.pipeline(name="monitoring", description="Checks a version in use for drift, decay and faults.")
def monitoring(
    name: str,
    data: str,
    evaluate: str,
    monitor: str,
    endpoint: str = "",
    version: str = "champion",
    predictions: str = "",
    until: str = "",
    notify: str = "",
) -> None:
    """Compares the predictions of a version with its training and its test, decides by rule and tells of it.

    Args:
        name: The model's name in the registry.
        data: The spec's data section, as JSON.
        evaluate: The spec's evaluate section, as JSON.
        monitor: The spec's monitor section, as JSON.
        endpoint: Where the model is served: the settings of an endpoint, as JSON. Empty: nowhere, so that there must
            be batch predictions to look at.
        version: The version that is watched, by number or alias.
        predictions: Folder or URI of batch predictions to look at; empty for what the server has logged.
        until: End of the window, as 2026-01-31T12:00; empty for now.
        notify: Whom to tell of it: the spec's section notify, as JSON.
    """
    outcome = effect(components.report(name=name, notify=notify))
    with dsl.ExitHandler(outcome, name="run"):
        watched = effect(components.resolve(name=name, version=version), retried=True)
        seen = effect(
            components.observe(
                release=watched.outputs["release"],
                name=name,
                monitor=monitor,
                endpoint=endpoint,
                data=data,
                evaluate=evaluate,
                predictions=predictions,
                until=until,
            ),
            retried=True,
        )
        check = effect(
            components.monitor(observation=seen.outputs["observation"], name=name, monitor=monitor, evaluate=evaluate)
        )
        effect(components.notify(findings=check.outputs["findings"], name=name, notify=notify), retried=True)
