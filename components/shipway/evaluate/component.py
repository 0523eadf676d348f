"""The `evaluate` component."""

from kfp.dsl import HTML, Artifact, ClassificationMetrics, Dataset, Input, Metrics, Model, Output

from shipway.component import component


@component()
def evaluate(
    model: Input[Model],
    test: Input[Dataset],
    evaluation: Output[Artifact],
    metrics: Output[Metrics],
    classification: Output[ClassificationMetrics],
    report: Output[HTML],
    settings: str,
    data: str,
    champion: str = "",
) -> None:
    """Scores a model package on the raw rows of the test part, and the champion on the same rows.

    Args:
        model: The model package.
        test: The test part, raw rows.
        evaluation: The metrics: of all rows, by slice, beside the champion's; and what the report draws.
        metrics: The metrics, flat.
        classification: Confusion matrix, and the ROC curve of a binary model.
        report: The evaluation as a page.
        settings: The spec's evaluate section.
        data: The spec's data section.
        champion: JSON of the champion's version, digest and package_uri; empty when there is none.
    """
    from shipway.evaluate.artifacts import write_artifacts
    from shipway.evaluate.evaluate import evaluate_package
    from shipway.lineage.steps import step
    from shipway.spec import DataSection, EvaluateSection, load_section

    with step("evaluate", report.path) as record:
        sections = load_section(EvaluateSection, settings), load_section(DataSection, data)
        result = evaluate_package(model.path, test.path, *sections, champion)
        write_artifacts(result, evaluation, metrics, classification, report)
        record.show(metrics=result.metrics, test_rows=result.rows, champion=result.champion and result.champion.version)
        record.reports["Evaluation"] = report.path
