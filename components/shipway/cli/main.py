"""The `shipway` command."""

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from shipway import __version__
from shipway.cli import cluster, promotion, trigger
from shipway.cli.options import (
    ImagesOption,
    ParameterOption,
    PipelineOption,
    RepositoryOption,
    SettingOption,
    SpecArgument,
    StateOption,
    TagOption,
    load_project,
    use_state,
)
from shipway.errors import InputError, ShipwayError

app = typer.Typer(
    help="Continuous training and delivery of models. "
    "Exit codes: 0 done, 2 bad input or spec, 3 rejected, 1 anything else.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
spec_app = typer.Typer(help="Check a spec, or get its JSON Schema.", no_args_is_help=True)
models_app = typer.Typer(help="Look at the registry.", no_args_is_help=True)
app.add_typer(spec_app, name="spec")
app.add_typer(models_app, name="models")
app.add_typer(cluster.schedule_app, name="schedule")
app.add_typer(promotion.rollout_app, name="rollout")
app.add_typer(trigger.trigger_app, name="trigger")
app.command()(cluster.submit)
app.command()(promotion.approve)
app.command()(promotion.promote)
app.command()(promotion.rollback)


@app.command()
def run(
    spec: SpecArgument,
    pipeline: PipelineOption = "training",
    parameter: ParameterOption = None,
    runner: Annotated[str, typer.Option(help="subprocess or docker: what each step runs in.")] = "subprocess",
    data: Annotated[
        str, typer.Option(help="Training, inference: URI or glob of the rows, instead of the spec's.")
    ] = "",
    setting: SettingOption = None,
    key: Annotated[str, typer.Option(help="Idempotency key: the same again finds this run, or goes on with it.")] = "",
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Run every step again.")] = False,
    runs: Annotated[Path, typer.Option(help="Folder that gets a folder a run.")] = Path("runs"),
    state: StateOption = Path(".shipway"),
    repository: RepositoryOption = "shipway",
    tag: TagOption = __version__,
    images: ImagesOption = None,
) -> None:
    """Run a pipeline on this machine: the training, from raw rows to a served model, unless another is named."""
    from shipway.platforms.compile import Images
    from shipway.platforms.local import RunOptions
    from shipway.platforms.local import run as run_locally
    from shipway.platforms.pipelines import find_pipeline, given_parameters

    if runner not in ("subprocess", "docker"):
        raise InputError(f"--runner: expected subprocess or docker, found {runner!r}")
    options = RunOptions(
        spec=spec,
        runner=runner,
        pipeline=pipeline,
        given=given_parameters(find_pipeline(pipeline), parameter or []),
        source=data,
        settings=setting or [],
        key=key,
        cache=not no_cache,
        runs=runs,
        state=state,
        images=Images.read(images, repository, tag),
    )
    summary = run_locally(options)
    raise typer.Exit(summary.exit_code)


@app.command(name="compile")
def compile_(
    spec: SpecArgument,
    pipeline: PipelineOption = "training",
    parameter: ParameterOption = None,
    output: Annotated[
        Path | None, typer.Option(help="The YAML file to write; default: build/pipelines/NAME/PIPELINE.yaml.")
    ] = None,
    target: Annotated[str, typer.Option(help="kubeflow or vertex: whose machines and settings are used.")] = "kubeflow",
    setting: SettingOption = None,
    repository: RepositoryOption = "shipway",
    tag: TagOption = __version__,
    images: ImagesOption = None,
) -> None:
    """Compile a pipeline to YAML for Kubeflow or Vertex."""
    from shipway.platforms.arguments import check_columns
    from shipway.platforms.compile import Images, compile_pipeline
    from shipway.platforms.pipelines import endpoint_notes, find_pipeline, given_parameters

    if target not in ("kubeflow", "vertex"):
        raise InputError(f"--target: expected kubeflow or vertex, found {target!r}")
    chosen = find_pipeline(pipeline)
    given = given_parameters(chosen, parameter or [])
    loaded = load_project(spec, setting)
    if chosen.reads_data:
        check_columns(loaded, spec)
    names = Images.read(images, repository, tag)
    path = output or Path("build/pipelines") / loaded.name / f"{pipeline}.yaml"
    compile_pipeline(pipeline, loaded, path, names, target="vertex" if target == "vertex" else "kubeflow", given=given)
    typer.echo(f"wrote {path}")
    notes = endpoint_notes(pipeline, loaded) if chosen.endpoint == "needed" else []
    if target == "vertex":
        from shipway.platforms.vertex_job import warnings

        notes = warnings(loaded, pipeline)
    for line in notes:
        typer.echo(f"note: {line}", err=True)


@spec_app.command(name="check")
def check(spec: SpecArgument, setting: SettingOption = None) -> None:
    """Check a spec and the files it names, without running anything."""
    from shipway.platforms.arguments import check_columns, model_arguments
    from shipway.platforms.pipelines import PIPELINES

    loaded = load_project(spec, setting)
    model_arguments(loaded)
    check_columns(loaded, spec)
    for pipeline in PIPELINES.values():
        pipeline.schedule(loaded)
    typer.echo(f"{spec}: ok ({loaded.name}, {loaded.task}, trainer {loaded.train.trainer}, {len(loaded.gates)} gates)")


@spec_app.command()
def schema() -> None:
    """Print the spec's JSON Schema, for editors."""
    from shipway.spec.load import json_schema

    typer.echo(json.dumps(json_schema(), indent=2))


@models_app.command(name="list")
def list_(state: StateOption = Path(".shipway")) -> None:
    """List the registered models and their versions."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from shipway.model.history import notes
    from shipway.model.registry import list_models

    use_state(state)
    table = Table("name", "version", "aliases", "created", "digest", "notes", box=None, header_style="bold")
    for entry in list_models():
        table.add_row(
            entry.name,
            entry.version,
            ", ".join(entry.aliases),
            entry.created.isoformat(timespec="seconds"),
            entry.digest[:19],
            escape(notes(entry.tags)),
        )
    if table.row_count:
        # Into a file or a pipe, nothing is cut to the width of a terminal that is not there.
        Console(soft_wrap=True, width=None if sys.stdout.isatty() else 10_000).print(table)
    else:
        typer.echo("no model is registered yet")


@app.command()
def lineage(
    name: Annotated[str, typer.Argument(metavar="NAME[@VERSION]", help="A version's number or alias after the @.")],
    state: StateOption = Path(".shipway"),
) -> None:
    """Print where a model version comes from (run, data, code, spec, parameters, metrics) and how it fared since."""
    from shipway.model.history import history, other_tags
    from shipway.model.registry import lineage as trace

    use_state(state)
    model, _, version = name.partition("@")
    found = trace(model, version or None)
    found |= {"promotion": history(found["tags"]), "tags": other_tags(found["tags"])}
    typer.echo(json.dumps(found, indent=2))


@app.command()
def serve(
    name: Annotated[
        str, typer.Argument(metavar="NAME[@VERSION]", help="A version's number or alias; default: staging.")
    ],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.")] = 8080,
    state: StateOption = Path(".shipway"),
) -> None:
    """Serve a registered version in the foreground."""
    from shipway.model.fetch import fetch_package
    from shipway.model.promotion import any_release
    from shipway.model.registry import STAGING

    use_state(state)
    model, _, wanted = name.partition("@")
    found = any_release(model, wanted or STAGING)
    package = fetch_package(found.package_uri, state.absolute() / "served")
    blessing = state.absolute() / "served" / f"{model}-{found.version}.blessing.json"
    found.blessing.write(blessing)
    command = [sys.executable, "-m", "shipway.serving", "--package", str(package), "--digest", found.digest]
    command += ["--blessing", str(blessing), "--name", model, "--version", found.version]
    command += ["--host", host, "--port", str(port)]
    typer.echo(f"serving {model} version {found.version} at http://{host}:{port} (Ctrl-C ends it)")
    sys.stdout.flush()
    # The server takes this process's place, so that signals reach it.
    os.execv(sys.executable, command)  # noqa: S606 - no shell is wanted


@app.command(
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []},
)
def step(context: typer.Context) -> None:
    """Run one stage as a plain command: paths and JSON in, paths out."""
    from shipway.cli.step import main as run_step

    raise typer.Exit(run_step(context.args))


@app.command()
def down(state: StateOption = Path(".shipway")) -> None:
    """End the local endpoints, staging and production, that runs have left behind."""
    from shipway.endpoints.local import stop_all

    use_state(state)
    stopped = [
        f"stopped {found.name} ({environment}) {found.live.version if found.live else ''} at {found.url}"
        if found.url
        else f"forgot {found.name} ({environment}), whose server was not running"
        for environment, found in stop_all(state.absolute())
    ]
    typer.echo("\n".join(stopped) or "nothing was running")


@app.command()
def version() -> None:
    """Print Shipway's version."""
    typer.echo(__version__)


def main() -> None:
    """Runs the command; a failure that Shipway can explain is one message and its exit code, never a traceback."""
    try:
        app(standalone_mode=True)
    except ShipwayError as error:
        for line in str(error).splitlines():
            print(f"shipway: {line}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("shipway: interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
