"""Runs a compiled pipeline on this machine, each step a process of its own."""

import builtins
import contextlib
import datetime as dt
import fcntl
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from shipway.errors import InputError, ShipwayError
from shipway.lineage.files import write_json
from shipway.lineage.git import git_sha
from shipway.lineage.project import PROJECT_VARIABLE, RUN_FOLDER_VARIABLE, RUN_VARIABLE, STATE_VARIABLE
from shipway.lineage.steps import LIFELINE_FILE
from shipway.platforms.arguments import Argument, check_columns, model_arguments
from shipway.platforms.compile import Images, compile_pipeline
from shipway.platforms.display import Display
from shipway.platforms.docker import Sandbox, check_images, containers
from shipway.platforms.events import EventStream
from shipway.platforms.local_keys import ended_run, keyed_id, only_of_its_key
from shipway.platforms.local_watch import Watch
from shipway.platforms.pipelines import Pipeline, find_pipeline, parameters
from shipway.report.run import write_report
from shipway.report.summary import RUN_FILE, SUMMARY_FILE, RunInfo, Summary, write_steps
from shipway.spec import ModelSpec, load_spec

LOG_FILE = "run.log"
LATEST = "latest"


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
        key: Makes the run one that is found again: it is run once, however often it is asked for; "" for a new run.
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
    key: str = ""
    cache: bool = True
    runs: Path = Path("runs")
    state: Path = Path(".shipway")
    images: Images = field(default_factory=Images)


def run(options: RunOptions, display: Display | None = None) -> Summary:
    """Compiles a pipeline of a spec, runs the compiled file and reports.

    Only one run of a pipeline at a time uses a state folder; a second one waits. A rollback waits for nothing. A killed
    run leaves nothing that hinders the next: its finished steps are in the cache, its training goes on from the last
    checkpoint, its rollout from what the endpoint has.

    With a key the run has one folder, whoever asks for it and how often: one that has ended is told of and not run
    again, one that goes on is waited for, and one that was killed goes on in its folder.

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
    run_id = keyed_id(spec.name, pipeline.name, options.key) if options.key else _new_run_id(spec.name)
    folder = (options.runs / run_id).absolute()
    if (found := _found(options, folder, show)) is not None:
        return found
    parameters(pipeline, spec, "local", "")
    taken_in = _taken_in(pipeline, spec, options)
    _writable(options.state)
    _writable(options.runs)
    # By id, so that a cached step is taken again only while its image is the same.
    images = check_images(options.images, project) if options.runner == "docker" else None
    with show, _only_asked(options, run_id, show), _only_run(options.state, pipeline, show):
        if (found := _found(options, folder, show)) is not None:
            return found
        folder.mkdir(exist_ok=bool(options.key))
        info = RunInfo(
            run_id=run_id,
            name=spec.name,
            pipeline=pipeline.name,
            spec=str(options.spec),
            started=dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds"),
            runner=options.runner,
            code_version=git_sha(project),
            spec_digest=model_arguments(spec)["spec_digest"],
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


def _execute(path: Path, arguments: Mapping[str, Argument], options: RunOptions, runner: Any, show: Display) -> Watch:
    from kfp import components, local

    folder = path.parent
    state = options.state.absolute()
    artifacts, cache = state / "artifacts" / folder.name, state / "cache"
    watch = Watch(folder, artifacts, cache, show)
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
            if not watch.failed:
                watch.crash = str(error)
    watch.finish(step_names(yaml.safe_load(compiled)))
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
    # kfp puts its own in their place for each step, and back; where two steps run side by side, it mixes them up.
    level, handlers, own_print = root.level, list(root.handlers), builtins.print
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        with contextlib.redirect_stdout(stream), warnings.catch_warnings():
            # kfp warns of images without "python" in their name, which a subprocess does not use.
            warnings.simplefilter("ignore", RuntimeWarning)
            yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        builtins.print = own_print


@contextlib.contextmanager
def _runner(options: RunOptions, spec: ModelSpec, folder: Path, images: Images | None) -> Iterator[Any]:
    """Gives what kfp runs steps with."""
    from kfp import local

    if images is None:
        yield local.SubprocessRunner(use_venv=False)
        return
    labels = spec.monitor.labels.uri if spec.monitor.labels else None
    watched = options.given.get("predictions") or spec.monitor.predictions
    published = _named(spec.inference.output)
    # Short, as a socket's path may have 108 characters at most.
    with tempfile.TemporaryDirectory(prefix="shipway-") as launch:
        sandbox = Sandbox(
            project=options.spec.absolute().parent,
            state=options.state.absolute(),
            run=folder,
            launcher=Path(launch) / "launch.sock",
            data=_absolute_source(options.source) or find_pipeline(options.pipeline).source(spec) or spec.data.uri,
            pipeline=options.pipeline,
            reads={"observe": _named(labels, watched, spec.monitor.history), "predict": published},
            writes={"gather": published, "monitor": _named(spec.monitor.history)},
            # Only who names receivers has any: the section's defaults are no more than names of variables.
            secrets=spec.notify.variables if "notify" in spec.model_fields_set else (),
        )
        with containers(images, sandbox) as runner:
            yield runner


def _named(*uris: str | None) -> list[str]:
    return [uri for uri in uris if uri]


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


def _found(options: RunOptions, folder: Path, show: Display) -> Summary | None:
    """Tells of the run of the same key that has ended, if there is one."""
    summary = ended_run(folder) if options.key else None
    if summary is not None:
        show.say(f"run {folder.name}  found: it has ended (another --key starts a new one)", "bold")
        show.summary(summary, os.path.relpath(folder))
    return summary


@contextlib.contextmanager
def _only_asked(options: RunOptions, run_id: str, show: Display) -> Iterator[None]:
    """Waits until nobody else is at the run of the same key."""
    if not options.key:
        yield
        return

    def tell(process: str) -> None:
        show.say(f"waiting for process {process}, which is at run {run_id}", "yellow")

    with only_of_its_key(options.runs, run_id, tell):
        yield


@contextlib.contextmanager
def _only_run(state: Path, pipeline: Pipeline, show: Display) -> Iterator[None]:
    """Waits until no other run of the pipeline uses the state folder; the kernel frees the lock of a killed one.

    A rollback waits for nobody: it takes effect on the rollout that goes on.
    """
    if not pipeline.queued:
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
    source = _absolute_source(options.source) or pipeline.source(spec)
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
