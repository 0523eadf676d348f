"""Small JSON documents kept beside a version's package, each at a place named by its content.

They are no tags, because MLflow bounds what a tag may hold, and by how much depends on the server's version.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shipway.errors import DigestMismatchError, InputError, ShipwayError
from shipway.lineage.digests import digest_json
from shipway.lineage.files import write_json
from shipway.lineage.storage import upload
from shipway.lineage.storage_errors import scheme
from shipway.lineage.tracking import registry_errors, tracking_uri
from shipway.model.fetch import fetch_package

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

_OBJECT_STORES = ("s3", "gs", "abfs", "abfss")


def put_folder(registry: MlflowClient, run: Run, folder: Path, path: str) -> str:
    """Copies a folder to a path among a run's artifacts and returns its URI."""
    uri = f"{run.info.artifact_uri.rstrip('/')}/{path}"
    if scheme(uri) in _OBJECT_STORES:
        # Not through MLflow, whose own way there needs another package for each kind of store.
        upload(folder, uri)
    else:
        registry.log_artifacts(run.info.run_id, str(folder), path)
    return uri


def keep_document(registry: MlflowClient, version: ModelVersion, kind: str, value: Any) -> tuple[str, str]:
    """Keeps a JSON value beside a version's package and returns its digest and the URI of its folder.

    Args:
        registry: MLflow's client.
        version: The version.
        kind: What it is, as `blessing`.
        value: The value.

    Raises:
        DigestMismatchError: What the artifact store holds is not the value.
        ShipwayError: The version belongs to no run.
    """
    if not version.run_id:
        raise ShipwayError(f"{version.name} version {version.version} has no run that could keep its {kind}")
    run = registry.get_run(version.run_id)
    digest = digest_json(value)
    with tempfile.TemporaryDirectory(prefix="shipway-registry-") as scratch:
        write_json(Path(scratch) / f"{kind}.json", value)
        uri = put_folder(registry, run, Path(scratch), _path(kind, digest))
    read_document_at(uri, kind, digest)
    return digest, uri


def keep_first(registry: MlflowClient, version: ModelVersion, kind: str, tag: str, value: Any) -> None:
    """Keeps a JSON value beside a version's package, its digest in a tag, unless an earlier one is there whole.

    Args:
        registry: MLflow's client.
        version: The version.
        kind: What it is.
        tag: The tag.
        value: The value.

    Raises:
        DigestMismatchError: What the artifact store holds is not the value.
    """
    kept = version.tags.get(tag)
    if kept is not None:
        try:
            read_beside(str(version.source), kind, kept)
        except ShipwayError:
            kept = None
    if kept is None:
        digest, _ = keep_document(registry, version, kind, value)
        registry.set_model_version_tag(version.name, version.version, tag, digest)


def read_beside(package_uri: str, kind: str, digest: str) -> Any:
    """Returns the document with a digest that is kept beside a package.

    Raises:
        InputError: It is not there.
        DigestMismatchError: What is there has another digest.
        ShipwayError: The artifact store cannot be reached.
    """
    return read_document_at(f"{package_uri.rstrip('/').rpartition('/')[0]}/{_path(kind, digest)}", kind, digest)


def read_document_at(uri: str, kind: str, digest: str = "") -> Any:
    """Returns a kept document by the URI of its folder; as `read_beside`.

    Args:
        uri: The folder, as `keep_document` returned it.
        kind: What it is.
        digest: Its digest; default: as much of it as the folder's name tells.
    """
    with tempfile.TemporaryDirectory(prefix="shipway-registry-") as scratch:
        try:
            file = fetch_package(uri, scratch) / f"{kind}.json"
        except ShipwayError:
            # MLflow's server does not tell a document that is not there from a fault of its own.
            if uri.startswith("mlflow-artifacts:") and not _listed(uri):
                raise InputError(f"{uri}: no {kind}.json here") from None
            raise
        if not file.is_file():
            raise InputError(f"{uri}: no {kind}.json here")
        try:
            value = json.loads(file.read_bytes())
            found = digest_json(value)
        except ValueError:
            # Half a file, or NaN, which no document of ours holds.
            found = "of no JSON document"
    expected = digest or uri.rpartition("-")[2]
    if not found.removeprefix("sha256:").startswith(expected.removeprefix("sha256:")):
        raise DigestMismatchError(f"{uri}: the {kind} kept there has digest {found}, expected {expected}")
    return value


def _listed(uri: str) -> bool:
    from mlflow.artifacts import list_artifacts

    with registry_errors():
        return bool(list_artifacts(artifact_uri=uri, tracking_uri=tracking_uri()))


def _path(kind: str, digest: str) -> str:
    return f"{kind}-{digest.removeprefix('sha256:')[:32]}"
