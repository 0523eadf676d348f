"""Submits pipelines to Kubeflow, asks for their runs, and keeps their schedules."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from shipway.errors import ShipwayError
from shipway.lineage.tracking import URI_VARIABLE
from shipway.platforms.follow import RemoteStatus, RemoteStep, State, VanishedError
from shipway.platforms.kubeflow_auth import Server, connect
from shipway.platforms.kubeflow_calls import Trouble
from shipway.platforms.kubeflow_schedules import (
    create_schedule,
    delete_schedule,
    list_schedules,
    pause_schedule,
    resume_schedule,
)
from shipway.platforms.kubeflow_server import (
    earliest,
    ensure,
    experiment,
    experiment_name,
    find_experiment,
    identified,
    named,
    seconds_between,
    version,
)
from shipway.platforms.local import step_names
from shipway.platforms.pipelines import endpoint_notes
from shipway.platforms.submission import Submission
from shipway.spec import ModelSpec

__all__ = [
    "KubeflowRun",
    "create_schedule",
    "delete_schedule",
    "find",
    "list_schedules",
    "pause_schedule",
    "resume_schedule",
    "submit",
    "warnings",
]

# KFP keeps whole seconds: after this long, a run that is not there yet can only be a later one than ours.
SETTLE_SECONDS = 1.1
_RUN_STATES: dict[str, State] = {
    "RUNNING": "running",
    "PAUSED": "running",
    "CANCELING": "running",
    "SUCCEEDED": "succeeded",
    "SKIPPED": "cancelled",
    "FAILED": "failed",
    "CANCELED": "cancelled",
}
_STEP_STATES: dict[str, State] = {**_RUN_STATES, "SKIPPED": "skipped", "CACHED": "succeeded"}
_ENDED = ("succeeded", "failed", "cancelled")


@dataclass(frozen=True)
class KubeflowRun:
    """A run on Kubeflow.

    Attributes:
        name: Its name, which ends in the submission's key.
        link: Its page in the UI.
        created: Whether this submission started it, rather than found it.
        id: KFP's id of it.
    """

    name: str
    link: str
    created: bool
    id: str
    _server: Server = field(repr=False)
    _submission: Submission = field(repr=False)

    @cached_property
    def _steps(self) -> list[str]:
        return step_names(self._submission.documents[0])

    def status(self) -> RemoteStatus:
        """Asks how the run stands.

        Raises:
            VanishedError: Someone has deleted the run.
            ShipwayError: The server does not answer, or refuses.
        """
        try:
            run = self._server.caller.ask(f"asking for run {self.name}", lambda: self._server.client.get_run(self.id))
        except ShipwayError as error:
            if isinstance(error.__cause__, Trouble) and error.__cause__.status == 404:
                raise VanishedError(f"run {self.name} is no longer there: someone deleted it; {self.link}") from error
            raise
        details = (run.run_details.task_details if run.run_details else None) or []
        return RemoteStatus(
            _RUN_STATES.get(str(run.state), "pending"),
            [step for name in self._steps for step in _passes(name, list(details))],
            _message(run),
        )


def submit(submission: Submission, *, pipeline_root: str | None = None) -> KubeflowRun:
    """Starts a submission's run, or finds the one that the same submission has started.

    Where two processes submit the same at the same time, the earlier run stays and the later is ended.

    Args:
        submission: What to run.
        pipeline_root: Where artifacts go, instead of where the cluster puts them.

    Raises:
        InputError: No Kubeflow is known, or a setting is wrong.
        ShipwayError: The server does not answer, or refuses.
    """
    server = connect(submission.spec.kubeflow)
    held_by = experiment(server, experiment_name(submission.spec))
    name = submission.run_name
    runs = _runs(server, held_by, name)
    made = False
    if not runs:
        pipeline_id, version_id = version(server, submission)

        def start() -> Any:
            return identified(
                "run_id",
                server.client.run_pipeline(
                    experiment_id=held_by,
                    job_name=name,
                    params=dict(submission.arguments),
                    pipeline_id=pipeline_id,
                    version_id=version_id,
                    pipeline_root=pipeline_root,
                    service_account=submission.spec.kubeflow.service_account,
                ),
            )

        def find() -> Any:
            return next(iter(_runs(server, held_by, name)), None)

        mine, made = ensure(server, f"starting run {name}", find, start)
        if made:
            time.sleep(SETTLE_SECONDS)
        runs = _runs(server, held_by, name) or [mine]
        made = made and runs[0].run_id == mine.run_id
    first, *later = runs
    for run in later:
        _end(server, run)
    return _run(server, submission, first, made)


def find(submission: Submission) -> KubeflowRun | None:
    """Finds a submission's run; starts nothing.

    Raises:
        InputError: No Kubeflow is known, or a setting is wrong.
        ShipwayError: The server does not answer, or refuses.
    """
    server = connect(submission.spec.kubeflow)
    held_by = find_experiment(server, experiment_name(submission.spec))
    runs = _runs(server, held_by, submission.run_name) if held_by else []
    return _run(server, submission, runs[0], made=False) if runs else None


def warnings(spec: ModelSpec, pipeline: str = "training") -> list[str]:
    """Returns a line for what a pipeline's run will lack; Kubeflow drops no feature of a spec."""
    lines = endpoint_notes(pipeline, spec)
    kubeflow = spec.kubeflow
    named = any(secret.variable == URI_VARIABLE for secret in kubeflow.secrets)
    if not (kubeflow.config_map or kubeflow.volume or named):
        lines.insert(
            0,
            f"kubeflow.config_map: none names {URI_VARIABLE}: unless the cluster or the image sets it, train fails, as "
            "a registry on a step's own disk would be gone when the step ends",
        )
    return lines


