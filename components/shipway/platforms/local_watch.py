"""Follows a run on this machine: what its steps are at, their logs, and the records that they leave."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from shipway.lineage.steps import RECORD_FILE, StepRecord, read_record
from shipway.platforms.display import Display
from shipway.platforms.events import Event
from shipway.report.summary import StepState, write_steps

EXIT_HANDLER = "report"
# Which of several records, or ends, of a step in a loop stands for all of them.
_GRAVITY = {"succeeded": 0, "running": 1, "rejected": 2, "failed": 3}


@dataclass
class _Pass:
    """One time that a step runs; in a loop there are several, at most one in each of the runner's threads.

    Attributes:
        state: What it is at.
        began: When it began, by the monotonic clock.
        log: Its log while it runs.
    """

    state: StepState
    began: float
    log: IO[str] | None


class Watch:
    """Turns a run's events into the state of each step.

    A step of a `ParallelFor` has one state: it runs while one of its passes does, fails with the first that fails, and
    its seconds, facts and reasons are those of all.

    Args:
        folder: The run's folder.
        artifacts: Where the run's steps leave their outputs.
        cache: The folder of kfp's cache.
        show: Where progress is shown.
    """

    def __init__(self, folder: Path, artifacts: Path, cache: Path, show: Display) -> None:
        self._folder, self._artifacts, self._cache, self._show = folder, artifacts, cache, show
        self._passes: dict[str, list[_Pass]] = {}
        self._running: dict[int, _Pass] = {}
        self._skipped: list[str] = []
        self.crash = ""

    @property
    def steps(self) -> list[StepState]:
        """The steps so far, in the order in which they began; without the one that reports."""
        known = [_joined([each.state for each in passes]) for passes in self._passes.values()]
        known += [StepState(name=name, status="skipped") for name in self._skipped]
        return [state for state in known if state.name != EXIT_HANDLER]

    @property
    def failed(self) -> bool:
        """Whether any step has failed."""
        return any(each.state.status == "failed" for passes in self._passes.values() for each in passes)

    def finish(self, names: Sequence[str]) -> None:
        """Marks the steps that never began.

        Args:
            names: All steps of the pipeline.
        """
        self._skipped = [name for name in names if name not in self._passes]

    def __call__(self, event: Event) -> None:
        """Takes an event."""
        match event.kind:
            case "started":
                self._start(event)
            case "line":
                if (running := self._running.get(event.worker)) is not None and running.log is not None:
                    running.log.write(event.detail + "\n")
            case "succeeded" | "failed":
                self._end(event)
            case "cached":
                record = self._cached_record(event.detail)
                status = record.status if record is not None else "succeeded"
                state = StepState(name=event.task, status=status, cached=True, record=record)
                self._passes.setdefault(event.task, []).append(_Pass(state, 0.0, None))
                self._settle(state)

    def _start(self, event: Event) -> None:
        passes = self._passes.setdefault(event.task, [])
        log = Path("logs") / (f"{event.task}-{len(passes) + 1}.log" if passes else f"{event.task}.log")
        (self._folder / log).parent.mkdir(exist_ok=True)
        state = StepState(name=event.task, status="running", log=log.as_posix())
        begun = _Pass(state, time.monotonic(), (self._folder / log).open("w"))
        passes.append(begun)
        self._running[event.worker] = begun
        write_steps(self._folder, self.steps)
        if event.task != EXIT_HANDLER:
            self._show.started(event.task)

    def _end(self, event: Event) -> None:
        ended = self._running.pop(event.worker)
        if ended.log is not None:
            ended.log.close()
        state = ended.state
        state.seconds = time.monotonic() - ended.began
        state.record = self._record(event)
        state.status = event.kind
        if event.kind == "succeeded" and state.record is not None:
            state.status = state.record.status
        self._settle(state)

    def _record(self, event: Event) -> StepRecord | None:
        """Reads the record that a step left; one that was ended before it told of its outputs may have left none."""
        if event.detail:
            return read_record(event.detail)
        found = list(self._artifacts.glob(f"**/{event.task}/{RECORD_FILE}"))
        return read_record(found[0].parent) if len(found) == 1 else None

    def _settle(self, state: StepState) -> None:
        write_steps(self._folder, self.steps)
        if state.name != EXIT_HANDLER or state.status == "failed":
            self._show.ended(state)

    def _cached_record(self, key: str) -> StepRecord | None:
        """The record lies beside the outputs that the cache entry names."""
        for entry in self._cache.glob(f"{key}*.json"):
            for value in json.loads(entry.read_text()).values():
                if isinstance(value, dict) and "uri" in value:
                    return read_record(Path(value["uri"]).parent)
        return None


def _joined(states: Sequence[StepState]) -> StepState:
    """Returns one state for all passes of a step."""
    if len(states) == 1:
        return states[0]
    worst = max(states, key=lambda state: _GRAVITY[state.status])
    records = [state.record for state in states if state.record is not None]
    return StepState(
        name=worst.name,
        status=worst.status,
        seconds=sum(state.seconds for state in states),
        cached=all(state.cached for state in states),
        log=worst.log,
        record=_joined_record(worst, records) if records else None,
    )


def _joined_record(worst: StepState, records: Sequence[StepRecord]) -> StepRecord:
    """Returns one record for all: counts are added up, other facts kept where all agree, reasons and reports listed."""
    own = worst.record or records[0]
    facts = {
        name: _joined_fact([record.facts[name] for record in records])
        for name in records[0].facts
        if all(name in record.facts for record in records)
    }
    return own.model_copy(
        update={
            "seconds": sum(record.seconds for record in records),
            "facts": {name: value for name, value in facts.items() if value is not None},
            "reason": list(dict.fromkeys(line for record in records for line in record.reason)),
            "reports": {title: path for record in records for title, path in record.reports.items()},
        }
    )


def _joined_fact(values: Sequence[object]) -> object:
    if all(value == values[0] for value in values) and not isinstance(values[0], int):
        return values[0]
    counts = [value for value in values if isinstance(value, int) and not isinstance(value, bool)]
    return sum(counts) if len(counts) == len(values) else None
