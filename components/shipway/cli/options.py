"""Arguments and options that several commands have, and what they mean."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from shipway.spec import ModelSpec

SpecArgument = Annotated[Path, typer.Argument(metavar="SPEC", help="The spec file; its folder is the project.")]
SettingOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the spec, as train.lr=0.01.")
]
StateOption = Annotated[
    Path, typer.Option("--state", help="Folder of what outlives a run: cache, registry, checkpoints, endpoints.")
]
RepositoryOption = Annotated[str, typer.Option(help="What stands before an image's name.")]
TagOption = Annotated[str, typer.Option(help="The images' tag.")]
PipelineOption = Annotated[
    str, typer.Option("--pipeline", help="training, promotion, rollback, inference or monitoring.")
]
ParameterOption = Annotated[
    list[str] | None,
    typer.Option(
        "--parameter",
        metavar="NAME=VALUE",
        help="A parameter of the pipeline: version, override (promotion), reason, to (rollback), version (inference), "
        "version, predictions, until (monitoring).",
    ),
]
ImagesOption = Annotated[Path | None, typer.Option(help="JSON of image -> full name with digest.")]


def load_project(path: Path, settings: list[str] | None) -> "ModelSpec":
    """Reads a spec and makes its folder the project."""
    from shipway.lineage.project import PROJECT_VARIABLE
    from shipway.spec import load_spec

    os.environ[PROJECT_VARIABLE] = str(path.absolute().parent)
    return load_spec(path, settings or [])


def use_state(state: Path) -> None:
    """Makes a folder the state folder."""
    from shipway.lineage.project import STATE_VARIABLE

    os.environ[STATE_VARIABLE] = str(state.absolute())
