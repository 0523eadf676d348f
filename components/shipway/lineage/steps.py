"""The record that every step leaves beside its outputs, for the run's report.

A component's body runs inside `step(...)`. However the block ends, a `step.json` is written to the folder of the
step's outputs: what happened, how long it took, the facts worth showing and the reports it made. The local
runner gathers these records, also those of cached steps, which still lie where the step once ran.
"""

import fcntl
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from shipway.errors import ShipwayError
from shipway.lineage.files import write_text
from shipway.lineage.metadata import safe_metadata
from shipway.lineage.project import RUN_FOLDER_VARIABLE

RECORD_FILE = "step.json"
LIFELINE_FILE = "lifeline"


class StepRecord(BaseModel):
    """What one step did.

    Attributes:
        name: The step's name in the pipeline.
        status: `succeeded`, `rejected` (a verdict against data or model; the step itself worked) or `failed`.
        seconds: Wall time of the step's body.
        facts: Small JSON values worth showing (versions, counts, metrics).
        reports: Title -> path of an HTML page the step wrote.
        reason: Why it failed or rejected, one item a breach or fault.
        kind: The error's kind when it failed: `input`, `rejected` or `error`.
    """

    schema_version: int = 1
    name: str
    status: str = "succeeded"
    seconds: float = 0.0
    facts: dict[str, Any] = Field(default_factory=dict)
    reports: dict[str, str] = Field(default_factory=dict)
    reason: list[str] = Field(default_factory=list)
    kind: str = ""

    def show(self, **facts: Any) -> None:
        """Adds facts; values that JSON cannot say are dropped."""
        self.facts.update(safe_metadata(facts))

    def reject(self, reasons: list[str]) -> None:
        """Marks a verdict against the data or the model, with every reason; without reasons there is none."""
        if not reasons:
            return
        self.status = "rejected"
        self.kind = "rejected"
        self.reason = reasons


@contextmanager
def step(name: str, output_path: str | None = None) -> Iterator[StepRecord]:
    """Runs a component's body and leaves its record.

    A ShipwayError ends the process with its message alone (no traceback) and its exit code; anything else keeps its
    traceback in the log, and its last line in the record.

    Args:
        name: The step's name.
        output_path: The path of any of the step's outputs; the record goes to its folder. A step without artifact
            outputs leaves it out: KFP's own output file on the command line tells the folder then.
    """
    record = StepRecord(name=name)
    outputs = _executor_outputs()
    folder = Path(output_path or outputs["outputFile"]).parent
    _hold_lifeline()
    logging.captureWarnings(True)
    started = time.perf_counter()
    try:
        yield record
        _fill(outputs)
    except ShipwayError as error:
        record.status, record.kind, record.reason = "failed", error.kind, str(error).splitlines()
        print(f"{name}: {error}", file=sys.stderr, flush=True)
        sys.exit(error.exit_code)
    except BaseException as error:
        record.status, record.kind = "failed", "error"
        record.reason = [f"{type(error).__name__}: {error}"]
        raise
    finally:
        record.seconds = round(time.perf_counter() - started, 3)
        write_text(folder / RECORD_FILE, record.model_dump_json(indent=2) + "\n")


def _executor_outputs() -> dict[str, Any]:
    """Returns what KFP's executor was told of this step's outputs; nothing when no executor runs it."""
    arguments = sys.argv
    if "--executor_input" not in arguments:
        return {}
    outputs: dict[str, Any] = json.loads(arguments[arguments.index("--executor_input") + 1])["outputs"]
    return outputs


def _fill(outputs: dict[str, Any]) -> None:
    """Makes an empty file for each artifact that has metadata only, as Metrics.

    KFP's local cache takes a step whose artifacts lack a file for one that never ran (measured on kfp 2.17).
    """
    for artifacts in outputs.get("artifacts", {}).values():
        for artifact in artifacts["artifacts"]:
            path = Path(artifact["uri"])
            if path.is_absolute() and not path.exists():
                path.touch()


def read_record(folder: str | Path) -> StepRecord | None:
    """Reads the record in a step's output folder, or returns None where there is none."""
    path = Path(folder) / RECORD_FILE
    return StepRecord.model_validate_json(path.read_text()) if path.is_file() else None


def _hold_lifeline() -> None:
    """Ends this process when the run that started it dies.

    The run holds an exclusive lock on its lifeline file; the kernel lets go of it however the run ends, kill -9
    included. A step waits for the lock on a daemon thread: to get it means that nobody awaits the step's work.
    """
    folder = os.environ.get(RUN_FOLDER_VARIABLE)
    if not folder:
        return
    path = Path(folder) / LIFELINE_FILE
    if not path.is_file():
        return
    handle = os.open(path, os.O_RDONLY)

    def wait() -> None:
        fcntl.flock(handle, fcntl.LOCK_SH)
        os._exit(1)

    threading.Thread(target=wait, name="lifeline", daemon=True).start()
