"""Compiles pipelines to the one YAML that runs everywhere."""

import importlib
import json
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shipway import __version__
from shipway.component import IMAGES, image_name
from shipway.errors import InputError
from shipway.lineage.files import write_text
from shipway.platforms.arguments import Argument
from shipway.platforms.kubernetes import run_settings, use_on_kubernetes
from shipway.platforms.machines import use_on_kubeflow, use_on_vertex
from shipway.platforms.pipelines import Target, find_pipeline, parameters
from shipway.spec import ModelSpec

if TYPE_CHECKING:
    from kfp import dsl

    from shipway_pipelines.tasks import Step

_ENDINGS = (".yaml", ".yml", ".json")
_OWN_IMAGES = {image_name(image): image for image in IMAGES}
SERVER_IMAGE = "server"
# `make push` names these too; no step runs in them.
_OTHER_IMAGES = (SERVER_IMAGE, "trigger")


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
        unknown = sorted(set(pushed) - {*IMAGES, *_OTHER_IMAGES})
        if unknown:
            raise InputError(f"{path}: unknown image {unknown[0]!r}; there are {', '.join(IMAGES)}")
        return cls(repository, tag, pushed)

    @classmethod
    def read(cls, path: Path | None, repository: str, tag: str) -> "Images":
        """Returns the names that `images.json` gives, where there is one, and else those of a repository and a tag."""
        return cls.from_file(path, repository, tag) if path else cls(repository, tag)

    def name(self, image: str) -> str:
        """Returns the full name of an image."""
        return self.pushed.get(image) or image_name(image, self.repository, self.tag)


def compile_pipeline(
    name: str,
    spec: ModelSpec,
    path: Path,
    images: Images | None = None,
    *,
    target: Target = "kubeflow",
    fresh_data: bool = False,
    given: Mapping[str, str] | None = None,
) -> dict[str, Argument]:
    """Compiles a pipeline for a spec to a YAML file.

    The spec's sections become the parameters' defaults, so that the file runs as it is from a UI or a schedule. What
    the spec asks of Kubernetes alone goes into a second document; the first is the same with and without it.

    Args:
        name: One of `PIPELINES` of `shipway.platforms.pipelines`.
        spec: The spec; its project folder is the current one.
        path: Where the YAML goes; written atomically. With the ending .json it is JSON, which holds one document only.
        images: How images are named.
        target: The platform whose machines, accelerators and settings are used; `local` uses none.
        fresh_data: Whether every run reads its data anew, as a scheduled one does, instead of taking them from a cache.
        given: Values of parameters that the spec does not have.

    Returns:
        The parameters' defaults.

    Raises:
        InputError: A file that the spec names does not exist, the platform has no machine like that, it does not reach
            the spec's endpoint, or `path` cannot be written.
    """
    from kfp import compiler, dsl

    from shipway_pipelines.tasks import customised

    if path.suffix not in _ENDINGS:
        raise InputError(f"{path}: expected a file that ends in {', '.join(_ENDINGS)}")
    pipeline = find_pipeline(name)
    names = images or Images()
    arguments = parameters(pipeline, spec, target, names.name(SERVER_IMAGE)) | dict(given or {})
    module, _, function = pipeline.function.partition(":")
    written = getattr(importlib.import_module(module), function)
    settings = _Settings(spec, names, target, fresh_data)
    with customised(settings):
        # kfp fixes a pipeline's steps when it is built, so it is built anew for these settings.
        built = dsl.pipeline(
            written.pipeline_func,
            name=name,
            description=written.description,
            pipeline_config=run_settings(spec.kubeflow, deadline=pipeline.cut_short) if target == "kubeflow" else None,
        )
    text = _written(compiler.Compiler(), built, f"{spec.name}-{name}", arguments, path)
    try:
        write_text(path, text)
    except OSError as error:
        raise InputError(f"{path}: cannot write the compiled pipeline: {error.strerror}") from error
    return arguments


def _written(compiler: Any, pipeline: Any, name: str, parameters: Mapping[str, Argument], path: Path) -> str:
    """Returns the compiled text, in the form that the path's ending names."""
    if path.suffix == ".json" and pipeline.platform_spec.platforms:
        raise InputError(
            f"{path}: JSON holds one document, and the spec's settings for Kubernetes need a second one; "
            "compile to .yaml"
        )
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        # kfp calls JSON deprecated; as a guard against a second document it serves.
        warnings.simplefilter("ignore", DeprecationWarning)
        draft = Path(folder) / f"pipeline{path.suffix}"
        compiler.compile(pipeline, str(draft), pipeline_name=name, pipeline_parameters=dict(parameters))
        return draft.read_text()


@dataclass(frozen=True)
class _Settings:
    """Gives every step of a pipeline what the spec asks for it, in the words of one platform."""

    spec: ModelSpec
    images: Images
    target: Target
    fresh_data: bool

    def __call__(self, task: "dsl.PipelineTask", step: "Step") -> None:
        resources = self.spec.resources_of(step.name)
        task.set_container_image(self.images.name(resources.image or _OWN_IMAGES[task.container_spec.image]))
        if self.fresh_data and step.name == "ingest":
            task.set_caching_options(False)
        if self.target == "kubeflow":
            use_on_kubeflow(task, resources)
            use_on_kubernetes(task, step.name, resources, self.spec.kubeflow, self.spec.notify)
            self._retry(task, step.retried or bool(resources.spot), self.spec.kubeflow.retries)
        elif self.target == "vertex":
            use_on_vertex(task, step.name, resources)
            for variable, value in self.spec.vertex.variables.items():
                task.set_env_variable(variable, value)
            self._retry(task, step.retried, self.spec.vertex.retries)

    def _retry(self, task: "dsl.PipelineTask", wanted: bool, retries: int) -> None:
        if wanted and retries:
            task.set_retry(retries, backoff_duration="10s", backoff_factor=2.0, backoff_max_duration="300s")
