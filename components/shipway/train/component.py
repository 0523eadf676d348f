"""The `train` component."""

from kfp.dsl import Artifact, Dataset, Input, Metrics, Model, Output

from shipway.component import component


@component("trainer")
def train(
    train_features: Input[Dataset],
    validation_features: Input[Dataset],
    validation: Input[Dataset],
    preprocessor: Input[Artifact],
    statistics: Input[Artifact],
    model: Output[Model],
    metrics: Output[Metrics],
    train: str,
) -> None:
    """Trains a model, keeps the best epoch by the validation part, and packages it with its preprocessor.

    Args:
        train_features: Features and label of the training part.
        validation_features: Features and label of the validation part.
        validation: Raw rows of the validation part, which prove the package.
        preprocessor: The fitted preprocessor.
        statistics: The training part, column by column.
        model: The model package.
        metrics: Final metrics of the training and the validation part.
        train: The spec's train section.
    """
    from shipway.lineage.metadata import safe_metadata
    from shipway.lineage.steps import step
    from shipway.train.run import train_model

    with step("train", model.path) as record:
        result = train_model(
            train_features=train_features.path,
            validation_features=validation_features.path,
            validation=validation.path,
            preprocessor=preprocessor.path,
            statistics=statistics.path,
            model=model.path,
            section=train,
        )
        metrics.metadata.update(safe_metadata(result.metrics))
        model.metadata.update(safe_metadata(result.metadata()))
        record.show(**result.facts())
