"""Runs a compiled pipeline on this machine, each step a process of its own."""

import contextlib
import datetime as dt
import fcntl
import json
import logging
import os
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import yaml

from shipway.errors import InputError, ShipwayError
from shipway.lineage.files import write_json
from shipway.lineage.git import git_sha
from shipway.lineage.project import PROJECT_VARIABLE, RUN_FOLDER_VARIABLE, RUN_VARIABLE, STATE_VARIABLE
from shipway.lineage.steps import LIFELINE_FILE, RECORD_FILE, StepRecord, read_record
from shipway.platforms.arguments import check_columns, pipeline_arguments
from shipway.platforms.compile import Images, compile_pipeline
from shipway.platforms.display import Display
from shipway.platforms.docker import Sandbox, check_images, containers
from shipway.platforms.events import Event, EventStream
from shipway.platforms.pipelines import Pipeline, find_pipeline, parameters
from shipway.report.run import write_report
from shipway.report.summary import RUN_FILE, SUMMARY_FILE, RunInfo, StepState, Summary, write_steps
from shipway.spec import ModelSpec, load_spec

LOG_FILE = "run.log"
LATEST = "latest"
_EXIT_HANDLER = "report"


@dataclass(frozen=True)
class RunOptions:
    """What `shipway run` was asked for.

    Attributes:
        spec: The spec file; its folder is the project.
        runner: `subprocess` or `docker`.
        pipeline: Which of the spec's pipelines.
        given: Values of the parameters that a person gives it, as a promotion's version.
        source: URI of the rows instead of the spec's, or ""; for a pipeline that reads rows.
        settings: Overrides of the spec as `train.lr=0.01`.
        cache: Whether steps may be taken from the cache.
        runs: Folder that holds a folder a run.
        state: Folder of what outlives a run: cache, artifacts, registry, checkpoints, endpoints.
        images: How images are named, for the runner `docker`.
    """

    spec: Path
    runner: str = "subprocess"
    pipeline: str = "training"
    given: Mapping[str, str] = field(default_factory=dict)
    source: str = ""
    settings: Sequence[str] = ()
    cache: bool = True
    runs: Path = Path("runs")
    state: Path = Path(".shipway")
    images: Images = field(default_factory=Images)


def run(options: RunOptions, display: Display | None = None) -> Summary:
    """Compiles a pipeline of a spec, runs the compiled file and reports.

    Only one run of a pipeline at a time uses a state folder; a second one waits. A rollback waits for nothing. A killed
    run leaves nothing that hinders the next: its finished steps are in the cache, its training goes on from the last
    checkpoint, its rollout from what the endpoint has.

    Args:
        options: What to run.
        display: Where progress is shown; standard output by default.

    Returns:
        The summary, also written to `runs/<run id>/summary.json`.

    Raises:
        InputError: The spec, a file it names, the data or a folder to write to is bad; nothing has run then.
    """
    show = display or Display()
    pipeline = find_pipeline(options.pipeline)
    spec = load_spec(options.spec, options.settings)
    project = options.spec.absolute().parent
    os.environ[PROJECT_VARIABLE] = str(project)
    os.environ[STATE_VARIABLE] = str(options.state.absolute())
    parameters(pipeline, spec, "local", "")
    taken_in = _taken_in(pipeline, spec, options)
    _writable(options.state)
    _writable(options.runs)
    # By id, so that a cached step is taken again only while its image is the same.
    images = check_images(options.images, project) if options.runner == "docker" else None
    with show, _only_run(options.state, pipeline, show):
        run_id = _new_run_id(spec.name)
        folder = (options.runs / run_id).absolute()
        folder.mkdir()
        info = RunInfo(
            run_id=run_id,
            name=spec.name,
            pipeline=pipeline.name,
            spec=str(options.spec),
            started=dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds"),
            runner=options.runner,
            code_version=git_sha(project),
            spec_digest=pipeline_arguments(spec)["spec_digest"],
        )
        write_json(folder / RUN_FILE, info.model_dump())
        compiled = folder / f"{pipeline.name}.yaml"
        arguments = compile_pipeline(pipeline.name, spec, compiled, images, target="local", given=options.given)
        show.say(f"run {run_id}  ({options.spec})", "bold")
        if pipeline.reads_data:
            # Data that cannot tell whether they changed are read anew.
            arguments |= {**taken_in, "fingerprint": taken_in["fingerprint"] or run_id}
        with (
            _environment(folder, run_id, info.code_version),
            _runner(options, spec, folder, images) as runner,
        ):
            watch = _execute(compiled, arguments, options, runner, show)
        write_steps(folder, watch.steps)
        if watch.crash and not (folder / SUMMARY_FILE).is_file():
            show.say(f"the runner itself failed: {watch.crash}", "red")
        summary = write_report(folder)
        _point_latest(options.runs, run_id)
        show.summary(summary, os.path.relpath(folder))
        return summary


