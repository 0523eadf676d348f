"""The inference pipeline: a batch of rows, scored by a registered version."""

from typing import List  # noqa: UP035 - kfp 2.17 reads a list of text only in this form

from kfp import dsl

from shipway import components
from shipway_pipelines.tasks import effect, pure


@dsl.pipeline(name="inference", description="Scores a batch of rows with a registered version.")
def inference(
    name: str,
    data: str,
    data_schema: str,
    evaluate: str,
    inference: str,
    partitions: List[str],  # noqa: UP006 - as above
    version: str = "champion",
    notify: str = "",
    source: str = "",
    fingerprint: str = "",
) -> None:
    """Scores a batch: rows that fail validation are set aside, the others scored part by part, in shares side by side.

    Args:
        name: The model's name in the registry.
        data: The spec's data section, as JSON.
        data_schema: The spec's schema section, as JSON.
        evaluate: The spec's evaluate section, as JSON.
        inference: The spec's inference section, as JSON.
        partitions: The shares of the rows, a step each, as 0/2 and 1/2.
        version: The version that scores, by number or alias.
        notify: Whom to tell when the run is rejected or fails: the spec's notify section, as JSON.
        source: URI of the rows, instead of the one that data names.
        fingerprint: What the source held when the run was submitted; a change makes ingest run again.
    """
    outcome = effect(components.report(name=name, notify=notify))
    with dsl.ExitHandler(outcome, name="run"):
        chosen = effect(components.resolve(name=name, version=version), retried=True)
        release = chosen.outputs["release"]
        # A version that cannot score is found before any row is read.
        rows = pure(components.ingest(data=data, source=source, fingerprint=fingerprint)).after(chosen)
        screened = pure(
            components.screen(dataset=rows.outputs["dataset"], data_schema=data_schema, data=data, inference=inference)
        )
        quarantine = screened.outputs["quarantine"]
        with dsl.ParallelFor(items=partitions, name="shares") as partition:
            scored = effect(
                components.predict(
                    dataset=rows.outputs["dataset"],
                    quarantine=quarantine,
                    release=release,
                    inference=inference,
                    data=data,
                    partition=partition,
                    run_id=dsl.PIPELINE_JOB_NAME_PLACEHOLDER,
                ),
                retried=True,
            )
        effect(
            components.gather(
                release=release,
                quarantine=quarantine,
                parts=dsl.Collected(scored.outputs["predictions"]),
                profiles=dsl.Collected(scored.outputs["profile"]),
                inference=inference,
                evaluate=evaluate,
                data=data,
            ),
            retried=True,
        )
