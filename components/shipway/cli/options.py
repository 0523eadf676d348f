"""Arguments and options that several commands have."""

from pathlib import Path
from typing import Annotated

import typer

SpecArgument = Annotated[Path, typer.Argument(metavar="SPEC", help="The spec file; its folder is the project.")]
SettingOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the spec, as train.lr=0.01.")
]
StateOption = Annotated[
    Path, typer.Option("--state", help="Folder of what outlives a run: cache, registry, checkpoints, endpoints.")
]
RepositoryOption = Annotated[str, typer.Option(help="What stands before an image's name.")]
TagOption = Annotated[str, typer.Option(help="The images' tag.")]
ImagesOption = Annotated[Path | None, typer.Option(help="JSON of image -> full name with digest.")]