class _Watch:
    """Follows a run's events: step states, logs, records."""

    def __init__(self, folder: Path, artifacts: Path, cache: Path, show: Display) -> None:
        self._folder, self._artifacts, self._cache, self._show = folder, artifacts, cache, show
        self._log: IO[str] | None = None
        self._began = 0.0
        self.states: dict[str, StepState] = {}
        self.crash = ""

    @property
    def steps(self) -> list[StepState]:
        return [state for name, state in self.states.items() if name != _EXIT_HANDLER]

    def __call__(self, event: Event) -> None:
        match event.kind:
            case "started":
                log = Path("logs") / f"{event.task}.log"
                (self._folder / log).parent.mkdir(exist_ok=True)
                self._log = (self._folder / log).open("w")
                self._began = time.monotonic()
                self.states[event.task] = StepState(name=event.task, status="running", log=log.as_posix())
                if event.task != _EXIT_HANDLER:
                    self._show.started(event.task)
            case "line":
                if self._log is not None:
                    self._log.write(event.detail + "\n")
            case "succeeded" | "failed":
                self._end(event)
            case "cached":
                record = self._cached_record(event.detail)
                status = record.status if record is not None else "succeeded"
                self._settle(StepState(name=event.task, status=status, cached=True, record=record))

    def _end(self, event: Event) -> None:
        if self._log is not None:
            self._log.close()
            self._log = None
        state = self.states[event.task]
        state.seconds = time.monotonic() - self._began
        found = list(self._artifacts.glob(f"**/{event.task}/{RECORD_FILE}"))
        state.record = read_record(found[0].parent) if found else None
        state.status = event.kind
        if event.kind == "succeeded" and state.record is not None:
            state.status = state.record.status
        self._settle(state)

    def _settle(self, state: StepState) -> None:
        self.states[state.name] = state
        write_steps(self._folder, self.steps)
        if state.name != _EXIT_HANDLER or state.status == "failed":
            self._show.ended(state)

    def _cached_record(self, key: str) -> StepRecord | None:
        """The record lies beside the outputs that the cache entry names."""
        for entry in self._cache.glob(f"{key}*.json"):
            for value in json.loads(entry.read_text()).values():
                if isinstance(value, dict) and "uri" in value:
                    return read_record(Path(value["uri"]).parent)
        return None


def _execute(path: Path, arguments: dict[str, str], options: RunOptions, runner: Any, show: Display) -> _Watch:
    from kfp import components, local

    folder = path.parent
    state = options.state.absolute()
    artifacts, cache = state / "artifacts" / folder.name, state / "cache"
    watch = _Watch(folder, artifacts, cache, show)
    write_steps(folder, [])
    local.init(
        runner=runner,
        pipeline_root=str(artifacts),
        raise_on_error=True,
        enable_caching=options.cache,
        cache_root=str(cache),
    )
    compiled = path.read_text()
    pipeline = components.load_component_from_text(compiled)
    with (folder / LOG_FILE).open("w") as log, _captured(EventStream(watch, log)):
        try:
            pipeline(**arguments)
        except RuntimeError as error:
            # kfp's way to say that a step failed; the step's own record says why.
            log.write(f"{error}\n")
            if not any(entry.status == "failed" for entry in watch.states.values()):
                watch.crash = str(error)
    for name in step_names(yaml.safe_load(compiled)):
        watch.states.setdefault(name, StepState(name=name, status="skipped"))
    return watch


def step_names(pipeline: dict[str, Any]) -> list[str]:
    """Returns the steps of a compiled pipeline in an order in which they may run, those of nested DAGs in place."""
    components = pipeline["components"]

    def visit(dag: dict[str, Any]) -> Iterator[str]:
        waiting = dict(dag["tasks"])
        while waiting:
            ready = [name for name, task in waiting.items() if not waiting.keys() & set(task.get("dependentTasks", []))]
            for name in ready:
                component = components[waiting.pop(name)["componentRef"]["name"]]
                if "dag" in component:
                    yield from visit(component["dag"])
                else:
                    yield name

    return list(visit(pipeline["root"]["dag"]))


