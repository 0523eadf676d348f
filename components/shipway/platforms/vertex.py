"""Vertex AI Pipelines: starts a run exactly once, follows it, and keeps its schedules.

A run's id is made from the idempotency key, and Vertex AI never gives an id twice: whatever is lost on the way, a call
that is made again finds the first run.
"""

from __future__ import annotations

import datetime as dt
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from shipway.endpoints import vertex_client
from shipway.endpoints.vertex_client import Vertex, passes_by
from shipway.errors import ShipwayError
from shipway.platforms.follow import RemoteStatus, RemoteStep, State, VanishedError
from shipway.platforms.vertex_experiment import add_to_experiment, ensure_experiment
from shipway.platforms.vertex_job import (
    ATTEMPT_LABEL,
    KEY_LABEL,
    attempt_label,
    check,
    make_job,
    pipeline_document,
    warnings,
)
from shipway.platforms.vertex_schedules import (
    create_schedule,
    delete_schedule,
    list_schedules,
    pause_schedule,
    resume_schedule,
)

if TYPE_CHECKING:
    from google.api_core.exceptions import GoogleAPICallError
    from google.cloud.aiplatform_v1.types import PipelineJob, PipelineTaskDetail

    from shipway.platforms.submission import Submission

__all__ = [
    "VertexRun",
    "create_schedule",
    "delete_schedule",
    "find",
    "list_schedules",
    "pause_schedule",
    "resume_schedule",
    "submit",
    "warnings",
]

# How often, and with what pause in seconds, a run that was just started is looked at for its lineage context.
CONTEXT_LOOKS = 15
CONTEXT_PAUSE = 2.0

_RUN_STATES: dict[str, State] = {
    "PIPELINE_STATE_RUNNING": "running",
    "PIPELINE_STATE_CANCELLING": "running",
    "PIPELINE_STATE_SUCCEEDED": "succeeded",
    "PIPELINE_STATE_FAILED": "failed",
    "PIPELINE_STATE_CANCELLED": "cancelled",
    # A paused run does nothing more by itself.
    "PIPELINE_STATE_PAUSED": "cancelled",
}
_STEP_STATES: dict[str, State] = {
    "RUNNING": "running",
    "CANCEL_PENDING": "running",
    "CANCELLING": "running",
    "SUCCEEDED": "succeeded",
    # Vertex AI's word for a step whose outputs came from the cache.
    "SKIPPED": "succeeded",
    "FAILED": "failed",
    "CANCELLED": "cancelled",
    "NOT_TRIGGERED": "skipped",
}
_ENDED = ("succeeded", "failed", "cancelled")


@dataclass
class VertexRun:
    """A run on Vertex AI.

    Attributes:
        name: The run's id.
        link: Its page in the console.
        created: Whether this call started it, or found it.
    """

    name: str
    link: str
    created: bool
    _vertex: Vertex = field(repr=False)
    _experiment: str = field(repr=False)
    _steps: set[str] = field(repr=False)
    _in_experiment: bool = field(default=False, repr=False)

    def status(self) -> RemoteStatus:
        """Asks Vertex AI for the run's state; puts it into its experiment as soon as it has a lineage context.

        Raises:
            ShipwayError: Vertex AI refused, or did not answer.
        """
        job = self._read()
        self._join_experiment(job)
        state = _RUN_STATES.get(job.state.name, "pending")
        message = " ".join(job.error.message.split())
        if job.state.name == "PIPELINE_STATE_PAUSED":
            message = "it is paused, and goes on only when someone resumes it"
        return RemoteStatus(state, _steps(job, self._steps), message)

    def _read(self) -> PipelineJob:
        from google.api_core.exceptions import Conflict, NotFound

        what = f"reading run {self.name}"
        try:
            return self._vertex.ask(
                what, self._vertex.pipelines.get_pipeline_job, {"name": _resource(self._vertex, self.name)}
            )
        except NotFound as error:
            raise VanishedError(f"{what}: it is gone; someone deleted it") from error
        except Conflict as error:
            raise self._vertex.refusal(what, error) from error

    def _join_experiment(self, job: PipelineJob) -> bool:
        """Adds the run to its experiment once its lineage context is there; tells whether nothing is left to do."""
        run = job.job_detail.pipeline_run_context
        if not self._in_experiment and run.name:
            try:
                add_to_experiment(self._vertex, self._experiment, run)
            except ShipwayError as error:
                raise ShipwayError(
                    f"run {self.name} goes on ({self.link}), but without its experiment: {error}; the same command "
                    "again finds the run and adds it"
                ) from error
            self._in_experiment = True
        return self._in_experiment or _RUN_STATES.get(job.state.name) in _ENDED

    def _await_experiment(self, job: PipelineJob) -> None:
        """Gives a run that was just started some time to get its lineage context."""
        for _ in range(CONTEXT_LOOKS):
            if self._join_experiment(job):
                return
            time.sleep(CONTEXT_PAUSE)
            job = self._read()


