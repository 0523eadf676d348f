"""Where the gate's verdict goes: the document, the page, the step's record."""

from __future__ import annotations

from typing import Any

from shipway.gate.page import gate_page
from shipway.gate.rules import REJECTED
from shipway.lineage.documents import Blessing
from shipway.lineage.files import write_text
from shipway.lineage.metadata import safe_metadata
from shipway.lineage.steps import StepRecord


def write_verdict(verdict: Blessing, blessing: Any, report: Any, record: StepRecord) -> str:
    """Writes the verdict and returns its decision.

    Args:
        verdict: What was decided.
        blessing: Artifact for the document.
        report: KFP `HTML`.
        record: The step's record.
    """
    verdict.write(blessing.path)
    facts = {"decision": verdict.decision, "model_digest": verdict.model_digest}
    blessing.metadata.update(safe_metadata(facts))
    write_text(report.path, gate_page(verdict))
    record.show(gates=[result.model_dump() for result in verdict.rules], decision=verdict.decision)
    record.reports["Gates"] = report.path
    if verdict.decision == REJECTED:
        record.reject(verdict.reasons)
    return verdict.decision
