"""Compiles pipelines to the one YAML that runs everywhere."""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from shipway import __version__
from shipway.component import IMAGES, image_name
from shipway.errors import InputError
from shipway.lineage.files import write_text
from shipway.platforms.arguments import pipeline_arguments
from shipway.spec import ModelSpec


@dataclass(frozen=True)
class Images:
    """How compiled pipelines name Shipway's images.

    Attributes:
        repository: What stands before the image's name.
        tag: Its tag, where no pushed name is known.
        pushed: Image -> full name with digest, as `make push` writes it.
    """

    repository: str = "shipway"
    tag: str = __version__
    pushed: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_file(cls, path: Path, repository: str = "shipway", tag: str = __version__) -> "Images":
        """Reads `images.json`: a mapping of image to full name.

        Raises:
            InputError: The file is missing, no JSON, or names an unknown image.
        """
        try:
            pushed = json.loads(path.read_text())
        except FileNotFoundError as error:
            raise InputError(f"{path}: no such file of image names") from error
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: cannot read image names: {error}") from error
        if not isinstance(pushed, dict) or not all(isinstance(name, str) for name in pushed.values()):
            raise InputError(
                f"{path}: expected a JSON object of image to full name, as {{'components': 'repo@sha256:...'}}"
            )
        unknown = sorted(set(pushed) - set(IMAGES))
        if unknown:
            raise InputError(f"{path}: unknown image {unknown[0]!r}; there are {', '.join(IMAGES)}")
        return cls(repository, tag, pushed)

    def name(self, image: str) -> str:
        """Returns the full name of an image."""
        return self.pushed.get(image) or image_name(image, self.repository, self.tag)


def compile_training(
    spec: ModelSpec,
    path: Path,
    images: Images | None = None,
    *,
    target: Literal["kubeflow", "vertex"] = "kubeflow",
    fresh_data: bool = False,
) -> None:
    """Compiles the training pipeline of a spec to a YAML file.

    The spec's sections become the parameters' defaults, so that the file runs as it is from a UI or a schedule.

    Args:
        spec: The spec; its project folder is the current one.
        path: Where the YAML goes; written atomically.
        images: How images are named.
        target: The platform whose names of machines and accelerators are used; elsewhere they do not matter.
        fresh_data: Whether every run reads its data anew, as a scheduled one does, instead of taking them from a cache.

    Raises:
        InputError: A file that the spec names does not exist, or `path` cannot be written.
    """
    from kfp import compiler

    from shipway_pipelines.training import training

    arguments = pipeline_arguments(spec)
    with tempfile.TemporaryDirectory() as folder:
        draft = Path(folder) / "pipeline.yaml"
        compiler.Compiler().compile(
            training, str(draft), pipeline_name=f"{spec.name}-training", pipeline_parameters=arguments
        )
        text = draft.read_text()
    for image in IMAGES:
        text = text.replace(f"image: {image_name(image)}\n", f"image: {(images or Images()).name(image)}\n")
    try:
        write_text(path, text)
    except OSError as error:
        raise InputError(f"{path}: cannot write the compiled pipeline: {error.strerror}") from error
