"""The metrics that evaluation computes and gates may name."""

from typing import Literal

Task = Literal["binary", "multiclass", "regression"]

LATENCY = ("latency_p50_ms", "latency_p95_ms", "latency_p99_ms")

# Name -> whether more is better, for each task. Multiclass forms are macro averages (ROC AUC and PR AUC one class
# against the rest).
METRICS: dict[Task, dict[str, bool]] = {
    "binary": {
        "roc_auc": True,
        "pr_auc": True,
        "f1": True,
        "precision": True,
        "recall": True,
        "accuracy": True,
        "log_loss": False,
        "calibration_error": False,
    },
    "multiclass": {
        "roc_auc": True,
        "pr_auc": True,
        "f1": True,
        "precision": True,
        "recall": True,
        "accuracy": True,
        "log_loss": False,
    },
    "regression": {"rmse": False, "mae": False, "r2": True},
}


def metric_names(task: Task) -> list[str]:
    """Returns the names a gate may use for a task, latencies included."""
    return [*METRICS[task], *LATENCY]


def higher_is_better(task: Task, metric: str) -> bool:
    """Tells which way a metric improves; latencies improve downwards."""
    return METRICS[task].get(metric, False)
