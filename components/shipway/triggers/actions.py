"""Does what a decision says, in a process of its own: `python -m shipway.triggers.actions`, JSON in, JSON out.

So a platform's library that hangs, crashes or hoards memory takes nothing of the service with it. Each deed is looked
up under its key before it is done: the run's name has it, the rollback's reason, the message.
"""

import contextlib
import fcntl
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from shipway.errors import InputError, ShipwayError
from shipway.lineage.project import PROJECT_VARIABLE, STATE_VARIABLE
from shipway.spec import ModelSpec, dump_section, load_endpoint, load_spec

if TYPE_CHECKING:
    from shipway.endpoints.protocol import Endpoint
    from shipway.platforms.start import StartRequest
    from shipway.rollout.memory import Memory

Result = Literal["started", "running", "succeeded", "rejected", "failed", "lost", "done", "skipped", "error"]
_SEVERITIES = {"critical": "incident", "incident": "incident", "page": "incident", "info": "info", "none": "info"}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of an action.

    Attributes:
        result: `started`; how a run stands; `done` (a deed); `skipped` (there was nothing to do); `error` (try again).
        reason: Why, in words.
        run_name: The run's name.
        run_link: Where a person can look at it.
        data_version: What the rows were that the run was started on.
    """

    result: Result
    reason: str = ""
    run_name: str = ""
    run_link: str = ""
    data_version: str = ""


def perform(request: Mapping[str, Any]) -> Outcome:
    """Does what a request says, or finds that it was done.

    Args:
        request: `do` (start, look, rollback, halt, alert), `key`, `route`, `spec` (path), `target`, `runs`, `state`,
            `images`, `action` (of the decision), `last_data`.

    Returns:
        What came of it; a failure that is no use to repeat is `failed`, any other `error`.
    """
    os.environ[PROJECT_VARIABLE] = str(Path(request["spec"]).parent)
    os.environ[STATE_VARIABLE] = str(request["state"])
    deeds: dict[str, Callable[[Mapping[str, Any]], Outcome]] = {
        "start": _start,
        "look": _look,
        "rollback": _rollback,
        "halt": _halt,
        "alert": _alert,
    }
    try:
        with _alone(Path(request["state"]), request["key"]):
            return deeds[request["do"]](request)
    except InputError as error:
        return Outcome("failed", _line(error))
    except ShipwayError as error:
        return Outcome("error", _line(error))


def _start(request: Mapping[str, Any]) -> Outcome:
    from shipway.platforms.start import data_version, find, start

    asked = _run_request(request)
    action = request["action"]
    version = ""
    try:
        # Of every start: the next event that would skip unchanged rows compares with this one's.
        version = data_version(asked)
    except ShipwayError:
        if action["unchanged"] == "skip":
            raise
    # A run that this decision has started before a crash is no other one's.
    if action["unchanged"] == "skip" and version and version == request["last_data"] and find(asked) is None:
        return Outcome("skipped", f"the rows are unchanged since the last run was started (fingerprint {version})")
    run = start(asked)
    how = "was started" if run.created else "was found by its key"
    return Outcome("started", f"run {run.name} {how}", run.name, run.link, version)


def _look(request: Mapping[str, Any]) -> Outcome:
    from shipway.platforms.start import status

    found = status(_run_request(request))
    return Outcome(found.state, found.reason)


def _rollback(request: Mapping[str, Any]) -> Outcome:
    from shipway.rollout.stage import rollback

    spec, settings, endpoint = _production(request)
    live, memory = endpoint.status().live, _memory(endpoint)
    if memory is not None and request["key"] in memory.reason and memory.stage == "done":
        return Outcome("done", memory.reason)
    if memory is not None and memory.stage == "done" and memory.outcome == "rolled_back" and not memory.skipped:
        return Outcome("skipped", f"version {memory.candidate.release.version} was rolled back before: {memory.reason}")
    about = request["action"]["version"]
    blamed = memory.candidate.release.version if memory is not None and memory.stage != "done" else ""
    if about and about not in (blamed, live.version if live else ""):
        shown = f"version {live.version}" if live else "nothing"
        return Outcome("skipped", f"the alert is about version {about}, and production serves {shown}")
    reason = f"{request['action']['title']} (trigger route {request['route']}, {request['key']})"
    report = Path(request["runs"]) / f"{spec.name}-rollback-{request['key']}" / "index.html"
    served = rollback(spec.name, settings, reason, "", report, dump_section(spec.notify))
    return Outcome("done", f"{served.reason}; production serves version {served.version}", run_link=str(report))


def _halt(request: Mapping[str, Any]) -> Outcome:
    from shipway.rollout.rollout import send_command

    _, _, endpoint = _production(request)
    memory = _memory(endpoint)
    if memory is None or memory.stage == "done":
        return Outcome("skipped", f"{endpoint.name}: no rollout is under way")
    about, candidate = request["action"]["version"], memory.candidate.release.version
    if about and about != candidate:
        return Outcome("skipped", f"the alert is about version {about}, and version {candidate} is being rolled out")
    if memory.stage == "back" or (memory.command is not None and memory.command.kind == "abort"):
        return Outcome("done", f"the rollout of version {candidate} is going back already")
    send_command(endpoint, "abort", f"trigger route {request['route']}, {request['key']}")
    return Outcome("done", f"the rollout of version {candidate} was told to end")


def _alert(request: Mapping[str, Any]) -> Outcome:
    from shipway.notify.alerts import Alert, Severity
    from shipway.notify.send import tell

    spec = load_spec(request["spec"])
    action = request["action"]
    severity: Severity = _SEVERITIES.get(action["severity"].lower(), "warning")  # type: ignore[assignment]  # values are Severity
    alert = Alert(
        spec.name,
        "rule",
        severity,
        action["title"],
        time.time(),
        f"trigger/{request['key']}",
        {"route": request["route"]},
    )
    # Not to the event sink, which may be the service that this comes from.
    tell(alert, dump_section(spec.notify.model_copy(update={"events": None})))
    return Outcome("done", f"told: {action['title']}")


def _run_request(request: Mapping[str, Any]) -> "StartRequest":
    from shipway.platforms.start import StartRequest

    action = request["action"]
    return StartRequest(
        target=request["target"],
        spec=Path(request["spec"]),
        pipeline=action["pipeline"],
        key=request["key"],
        settings=action["settings"],
        parameters=action["parameters"],
        source=action["source"],
        runs=Path(request["runs"]),
        state=Path(request["state"]),
        images=request["images"],
    )


def _production(request: Mapping[str, Any]) -> tuple[ModelSpec, str, "Endpoint"]:
    """Returns the spec, the settings of its endpoint, and production's endpoint.

    Raises:
        SpecError: The spec names no endpoint for the target, or one that the target does not reach.
    """
    from shipway.endpoints.open import open_endpoint
    from shipway.platforms.pipelines import endpoint_parameter
    from shipway.rollout.stage import ENVIRONMENT

    spec = load_spec(request["spec"])
    settings = endpoint_parameter(spec, request["target"], "")
    if not settings:
        raise InputError(f"{request['spec']}: endpoint.kind: none, so that there is no production to act on")
    return spec, settings, open_endpoint(spec.name, load_endpoint(settings), ENVIRONMENT)


def _memory(endpoint: "Endpoint") -> "Memory | None":
    from shipway.rollout.memory import read_memory

    status = endpoint.status()
    return read_memory(status.record, status.name)


@contextlib.contextmanager
def _alone(state: Path, key: str) -> Iterator[None]:
    """Waits until a process that the service left behind when it was killed is done with the same key."""
    path = state / "trigger" / f"{key}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with path.open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            # Whoever held it may have taken the file away: a lock on that one would keep nobody out.
            if os.fstat(lock.fileno()).st_nlink:
                try:
                    yield
                finally:
                    path.unlink(missing_ok=True)
                return


def _line(error: ShipwayError) -> str:
    return "; ".join(str(error).splitlines())[:1000]


def main() -> None:
    """Performs the request on standard input; the outcome is the last line of standard output."""
    request = json.loads(sys.stdin.read())
    with contextlib.redirect_stdout(sys.stderr):
        outcome = perform(request)
    fields = {name: getattr(outcome, name) for name in Outcome.__slots__}
    print(json.dumps(fields))


if __name__ == "__main__":
    main()
