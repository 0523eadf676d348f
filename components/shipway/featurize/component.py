"""The KFP component `featurize`."""

from kfp.dsl import Artifact, Dataset, Input, Output

from shipway.component import component


@component()
def featurize(
    train: Input[Dataset],
    validation: Input[Dataset],
    train_features: Output[Dataset],
    validation_features: Output[Dataset],
    preprocessor: Output[Artifact],
    statistics: Output[Artifact],
    name: str,
    task: str,
    data: str,
    data_schema: str,
    features: str,
) -> None:
    """Turns raw rows into features, by transforms fitted on the training part only.

    Args:
        train: The training part, raw.
        validation: The validation part, raw.
        train_features: One float column for each feature, and the label as `__label__`.
        validation_features: The same of the validation part.
        preprocessor: The fitted preprocessor, which travels inside the model package.
        statistics: The training part column by column: the baseline that drift is measured against.
        name: The model's name.
        task: binary, multiclass or regression.
        data: The spec's section data.
        data_schema: The spec's section schema.
        features: The spec's section features.
    """
    from shipway.featurize.fit import featurize as run
    from shipway.lineage.metadata import safe_metadata
    from shipway.lineage.steps import step
    from shipway.spec import DataSection, FeaturesSection, SchemaSection, load_section

    with step("featurize", train_features.path) as record:
        result = run(
            train.path,
            validation.path,
            train_features=train_features.path,
            validation_features=validation_features.path,
            preprocessor=preprocessor.path,
            statistics=statistics.path,
            name=name,
            task=task,
            data=load_section(DataSection, data),
            schema=load_section(SchemaSection, data_schema),
            features=load_section(FeaturesSection, features),
        )
        record.show(**result.facts())
        preprocessor.metadata.update(safe_metadata(result.facts()))