def submit(submission: Submission, *, pipeline_root: str | None = None) -> VertexRun:
    """Starts a run, or finds the one that an earlier call with the same key started.

    Args:
        submission: What to run.
        pipeline_root: The gs:// folder of the artifacts, instead of the spec's.

    Raises:
        InputError: A setting is missing, malformed or refused by Vertex AI, or a step needs what Vertex AI cannot give.
        ShipwayError: There are no credentials, or Vertex AI refused, or did not answer.
    """
    vertex = Vertex(submission.spec.vertex)
    check(submission)
    job = make_job(submission, pipeline_root, labels=attempt_label())
    # Before the run: what is wrong with the experiment is told while nothing has been started.
    experiment = ensure_experiment(vertex, submission.spec)
    name = submission.run_name
    started = _start(vertex, name, job)
    _check_ours(vertex, name, job, started)
    run = _run(vertex, submission, experiment, started.labels.get(ATTEMPT_LABEL) == job.labels[ATTEMPT_LABEL])
    run._await_experiment(started)
    return run


def find(submission: Submission) -> VertexRun | None:
    """Finds a submission's run; starts nothing.

    Raises:
        InputError: A setting is missing or malformed.
        ShipwayError: There are no credentials, or Vertex AI refused, or did not answer.
    """
    vertex = Vertex(submission.spec.vertex)
    check(submission)
    run = _run(vertex, submission, ensure_experiment(vertex, submission.spec), created=False)
    try:
        run._read()
    except VanishedError:
        return None
    return run


def _run(vertex: Vertex, submission: Submission, experiment: str, created: bool) -> VertexRun:
    from shipway.platforms.local import step_names

    return VertexRun(
        name=submission.run_name,
        link=vertex.link(f"pipelines/runs/{submission.run_name}"),
        created=created,
        _vertex=vertex,
        _experiment=experiment,
        _steps=set(step_names(pipeline_document(submission))),
    )


def _start(vertex: Vertex, name: str, job: PipelineJob) -> PipelineJob:
    """Creates the job; after a lost answer it looks whether the job is there before it tries again."""
    from google.api_core.exceptions import Aborted, Conflict, GoogleAPICallError

    what = f"starting run {name}"
    request = {"parent": vertex.parent, "pipeline_job": job, "pipeline_job_id": name}
    pauses = iter(vertex_client.PAUSES)
    while True:
        try:
            return vertex.once(vertex.pipelines.create_pipeline_job, request)
        except GoogleAPICallError as error:
            if isinstance(error, Conflict) and not isinstance(error, Aborted):
                return _existing(vertex, name)
            if not passes_by(error):
                raise vertex.refusal(what, error) from error
            if (found := _look(vertex, name)) is not None:
                return found
            if (pause := next(pauses, None)) is None:
                raise _unsure(vertex.refusal(what, error), error) from error
        time.sleep(pause)


def _existing(vertex: Vertex, name: str) -> PipelineJob:
    from google.api_core.exceptions import Conflict, NotFound

    what = f"reading run {name}, which is there already"
    try:
        return vertex.ask(what, vertex.pipelines.get_pipeline_job, {"name": _resource(vertex, name)})
    except (NotFound, Conflict) as error:
        raise vertex.refusal(what, error) from error


def _look(vertex: Vertex, name: str) -> PipelineJob | None:
    """Returns the job if Vertex AI says it has it; asks once, for the next try would find it as well."""
    from google.api_core.exceptions import GoogleAPICallError

    try:
        return vertex.once(vertex.pipelines.get_pipeline_job, {"name": _resource(vertex, name)})
    except GoogleAPICallError:
        return None


def _unsure(refusal: ShipwayError, error: GoogleAPICallError) -> ShipwayError:
    from google.api_core.exceptions import TooManyRequests

    if isinstance(error, TooManyRequests):
        return refusal
    return ShipwayError(f"{refusal}; the run may have been started: the same command again finds it then")


def _check_ours(vertex: Vertex, name: str, asked: PipelineJob, found: PipelineJob) -> None:
    """Refuses a job of that id that no submission with this key made."""
    if found.name.rpartition("/")[2] != name:
        raise ShipwayError(
            f"starting run {name}: no usable answer from Vertex AI: expected a job of that id, found {found.name!r}; "
            "the same command again finds the run if it was started"
        )
    key = found.labels.get(KEY_LABEL, "")
    if key != asked.labels[KEY_LABEL]:
        raise ShipwayError(
            f"run {name}: Vertex AI has a job of that id with label {KEY_LABEL}={key or '(none)'}, which this "
            f"command did not start; expected {asked.labels[KEY_LABEL]}; give another --key, or delete the job at "
            f"{vertex.link(f'pipelines/runs/{name}')}"
        )


def _resource(vertex: Vertex, name: str) -> str:
    return f"{vertex.parent}/pipelineJobs/{name}"


def _steps(job: PipelineJob, names: set[str]) -> list[RemoteStep]:
    """Returns the steps that run a container, one of a loop as often as it ran; of one tried again, the last try."""
    tasks = sorted(
        (task for task in job.job_detail.task_details if task.task_name in names), key=lambda task: task.task_id
    )
    return list({(task.task_name, task.parent_task_id): _step(task) for task in tasks}.values())


def _step(task: PipelineTaskDetail) -> RemoteStep:
    name = task.state.name
    return RemoteStep(
        name=task.task_name,
        state=_STEP_STATES.get(name, "pending"),
        seconds=_seconds(task),
        cached=name == "SKIPPED",
        message=" ".join(task.error.message.split()),
    )


def _seconds(task: PipelineTaskDetail) -> float:
    if not task.start_time:
        return 0.0
    seconds: float = ((task.end_time or dt.datetime.now(dt.UTC)) - task.start_time).total_seconds()
    return max(0.0, seconds)
