"""KFP components: Dataset -> Findings and report; Findings -> go on or end the run."""

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