@contextlib.contextmanager
def _captured(stream: Any) -> Iterator[None]:
    """Sends all that kfp prints or logs to `stream`."""
    root = logging.getLogger()
    handler = logging.StreamHandler(stream)
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        with contextlib.redirect_stdout(stream), warnings.catch_warnings():
            # kfp warns of images without "python" in their name, which a subprocess does not use.
            warnings.simplefilter("ignore", RuntimeWarning)
            yield
    finally:
        root.removeHandler(handler)
        root.setLevel(level)


@contextlib.contextmanager
def _runner(options: RunOptions, spec: ModelSpec, folder: Path, images: Images | None) -> Iterator[Any]:
    """Gives what kfp runs steps with."""
    from kfp import local

    if images is None:
        yield local.SubprocessRunner(use_venv=False)
        return
    # Short, as a socket's path may have 108 characters at most.
    with tempfile.TemporaryDirectory(prefix="shipway-") as launch:
        sandbox = Sandbox(
            project=options.spec.absolute().parent,
            state=options.state.absolute(),
            run=folder,
            launcher=Path(launch) / "launch.sock",
            data=_absolute_source(options.source) or spec.data.uri,
            pipeline=options.pipeline,
        )
        with containers(images, sandbox) as runner:
            yield runner


@contextlib.contextmanager
def _environment(folder: Path, run_id: str, code_version: str) -> Iterator[None]:
    """Sets what the steps' processes inherit, and holds the lifeline they hang on."""
    before = dict(os.environ)
    os.environ[RUN_VARIABLE] = run_id
    os.environ[RUN_FOLDER_VARIABLE] = str(folder)
    os.environ["SHIPWAY_GIT_SHA"] = code_version
    os.environ["PYTHONHASHSEED"] = "0"
    lifeline = (folder / LIFELINE_FILE).open("w")
    fcntl.flock(lifeline, fcntl.LOCK_EX)
    try:
        yield
    finally:
        lifeline.close()
        os.environ.clear()
        os.environ.update(before)


@contextlib.contextmanager
def _only_run(state: Path, pipeline: Pipeline, show: Display) -> Iterator[None]:
    """Waits until no other run of the pipeline uses the state folder; the kernel frees the lock of a killed one.

    A rollback waits for nobody: it takes effect on the rollout that goes on.
    """
    if pipeline.repeatable:
        yield
        return
    with (state / f"{pipeline.name}.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            show.say(f"waiting for the run of process {lock.read().strip() or '?'} to end", "yellow")
            fcntl.flock(lock, fcntl.LOCK_EX)
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def _new_run_id(name: str) -> str:
    stamp = dt.datetime.now(dt.UTC).strftime("%Y%m%d-%H%M%S-%f")[:-3]
    return f"{name}-{stamp}"


def _absolute_source(source: str) -> str:
    return source if not source or "://" in source else str(Path(source).absolute())


def _taken_in(pipeline: Pipeline, spec: ModelSpec, options: RunOptions) -> dict[str, str]:
    """Returns what a pipeline is told of the rows that it takes in; nothing where it takes in none."""
    from shipway.ingest.fingerprint import fingerprint

    if not pipeline.reads_data:
        if options.source:
            raise InputError(f"--data: pipeline {pipeline.name} reads no rows")
        return {}
    source = _absolute_source(options.source)
    check_columns(spec, options.spec)
    return {"source": source, "fingerprint": fingerprint(spec.data, source)}


def _writable(folder: Path) -> None:
    """Makes a folder and a file in it, to find out before anything runs.

    Raises:
        InputError: It cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(f"{folder}: cannot write there: {error.strerror}") from error


def _point_latest(runs: Path, run_id: str) -> None:
    """Lets `runs/latest` name the run, atomically."""
    link = runs / LATEST
    if link.exists() and not link.is_symlink():
        raise ShipwayError(f"{link}: expected a symbolic link of Shipway's own, found something else; move it away")
    draft = runs / f".{LATEST}-{os.getpid()}"
    draft.unlink(missing_ok=True)
    draft.symlink_to(run_id)
    draft.replace(link)