def _run(server: Server, submission: Submission, run: Any, made: bool) -> KubeflowRun:
    link = f"{server.link}/#/runs/details/{run.run_id}"
    return KubeflowRun(submission.run_name, link, made, str(run.run_id), server, submission)


def _runs(server: Server, held_by: str, name: str) -> list[Any]:
    """Returns the runs of a name, the earliest first; more than one where two submissions raced."""
    found = named(
        server,
        f"looking for run {name}",
        name,
        "runs",
        lambda **page: server.client.list_runs(experiment_id=held_by, namespace=server.namespace, **page),
    )
    return earliest(found, "run_id")


def _end(server: Server, run: Any) -> None:
    """Ends a run that another of the same name made needless."""
    if _RUN_STATES.get(str(run.state)) not in _ENDED:
        server.caller.ask(
            f"ending run {run.run_id}, a second one of the same name", lambda: server.client.terminate_run(run.run_id)
        )


def _passes(name: str, tasks: Sequence[Any]) -> list[RemoteStep]:
    """Returns a step as its tasks tell; one of a loop is there once for each time around, below a task of its own."""
    parents = {
        _node(child.pod_name or child.task_id): str(task.task_id or task.pod_name)
        for task in tasks
        for child in task.child_tasks or []
    }
    own: dict[str, list[Any]] = {}
    for task in tasks:
        if task.display_name == name:
            own.setdefault(parents.get(_node(task.pod_name or task.task_id), ""), []).append(task)
    found = [_step(name, tries, tasks) for tries in own.values() or [[]]]
    return [step for step in found if step is not None]


def _step(name: str, own: Sequence[Any], tasks: Sequence[Any]) -> RemoteStep | None:
    """Returns a step: KFP has a task for it, one that prepares it, and more inside."""
    if not own:
        driver = next((task for task in tasks if task.display_name == f"{name}-driver"), None)
        state = _STEP_STATES.get(str(driver.state), "pending") if driver is not None else "pending"
        if driver is None or state not in ("running", "failed"):
            return None
        return RemoteStep(name, state, seconds_between(driver.start_time, driver.end_time), message=_message(driver))
    task = max(own, key=lambda entry: entry.start_time.timestamp() if entry.start_time else 0.0)
    state = _STEP_STATES.get(str(task.state), "pending")
    ended = task.end_time if state in (*_ENDED, "skipped") else None
    return RemoteStep(
        name, state, seconds_between(task.start_time, ended), _cached(task, state, tasks), message=_message(task)
    )


def _cached(task: Any, state: State, tasks: Sequence[Any]) -> bool:
    """Tells whether a step's outputs came from the cache: KFP then skips the container inside the step."""
    if str(task.state) == "CACHED":
        return True
    children = {_node(child.pod_name or child.task_id) for child in task.child_tasks or []}
    return state == "succeeded" and any(
        entry.display_name == "executor" and str(entry.state) == "SKIPPED" and _node(entry.pod_name) in children
        for entry in tasks
    )


def _node(pod: str | None) -> str:
    """Returns what the name of a pod and that of its node share: the hash at the end."""
    return (pod or "").rpartition("-")[2]


def _message(entry: Any) -> str:
    """Returns why a run or task failed, as KFP says, on one line."""
    errors = [entry.error, *(change.error for change in reversed(entry.state_history or []))]
    text = next((error.message for error in errors if error is not None and error.message), "")
    return " ".join(str(text).split())[:500]
