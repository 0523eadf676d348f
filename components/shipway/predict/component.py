"""The `resolve`, `predict` and `gather` components: which version scores, a share of the rows scored, and all of it."""

from typing import List  # noqa: UP035 - kfp 2.17 reads Input[List[Dataset]] only in this form

from kfp.dsl import HTML, Artifact, Dataset, Input, Output

from shipway.component import component


@component()
def resolve(release: Output[Artifact], name: str, version: str = "champion") -> str:
    """Finds the blessed version that is to score, and returns its number.

    Args:
        release: The version, with its blessing and where its package lies.
        name: The registered model's name.
        version: A version's number or an alias.
    """
    from shipway.lineage.steps import step
    from shipway.predict.release import resolve as find

    with step("resolve", release.path) as record:
        found = find(name, version, release.path)
        record.show(version=found.version, model_digest=found.digest)
        return found.version


@component()
def predict(
    dataset: Input[Dataset],
    quarantine: Input[Dataset],
    release: Input[Artifact],
    predictions: Output[Dataset],
    profile: Output[Artifact],
    inference: str,
    data: str,
    partition: str,
    run_id: str = "",
) -> None:
    """Scores a share of the rows, part by part; a part that an earlier attempt finished is not scored again.

    Args:
        dataset: The rows.
        quarantine: The rows that were set aside, which are not scored.
        release: The version that scores.
        predictions: The predictions of this share, a part for each part of the rows.
        profile: What the rows and predictions of this share look like, counted.
        inference: The spec's section inference.
        data: The spec's section data.
        partition: Which share, as INDEX/COUNT with INDEX from 0: 0/1 is all, 0/2 and 1/2 are two halves.
        run_id: The run's id on a platform; a run on this machine has its own.
    """
    from shipway.lineage.steps import step
    from shipway.predict.stage import predict_share

    with step("predict", profile.path) as record:
        inputs = dataset.path, quarantine.path, release.path
        done = predict_share(*inputs, predictions.path, profile.path, inference, data, partition, run_id)
        predictions.metadata.update(done.facts)
        record.show(**done.facts)


@component()
def gather(
    release: Input[Artifact],
    quarantine: Input[Dataset],
    parts: Input[List[Dataset]],
    profiles: Input[List[Artifact]],
    predictions: Output[Dataset],
    profile: Output[Artifact],
    report: Output[HTML],
    inference: str,
    evaluate: str,
    data: str,
) -> None:
    """Puts the shares together in the order of the rows, reports on them, and publishes them where the spec says.

    Args:
        release: The version that scored.
        quarantine: The rows that were set aside.
        parts: The predictions of each share.
        profiles: The profile of each share.
        predictions: All predictions, with their profile and a description of the batch.
        profile: The profile of the batch.
        report: The batch as a page.
        inference: The spec's section inference.
        evaluate: The spec's section evaluate.
        data: The spec's section data.
    """
    from shipway.lineage.steps import step
    from shipway.predict.gather import gather_shares

    with step("gather", report.path) as record:
        shares = [part.path for part in parts], [part.path for part in profiles]
        outputs = predictions.path, profile.path, report.path
        done = gather_shares(release.path, quarantine.path, *shares, *outputs, inference, evaluate, data)
        predictions.metadata.update(done.facts)
        record.show(**done.facts)
        record.reports["Batch inference"] = report.path
