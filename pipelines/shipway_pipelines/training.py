"""The training pipeline: from raw rows to a gated, registered, served model."""

from kfp import dsl

from shipway import components
from shipway_pipelines.tasks import effect, pure


@dsl.pipeline(name="training", description="Validates, trains, judges, registers and stages one model.")
def training(
    name: str,
    task: str,
    data: str,
    data_schema: str,
    split: str,
    features: str,
    train: str,
    evaluate: str,
    gates: str,
    spec_digest: str,
    source: str = "",
    fingerprint: str = "",
    endpoint: str = "",
    notify: str = "",
) -> None:
    """Trains a model, and registers and stages it when its gates hold.

    Args:
        name: The model's name in the registry.
        task: binary, multiclass or regression.
        data: The spec's data section, as JSON.
        data_schema: The spec's schema section, as JSON.
        split: The spec's split section, as JSON.
        features: The spec's features section, as JSON.
        train: The spec's train section, as JSON.
        evaluate: The spec's evaluate section, as JSON.
        gates: The spec's gate rules, as JSON.
        spec_digest: Digest of the whole spec, for lineage.
        source: URI of the rows, instead of the one the spec names.
        fingerprint: What the source held when the run was submitted; a change makes ingest run again.
        endpoint: Where the registered model is staged and smoke-tested: the settings of an endpoint, as JSON. Empty:
            nowhere, the run ends when the model is registered.
        notify: Whom to tell when the run is rejected or fails: the spec's notify section, as JSON.
    """
    outcome = effect(components.report(name=name, notify=notify))
    with dsl.ExitHandler(outcome, name="run"):
        rows = pure(components.ingest(data=data, source=source, fingerprint=fingerprint))
        validation = pure(components.validate(dataset=rows.outputs["dataset"], data_schema=data_schema))
        admission = effect(
            components.admit(findings=validation.outputs["findings"], verdict=validation.outputs["Output"])
        )
        parts = pure(components.split(dataset=rows.outputs["dataset"], split=split, data=data))
        parts.after(admission)
        prepared = pure(
            components.featurize(
                train=parts.outputs["train"],
                validation=parts.outputs["validation"],
                name=name,
                task=task,
                data=data,
                data_schema=data_schema,
                features=features,
            ),
        )
        trained = pure(
            components.train(
                train_features=prepared.outputs["train_features"],
                validation_features=prepared.outputs["validation_features"],
                validation=parts.outputs["validation"],
                preprocessor=prepared.outputs["preprocessor"],
                statistics=prepared.outputs["statistics"],
                train=train,
            ),
        )
        reigning = effect(components.champion(name=name), retried=True).after(trained)
        judged = pure(
            components.evaluate(
                model=trained.outputs["model"],
                test=parts.outputs["test"],
                settings=evaluate,
                data=data,
                champion=reigning.outputs["Output"],
            ),
        )
        verdict = pure(
            components.gate(evaluation=judged.outputs["evaluation"], model=trained.outputs["model"], gates=gates),
        )
        with dsl.If(verdict.outputs["Output"] == "blessed", name="blessed"):
            registered = effect(
                components.register(
                    model=trained.outputs["model"],
                    evaluation=judged.outputs["evaluation"],
                    blessing=verdict.outputs["blessing"],
                    name=name,
                    data_version=rows.outputs["Output"],
                    spec_digest=spec_digest,
                ),
                retried=True,
            )
            release = registered.outputs["release"]
            with dsl.If(endpoint != "", name="staging"):
                staged = effect(components.deploy(release=release, endpoint=endpoint), retried=True)
                effect(components.smoke(release=release, deployment=staged.outputs["deployment"], endpoint=endpoint))
        # The run ends well all the same, so that its report would have nothing to tell on a cluster.
        with dsl.If(verdict.outputs["Output"] == "rejected", name="rejected"):
            effect(components.notify(findings=verdict.outputs["blessing"], name=name, notify=notify), retried=True)
