"""Starts a run of a pipeline under a key, wherever it runs, and tells how it stands; the key makes it one run."""

import io
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from shipway.errors import InputError, RejectedError, ShipwayError
from shipway.lineage.project import PROJECT_VARIABLE
from shipway.platforms.follow import VanishedError, follow
from shipway.platforms.local_keys import find_run, keyed_id
from shipway.platforms.pipelines import Target, find_pipeline, given_parameters
from shipway.spec import load_spec

if TYPE_CHECKING:
    from shipway.platforms.compile import Images
    from shipway.platforms.follow import RemoteRun
    from shipway.platforms.submission import Submission

# How long a run that was just begun on this machine is looked at for what it refuses at once: a spec, its data.
FIRST_LOOK_SECONDS = 60.0
_PAUSE = 0.1
_MOST_REASON = 1000


@dataclass(frozen=True)
class StartRequest:
    """One run.

    Attributes:
        target: Where it runs.
        spec: The spec file; its folder is the project.
        pipeline: Which of the spec's pipelines.
        key: What makes it one run, however often it is asked for: lower-case letters, digits and dashes, at most 40.
        settings: Overrides of the spec as `train.lr=0.01`.
        parameters: Values of the parameters that a person gives the pipeline.
        source: URI of the rows instead of the spec's, or "".
        runs: local: folder that holds a folder a run.
        state: local: folder of what outlives a run.
        images: Repository, tag and file of full names of the images, each where it is not the default.
    """

    target: Target
    spec: Path
    pipeline: str
    key: str
    settings: Sequence[str] = ()
    parameters: Mapping[str, str] = field(default_factory=dict)
    source: str = ""
    runs: Path = Path("runs")
    state: Path = Path(".shipway")
    images: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Started:
    """A run that goes on, or has ended.

    Attributes:
        name: Its name, which ends in the key.
        link: Where a person can look at it.
        created: Whether this call began it, rather than found it.
    """

    name: str
    link: str
    created: bool


@dataclass(frozen=True)
class RunStatus:
    """How a run stands.

    Attributes:
        state: `running`, `succeeded`, `rejected` (data or model were refused), `failed`, or `lost`: begun on this
            machine and ended from outside; to start it again lets it go on.
        reason: Why, where it is not well.
    """

    state: Literal["running", "succeeded", "rejected", "failed", "lost"]
    reason: str = ""


def start(request: StartRequest) -> Started:
    """Starts a run, or finds the one that has its key.

    A run of this machine is a process of its own session, which goes on when its starter ends.

    Raises:
        InputError: The spec, a parameter, the data or a setting of the platform is wrong.
        ShipwayError: The platform does not answer, or refuses.
    """
    if request.target == "local":
        return _start_here(request)
    run = _platform(request.target).submit(_submission(request))
    return Started(run.name, run.link, run.created)


def find(request: StartRequest) -> Started | None:
    """Finds the run that has the request's key; starts nothing.

    Raises:
        InputError: The spec or a setting of the platform is wrong.
        ShipwayError: The platform does not answer, or refuses.
    """
    if request.target == "local":
        found = find_run(request.runs, _local_id(request))
        return None if found.state == "absent" else Started(found.id, str(found.folder), created=False)
    run = _find_remote(request)
    return None if run is None else Started(run.name, run.link, created=False)


def status(request: StartRequest) -> RunStatus:
    """Tells how the run of a key stands; starts nothing.

    Raises:
        InputError: The spec or a setting of the platform is wrong.
        ShipwayError: The platform does not answer, or refuses.
    """
    if request.target == "local":
        return local_status(request.runs, _local_id(request))
    submission = _submission(request, to_look=True)
    run = _platform(request.target).find(submission)
    if run is None:
        return RunStatus("failed", "the run is no longer there: someone deleted it")
    try:
        return _remote_status(run, submission)
    except VanishedError as error:
        return RunStatus("failed", str(error))


def local_status(runs: Path, run_id: str) -> RunStatus:
    """Tells how a run of this machine stands.

    Args:
        runs: The folder of the runs.
        run_id: Its id.
    """
    found = find_run(runs, run_id)
    if found.summary is None:
        state: Literal["running", "lost"] = "running" if found.state == "running" else "lost"
        return RunStatus(state, "" if state == "running" else "its process ended from outside")
    reason = " ".join(" ".join(found.summary.reason).split())[:_MOST_REASON]
    match found.summary.exit_code:
        case 0:
            return RunStatus("succeeded", found.summary.outcome)
        case 3:
            return RunStatus("rejected", reason)
        case _:
            return RunStatus("failed", reason)


