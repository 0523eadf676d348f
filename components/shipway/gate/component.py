"""The `gate` component."""

from kfp.dsl import HTML, Artifact, Input, Model, Output

from shipway.component import component


@component()
def gate(
    evaluation: Input[Artifact], model: Input[Model], blessing: Output[Artifact], report: Output[HTML], gates: str
) -> str:
    """Judges a model by the spec's gates and returns `blessed` or `rejected`; no gates means no blessing.

    Args:
        evaluation: What was measured.
        model: The model package that was measured.
        blessing: The verdict, naming the model's and the evaluation's digests, with every rule.
        report: The verdict as a page.
        gates: The spec's gates.
    """
    from shipway.gate.rules import judge_model
    from shipway.gate.verdict import write_verdict
    from shipway.lineage.documents import Evaluation, read_document
    from shipway.lineage.steps import step
    from shipway.spec import load_gates

    with step("gate", report.path) as record:
        verdict = judge_model(load_gates(gates), read_document(Evaluation, evaluation.path), model.path)
        return write_verdict(verdict, blessing, report, record)
