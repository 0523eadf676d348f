"""The training pipeline: from raw rows to a gated, registered, served model."""

from kfp import dsl

from shipway import components
from shipway.lineage.code import CODE_VARIABLE, code_digest


def pure(task: dsl.PipelineTask, stage: str) -> dsl.PipelineTask:
    """Marks a step whose outputs follow from its inputs and its code: taken from the cache while both are the same."""
    return task.set_env_variable(CODE_VARIABLE, code_digest(stage))


def effect(task: dsl.PipelineTask) -> dsl.PipelineTask:
    """Marks a step that looks at or changes the world outside: never taken from the cache."""
    return task.set_caching_options(False)


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
) -> None:
    """Trains a model and ships it to staging when its gates hold.

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
    """
    outcome = effect(components.report(name=name))
    with dsl.ExitHandler(outcome, name="run"):
        rows = pure(components.ingest(data=data, source=source, fingerprint=fingerprint), "ingest")
        validation = pure(components.validate(dataset=rows.outputs["dataset"], data_schema=data_schema), "validate")
        admission = effect(
            components.admit(findings=validation.outputs["findings"], verdict=validation.outputs["Output"])
        )
        parts = pure(components.split(dataset=rows.outputs["dataset"], split=split, data=data), "split")
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
            "featurize",
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
            "train",
        )
        reigning = effect(components.champion(name=name)).after(trained)
        judged = pure(
            components.evaluate(
                model=trained.outputs["model"],
                test=parts.outputs["test"],
                settings=evaluate,
                data=data,
                champion=reigning.outputs["Output"],
            ),
            "evaluate",
        )
        verdict = pure(
            components.gate(evaluation=judged.outputs["evaluation"], model=trained.outputs["model"], gates=gates),
            "gate",
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
                )
            )
            staged = effect(components.deploy(release=registered.outputs["release"]))
            effect(components.smoke(release=registered.outputs["release"], deployment=staged.outputs["deployment"]))
