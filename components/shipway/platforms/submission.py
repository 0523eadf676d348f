"""What is handed to a platform: a compiled pipeline, its arguments, and the key that keeps a second run away."""

import os
import re
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
from shipway.platforms.arguments import check_columns, pipeline_arguments
from shipway.platforms.compile import Images, compile_training
from shipway.spec import ModelSpec, load_spec

Target = Literal["kubeflow", "vertex"]
KEY_LENGTH = 16
_KEY = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")


@dataclass(frozen=True)
class Submission:
    """One run to be started.

    Attributes:
        spec: The spec.
        pipeline: The pipeline's name, as `flights-training`.
        text: The compiled YAML, of one or two documents.
        version: The compiled YAML's digest, the name of the pipeline's version.
        arguments: The run's parameters.
        key: The idempotency key: lower-case letters, digits and dashes, at most 40.
    """

    spec: ModelSpec
    pipeline: str
    text: str
    version: str
    arguments: Mapping[str, str]
    key: str

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
) -> Submission:
    """Checks a spec and compiles its training pipeline for a platform; nothing outside is touched but the data read.

    Args:
        spec_path: The spec file; its folder becomes the project.
        target: The platform.
        settings: Overrides of the spec as `train.lr=0.01`.
        source: URI of the rows instead of the spec's; a cluster cannot read this machine's files.
        images: How images are named.
        key: The idempotency key; default: made from the pipeline, its arguments and what the source holds now, so that
            the same submission of the same data and code is the same run.
        scheduled: Whether the run will be repeated: its data are read anew each time then.

    Raises:
        InputError: The spec, a file that it names, the source or the key is bad.
    """
    if key and not _KEY.fullmatch(key):
        raise InputError(f"--key: expected at most 40 lower-case letters, digits and dashes, found {key!r}")
    spec = load_spec(spec_path, settings)
    os.environ[PROJECT_VARIABLE] = str(spec_path.absolute().parent)
    check_columns(spec, spec_path)
    for uri in (source, spec.data.uri or ""):
        if uri and "://" not in uri and (uri == source or not source):
            raise InputError(
                f"{spec_path}: data {uri!r} is a path of this machine, which {target} cannot read; "
                "expected a URI, as s3://bucket/rows/*.parquet"
            )
    # What a source held when a schedule was made says nothing of what it holds when the schedule fires.
    fingerprint = "" if scheduled else source_fingerprint(spec.data, source)
    arguments = pipeline_arguments(spec) | {"source": source, "fingerprint": fingerprint}
    with tempfile.TemporaryDirectory() as folder:
        compiled = Path(folder) / "pipeline.yaml"
        compile_training(spec, compiled, images, target=target, fresh_data=not fingerprint)
        text = compiled.read_text()
    version = digest_bytes(text.encode()).removeprefix("sha256:")[:KEY_LENGTH]
    made = digest_json([target, version, arguments]).removeprefix("sha256:")[:KEY_LENGTH]
    return Submission(spec, f"{spec.name}-training", text, version, arguments, key or made)
