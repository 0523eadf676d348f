"""An evaluation as the artifacts that KFP and Vertex render."""

from __future__ import annotations

from typing import Any

from shipway.evaluate.evaluate import metric_values
from shipway.evaluate.page import evaluation_page
from shipway.lineage.documents import Evaluation
from shipway.lineage.files import write_text
from shipway.lineage.metadata import safe_metadata


def write_artifacts(result: Evaluation, evaluation: Any, metrics: Any, classification: Any, report: Any) -> None:
    """Writes the document and the page, and fills the artifacts' metadata.

    Args:
        result: The evaluation.
        evaluation: Artifact for the document.
        metrics: KFP `Metrics`.
        classification: KFP `ClassificationMetrics`; stays empty for regression.
        report: KFP `HTML`.
    """
    result.write(evaluation.path)
    evaluation.metadata.update(
        safe_metadata({"model_digest": result.model_digest, "digest": result.content_digest(), "rows": result.rows})
    )
    for name, value in safe_metadata(metric_values(result)).items():
        metrics.log_metric(name, value)
    details = result.details
    if "confusion" in details:
        classification.log_confusion_matrix(details["classes"], details["confusion"])
    if "roc" in details:
        roc = details["roc"]
        classification.log_roc_curve(roc["false_positive_rate"], roc["true_positive_rate"], roc["threshold"])
    write_text(report.path, evaluation_page(result))
