"""Gets a model package to a local folder, wherever it lies."""

from __future__ import annotations

from pathlib import Path

from shipway.errors import InputError
from shipway.lineage.files import atomic_folder
from shipway.lineage.storage import fetch
from shipway.lineage.storage_errors import is_remote
from shipway.lineage.tracking import client, local_path, registry_errors, tracking_uri

# What only MLflow can resolve; anything else is read without it, which a server's image need not have.
_MLFLOW = ("mlflow-artifacts:", "models:", "runs:", "http:", "https:", "dbfs:")


def fetch_package(uri: str, folder: str | Path) -> Path:
    """Returns the local folder of a package.

    A plain path or a `file:` URI is used in place; an object store's (`s3://`, `minio://`, `gs://`, ...) is copied;
    what the registry alone knows (`mlflow-artifacts:`, `models:`, `runs:`) is downloaded through MLflow.

    Args:
        uri: Where the package lies.
        folder: Where to download it to, if need be; made if absent.

    Raises:
        InputError: There is no such folder, or the store cannot be reached or refuses.
        ShipwayError: MLflow could not download it.
    """
    path = local_path(uri)
    if path is not None:
        if not path.is_dir():
            raise InputError(f"{path}: no model package here (no such folder)")
        return path
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    if is_remote(uri) and not uri.startswith(_MLFLOW):
        package = target / uri.rstrip("/").rpartition("/")[2]
        with atomic_folder(package) as work:
            fetch(f"{uri.rstrip('/')}/", work)
        return package
    client()
    from mlflow.artifacts import download_artifacts

    with registry_errors():
        found = download_artifacts(artifact_uri=uri, dst_path=str(target), tracking_uri=tracking_uri())
    return Path(found)
