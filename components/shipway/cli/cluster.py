"""`shipway submit` and `shipway schedule`: pipelines on Kubeflow and Vertex AI."""

import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shipway import __version__
from shipway.cli.options import (
    ImagesOption,
    ParameterOption,
    PipelineOption,
    RepositoryOption,
    SettingOption,
    SpecArgument,
    TagOption,
)
from shipway.errors import InputError

if TYPE_CHECKING:
    from shipway.platforms.compile import Images
    from shipway.platforms.follow import RemoteRun
    from shipway.platforms.schedules import ScheduleInfo
    from shipway.platforms.submission import Submission

schedule_app = typer.Typer(help="Run a pipeline again and again on a platform.", no_args_is_help=True)

TargetOption = Annotated[str, typer.Option("--target", help="kubeflow or vertex.")]
DataOption = Annotated[str, typer.Option("--data", metavar="URI", help="URI of the rows, instead of the spec's.")]
NameOption = Annotated[str, typer.Option("--name", help="The schedule's name; default: the pipeline's.")]


def submit(
    spec: SpecArgument,
    target: TargetOption,
    pipeline: PipelineOption = "training",
    parameter: ParameterOption = None,
    setting: SettingOption = None,
    data: DataOption = "",
    repository: RepositoryOption = "shipway",
    tag: TagOption = __version__,
    images: ImagesOption = None,
    key: Annotated[str, typer.Option(help="Idempotency key; default: made from pipeline, settings and data.")] = "",
    pipeline_root: Annotated[str, typer.Option(help="Where artifacts go, instead of the platform's place.")] = "",
    wait: Annotated[bool, typer.Option("--wait", help="Follow the run to its end.")] = False,
    timeout: Annotated[float | None, typer.Option(help="With --wait: seconds to follow; the run goes on.")] = None,
) -> None:
    """Run a pipeline on Kubeflow or Vertex AI; the same submission again finds the first run.

    A rollback is a new run each time.
    """
    from shipway.platforms.compile import Images

    platform = _platform(target)
    if timeout is not None and (timeout <= 0 or not wait):
        raise InputError(f"--timeout: expected seconds above 0 together with --wait, found {timeout:g}")
    submission = _prepare(
        spec, target, pipeline, parameter, setting, data, Images.read(images, repository, tag), key, scheduled=False
    )
    _warn(platform, submission)
    run = platform.submit(submission, pipeline_root=pipeline_root or None)
    how = "started" if run.created else f"found: {run.status().state} (another --key starts a new one)"
    typer.echo(f"run {run.name}  {how}  {run.link}")
    if wait:
        raise typer.Exit(_follow(run, submission, timeout))


@schedule_app.command()
def create(
    spec: SpecArgument,
    target: TargetOption,
    cron: Annotated[
        str,
        typer.Option(
            help='When: "minute hour day-of-month month day-of-week", as "0 3 * * *"; default: inference.schedule, '
            "monitor.schedule."
        ),
    ] = "",
    name: NameOption = "",
    pipeline: PipelineOption = "training",
    parameter: ParameterOption = None,
    setting: SettingOption = None,
    data: DataOption = "",
    repository: RepositoryOption = "shipway",
    tag: TagOption = __version__,
    images: ImagesOption = None,
    timezone: Annotated[str, typer.Option(help="Time zone of --cron; Kubeflow knows UTC alone.")] = "UTC",
    max_concurrency: Annotated[int, typer.Option(help="How many of its runs may go on at once.")] = 1,
    catch_up: Annotated[bool, typer.Option("--catch-up", help="Make up for runs missed while it was paused.")] = False,
    start: Annotated[str, typer.Option(help="When it begins, as 2026-01-31T00:00Z; default: now.")] = "",
    end: Annotated[str, typer.Option(help="When it ends; default: never.")] = "",
) -> None:
    """Make a schedule; the same again changes nothing, a changed one takes the old one's place."""
    from shipway.platforms.compile import Images

    platform = _platform(target)
    begins, ends = _moment("--start", start), _moment("--end", end)
    submission = _prepare(
        spec, target, pipeline, parameter, setting, data, Images.read(images, repository, tag), "", scheduled=True
    )
    _warn(platform, submission)
    made = platform.create_schedule(
        submission,
        name=name or submission.pipeline,
        cron=cron or _own_cron(submission),
        timezone=timezone,
        max_concurrency=max_concurrency,
        catch_up=catch_up,
        start=begins,
        end=ends,
    )
    typer.echo(_line(made))


