"""Tells people of a run that was rejected or failed."""

import re
import time
from typing import Literal

from shipway.notify.alerts import Alert, told_of
from shipway.notify.send import tell
from shipway.report.summary import Summary

# How Vertex AI tells the exit code of a step that refused; Kubeflow does not tell it.
_REFUSED = re.compile(r"(exit code|exit status|non-zero status of):? 3\b")
_FAILED = ("FAILED", "ERROR")


def tell_of_run(summary: Summary, notify: str) -> None:
    """Tells of a run whose records say that it was rejected or failed.

    A step that has told of it already, as a rollout of its rollback, is not repeated.

    Args:
        summary: The run's.
        notify: The spec's section notify, as the pipelines' JSON parameter; "" to tell nobody.
    """
    if summary.outcome not in ("rejected", "failed") or not notify:
        return
    if summary.outcome == "rejected" and told_of(summary.run_id):
        return
    where = f" at {summary.failed_step}" if summary.failed_step else ""
    why = "; ".join(summary.reason) or "no reason given"
    kind: Literal["rejected", "failed"] = "rejected" if summary.outcome == "rejected" else "failed"
    text = f"{summary.model.name}: {summary.pipeline} run {summary.run_id} {kind}{where}: {why}"
    facts: dict[str, object] = {
        "run": summary.run_id,
        "pipeline": summary.pipeline,
        "step": summary.failed_step,
        "data_version": summary.data_version,
        "reasons": summary.reason,
        "version": summary.model.version,
    }
    tell(_alert(summary.model.name, kind, text, summary.run_id, facts), notify)


def tell_of_state(name: str, state: str, error: str, run: str, notify: str) -> None:
    """Tells of a run that failed, as far as the platform says how it ended.

    Args:
        name: The model's name.
        state: The platform's word for how the run ended.
        error: The platform's message, or "".
        run: The platform's name of the run, or "".
        notify: The spec's section notify, as the pipelines' JSON parameter; "" to tell nobody.
    """
    if state.upper() not in _FAILED or not notify:
        return
    kind: Literal["rejected", "failed"] = "rejected" if _REFUSED.search(error) else "failed"
    told = " ".join(error.split()) or "the platform gives no reason; the steps' logs do"
    text = f"{name}: run {run.rpartition('/')[2]} {kind}: {told}".replace("run  ", "a run ")
    tell(_alert(name, kind, text, run, {"run": run, "reasons": [told]}), notify)


def _alert(name: str, kind: Literal["rejected", "failed"], text: str, run: str, facts: dict[str, object]) -> Alert:
    key = f"run/{name}/{run}/{kind}" if run else ""
    return Alert(name, kind, "warning" if kind == "rejected" else "incident", text, time.time(), key, facts)
