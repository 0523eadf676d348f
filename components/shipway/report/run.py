"""Reports how a run ended: `summary.json` and one HTML page that links the reports."""

import datetime as dt
import os
from pathlib import Path

from shipway.lineage.files import read_json, write_text
from shipway.lineage.html import Markup, page, section, table, text, verdict
from shipway.lineage.project import RUN_FOLDER_VARIABLE
from shipway.report.news import tell_of_run, tell_of_state
from shipway.report.summary import PAGE_FILE, RUN_FILE, SUMMARY_FILE, RunInfo, Summary, summarise

_COLOURS = {"rejected": "bad", "failed": "bad"}


def report_run(name: str, state: str, error: str, page_path: str, notify: str = "", run: str = "") -> None:
    """Writes the report of the run that this step belongs to, and tells of one that was rejected or failed.

    In a local run the run's folder tells everything. Elsewhere the platform shows the steps, and the page holds what it
    says of the end.

    Args:
        name: The model's name.
        state: The platform's word for how the run ended (`SUCCEEDED`, `FAILED`, ...).
        error: The platform's message, or "".
        page_path: Where the page goes.
        notify: The spec's section notify, as the pipelines' JSON parameter; "" to tell nobody.
        run: The platform's name of the run, or "".
    """
    folder = os.environ.get(RUN_FOLDER_VARIABLE)
    if folder:
        tell_of_run(write_report(Path(folder), page_path), notify)
        return
    rows = [["Model", name], ["State", state], ["Message", error or "none"]]
    html = page(f"Run of {name}", table(["", ""], rows), "ok" if state == "SUCCEEDED" else "bad", state.lower())
    write_text(page_path, html)
    print(f"run of {name}: {state} {error}".rstrip(), flush=True)
    tell_of_state(name, state, error, run, notify)


def write_report(run_folder: Path, page_path: str | None = None) -> Summary:
    """Writes `summary.json` and `index.html` into a run's folder.

    Args:
        run_folder: The run's folder.
        page_path: A second place for the page (the exit handler's artifact).
    """
    run = RunInfo.model_validate(read_json(run_folder / RUN_FILE))
    now = dt.datetime.now(dt.UTC)
    summary = summarise(run_folder, (now - dt.datetime.fromisoformat(run.started)).total_seconds())
    html = run_page(summary)
    write_text(run_folder / PAGE_FILE, html)
    if page_path:
        write_text(page_path, html)
    summary.write(run_folder / SUMMARY_FILE)
    return summary


def run_page(summary: Summary) -> str:
    """Returns the page of a run."""
    model = summary.model
    head: list[list[str | None]] = [
        ["Model", f"{model.name}{f' version {model.version}' if model.version else ''}"],
        ["Model digest", model.digest],
        ["Data version", summary.data_version],
        ["Code", summary.code_version],
        ["Spec", f"{summary.spec} ({summary.spec_digest})"],
        ["Endpoint", summary.endpoint],
        ["Decision", summary.decision if summary.outcome == "checked" else ""],
        ["Started", f"{summary.started}, took {summary.seconds:.1f} s"],
    ]
    body = table(["", ""], [row for row in head if row[1]])
    if summary.reason:
        reasons = "".join(f"<li>{text(line)}</li>" for line in summary.reason)
        title = f"Why: {summary.failed_step}" if summary.failed_step else "Why"
        body = Markup(section(title, f"<ul>{reasons}</ul>") + body)
    parts = [body]
    if summary.reports:
        links = "".join(f'<li><a href="{text(path)}">{text(title)}</a></li>' for title, path in summary.reports.items())
        parts.append(section("Reports", f"<ul>{links}</ul>"))
    if summary.gates:
        rows = [[rule.rule, rule.value, rule.bound, verdict(rule.passed), rule.note] for rule in summary.gates]
        parts.append(section("Gates", table(["Rule", "Value", "Bound", "Verdict", "Note"], rows)))
    if summary.metrics:
        parts.append(section("Metrics on the test part", table(["Metric", "Value"], summary.metrics.items())))
    steps = [
        [step.name, _status(step.status), f"{step.seconds:.1f} s", "from the cache" if step.cached else ""]
        for step in summary.steps
    ]
    parts.append(section("Steps", table(["Step", "Status", "Time", ""], steps)))
    if summary.example:
        parts.append(section("Ask it", f"<pre>{text(summary.example)}</pre>"))
    colour, outcome = _COLOURS.get(summary.outcome, "ok"), summary.outcome.replace("_", " ")
    title = f"{summary.pipeline.capitalize()} of {model.name}"
    return page(f"Run {summary.run_id}", "".join(parts), colour, outcome, title)


def _status(status: str) -> Markup:
    return verdict(status == "succeeded", status, status) if status != "skipped" else text(status)
