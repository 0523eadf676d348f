"""What is handed to a platform: a compiled pipeline, its arguments, and the key that keeps a second run away."""

import os
import secrets
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from shipway.errors import InputError
from shipway.ingest.fingerprint import fingerprint as source_fingerprint
from shipway.lineage.digests import digest_bytes, digest_json
from shipway.lineage.project import PROJECT_VARIABLE
from shipway.platforms.arguments import Argument, check_columns
from shipway.platforms.compile import Images, compile_pipeline
from shipway.platforms.local_keys import check_key
from shipway.platforms.pipelines import Pipeline, check_endpoint, find_pipeline
from shipway.spec import ModelSpec, load_spec

Target = Literal["kubeflow", "vertex"]
KEY_LENGTH = 16


@dataclass(frozen=True)
class Submission:
    """One run to be started.

    Attributes:
        spec: The spec.
        kind: Which of the pipelines, as `training`.
        text: The compiled YAML, of one or two documents.
        version: The compiled YAML's digest, the name of the pipeline's version.
        arguments: The run's parameters.
        key: The idempotency key: lower-case letters, digits and dashes, at most 40.
    """

    spec: ModelSpec
    kind: str
    text: str
    version: str
    arguments: Mapping[str, Argument]
    key: str

    @property
    def pipeline(self) -> str:
        """The compiled pipeline's name, as `flights-training`."""
        return f"{self.spec.name}-{self.kind}"

    @property
    def run_name(self) -> str:
        """The run's name; it ends in the key, which is how a second submission finds it."""
        return f"{self.pipeline}-{self.key}"

    @property
    def documents(self) -> list[dict[str, Any]]:
        """The compiled pipeline's YAML documents: the pipeline, and what only Kubernetes knows."""
        return list(yaml.safe_load_all(self.text))


def prepare(
    spec_path: Path,
    target: Target,
    *,
    settings: Sequence[str] = (),
    source: str = "",
    images: Images | None = None,
    key: str = "",
    scheduled: bool = False,
    pipeline: str = "training",
    given: Mapping[str, str] | None = None,
) -> Submission:
    """Checks a spec and compiles one of its pipelines for a platform; nothing outside is touched but the data read.

    Args:
        spec_path: The spec file; its folder becomes the project.
        target: The platform.
        settings: Overrides of the spec as `train.lr=0.01`.
        source: URI of the rows instead of the spec's; a cluster cannot read this machine's files.
        images: How images are named.
        key: The idempotency key; default: made from the pipeline, its arguments and what the source holds now, so that
            the same submission of the same data and code is the same run. A rollback has a new one each time.
        scheduled: Whether the run will be repeated: its data are read anew each time then.
        pipeline: Which pipeline.
        given: Values of the parameters that a person gives it, as a promotion's version.

    Raises:
        InputError: The spec, a file that it names, the source, the key or a parameter is bad, or the pipeline needs
            an endpoint and the spec names none.
    """
    if key:
        check_key(key)
    chosen = find_pipeline(pipeline)
    spec = load_spec(spec_path, settings)
    os.environ[PROJECT_VARIABLE] = str(spec_path.absolute().parent)
    taken_in = _taken_in(chosen, spec, spec_path, source, target, scheduled) if chosen.reads_data else {}
    if source and not chosen.reads_data:
        raise InputError(f"--data: pipeline {pipeline} reads no rows")
    fresh = chosen.reads_data and not taken_in["fingerprint"]
    with tempfile.TemporaryDirectory() as folder:
        compiled = Path(folder) / "pipeline.yaml"
        defaults = compile_pipeline(pipeline, spec, compiled, images, target=target, fresh_data=fresh, given=given)
        text = compiled.read_text()
    check_endpoint(chosen, defaults)
    arguments = defaults | taken_in
    version = digest_bytes(text.encode()).removeprefix("sha256:")[:KEY_LENGTH]
    if not (key or scheduled):
        key = _new_key(chosen, arguments)
    made = digest_json([target, version, arguments]).removeprefix("sha256:")[:KEY_LENGTH]
    return Submission(spec, pipeline, text, version, arguments, key or made)


def _taken_in(
    pipeline: Pipeline, spec: ModelSpec, spec_path: Path, source: str, target: Target, scheduled: bool
) -> dict[str, str]:
    """Checks the rows that a pipeline is to take in, and returns what it is told of them."""
    check_columns(spec, spec_path)
    source = source or pipeline.source(spec)
    for uri in (source, spec.data.uri or ""):
        if uri and "://" not in uri and (uri == source or not source):
            raise InputError(
                f"{spec_path}: data {uri!r} is a path of this machine, which {target} cannot read; "
                "expected a URI, as s3://bucket/rows/*.parquet"
            )
    output = spec.inference.output
    if pipeline.name == "inference" and output and "://" not in output and not Path(output).is_absolute():
        raise InputError(
            f"{spec_path}: inference.output {output!r} would be in the step's own container, which is gone with it; "
            "expected a URI, as s3://bucket/predictions, or the absolute path of a volume that the steps have"
        )
    # What a source held when a schedule was made says nothing of what it holds when the schedule fires.
    return {"source": source, "fingerprint": "" if scheduled else source_fingerprint(spec.data, source)}


def _new_key(pipeline: Pipeline, arguments: Mapping[str, Argument]) -> str:
    """Returns a key for what is done again on purpose, as a rollback, and "" for what has its key of its arguments.

    Raises:
        InputError: The promotion names no version: the alias that it then goes by may name another one tomorrow.
    """
    if pipeline.repeatable:
        return secrets.token_hex(KEY_LENGTH // 2)
    if "version" in pipeline.given and not str(arguments.get("version", "")).isdecimal():
        raise InputError(
            f"--pipeline {pipeline.name}: which version? Name it by number with --parameter version=3, or give a "
            "--key: what an alias names may change, and the same command must find the same run"
        )
    return ""
