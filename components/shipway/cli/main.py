"""The `shipway` command."""

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shipway import __version__
from shipway.cli import cluster
from shipway.cli.options import (
    ImagesOption,
    RepositoryOption,
    SettingOption,
    SpecArgument,
    StateOption,
    TagOption,
)
from shipway.errors import InputError, ShipwayError

if TYPE_CHECKING:
    from shipway.spec import ModelSpec

app = typer.Typer(
    help="Continuous training and delivery of models. "
    "Exit codes: 0 shipped, 2 bad input or spec, 3 rejected, 1 anything else.",
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
app.command()(cluster.submit)


@app.command()
def run(
    spec: SpecArgument,
    runner: Annotated[str, typer.Option(help="subprocess or docker: what each step runs in.")] = "subprocess",
    data: Annotated[str, typer.Option(help="URI or glob of the rows, instead of the spec's.")] = "",
    setting: SettingOption = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Run every step again.")] = False,
    runs: Annotated[Path, typer.Option(help="Folder that gets a folder a run.")] = Path("runs"),
    state: StateOption = Path(".shipway"),
    repository: RepositoryOption = "shipway",
    tag: TagOption = __version__,
    images: ImagesOption = None,
) -> None:
    """Run the training pipeline on this machine, from raw rows to a served model."""
    from shipway.platforms.compile import Images
    from shipway.platforms.local import RunOptions
    from shipway.platforms.local import run as run_locally

    if runner not in ("subprocess", "docker"):
        raise InputError(f"--runner: expected subprocess or docker, found {runner!r}")
    options = RunOptions(
        spec, runner, data, setting or [], not no_cache, runs, state, Images.read(images, repository, tag)
    )
    summary = run_locally(options)
    raise typer.Exit(summary.exit_code)


@app.command(name="compile")
def compile_(
    spec: SpecArgument,
    output: Annotated[
        Path | None, typer.Option(help="The YAML file to write; default: build/pipelines/NAME/training.yaml.")
    ] = None,
    target: Annotated[str, typer.Option(help="kubeflow or vertex: whose machines and settings are used.")] = "kubeflow",
    setting: SettingOption = None,
    repository: RepositoryOption = "shipway",
    tag: TagOption = __version__,
    images: ImagesOption = None,
) -> None:
    """Compile the training pipeline to YAML for Kubeflow or Vertex."""
    from shipway.platforms.arguments import check_columns
    from shipway.platforms.compile import Images, compile_training

    if target not in ("kubeflow", "vertex"):
        raise InputError(f"--target: expected kubeflow or vertex, found {target!r}")
    loaded = _load(spec, setting)
    check_columns(loaded, spec)
    names = Images.read(images, repository, tag)
    path = output or Path("build/pipelines") / loaded.name / "training.yaml"
    compile_training(loaded, path, names, target="vertex" if target == "vertex" else "kubeflow")
    typer.echo(f"wrote {path}")
    if target == "vertex":
        from shipway.platforms.vertex_job import warnings

        for line in warnings(loaded):
            typer.echo(f"note: {line}", err=True)


@spec_app.command(name="check")
def check(spec: SpecArgument, setting: SettingOption = None) -> None:
    """Check a spec and the files it names, without running anything."""
    from shipway.platforms.arguments import check_columns, pipeline_arguments

    loaded = _load(spec, setting)
    pipeline_arguments(loaded)
    check_columns(loaded, spec)
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
    from rich.table import Table

    from shipway.model.registry import list_models

    _use_state(state)
    table = Table("name", "version", "aliases", "created", "digest", box=None, header_style="bold")
    for entry in list_models():
        table.add_row(
            entry.name,
            entry.version,
            ", ".join(entry.aliases),
            entry.created.isoformat(timespec="seconds"),
            entry.digest[:19],
        )
    if table.row_count:
        Console(soft_wrap=True).print(table)
    else:
        typer.echo("no model is registered yet")


@app.command()
def lineage(
    name: Annotated[str, typer.Argument(metavar="NAME[@VERSION]", help="A version's number or alias after the @.")],
    state: StateOption = Path(".shipway"),
) -> None:
    """Print where a model version comes from: run, data, code, spec, parameters, metrics."""
    from shipway.model.registry import lineage as trace

    _use_state(state)
    model, _, version = name.partition("@")
    typer.echo(json.dumps(trace(model, version or None), indent=2))


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
    from shipway.model.registry import STAGING
    from shipway.model.registry import lineage as trace

    _use_state(state)
    model, _, wanted = name.partition("@")
    found = trace(model, wanted or STAGING)
    package = fetch_package(found["package_uri"], state.absolute() / "served")
    command = [sys.executable, "-m", "shipway.serving", "--package", str(package), "--digest", found["digest"]]
    command += ["--name", model, "--version", found["version"], "--host", host, "--port", str(port)]
    typer.echo(f"serving {model} version {found['version']} at http://{host}:{port} (Ctrl-C ends it)")
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
    """Stop the staging endpoints that runs have left behind."""
    from shipway.endpoints.local import stop_all

    _use_state(state)
    stopped = [
        f"stopped {found.name} {found.version} at {found.url}" for found in stop_all(state.absolute()) if found.url
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


def _load(path: Path, settings: list[str] | None) -> "ModelSpec":
    """Reads a spec and makes its folder the project."""
    from shipway.lineage.project import PROJECT_VARIABLE
    from shipway.spec import load_spec

    os.environ[PROJECT_VARIABLE] = str(path.absolute().parent)
    return load_spec(path, settings or [])


def _use_state(state: Path) -> None:
    from shipway.lineage.project import STATE_VARIABLE

    os.environ[STATE_VARIABLE] = str(state.absolute())


if __name__ == "__main__":
    main()