def data_version(request: StartRequest) -> str:
    """Returns a fingerprint of the rows that a run would take in; "" where there are none, or it cannot be told.

    Raises:
        InputError: The spec is wrong, or the rows cannot be read.
    """
    from shipway.ingest.fingerprint import fingerprint

    pipeline = find_pipeline(request.pipeline)
    if not pipeline.reads_data:
        return ""
    spec = load_spec(request.spec, request.settings)
    os.environ[PROJECT_VARIABLE] = str(request.spec.absolute().parent)
    return fingerprint(spec.data, request.source or pipeline.source(spec))


def _start_here(request: StartRequest) -> Started:
    run_id = _local_id(request)
    given = [f"{name}={value}" for name, value in request.parameters.items()]
    # What is wrong with them is told now, and not in a file that nobody reads.
    given_parameters(find_pipeline(request.pipeline), given)
    found = find_run(request.runs, run_id)
    if found.state in ("running", "ended"):
        return Started(run_id, str(found.folder), created=False)
    request.runs.mkdir(parents=True, exist_ok=True)
    said = request.runs / f".{run_id}.out"
    with said.open("wb") as output:
        process = subprocess.Popen(
            _command(request, given),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    _await_beginning(process, request.runs, run_id, said)
    return Started(run_id, str(found.folder), created=found.state == "absent")


def _command(request: StartRequest, given: Sequence[str]) -> list[str]:
    command = [sys.executable, "-m", "shipway.cli", "run", str(request.spec), "--pipeline", request.pipeline]
    command += ["--key", request.key, "--runs", str(request.runs), "--state", str(request.state)]
    command += [f"--data={request.source}"] if request.source else []
    command += [f"--set={setting}" for setting in request.settings]
    return command + [f"--parameter={entry}" for entry in given]


def _await_beginning(process: "subprocess.Popen[bytes]", runs: Path, run_id: str, said: Path) -> None:
    """Waits until a run is under way, so that what it refuses at once is told here.

    Raises:
        InputError: It was refused.
        ShipwayError: Its process ended before the run began.
    """
    deadline = time.monotonic() + FIRST_LOOK_SECONDS
    while time.monotonic() < deadline:
        code = process.poll()
        if find_run(runs, run_id).state in ("running", "ended"):
            return
        if code is not None:
            lines = said.read_text(errors="replace").splitlines()
            told = [line.removeprefix("shipway: ") for line in lines if line.startswith("shipway: ")] or lines[-1:]
            reason = " ".join(told)[:_MOST_REASON] or f"its process ended with code {code}"
            raise InputError(reason) if code == InputError.exit_code else ShipwayError(f"run {run_id}: {reason}")
        time.sleep(_PAUSE)


def _local_id(request: StartRequest) -> str:
    return keyed_id(load_spec(request.spec, request.settings).name, request.pipeline, request.key)


def _submission(request: StartRequest, *, to_look: bool = False) -> "Submission":
    """Compiles what is to be submitted; to look for it, the rows are not asked what they hold."""
    from shipway.platforms.submission import prepare

    pipeline = find_pipeline(request.pipeline)
    return prepare(
        request.spec,
        "vertex" if request.target == "vertex" else "kubeflow",
        settings=request.settings,
        source=request.source,
        images=_images(request.images),
        key=request.key,
        scheduled=to_look,
        pipeline=request.pipeline,
        given=given_parameters(pipeline, [f"{name}={value}" for name, value in request.parameters.items()]),
    )


def _images(names: Mapping[str, str]) -> "Images":
    from shipway import __version__
    from shipway.platforms.compile import Images

    file = names.get("file")
    return Images.read(Path(file) if file else None, names.get("repository", "shipway"), names.get("tag", __version__))


def _find_remote(request: StartRequest) -> "RemoteRun | None":
    found: RemoteRun | None = _platform(request.target).find(_submission(request, to_look=True))
    return found


def _remote_status(run: "RemoteRun", submission: "Submission") -> RunStatus:
    from shipway.platforms.display import Display
    from shipway.platforms.local import step_names

    if run.status().state not in ("succeeded", "failed", "cancelled"):
        return RunStatus("running")
    said = io.StringIO()
    code = follow(run, step_names(submission.documents[0]), Display(said))
    # The last lines tell why; those before are the steps.
    reason = " ".join(" ".join(said.getvalue().splitlines()[-3:]).split())[:_MOST_REASON]
    return RunStatus("succeeded" if code == 0 else "rejected" if code == RejectedError.exit_code else "failed", reason)


def _platform(target: Target) -> Any:
    if target == "vertex":
        from shipway.platforms import vertex

        return vertex
    from shipway.platforms import kubeflow

    return kubeflow
