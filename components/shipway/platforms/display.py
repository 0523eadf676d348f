"""Shows a run while it goes on: a line a step, with status and seconds."""

import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, TextIO

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from shipway.report.summary import StepState, Summary

_MARKS = {
    "succeeded": ("✓", "green"),
    "rejected": ("✗", "yellow"),
    "failed": ("✗", "red"),
}


class Display:
    """Prints steps as they end; on a terminal the running one is shown with a moving clock.

    Use as a context manager while standard output is redirected; it writes to the stream given.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._console = Console(file=stream or sys.stdout, highlight=False, soft_wrap=True)
        self._live: Live | None = None

    def __enter__(self) -> "Display":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def say(self, line: str, style: str = "") -> None:
        """Prints one plain line."""
        self._console.print(Text(line, style=style))

    def started(self, name: str) -> None:
        """Shows that a step runs now."""
        if self._console.is_terminal:
            self._stop()
            self._live = Live(
                _Running(name),
                console=self._console,
                transient=True,
                refresh_per_second=8,
                # Standard output is the runner's while steps run.
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._live.start()

    def ended(self, state: StepState) -> None:
        """Prints the line of a step that ended."""
        self._stop()
        mark, colour = _MARKS[state.status]
        seconds = "cached" if state.cached else f"{state.seconds:.1f} s"
        line = Text.assemble((f"{mark} ", colour), f"{state.name:<10}", (f"{seconds:>8}", "dim"), "  ", _notes(state))
        self._console.print(line)

    def summary(self, summary: Summary, folder: str) -> None:
        """Prints how the run ended and where to look."""
        colour = "red" if summary.exit_code else "green"
        model = summary.model
        console = self._console
        console.print()
        console.print(Text(f"{summary.outcome.replace('_', ' ')} in {summary.seconds:.1f} s", style=f"bold {colour}"))
        if not summary.exit_code and model.version:
            new = f" ({'new' if model.new_version else 'already registered'})" if summary.outcome == "shipped" else ""
            console.print(f"model      {model.name} version {model.version}{new}, {model.digest}")
        for line in summary.reason:
            console.print(Text(f"reason     {line}", style="red"))
        if summary.outcome == "checked":
            colour = "green" if summary.decision == "ok" else "yellow"
            console.print(Text.assemble("decision   ", (summary.decision or "none", colour)))
        for rule in summary.gates:
            mark = Text("passed", "green") if rule.passed else Text("FAILED", "red")
            value = "nothing measured" if rule.value is None else f"{rule.value:.4f}"
            note = f" ({rule.note})" if rule.note else ""
            console.print(Text.assemble("gate       ", mark, f"  {rule.rule}: {value}{note}"))
        if summary.endpoint:
            console.print(Text(f"endpoint   {summary.endpoint}"))
        console.print(Text(f"report     {folder}/index.html"))
        if summary.example and summary.outcome == "shipped":
            console.print(Text("\nAsk it:\n"))
            console.print(Text(summary.example))

    def _stop(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None


class _Running:
    """The moving line of the step that runs now."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._started = time.monotonic()
        self._spinner = Spinner("dots")

    def __rich__(self) -> Spinner:
        self._spinner.update(text=f"{self._name:<10}{time.monotonic() - self._started:>6.1f} s")
        return self._spinner


def _notes(state: StepState) -> Text:
    """The one or two facts of a step that are worth a glance."""
    facts = state.record.facts if state.record is not None else {}
    parts: list[str] = []
    if state.status != "succeeded":
        return Text(state.status, style=_MARKS[state.status][1])
    if not facts:
        # A step on a platform leaves its record there.
        return Text()
    match state.name:
        case "ingest":
            parts = [f"{facts.get('rows', 0):,} rows", str(facts.get("data_version", ""))[:19]]
        case "split":
            rows = facts.get("rows")
            if isinstance(rows, dict):
                parts = [f"{part} {count:,}" for part, count in rows.items()]
        case "train":
            parts = [str(facts.get("model_digest", ""))[:19], "ONNX" if facts.get("onnx") else "no ONNX"]
            if facts.get("resumed_from_epoch"):
                parts.append(f"resumed after epoch {facts['resumed_from_epoch']}")
        case "evaluate":
            metrics = facts.get("metrics") or {}
            parts = [f"{name} {value:.4f}" for name, value in list(metrics.items())[:2]]
        case "gate":
            parts = [str(facts.get("decision", ""))]
        case "register":
            parts = [f"version {facts.get('version', '')}", "new" if facts.get("created") else "known already"]
        case "deploy":
            parts = [str(facts.get("endpoint", ""))]
        case _:
            parts = _promotion_notes(state.name, facts)
    return Text(", ".join(part for part in parts if part), style="dim")


def _promotion_notes(name: str, facts: Mapping[str, Any]) -> list[str]:
    match name:
        case "candidate":
            before = facts.get("stable")
            return [f"version {facts.get('version', '')}", f"over version {before}" if before else "the first one"]
        case "approval":
            return [f"by {facts['approved_by']}" if facts.get("approved_by") else "none needed"]
        case "rollout" | "rollback":
            return [str(facts.get("outcome", "")).replace("_", " "), f"version {facts.get('version', '')}"]
        case _:
            return _watching_notes(name, facts)


def _watching_notes(name: str, facts: Mapping[str, Any]) -> list[str]:
    match name:
        case "resolve":
            return [f"version {facts.get('version', '')}"]
        case "screen" | "predict" | "gather" | "observe":
            return [
                f"{facts[key]:,} {key.replace('_', ' ')}"
                for key in ("rows", "predicted", "quarantined", "parts_found")
                if facts.get(key)
            ]
        case "monitor":
            return [str(facts.get("decision", "")), *map(str, (facts.get("reasons") or [])[:1])]
        case "notify":
            return [str(facts.get("kind", ""))]
        case _:
            return []
