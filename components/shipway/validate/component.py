"""The `validate`, `admit` and `screen` components: what is wrong with a batch, and what follows."""

from kfp.dsl import HTML, Artifact, Dataset, Input, Output

from shipway.component import component


@component()
def validate(dataset: Input[Dataset], findings: Output[Artifact], report: Output[HTML], data_schema: str) -> str:
    """Checks a dataset against the user's schema and returns "accepted" or "rejected"; `admit` ends the run.

    Args:
        dataset: The rows.
        findings: Every breach, as JSON.
        report: The same for people, with an overview of the columns.
        data_schema: The spec's schema section, as JSON.
    """
    from shipway.lineage.steps import step
    from shipway.spec import SchemaSection, load_section
    from shipway.validate.check import validate as run

    with step("validate", report.path) as record:
        outcome = run(dataset.path, load_section(SchemaSection, data_schema))
        outcome.write(findings.path, report.path)
        findings.metadata.update(outcome.facts)
        record.show(**outcome.facts)
        record.reports["Validation"] = report.path
        record.reject(outcome.reasons)
        return outcome.findings.verdict


@component()
def admit(findings: Input[Artifact], verdict: str) -> None:
    """Ends the run, with every breach, unless the data were accepted.

    Args:
        findings: What validation found.
        verdict: "accepted" or "rejected".
    """
    from shipway.lineage.steps import step
    from shipway.validate.check import admit as run

    with step("admit"):
        run(findings.path, verdict)


@component()
def screen(
    dataset: Input[Dataset],
    quarantine: Output[Dataset],
    findings: Output[Artifact],
    report: Output[HTML],
    data_schema: str,
    data: str,
    inference: str,
) -> None:
    """Sets aside the rows that break the schema; ends the run beyond the tolerance, or when the batch as a whole does.

    Args:
        dataset: The rows to score.
        quarantine: The rows set aside, each with its number and the reasons.
        findings: Every breach, as JSON.
        report: The same for people, with an overview of the columns.
        data_schema: The spec's schema section, as JSON.
        data: The spec's data section, as JSON; its label is not asked for.
        inference: The spec's section inference, as JSON.
    """
    from shipway.lineage.steps import step
    from shipway.validate.screen import screen_rows

    with step("screen", report.path) as record:
        outcome = screen_rows(dataset.path, quarantine.path, data_schema, data, inference)
        outcome.write(findings.path, report.path)
        findings.metadata.update(outcome.facts)
        record.show(**outcome.facts)
        record.reports["Validation"] = report.path
        outcome.require()