@schedule_app.command(name="list")
def list_(spec: SpecArgument, target: TargetOption, setting: SettingOption = None) -> None:
    """List a model's schedules."""
    from shipway.spec import load_spec

    found = _platform(target).list_schedules(load_spec(spec, setting or []))
    typer.echo("\n".join(_line(info) for info in found) or "there is no schedule yet")


@schedule_app.command()
def pause(
    spec: SpecArgument,
    target: TargetOption,
    name: NameOption = "",
    pipeline: PipelineOption = "training",
    setting: SettingOption = None,
) -> None:
    """Switch a schedule off; runs that go on are left alone."""
    typer.echo(_line(_on_schedule(spec, target, name, pipeline, setting, "pause_schedule")))


@schedule_app.command()
def resume(
    spec: SpecArgument,
    target: TargetOption,
    name: NameOption = "",
    pipeline: PipelineOption = "training",
    setting: SettingOption = None,
) -> None:
    """Switch a schedule on."""
    typer.echo(_line(_on_schedule(spec, target, name, pipeline, setting, "resume_schedule")))


@schedule_app.command()
def delete(
    spec: SpecArgument,
    target: TargetOption,
    name: NameOption = "",
    pipeline: PipelineOption = "training",
    setting: SettingOption = None,
) -> None:
    """Delete a schedule; its runs stay."""
    _on_schedule(spec, target, name, pipeline, setting, "delete_schedule")
    typer.echo("deleted")


def _platform(target: str) -> Any:
    """Returns the module of a platform; both have the same functions."""
    match target:
        case "kubeflow":
            from shipway.platforms import kubeflow

            return kubeflow
        case "vertex":
            from shipway.platforms import vertex

            return vertex
    raise InputError(f"--target: expected kubeflow or vertex, found {target!r}")


def _prepare(
    spec: Path,
    target: str,
    pipeline: str,
    parameter: list[str] | None,
    setting: list[str] | None,
    data: str,
    images: "Images",
    key: str,
    *,
    scheduled: bool,
) -> "Submission":
    from shipway.platforms.pipelines import find_pipeline, given_parameters
    from shipway.platforms.submission import prepare

    return prepare(
        spec,
        "vertex" if target == "vertex" else "kubeflow",
        settings=setting or [],
        source=data,
        images=images,
        key=key,
        scheduled=scheduled,
        pipeline=pipeline,
        given=given_parameters(find_pipeline(pipeline), parameter or []),
    )


def _own_cron(submission: "Submission") -> str:
    from shipway.platforms.pipelines import find_pipeline

    if not (cron := find_pipeline(submission.kind).schedule(submission.spec)):
        raise InputError(f'--cron: when? The spec has no schedule of pipeline {submission.kind}; as "0 3 * * *"')
    return cron


def _warn(platform: Any, submission: "Submission") -> None:
    for line in platform.warnings(submission.spec, submission.kind):
        typer.echo(f"note: {line}", err=True)


def _follow(run: "RemoteRun", submission: "Submission", timeout: float | None) -> int:
    from shipway.platforms.display import Display
    from shipway.platforms.follow import follow
    from shipway.platforms.local import step_names

    display = Display()
    try:
        with display:
            return follow(run, step_names(submission.documents[0]), display, timeout_seconds=timeout)
    except KeyboardInterrupt:
        typer.echo(f"no longer following; run {run.name} goes on: {run.link}", err=True)
        return 130


def _on_schedule(spec: Path, target: str, name: str, pipeline: str, setting: list[str] | None, action: str) -> Any:
    from shipway.platforms.pipelines import find_pipeline
    from shipway.spec import load_spec

    loaded = load_spec(spec, setting or [])
    return getattr(_platform(target), action)(loaded, name or f"{loaded.name}-{find_pipeline(pipeline).name}")


def _line(info: "ScheduleInfo") -> str:
    state = "on" if info.enabled else "paused"
    fires = f"  next {info.next_run}" if info.next_run else ""
    return f"schedule {info.name}  {info.cron} {info.timezone}  {state}{fires}  {info.link}"


def _moment(option: str, text: str) -> dt.datetime | None:
    """Reads a moment; one without a time zone is in UTC."""
    if not text:
        return None
    try:
        moment = dt.datetime.fromisoformat(text)
    except ValueError as error:
        raise InputError(f"{option}: expected a moment as 2026-01-31T00:00Z, found {text!r}") from error
    return moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)
